"""How one run of the scripted expert writes: every choice is drawn once, by its name.

    style = Style(seed=3)
    rows = style.name("rows")                       # "notes"
    size = style.pick("chunk", (4, 8, 16))          # the same each time it is asked
    reply = style.say(f"{rows} = context.splitlines()\nprint(len({rows}))")

Runs differ in names, decompositions, chunk sizes, checks, prose and form of the code, and are
reproducible: the same seed and name give the same choice, whatever else is asked before.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

ItemT = TypeVar("ItemT")

_NAMES: dict[str, tuple[str, ...]] = {
    "rows": ("rows", "notes", "lines", "records", "entries"),
    "row": ("r", "row", "line", "x"),
    "texts": ("texts", "items", "bodies", "notes_text"),
    "users": ("users", "who", "owners", "authors"),
    "labels": ("labels", "tags", "kinds", "classes"),
    "found": ("found", "hits", "values", "matches"),
    "parts": ("parts", "chunks", "pieces", "batches"),
    "part": ("p", "part", "chunk", "piece"),
    "prompts": ("prompts", "asks", "queries"),
    "replies": ("out", "replies", "answers", "outs"),
    "result": ("result", "final", "res", "total"),
}


@dataclass(frozen=True)
class Style:
    """The choices of one run.

    Args:
        seed: of the run.
        variety: 0 makes the first option nearly always, 1 all options alike.
        mistakes: probability that the run makes one mistake on purpose.
    """

    seed: int
    variety: float = 1.0
    mistakes: float = 0.0

    def rng(self, key: str) -> random.Random:
        """Random numbers of this run for what ``key`` names."""
        return random.Random(f"style/{self.seed}/{key}")

    def pick(self, key: str, options: Sequence[ItemT]) -> ItemT:
        """One of ``options``."""
        rng = self.rng(key)
        return rng.choice(options) if rng.random() < self.variety else options[0]

    def chance(self, key: str, probability: float) -> bool:
        """Whether something is done that only some runs do."""
        return self.rng(key).random() < probability * self.variety

    def mistake(self, kinds: Sequence[str]) -> str:
        """The mistake that this run makes, one of ``kinds``, or ""."""
        rng = self.rng("mistake")
        return rng.choice(kinds) if rng.random() < self.mistakes else ""

    def name(self, role: str) -> str:
        """The variable's name for what it holds."""
        return self.pick(f"name/{role}", _NAMES.get(role, (role,)))

    def say(self, code: str, *prose: str) -> str:
        """A reply with one block of code, perhaps after a sentence of ``prose``."""
        first = self.pick(f"prose/{code[:20]}", ("", *prose)) if prose else ""
        return f"{first}\n```repl\n{code}\n```".lstrip("\n")

    def finish(self, expression: str) -> str:
        """Code that gives the answer and ends the run."""
        return f'answer["content"] = {expression}\nanswer["ready"] = True'
