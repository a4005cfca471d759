"""The rows of an evaluation: ``DIR/eval/results.jsonl``, one line an (arm, task), append-only.

    with Results(run / "eval") as results:     # one runner at a time in a directory
        owed = results.owed(jobs)              # rows with the same key are never computed twice
        results.append(row)

A row counts for a job when its key is the job's and it carries no error. A torn last line is
owed again, and so is a row with an error; it stays until a good one replaces it. Replaced rows,
and rows that another configuration made, are moved to ``superseded.jsonl``, so that a finished
file holds each (arm, task) once.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

from eval.grid import Job
from rlm_executor.errors import InputError
from rlm_executor.files import append_jsonl, read_jsonl, scrub, sha256_text, write_text_atomic

ANSWER_CHARS = 2_000
Row = dict[str, Any]


class Results:
    """The results file of one evaluation directory, held by one runner at a time."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / "results.jsonl"
        self._lock: IO[str] | None = None

    def __enter__(self) -> Results:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = (self.folder / ".lock").open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._lock.close()
            raise InputError(
                f"another evaluation is running in {self.folder}; wait for it or stop it"
            ) from None
        return self

    def __exit__(self, *_: object) -> None:
        if self._lock is not None:
            self._lock.close()

    def tidy(self, jobs: Sequence[Job]) -> dict[str, Row]:
        """One row a job name, the good one before a failed one; all others are moved away."""
        best: dict[str, Row] = {}
        superseded: list[Row] = []
        for row in read_jsonl(self.path, repair=True):
            name = row_name(row)
            if name in best and (best[name]["error"] is None or row["error"] is not None):
                superseded.append(row)
                continue
            if name in best:
                superseded.append(best[name])
            best[name] = row
        wanted = {job.name: job.key for job in jobs}
        stale = [name for name, row in best.items() if wanted.get(name) != row["key"]]
        superseded += [best.pop(name) for name in stale]
        if superseded:
            # First copied, then taken out: a kill in between copies them once more, loses none.
            for row in superseded:
                append_jsonl(self.folder / "superseded.jsonl", row)
            self._rewrite(list(best.values()))
        return best

    def owed(self, jobs: Sequence[Job]) -> list[Job]:
        """The jobs without a good row, after tidying the file."""
        best = self.tidy(jobs)
        return [job for job in jobs if job.name not in best or best[job.name]["error"] is not None]

    def append(self, row: Row) -> None:
        """Add one row in a single write."""
        append_jsonl(self.path, row)

    def _rewrite(self, rows: list[Row]) -> None:
        staging = self.folder / f".results.{os.getpid()}.partial"
        staging.unlink(missing_ok=True)
        write_text_atomic(staging, "")
        for row in rows:
            append_jsonl(staging, row)
        os.replace(staging, self.path)


def read_rows(path: Path) -> list[Row]:
    """The complete rows of a results file; none where there is no file yet."""
    return read_jsonl(path)


def row_name(row: Row) -> str:
    """The ``Job.name`` that a row belongs to."""
    return f"{row['arm']}/{row['task_id']}"


def make_row(
    job: Job,
    *,
    score: float,
    answer: str,
    error: str | None = None,
    **details: Any,
) -> Row:
    """One line of the file; ``error`` is set where nothing was measured."""
    return {
        "arm": job.arm.name,
        "family": job.cell.family,
        "length": job.cell.length,
        "task_id": job.task.id,
        "window_id": job.window.id,
        "key": job.key,
        "score": score,
        "answer": answer[:ANSWER_CHARS],
        "answer_chars": len(answer),
        "answer_sha256": sha256_text(answer),
        "error": None if error is None else scrub(error),
        **details,
    }
