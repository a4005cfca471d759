"""``hops``: chains over documents, and its expert in the real executor."""

from __future__ import annotations

import difflib
import re

import pytest

from data_gen.experts import hops as expert
from data_gen.experts.style import Style
from data_gen.programs import diversity, normal_form
from data_gen.tasks import hops, sources
from rlm_executor import DIALECTS, RLM, Limits, RLMCard, RLMResult, ScriptedLM
from rlm_executor.lm import Message
from rlm_executor.parsing import parse_reply

LENGTHS = (2**10, 2**11, 2**12, 2**13)


def play(length: int, seed: int, style: Style) -> tuple[float, RLMResult, list[str], list[str]]:
    """Score, result, code and leaf prompts of one run of the expert."""
    window = hops.make_window(length, seed, 1)
    task = window.tasks[0]
    code: list[str] = []
    prompts: list[str] = []

    def root(messages: list[Message]) -> str:
        seen = [m["content"].removeprefix("REPL output:\n") for m in messages[2:]
                if m["role"] == "user"]  # fmt: skip
        reply = expert.next_turn(task.question, seen, style)
        assert reply is not None
        code.extend(parse_reply(reply, ("repl",)).blocks)
        return reply

    def sub(messages: list[Message]) -> str:
        prompts.append(messages[-1]["content"])
        reply = expert.leaf(prompts[-1])
        assert reply is not None
        return reply

    limits = Limits(max_turns=7, max_calls=500, max_tokens_per_turn=640, observation_chars=400)
    card = RLMCard(dialect=DIALECTS["answer-compact"], limits=limits)
    result = RLM(ScriptedLM(root), ScriptedLM(sub), card).complete(task.question, window.text())
    return hops.exact_match(str(task.answer), result.answer), result, code, prompts


def facts_of(text: str) -> dict[tuple[str, str], str]:
    """Every fact that the text tells, read by the wordings alone."""
    found = {}
    text = text.replace("\\n", "\n")  # of JSON
    name = r"([A-Z][a-z]+(?: [A-Z][a-z]+)?)"
    for field in hops.FIELDS:
        for wording in hops.WORDINGS[field] + hops.WORDINGS_HELD_OUT[field]:
            pattern = re.escape(wording).replace(r"\{x\}", name)
            pattern = pattern.replace(r"\{y\}", r"(\w+(?: [A-Z]\w+)?)")
            for match in re.finditer(rf"(?<!\w){pattern}", text):
                found[match[1], field] = match[2]
    return found


@pytest.mark.parametrize("seed", [3, 17, 700_003, 800_001])
def test_gold_is_what_the_documents_tell(seed: int) -> None:
    for length in LENGTHS:
        window = hops.make_window(length, seed, 4)
        facts = facts_of(window.text())
        for task in window.tasks:
            asked = expert._asked(task.question)
            assert asked is not None and 2 <= len(asked[1]) <= 4
            at = asked[0]
            for field in asked[1]:
                at = facts[at, field]
            assert at == task.answer
            assert hops.exact_match(str(task.answer), f"The {at.lower()}.") == 1.0
            assert hops.exact_match(str(task.answer), "none") == 0.0


def test_same_seed_same_bytes_and_length_is_kept() -> None:
    for length in (2**9, *LENGTHS, 2**16):
        for seed in (1, 2, 700_001, 800_002):
            window = hops.make_window(length, seed, 3)
            assert window.text() == hops.make_window(length, seed, 3).text()
            assert 0.9 * 4 * length < len(window.text().encode()) <= 4 * length
            assert len({task.id for task in window.tasks}) == 3


def test_long_windows_are_streamed_as_a_thousand_documents() -> None:
    sizes = [len(chunk) for chunk in hops.make_window(2**20, 5, 2).chunks()]
    assert len(sizes) == 1000
    assert max(sizes) < 10_000


