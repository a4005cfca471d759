"""Task families: same seed, same bytes; truth by construction; scores of known answers."""

from __future__ import annotations

import hashlib
import itertools
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_gen.tasks import check_seed, floor_answer, lexicon, make_window, metrics, score
from rlm_executor.errors import InputError

FAMILIES = ("niah", "oolong", "pairs")


@pytest.mark.parametrize(
    ("family", "digest"),
    [
        ("niah", "644020ed77230f6b"),
        ("oolong", "18b35bb49959f166"),
        ("pairs", "7a2ca1ff94db0895"),
    ],
)
def test_same_seed_same_bytes_on_every_machine(family: str, digest: str) -> None:
    window = make_window(family, 1024, 17, 3)
    told = window.text() + "".join(f"{t.id}{t.question}{t.answer}" for t in window.tasks)
    assert hashlib.sha256(told.encode()).hexdigest()[:16] == digest


@settings(max_examples=15, deadline=None)
@given(
    st.sampled_from(FAMILIES),
    st.sampled_from((1024, 2048, 4096)),
    st.integers(min_value=0, max_value=899_999),
)
def test_gold_scores_one_and_length_is_kept(family: str, length: int, seed: int) -> None:
    window = make_window(family, length, seed, 3)
    size = len(window.text().encode())
    assert 0.9 * 4 * length < size <= 4 * length
    for task in window.tasks:
        gold = task.answer if isinstance(task.answer, str) else "\n".join(task.answer)
        assert score(task, gold) == 1.0
        assert score(task, "no idea") < 1.0
        assert 0 <= score(task, floor_answer(window, task)) <= 1.0
    assert len({task.id for task in window.tasks}) == 3


def test_niah_gold_stands_in_the_text_once_per_value() -> None:
    window = make_window("niah", 4096, 5, 4)
    text = window.text()
    for task in window.tasks:
        for value in task.answer:
            assert text.count(f" is: {value}.") == 1


def test_niah_streams_without_joining() -> None:
    window = make_window("niah", 2**20, 5, 1)
    sizes = [len(chunk) for chunk in window.chunks()]
    assert max(sizes) < 400_000
    assert sum(sizes) <= 2**22


def test_oolong_gold_recounted_from_the_text() -> None:
    category = {thing: name for name, things in lexicon.CATEGORIES.items() for thing in things}
    for seed in range(30):
        window = make_window("oolong", 2048, seed, 4)
        rows = [line.split(" || ") for line in window.text().splitlines() if " || " in line]
        labels = [next(category[w] for w in row[2].split() if w in category) for row in rows]
        users = [row[1].removeprefix("User: ") for row in rows]
        for task in window.tasks:
            asked = task.question.split(". ", 1)[1]
            if task.meta["kind"] == "most":
                assert task.answer == Counter(labels).most_common(1)[0][0]
            elif task.meta["kind"] == "count":
                label = asked.split("label ")[1].split("?")[0]
                assert task.answer == str(labels.count(label))
            elif task.meta["kind"] == "user_count":
                user, label = asked.split()[5], asked.split("label ")[1].split("?")[0]
                assert task.answer == str([*zip(users, labels, strict=True)].count((user, label)))


def test_no_word_of_a_frame_names_a_category_or_a_thing() -> None:
    things = {thing for things in lexicon.CATEGORIES.values() for thing in things}
    assert len(things) == sum(map(len, lexicon.CATEGORIES.values())), "a thing has one category"
    for frame in lexicon.FRAMES + lexicon.FRAMES_HELD_OUT:
        words = set(frame.replace("{name}", "").replace("{thing}", "").split())
        assert not words & (things | set(lexicon.CATEGORIES))


def test_splits_share_no_needle_words_and_seeds_are_checked() -> None:
    assert not set(lexicon.NEEDLE_ADJECTIVES_TRAIN) & set(lexicon.NEEDLE_ADJECTIVES_TEST)
    assert not set(lexicon.NEEDLE_NOUNS_TRAIN) & set(lexicon.NEEDLE_NOUNS_TEST)
    check_seed(699_999, "train")
    check_seed(800_000, "test")
    for seed, split in ((700_000, "train"), (900_000, "test"), (800_000, "dev")):
        with pytest.raises(InputError, match="use"):
            check_seed(seed, split)


def test_metrics_of_known_answers() -> None:
    assert metrics.string_match_all(["12", "ab"], "I found AB only") == 0.5
    assert metrics.oolong("12", "14") == pytest.approx(0.75**2)
    assert metrics.oolong("food", "Label: Food.") == 1.0
    assert metrics.oolong("food", "foods") == 0.0
    gold = ["(1, 2)", "(1, 3)"]
    assert metrics.pairs_f1(gold, "(2, 1)\n(1,3)") == 1.0
    assert metrics.pairs_f1(gold, "(1, 2)") == pytest.approx(2 / 3)
    assert metrics.pairs_f1([], "") == 1.0
    assert metrics.pairs_f1([], "(1, 2)") == 0.0


def test_every_pair_scores_as_its_share_says() -> None:
    window = make_window("pairs", 2048, 3, 2)
    for task in window.tasks:
        share = len(task.answer) / len(list(itertools.combinations(window.facts["users"], 2)))
        expected = 2 * share / (1 + share)
        assert score(task, floor_answer(window, task)) == pytest.approx(expected)


def test_unknown_family_and_tiny_length_are_refused() -> None:
    with pytest.raises(InputError, match="known: niah"):
        make_window("nah", 1024, 1, 1)
    with pytest.raises(InputError, match="too short"):
        make_window("niah", 100, 1, 1)
