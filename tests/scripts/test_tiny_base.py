"""What the tiny base is pretrained on: its samples, their ids, what they must never hold."""

from __future__ import annotations

import importlib.resources
import json
import random
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast

from data_gen.tasks import lexicon
from data_gen.tasks.squares import HELD_OUT_FRAMES, SETS
from scripts.tiny_base import labels, skills, wordings, words
from scripts.tiny_base import model as model_module
from scripts.tiny_base.mixture import Mixture, Pace, encode, recall
from scripts.tiny_base.model import SPECIAL_TOKENS, build_tokenizer
from scripts.tiny_base.pointers import find_pointers
from tests.train import qwen3

SOURCE = ["import os\n\ndef first(path, count):\n    return os.listdir(path)[:count]\n" * 40]
PROTOCOL = ("```", "llm_query", "REPL", 'answer["')
KINDS = ("copy", "fill", "passage", "look_up", "extract", "compare")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> PreTrainedTokenizerFast:
    folder: Path = tmp_path_factory.mktemp("tokenizer")
    return build_tokenizer(Mixture(SOURCE), folder / "tokenizer.json")


def made(kind: str, held_out: bool, count: int, **size: int) -> list[skills.Case]:
    rng = random.Random(kind)
    makers = skills.Skills(SOURCE, words.Words(held_out))
    make: Callable[..., skills.Case] = getattr(makers, kind)
    return [make(rng, skills.Size(**{"room": 300, "items": 8, **size})) for _ in range(count)]


@pytest.mark.parametrize("progress", [0.0, 0.1, 0.3, 0.9])
def test_the_protocol_of_the_loop_is_never_shown(progress: float):
    mixture = Mixture(SOURCE)
    for _ in range(300):
        text = "\n".join(part for _, part in mixture.sample(progress, 1024)[1])
        assert not any(word in text for word in PROTOCOL)


def test_the_same_seed_gives_the_same_samples():
    first, second = (Mixture(SOURCE, 5) for _ in range(2))
    assert [first.sample(0.5, 1024) for _ in range(50)] == [
        second.sample(0.5, 1024) for _ in range(50)
    ]


def test_a_conversation_has_the_ids_of_the_chat_template(tokenizer):
    sample = [("system", "<1> is a"), ("user", "say b"), ("assistant", "b"), ("user", "and c")]
    answered = [*sample, ("assistant", "c")]
    ids, learned, answers = encode(tokenizer, answered, prompts_too=False)
    prompt = tokenizer.apply_chat_template(
        [{"role": role, "content": text} for role, text in sample],
        add_generation_prompt=True,
        enable_thinking=False,
        tokenize=False,
    )
    assert tokenizer.decode(ids) == f"{prompt}c<|im_end|>"
    assert tokenizer.decode([i for i, on in zip(ids, learned, strict=True) if on]) == (
        "b<|im_end|>c<|im_end|>"
    )
    assert [(tokenizer.decode(ids[start]), text) for start, text in answers] == [
        ("b", "b"), ("c", "c")
    ]  # fmt: skip


def test_a_level_rises_when_the_last_one_sits():
    pace = Pace()
    assert pace.is_open("things") and not pace.is_open("squares")
    for _ in range(200):
        pace.tell([("things", True)] * 4 + [("squares", False)])
    assert pace.levels["things"] > 0.3
    assert pace.is_open("squares") and pace.levels["squares"] == 0


def pointed(tokenizer, given: str, asked: str, answer: str, about) -> dict[int, list[tuple]]:
    """Of each head, what is predicted and what it is told to look at, as texts."""
    sample = [("user", f"{given}\n\n{asked}"), ("assistant", answer)]
    ids, learned, answers = encode(tokenizer, sample, prompts_too=False)
    told: dict[int, list[tuple]] = {0: [], 1: [], 2: []}
    for head, place, aim in find_pointers(tokenizer, ids, learned, answers, about):
        told[head].append((ids[place + 1], ids[aim], tokenizer.decode(ids[aim - 3 : aim + 1])))
    return told


