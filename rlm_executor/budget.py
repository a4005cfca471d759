"""One budget for a whole run: sub-calls are reserved before they are sent, time runs from start."""

from __future__ import annotations

import time

from rlm_executor.errors import BudgetExhausted


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

    def extend(self, seconds: float) -> None:
        """Give the landing turn its own time, counted from now."""
        self._deadline = time.monotonic() + seconds
