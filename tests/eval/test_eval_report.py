"""eval/report.py on made-up rows: numbers, INCOMPLETE, and nothing of this machine in the page."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from eval import report
from eval.page import page
from eval.summary import summarise
from rlm_executor.errors import InputError
from rlm_executor.files import append_jsonl, write_json_atomic

ARMS = ("direct", "rlm-base", "rlm-sft", "expert", "floor")
CELLS = [("niah", 2**11), ("niah", 2**15), ("niah", 2**21), ("oolong", 2**11), ("pairs", 2**11)]
SCORES = {"direct": 0.0, "rlm-base": 0.0, "rlm-sft": 1.0, "expert": 1.0, "floor": 0.0}


def made_run(run: Path, *, skip: int = 0, fail: int = 0, purpose: str = "recorded") -> Path:
    """A run with 12 tasks a cell in 3 windows; ``skip`` rows left out and ``fail`` failed ones."""
    cells, rows = [], []
    for arm in ARMS:
        for family, length in CELLS:
            tasks = {}
            for index in range(12):
                task = f"{family}-{length}-{index}"
                tasks[task] = "k"
                value = SCORES[arm]
                if family == "pairs" and arm in ("rlm-sft", "expert", "floor"):
                    value = {"rlm-sft": 0.8, "expert": 0.85, "floor": 0.3}[arm] + index / 100
                rows.append(row(arm, family, length, task, f"{family}-{length}-{index % 3}", value))
            cells.append({"arm": arm, "family": family, "length": length, "n": 12, "tasks": tasks})
    config = {"title": "Made up", "purpose": purpose, "window": 4096, "concurrency": 8}
    write_json_atomic(run / "eval" / "plan.json", {"config": config, "cells": cells})
    stale = dict(rows[0], key="old", score=1.0)
    append_jsonl(run / "eval" / "results.jsonl", stale)
    for index, made in enumerate(rows):
        if index < skip:
            continue
        if index < skip + fail:
            made |= {"error": "ServerUnavailable: at /srv/models/x/base", "score": 0.0}
        append_jsonl(run / "eval" / "results.jsonl", made)
    return run


def row(arm: str, family: str, length: int, task: str, window: str, score: float) -> dict[str, Any]:
    return {
        "arm": arm,
        "family": family,
        "length": length,
        "task_id": task,
        "window_id": window,
        "key": "k",
        "score": score,
        "answer": "<script>alert('/home/ann/secret/file.txt')</script>",
        "answer_chars": 40,
        "error": None,
        "stop_reason": "answered",
        "turns": 3,
        "error_cells": 0,
        "tokens_root": 1000,
        "tokens_sub": 200,
        "calls": 5,
        "cached_calls": 1,
        "seconds": 1.5,
        "usage": {"root": {"prompt_tokens": 900}, "sub": {"prompt_tokens": 150}},
        "shown_share": 0.25 if arm == "direct" else None,
        "prompt_bytes": 2700 if arm == "direct" else None,
        "journal": f"{arm}/{task}.jsonl" if arm.startswith("rlm") else None,
    }


def journal(run: Path, name: str) -> None:
    path = run / "eval" / "journals" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    ask = [{"role": "system", "content": "S"}, {"role": "user", "content": "Q at http://h:1/v1"}]
    turn = {
        "type": "turn",
        "turn": 1,
        "messages": {"keep": 0, "add": ask},
        "blocks": [],
        "landing": False,
    }
    append_jsonl(path, {"type": "run"})
    append_jsonl(path, turn | {"reply": "print(1) # </pre><b> in /usr/lib/python3/x.py"})
    append_jsonl(path, {"type": "end"})


def test_a_complete_run_gives_all_files_and_exit_0(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = made_run(tmp_path / "runs" / "x")
    assert report.main(["--run", str(run)]) == 0
    entries = json.loads((run / "report.json").read_text())
    assert len(entries) == len(ARMS) * len(CELLS)
    assert list(entries[0]) == (
        "arm family length n score ci_low ci_high tokens_root tokens_sub calls seconds".split()
    )
    assert entries[0] == {
        "arm": "direct",
        "family": "niah",
        "length": 2048,
        "n": 12,
        "score": 0.0,
        "ci_low": 0.0,
        "ci_high": 0.2425,
        "tokens_root": 1000.0,
        "tokens_sub": 200.0,
        "calls": 5.0,
        "seconds": 1.5,
    }
    assert json.loads((run / "report_status.json").read_text())["status"] == "complete"
    assert (run / "score_vs_length.png").read_bytes().startswith(b"\x89PNG")
    out = capsys.readouterr().out
    assert "INCOMPLETE" not in out and "rlm-sft" in out
    assert "INCOMPLETE" not in (run / "report.html").read_text()


@pytest.mark.parametrize(("skip", "fail"), [(1, 0), (0, 2)])
def test_a_short_cell_is_said_everywhere_and_exits_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], skip: int, fail: int
) -> None:
    run = made_run(tmp_path, skip=skip, fail=fail)
    assert report.main(["--run", str(run)]) == 1
    assert capsys.readouterr().out.startswith("INCOMPLETE")
    status = json.loads((run / "report_status.json").read_text())
    assert status["status"] == "INCOMPLETE"
    assert status["incomplete"][0].startswith(f"direct niah 2K: {12 - skip - fail} of 12 measured")
    text = (run / "report.html").read_text()
    assert "INCOMPLETE" in text and text.index("INCOMPLETE") < text.index("<table>")
    first = json.loads((run / "report.json").read_text())[0]
    assert first["n"] == 12 - skip, "failed runs stay in the denominator"


def test_a_cell_without_rows_is_null_not_zero(tmp_path: Path) -> None:
    summary = summarise(made_run(tmp_path, skip=12))
    first = report.entry(summary.cells[0])
    assert first["n"] == 0 and first["score"] is None and first["tokens_root"] is None
    assert summary.incomplete == ["direct niah 2K: 0 of 12 measured"]


def test_claims_follow_the_numbers(tmp_path: Path) -> None:
    claims = {claim.text: claim for claim in summarise(made_run(tmp_path)).claims()}
    assert claims["rlm-sft finds the needles, all lengths"].verdict == "holds"
    assert claims["rlm-sft minus expert on oolong, same leaves"].verdict == "holds"
    pairs = claims["rlm-sft minus expert on pairs, same leaves"]
    assert pairs.value is not None and pairs.value.mean == pytest.approx(-0.05)
    assert claims["rlm-base minus floor, all families"].verdict == "holds"
    far = claims["rlm-sft minus direct on niah past 4,096 tokens"]
    assert far.value is not None and far.value.n == 24 and far.verdict == "holds"


def test_the_page_holds_nothing_of_this_machine(tmp_path: Path) -> None:
    run = made_run(tmp_path)
    for family, length in CELLS:
        for index in range(12):
            journal(run, f"rlm-sft/{family}-{length}-{index}.jsonl")
    assert report.main(["--run", str(run)]) == 0
    text = (run / "report.html").read_text()
    assert "print(1)" in text, "a run is shown in full"
    assert "<script" not in text and "</pre><b>" not in text
    visible = re.sub(r"data:image/png;base64,[^\"]*", "", text)
    for leak in (str(tmp_path), "/home/", "/usr/", "/srv/", "http://", "127.0.0.1"):
        assert leak not in visible, leak
    for name in ("report.json", "report_status.json", "report.html"):
        assert str(tmp_path) not in (run / name).read_text()


def test_a_ceiling_on_the_floor_proves_nothing(tmp_path: Path, monkeypatch: Any) -> None:
    for arm in ARMS:
        monkeypatch.setitem(SCORES, arm, 0.0)
    claims = {claim.text: claim.verdict for claim in summarise(made_run(tmp_path)).claims()}
    assert claims["rlm-sft minus expert on oolong, same leaves"].startswith("says nothing")
    assert claims["rlm-sft finds the needles, all lengths"] == "fails"
    flat = next(text for text in claims if "does not fall" in text)
    assert claims[flat].startswith("says nothing")


def test_a_smoke_run_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    summary = summarise(made_run(tmp_path, purpose="smoke"))
    report.print_report(Console(), summary)
    assert "not to be quoted" in capsys.readouterr().out
    assert "not to be quoted" in page(summary, b"", tmp_path)


def test_no_evaluation_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"eval\.run"):
        report.main(["--run", str(tmp_path)])
