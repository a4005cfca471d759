"""What a grid will cost, told before anything runs: calls, tokens, minutes.

The rates come from the config (``cost:``), where each was measured; the run's end prints what it
really took beside it. An estimate, rounded up where in doubt: it counts a loop's usual turns, all
lines of a window for every oolong and pairs question, and one look at the text a turn.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

from rich.table import Table

from data_gen.tasks.task import BYTES_PER_TOKEN
from eval.grid import CostConfig, EvalConfig, Job

MEBIBYTE = 2**20


@dataclass(frozen=True)
class Cost:
    """Sums over some runs; tokens are those the server sees (memoised leaf calls taken off)."""

    runs: int = 0
    calls: float = 0
    prompt_tokens: float = 0
    completion_tokens: float = 0
    seconds: float = 0

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.runs + other.runs,
            self.calls + other.calls,
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
            self.seconds + other.seconds,
        )


def grid_cost(config: EvalConfig, jobs: Iterable[Job]) -> dict[str, Cost]:
    """Cost of ``jobs`` by arm, plus the line ``windows`` for writing their contexts."""
    total: dict[str, Cost] = {arm.name: Cost() for arm in config.arms}
    windows: dict[str, int] = {}
    for job in jobs:
        total[job.arm.name] += job_cost(config, job)
        windows[job.window.id] = job.cell.length
    mebibytes = sum(windows.values()) * BYTES_PER_TOKEN / MEBIBYTE
    total["windows"] = Cost(
        len(windows), seconds=mebibytes * config.cost.write_seconds_per_mebibyte
    )
    return total


def job_cost(config: EvalConfig, job: Job) -> Cost:
    """Expected cost of one run."""
    rates, size = config.cost, job.cell.length * BYTES_PER_TOKEN
    if job.arm.kind == "floor":
        return Cost(runs=1)
    if job.arm.kind == "direct":
        room = config.window - config.answer_max_tokens
        prompt = min(room, size / rates.bytes_per_token)
        return _timed(rates, Cost(1, 1, prompt, rates.answer_tokens))
    turns = rates.turns.get(job.arm.name, rates.turns.get(job.arm.kind, 1.0))
    cost = replace(_leaves(rates, job, size), runs=1)
    if job.arm.kind == "rlm":
        cost += Cost(
            calls=turns,
            prompt_tokens=turns * rates.root_prompt_tokens,
            completion_tokens=turns * rates.root_completion_tokens,
        )
    scan = turns * size / MEBIBYTE * rates.scan_seconds_per_mebibyte
    return _timed(rates, replace(cost, seconds=rates.run_overhead_seconds + scan))


def _leaves(rates: CostConfig, job: Job, size: int) -> Cost:
    """The labelling calls of one question; needles need none."""
    if job.cell.family == "niah":
        return Cost()
    lines = size / rates.line_bytes
    calls = math.ceil(lines / rates.lines_per_call)
    calls = min(calls, int(job.arm.limits.get("max_calls", calls)))
    sent = calls * (1 - rates.leaf_cached_share)
    return Cost(
        calls=sent,
        prompt_tokens=sent * rates.leaf_prompt_tokens,
        completion_tokens=sent * rates.leaf_reply_tokens,
    )


def _timed(rates: CostConfig, cost: Cost) -> Cost:
    prompt = cost.prompt_tokens * (1 - rates.cached_prompt_share) / rates.prompt_tokens_per_second
    reply = cost.completion_tokens / rates.completion_tokens_per_second
    return replace(cost, seconds=cost.seconds + prompt + reply)


def cost_table(costs: dict[str, Cost], title: str) -> Table:
    """The table printed before a run."""
    table = Table(title=title, title_justify="left")
    table.add_column("arm")
    for name in ("runs", "calls", "prompt tokens", "reply tokens", "minutes"):
        table.add_column(name, justify="right")
    total = sum((cost for name, cost in costs.items() if name != "windows"), Cost())
    rows = [*costs.items(), ("total", replace(total, seconds=total_seconds(costs)))]
    for name, cost in rows:
        table.add_row(
            name,
            f"{cost.runs:,}",
            f"{cost.calls:,.0f}",
            f"{cost.prompt_tokens:,.0f}",
            f"{cost.completion_tokens:,.0f}",
            f"{cost.seconds / 60:.1f}",
        )
    return table


def total_seconds(costs: dict[str, Cost]) -> float:
    """Seconds of the whole grid, the windows included."""
    return sum(cost.seconds for cost in costs.values())
