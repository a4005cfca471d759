"""The funnel: its counts add up, examples are bounded, and the table tells the same."""

from __future__ import annotations

import json
from io import StringIO
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from data_gen.funnel import Funnel
from data_gen.replies import Fix
from data_gen.rules import ATTEMPT_RULES, TURN_RULES, Dropped, Verdict
from rlm_executor.files import write_json_atomic


def kept(family: str, *turns: Dropped, fixes: tuple[Fix, ...] = (), copies: int = 1) -> Verdict:
    return Verdict("k", family, 1024, "p", (0, 1), None, turns, fixes, len(fixes), copies)


def lost(family: str, rule: str, turn: int | None = None) -> Verdict:
    return Verdict("d", family, 1024, "q", dropped=Dropped(rule, turn, "an excerpt"), copies=0)


ATTEMPTS = [
    kept("niah", Dropped("error_turn", 1, "reply"), fixes=(Fix(1, "final_in_code"),)),
    kept("niah", copies=2),
    kept("pairs"),
    lost("niah", "score_zero"),
    lost("niah", "equal_program"),
    *[lost("pairs", "score_zero")] * 5,
]


def test_counts_of_all_and_of_families(tmp_path: Path) -> None:
    write_json_atomic(tmp_path / "funnel.json", Funnel(ATTEMPTS).told())
    told = json.loads((tmp_path / "funnel.json").read_text())
    assert (told["attempts"], told["kept"], told["copies"], told["turns"]) == (10, 3, 4, 8)
    assert told["dropped"] == {"score_zero": 6, "equal_program": 1}
    assert told["turns_dropped"] == {"error_turn": 1, "left_out_by_repair": 1}
    assert told["repaired"] == {"final_in_code": 1}
    assert told["by_family"]["pairs"] == {
        "attempts": 6, "kept": 1, "copies": 1, "turns": 2,
        "dropped": {"score_zero": 5}, "turns_dropped": {}, "repaired": {},
    }  # fmt: skip
    assert told["diversity"]["programs"] == 3
    assert told["diversity"]["distinct"] == 1


def test_examples_are_bounded_and_say_where() -> None:
    shown = Funnel(ATTEMPTS, examples=2).told()["examples"]
    assert [len(shown[rule]) for rule in ("score_zero", "equal_program", "error_turn")] == [2, 1, 1]
    assert shown["error_turn"] == [{"task_id": "k", "turn": 1, "excerpt": "reply"}]
    assert shown["score_zero"][0] == {"task_id": "d", "turn": None, "excerpt": "an excerpt"}
    assert Funnel(ATTEMPTS, examples=0).told()["examples"]["score_zero"] == []


def test_the_table_goes_down_rule_by_rule() -> None:
    out = StringIO()
    Console(file=out, width=120).print(Funnel(ATTEMPTS).table())
    lines = [line.replace("│", " ").split() for line in out.getvalue().splitlines()]
    assert ["attempts", "10", "4", "6"] in lines
    assert ["after", "score_zero", "4", "(-6)", "3", "(-1)", "1", "(-5)"] in lines
    assert ["after", "equal_program", "3", "(-1)", "2", "(-1)", "1"] in lines
    assert ["kept", "3", "2", "1"] in lines
    assert ["repaired:", "final_in_code", "1", "1", "0"] in lines


def test_nothing_at_all() -> None:
    told = Funnel([]).told()
    assert (told["attempts"], told["kept"], told["by_family"]) == (0, 0, {})
    assert Funnel([]).table().row_count > 0


RULES = st.sampled_from((*ATTEMPT_RULES, ""))


@given(st.lists(st.tuples(st.sampled_from("abc"), RULES, st.sampled_from(TURN_RULES)), max_size=40))
@settings(deadline=None, max_examples=60)
def test_every_attempt_is_dropped_or_kept(attempts: list[tuple[str, str, str]]) -> None:
    verdicts = [
        lost(family, rule) if rule else kept(family, Dropped(turn, 0, ""))
        for family, rule, turn in attempts
    ]
    told = Funnel(verdicts).told()
    for one in (told, *told["by_family"].values()):
        assert one["attempts"] == one["kept"] + sum(one["dropped"].values())
        assert sum(one["turns_dropped"].values()) == one["kept"]
    assert told["kept"] == sum(one["kept"] for one in told["by_family"].values())
