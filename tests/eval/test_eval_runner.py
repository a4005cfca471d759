"""eval/runner.py: concurrency, failures, context files."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from data_gen.tasks import Task, Window
from eval.grid import EvalConfig, Grid, Job
from eval.results import Results, read_rows
from eval.runner import FAILURES_TO_STOP, ContextFiles, Gate, Progress, run_jobs
from eval.solvers import Floor, Outcome
from rlm_executor.errors import EnvironmentFault, SandboxError, ServerUnavailable
from tests.eval.fakes import small


class Scripted:
    """Knows the gold answer; counts how many run at a time, by family."""

    def __init__(self, error: Exception | None = None, fail_at: int = 0) -> None:
        self.error, self.fail_at = error, fail_at
        self.running: dict[str, int] = {}
        self.most: dict[str, int] = {}
        self.seen: list[str] = []

    async def solve(self, window: Window, task: Task, context: Path) -> Outcome:
        family = task.family
        self.running[family] = self.running.get(family, 0) + 1
        self.most[family] = max(self.most.get(family, 0), self.running[family])
        assert context.read_text() == window.text()
        await asyncio.sleep(0.005)
        self.running[family] -= 1
        self.seen.append(task.id)
        if self.error is not None and len(self.seen) > self.fail_at:
            raise self.error
        return Outcome(
            "\n".join(task.answer) if isinstance(task.answer, list) else task.answer, "answered"
        )


def grid_jobs(config: EvalConfig) -> list[Job]:
    return list(Grid.build(config).jobs({arm.name: "x" for arm in config.arms}))


async def run(tmp_path: Path, config: EvalConfig, solver: Scripted) -> list[dict[str, object]]:
    jobs = grid_jobs(config)
    with Results(tmp_path / "eval") as results:
        owed = results.owed(jobs)
        contexts = ContextFiles(tmp_path / "contexts", owed)
        progress = Progress(config, len(jobs), owed)
        solvers = {"direct": solver, "floor": Floor()}
        try:
            await run_jobs(owed, solvers, results, contexts, config, progress.row)
        finally:
            await contexts.aclose()
    return read_rows(tmp_path / "eval" / "results.jsonl")


async def test_every_job_gets_one_scored_row(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = small()
    solver = Scripted()
    rows = await run(tmp_path, config, solver)
    assert {(row["arm"], row["task_id"]) for row in rows} == {
        (job.arm.name, job.task.id) for job in grid_jobs(config)
    }
    assert len(rows) == 24
    assert all(row["score"] == 1 for row in rows if row["arm"] == "direct")
    assert solver.most == {"niah": 4, "oolong": 2} or solver.most["oolong"] <= 2
    assert not (tmp_path / "contexts").exists()
    assert "eval done=24/24 failed=0" in capsys.readouterr().out


async def test_what_is_done_is_not_done_again(tmp_path: Path) -> None:
    await run(tmp_path, small(), Scripted())
    again = Scripted()
    assert len(await run(tmp_path, small(), again)) == 24 and again.seen == []


async def test_a_failure_is_a_row_and_is_owed(tmp_path: Path) -> None:
    broken = Scripted(SandboxError("no worker at /opt/x/y"), fail_at=10)
    rows = await run(tmp_path, small(), broken)
    failed = [row for row in rows if row["error"]]
    assert len(failed) == 2 and failed[0]["error"] == "SandboxError: no worker at y"
    assert failed[0]["stop_reason"] == "error" and failed[0]["score"] == 0
    again = Scripted()
    rows = await run(tmp_path, small(), again)
    assert len(again.seen) == 2
    good = {(row["arm"], row["task_id"]) for row in rows if not row["error"]}
    assert len(good) == 24


async def test_a_dead_server_ends_the_run_early(tmp_path: Path) -> None:
    arms = [{"name": "direct", "kind": "direct"}]
    cells = [{"family": "niah", "length": 1024, "windows": 10, "questions": 4}]
    with pytest.raises(EnvironmentFault, match="in a row failed.*down"):
        await run(tmp_path, small(arms=arms, cells=cells), Scripted(ServerUnavailable("down")))
    rows = read_rows(tmp_path / "eval" / "results.jsonl")
    assert FAILURES_TO_STOP <= len(rows) < 40
    assert not (tmp_path / "contexts").exists()


async def test_a_full_disk_is_no_fault_of_the_task(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No space left"):
        await run(tmp_path, small(), Scripted(OSError(28, "No space left on device")))
    rows = read_rows(tmp_path / "eval" / "results.jsonl")
    assert [row for row in rows if row["arm"] == "direct"] == []


async def test_context_files_live_from_first_to_last_job(tmp_path: Path) -> None:
    jobs = grid_jobs(small())
    contexts = ContextFiles(tmp_path / "contexts", jobs)
    window = jobs[0].window
    paths = await asyncio.gather(*(contexts.path(window) for _ in range(5)))
    assert len(set(paths)) == 1 and paths[0].read_text() == window.text()
    mine = [job for job in jobs if job.window is window]
    for job in mine[:-1]:
        contexts.release(job.window)
    assert paths[0].exists()
    contexts.release(window)
    assert not paths[0].exists()


async def test_the_gate_bounds_the_weight() -> None:
    gate = Gate(4)
    await gate.acquire(3)
    waiting = asyncio.create_task(gate.acquire(2))
    await asyncio.sleep(0)
    assert not waiting.done()
    gate.release(3)
    await asyncio.wait_for(waiting, 1)
