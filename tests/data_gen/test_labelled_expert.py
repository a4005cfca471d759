"""The expert of ``oolong_full`` and ``pairs_full`` in the real executor, and what its code is."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from types import ModuleType

import pytest

from data_gen.experts import labelled as expert
from data_gen.experts.labelled_reading import asked_of, layout_of, read_label
from data_gen.experts.style import Style
from data_gen.programs import diversity, normal_form
from data_gen.tasks import oolong_full, oolong_wordings, pairs_full
from data_gen.tasks.skins import SKINS, SKINS_HELD_OUT
from data_gen.tasks.squares import SETS
from data_gen.tasks.task import Task, Window
from rlm_executor import DIALECTS, RLM, Limits, Message, RLMCard, RLMResult, ScriptedLM
from rlm_executor.parsing import parse_reply

FAMILIES = (oolong_full, pairs_full)
LENGTHS = (1024, 2048, 4096, 8192)
Leaf = Callable[[str], str | None]


def run(
    family: ModuleType, window: Window, task: Task, style: Style, leaf: Leaf = expert.leaf
) -> tuple[float, RLMResult, list[str]]:
    """Score, result and code of one run."""
    cells: list[str] = []

    def root(messages: list[Message]) -> str:
        seen = [m["content"] for m in messages[2:] if m["role"] == "user"]
        reply = expert.next_turn(task.question, seen, style)
        assert reply is not None and len(reply) < 2_000
        cells.extend(parse_reply(reply, ("repl",)).blocks)
        return reply

    def sub(messages: list[Message]) -> str:
        assert len(messages[-1]["content"]) < 2_500
        reply = leaf(messages[-1]["content"])
        assert reply is not None
        return reply

    limits = Limits(max_turns=7, max_calls=2_000, max_tokens_per_turn=640, observation_chars=400)
    card = RLMCard(dialect=DIALECTS["answer-compact"], limits=limits)
    result = RLM(ScriptedLM(root), ScriptedLM(sub), card).complete(task.question, window.text())
    return family.score(task, result.answer), result, cells


def seed_of(index: int) -> int:
    """Of the training split, or, each third, of another."""
    return index if index % 3 else 700_000 + index + 100_000 * (index % 2)


@pytest.mark.real_sandbox
@pytest.mark.parametrize("family", FAMILIES)
def test_the_expert_is_right_in_every_style(family: ModuleType) -> None:
    points, turns, skins = [], Counter[int](), set()
    for index in range(32):
        window = family.make_window(LENGTHS[index % 4], seed_of(index), 3)
        task = window.tasks[index % 3]
        score, result, _ = run(family, window, task, Style(index))
        points.append(score)
        turns[result.turns] += 1
        skins.add(task.meta["skin"])
        assert result.stop_reason == "answered" and not result.error_cells, (index, task.question)
    assert sum(points) >= 0.98 * len(points), points
    assert len(skins) == len(SKINS) + len(SKINS_HELD_OUT)
    assert len(turns) >= 4 and max(turns) <= 6


@pytest.mark.real_sandbox
@pytest.mark.parametrize("family", FAMILIES)
def test_oracle_labels_are_always_right(family: ModuleType) -> None:
    for index in range(8):
        window = family.make_window(2048, 300 + seed_of(index), 1)
        known = {entry.text: entry.label for entry in window.facts["sheet"].entries()}

        def oracle(prompt: str, known: dict[str, str] = known) -> str:
            return "\n".join(known[line] for line in prompt.split("\n\n")[-1].split("\n"))

        score, _, _ = run(family, window, window.tasks[0], Style(50 + index), oracle)
        assert score == 1.0


@pytest.mark.real_sandbox
def test_replies_that_lost_a_line_are_asked_again_or_shift_nothing() -> None:
    ways = ("batch", "again", "halves", "rounds", "pad")
    points: dict[str, list[float]] = {way: [] for way in ways}
    for index in range(24):
        rng = random.Random(index)
        window = oolong_full.make_window(1024, 400 + index, 6)
        task = next(t for t in window.tasks if t.meta["answer_type"] in ("number", "label"))

        def losing(prompt: str, rng: random.Random = rng) -> str | None:
            reply = expert.leaf(prompt)
            lines = (reply or "").split("\n")
            return "\n".join(lines[1:]) if len(lines) > 1 and rng.random() < 0.3 else reply

        style = Style(index)
        score, result, _ = run(oolong_full, window, task, style, losing)
        assert result.stop_reason == "answered"
        points[style.pick("labelling", ways)].append(score)
    for way in ("batch", "again", "halves", "rounds"):
        assert points[way] and {*points[way]} == {1.0}, points
    assert points["pad"]


@pytest.mark.real_sandbox
def test_crashes_are_mended_and_other_mistakes_cost() -> None:
    points: dict[str, list[float]] = {kind: [] for kind in expert.MISTAKES}
    for index in range(28):
        window = FAMILIES[index % 2].make_window(2048, 500 + index, 1)
        style = Style(index, mistakes=1.0)
        score, result, _ = run(FAMILIES[index % 2], window, window.tasks[0], style)
        mistake = style.mistake(expert.MISTAKES)
        points[mistake].append(score if result.stop_reason == "answered" else 0.0)
        assert result.error_cells == (mistake == "crash")
    assert {*points["crash"]} == {1.0} and {*points["forgets"]} == {0.0}
    for kind in ("guess", "part"):
        assert sum(points[kind]) < 0.7 * len(points[kind]), points


def told(window: Window, question: str, style: Style) -> list[str]:
    """The cells of a run that sees the context's first line and two users' lines each time."""
    text, sheet = window.text(), window.facts["sheet"]
    entries = list(sheet.entries())
    other = next(entry for entry in entries if entry.user != entries[0].user)
    lines = "".join(sheet.skin.render(entry) for entry in (entries[0], other))
    shown = f"{len(text)}\n{text.splitlines()[0]}\n\n{' ' * 300}\n{lines}"
    seen: list[str] = []
    cells: list[str] = []
    while "ready" not in "".join(cells[-1:]) and len(cells) < 7:
        reply = expert.next_turn(question, seen, style)
        assert reply is not None
        cells += parse_reply(reply, ("repl",)).blocks
        seen.append(shown)
    return cells


@pytest.mark.parametrize("family", FAMILIES)
def test_every_kind_is_worked_out(family: ModuleType) -> None:
    """Of each kind several programs, run right here: there are too many for a sandbox each."""
    kinds = Counter[str]()
    for index in range(45):
        window = family.make_window(4096, 600 + seed_of(index), 5)
        known = {entry.text: entry.label for entry in window.facts["sheet"].entries()}

        def ask(prompt: str, known: dict[str, str] = known) -> str:
            return "\n".join(known[line] for line in prompt.split("\n\n")[-1].split("\n"))

        for at, task in enumerate(window.tasks):
            answer: dict[str, str] = {}
            names = {
                "context": window.text(), "answer": answer, "llm_query": ask,
                "llm_query_batched": lambda prompts, ask=ask: [*map(ask, prompts)],
                "print": lambda *told, **_: None,
            }  # fmt: skip
            for cell in told(window, task.question, Style(10 * index + at)):
                exec(cell, names)
            assert family.score(task, answer["content"]) == 1.0, task.question
            kinds[task.meta["kind"]] += 1
    if family is pairs_full:
        assert {*kinds} == {*pairs_full.KINDS}
    else:
        asked = {part for kind in kinds for part in kind.split("/")}
        assert asked == {*oolong_wordings.SCOPES, *oolong_wordings.BODIES}


@pytest.mark.parametrize("family", FAMILIES)
def test_programs_differ(family: ModuleType) -> None:
    forms = []
    for index in range(60):
        window = family.make_window(1024, index, 2)
        for task in window.tasks:
            forms.append(("", normal_form(told(window, task.question, Style(index)))))
    found = diversity(forms)
    assert found["distinct"] > 0.8 * found["programs"] and found["commonest_share"] < 0.05


def test_a_changed_skin_changes_the_program() -> None:
    window = oolong_full.make_window(2048, 7, 1)
    sheet, question = window.facts["sheet"], window.tasks[0].question
    programs, forms = set(), set()
    for skin in (*SKINS, *SKINS_HELD_OUT):
        sheet.skin = skin
        cells = told(window, question, Style(3))
        programs.add("\n".join(cells))
        forms.add(normal_form(cells))
    assert len(programs) == len(SKINS) + len(SKINS_HELD_OUT)
    assert len(forms) >= 4


def test_a_layout_is_found_from_lines_of_two_users_only() -> None:
    for family in FAMILIES:
        for seed in (*range(30), *range(800_000, 800_020)):
            window = family.make_window(1024, seed, 1)
            sheet = window.facts["sheet"]
            lines = [sheet.skin.render(entry)[:-1] for entry in sheet.entries()]
            one = next(row.user for row in sheet.rows)
            same = [x for x, row in zip(lines, sheet.rows, strict=True) if row.user == one]
            assert layout_of("\n".join(same[:3])) is None
            other = next(x for x, row in zip(lines, sheet.rows, strict=True) if row.user != one)
            layout = layout_of(f"a note on something else\n{same[0]}\n{other}")
            assert layout is not None and {*layout.fields} == {"date", "user", "text"}


def test_the_leaf_reads_the_prompt_alone() -> None:
    ask = "Label each line as one of: amber, jade. Answer with one label a line."
    glossary = "Made-up words tell the label:\namber: bako, titu\njade: reno, salal"
    lines = "Mara kept a picture of a titu above the desk\nthe reno was late"
    assert expert.leaf(f"{glossary}\n\n{ask}\n\n{lines}") == "amber\njade"
    turned = "bako, titu stands for jade\nreno, salal stands for amber"
    assert expert.leaf(f"{turned}\n\n{ask}\n\n{lines}") == "jade\namber"
    walk = "Mara was walking east, behind the church the road ran back"
    assert read_label(walk, ("west", "north", "south", "east"), "") == "west"
    assert expert.leaf("Label each line as one of: food, tool. Answer with one label a line.\n\nx")\
        is None  # fmt: skip
    assert expert.leaf("What is love?") is None


def test_every_cell_of_every_square_is_read() -> None:
    rng = random.Random(1)
    for made in SETS.values():
        for first in range(len(made.labels)):
            for second in range(len(made.labels)):
                for held_out in (False, True) * 5:
                    line = made.line(rng, first, second, "Mara", held_out=held_out)
                    assert read_label(line, made.labels, "") == made.label(first, second), line


def test_other_questions_are_left_to_other_experts() -> None:
    for question in (
        "What is love?",
        "Each line has one of the labels: food, tool. Which label is the most common? "
        "Answer with the label.",
        "Each line has one of the labels: food, tool. List all pairs of users where both users "
        "have at least 2 lines with the label food. Answer with one pair a line in the form "
        "(user1, user2), lower user first.",
    ):
        assert asked_of(question) is None
        assert expert.next_turn(question, [], Style(1)) is None
