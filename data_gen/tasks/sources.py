"""Pieces of real text from a folder, by default this Python's standard library.

Packages are split as in ``real_text``, so that no family trains on what another is tested with.
The text differs between Python versions; ``sha256`` tells what was used.

    source = load("train")
    source.pieces[0]
"""

from __future__ import annotations

import functools
import hashlib
import re
import sysconfig
from dataclasses import dataclass, field
from pathlib import Path

from data_gen.tasks.real_text import in_split
from rlm_executor.errors import InputError

_SKIPPED = {"test", "tests", "idlelib", "lib2to3", "site-packages", "__pycache__", "encodings"}
_MOST_LINE, _MOST_BLANK = 100, 1
_PIECE_CHARS = 900


@dataclass(frozen=True)
class Source:
    """Pieces of about 900 characters that end at line ends, and where they come from."""

    pieces: tuple[str, ...] = field(repr=False)
    packages: tuple[str, ...]
    words: frozenset[str] = field(repr=False)  # so that made-up names can keep clear of them
    sha256: str


@functools.cache
def load(split: str, folder: Path | None = None) -> Source:
    """The pieces of ``split`` ("train", or any other: the held-out packages).

    Raises:
        InputError: the folder has no Python files for this split.
    """
    root = folder or Path(sysconfig.get_path("stdlib"))
    pieces: list[str] = []
    packages: set[str] = set()
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).parts
        package = parts[0].removesuffix(".py")
        if _SKIPPED & {*parts} or in_split(package, "train") != (split == "train"):
            continue
        try:
            text = path.read_text(encoding="ascii")  # then characters are bytes
        except (UnicodeDecodeError, OSError):
            continue
        digest.update(f"{'/'.join(parts)}\0{text}\0".encode())
        packages.add(package)
        pieces += _cut(text)
    if not pieces:
        raise InputError(
            f"no pieces of text for {split!r} in {root.name}; give a folder with more .py files"
        )
    words = frozenset(re.findall(r"\w+", " ".join(pieces)))
    return Source(tuple(pieces), tuple(sorted(packages)), words, digest.hexdigest())


def _cut(text: str) -> list[str]:
    """Runs of whole lines; long and repeated blank lines are left out."""
    pieces: list[str] = []
    lines: list[str] = []
    size = blank = 0
    for line in (line.rstrip() for line in text.splitlines()):
        blank = 0 if line else blank + 1
        if len(line) > _MOST_LINE or blank > _MOST_BLANK or not line.isprintable():
            continue
        lines.append(line)
        size += len(line) + 1
        if size >= _PIECE_CHARS:
            pieces.append("\n".join(lines) + "\n")
            lines, size = [], 0
    return pieces
