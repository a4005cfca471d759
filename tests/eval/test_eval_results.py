"""eval/results.py: what is owed after kills, failures and changes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from eval.grid import Grid, Job
from eval.results import Results, make_row, read_rows, scrub
from rlm_executor.errors import InputError
from tests.eval.fakes import small


def jobs(mark: str = "a") -> list[Job]:
    return list(Grid.build(small()).jobs({"direct": mark, "floor": mark}))


def row(job: Job, error: str | None = None) -> dict[str, object]:
    return make_row(job, score=1.0, answer="x", error=error)


def test_a_row_is_owed_until_a_good_one_is_there(tmp_path: Path) -> None:
    work = jobs()
    with Results(tmp_path) as results:
        assert results.owed(work) == work
        results.append(row(work[0]))
        results.append(row(work[1], error="down"))
        assert results.owed(work) == work[1:]
        assert [r["error"] for r in read_rows(results.path)] == [None, "down"]
        results.append(row(work[1]))
        assert results.owed(work) == work[2:]
        assert [r["error"] for r in read_rows(results.path)] == [None, None]
        assert len(read_rows(tmp_path / "superseded.jsonl")) == 1


def test_a_torn_line_is_owed_again(tmp_path: Path) -> None:
    work = jobs()
    with Results(tmp_path) as results:
        results.append(row(work[0]))
        results.append(row(work[1]))
        data = results.path.read_bytes()
        results.path.write_bytes(data[:-20])
        assert results.owed(work) == work[1:]
        results.append(row(work[1]))
        assert len(read_rows(results.path)) == 2


def test_rows_of_another_configuration_are_kept_apart(tmp_path: Path) -> None:
    with Results(tmp_path) as results:
        for job in jobs("old"):
            results.append(row(job))
        assert len(results.owed(jobs("new"))) == len(jobs())
        assert read_rows(results.path) == []
        assert len(read_rows(tmp_path / "superseded.jsonl")) == len(jobs())


def test_one_runner_at_a_time(tmp_path: Path) -> None:
    with Results(tmp_path), pytest.raises(InputError, match="another evaluation"):
        Results(tmp_path).__enter__()
    with Results(tmp_path):
        pass


def test_a_long_answer_is_cut_and_hashed() -> None:
    made = make_row(jobs()[0], score=0.5, answer="y" * 5000)
    assert len(made["answer"]) == 2000 and made["answer_chars"] == 5000
    assert len(made["answer_sha256"]) == 64
    json.dumps(made)


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ('File "/home/ann/x/lib/a.py", line 3', 'File "a.py", line 3'),
        ("at http://gpu7.example.org:8000/v1: HTTP 500", "at <url> HTTP 500"),
        ("connect 127.0.0.1:8000 failed", "connect <url> failed"),
        ("and/or </b> 1/2 a / b", "and/or </b> 1/2 a / b"),
    ],
)
def test_scrub_takes_paths_and_addresses_away(text: str, clean: str) -> None:
    assert scrub(text) == clean
