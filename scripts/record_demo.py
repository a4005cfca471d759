"""Put a finished demo's result where readers see it: `python -m scripts.record_demo --run DIR`.

Writes docs/score_vs_length.png, benchmarks/demo.json (every cell, with commit, command and
machine) and the tables between the markers of README.md and benchmarks/README.md. Refuses a run
that is incomplete, a smoke run, or one on other seeds than the test seeds.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
from pathlib import Path
from typing import Any

from eval.report import entry, status
from eval.stats import Estimate
from eval.summary import Summary, size, summarise
from rlm_executor.cli import run_cli
from rlm_executor.errors import InputError
from rlm_executor.files import write_json_atomic, write_text_atomic
from scripts.bench_record import ROOT, record

TEST_SEEDS = range(800_000, 900_000)
STAGES = ("data", "direct-data", "sft", "direct-sft", "eval")


def main() -> None:
    """Check the run, then write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--run", type=Path, default=Path("runs/demo"))
    run: Path = parser.parse_args().run
    summary = summarise(run)
    check(summary)
    stages = json.loads((run / "demo.json").read_text(encoding="utf-8"))["stages"]
    seconds = {name: stages[name]["seconds"] for name in STAGES}
    effort = trained(run)
    values = {
        "stage_seconds": seconds,
        "trained": effort,
        **status(summary),
        "cells": [entry(cell) for cell in summary.cells],
    }
    made = record("score by arm, family and length", values, checkout=run)
    write_json_atomic(ROOT / "benchmarks" / "demo.json", made | {"command": "make demo"})
    (ROOT / "docs").mkdir(exist_ok=True)
    shutil.copyfile(run / "score_vs_length.png", ROOT / "docs" / "score_vs_length.png")
    result = f"{scores(summary)}\n\n{told(effort, seconds)}"
    picture = "![Score against the length of the text](docs/score_vs_length.png)"
    put(ROOT / "README.md", "result", f"{picture}\n\n{result}")
    put(
        ROOT / "benchmarks" / "README.md",
        "demo",
        "\n\n".join([result, claims(summary), costs(summary)]),
    )


def check(summary: Summary) -> None:
    """Only what may be quoted.

    Raises:
        InputError: it may not.
    """
    if summary.incomplete:
        raise InputError(f"the run is incomplete ({summary.incomplete[0]}); run `make demo` again")
    if summary.smoke or summary.config["seed"] not in TEST_SEEDS:
        raise InputError("only a recorded run on test seeds may be quoted, not a smoke run")


def trained(run: Path) -> dict[str, Any]:
    """How much the adapter and its control were trained; one epoch sees every row once."""
    effort = {}
    for name in ("sft", "direct-sft"):
        metrics = json.loads((run / name / "metrics.json").read_text(encoding="utf-8"))
        effort[name] = {key: metrics[key] for key in ("rows", "steps", "epochs", "target_tokens")}
    return effort


def told(effort: dict[str, Any], seconds: dict[str, float]) -> str:
    """A sentence on what ``trained`` gives; seen is what an epoch has, times the epochs."""
    ways = []
    for arm, name in (("rlm-sft", "sft"), ("direct-sft", "direct-sft")):
        done = effort[name]
        rows, tokens = (round(done[key] * done["epochs"]) for key in ("rows", "target_tokens"))
        ways.append(
            f"`{arm}` {done['steps']} steps in {seconds[name]:.0f} s, "
            f"{rows:,} rows, {tokens:,} trained tokens"
        )
    return f"Tuning: {'; '.join(ways)}."


def scores(summary: Summary) -> str:
    """Markdown table: arms by families and lengths."""
    columns = [
        (family, length) for family in summary.families for length in summary.lengths(family)
    ]
    lines = [
        "| score | " + " | ".join(f"{family} {size(length)}" for family, length in columns) + " |",
        "|---|" + "---:|" * len(columns),
    ]
    for arm in summary.arms:
        cells = [summary.cell(arm, *column) for column in columns]
        mark = bold if arm == "rlm-sft" else str
        shown = [f"{cell.score.mean:.2f}" if cell and cell.score else "" for cell in cells]
        lines.append(f"| {mark(arm)} | " + " | ".join(map(mark, shown)) + " |")
    return "\n".join(lines)


def bold(text: str) -> str:
    """Ours stands out."""
    return f"**{text}**"


def claims(summary: Summary) -> str:
    """Markdown table of the claims, with their intervals."""
    lines = ["| claim | target | measured [95 %] | verdict |", "|---|---|---|---|"]
    for claim in summary.claims():
        lines.append(
            f"| {claim.text} | {claim.target} | {interval(claim.value)} | {claim.verdict} |"
        )
    return "\n".join(lines)


def costs(summary: Summary) -> str:
    """Markdown table of what a run costs, per arm, family and length."""
    lines = [
        "| arm | family | length | n | score [95 %] | root tokens | sub-call tokens | calls "
        "| seconds |",
        "|---|---|---:|---:|---|---:|---:|---:|---:|",
    ]
    for cell in summary.cells:
        means = [cell.mean(name) for name in ("tokens_root", "tokens_sub", "calls", "seconds")]
        digits = (0, 0, 1, 2)
        shown = ["" if m is None else f"{m:,.{d}f}" for m, d in zip(means, digits, strict=True)]
        facts = [
            cell.arm,
            cell.family,
            size(cell.length),
            str(len(cell.rows)),
            interval(cell.score),
        ]
        lines.append("| " + " | ".join([*facts, *shown]) + " |")
    return "\n".join(lines)


def interval(value: Estimate | None) -> str:
    """A mean with its interval."""
    return f"{value.mean:.2f} [{value.low:.2f}, {value.high:.2f}]" if value else "not measured"


def put(path: Path, name: str, text: str) -> None:
    """Replace what stands between a file's markers of that name.

    Raises:
        InputError: the markers are not there.
    """
    begin, end = f"<!-- {name}: from scripts/record_demo.py -->", f"<!-- /{name} -->"
    pattern = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
    before = path.read_text(encoding="utf-8")
    if not pattern.search(before):
        raise InputError(f"{path.name} has no lines {begin} and {end}")
    write_text_atomic(path, pattern.sub(lambda _: f"{begin}\n{text}\n{end}", before))


if __name__ == "__main__":
    run_cli(main)
