"""Evaluate a run: every arm on every cell of a grid, into ``DIR/eval/results.jsonl``.

    python -m eval.run --config configs/eval/tiny.yaml --run runs/demo
    python -m eval.run --config configs/eval/tiny.yaml --run runs/demo --endpoint http://...:8000/v1
    python -m eval.run --config configs/eval/tiny.yaml --run runs/demo --cost    # only the price

Without ``--endpoint`` it starts vLLM itself, with the base and the run's adapters. The cost of
what is owed is printed first. Interrupt or kill it at any time; the same command goes on with
what is owed. ``python -m eval.report`` makes table, picture and page of the rows.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from eval.arms import check_models, make_solvers, served
from eval.cost import cost_table, grid_cost, total_seconds
from eval.grid import REPOSITORY, EvalConfig, Grid, Job, fingerprints
from eval.results import Results, read_rows
from eval.runner import ContextFiles, Progress, clock, run_jobs
from rlm_executor.cli import run_cli
from rlm_executor.config import load_config
from rlm_executor.files import sha256_text, write_json_atomic


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(prog="eval.run", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--run", type=Path, default=Path("runs/demo"))
    parser.add_argument("--endpoint", help="a server that already runs; its address ends in /v1")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--cost", action="store_true", help="print the cost of the grid and leave")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Compute what is owed, tell its cost, run it."""
    arguments = parse(argv)
    config = load_config(EvalConfig, arguments.config, arguments.set)
    run: Path = arguments.run
    console = Console(width=100)
    if arguments.cost:
        grid = Grid.build(config)
        jobs = list(grid.jobs({arm.name: "" for arm in config.arms}))
        console.print(cost_table(grid_cost(config, jobs), f"{config.title}: {len(jobs)} runs"))
        return 0
    with Results(run / "eval") as results:
        prints = fingerprints(config, REPOSITORY, run)
        stage = stage_digest(config, prints)
        if is_done(run, stage):
            print(f"eval: all {len(read_rows(results.path))} runs are done ({results.path})")
            return 0
        grid = Grid.build(config)
        jobs = list(grid.jobs(prints))
        write_json_atomic(run / "eval" / "plan.json", plan(grid, jobs))
        owed = results.owed(jobs)
        costs = grid_cost(config, owed)
        console.print(cost_table(costs, f"{config.title}: {len(owed)} of {len(jobs)} runs owed"))
        started = time.monotonic()
        if owed:
            asyncio.run(
                _with_signals(evaluate(config, run, grid, jobs, results, arguments.endpoint))
            )
        failed = [row for row in results.tidy(jobs).values() if row["error"] is not None]
        seconds = time.monotonic() - started
        print(
            f"eval: {len(jobs) - len(failed)} of {len(jobs)} runs done, {len(failed)} failed, in "
            f"{clock(seconds)} (estimated {clock(total_seconds(costs))})"
        )
        if failed:
            print(f"eval: first failure: {failed[0]['error']}; run the same command to try again")
            return 1
        write_json_atomic(
            run / "eval" / "done.json",
            {"stage": "eval", "config_sha256": stage, "rows": len(jobs), "inputs": prints},
        )
    return 0


def stage_digest(config: EvalConfig, prints: dict[str, str]) -> str:
    """Changes when anything does that a result depends on."""
    what = config.model_dump(mode="json", exclude={"cost", "concurrency", "progress_seconds"})
    return sha256_text(json.dumps([what, prints], sort_keys=True))


def is_done(run: Path, stage: str) -> bool:
    """Whether ``done.json`` is of this very stage and all its rows are still there."""
    path = run / "eval" / "done.json"
    if not path.exists() or not (run / "eval" / "plan.json").exists():
        return False
    done = json.loads(path.read_text(encoding="utf-8"))
    rows = len(read_rows(run / "eval" / "results.jsonl"))
    return bool(done.get("config_sha256") == stage and done.get("rows") == rows)


def plan(grid: Grid, jobs: Sequence[Job]) -> dict[str, Any]:
    """What the report needs to know: stated numbers, keys of the rows that count, settings."""
    cells: dict[tuple[str, str, int], dict[str, str]] = {}
    for job in jobs:
        cell = cells.setdefault((job.arm.name, job.cell.family, job.cell.length), {})
        cell[job.task.id] = job.key
    config = grid.config.model_dump(mode="json")
    # Names only: a path of this machine has no place in an artefact.
    for name in ("base", "serve"):
        config[name] = Path(config[name]).name if config[name] else None
    return {
        "config": config,
        "cells": [
            {"arm": arm, "family": family, "length": length, "n": len(tasks), "tasks": tasks}
            for (arm, family, length), tasks in cells.items()
        ],
    }


async def _with_signals(work: Any) -> None:
    """Let SIGTERM end the work as Ctrl-C does, so that servers and REPLs are stopped."""
    task = asyncio.ensure_future(work)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    try:
        await task
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None


async def evaluate(
    config: EvalConfig,
    run: Path,
    grid: Grid,
    jobs: list[Job],
    results: Results,
    endpoint: str | None,
) -> None:
    """Run what is owed, then once more what failed."""
    async with served(config, run, endpoint) as base_url:
        await check_models(config, base_url)
        async with contextlib.AsyncExitStack() as stack:
            solvers, meters = await make_solvers(config, run, base_url, stack)
            for _ in range(2):
                owed = results.owed(jobs)
                if not owed:
                    break
                contexts = ContextFiles(run / "contexts", owed)
                try:
                    progress = Progress(config, len(jobs), owed)
                    await run_jobs(owed, solvers, results, contexts, config, progress.row)
                finally:
                    await contexts.aclose()
            sent = sum((meter.usage for meter in meters), start=meters[0].usage.__class__())
            print(
                f"eval: the server answered {sent.calls} calls, {sent.prompt_tokens} prompt and "
                f"{sent.completion_tokens} reply tokens"
            )


if __name__ == "__main__":
    run_cli(main)
