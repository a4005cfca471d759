"""``ruler``: RULER's eight kinds, the gold read again from the text, the expert in the executor."""

from __future__ import annotations

import re
import time
from collections import Counter, defaultdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_gen.experts import ruler as expert
from data_gen.experts.style import Style
from data_gen.programs import diversity, normal_form
from data_gen.tasks import lexicon, metrics, ruler, sources
from data_gen.tasks.task import Task, Window
from rlm_executor import DIALECTS, RLM, Limits, RLMCard, RLMResult, ScriptedLM
from rlm_executor.errors import InputError
from rlm_executor.lm import Message
from rlm_executor.parsing import parse_reply

LENGTHS = (2**10, 2**11, 2**12, 2**13)
K = r"(?P<key>[\w-]+)"
V = r"(?P<value>[\w-]+)"
# Every sentence and record as it may stand in a text whose white space is single spaces, written
# here once more by hand: what the family says of its needles is not used to read them.
TOLD = (
    rf"One of the special magic \w+s for {K} is: {V}\.",
    rf"The special magic \w+ for {K} is {V}\.",
    rf"Remember the special magic \w+ {V} when you see {K}\.",
    rf"{V} is one of the special magic \w+s for {K}\.",
    rf"Once [\w-]+, now {V} is the special magic \w+ that {K} has\.",
    rf"The special magic \w+ for {K} is not [\w-]+, it is {V}\.",
    rf"Whoever asks about {K} is told the special magic \w+ {V}\.",
    rf"The special magic \w+ {V} replaced [\w-]+ and belongs to {K}\.",
    rf"As a special magic \w+, {K} was given {V}\.",
    rf"The special magic \w+ of {K} is no longer [\w-]+ but {V}\.",
    rf'{{"for": "{K}", "special magic \w+": "{V}", "before": "[\w-]+"}}',
    rf'{{"special magic": "\w+", "value": "{V}", "key": "{K}"}}',
    rf"\| {K} \| special magic \w+ \| {V} \|",
    rf"\| special magic \w+ \| old: [\w-]+ \| new: {V} \| {K} \|",
    rf'<magic special="\w+" was="[\w-]+" is="{V}" of="{K}"/>',
)


def needles_of(text: str) -> dict[str, list[str]]:
    """Values by key, read by the sentences above."""
    found = defaultdict(list)
    flat = " ".join(text.split())
    for rule in TOLD:
        for match in re.finditer(rule, flat):
            found[match["key"]].append(match["value"])
    return found


def keys_of(task: Task) -> list[str]:
    """The keys in a question: all its words with a hyphen."""
    return re.findall(r"\w+(?:-\w+)+", task.question)


def drive(task: Task, text: str, style: Style) -> tuple[float, RLMResult, list[str], list[str]]:
    """Score, result, replies and leaf prompts of one run of the expert."""
    replies: list[str] = []
    prompts: list[str] = []

    def root(messages: list[Message]) -> str:
        seen = [m["content"].removeprefix("REPL output:\n") for m in messages[2:]
                if m["role"] == "user"]  # fmt: skip
        reply = expert.next_turn(task.question, seen, style)
        assert reply is not None
        replies.append(reply)
        return reply

    def sub(messages: list[Message]) -> str:
        prompts.append(messages[-1]["content"])
        reply = expert.leaf(prompts[-1])
        assert reply is not None
        return reply

    limits = Limits(max_turns=7, max_calls=500, max_tokens_per_turn=640, observation_chars=400)
    card = RLMCard(dialect=DIALECTS["answer-compact"], limits=limits)
    result = RLM(ScriptedLM(root), ScriptedLM(sub), card).complete(task.question, text)
    return metrics.string_match_all(list(task.answer), result.answer), result, replies, prompts


def windows(length: int, seeds: range) -> list[Window]:
    return [ruler.make_window(length, seed, 1) for seed in seeds]


@pytest.mark.parametrize("first", [0, 700_000, 800_000])
def test_gold_is_what_the_text_tells_and_no_key_stands_elsewhere(first: int) -> None:
    kinds: Counter[ruler.Kind] = Counter()
    for seed in range(first, first + 80):
        window = ruler.make_window(LENGTHS[seed % 4], seed, 3)
        text = window.text()
        told = needles_of(text)
        for task in window.tasks:
            keys = keys_of(task)
            kind = ruler.KINDS[task.meta["kind"]]
            assert len(keys) == kind.n_queries
            assert sorted(v for key in keys for v in told[key]) == sorted(task.answer)
            assert len(task.answer) == kind.n_queries * kind.n_values == len(task.meta["depths"])
            assert sum(map(text.count, keys)) == len(task.answer)
            rule = ruler_value(task.meta["value_type"])
            assert all(re.fullmatch(rule, value) for value in task.answer)
        kinds[kind] += 1
        assert len(told) >= kind.n_keys + (20 if kind.haystack == "needles" else 0) * (
            window.length > 2**11
        )
    assert set(kinds) == set(ruler.KINDS.values())


def ruler_value(value_type: str) -> str:
    return {
        "numbers": "[1-9][0-9]{6}",
        "words": "[a-z]+-[a-z]+",
        "uuids": "[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}",
    }[value_type]


