"""What training draws at random, beside its lists, and several cases in one conversation."""

from __future__ import annotations

import random

import pytest

from data_gen.tasks import lexicon
from data_gen.tasks.squares import SETS
from scripts.tiny_base import batches, labels, words
from scripts.tiny_base.mixture import SHARES, Mixture

SOURCE = ["import os\n\ndef kept(path, viktor):\n    return os.listdir(path)[:count]\n" * 40]
CORPUS = words.corpus_words(SOURCE)


def test_words_of_the_corpus_decide_nothing_and_are_not_held_out():
    assert CORPUS == ["count", "def", "import", "listdir", "os", "path", "return"]


@pytest.mark.parametrize("draw", ["name", "nonce", "compound", "fence", "mark", "gap"])
def test_what_is_held_out_is_never_drawn_at_random(draw: str):
    held_out, training = (words.Words(held, corpus=CORPUS) for held in (True, False))
    listed = {
        "name": lexicon.NAMES_HELD_OUT, "fence": words.FENCES_HELD_OUT,
        "mark": words.MARKS_HELD_OUT, "gap": words.GAPS_HELD_OUT,
        "nonce": [words.lexicon.nonce_held_out(random.Random(seed)) for seed in range(300)],
        "compound": [f"{one}-{two}" for one in lexicon.NEEDLE_ADJECTIVES_TEST
                     for two in lexicon.NEEDLE_NOUNS_TEST],
    }[draw]  # fmt: skip
    drawn = [getattr(training, draw)(random.Random(seed)) for seed in range(300)]
    assert len(set(drawn)) > (25 if draw == "gap" else 45) and not set(drawn) & set(listed)
    assert {getattr(held_out, draw)(random.Random(seed)) for seed in range(300)} <= set(listed)


def test_a_line_at_random_has_its_parts_in_order_and_words_between():
    for seed in range(50):
        made = words.Words(corpus=CORPUS).strew(random.Random(seed), "A", "B", least=2).split()
        assert made.index("B") - made.index("A") > 2
        assert set(made) - {"A", "B"} <= set(CORPUS)


def test_half_of_a_cell_is_asked_for_by_its_first_word():
    rng, halves = random.Random(0), 0
    for _ in range(100):
        names, pairs = labels._squares(rng, words.Words(), 3)
        cells = any(sorted(names) == sorted(made.labels) for made in SETS.values())
        halves += len(pairs[0]) == 3
        assert cells or len(pairs[0]) == 3
        for line, *told, label in pairs:
            assert label in names and all(word in line for word in told)
    assert 20 < halves < 60


def test_cases_that_follow_each_other_are_one_conversation():
    mixture = Mixture(SOURCE)
    mixture.pace.levels = dict.fromkeys(SHARES, 0.5)
    for _ in range(20):
        sample, about = mixture._several(0.5, 3000)
        roles = [role for role, _ in sample]
        assert "system" not in roles[1:]
        assert roles[-1] == "assistant" and len(about) == roles.count("assistant")
        assert all(a != b for a, b in zip(roles, roles[1:], strict=False) if "assistant" in (a, b))


def test_an_answer_weighs_as_the_root_of_its_length():
    learned = [False, True, True, True, True, False, True]
    assert batches.weigh(learned, each=True) == [0, 0.5, 0.5, 0.5, 0.5, 0, 1]
    assert sum(batches.weigh(learned, each=False)) == pytest.approx(5**0.5)


def test_random_marks_have_no_character_that_the_held_out_ones_rest_on():
    for listed in (words.MARKS_HELD_OUT, words.GAPS_HELD_OUT, words.FENCES_HELD_OUT):
        rest = [held for held in listed if not set("&@%^!$?") & set("".join(held))]
        assert set(rest) <= {" gives ", " || | ", "|", ("<part>", "</part>"), ("start ", " stop")}
    training = words.Words(corpus=CORPUS)
    for seed in range(2000):
        rng = random.Random(seed)
        drawn = training.mark(rng) + training.gap(rng) + "".join(training.fence(rng))
        assert not set("&@%^!$?") & set(drawn)