def test_a_look_up_points_at_value_key_and_question(tokenizer):
    told = pointed(tokenizer, "a: 5\nb: 6\nc: 7", "What is b?", "6", ((("b", "b"),),))
    assert told[0][0][0] == told[0][0][1]  # the token that is looked at is the next one
    assert told[0][0][2].endswith("b: 6")
    assert told[1][0][2].endswith("is b") and told[2][0][2].endswith("\nb")


def test_where_the_value_comes_first_the_key_is_looked_at(tokenizer):
    told = pointed(tokenizer, "5 (a)\n6 (b)\n7 (c)", "What is b?", "6", ((("b", "b"),),))
    assert told[0][0][2].endswith("(b") and told[2][0][2].endswith("6")


def test_labels_point_at_their_lines(tokenizer):
    about = ((("b b", "b"), ("a", "a")),)
    told = pointed(tokenizer, "one: a\ntwo: b\n\nb b\na", "Labels?", "two\none", about)
    assert [aim[2][-1] for aim in told[1]] == ["b", "a"]


def test_of_two_facts_the_later_points_at_the_earlier(tokenizer):
    about = ((("1 q, p", "p", "q"), ("2 r, s", "s", "r")),)
    told = pointed(tokenizer, "1 q, p\n2 r, s", "Labels?", "one\ntwo", about)
    assert [aim[2][-1] for aim in told[1]] == ["p", "s"]
    assert [aim[2][-1] for aim in told[2]] == ["q", "r"]


def test_every_kind_has_pointers(tokenizer):
    mixture = Mixture(SOURCE, 3)
    mixture.vocabulary = range(3, len(tokenizer))
    seen: dict[str, set[int]] = {}
    for _ in range(600):
        kind, ids, learned, pointers = mixture.encoded(tokenizer, 0.4, 512)
        seen.setdefault(kind, set()).update(head for head, _, _ in pointers)
        assert all(learned[place + 1] for head, place, _ in pointers if head < 2)
        assert all(ids[aim] == ids[place + 1] for head, place, aim in pointers
                   if head == 0 and kind in ("copy", "fill"))  # fmt: skip
    assert seen.pop("") == set()
    assert all(0 in heads for heads in seen.values())
    assert all(seen[kind] >= {0, 1, 2} for kind in ("look_up", "extract", "glossary"))


def test_recalled_pieces_have_stood_before():
    rng = random.Random(1)
    for _ in range(100):
        ids, learned = recall(rng, range(26, 2048), 200)
        assert len(ids) == len(learned) and any(learned)
        for place, on in enumerate(learned):
            if on:  # the token before and this one, side by side, further up
                pair = ids[place - 1 : place + 1]
                assert any(ids[i : i + 2] == pair for i in range(place - 1))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("held_out", [False, True])
def test_every_case_has_a_question_and_an_answer_that_can_be_found(kind: str, held_out: bool):
    for case in made(kind, held_out, 300, turns=3):
        assert case.turns
        for asked, answer in case.turns:
            assert answer and asked
            if kind in ("look_up", "extract", "passage"):
                for line in answer.split("\n"):
                    # JSON writes quotes and backslashes in its own way.
                    assert line in case.given or json.dumps(line)[1:-1] in case.given


@pytest.mark.parametrize("room", [1, 50, 3000])
@pytest.mark.parametrize("kind", KINDS)
def test_no_size_is_too_small(kind: str, room: int):
    assert all(case.turns for case in made(kind, True, 50, room=room, items=2))


def test_numbers_to_compare_differ():
    rng = random.Random(2)
    for _ in range(500):
        numbers = words.numbers_to_compare(rng, rng.randint(2, 6))
        assert len(set(numbers)) == len(numbers)
        assert all(0 <= number < 10**6 for number in numbers)


