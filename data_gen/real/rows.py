"""Rows of data files: streamed, checked by column name and type, counted, hashed.

JSON (an array, or one object after the other) is read value by value, Parquet row group by row
group and only the columns asked for, so that no file is ever whole in memory.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Collection, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from rlm_executor.errors import InputError

Row = dict[str, Any]
_BLOCK = 1 << 20  # characters read at a time
_BATCH_ROWS = 16  # of Parquet: a row can hold megabytes
_GAP = re.compile(r"[\s,]*")
# A JSON error this near the end of what was read so far may only mean that more must be read.
_TAIL = 16


def _is_documents(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(one, dict)
        and isinstance(one.get("docid"), str | int)
        and _is_str(one.get("text"))
        for one in value
    )


def _is_str(value: Any) -> bool:
    return isinstance(value, str)


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


KINDS: dict[str, Callable[[Any], bool]] = {
    "text": _is_str,
    "integer": _is_int,
    "text or nothing": lambda value: value is None or _is_str(value),
    "text or integer": lambda value: _is_str(value) or _is_int(value),
    "list of texts": lambda value: isinstance(value, list) and all(map(_is_str, value)),
    "list of documents": _is_documents,  # of {docid, text} and maybe url
}


@dataclass(frozen=True)
class Origin:
    """A data set on the Hub: its files as patterns, its columns as name -> one of ``KINDS``."""

    repo: str
    files: tuple[str, ...]
    columns: dict[str, str]


@dataclass(frozen=True)
class Files:
    """Data files that were found; ``commit`` is None where nothing beside them names it."""

    origin: Origin
    revision: str
    paths: tuple[Path, ...]
    commit: str | None

    @property
    def source(self) -> str:
        """Repository and commit, as a result should name them."""
        told = self.commit or f"{self.revision or 'unknown'} (expected, not checked)"
        return f"{self.origin.repo}@{told}"

    @property
    def expected(self) -> str:
        """The revision that error messages speak of."""
        return f"{self.origin.repo} at revision {self.revision or '(none pinned)'}"


@dataclass(frozen=True)
class Scan:
    """One pass over all rows: how many, how many of them match, which are used, their hash."""

    rows: int
    matched: int
    chosen: tuple[int, ...]
    sha256: str


class RowHash:
    """sha256 over rows, whatever kind of file they came from."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()

    def add(self, row: Row) -> None:
        """Take in one row; the order of its columns does not matter."""
        line = json.dumps(row, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
        self._hash.update(line.encode("utf-8", "surrogatepass") + b"\n")

    def hexdigest(self) -> str:
        """Of all rows so far."""
        return self._hash.hexdigest()


def rows(
    files: Files, read: Collection[str], only: Collection[int] | None = None
) -> Iterator[tuple[int, Row]]:
    """(number from 0, columns ``read``) of every row, or of those numbered ``only``.

    Raises:
        InputError: a damaged file, a missing column, a value of another type.
    """
    start = 0
    for path in files.paths:
        reader = _parquet_rows if path.suffix == ".parquet" else _json_rows
        start += yield from reader(files, path, start, read, only)


def scan(
    files: Files, read: Collection[str], keep: Callable[[Row], bool], limit: int | None
) -> Scan:
    """Check every row, choose the first ``limit`` that ``keep`` wants, and hash those.

    Raises:
        InputError: as ``rows``.
    """
    number, matched, digest = -1, 0, RowHash()
    chosen: list[int] = []
    for number, row in rows(files, read):
        if not keep(row):
            continue
        matched += 1
        if limit is None or len(chosen) < limit:
            chosen.append(number)
            digest.add(row)
    return Scan(number + 1, matched, tuple(chosen), digest.hexdigest())


def expect_count(files: Files, what: str, found: int, expected: int) -> None:
    """Refuse another number of rows than the pinned revision has.

    Raises:
        InputError: the counts differ.
    """
    if found != expected:
        raise InputError(
            f"{_names(files)}: {found:,} {what}, expected {expected:,} of {files.expected}; this "
            "is another revision or not the whole set: get the expected one, or set the revision "
            "and the count to what you mean to use"
        )


def _names(files: Files) -> str:
    first = files.paths[0].name
    return first if len(files.paths) == 1 else f"{first} and {len(files.paths) - 1} more"


def first_line(error: BaseException) -> str:
    """Class and first line of an error, for a message of one line."""
    return f"{type(error).__name__}: {error}".strip().splitlines()[0][:200]


def _check_row(
    files: Files, path: Path, number: int, row: Row, read: Collection[str], what: str
) -> Row:
    missing = [name for name in read if name not in row]
    if missing:
        raise InputError(
            f"{path.name}: {what} has no column {', '.join(missing)}; found: "
            f"{', '.join(map(str, row)) or '(none)'}; expected {files.expected}"
        )
    for name in read:
        kind = files.origin.columns[name]
        if not KINDS[kind](row[name]):
            raise InputError(
                f"{path.name}: row {number + 1}: column {name} holds {type(row[name]).__name__}, "
                f"expected {kind}, as in {files.expected}"
            )
    return {name: row[name] for name in read}


def _damaged(path: Path, number: int, why: str) -> InputError:
    return InputError(
        f"{path.name}: row {number + 1} is damaged ({why}); get the file again and compare its size"
    )


def _json_rows(
    files: Files, path: Path, start: int, read: Collection[str], only: Collection[int] | None
) -> Generator[tuple[int, Row], None, int]:
    number = 0
    try:
        with path.open(encoding="utf-8") as file:
            for value in _json_values(file):
                if not isinstance(value, dict):
                    raise _damaged(path, number, f"{type(value).__name__}, not an object")
                # Every column is looked for, so that a JSON file is checked as a Parquet one is.
                row = _check_row(
                    files, path, number, value, files.origin.columns, f"row {number + 1}"
                )
                if only is None or start + number in only:
                    yield start + number, {name: row[name] for name in read}
                number += 1
    except (ValueError, OSError) as error:
        raise _damaged(path, number, getattr(error, "msg", None) or first_line(error)) from error
    return number


def _json_values(file: TextIO) -> Iterator[Any]:
    """Values of an array, or of a file that holds one after the other."""
    decoder = json.JSONDecoder()
    text, at, first, array, ended = "", 0, True, False, False
    while True:
        gap = _GAP.match(text, at)
        at = gap.end() if gap else at
        if at < len(text):
            if first and text[at] == "[":
                first, array, at = False, True, at + 1
                continue
            if array and text[at] == "]":
                return
            try:
                value, end = decoder.raw_decode(text, at)
            except json.JSONDecodeError as error:
                cut = error.msg.startswith("Unterminated") or error.pos >= len(text) - _TAIL
                if ended or not cut:
                    raise
            else:
                first, at = False, end
                yield value
                continue
        if ended:
            if array:
                raise ValueError("the file ends before its closing bracket")
            return
        # As much again as is pending: a row of n characters is then tried log n times.
        more = file.read(max(_BLOCK, len(text) - at))
        text, at, ended = text[at:] + more, 0, not more


def _parquet_rows(
    files: Files, path: Path, start: int, read: Collection[str], only: Collection[int] | None
) -> Generator[tuple[int, Row], None, int]:
    import pyarrow.parquet as parquet

    number = 0
    try:
        table = parquet.ParquetFile(path)
        names = dict.fromkeys(table.schema_arrow.names)
        missing = [name for name in files.origin.columns if name not in names]
        _check_row(files, path, 0, names, missing, "the table")
        for group in range(table.num_row_groups):
            count = table.metadata.row_group(group).num_rows
            span = range(start + number, start + number + count)
            if only is not None and not any(index in only for index in span):
                number += count
                continue
            for batch in table.iter_batches(_BATCH_ROWS, row_groups=[group], columns=list(read)):
                for row in batch.to_pylist():
                    if only is None or start + number in only:
                        yield (
                            start + number,
                            _check_row(files, path, number, row, read, f"row {number + 1}"),
                        )
                    number += 1
    except (ValueError, OSError) as error:
        raise _damaged(path, number, first_line(error)) from error
    return number
