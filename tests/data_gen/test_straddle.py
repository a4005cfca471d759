"""``straddle``: the facts lie across the cuts, and the expert with and without overlap.

Measured in the sandbox over 40 runs (ten of each length from 2^10 to 2^13 tokens): 40 of 40 right
with overlap, 6 of 40 without (and 6 of 40 with an overlap of 60 characters). Without the sandbox,
over 400 runs: 400 and 27.
"""

from __future__ import annotations

import difflib
import functools
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_gen.experts import straddle as expert
from data_gen.experts.style import Style
from data_gen.programs import diversity, normal_form
from data_gen.tasks import lexicon, straddle
from data_gen.tasks.task import Task, Window
from rlm_executor import DIALECTS, RLM, Limits, RLMCard, RLMResult, ScriptedLM
from rlm_executor.errors import InputError
from rlm_executor.lm import Message
from rlm_executor.parsing import parse_reply

LENGTHS = (2**10, 2**11, 2**12, 2**13)
SEEDS = st.one_of(st.integers(0, 699_999), st.integers(700_000, 899_999))


def play(
    length: int, seed: int, style: Style, mistake: str | None = None
) -> tuple[float, RLMResult, list[str]]:
    """Score, result and leaf prompts of one run of the expert."""
    window = straddle.make_window(length, seed, 1)
    task = window.tasks[0]
    prompts: list[str] = []

    def root(messages: list[Message]) -> str:
        seen = [m["content"].removeprefix("REPL output:\n") for m in messages[2:]
                if m["role"] == "user"]  # fmt: skip
        reply = expert.next_turn(task.question, seen, style, mistake)
        assert reply is not None and len(reply) < 2000
        return reply

    def sub(messages: list[Message]) -> str:
        prompts.append(messages[-1]["content"])
        reply = expert.leaf(prompts[-1])
        assert reply is not None
        return reply

    limits = Limits(max_turns=7, max_calls=500, max_tokens_per_turn=640, observation_chars=400)
    card = RLMCard(dialect=DIALECTS["answer-compact"], limits=limits)
    result = RLM(ScriptedLM(root), ScriptedLM(sub), card).complete(task.question, window.text())
    return straddle.exact_match(str(task.answer), result.answer), result, prompts


def words_of(window: Window) -> straddle.Words:
    return straddle.HELD_OUT if window.seed >= 700_000 else straddle.TRAIN


def read(text: str, window: Window) -> dict[str, int]:
    """Sentence by sentence: whom the last opening names, and what a count then says."""
    words, kind, things = words_of(window), window.facts["kind"], window.facts["things"]
    text = re.sub(r"\n> |\s+", " ", text).replace(" | ", " ").replace(" / ", " ")
    found: dict[str, int] = {}
    place = None
    for sentence in re.findall(r"[^.]+\.", text):
        for wording in words.openings:
            opening = (
                re.escape(wording).replace(r"\{kind\}", r"(\w+)").replace(r"\{name\}", r"(\w+)")
            )
            if match := re.fullmatch(opening, sentence.strip()):
                place = match[2] if match[1] == kind else None
        for wording in words.counts:
            count = re.escape(wording.format(things=things, n="NUMBER")).replace("NUMBER", r"(\d+)")
            if place and (match := re.fullmatch(count, sentence.strip())):
                assert place not in found
                found[place] = int(match[1])
    return found


def gold(task: Task, values: dict[str, int]) -> str:
    """The answer to the task by what was read."""
    named = [name for name in re.findall(r"\w+", task.question) if name in values]
    numbers = [values[name] for name in named]
    if task.meta["kind"] in ("value", "list"):
        return ", ".join(map(str, numbers))
    if task.meta["kind"] == "more":
        return str(abs(numbers[0] - numbers[1]))
    if task.meta["kind"] == "total":
        return str(sum(values.values()))
    if task.meta["kind"] == "most":
        return sorted((number, name) for name, number in values.items())[-1][1]
    limit = re.search(r"\d+", task.question)
    assert limit is not None
    return str(len([number for number in values.values() if number > int(limit[0])]))


