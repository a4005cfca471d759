"""A thousand trajectories: how long they take, and what was kept of how many: `make bench-data`.

Runs ``configs/data/thousand.yaml`` from nothing, in processes of its own, and checks what came out:
every kept run is there once, its rows too. Prints one JSON line. Limits: 600 s with scripted
leaves, 1,500 s with a served one (``--set leaf...``).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as parquet

from rlm_executor.cli import run_cli
from rlm_executor.errors import EnvironmentFault, InputError
from scripts.bench_record import ROOT, print_record

LIMITS = {"scripted": 600, "endpoint": 1500}


def main() -> None:
    """Make them, look at them, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--config", type=Path, default=ROOT / "configs/data/thousand.yaml")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides")
    parser.add_argument("--run", type=Path, help="an empty place to leave them (default: nowhere)")
    args = parser.parse_args()
    if args.run is not None and args.run.exists() and any(args.run.iterdir()):
        raise InputError(f"{args.run} is not empty, and they are made from nothing; give another")
    command = [sys.executable, "-m", "data_gen.generate", "--config", str(args.config)]
    for override in args.overrides:
        command += ["--set", override]
    with tempfile.TemporaryDirectory() as scratch:
        run = str(args.run or scratch)
        started = time.monotonic()
        done = subprocess.run([*command, "--run", run], cwd=ROOT, stdout=subprocess.PIPE, text=True)
        seconds = time.monotonic() - started
        if done.returncode:
            raise EnvironmentFault(
                f"the generation ended with {done.returncode}: {done.stdout[-500:]}"
            )
        values = looked_at(Path(run) / "data")
    leaf = "endpoint" if any("leaf.kind=endpoint" in one for one in args.overrides) else "scripted"
    peak = done.stdout.rpartition("peak memory ")[2].split()[0]
    values |= {"seconds": round(seconds, 1), "limit_s": LIMITS[leaf], "leaf": leaf}
    print_record("trajectories kept", values | {"peak_mb": int(peak)})


def looked_at(folder: Path) -> dict[str, Any]:
    """The funnel's figures, and what the files hold."""
    funnel = json.loads((folder / "funnel.json").read_text())
    runs = [
        row
        for path in sorted((folder / "dataset").glob("trajectories*.parquet"))
        for row in parquet.read_table(path, columns=["run", "family", "turns"]).to_pylist()
    ]
    return {
        "kept": funnel["kept"],
        "runs_in_dataset": len({row["run"] for row in runs}),
        "families": len(funnel["by_family"]),
        "attempts": funnel["attempts"],
        "dropped": funnel["dropped"],
        "repaired": funnel["repaired"],
        "rows": funnel["turns"],
        "calls": funnel["calls"],
        "distinct_programs": funnel["diversity"]["distinct"],
        "commonest_share": funnel["diversity"]["commonest_share"],
        "kept_by_family": {name: own["kept"] for name, own in funnel["by_family"].items()},
        "longest_run_turns": max(row["turns"] for row in runs),
    }


if __name__ == "__main__":
    run_cli(main)
