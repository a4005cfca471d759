"""The rules, one by one, on journals made for them; and the two presets."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from data_gen.repair import Repaired
from data_gen.replies import Fix, Mended
from data_gen.rules import ATTEMPT_RULES, PRESETS, FilterConfig, Verdict, judge, select
from rlm_executor import Trajectory

CONTEXT = "The old bridge lay still.\nA quiet street stood close.\nThe morning market changed.\n"
LINES = CONTEXT.splitlines()
ROW = {"task_id": "t", "family": "niah", "length": 1024, "score": 1.0, "turns": 2} | {
    "stop_reason": "answered"
}
OFF = FilterConfig()


def trajectory(
    *, replies: int = 2, failed: int | None = None, prompts: tuple[str, ...] = (), code: str = ""
) -> Trajectory:
    """A run of some replies of ten characters; the sub-calls are those of its first cell."""
    rows: list[dict[str, Any]] = [{"type": "run"}]
    for index in range(replies):
        kept = {"keep": 2 * index, "add": [{"role": "user", "content": "12345678"}]}
        rows.append(
            {"type": "turn", "turn": index, "messages": kept, "landing": "", "blocks": 1}
            | {"reply": f"reply {index:4}", "finish_reason": "stop"}
        )
        for prompt in prompts if index == 0 else ():
            call = {"type": "call", "cell": 1, "prompt": prompt, "prompt_chars": len(prompt)}
            rows.append(call | {"reply": "the reply of a model"})
        status = "error" if index == failed else "ok"
        cell = {"type": "cell", "turn": index, "cell": index + 1, "code": code, "status": status}
        rows.append(cell)
    return Trajectory(rows)


def test_a_reply_that_max_tokens_ended_is_no_target() -> None:
    run = trajectory(replies=3)
    run.turn_rows[1]["finish_reason"] = "length"
    verdict = judge(ROW, run, FilterConfig(no_cut_replies=True))
    assert verdict.targets == (0, 2)
    assert [(drop.rule, drop.turn) for drop in verdict.turns_dropped] == [("cut_reply", 1)]
    assert judge(ROW, run, FilterConfig()).targets == (0, 1, 2)


def with_a_run_below(**how: Any) -> Trajectory:
    """A run of two replies whose first cell has started another, made as ``how`` says."""
    rows = trajectory()
    below = trajectory(**how)
    events = [below.run, *below.turn_rows, *below.cells]
    events.append({"type": "end", "stop_reason": "answered"})
    events[0] = {"type": "run", "question": "Which?"}
    own = [rows.run, *rows.turn_rows, *rows.cells]
    return Trajectory([*own, *({**event, "node": "1"} for event in events)])


def test_turns_of_a_run_below_obey_the_rules_of_turns() -> None:
    run = with_a_run_below(replies=3, failed=1)
    assert judge(ROW, run, OFF).below == (("1", (0, 1, 2)),)
    verdict = judge(ROW, run, FilterConfig(no_error_turns=True))
    assert verdict.targets == (0, 1) and verdict.below == (("1", (0, 2)),)
    assert [drop.rule for drop in verdict.turns_dropped] == ["error_turn"]
    run.children["1"].turn_rows[2]["finish_reason"] = "length"
    assert judge(ROW, run, FilterConfig(no_cut_replies=True)).below == (("1", (0, 1)),)
    few = FilterConfig(max_turn_tokens=3)  # as many messages as a turn of the root
    assert judge(ROW, run, few, count=len).below == (("1", (0,)),)
    assert verdict.rows == 4 and Verdict.read(json.loads(json.dumps(verdict.told()))) == verdict


def rule_of(config: FilterConfig, **change: Any) -> str:
    verdict = judge({**ROW, **change}, trajectory(), config)
    assert (verdict.copies == 0) == (verdict.dropped is not None)
    return verdict.dropped.rule if verdict.dropped else ""


def test_all_rules_off_keep_everything() -> None:
    assert rule_of(OFF, score=0, turns=1, stop_reason="max_turns") == ""
    assert judge(ROW, trajectory(failed=1), OFF).targets == (0, 1)


@pytest.mark.parametrize(
    ("config", "bad", "good", "rule"),
    [
        ({"drop_zero": True}, {"score": 0.0}, {"score": 0.01}, "score_zero"),
        ({"min_turns": 2}, {"turns": 1}, {"turns": 2}, "single_turn"),
        ({"min_score": 0.5}, {"score": 0.4}, {"score": 0.5}, "below_min_score"),
        ({"finished": True}, {"stop_reason": "max_turns"}, {}, "unfinished"),
    ],
)
def test_rules_of_runs(
    config: dict[str, Any], bad: dict[str, Any], good: dict[str, Any], rule: str
) -> None:
    assert rule_of(FilterConfig(**config), **bad) == rule
    assert rule_of(FilterConfig(**config), **good) == ""
    assert rule in ATTEMPT_RULES


def test_repair_decides_first() -> None:
    as_said = (Mended("x", 0),)
    config = FilterConfig(repair=True, drop_zero=True)
    row = {**ROW, "score": 0.0}
    bad = judge(row, trajectory(), config, repaired=Repaired(as_said, dropped="final_in_code"))
    assert bad.dropped is not None and bad.dropped.rule == "final_in_code"
    fixes = (Fix(1, "final_of_variable"),)
    mended = Repaired(as_said, fixes, left_out=2)
    other = judge(ROW, trajectory(), config, repaired=mended, reproduced=False)
    assert other.dropped is not None and other.dropped.rule == "not_reproduced"
    kept = judge(ROW, trajectory(), config, repaired=mended)
    assert (kept.fixes, kept.left_out, kept.dropped) == (fixes, 2, None)


def test_turns_beyond_the_window_are_no_targets() -> None:
    # Turn 0 has 8 + 10 characters, turn 1 has 8 + 10 + 8 + 10.
    for most, targets in ((17, ()), (18, (0,)), (35, (0,)), (36, (0, 1))):
        verdict = judge(ROW, trajectory(), FilterConfig(max_turn_chars=most))
        assert verdict.targets == targets
        assert len(verdict.turns_dropped) == 2 - len(targets)
        assert (verdict.dropped is None) == bool(targets)
    tokens = FilterConfig(max_turn_tokens=4)
    assert judge(ROW, trajectory(), tokens).dropped is not None  # 16 characters
    assert judge(ROW, trajectory(), tokens, count=lambda messages: len(messages)).targets == (0, 1)
    assert judge(ROW, trajectory(), tokens, count=lambda messages: 5).targets == ()
    both = FilterConfig(max_turn_tokens=4, max_turn_chars=18)
    assert judge(ROW, trajectory(), both).targets == (0,)


def test_a_turn_with_an_error_is_no_target() -> None:
    verdict = judge(ROW, trajectory(replies=3, failed=1), FilterConfig(no_error_turns=True))
    assert verdict.targets == (0, 2)
    assert [(drop.rule, drop.turn) for drop in verdict.turns_dropped] == [("error_turn", 1)]
    alone = judge(ROW, trajectory(replies=1, failed=0), FilterConfig(no_error_turns=True))
    assert alone.dropped is not None
    assert (alone.dropped.rule, alone.dropped.excerpt) == ("no_target", "reply    0")


CODE = "for chunk in chunks: llm_query(f'Label: {chunk}')"
WHOLE = tuple(f"Label the line.\n\n{line}" for line in LINES)


@pytest.mark.parametrize(
    ("prompts", "context", "found"),
    [
        (WHOLE, CONTEXT, ""),
        (("Label: {chunk}",), CONTEXT, "Label: {chunk}"),
        (("Label: {chunk}",), None, "Label: {chunk}"),
        (("Label: {chunk[:9]}",), None, "Label: {chunk[:9]}"),
        (("Label: {chunk}",), CONTEXT + "{chunk}", ""),  # the text's own
        (("Answer as {label: text}.",), None, ""),  # no name of the program
        ((*WHOLE, "Label the line.\n\n"), None, ""),
        ((*WHOLE, "Label the line.\n\n"), CONTEXT, "Label the line.\n\n"),
        ((*WHOLE, "Label the line.\n\nnobody's"), CONTEXT, "Label the line.\n\nnobody's"),
        ((*WHOLE, "Label the line.\n\nthe reply of a model"), CONTEXT, ""),
        ((*WHOLE, "Which label is the commonest?"), CONTEXT, ""),  # of another kind
        (("Which of these is a place?\n" + LINES[0], "Which of these is a place?\n"), CONTEXT)
        + ("Which of these is a place?\n",),
        (("Which of these is a place?\nnone", "Which of these is a place?\n"), CONTEXT, ""),
        (("Say what this line is about: " + LINES[1], "Say what this line is about: x"), CONTEXT)
        + ("Say what this line is about: x",),
        (("Label the line:", "Label the line:"), CONTEXT, "Label the line:"),  # all have lost it
        (("Label the line:", "Label the line:"), None, ""),
    ],
)
def test_sub_calls_without_their_chunk(
    prompts: tuple[str, ...], context: str | None, found: str
) -> None:
    run = trajectory(prompts=prompts, code=CODE)
    verdict = judge(ROW, run, FilterConfig(no_lost_chunks=True), context=context)
    assert verdict.targets == ((1,) if found else (0, 1))
    lost = [(drop.rule, drop.turn, drop.excerpt) for drop in verdict.turns_dropped]
    assert lost == ([("lost_chunk", 0, found)] if found else [])
    assert judge(ROW, run, OFF, context=context).targets == (0, 1)


@given(st.lists(st.sampled_from(LINES), min_size=1), st.text("abc: \n", max_size=20))
@settings(deadline=None, max_examples=60)
def test_prompts_with_their_piece_are_never_lost(lines: list[str], wording: str) -> None:
    run = trajectory(prompts=tuple(f"{wording}{line}" for line in lines), code=CODE)
    verdict = judge(ROW, run, FilterConfig(no_lost_chunks=True), context=CONTEXT)
    assert verdict.targets == (0, 1)


def verdict(family: str = "niah", program: str = "p", length: int = 1024) -> Verdict:
    return Verdict("t", family, length, program, (0, 1))


def rules(verdicts: list[Verdict]) -> list[str]:
    return [one.dropped.rule if one.dropped else "" for one in verdicts]


def test_equal_programs_beyond_the_first_k_are_dropped() -> None:
    attempts = [verdict(), verdict(program="q"), verdict(), verdict(), verdict("pairs")]
    assert rules(select(attempts, FilterConfig(keep_equal=2))) == ["", "", "", "equal_program", ""]


def test_caps_count_what_is_kept() -> None:
    attempts = [verdict(), verdict(length=2048), verdict(length=1500), verdict("pairs")]
    told = rules(select(attempts, FilterConfig(length_cap=1)))
    assert told == ["", "", "over_length_cap", "over_length_cap"]
    told = rules(select(attempts, FilterConfig(family_cap=2)))
    assert told == ["", "", "over_family_cap", ""]
    gone = judge({**ROW, "score": 0}, trajectory(), FilterConfig(drop_zero=True))
    assert rules(select([gone, verdict()], FilterConfig(family_cap=1))) == ["score_zero", ""]


@given(
    st.lists(st.sampled_from(["niah", "oolong", "pairs"]), max_size=30),
    st.integers(1, 12),
    st.integers(1, 12),
)
@settings(deadline=None, max_examples=60)
def test_families_stay_between_floor_and_cap(families: list[str], floor: int, cap: int) -> None:
    config = FilterConfig(family_floor=floor, family_cap=cap)
    chosen = select([verdict(family, str(i)) for i, family in enumerate(families)], config)
    rows: Counter[str] = Counter()
    for one in chosen:
        rows[one.family] += one.copies
    for family in set(families):
        assert rows[family] == max(floor, min(cap, families.count(family)))
        copies = [one.copies for one in chosen if one.family == family and not one.dropped]
        assert max(copies) - min(copies) <= 1


def test_presets_can_be_written_as_yaml_and_read_again() -> None:
    for preset in PRESETS.values():
        text = yaml.safe_dump(preset.model_dump(mode="json"))
        assert FilterConfig.model_validate(yaml.safe_load(text)) == preset
    paper = PRESETS["paper"].model_dump(exclude_defaults=True)
    assert paper == {"repair": True, "drop_zero": True, "min_turns": 2, "max_turn_chars": 100_000}
    with pytest.raises(ValidationError):
        FilterConfig(min_scores=1)  # type: ignore[call-arg]


def test_the_papers_rules_keep_a_poor_run_and_ours_do_not() -> None:
    poor = {**ROW, "score": 0.3, "stop_reason": "max_turns"}
    assert judge(poor, trajectory(), PRESETS["paper"]).dropped is None
    told = judge(poor, trajectory(), PRESETS["ours"]).dropped
    assert told is not None and told.rule == "below_min_score"
