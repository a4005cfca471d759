"""What one run may use (``Limits``), and what it has used (``Budget``).

One budget holds for the whole run: sub-calls are reserved before they are sent, and time runs from
the start.
"""

from __future__ import annotations

import time

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass as checked_dataclass

from rlm_executor.errors import BudgetExhausted


@checked_dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Limits:
    """What one run may use; at any of them it lands with what is known."""

    max_turns: int = Field(default=20, ge=1)  # root replies, without the landing turn
    max_calls: int = Field(default=1000, ge=0)  # sub-calls in the whole run
    max_seconds: float = Field(default=1800, gt=0)  # wall clock, without the landing turn
    cell_timeout_s: float = Field(default=60, gt=0)  # one cell's own time, sub-calls not counted
    max_tokens_per_turn: int = Field(default=4096, ge=1)
    sub_max_tokens: int = Field(default=2048, ge=1)
    observation_chars: int = Field(default=8000, ge=100)  # shown of one turn's output


class Budget:
    """Sub-calls and seconds of one run, shared by everything that it starts."""

    def __init__(self, max_calls: int, max_seconds: float) -> None:
        self.max_calls = max_calls
        self.used_calls = 0
        self.refused = False  # some call found no room: the run has to land
        self._deadline = time.monotonic() + max_seconds

    def reserve(self, calls: int) -> None:
        """Take room for ``calls`` sub-calls, all or none.

        Raises:
            BudgetExhausted: not that many are left.
        """
        left = self.max_calls - self.used_calls
        if calls > left:
            self.refused = True
            raise BudgetExhausted(
                f"{calls} sub-call{'s' * (calls != 1)} asked for, {left} of {self.max_calls} left"
            )
        self.used_calls += calls

    def give_back(self, calls: int) -> None:
        """Return room that was reserved for calls that got no reply."""
        self.used_calls -= calls

    def seconds_left(self) -> float:
        """Seconds until the run has to land; never below 0."""
        return max(0.0, self._deadline - time.monotonic())

    def deadline(self) -> float:
        """The moment (monotonic) at which whatever runs then has to stop."""
        return self._deadline

    def extend(self, seconds: float) -> None:
        """Give the landing turn its own time, counted from now."""
        self._deadline = time.monotonic() + seconds
