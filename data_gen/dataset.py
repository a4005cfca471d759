"""The finished dataset: parquet rows through ``datasets``, and a card written from the numbers.

Two configs: ``trajectories`` (a row a run, for people) and ``turns`` (a row a root turn, for
trainers: ``prompt`` is the messages before it, ``completion`` the turn; turns whose code failed
are in the prompts of later turns but never a completion).
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

from rlm_executor import RLMCard, Trajectory
from rlm_executor.files import read_jsonl, sha256_file, write_text_atomic

NO_THINKING = {"enable_thinking": False}


def turn_rows(attempt: dict[str, Any], journal: Path) -> list[dict[str, Any]]:
    """The training rows of one kept run."""
    turns = Trajectory.read(journal).turns
    return [
        {
            "prompt": turn.messages,
            "completion": [{"role": "assistant", "content": turn.reply}],
            "chat_template_kwargs": NO_THINKING,
            "run": attempt["task_id"],
            "task_id": attempt["task_id"],
            "family": attempt["family"],
            "turn": index,
            "turns": len(turns),
        }
        for index, turn in enumerate(turns)
        if not turn.error
    ]


def write(
    folder: Path, chosen: list[dict[str, Any]], card: RLMCard, config: dict[str, Any]
) -> None:
    """Write ``dataset/`` and the dataset card into ``folder``; all of it or nothing."""
    rows: list[dict[str, Any]] = []
    runs: list[dict[str, Any]] = []
    for attempt in chosen:
        journal = folder / "journals" / attempt["journal"]
        own = turn_rows(attempt, journal)
        rows += own
        trajectory = Trajectory.read(journal)
        last = trajectory.turns[-1]
        runs.append(
            {
                **{key: attempt[key] for key in ("task_id", "family", "kind", "seed", "length")},
                "question": trajectory.run["question"],
                "score": attempt["score"],
                "turns": attempt["turns"],
                "calls": attempt["calls"],
                "messages": [*last.messages, {"role": "assistant", "content": last.reply}],
            }
        )
    write_parquet(folder / "dataset", {"trajectories": runs, "turns": rows})
    text = describe(json.loads((folder / "funnel.json").read_text()), runs, rows, card, config)
    write_text_atomic(folder / "README.md", text)


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


def describe(
    funnel: dict[str, Any],
    runs: list[dict[str, Any]],
    rows: list[dict[str, Any]],
    card: RLMCard,
    config: dict[str, Any],
) -> str:
    """The dataset card."""
    families = "\n".join(
        f"| {name} | {own['attempts']} | {sum(own['dropped'].values())} | {own['kept']} |"
        for name, own in funnel["by_family"].items()
    )
    drops = ", ".join(f"{rule} {count}" for rule, count in funnel["dropped"].items())
    turns = Counter(run["turns"] for run in runs)
    lengths = Counter(run["length"] for run in runs)
    teacher = config["teacher"]["model"] or "scripted expert"
    leaf = config["leaf"]["model"] or "scripted (labels from the lexicon)"
    return f"""---
license: apache-2.0
configs:
- config_name: trajectories
  data_files: dataset/trajectories.parquet
- config_name: turns
  data_files: dataset/turns.parquet
---
# Trajectories of a recursive language model

{len(runs)} runs of a teacher in the REPL loop of arXiv 2512.24601, {len(rows)} root turns.
Teacher: {teacher}; sub-calls: {leaf}; dialect: `{card.dialect.name}` (its full text is in
`rlm.json`). Tasks are synthetic with truth by construction, seeds from {config["first_seed"]} on.

| family | attempts | dropped | kept |
|---|---|---|---|
{families}

Dropped by rule: {drops}. Passed but beyond the family's share: {funnel["passed_not_needed"]}.
Turns whose code failed and that are therefore no target: {funnel["error_turns_not_trained"]}.
Turns a run: {_counts(turns)}. Context lengths in tokens (bytes/4): {_counts(lengths)}.
Sub-calls: {sum(run["calls"] for run in runs)} in all.
"""


def _counts(counter: Counter[int]) -> str:
    return ", ".join(f"{value} ({count})" for value, count in sorted(counter.items()))


def print_funnel(folder: Path) -> None:
    """The funnel as a few lines."""
    funnel = json.loads((folder / "funnel.json").read_text())
    print(f"data: attempts={funnel['attempts']} kept={funnel['kept']} dropped={funnel['dropped']}")
    for name, own in funnel["by_family"].items():
        print(f"data:   {name}: attempts={own['attempts']} kept={own['kept']}")


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