def test_held_out_lists_share_nothing_with_training():
    pairs = [
        (lexicon.NAMES, lexicon.NAMES_HELD_OUT),
        (words.MARKS, words.MARKS_HELD_OUT),
        (words.GAPS, words.GAPS_HELD_OUT),
        (words.FENCES, words.FENCES_HELD_OUT),
        (lexicon.FRAMES, lexicon.FRAMES_HELD_OUT),
        (lexicon.NEEDLE_ADJECTIVES_TRAIN, lexicon.NEEDLE_ADJECTIVES_TEST),
        (lexicon.NEEDLE_NOUNS_TRAIN, lexicon.NEEDLE_NOUNS_TEST),
        (labels._PROMPTS, labels._PROMPTS_HELD_OUT),
        (labels._GLOSSARY, labels._GLOSSARY_HELD_OUT),
    ]
    pairs += [
        (getattr(wordings, name.removesuffix("_HELD_OUT")), getattr(wordings, name))
        for name in vars(wordings)
        if name.endswith("_HELD_OUT")
    ]
    assert len(pairs) > 15
    for train, held_out in pairs:
        assert not set(train) & set(held_out)
    pattern = re.compile("([bcdfghjklmnprstvwz][aeiou]){2,3}[nrtls]?")
    rng = random.Random(3)
    for _ in range(500):
        assert pattern.fullmatch(words.Words(False).nonce(rng))
        assert not pattern.fullmatch(words.Words(True).nonce(rng))


def test_held_out_wordings_join_words_of_training():
    lists = [name for name in vars(wordings) if name.endswith("_HELD_OUT")]
    train = str([getattr(wordings, name.removesuffix("_HELD_OUT")) for name in lists]).lower()
    known = {*re.findall("[a-z]+", train), "words"}  # of niah's questions
    for name in set(lists) - {"PATTERNS_HELD_OUT"}:
        assert set(re.findall("[a-z]+", str(getattr(wordings, name)).lower())) <= known


@pytest.mark.parametrize("name", SETS)
def test_a_label_set_is_a_latin_square_whose_words_are_distinct(name: str):
    made_set = SETS[name]
    size = len(made_set.labels)
    for line in (*made_set.square, *zip(*made_set.square, strict=True)):
        assert sorted(line) == list(range(size))
    for values in (made_set.first, made_set.second):
        assert len(values) == size
        every = [word for value in values for word in value]
        assert len(set(every)) == len(every)
    for frames in (made_set.first_frames, made_set.second_frames):
        assert len(frames) > 2 * HELD_OUT_FRAMES - 1
        assert len(set(frames)) == len(frames)
        assert all(frame.count("{it}") == 1 for frame in frames)


def test_no_word_of_a_line_tells_its_label():
    """Every word stands beside every label equally often, when the cells are drawn equally."""
    for made_set in SETS.values():
        beside: dict[str, dict[str, int]] = {}
        for first, line in enumerate(made_set.square):
            for second, index in enumerate(line):
                for word in (made_set.first[first][0], "/" + made_set.second[second][0]):
                    counts = beside.setdefault(word, {})
                    label = made_set.labels[index]
                    counts[label] = counts.get(label, 0) + 1
        assert all(set(counts.values()) == {1} for counts in beside.values())
        assert all(len(counts) == len(made_set.labels) for counts in beside.values())


@pytest.mark.parametrize("kind", labels.KINDS)
@pytest.mark.parametrize("held_out", [False, True])
def test_there_is_one_label_of_the_list_for_each_line(kind: str, held_out: bool):
    rng = random.Random(kind)
    for _ in range(100):
        case = labels.label(rng, words.Words(held_out), kind, 16, 16)
        asked, answer = case.turns[0]
        assert len(answer.split("\n")) == 16
        assert all(label in f"{case.given}\n{asked}" for label in answer.split("\n"))


def test_a_reply_shows_the_added_tokens_that_a_reply_of_qwen3_shows(tokenizer):
    assert tuple(SPECIAL_TOKENS) == (*qwen3.CONTROL, *qwen3.ORDINARY)
    ids = tokenizer("".join(SPECIAL_TOKENS))["input_ids"]
    assert len(ids) == len(SPECIAL_TOKENS)
    assert tokenizer.decode(ids, skip_special_tokens=True) == "".join(qwen3.ORDINARY)


def test_the_template_is_the_one_that_trl_ships():
    shipped = importlib.resources.files("trl") / "chat_templates" / "qwen3.jinja"
    assert model_module.TEMPLATE.read_bytes() == shipped.read_bytes()
