"""What a score of a real task is: a value with its name, or the reason why there is none."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

# Texts -> one vector each.
Embed = Callable[[list[str]], Sequence[Sequence[float]]]
# (question, gold, answer) -> right or not; None where the judge's reply could not be read.
Judge = Callable[[str, str, str], bool | None]


@dataclass(frozen=True)
class Hooks:
    """Models that some metrics need; without one, its tasks are not scored or scored by text."""

    embed: Embed | None = None
    judge: Judge | None = None


@dataclass(frozen=True)
class Score:
    """``value`` in [0, 1] by ``metric``; None: not scorable here, ``why`` says so.

    ``parts`` holds other readings of the same answer, by name, ``metric`` among them.
    """

    value: float | None
    metric: str
    parts: dict[str, float] = field(default_factory=dict)
    why: str = ""

    @classmethod
    def of(cls, metric: str, parts: dict[str, float]) -> Score:
        """The one of ``parts`` that is named ``metric``, with the others beside it."""
        return cls(parts[metric], metric, parts)
