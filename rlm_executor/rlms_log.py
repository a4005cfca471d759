"""A journal as the official ``rlms`` package logs its runs, for the viewers that read such logs.

    python -m rlm_executor.rlms_log runs/demo/journal.jsonl -o demo.jsonl

One `metadata` line, then one `iteration` line a root turn; what a cell's sub-calls said stands in
its result, and a run in a run is the metadata of its call. What a journal does not keep is empty
there: the variables after a cell. Prompts of sub-calls are as long as the journal has them.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from rlm_executor.cli import run_cli
from rlm_executor.errors import InputError
from rlm_executor.files import write_text_atomic
from rlm_executor.journal import Event, apply_delta
from rlm_executor.lm import Message
from rlm_executor.trajectory import Trajectory

Row = dict[str, Any]


def write_rlms_log(journal: Path, out: Path) -> None:
    """Write the journal's run to ``out``, as JSON lines of ``rlms``.

    Raises:
        InputError: no journal, or a damaged one; ``out`` cannot be written.
    """
    trajectory = Trajectory.read(journal)
    ended = journal.stat().st_mtime  # a journal has no clock, only durations
    spent = trajectory.end["seconds"] if trajectory.end else sum(_seconds(trajectory))
    metadata, rows = _logged(trajectory, ended - spent)
    lines = [{"type": "metadata", "timestamp": _time(ended - spent), **metadata}, *rows]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    try:
        write_text_atomic(out, text)
    except OSError as error:
        raise InputError(f"{out} cannot be written ({error.strerror})") from error


def _logged(trajectory: Trajectory, began: float) -> tuple[Row, list[Row]]:
    """A run's metadata and its iterations.

    Args:
        trajectory: the run.
        began: when, in seconds of the epoch.
    """
    model, limits = trajectory.run["models"][0], trajectory.run["card"]["limits"]
    metadata = {
        "root_model": model,
        "max_depth": limits["max_depth"],
        "max_iterations": limits["max_turns"],
        "backend": "openai",
        "backend_kwargs": {"model_name": model},
        "environment_type": "local",
        "environment_kwargs": {},
        "other_backends": None,
    }
    rows: list[Row] = []
    for iteration in _iterations(trajectory, began):
        began += iteration["iteration_time"]
        rows.append({"type": "iteration", "iteration": len(rows) + 1, "timestamp": _time(began)})
        rows[-1] |= iteration
    end = trajectory.end
    if rows and end is not None:  # of a cell's answer a journal keeps the beginning only
        rows[-1]["final_answer"] = end["answer"] or None
        for block in rows[-1]["code_blocks"]:
            if block["result"]["final_answer"] is not None:
                block["result"]["final_answer"] = end["answer"]
    return metadata, rows


def _iterations(trajectory: Trajectory, began: float) -> Iterator[Row]:
    """The root turns with their cells; of a run without turns, its plain call."""
    messages: list[Message] = []
    for row in trajectory.turn_rows:
        messages = apply_delta(messages, row["messages"])
        failed = f"[{row['error']}: {row['message']}]" if "error" in row else ""
        response = row.get("reply", failed)
        blocks, seconds = [], float(row.get("seconds", 0.0))
        if not failed:
            for cell in trajectory.cells:
                if cell["turn"] == row["turn"]:
                    blocks.append(_block(trajectory, cell, began + seconds))
                    seconds += cell["seconds"]
        answers = [block["result"]["final_answer"] for block in blocks]
        yield {
            "prompt": list(messages),
            "response": response,
            "code_blocks": blocks,
            "final_answer": next((answer for answer in answers if answer is not None), None),
            "iteration_time": seconds,
        }
        began += seconds
        if not failed:
            messages = [*messages, {"role": "assistant", "content": response}]
    if trajectory.run.get("route") == "plain":
        for row in trajectory.calls:
            yield {
                "prompt": [{"role": "user", "content": row["prompt"]}],
                "response": row.get("reply", ""),
                "code_blocks": [],
                "final_answer": None,
                "iteration_time": float(row["seconds"]),
            }


def _block(trajectory: Trajectory, cell: Event, began: float) -> Row:
    calls = [row for row in trajectory.calls if row["cell"] == cell["cell"]]
    final = cell["status"] == "ok" and cell["ready"] and cell["answer"]
    result = {
        "stdout": cell["output"],
        "stderr": cell["error"],
        "locals": {},
        "execution_time": float(cell["seconds"]),
        "rlm_calls": [_call(trajectory, row, began) for row in calls],
        "final_answer": cell["answer"] if final else None,
    }
    return {"code": cell["code"], "result": result}


def _call(trajectory: Trajectory, row: Event, began: float) -> Row:
    child = None
    if "child" in row:
        child = trajectory.children.get(row["child"].rpartition(".")[2])
    model = row.get("model", trajectory.run["models"][1])
    usage = row.get("usage") or {}
    if child is not None:
        model, usage = child.run["models"][0], _used(child)
    call: Row = {
        "root_model": model,
        "prompt": row["prompt"],
        "response": row.get("reply", "") if "error" not in row else "",
        "usage_summary": {"model_usage_summaries": {model: _summary(usage)}},
        "execution_time": float(row["seconds"]),
    }
    if child is not None:
        metadata, rows = _logged(child, began)
        call["metadata"] = {"run_metadata": metadata, "iterations": rows}
    if "error" in row:
        call["error"] = f"{row['error']}: {row['message']}"
    return call


def _used(child: Trajectory) -> dict[str, int]:
    """All that a run in a run has used, itself and below."""
    end = child.end or {}
    parts = [end.get("root") or {}, end.get("sub") or {}]
    keys = ("calls", "prompt_tokens", "completion_tokens")
    return {key: sum(part.get(key, 0) for part in parts) for key in keys}


def _summary(usage: dict[str, int]) -> dict[str, int]:
    return {
        "total_calls": usage.get("calls", 0),
        "total_input_tokens": usage.get("prompt_tokens", 0),
        "total_output_tokens": usage.get("completion_tokens", 0),
    }


def _seconds(trajectory: Trajectory) -> Iterator[float]:
    for row in (*trajectory.turn_rows, *trajectory.cells):
        yield float(row.get("seconds", 0.0))


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds).isoformat(timespec="microseconds")


def main(arguments: list[str] | None = None) -> int:
    """Parse the arguments, write, say where."""
    parser = argparse.ArgumentParser(
        prog="rlm_executor.rlms_log", description="Write a journal as a log of the rlms package."
    )
    parser.add_argument("journal", type=Path)
    parser.add_argument(
        "-o", "--out", type=Path, metavar="FILE", help="default: JOURNAL's name with .rlms.jsonl"
    )
    args = parser.parse_args(arguments)
    out = args.out or args.journal.with_suffix(".rlms.jsonl")
    write_rlms_log(args.journal, out)
    print(out)
    return 0


if __name__ == "__main__":
    run_cli(main)