@settings(max_examples=25, deadline=None)
@given(st.sampled_from((*LENGTHS, 2**15)), st.integers(0, 899_999), st.integers(1, 3))
def test_same_seed_same_bytes_and_length_is_kept(length: int, seed: int, count: int) -> None:
    window = ruler.make_window(length, seed, count)
    again = ruler.make_window(length, seed, count)
    text = window.text()
    assert text == window.text() == again.text() and window.tasks == again.tasks
    # A haystack of whole needles ends up to one needle early.
    assert 4 * length - 170 < len(text.encode()) <= 4 * length
    assert len({task.id for task in window.tasks}) == count
    for task in window.tasks:
        assert metrics.string_match_all(list(task.answer), " ".join(task.answer).upper()) == 1.0
        assert metrics.string_match_all(list(task.answer), task.answer[0]) == 1 / len(task.answer)
        guess = ruler.floor_answer(window, task)
        assert metrics.string_match_all(list(task.answer), guess) == 0.0
        assert all(re.fullmatch(ruler_value(task.meta["value_type"]), v) for v in guess.split(", "))


def test_needles_lie_at_their_depths_from_end_to_end() -> None:
    depths = []
    for window in windows(2**13, range(60)):
        text = window.text()
        for task in window.tasks:
            at = sorted(text.index(value) / len(text) for value in task.answer)
            for place, depth in zip(at, task.meta["depths"], strict=True):
                assert abs(place - depth) < 0.06
                depths.append(depth)
    assert min(depths) < 0.05 and max(depths) > 0.95 and len(set(depths)) > 25


def test_noise_is_one_line_again_and_again() -> None:
    for window in windows(2**11, range(60)):
        if window.tasks[0].meta["kind"] == "single_1":
            lines = Counter(window.text().splitlines())
            assert lines.most_common(1)[0][0] + "\n" in ruler.NOISE
            assert len(lines) <= 5  # noise, needle, head, the cut end


def test_too_many_needles_are_refused() -> None:
    seed = next(s for s in range(99) if windows(2**10, range(s, s + 1))[0].tasks[0].meta["kind"]
                == "multiquery")  # fmt: skip
    with pytest.raises(InputError, match="ask fewer"):
        ruler.make_window(2**10, seed, 30)


def test_a_long_window_is_streamed_in_seconds() -> None:
    haystacks = set()
    for seed in (1, 2, 3, 4, 5, 6, 800_001):
        window = ruler.make_window(2**20, seed, 2)
        haystacks.add(ruler.KINDS[window.tasks[0].meta["kind"]].haystack)
        started = time.process_time()
        sizes = [len(chunk) for chunk in window.chunks()]
        assert time.process_time() - started < 10
        assert max(sizes) < 200_000 and sum(sizes) > 0.999 * 2**22
    assert haystacks == {"noise", "text", "needles"}


def test_splits_share_no_words_sentences_skins_or_text() -> None:
    for train, held in (
        (ruler.WORDINGS, ruler.WORDINGS_HELD_OUT),
        ([s.name for s in ruler.SKINS], [s.name for s in ruler.SKINS_HELD_OUT]),
        ([s.frame for s in ruler.SKINS if s.frame != "{needle}"],
         [s.frame for s in ruler.SKINS_HELD_OUT]),
        (ruler.QUESTIONS, ruler.QUESTIONS_HELD_OUT),
        (ruler.NOISE, ruler.NOISE_HELD_OUT),
        ([ruler.HEAD], [ruler.HEAD_HELD_OUT]),
        (sources.load("train").packages, sources.load("test").packages),
    ):  # fmt: skip
        assert not {*train} & {*held}
    words: list[set[str]] = []
    for first in (0, 800_000):
        own: set[str] = set()
        for window in windows(2**12, range(first, first + 60)):
            if window.tasks[0].meta["kind"] != "multikey_3":
                names = [*window.facts["keys"]]
                if window.tasks[0].meta["kind"] == "multikey_2":
                    names += needles_of(window.text())
                if window.tasks[0].meta["value_type"] == "words":
                    names += window.tasks[0].answer
                own |= {word for name in names for word in name.split("-")}
        words.append(own)
    assert not words[0] & words[1] and min(map(len, words)) > 200
    listed = {*lexicon.NEEDLE_ADJECTIVES_TEST, *lexicon.NEEDLE_NOUNS_TEST}
    assert not words[0] & listed and words[1] & listed


def test_no_one_expression_finds_the_needles_of_all_skins() -> None:
    exact = [rule.replace(K, "KEY") for rule in TOLD]
    near = [r"KEY.{0,90}?(VALUE)", r"(VALUE).{0,90}?KEY", r"KEY.{0,90}?(VALUE)|(VALUE).{0,90}?KEY",
            r"KEY\W+(?:\w+\W+){0,4}?(VALUE)", r"(VALUE)\W+(?:\w+\W+){0,8}?KEY"]  # fmt: skip
    right: Counter[str] = Counter()
    made = [*windows(2**10, range(150)), *windows(2**10, range(800_000, 800_150))]
    for window in made:
        task, text = window.tasks[0], window.text()
        for rule in (*exact, *near):
            own = rule.replace("VALUE", ruler_value(task.meta["value_type"]))
            found = ["".join(m.groups("")) for key in keys_of(task)
                     for m in re.finditer(own.replace("KEY", key), text)]  # fmt: skip
            right[rule] += sorted(found) == sorted(task.answer)
    assert max(right[rule] for rule in exact) < 0.15 * len(made), right
    assert max(right[rule] for rule in near) < 0.6 * len(made), right