def test_splits_share_no_names_wordings_layouts_or_files() -> None:
    for field in hops.FIELDS:
        assert not {*hops.WORDINGS[field]} & {*hops.WORDINGS_HELD_OUT[field]}
    assert not {*hops.QUESTIONS} & {*hops.QUESTIONS_HELD_OUT}
    train, test = sources.load("train"), sources.load("test")
    assert not {*train.packages} & {*test.packages}
    assert len(train.pieces) > 1000 and len(test.pieces) > 1000
    names = [
        {word for seed in seeds for name in hops.make_window(2**13, seed, 2).facts["choices"]
         for word in name.split()}
        for seeds in (range(10), range(800_000, 800_010))
    ]  # fmt: skip
    assert not names[0] & names[1]
    skins = {hops.make_window(2**10, seed, 1).tasks[0].meta["skin"] for seed in range(30)}
    held = {hops.make_window(2**10, s, 1).tasks[0].meta["skin"] for s in range(800_000, 800_020)}
    assert (len(skins), len(held)) == (4, 2) and not skins & held


def test_near_names_have_another_value() -> None:
    for seed in range(5):
        window = hops.make_window(2**12, seed, 3)
        facts = facts_of(window.text())
        misleading = 0
        for task in window.tasks:
            asked = expert._asked(task.question)
            assert asked is not None
            at = asked[0]
            for field in asked[1]:
                value = facts[at, field]
                others = [n for n, f in facts if f == field and n != at]
                near = difflib.get_close_matches(at, others, n=2, cutoff=0.85)
                misleading += any(facts[name, field] != value for name in near)
                at = value
        assert misleading >= 3


@pytest.mark.real_sandbox
def test_expert_is_right_in_every_style() -> None:
    ways = set()
    for index in range(24):
        style = Style(index)
        seed = index if index % 3 else 800_000 + index
        points, result, _, prompts = play(LENGTHS[index % 4], seed, style)
        assert (points, result.stop_reason) == (1.0, "answered"), (index, result.answer)
        assert result.turns <= 6 and result.error_cells == 0
        assert max(map(len, prompts)) <= 2500
        ways.add(style.pick("way", ("docs", "mentions", "every", "recursion")))
    assert len(ways) == 4


@pytest.mark.real_sandbox
def test_a_crash_is_mended_and_careless_runs_fall_for_near_names() -> None:
    points: dict[str, list[float]] = {kind: [] for kind in expert.MISTAKES}
    for index in range(24):
        style = Style(index, mistakes=1.0)
        score, result, _, _ = play(2**11, index, style)
        kind = style.mistake(expert.MISTAKES)
        points[kind].append(score)
        assert kind != "crash" or result.error_cells == 1
    assert {*points["crash"]} == {1.0}
    assert {*points["short"]} == {0.0}
    assert sum(points["near"]) < len(points["near"])


def test_programs_differ() -> None:
    question = hops.make_window(2**10, 1, 1).tasks[0].question
    look = "=== doc 1 ===\ntext"
    forms = []
    for seed in range(100):
        style = Style(seed)
        seen: list[str] = []
        code: list[str] = []
        for _ in range(6):
            reply = expert.next_turn(question, seen, style)
            assert reply is not None
            code.extend(parse_reply(reply, ("repl",)).blocks)
            seen.append(look if not seen else "Bavik")
            if "ready" in code[-1]:
                break
        forms.append(("hops", normal_form(code)))
    told = diversity(forms)
    assert told["distinct"] > 25 and told["commonest_share"] < 0.2


def test_leaf_reads_the_prompt_alone() -> None:
    text = "Lata Bada lives in Tebe. Lata Badan lives in Mera."
    assert expert.leaf(f"{text}\n\nWhat is the home of Lata Badan?") == "Mera"
    assert expert.leaf(f"{text}\n\nWhat is the firm of Lata Bada?") == "none"
    assert expert.leaf("Label each line.\n\nsoup") is None
    assert expert.next_turn("What is love?", [], Style(1)) is None
