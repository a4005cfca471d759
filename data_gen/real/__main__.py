"""Check the files of a real data set before anything is spent on it.

    python -m data_gen.real NAME [--path FILE_OR_FOLDER] [--limit N] [--set field=value ...]

Prints where the rows come from, their hash, the tasks by kind and length, and one question.
`--set field=null` is for none.
"""

from __future__ import annotations

import argparse
from collections import Counter
from typing import Any

from data_gen.real import SETS, configure, load
from data_gen.tasks.task import Task
from rlm_executor.cli import run_cli
from rlm_executor.errors import ConfigError, InputError

_SHOWN = 1_000  # characters of the example


def main() -> None:
    """Load, check, count, print."""
    parser = argparse.ArgumentParser(prog="python -m data_gen.real", description=__doc__)
    parser.add_argument("name", choices=SETS, metavar="NAME", help=", ".join(SETS))
    parser.add_argument("--path", help="a file or folder; without it, the Hub")
    parser.add_argument("--limit", type=int, help="tasks at most")
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE")
    options = parser.parse_args()
    values: dict[str, Any] = dict(map(_setting, options.set))
    values |= {"path": options.path} if options.path else {}
    values |= {"limit": options.limit} if options.limit is not None else {}
    found = load(options.name, configure(options.name, values))
    print(f"{found.name}: {found.rows:,} rows of {found.source}")
    print(f"rows used: sha256 {found.sha256}")
    for what, count in found.notes.items():
        print(f"{what}: {count}")
    counts: Counter[tuple[str, str, str]] = Counter()
    ids: Counter[str] = Counter()
    tokens, example = 0, None
    for window in found:
        tokens += window.length
        for task in window.tasks:
            counts[task.meta["kind"], str(task.meta["bucket"]), task.metric] += 1
            ids[task.id] += 1
            example = example or task
    repeated = [name for name, count in ids.items() if count > 1]
    if repeated or example is None:
        raise InputError(
            f"{found.source}: {len(repeated)} task ids are repeated, {len(ids)} tasks in all; "
            "expected at least one and each once: the files are not the original ones"
        )
    print(f"{len(ids):,} tasks, {tokens:,} tokens (bytes/4) of context in all")
    for (kind, bucket, metric), count in sorted(counts.items()):
        print(f"{count:>6}  {bucket:<16}  {metric:<18}  {kind}")
    _print_example(example)


def _print_example(task: Task) -> None:
    print(f"\nan example, {task.id}:")
    if task.meta.get("sealed"):
        print(f"(decrypted; {len(task.question):,} characters, not shown)")
        return
    print(task.question[:_SHOWN] + ("..." if len(task.question) > _SHOWN else ""))
    print(f"gold: {str(task.answer)[:200]}")


def _setting(text: str) -> tuple[str, str | None]:
    # Values stay text for the configuration to read: as YAML, a commit of digits were a number.
    name, separator, value = text.partition("=")
    if not separator or not name:
        raise ConfigError(f"--set {text}", "is not of the form field=value", "write field=value")
    return name, None if value == "null" else value


if __name__ == "__main__":
    run_cli(main)
