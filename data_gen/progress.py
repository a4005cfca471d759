"""What long work shows while it goes on: a line every few seconds, and its peak memory."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from pathlib import Path

_SECONDS = 5


class Progress:
    """One line every few seconds: done, kept, rate, memory.

    Args:
        state: attempts made, and those that would be kept now.

    Attributes:
        peak_mb: the most that this process and all below it held when a line was printed.
    """

    def __init__(self, state: Callable[[], tuple[int, int]]) -> None:
        self._state = state
        self._begun = self._shown = time.monotonic()
        self._new = 0
        self.peak_mb = tree_mb(os.getpid())

    def step(self) -> None:
        """One more; print now and then."""
        self._new += 1
        now = time.monotonic()
        if now - self._shown < _SECONDS:
            return
        self._shown = now
        mb = tree_mb(os.getpid())
        self.peak_mb = max(self.peak_mb, mb)
        done, kept = self._state()
        rate = self._new / max(1e-9, now - self._begun)
        print(f"data: attempts={done} kept={kept} per_second={rate:.1f} memory={mb}MB", flush=True)


def tree_mb(pid: int) -> int:
    """Memory of a process and all below it in MB, what they share counted once (Linux's PSS)."""
    kb = 0
    for one in [pid, *_below(pid)]:
        with contextlib.suppress(OSError, ValueError, IndexError):  # it has ended since
            text = Path(f"/proc/{one}/smaps_rollup").read_text()
            kb += int(text.split("\nPss:")[1].split()[0])
    return kb // 1024


def _below(pid: int) -> list[int]:
    found: list[int] = []
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                found += [int(child), *_below(int(child))]
    return found
