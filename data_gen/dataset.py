"""The finished dataset: parquet rows through ``datasets``, and a card written from the numbers.

Two configs: ``trajectories`` (a row a run, for people) and ``turns`` (a row a root turn, for
trainers: ``prompt`` is the messages before it, ``completion`` the turn; turns that a rule has
dropped are in the prompts of later turns but never a completion). A share of the tasks may be
put aside as ``validation``.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from data_gen import datacard
from data_gen.config import GenerateConfig
from data_gen.rules import Verdict
from rlm_executor import Trajectory
from rlm_executor.files import read_jsonl, sha256_file, sha256_text, write_text_atomic

Row = dict[str, Any]


def turn_rows(
    row: Row, verdict: Verdict, trajectory: Trajectory, template: dict[str, Any]
) -> list[Row]:
    """The training rows of one kept run, as often as it is in the data.

    Runs that it has started are trained on with it: their turns are the student's, too.

    Args:
        row: the attempt.
        verdict: its targets, those of runs below, and copies.
        trajectory: the run.
        template: the chat template's arguments, as the card serves the student.
    """
    own = {"task_id": row["task_id"], "family": row["family"], "template": template}
    rows: list[Row] = []
    for copy in range(verdict.copies):
        run = row["run"] if not copy else f"{row['run']}#{copy + 1}"
        rows += _rows(trajectory, {*verdict.targets}, own | {"run": run})
        for node, targets in verdict.below:
            rows += _rows(trajectory.children[node], {*targets}, own | {"run": f"{run}/{node}"})
    return rows


def _rows(trajectory: Trajectory, targets: set[int], own: Row) -> list[Row]:
    turns = trajectory.turns
    return [
        {
            "prompt": turn.messages,
            "completion": [{"role": "assistant", "content": turn.reply}],
            "chat_template_kwargs": own["template"] or None,
            "run": own["run"],
            "task_id": own["task_id"],
            "family": own["family"],
            "turn": index,
            "turns": len(turns),
        }
        for index, turn in enumerate(turns)
        if index in targets
    ]


def write(folder: Path, kept: list[tuple[Row, Verdict]], config: GenerateConfig) -> None:
    """Write ``dataset/`` and the dataset card into ``folder``; all of it or nothing."""
    tables: dict[str, list[Row]] = {"trajectories": [], "turns": []}
    if config.validation:
        tables |= {"trajectories-validation": [], "turns-validation": []}
    for row, verdict in kept:
        trajectory = Trajectory.read(folder / "journals" / row["journal"])
        # The same task may be kept in several attempts.
        row = row | {"run": f"{row['task_id']}-{row['index'] % config.attempts + 1}"}
        if config.attempts == 1:
            row["run"] = row["task_id"]
        split = "-validation" if is_validation(row["task_id"], config.validation) else ""
        template = config.card.sampling.chat_template_kwargs or {}
        tables[f"turns{split}"] += turn_rows(row, verdict, trajectory, template)
        tables[f"trajectories{split}"].append(_told(row, trajectory))
    # Of few tasks none may be put aside: a table without rows has no columns either.
    tables = {name: rows for name, rows in tables.items() if rows or "-" not in name}
    write_parquet(folder / "dataset", tables)
    funnel = json.loads((folder / "funnel.json").read_text())
    write_text_atomic(folder / "README.md", datacard.describe(funnel, tables, config))


def is_validation(task_id: str, share: float) -> bool:
    """Whether a task is put aside; by its name, so that all its attempts are."""
    return int(sha256_text(f"validation/{task_id}")[:8], 16) / 16**8 < share


def _told(row: Row, trajectory: Trajectory) -> Row:
    last = trajectory.turns[-1]
    keys = ("run", "task_id", "family", "kind", "seed", "length", "score", "turns", "calls")
    return {
        **{key: row[key] for key in keys},
        "tokens": row["tokens_root"] + row["tokens_sub"],
        "dollars": row["dollars"],
        "question": trajectory.run["question"],
        "messages": [*last.messages, {"role": "assistant", "content": last.reply}],
    }


def write_parquet(folder: Path, tables: dict[str, list[dict[str, Any]]]) -> None:
    """One parquet file a table, written beside and then moved into place."""
    from datasets import Dataset, disable_progress_bars  # takes seconds to import

    disable_progress_bars()
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    for name, table in tables.items():
        Dataset.from_list(table).to_parquet(str(partial / f"{name}.parquet"))
    shutil.rmtree(folder, ignore_errors=True)
    partial.replace(folder)


def print_funnel(folder: Path) -> None:
    """The funnel as a few lines."""
    funnel = json.loads((folder / "funnel.json").read_text())
    print(f"data: attempts={funnel['attempts']} kept={funnel['kept']} dropped={funnel['dropped']}")
    for name, own in funnel["by_family"].items():
        print(
            f"data:   {name}: attempts={own['attempts']} kept={own['kept']} turns={own['turns']}"
            f" dropped={own['dropped']}"
        )
    for key in ("repaired", "turns_dropped", "failed_requests", "faults"):
        if funnel[key]:
            print(f"data: {key}: {funnel[key]}")
    share = funnel["diversity"]
    print(
        f"data: {share['distinct']} different programs of {share['programs']}, the commonest "
        f"{share['commonest_share']:.1%}"
    )
    if funnel["dollars_at_most"]:
        print(f"data: ${funnel['dollars_at_most']:.4f} at most")


def is_done(folder: Path, digest: str) -> bool:
    """Whether ``folder`` holds the finished output of this configuration."""
    marks = read_jsonl(folder / "done.json")
    return bool(marks) and marks[-1].get("config_sha256") == digest


def mark_done(folder: Path, digest: str, seconds: float) -> None:
    """Write ``done.json``, last of all."""
    path = folder / "dataset" / "turns.parquet"
    mark = {
        "stage": folder.name,
        "config_sha256": digest,
        "turns_sha256": sha256_file(path),
        "seconds": round(seconds, 1),
    }
    write_text_atomic(folder / "done.json", json.dumps(mark) + "\n")
