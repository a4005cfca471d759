"""Finding journals, and the rows that a data run or an evaluation has written about them.

A journal is known by its first line. Rows lie beside the folder ``journals``: a data run's in
``attempts.jsonl``, an evaluation's in ``results.jsonl``; each names its journal below it.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rlm_executor.errors import InputError
from rlm_executor.files import read_jsonl

_FIRST_LINE = re.compile(rb'\s*\{\s*"type"\s*:\s*"run"')
_FIRST_BYTES = 64
_FOLDER = "journals"
_TABLES = ("attempts.jsonl", "results.jsonl")
Facts = dict[str, Any]


class Source(NamedTuple):
    """A journal, its name in the page, and its row."""

    path: Path
    name: str  # relative to what was given
    facts: Facts  # family, length, score, dropped_by, arm, ...: what its row has of them


def find(paths: Sequence[Path]) -> list[Source]:
    """The journals in ``paths``, each once, in order of their names.

    Args:
        paths: journals, and folders that are searched for ``*.jsonl``.

    Raises:
        InputError: a path is missing or no journal, there are no journals, or rows are damaged.
    """
    rows: dict[Path, dict[str, Facts]] = {}
    found: dict[Path, str] = {}
    for given, label in zip(paths, _labels(paths), strict=True):
        for path in _journals(given):
            below = path.relative_to(given).as_posix() if given.is_dir() else path.name
            name = f"{label}/{below}" if label else below
            # A name that is no UTF-8 is no address in the page.
            found.setdefault(path.resolve(), name.encode("utf-8", "replace").decode())
    if not found:
        raise InputError(f"no journals (*.jsonl of runs) in {', '.join(map(str, paths))}")
    named = sorted((name, path) for path, name in found.items())
    return [Source(path, name, _facts(path, rows)) for name, path in named]


def _labels(paths: Sequence[Path]) -> Iterator[str]:
    """What stands before the names of each path's journals: nothing where there is one path."""
    folders = [path if path.is_dir() else path.parent for path in paths]
    distinct = list(dict.fromkeys(folder.resolve() for folder in folders))
    seen: Counter[str] = Counter()
    labels: dict[Path, str] = {}
    for folder in distinct:
        seen[folder.name] += 1
        again = f" ({seen[folder.name]})" if seen[folder.name] > 1 else ""
        labels[folder] = f"{folder.name}{again}" if len(distinct) > 1 else ""
    return (labels[folder.resolve()] for folder in folders)


def _journals(given: Path) -> Iterator[Path]:
    if given.is_file():
        if not _is_journal(given):
            raise InputError(f"{given} is not a journal of a run: no `run` line at its start")
        yield given
        return
    if not given.is_dir():
        raise InputError(f"no journal or folder at {given}")
    for folder, folders, files in os.walk(given):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            path = Path(folder, name)
            if path.suffix == ".jsonl" and not name.startswith(".") and _is_journal(path):
                yield path


def _is_journal(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return _FIRST_LINE.match(file.read(_FIRST_BYTES)) is not None
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror})") from error


def _facts(path: Path, tables: dict[Path, dict[str, Facts]]) -> Facts:
    """The row of a journal; ``tables`` keeps what was read."""
    for parent in path.parents:
        if parent.name == _FOLDER:
            if parent not in tables:
                tables[parent] = _read(parent.parent)
            return tables[parent].get(path.relative_to(parent).as_posix(), {})
    return {}


def _read(folder: Path) -> dict[str, Facts]:
    """Rows by the name of their journal; of several the last one without an error."""
    rows: dict[str, Facts] = {}
    for table in _TABLES:
        try:
            for row in read_jsonl(folder / table):
                journal = row.get("journal")
                if journal and (journal not in rows or not row.get("error")):
                    rows[journal] = row
        except (ValueError, AttributeError) as error:
            raise InputError(f"{folder / table} is damaged: {error}") from error
    return rows
