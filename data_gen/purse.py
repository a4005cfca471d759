"""The dollars of a generation: room is taken before each request, so the bound is never passed.

A request that nobody knows the use of (timeout, cut connection) counts as much as it could have
cost. The file holds an upper bound of what is spent at any moment, so a kill forgets nothing.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rlm_executor import Price, Usage
from rlm_executor.errors import SpendingStopped
from rlm_executor.files import write_json_atomic

_SLICES = 200  # the file is written when another part of the bound is begun


class Purse:
    """What is spent and what may be.

    Args:
        most: dollars; None: no bound.
        file: keeps what was spent by earlier calls.

    Attributes:
        spent: dollars, at most.
        empty: a request was refused.
        faults: requests that failed, by kind; of earlier calls, until it is closed.
    """

    def __init__(self, most: float | None, file: Path) -> None:
        self._most, self._file = most, file
        known = json.loads(file.read_text()) if file.exists() else {}
        self.spent = float(known.get("dollars_at_most", 0.0))
        self.faults: Counter[str] = Counter(known.get("faults", {}))
        self.empty = False
        self._out = 0.0  # reserved for requests on their way
        self._written = self.spent

    def take(self, dollars: float) -> None:
        """Reserve.

        Raises:
            SpendingStopped: the bound would be passed.
        """
        if self._most is not None and self.spent + self._out + dollars > self._most:
            self.empty = True
            raise SpendingStopped(f"max_dollars={self._most} has no room for ${dollars:.4f}")
        self._out += dollars
        if self.spent + self._out > self._written:
            step = (self._most or 1.0) / _SLICES
            self._write(self.spent + self._out + step)

    def settle(self, reserved: float, used: float) -> None:
        """What was reserved has cost ``used``."""
        self._out -= reserved
        self.spent += used

    def close(self, faults: Mapping[str, int]) -> None:
        """Write down what it is now, and what has failed since it was opened."""
        self.faults.update(faults)
        self._write(self.spent)

    def _write(self, dollars: float) -> None:
        self._written = dollars if self._most is None else min(dollars, self._most)
        told = {"dollars_at_most": round(self._written, 6), "faults": dict(self.faults)}
        write_json_atomic(self._file, told)


@dataclass(frozen=True)
class PurseMeter:
    """The purse, for the requests of one model (``rlm_executor.pacing.Meter``)."""

    purse: Purse
    price: Price

    def take(self, most: Usage) -> None:
        """Reserve what a request may cost."""
        self.purse.take(self.price.of(most))

    def settle(self, most: Usage, used: Usage | None) -> None:
        """It has ended."""
        dollars = self.price.of(most)
        self.purse.settle(dollars, dollars if used is None else self.price.of(used))
