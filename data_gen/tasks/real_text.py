"""Real text that every Python installation has: its own source code and its help topics.

A package is a top-level folder or module of the standard library; the text of a test of it goes
with it. Packages and topics are split by a hash of their names, so that what training saw is
never asked about in a test. Where the standard library is too small for a window, the installed
packages follow.

    for package in packages("train"):
        for path in package.paths:
            print(path, len(read(package, path) or ""))
"""

from __future__ import annotations

import hashlib
import random
import re
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

HEADER = "\n=== "  # what stands before a file's path in a window
_PATHS = sysconfig.get_paths()
STDLIB = Path(_PATHS["stdlib"])
INSTALLED = Path(_PATHS["purelib"])
_SKIPPED = {"__pycache__", "site-packages", "test", "tests", "idle_test", "lib2to3", "lib-dynload"}
_MAX_FILE = 400_000  # bytes; what is larger is generated tables


@dataclass(frozen=True)
class Package:
    """Python files of one package; paths are relative to ``folder``."""

    name: str
    folder: Path
    paths: tuple[str, ...]


def split_of(seed: int) -> str:
    """``train`` for training seeds, ``test`` for all others."""
    return "train" if seed < 700_000 else "test"


def in_split(name: str, split: str) -> bool:
    """Whether what has this name belongs to ``split``; three names in ten are held out."""
    held_out = hashlib.sha256(f"split/{name}".encode()).digest()[0] % 10 < 3
    return held_out == (split == "test")


@lru_cache(maxsize=8)
def packages(split: str, folder: Path = STDLIB) -> tuple[Package, ...]:
    """Packages of ``split`` in ``folder``, sorted by name, without their tests."""
    found = []
    for entry in sorted(folder.iterdir()):
        name = entry.stem
        if entry.name in _SKIPPED or not name.isidentifier() or not in_split(name, split):
            continue
        paths = _files(entry, folder, _SKIPPED)
        if paths:
            found.append(Package(name, folder, paths))
    return tuple(found)


@lru_cache(maxsize=2)
def _tests(split: str) -> tuple[Package, ...]:
    """The standard library's tests; a test has the split of what it tests."""
    folder = STDLIB / "test"
    found = []
    for entry in sorted(folder.iterdir()) if folder.is_dir() else ():
        tested = entry.stem.removeprefix("test_").partition("_")[0]
        if entry.stem.startswith("test_") and in_split(tested, split):
            found.append(Package(f"test/{entry.stem}", STDLIB, _files(entry, STDLIB, set())))
    return tuple(found)


def _files(entry: Path, folder: Path, skipped: set[str]) -> tuple[str, ...]:
    if entry.is_file():
        return (entry.relative_to(folder).as_posix(),) if entry.suffix == ".py" else ()
    paths = (path.relative_to(folder) for path in entry.rglob("*.py"))
    return tuple(sorted(p.as_posix() for p in paths if not skipped.intersection(p.parts)))


@lru_cache(maxsize=4096)
def read(package: Package, path: str) -> str | None:
    """A file's text; None if it is no plain UTF-8, too large, or has a window's own marks."""
    data = (package.folder / path).read_bytes()
    if not 200 <= len(data) <= _MAX_FILE or b"\r" in data or b"\0" in data or b"\f" in data:
        return None
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        return None
    return None if HEADER in text or "\n[end]" in text else text


def files(rng: random.Random, split: str) -> Iterator[tuple[str, str]]:
    """(path, text) of every file of the split in any order, the standard library's first."""
    for group in (packages(split), _tests(split)):
        yield from _shuffled(rng, group)
    if INSTALLED.is_dir():
        yield from _shuffled(rng, packages(split, INSTALLED))


def _shuffled(rng: random.Random, group: tuple[Package, ...]) -> Iterator[tuple[str, str]]:
    places = [(package, path) for package in group for path in package.paths]
    rng.shuffle(places)
    for package, path in places:
        text = read(package, path)
        if text is not None:
            yield path, text


@lru_cache(maxsize=2)
def paragraphs(split: str) -> tuple[tuple[str, str], ...]:
    """(topic, paragraph) of the language's help topics of ``split``."""
    from pydoc_data.topics import topics

    found = []
    for topic in sorted(topics):
        if in_split(f"topic/{topic}", split):
            parts = re.split(r"\n\s*\n", topics[topic])
            found += [(topic, p.strip("\n")) for p in parts if 60 <= len(p) <= 900 and "[" != p[0]]
    return tuple(found)
