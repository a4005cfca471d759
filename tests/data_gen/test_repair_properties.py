"""What holds of every repair, on many journals made up without a run; and the edits below it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data_gen.programs import parse
from data_gen.repair import Fix, repair
from data_gen.replies import Source, Unmendable, swap_block
from rlm_executor import RLMCard, Trajectory
from tests.data_gen.erring_teacher import FINAL_WORDS, block

WORDS = st.text("abcdeXYZ 0123456789.,:;-()'\"äß鳥{}[]=+*", min_size=1, max_size=40)
NAME = st.sampled_from(["result", "hits", "answer", "n"])
CARDS = {
    "final": json.loads(RLMCard(dialect=FINAL_WORDS).model_dump_json()),
    "answer": json.loads(RLMCard().model_dump_json()),
}
PATIENT = settings(
    max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)  # the machine may be training something at the same time


def journal(finish: str, replies: list[str], stop: str, cells: list[dict[str, Any]]) -> Trajectory:
    run = {"type": "run", "card": CARDS[finish], "models": ["a", "b"]}
    rows: list[dict[str, Any]] = [run]
    for index, reply in enumerate(replies):
        turn = {"messages": {"keep": 0, "add": []}, "landing": "", "blocks": 0}
        turn |= {"type": "turn", "turn": index, "reply": reply, "finish_reason": "stop"}
        rows += [turn, *({"type": "cell", **cell} for cell in cells if cell["turn"] == index)]
    return Trajectory([*rows, {"type": "end", "stop_reason": stop}])


def cell(turn: int, code: str, **facts: Any) -> dict[str, Any]:
    told = {"turn": turn, "cell": turn, "code": code, "status": "ok", "ready": False}
    return told | {"answer": "", "moved": False} | facts


@given(NAME, WORDS, WORDS)
@PATIENT
def test_a_well_formed_final_is_never_touched(name: str, text: str, prose: str) -> None:
    code = f"{name} = context[:3]"
    for last in (f"FINAL_VAR({name})", f"FINAL(the {text.replace(name, '')})"):
        replies = [block(code, prose), last]
        repaired = repair(journal("final", replies, "answered", [cell(0, code)]))
        assert [reply.text for reply in repaired.replies] == replies
        assert repaired.fixes == ()


@given(NAME, WORDS, st.booleans())
@PATIENT
def test_a_well_formed_answer_is_never_touched(name: str, text: str, later: bool) -> None:
    name = "found" if name == "answer" else name
    content, ready = f'answer["content"] = {name} + {text!r}', 'answer["ready"] = True'
    turns = [f"{name} = context[:3]"] + ([content, ready] if later else [f"{content}\n{ready}"])
    cells = [
        cell(index, code, answer=("One" + text) * (index > 0)) for index, code in enumerate(turns)
    ]
    cells[-1]["ready"] = True
    replies = [block(code, text.replace("`", "")) for code in turns]
    repaired = repair(journal("answer", replies, "answered", cells))
    assert [reply.text for reply in repaired.replies] == replies
    assert (repaired.fixes, repaired.dropped) == ((), "")


@given(NAME, WORDS)
@PATIENT
def test_repair_is_done_after_one_time(name: str, prose: str) -> None:
    code = f"{name} = context[:3]"
    replies = [block(code), f"{prose}\n\nFINAL({name})"]
    repaired = repair(journal("final", replies, "answered", [cell(0, code)]))
    assert repaired.fixes == (Fix(1, "final_of_variable"),)
    after = [reply.text for reply in repaired.replies]
    assert after[1].endswith(f"FINAL_VAR({name})") and prose.strip() in after[1]
    assert repair(journal("final", after, "answered", [cell(0, code)])).fixes == ()


@given(st.lists(WORDS, max_size=4), st.sampled_from(["final", "answer"]), st.booleans())
@PATIENT
def test_any_replies_can_be_looked_at(texts: list[str], finish: str, answered: bool) -> None:
    starts = ["FINAL(", "FINAL_VAR(", "```repl\n", "```\nFINAL(", "answer = "]
    replies = [start + text + ")\n```" for start, text in zip(starts, texts, strict=False)]
    repaired = repair(journal(finish, replies, "answered" if answered else "max_turns", []))
    assert all(reply.turn < len(replies) for reply in repaired.replies)


@given(WORDS, WORDS)
@PATIENT
def test_edits_keep_all_else(before: str, after: str) -> None:
    code = f"a = {before!r}; b = 1  # {after}\nif a:\n    FINAL(a)\nc = {after!r}"
    tree = parse(code)
    assert tree is not None
    source = Source(code)
    source.swap(tree.body[2].body[0], "pass")  # type: ignore[attr-defined]
    source.cut(tree.body[3])
    assert source.edited() == f"a = {before!r}; b = 1  # {after}\nif a:\n    pass\n"


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_lines_end_where_python_ends_them(end: str) -> None:
    code = end.join(["if a:", "    FINAL(a)", "c = 1"])
    tree = parse(code)
    assert tree is not None
    source = Source(code)
    source.swap(tree.body[0].body[0], "pass")  # type: ignore[attr-defined]
    assert source.edited() == end.join(["if a:", "    pass", "c = 1"])


def test_a_block_is_swapped_where_it_stands_in_its_fence() -> None:
    text = "I run print(1) now.\n```repl\nprint(1)\n```\nDone."
    assert swap_block(text, "print(1)", "x") == text.replace("\nprint(1)", "\nx")
    assert swap_block(text, "print(1)", "") == "I run print(1) now.\nDone."
    with pytest.raises(Unmendable, match="code_not_found"):
        swap_block("no fence: x", "x", "y")
