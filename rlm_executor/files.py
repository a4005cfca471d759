"""Files that survive a kill: atomic writes and append-only JSON lines.

A file written here is either the old one or the new one, never half of each; a JSONL file may end
in a torn line after a kill, which readers drop and ``read_jsonl(repair=True)`` removes, so that
its work is owed again.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from pathlib import Path
from typing import Any

_URL = re.compile(r"\b(?:https?|file)://[^\s\"'<>)\]]+|\b\d{1,3}(?:\.\d{1,3}){3}(?::\d+)?\b")
# A slash that starts a path of at least two parts; "and/or" and "</b>" are none.
_PATH = re.compile(r"(?<![\w.<:/])/(?:[\w.+@-]+/)+(?=[\w.+@-])")


def write_text_atomic(path: Path, text: str) -> None:
    """Write ``text`` to a temporary name beside ``path``, then rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def write_json_atomic(path: Path, value: Any) -> None:
    """Write ``value`` as indented JSON, atomically."""
    write_text_atomic(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def append_jsonl(path: Path, row: Any) -> None:
    """Append one JSON line in a single write, so that a kill tears at most the last line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    line = json.dumps(row, ensure_ascii=False, separators=(",", ":")) + "\n"
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        data = line.encode("utf-8", "surrogatepass")
        while data:
            data = data[os.write(descriptor, data) :]
    finally:
        os.close(descriptor)


def read_jsonl(path: Path, *, repair: bool = False) -> list[Any]:
    """All complete rows of ``path``; a torn last line is dropped (and cut off if ``repair``).

    Raises:
        ValueError: a line other than the last is damaged.
    """
    if not path.exists():
        return []
    rows: list[Any] = []
    good_bytes = 0
    lines = path.read_bytes().splitlines(keepends=True)
    for index, line in enumerate(lines):
        try:
            if not line.endswith(b"\n"):
                raise ValueError("no line end")
            rows.append(json.loads(line))
        except ValueError:
            if index != len(lines) - 1:
                raise ValueError(f"{path.name}: line {index + 1} is damaged") from None
            break
        good_bytes += len(line)
    if repair and good_bytes != sum(map(len, lines)):
        with path.open("rb+") as file:
            file.truncate(good_bytes)
    return rows


def sha256_text(text: str) -> str:
    """Hex digest of ``text`` in UTF-8."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def sha256_file(path: Path) -> str:
    """Hex digest of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def scrub(text: str) -> str:
    """``text`` without addresses and without the folders of absolute paths."""
    return _PATH.sub("", _URL.sub("<url>", text))
