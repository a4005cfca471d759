"""Repair: mistakes mended so that the real executor gives the right answer; the rest untouched."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from data_gen.repair import FIXES, Repaired, repair, rerun
from data_gen.replies import Mended
from rlm_executor import RLM, Limits, RLMCard, RLMResult, ScriptedLM, Trajectory
from rlm_executor.errors import InputError
from scripts import check_repair
from tests.data_gen.erring_teacher import FINAL_WORDS, ErringTeacher, block

CONTEXT = "One of the values is: 41.\nA quiet street.\nOne of the values is: 42.\n"
FIND = "import re\nhits = re.findall('is: ([0-9]+)', context)\nresult = ' and '.join(hits)"
LOOK = block("print(context[:20])")
SEARCH = block(f"{FIND}\nprint(result)", "I search.")
RIGHT = "41 and 42"
CARDS = {"final": RLMCard(dialect=FINAL_WORDS), "answer": RLMCard()}
READY = 'answer["ready"] = True'
ENDED = f'answer["content"] = result\n{READY}'


def card(finish: str, max_turns: int = 5) -> RLMCard:
    return CARDS[finish].model_copy(update={"limits": Limits(max_turns=max_turns)})


def recorded(
    finish: str, replies: list[str], path: Path, leaf: ScriptedLM | None = None
) -> tuple[RLMResult, Trajectory]:
    """A run of these replies, the last of them as often as it takes."""
    left = [*replies]
    root = ScriptedLM(lambda _: left.pop(0) if len(left) > 1 else left[0])
    rlm = RLM(root, leaf or ScriptedLM(lambda _: "leaf"), card(finish), journal=path)
    result = rlm.complete("Which values?", CONTEXT)
    return result, Trajectory.read(path)


def mended(trajectory: Trajectory, path: Path) -> tuple[Repaired, RLMResult, bool]:
    repaired = repair(trajectory)
    result, reproduced = asyncio.run(rerun(trajectory, repaired, CONTEXT, path))
    return repaired, result, reproduced


@dataclass(frozen=True)
class Case:
    """Replies with mistakes, and what they should have been."""

    said: list[str]
    fixes: list[tuple[int, str]]
    replies: list[str]
    answer: str = RIGHT


BESIDE, IN_CODE = "final_beside_code", "final_in_code"
FINAL_CASES = {
    "of_variable": Case(
        [SEARCH, "It is this:\n\nFINAL(result)"],
        [(1, "final_of_variable")],
        [SEARCH, "It is this:\n\nFINAL_VAR(result)"],
    ),
    "quoted_variable": Case(
        [SEARCH, "FINAL('result')"], [(1, "final_of_variable")], [SEARCH, "FINAL_VAR(result)"]
    ),
    "variable_named_answer": Case(
        [block(f"{FIND}\nanswer = result"), "FINAL(answer)"],
        [(1, "final_of_variable")],
        [block(f"{FIND}\nanswer = result"), "FINAL_VAR(answer)"],
    ),
    "var_of_text": Case(
        [SEARCH, 'So:\nFINAL_VAR("41 and 42")'],
        [(1, "final_var_of_text")],
        [SEARCH, "So:\n\nFINAL(41 and 42)"],
    ),
    "var_of_number": Case(
        [SEARCH, "FINAL_VAR(42)"], [(1, "final_var_of_text")], [SEARCH, "FINAL(42)"], "42"
    ),
    "var_unknown_then_right": Case(
        [SEARCH, "FINAL_VAR(final_result)", "FINAL_VAR(result)"],
        [(1, "final_var_of_text")],
        [SEARCH, "FINAL_VAR(result)"],
    ),
    "expression": Case(
        [SEARCH, "I have it.\n\nFINAL(' and '.join(hits))"],
        [(1, "final_expression")],
        [
            SEARCH,
            block("final_answer = ' and '.join(hits)\nprint(final_answer)", "I have it."),
            "FINAL_VAR(final_answer)",
        ],
    ),
    "var_of_expression": Case(
        [SEARCH, "FINAL_VAR(hits[0] + ' and ' + hits[1])"],
        [(1, "final_expression")],
        [
            SEARCH,
            block("final_answer = hits[0] + ' and ' + hits[1]\nprint(final_answer)"),
            "FINAL_VAR(final_answer)",
        ],
    ),
    "template": Case(
        [SEARCH, "FINAL(They are {hits[0]} and {hits[1]})"],
        [(1, "final_expression")],
        [
            SEARCH,
            block("final_answer = f'They are {hits[0]} and {hits[1]}'\nprint(final_answer)"),
            "FINAL_VAR(final_answer)",
        ],
        "They are 41 and 42",
    ),
    "braces_alone": Case(
        [SEARCH, "FINAL({result})"],
        [(1, "final_expression")],
        [
            SEARCH,
            block("final_answer = f'{result}'\nprint(final_answer)"),
            "FINAL_VAR(final_answer)",
        ],
    ),
    "guess_beside_code": Case(
        [f"{SEARCH}\n\nFINAL(it may be 7)", "FINAL(41 and 42)"],
        [(0, BESIDE)],
        [SEARCH, "FINAL(41 and 42)"],
    ),
    "variable_beside_code": Case(
        [f"{SEARCH}\n\nFINAL_VAR(result)"], [(0, BESIDE)], [SEARCH, "FINAL_VAR(result)"]
    ),
    "text_beside_code_twice": Case(
        [SEARCH, *[f"{LOOK}\nFINAL(41 and 42)"] * 2],
        [(1, BESIDE), (2, BESIDE)],
        [SEARCH, LOOK, LOOK, "FINAL(41 and 42)"],
    ),
    "expression_beside_code": Case(
        [LOOK, f"{SEARCH}\n\nFINAL(', '.join(hits))"] * 2,
        [(1, "final_expression"), (1, BESIDE), (3, "final_expression"), (3, BESIDE)],
        [
            LOOK,
            SEARCH,
            LOOK,
            SEARCH.replace("(result)\n", "(result)\nfinal_answer = ', '.join(hits)\n"),
        ]
        + ["FINAL_VAR(final_answer)"],
        "41, 42",
    ),
    "called_at_the_end_of_code": Case(
        [block(f"{FIND}\nFINAL(result)")], [(0, IN_CODE)], [block(FIND), "FINAL_VAR(result)"]
    ),
    "called_with_an_expression": Case(
        [LOOK, block(f"{FIND}\nFINAL(', '.join(hits))  # done")],
        [(1, IN_CODE)],
        [LOOK, block(f"{FIND}\nfinal_answer = ', '.join(hits)  # done"), "FINAL_VAR(final_answer)"],
        "41, 42",
    ),
    "called_in_a_branch": Case(
        [SEARCH, block("if len(hits) > 1:\n    FINAL(result)\nelse:\n    FINAL('none')")],
        [(1, IN_CODE)],
        [
            SEARCH,
            block("if len(hits) > 1:\n    final_answer = result\nelse:\n    final_answer = 'none'"),
            "FINAL_VAR(final_answer)",
        ],
    ),
    "called_alone": Case(
        [SEARCH, block('print(FINAL_VAR("result"))', "Now.")],
        [(1, IN_CODE)],
        [SEARCH, "Now.\n\nFINAL_VAR(result)"],
    ),
    "called_with_an_unknown_name": Case(
        [block(f'{FIND}\nFINAL_VAR("nothing"); x = 1'), "FINAL_VAR(result)"],
        [(0, IN_CODE)],
        [block(f"{FIND}\npass; x = 1"), "FINAL_VAR(result)"],
    ),
    "in_a_fence": Case(
        [SEARCH, "Done.\n\n```\nFINAL(41 and 42)\n```"],
        [(1, "final_in_fence")],
        [SEARCH, "Done.\n\nFINAL(41 and 42)"],
    ),
    "variable_in_a_fence": Case(
        [SEARCH, "```python\nFINAL(result)\n```"],
        [(1, "final_in_fence"), (1, "final_of_variable")],
        [SEARCH, "FINAL_VAR(result)"],
    ),
    "with_unrun_code": Case(
        [SEARCH, "```python\ntext = ', '.join(hits)\nFINAL(text)\n```"],
        [(1, "final_with_unrun_code"), (1, IN_CODE)],
        [SEARCH, block("text = ', '.join(hits)"), "FINAL_VAR(text)"],
        "41, 42",
    ),
}
EMPTY = "ready_without_content"
ANSWER_CASES = {
    "rebound": Case(
        [block(f"{FIND}\nanswer = hits\nprint(len(answer))"), block(ENDED)],
        [(0, "answer_rebound")],
        [
            block(f'{FIND}\nanswer["content"] = hits\nprint(len(answer["content"]))'),
            block(ENDED),
        ],
    ),
    "rebound_and_ready": Case(
        [SEARCH, block('answer = result\nanswer["ready"] = True'), block(ENDED)],
        [(1, "answer_rebound")],
        [SEARCH, block('answer["content"] = result\nanswer["ready"] = True')],
    ),
    "rebound_in_an_f_string": Case(
        [block(f'{FIND}\nanswer = result\nprint(f"{{answer}}")'), block(ENDED)],
        [(0, "answer_rebound")],
        [
            block(f"{FIND}\nanswer['content'] = result\nprint(f\"{{answer['content']}}\")"),
            block(ENDED),
        ],
    ),
    "rebound_at_last": Case(
        [SEARCH, block("answer = result"), "The answer is set."],
        [(1, "answer_rebound"), (1, "never_ready")],
        [SEARCH, block('answer["content"] = result\nanswer["ready"] = True')],
    ),
    "ready_first": Case(
        [block(f'{FIND}\nprint(result)\nanswer["ready"] = True'), block(ENDED)],
        [(0, EMPTY)],
        [block(f"{FIND}\nprint(result)"), block(ENDED)],
    ),
    "ready_alone": Case(
        [SEARCH, block('answer["ready"] = True'), block(ENDED)],
        [(1, EMPTY)],
        [SEARCH, block(ENDED)],
    ),
    "ready_left_behind": Case(
        [block(f'{FIND}\nif hits:\n    answer["ready"] = True')]
        + [block('answer["content"] = result')],
        [(0, EMPTY), (1, "ready_left_behind")],
        [block(f"{FIND}\nif hits:\n    pass"), block(ENDED)],
    ),
    "never_ready": Case(
        [SEARCH, block('answer["content"] = result'), "The answer is 41 and 42."],
        [(1, "never_ready")],
        [SEARCH, block(ENDED)],
    ),
    "said_not_to_be_ready": Case(
        [SEARCH, block('answer["content"] = result\nanswer["ready"] = False')],
        [(1, "never_ready")],
        [SEARCH, block(ENDED)],
    ),
}
CASES = [("final", name, case) for name, case in FINAL_CASES.items()]
CASES += [("answer", name, case) for name, case in ANSWER_CASES.items()]


@pytest.mark.real_sandbox
@pytest.mark.parametrize(("finish", "name", "case"), CASES, ids=[case[1] for case in CASES])
def test_a_mistake_is_mended(finish: str, name: str, case: Case, tmp_path: Path) -> None:
    _, trajectory = recorded(finish, case.said, tmp_path / "said.jsonl")
    repaired, result, reproduced = mended(trajectory, tmp_path / "mended.jsonl")
    fixes = [(fix.turn, fix.name) for fix in repaired.fixes]
    assert [fix for fix in fixes if fix[0] < len(case.said)] == case.fixes
    assert {name for _, name in fixes} == {name for _, name in case.fixes}
    assert [reply.text for reply in repaired.replies] == case.replies
    assert (result.answer.replace("\n", " and "), result.stop_reason) == (case.answer, "answered")
    assert reproduced
    again = repair(Trajectory.read(tmp_path / "mended.jsonl"))
    assert (again.fixes, again.dropped) == ((), "")


def test_every_fix_has_a_case() -> None:
    assert {fix for _, _, case in CASES for _, fix in case.fixes} == {*FIXES}


GOOD = {
    "final_text": ("final", [LOOK, "So it is clear.\n\nFINAL(three birds)"]),
    "final_brackets": ("final", [block("n = 2"), "FINAL(f(x) = (x + 1) * (2), that is linear)"]),
    "final_at_once": ("final", ["FINAL(3 birds)"]),
    "final_lines": ("final", [block("n = 2"), "  FINAL(first line\nsecond (line)\n)  "]),
    "final_word": ("final", [SEARCH, "FINAL(yes)"]),
    "final_marks": ("final", [SEARCH, "**FINAL(41 and 42)**."]),
    "final_quotes": ("final", [SEARCH, 'FINAL("41 and 42")']),
    "final_var": ("final", [SEARCH, "FINAL_VAR(result)"]),
    "final_var_quoted": ("final", [SEARCH, "Now:\nFINAL_VAR('result') at last"]),
    "final_var_part": ("final", [SEARCH, "FINAL_VAR(hits[0])"]),
    "final_var_twice": ("final", [SEARCH, "FINAL_VAR(hits)\nNo, rather:\nFINAL_VAR(result)"]),
    "final_talked_of": ("final", [f"{LOOK}\nLater I write FINAL_VAR(x).", "FINAL(41)"]),
    "final_after_prose": ("final", [SEARCH, "I wonder.", "FINAL(41)"]),
    "final_after_error": ("final", [block("hits = 1 / 0"), SEARCH, "FINAL_VAR(result)"]),
    "final_made_by_exec": ("final", [block("exec('odd = 3')"), "FINAL_VAR(odd)"]),
    "final_never": ("final", [LOOK]),
    "answer_over_turns": ("answer", [SEARCH, block('answer["content"] = 1'), block(ENDED)]),
    "answer_ready_later": (
        "answer",
        [SEARCH, block('answer["content"] = 1'), block('answer["ready"] = True')],
    ),
    "answer_dict": ("answer", [SEARCH, block("answer = {'content': 42, 'ready': True}")]),
    "answer_update": ("answer", [SEARCH, block("answer.update(content='3', ready=True)")]),
    "answer_order": ("answer", [LOOK, block('answer["ready"] = True\nanswer["content"] = 1')]),
    "answer_two_blocks": (
        "answer",
        [LOOK, block('answer["ready"] = True') + "\n" + block('answer["content"] = 1')],
    ),
    "answer_in_a_function": (
        "answer",
        [
            block("def f():\n    answer = 3\n    return answer\nprint(f())"),
            block(f"{FIND}\n{ENDED}"),
        ],
    ),
    "answer_never": ("answer", [LOOK]),
    "answer_went_on": (
        "answer",
        [block('answer["content"] = "half"'), *(block(f"print({n})") for n in range(9))],
    ),
}


@pytest.mark.real_sandbox
@pytest.mark.parametrize("name", GOOD)
def test_nothing_good_is_touched(name: str, tmp_path: Path) -> None:
    finish, replies = GOOD[name]
    before, trajectory = recorded(finish, replies, tmp_path / "said.jsonl")
    repaired, result, reproduced = mended(trajectory, tmp_path / "mended.jsonl")
    assert (repaired.fixes, repaired.dropped, repaired.left_out) == ((), "", 0)
    assert [reply.text for reply in repaired.replies] == [turn.reply for turn in trajectory.turns]
    assert reproduced
    assert (result.answer, result.turns) == (before.answer, before.turns)


DROPPED = {
    "ready_before_looking": ("answer", [block('answer["content"] = 41\nanswer["ready"] = True')]),
    "answer_rebound": ("answer", [block(f"{FIND}\nfor answer in hits: pass"), block(ENDED)]),
    "ready_without_content": ("answer", [block("answer.update(ready=True)"), LOOK]),
    "final_in_code": ("final", [block(f"{FIND}\nx = [FINAL(result)]"), "FINAL_VAR(result)"]),
}


@pytest.mark.real_sandbox
@pytest.mark.parametrize("rule", DROPPED)
def test_what_no_edit_mends_is_dropped(rule: str, tmp_path: Path) -> None:
    finish, replies = DROPPED[rule]
    _, trajectory = recorded(finish, replies, tmp_path / "said.jsonl")
    repaired = repair(trajectory)
    assert (repaired.dropped, repaired.fixes) == (rule, ())


@pytest.mark.real_sandbox
def test_sub_calls_are_not_made_again(tmp_path: Path) -> None:
    code = "parts = llm_query_batched(['one', 'two', 'one'])\nresult = ' and '.join(parts)"
    leaf = ScriptedLM(lambda messages: f"<{messages[-1]['content']}>")
    before, trajectory = recorded("final", [block(code), "FINAL(result)"], tmp_path / "a", leaf)
    repaired, result, reproduced = mended(trajectory, tmp_path / "b")
    assert reproduced and len(repaired.fixes) == 1
    assert result.answer == before.answer == "<one> and <two> and <one>"


@pytest.mark.real_sandbox
def test_a_mended_run_that_goes_another_way_is_told(tmp_path: Path) -> None:
    _, trajectory = recorded("final", [SEARCH, "FINAL(result)"], tmp_path / "a")
    repaired = repair(trajectory)
    more = replace(repaired, replies=(*repaired.replies, repaired.replies[-1]))
    assert not asyncio.run(rerun(trajectory, more, CONTEXT, tmp_path / "b"))[1]
    fewer = replace(repaired, replies=repaired.replies[:1])
    assert not asyncio.run(rerun(trajectory, fewer, CONTEXT, tmp_path / "c"))[1]
    trajectory.children["1"] = trajectory
    with pytest.raises(InputError, match="started runs"):
        asyncio.run(rerun(trajectory, repaired, CONTEXT, tmp_path / "d"))


@pytest.mark.real_sandbox
def test_the_teacher_calls_ready_alone_a_mistake_where_there_is_no_content(tmp_path: Path) -> None:
    calls = set()
    for seed in (95, 427, 871, 1117, 1789):  # the last three have rebound answer before
        teacher, path = ErringTeacher(seed, "answer"), tmp_path / f"{seed}"
        rlm = RLM(teacher, ScriptedLM(lambda _: "leaf"), card("answer"), journal=path)
        rlm.complete("What is the special magic number for a-key mentioned?", "for a-key is: 41")
        alone = [cell for cell in Trajectory.read(path).cells if cell["code"] == READY]
        calls |= {(cell["answer"] == "", cell["turn"] in teacher.planted) for cell in alone}
    assert calls == {(True, True), (False, False)}


@pytest.mark.real_sandbox
async def test_the_check_notices_a_repair_that_does_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nothing(trajectory: Trajectory) -> Repaired:
        return replace(repair(trajectory), replies=as_said(trajectory), fixes=(), dropped="")

    monkeypatch.setattr(check_repair, "repair", nothing)
    told, _ = await check_repair.check(12, tmp_path)
    assert told["repaired"] == 0
    assert told["missed"] + told["in_dropped_runs"] == sum(told["planted"].values()) > 0
    assert told["missed"] > 0 and told["where"]


def as_said(trajectory: Trajectory) -> tuple[Mended, ...]:
    return tuple(Mended(turn.reply, index) for index, turn in enumerate(trajectory.turns))


@pytest.mark.real_sandbox
@pytest.mark.slow
def test_what_an_erring_teacher_spoils_is_found_and_nothing_else() -> None:
    root = Path(__file__).parents[2]
    command = [sys.executable, "-m", "scripts.check_repair", "--attempts", "60"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    told = json.loads(done.stdout)
    assert done.returncode == 0, told
    assert told["attempts"] == 60
    assert (told["missed"], told["good_turns_touched"], told["other_score"]) == (0, 0, 0)
    assert told["repaired"] + told["in_dropped_runs"] == sum(told["planted"].values()) > 20
    assert told["kept"] + sum(told["dropped"].values()) == 60
