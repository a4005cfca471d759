"""Runs the owed jobs of a grid with bounded concurrency; safe to interrupt at any moment.

    await run_jobs(jobs, solvers, results, contexts, config)

One row a job is appended as soon as it is known. A failed job becomes a row with its error and is
owed again; many failures one after the other mean that the server is gone, and end the run.
Window texts are files that exist only while a job needs them. What is owed is computed in
``results.py``; who answers is in ``solvers.py``.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
import traceback
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from data_gen.tasks import Window, score
from eval.cost import job_cost
from eval.grid import EvalConfig, Job
from eval.results import Results, Row, make_row
from eval.solvers import Floor, Outcome, Solver
from rlm_executor.errors import EnvironmentFault, RLMError

# So many in a row are no bad luck; each had the client's own retries before it failed.
FAILURES_TO_STOP = 16


class Gate:
    """Lets runs in by weight: the long windows of a grid take more of the room than the short."""

    def __init__(self, capacity: int) -> None:
        self.capacity = self._free = capacity
        self._changed = asyncio.Event()

    async def acquire(self, weight: int) -> None:
        """Wait for room. One caller at a time, so that heavy jobs are not overtaken for ever."""
        while self._free < weight:
            self._changed.clear()
            await self._changed.wait()
        self._free -= weight

    def release(self, weight: int) -> None:
        """Give room back."""
        self._free += weight
        self._changed.set()


class ContextFiles:
    """Window texts on disk: written once when first needed, deleted after their last job."""

    def __init__(self, folder: Path, jobs: Sequence[Job]) -> None:
        self.folder = folder
        self._left = Counter(job.window.id for job in jobs)
        self._making: dict[str, asyncio.Task[Path]] = {}
        self.clear()  # what a killed run left may be of another generator

    async def path(self, window: Window) -> Path:
        """The file of ``window``."""
        if window.id not in self._making:
            self._making[window.id] = asyncio.create_task(asyncio.to_thread(self._write, window))
        return await asyncio.shield(self._making[window.id])

    def release(self, window: Window) -> None:
        """One job less that needs it."""
        self._left[window.id] -= 1
        if not self._left[window.id]:
            self._file(window).unlink(missing_ok=True)

    async def aclose(self) -> None:
        """Delete all of them, those that are being written included."""
        await asyncio.gather(*self._making.values(), return_exceptions=True)
        self.clear()

    def clear(self) -> None:
        """Delete what is there."""
        if self.folder.is_dir():
            for file in self.folder.iterdir():
                file.unlink()
            self.folder.rmdir()

    def _file(self, window: Window) -> Path:
        return self.folder / f"{window.id}.txt"

    def _write(self, window: Window) -> Path:
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self._file(window)
        partial = path.with_suffix(".partial")
        window.write(partial)
        os.replace(partial, path)
        return path


class Progress:
    """One line every few seconds, the same fields in the same order."""

    def __init__(self, config: EvalConfig, all_jobs: int, owed: Sequence[Job]) -> None:
        self._every = config.progress_seconds
        self._all, self._owed = all_jobs, len(owed)
        self._cost = {job.name: max(0.01, job_cost(config, job).seconds) for job in owed}
        self._cost_left = self._cost_all = sum(self._cost.values())
        self._start = self._last = time.monotonic()
        self.done = self.failed = self.tokens = 0

    def row(self, job: Job, row: Row) -> None:
        """Take in one row; print when it is time."""
        self.done += 1
        self.failed += row["error"] is not None
        self.tokens += row["tokens_root"] + row["tokens_sub"]
        self._cost_left -= self._cost.pop(job.name, 0.0)
        now = time.monotonic()
        if now - self._last >= self._every or self.done == self._owed:
            self._last = now
            self._print(now - self._start, job)

    def _print(self, seconds: float, job: Job) -> None:
        spent = max(1e-9, self._cost_all - self._cost_left)
        left = seconds * self._cost_left / spent
        print(
            f"eval done={self._all - self._owed + self.done}/{self._all} failed={self.failed} "
            f"tokens/s={self.tokens / max(seconds, 1e-9):.0f} elapsed={clock(seconds)} "
            f"left={clock(left)} at={job.cell.family}/{job.cell.length}/{job.arm.name}",
            flush=True,
        )


def clock(seconds: float) -> str:
    """``3:07``."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


async def run_jobs(
    jobs: Sequence[Job],
    solvers: Mapping[str, Solver],
    results: Results,
    contexts: ContextFiles,
    config: EvalConfig,
    on_row: Callable[[Job, Row], None] = lambda job, row: None,
) -> None:
    """Run ``jobs`` in order, many at a time, and append a row for each.

    Raises:
        EnvironmentFault: one job after the other fails.
    """
    gate = Gate(config.concurrency)
    failures = 0

    async def one(job: Job, weight: int) -> None:
        nonlocal failures
        try:
            row = await run_one(job, solvers[job.arm.name], contexts.path)
        finally:
            gate.release(weight)
            contexts.release(job.window)
        results.append(row)
        on_row(job, row)
        failures = 0 if row["error"] is None else failures + 1
        if failures >= FAILURES_TO_STOP:
            raise EnvironmentFault(
                f"{failures} runs in a row failed, the last with {row['error']}; look at the "
                "server's log, then run the same command to go on"
            )

    try:
        async with asyncio.TaskGroup() as group:
            for job in jobs:
                weight = config.concurrency // (job.cell.concurrency or config.concurrency)
                await gate.acquire(weight)
                group.create_task(one(job, weight))
    except BaseExceptionGroup as several:  # a caller wants the error itself
        raise several.exceptions[0] from None


async def run_one(job: Job, solver: Solver, context: Callable[[Window], Awaitable[Path]]) -> Row:
    """Answer and score one task. The only place that catches: a failure becomes a row."""
    started = time.monotonic()
    try:
        # A guess needs no text.
        path = Path() if isinstance(solver, Floor) else await context(job.window)
        outcome = await solver.solve(job.window, job.task, path)
        # Scoring tens of thousands of pairs takes a while; the other runs go on meanwhile.
        points = await asyncio.to_thread(score, job.task, outcome.answer)
        error = None
    except Exception as fault:
        if isinstance(fault, OSError) and not isinstance(fault, (TimeoutError, ConnectionError)):
            raise  # the disk is full or the like: no other job would fare better
        if not isinstance(fault, RLMError):
            print(f"eval: {job.name}:\n{traceback.format_exc()}", file=sys.stderr)
        outcome, points = Outcome("", "error", "none"), 0.0
        error = f"{type(fault).__name__}: {fault}"
    root, sub = outcome.root, outcome.sub
    return make_row(
        job,
        score=points,
        answer=outcome.answer,
        error=error,
        stop_reason=outcome.stop_reason,
        answer_source=outcome.answer_source,
        turns=outcome.turns,
        error_cells=outcome.error_cells,
        tokens_root=root.prompt_tokens + root.completion_tokens,
        tokens_sub=sub.prompt_tokens + sub.completion_tokens,
        calls=root.calls + sub.calls,
        cached_calls=root.cached_calls + sub.cached_calls,
        seconds=round(time.monotonic() - started, 3),
        usage={"root": asdict(root), "sub": asdict(sub)},
        shown_share=outcome.shown_share,
        prompt_bytes=outcome.prompt_bytes,
        journal=outcome.journal,
    )
