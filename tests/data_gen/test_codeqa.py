"""codeqa: same seed, same bytes; the gold found again another way; the expert in the executor."""

from __future__ import annotations

import ast
import re
from dataclasses import replace

import pytest

from data_gen.experts import codeqa as expert
from data_gen.experts.style import Style
from data_gen.programs import diversity, normal_form
from data_gen.real.pro_metrics import BY_NAME
from data_gen.tasks import codeqa, real_text
from data_gen.tasks.codeqa import LETTERS, make_window
from data_gen.tasks.task import Task, Window
from rlm_executor import RLM, Limits, Message, RLMCard, RLMResult, ScriptedLM

SEEDS = (1, 3, 6, 800_001)
BLOCK = re.compile(r"```repl\n(.*?)\n```", re.DOTALL)


def run(window: Window, task: Task, style: Style) -> tuple[float, RLMResult, list[str]]:
    said: list[str] = []

    def root(messages: list[Message]) -> str:
        seen = [m["content"] for m in messages if m["role"] == "user"][1:]
        reply = expert.next_turn(task.question, seen[-len(said) :] if said else [], style)
        assert reply is not None
        said.append(reply)
        return reply

    def leaf(messages: list[Message]) -> str:
        assert len(messages[-1]["content"]) < 2_500
        reply = expert.leaf(messages[-1]["content"])
        assert reply is not None
        return reply

    card = RLMCard(limits=Limits(max_turns=8, observation_chars=400))
    result = RLM(ScriptedLM(root), ScriptedLM(leaf), card).complete(task.question, window.text())
    return BY_NAME[task.metric](list(task.answer), result.answer), result, said


def files(window: Window) -> dict[str, str]:
    return dict(part.split("\n", 1) for part in window.text().split("\n=== ")[1:])


def test_same_seed_same_bytes_and_the_length_is_kept() -> None:
    for seed in SEEDS:
        first, second = make_window(2048, seed, 3), make_window(2048, seed, 3)
        assert (first.text(), first.tasks) == (second.text(), second.tasks)
        assert 0.9 * 4 * 2048 < len(first.text().encode()) <= 4 * 2048
    assert make_window(2048, 1, 3).text() != make_window(2048, 2, 3).text()


def test_splits_share_no_package_and_no_wording() -> None:
    for folder in (real_text.STDLIB, real_text.INSTALLED):
        train, test = ({p.name for p in real_text.packages(s, folder)} for s in ("train", "test"))
        assert not train & test
    for seed in (*range(4), *range(800_000, 800_004)):
        split = real_text.split_of(seed)
        window = make_window(1024, seed, 3)
        roots = {path.split("/")[0].removesuffix(".py") for path in window.facts["sources"]}
        assert all(real_text.in_split(root, split) for root in roots)
        for task in window.tasks:
            held_out = codeqa.WORDINGS[task.meta["asks"]][-1].split("`")[0].split("{")[0]
            assert task.question.startswith(held_out) == (split == "test")


def test_choices_differ_and_the_letter_names_the_gold() -> None:
    for seed in SEEDS:
        for task in make_window(1024, seed, 3).tasks:
            assert len(set(task.meta["choices"])) == 4
            assert task.answer[0] in LETTERS
            scores = [BY_NAME[task.metric](list(task.answer), letter) for letter in LETTERS]
            assert sorted(scores) == [0, 0, 0, 1]


def test_gold_found_again_from_the_text() -> None:
    checked = set()
    for seed in range(10):
        window = make_window(2048, seed, 3)
        texts = files(window)
        for task in window.tasks:
            gold = task.meta["choices"][LETTERS.index(task.answer[0])]
            fields = re.findall(r"`([^`]+)`", task.question)
            right = _holds(task.meta["asks"], fields, texts, task.meta["choices"])
            if right is not None:
                assert right == [gold], task.question
                checked.add(task.meta["asks"])
    assert len(checked) >= 3


def _holds(
    kind: str, fields: list[str], texts: dict[str, str], choices: list[str]
) -> list[str] | None:
    """The choices for which it holds, by plain search; None where this test knows no way."""
    if kind == "snippet":
        return [path for path in choices if fields[0] in texts[path]]
    if kind == "imports":
        rule = rf"^\s*(import .*\b{re.escape(fields[0])}\b|from {re.escape(fields[0])} import)"
        return [path for path in choices if re.search(rule, texts[path], re.MULTILINE)]
    if kind == "calls":
        found = set()
        for path, text in texts.items():
            try:
                tree = ast.parse(text)
            except SyntaxError:
                continue
            for node in ast.walk(tree):
                if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                    place = f"{node.name} ({path})"
                    if place in choices and f"{fields[0]}(" in ast.unparse(node):
                        found.add(place)
        return sorted(found)
    return None


@pytest.mark.real_sandbox
@pytest.mark.parametrize("length", [1024, 2048, 8192])
def test_the_expert_is_right_in_every_style(length: int) -> None:
    for seed in SEEDS:
        window = make_window(length, seed, 4)
        for at, task in enumerate(window.tasks):
            points, result, _ = run(window, task, Style(seed=10 * seed + at))
            assert (points, result.stop_reason) == (1.0, "answered"), (seed, task.question)
            assert 1 <= result.turns <= 6
            assert not result.error_cells


@pytest.mark.real_sandbox
def test_mistakes_crash_and_are_mended_or_fail() -> None:
    window = make_window(1024, 3, 1)
    outcomes = set()
    for seed in range(12):
        style = Style(seed=seed, mistakes=1.0)
        points, result, said = run(window, window.tasks[0], style)
        mistake = style.mistake(("crash", "guess", "forgets"))
        outcomes.add(mistake)
        if mistake == "crash":
            assert (points, result.error_cells) == (1.0, 1)
        elif mistake == "forgets":
            assert result.stop_reason != "answered"
        else:
            assert result.turns == 1
    assert outcomes == {"crash", "guess", "forgets"}


def test_programs_are_many() -> None:
    forms = []
    questions = {
        t.meta["asks"]: t.question for s in range(8) for t in make_window(2048, s, 3).tasks
    }
    for kind, question in questions.items():
        for seed in range(60):
            seen, cells = [], []
            while "ready" not in "".join(cells[-1:]) and len(cells) < 6:
                reply = expert.next_turn(question, seen, Style(seed=seed))
                assert reply is not None and len(reply) < 2_600
                cells += BLOCK.findall(reply)
                seen.append("")
            forms.append((kind, normal_form(cells)))
    told = diversity(forms)
    assert len(told["by_family"]) >= 4
    for family in told["by_family"].values():
        assert family["distinct"] >= 15 and family["commonest_share"] < 0.3


def test_other_questions_are_left_to_other_experts() -> None:
    assert expert.next_turn("What is love?", [], Style(seed=1)) is None
    assert expert.leaf("soup\n\nIs it warm?") is None
    assert replace(Style(seed=1), mistakes=1.0).mistake(("crash",)) == "crash"