@pytest.mark.real_sandbox
def test_expert_is_right_in_every_kind_way_and_split() -> None:
    right = 0
    done: Counter[object] = Counter()
    for index in range(80):
        seed = index if index % 2 else 800_000 + index
        window, style = ruler.make_window(LENGTHS[index // 2 % 4], seed, 2), Style(1_000 + index)
        points, result, replies, prompts = drive(window.tasks[index // 3 % 2], window.text(), style)
        right += (points, result.stop_reason, result.error_cells) == (1.0, "answered", 0)
        assert result.turns <= 6 and max(map(len, replies)) < 2_000
        assert max(map(len, prompts), default=0) <= 2_500
        done.update((style.pick("way", expert.WAYS), result.turns, window.tasks[0].meta["kind"],
                     "sub-calls" if prompts else "code"))  # fmt: skip
    assert right >= 79, right
    assert {*done} >= {*expert.WAYS, *ruler.KINDS, 1, 2, 3, 4, 5, "code", "sub-calls"}


@pytest.mark.real_sandbox
def test_a_first_guess_that_finds_nothing_is_followed_by_a_look() -> None:
    recovered = 0
    for seed in range(800_000, 800_040):
        style = Style(seed)
        if style.pick("way", expert.WAYS) == "guess":
            window = ruler.make_window(2**10, seed, 1)
            points, result, replies, _ = drive(window.tasks[0], window.text(), style)
            assert (points, result.error_cells) == (1.0, 0)
            assert len(replies) >= 4  # guess, look, search or sub-calls, answer
            recovered += 1
    assert recovered >= 3


@pytest.mark.real_sandbox
def test_mistakes_are_made_and_a_crash_is_mended() -> None:
    points: dict[str, list[float]] = {kind: [] for kind in expert.MISTAKES}
    for window in windows(2**11, range(40)):
        style = Style(window.seed, mistakes=1.0)
        task, kind = window.tasks[0], style.mistake(expert.MISTAKES)
        if kind == "part" and len(task.answer) == 1:
            continue  # is a typo then
        score, result, _, _ = drive(task, window.text(), style)
        assert result.stop_reason == "answered" and result.turns <= 7
        assert kind != "crash" or result.error_cells == 1
        points[kind].append(score)
    assert {*points["crash"]} == {1.0}
    assert {*points["typo"]} == {*points["guess"]} == {0.0}
    assert {*points["part"]} == {0.25}


def program(question: str, look: str, style: Style) -> list[str]:
    """The code of a run that is shown ``look`` first and then that everything was found."""
    seen: list[str] = []
    code: list[str] = []
    while not code or "ready" not in code[-1]:
        reply = expert.next_turn(question, seen, style)
        assert reply is not None
        code += parse_reply(reply, ("repl",)).blocks
        seen.append("1 1" if seen else look)
    return code


def test_programs_differ_between_styles_and_skins() -> None:
    question = ruler.QUESTIONS[0][0].format(one="number", query="ab-cd")
    forms = []
    by_look: dict[str, list[str]] = {}
    for template in ruler.WORDINGS + ruler.SKINS[-1].records:
        look = template.format(
            one="number", many="numbers", key="ab-cd", value=1234567, other=7654321
        )
        codes = [program(question, look, Style(seed)) for seed in range(60)]
        forms += [("ruler", normal_form(code)) for code in codes]
        by_look[template] = ["\n".join(code) for code in codes]
    told = diversity(forms)
    assert told["distinct"] > 100 and told["commonest_share"] < 0.1, told
    looking = [seed for seed in range(60) if Style(seed).pick("way", expert.WAYS) == "pattern"]
    assert len(looking) > 10
    for seed in looking:
        assert len({codes[seed] for codes in by_look.values()}) == len(by_look)


def test_leaf_reads_the_prompt_alone() -> None:
    ask = expert.ASKS[0].format(one="number", key="ab-cd")
    text = "The special magic number for ab-cd is not 7654321, it is 1234567. For ab-ce 1111111"
    assert expert.leaf(f"{text}\n\n{ask}") == "1234567"
    assert expert.leaf(f"1 is one\nof the special magic numbers for {text}\n\n{ask}") == "1234567"
    assert expert.leaf(f"{text} is it.\n\n{ask.replace('ab-cd', 'ab-c')}") == "none"
    both = f"{text}\nRemember the special\nmagic number 3333333 when you see ab-cd."
    assert expert.leaf(f"{both}\n\n{ask}") == "1234567, 3333333"
    assert expert.leaf("Label each line.\n\nsoup") is None
    assert expert.next_turn("What is love?", [], Style(1)) is None