@settings(max_examples=40, deadline=None)
@given(seed=SEEDS, length=st.sampled_from((2**9, *LENGTHS)))
def test_gold_is_what_the_text_tells_and_length_is_kept(seed: int, length: int) -> None:
    window = straddle.make_window(length, seed, 2)
    text = window.text()
    assert text == straddle.make_window(length, seed, 2).text()
    assert 0.95 * 4 * length < len(text.encode()) <= 4 * length
    values = read(text, window)
    assert values == window.facts["values"]
    for task in window.tasks:
        assert gold(task, values) == task.answer, task.question
        assert straddle.exact_match(str(task.answer), str(task.answer).replace(", ", ",")) == 1.0
        assert straddle.exact_match(str(task.answer), f"{task.answer}1") == 0.0


@settings(max_examples=30, deadline=None)
@given(seed=SEEDS, length=st.sampled_from((2**9, *LENGTHS, 2**14, 2**16)))
def test_every_fact_lies_across_a_multiple_of_the_stride(seed: int, length: int) -> None:
    window = straddle.make_window(length, seed, 1)
    text, stride = window.text(), window.tasks[0].meta["stride"]
    assert length < 2**10 or stride % 1000 == 0
    for index, (name, value) in enumerate(window.facts["values"].items()):
        cut = (index + 1) * stride
        named = text.rindex(name, 0, cut)
        told = [match.start() for match in re.finditer(rf"\b{value}\b", text)]
        assert len(told) == 1, (name, value)
        assert named + len(name) < cut <= told[0], (name, value)
        assert told[0] - named < straddle.MOST_CHARS
    # Chunks that only touch tell none of them, whatever multiple of 1000 they are cut at.
    parts = [text[at : at + stride] for at in range(0, len(text), stride)]
    assert not any(read(part, window) for part in parts)


def test_no_place_is_called_as_a_question_begins() -> None:
    window = straddle.make_window(2**13, 68_516, 2)  # "Give" was one of its places
    asked = {word for task in window.tasks for word in task.question.split()}
    assert not {"Give", "List", "Name"} & (asked & set(window.facts["values"]))
    assert not {"Give", "List", "Name", "Count"} & set(window.facts["values"])


