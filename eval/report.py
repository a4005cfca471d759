"""Report of an evaluation: table here, ``report.json``, picture and page in the run's folder.

    python -m eval.report --run runs/demo

Writes DIR/report.json (one entry a cell), DIR/report_status.json (complete or not, pools, claims),
DIR/score_vs_length.png and DIR/report.html. A cell below its stated number of tasks puts
INCOMPLETE at the top of all of them, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from eval.page import page
from eval.plot import score_vs_length
from eval.stats import Estimate
from eval.summary import CellResult, Summary, size, summarise
from rlm_executor.cli import run_cli
from rlm_executor.files import write_json_atomic, write_text_atomic

WIDTH = 116


def main(argv: Sequence[str] | None = None) -> int:
    """Summarise, print, write."""
    parser = argparse.ArgumentParser(prog="eval.report", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--run", type=Path, default=Path("runs/demo"))
    run: Path = parser.parse_args(argv).run
    summary = summarise(run)
    picture = score_vs_length(summary)
    write_json_atomic(run / "report.json", [entry(cell) for cell in summary.cells])
    write_json_atomic(run / "report_status.json", status(summary))
    _write_bytes(run / "score_vs_length.png", picture)
    write_text_atomic(run / "report.html", page(summary, picture, run / "eval"))
    console = Console(width=WIDTH)
    print_report(console, summary)
    console.print(f"\nwritten to {run}: report.html, score_vs_length.png, report.json", style="dim")
    return 1 if summary.incomplete else 0


def entry(cell: CellResult) -> dict[str, Any]:
    """One element of ``report.json``; means are per task."""
    score = cell.score
    return {
        "arm": cell.arm,
        "family": cell.family,
        "length": cell.length,
        "n": len(cell.rows),
        "score": _rounded(score.mean if score else None, 4),
        "ci_low": _rounded(score.low if score else None, 4),
        "ci_high": _rounded(score.high if score else None, 4),
        "tokens_root": _rounded(cell.mean("tokens_root"), 1),
        "tokens_sub": _rounded(cell.mean("tokens_sub"), 1),
        "calls": _rounded(cell.mean("calls"), 2),
        "seconds": _rounded(cell.mean("seconds"), 3),
    }


def status(summary: Summary) -> dict[str, Any]:
    """What ``report.json`` cannot say: whether it may be quoted, and the pooled results."""
    return {
        "status": "INCOMPLETE" if summary.incomplete else "complete",
        "smoke": summary.smoke,
        "incomplete": summary.incomplete,
        "claims": [
            {
                "claim": claim.text,
                "target": claim.target,
                "measured": claim.value and asdict(claim.value),
                "verdict": claim.verdict,
            }
            for claim in summary.claims()
        ],
        "pooled": [
            {"arm": arm, "family": family} | asdict(value)
            for family in summary.families
            for arm in summary.arms
            if (value := summary.pooled(arm, family)) is not None
        ],
    }


def print_report(console: Console, summary: Summary) -> None:
    """The tables in the terminal."""
    if summary.incomplete:
        console.print("INCOMPLETE: not all of the stated tasks were measured", style="bold red")
        for line in summary.incomplete:
            console.print(f"  {line}", highlight=False)
    if summary.smoke:
        console.print("smoke run: its numbers are not to be quoted", style="bold red")
    for family in summary.families:
        lengths = summary.lengths(family)
        table = Table(title=f"{family}: score [95 %] by length", title_justify="left", box=SIMPLE)
        table.add_column("arm", no_wrap=True)
        for name in map(size, lengths):
            table.add_column(name, justify="right", no_wrap=True)
        table.add_column("pooled", justify="right", no_wrap=True)
        table.add_column("n", justify="right")
        for arm in summary.arms:
            cells = [summary.cell(arm, family, length) for length in lengths]
            table.add_row(
                arm,
                *(_text(cell.score if cell else None) for cell in cells),
                _text(summary.pooled(arm, family)),
                str(sum(len(cell.rows) for cell in cells if cell)),
                style="bold" if arm == "rlm-sft" else "",
            )
        console.print(table)
    for arm in summary.arms:
        if arm != "floor" and (slope := summary.trend(arm, "niah")) is not None:
            console.print(
                f"niah {arm}: change per doubling of length {slope.mean:+.3f} "
                f"[{slope.low:+.3f}, {slope.high:+.3f}]",
                highlight=False,
            )
    claims = summary.claims()
    if claims:
        table = Table(title="what was to be shown", title_justify="left", box=SIMPLE)
        for name in ("claim", "target", "measured", "verdict"):
            table.add_column(name)
        for claim in claims:
            table.add_row(claim.text, claim.target, _text(claim.value), claim.verdict)
        console.print(table)


def _text(value: Estimate | None) -> str:
    return value.text if value is not None else "–"


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)


def _write_bytes(path: Path, data: bytes) -> None:
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    partial.write_bytes(data)
    os.replace(partial, path)


if __name__ == "__main__":
    run_cli(main)
