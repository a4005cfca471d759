"""Tasks and the windows (long contexts) that they are asked about.

A window is one context with several questions; its text is a stream of chunks that is the same
on every machine for the same family, length and seed. Length is counted as bytes/4 ("tokens").
Seeds: below 700000 train, 700000-799999 development, 800000-899999 recorded test runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rlm_executor.errors import InputError
from rlm_executor.files import sha256_text

BYTES_PER_TOKEN = 4
SPLITS = {"train": range(700_000), "dev": range(700_000, 800_000), "test": range(800_000, 900_000)}


@dataclass(frozen=True)
class Task:
    """One question about a window; ``answer`` is the gold, ``metric`` names how it is scored."""

    id: str
    family: str
    question: str
    answer: str | list[str]
    metric: str
    meta: dict[str, Any]


@dataclass
class Window:
    """A context of ``length`` tokens (bytes/4) and the tasks asked about it."""

    id: str
    family: str
    length: int
    seed: int
    tasks: list[Task]
    chunks: Callable[[], Iterator[str]] = field(repr=False)
    facts: dict[str, Any] = field(default_factory=dict, repr=False)

    def text(self) -> str:
        """The whole context as one string."""
        return "".join(self.chunks())

    def write(self, path: Path) -> None:
        """Stream the context into ``path``."""
        with path.open("w", encoding="utf-8", newline="") as file:
            for chunk in self.chunks():
                file.write(chunk)


def task_id(family: str, length: int, seed: int, index: int) -> str:
    """Stable name of a task: a hash of everything that determines it."""
    return f"{family}-{sha256_text(f'{family}/{length}/{seed}/{index}/v1')[:12]}"


def check_seed(seed: int, split: str) -> None:
    """Refuse a seed outside its split, so that evaluation tasks can't leak into training.

    Raises:
        InputError: the seed is not of ``split``.
    """
    allowed = SPLITS[split]
    if seed not in allowed:
        raise InputError(
            f"seed {seed} is not a {split} seed; use {allowed.start} to {allowed.stop - 1}"
        )