def test_facts_are_at_most_sixty_and_long_windows_are_streamed() -> None:
    for power in range(9, 25):
        n_bytes = 4 * 2**power
        assert 2 <= max(2, (n_bytes - 600) // straddle.stride_of(n_bytes)) <= straddle.MOST_FACTS
    window = straddle.make_window(2**20, 5, 2)
    sizes = [len(chunk) for chunk in window.chunks()]
    assert 0.999 * 2**22 < sum(sizes) <= 2**22
    assert max(sizes) < 200


def test_too_many_questions_are_refused() -> None:
    with pytest.raises(InputError, match="ask fewer"):
        straddle.make_window(2**9, 1, 60)


def test_splits_share_no_words_names_wordings_or_layouts() -> None:
    for field in straddle.Words.__dataclass_fields__:
        train, held = getattr(straddle.TRAIN, field), getattr(straddle.HELD_OUT, field)
        assert len({*train}) == len(train) and not {*train} & {*held}, field
    for words in (straddle.TRAIN, straddle.HELD_OUT):
        fillers = " ".join((*words.fillers, *words.objects)).lower()
        for word in words.kinds + words.things:  # else a filler could look like a fact
            assert not re.search(rf"\b{word}\b|\b{word[:-1]}\b", fillers), word
    told: list[dict[str, set[str]]] = []
    for first in (0, 800_000):
        windows = [straddle.make_window(2**12, seed, 2) for seed in range(first, first + 40)]
        told.append({
            "names": {name for window in windows for name in window.facts["values"]},
            "skins": {window.tasks[0].meta["skin"] for window in windows},
            "kinds": {task.meta["kind"] for window in windows for task in window.tasks},
            "wordings": {wording for window in windows for task in window.tasks
                         for wording in straddle.QUESTIONS[task.meta["kind"]]
                         if re.fullmatch(expert._pattern(wording), task.question)},
        })  # fmt: skip
    train, held_out = told
    assert not train["names"] & held_out["names"]
    assert (len(train["skins"]), len(held_out["skins"])) == (4, 3)
    assert not train["skins"] & held_out["skins"]
    assert train["kinds"] == held_out["kinds"] == {*straddle.QUESTIONS}
    assert not train["wordings"] & held_out["wordings"]
    people = {*lexicon.NAMES, *lexicon.NAMES_HELD_OUT}
    assert not (train["names"] | held_out["names"]) & people


def test_hard_negatives_stand_in_the_text() -> None:
    mentions = other_kind = near = 0
    for seed in (*range(6), *range(800_000, 800_006)):
        window = straddle.make_window(2**12, seed, 1)
        text, values = re.sub(r"\s+(> )?", " ", window.text()), window.facts["values"]
        for name in values:
            mentions += len(re.findall(rf"{window.facts['kind']} [\w ]{{2,8}} {name}\b", text)) > 1
            other = "|".join({*words_of(window).kinds} - {window.facts["kind"]})
            other_kind += bool(re.search(rf"(?:{other}) [\w ]{{2,8}} {name}\b", text))
            near += bool(difflib.get_close_matches(name, {*values} - {name}, cutoff=0.75))
    assert mentions > 20 and other_kind > 20 and near > 20


def test_a_guesser_scores_little() -> None:
    points = []
    for seed in range(120):
        window = straddle.make_window(2**11, seed, 2)
        for task in window.tasks:
            guess = straddle.floor_answer(window, task)
            assert guess == straddle.floor_answer(window, task)
            points.append(straddle.exact_match(str(task.answer), guess))
    assert 0 < sum(points) / len(points) < 0.15


@functools.cache
def _scores(mistake: str) -> list[float]:
    """Forty runs in the sandbox, a third of them on held-out windows."""
    points = []
    for index in range(40):
        seed = index if index % 3 else 800_000 + index
        score, result, prompts = play(LENGTHS[index % 4], seed, Style(index), mistake)
        assert (result.stop_reason, result.error_cells) == ("answered", 0), (index, result.answer)
        assert 1 <= result.turns <= 6
        assert max(map(len, prompts), default=0) < 2000
        points.append(score)
    return points


@pytest.mark.real_sandbox
def test_expert_is_right_with_overlap_and_not_without() -> None:
    assert len({Style(index).pick("way", expert.WAYS) for index in range(40)}) == len(expert.WAYS)
    assert sum(_scores("")) >= 0.98 * 40
    assert sum(_scores("no_overlap")) <= 0.25 * 40


@pytest.mark.real_sandbox
def test_a_crash_is_mended_and_other_mistakes_cost_points() -> None:
    points: dict[str, list[float]] = {kind: [] for kind in expert.MISTAKES}
    for index in range(28):
        style = Style(index, mistakes=1.0)
        kind = style.mistake(expert.MISTAKES)
        score, result, _ = play(2**11, index, style)
        points[kind].append(score)
        assert result.error_cells == (kind == "crash"), index
    assert {*points.pop("crash")} == {1.0}
    for kind, scores in points.items():
        assert scores and sum(scores) <= 0.5 * len(scores), kind


def test_programs_differ() -> None:
    forms = []
    for seed in range(100):
        style, seen, code = Style(seed), list[str](), list[str]()
        window = straddle.make_window(2**10, seed % 5, 1)
        for _ in range(7):
            reply = expert.next_turn(window.tasks[0].question, seen, style)
            assert reply is not None
            code.extend(parse_reply(reply, ("repl",)).blocks)
            seen.append(f"4090\n{window.text()[:300]}")
            if "ready" in code[-1]:
                break
        forms.append(("straddle", normal_form(code)))
    told = diversity(forms)
    assert told["distinct"] > 70 and told["commonest_share"] < 0.1


def test_leaf_reads_the_prompt_alone() -> None:
    text = (
        "Rain fell on the depot of Bana for a whole week. Its kegs were counted: 12. Mara left. "
        "All in all it had 40 crates. A song was sung about the depot called Bana. Soldiers "
        "marched to the depot at Bani that morning. The place held 7 kegs that day."
    )
    single = "How many crates has the depot {}? Answer with the number, or with none."
    every = "Give every depot with its number of crates, one a line as name: number, or none."
    assert expert.leaf(f"{text}\n\n{single.format('Bana')}") == "40"
    assert expert.leaf(f"{text}\n\n{single.format('Bani')}") == "none"
    assert expert.leaf(f"{text}\n\n{every}") == "Bana: 40"
    assert expert.leaf(f"{text[:100]}\n\n{every}") == "none"  # the name without its count
    assert expert.leaf(f"{text[40:]}\n\n{every}") == "none"  # the count without its name
    assert expert.leaf("Label each line.\n\nsoup") is None
    assert expert.next_turn("What is love?", [], Style(1)) is None
