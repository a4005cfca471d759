"""The memory of all sessions together: the kernel limits each of them, this limits their sum.

A session's own limit is of address space, generous and per process; many of them could still use
up the machine. So what they have taken since their start is added up a few times a second, and
when it is over the share, the one that took most ends.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import threading
import time
from pathlib import Path
from typing import Protocol

SHARE = 0.5  # of the memory of the machine, or of the container
WATCH_SECONDS = 0.25
_PAGE = resource.getpagesize()


class Watched(Protocol):
    """What is watched: a session."""

    pidfd: int
    overdrawn: bool

    def signal(self, which: signal.Signals) -> None:
        """Send it a signal."""


class Watch:
    """Adds up and ends; its thread runs while there is something to watch."""

    def __init__(self, limit: int | None = None) -> None:
        self.limit = limit or int(SHARE * machine_bytes())
        self._lock = threading.Lock()
        self._start: dict[Watched, tuple[int, int]] = {}  # its pid, and its bytes at the start
        self._thread: threading.Thread | None = None

    def add(self, session: Watched) -> None:
        """Begin to count."""
        pid = pid_of(session.pidfd)
        with self._lock:
            self._start[session] = pid, resident_bytes(pid)
            if self._thread is None:
                thread = threading.Thread(target=self._run, name="memory", daemon=True)
                thread.start()
                self._thread = thread

    def remove(self, session: Watched) -> None:
        """It has ended, or will at once."""
        with self._lock:
            self._start.pop(session, None)

    def taken(self) -> dict[Watched, int]:
        """Bytes that each session has taken since its start."""
        with self._lock:
            taken = {}
            for session, (pid, before) in self._start.items():
                now = resident_bytes(pid)
                self._start[session] = pid, min(before, now)  # what it let go of is not a credit
                taken[session] = max(0, now - before)
            return taken

    def forget(self) -> None:
        """In a fork: the sessions are the parent's, and its thread is not here."""
        self._lock, self._thread = threading.Lock(), None
        self._start = {}

    def _run(self) -> None:
        while True:
            time.sleep(WATCH_SECONDS)
            with self._lock:
                if not self._start:
                    self._thread = None
                    return
            taken = self.taken()
            if sum(taken.values()) > self.limit:
                largest = max(taken, key=taken.__getitem__)
                with self._lock:
                    if largest in self._start:  # it may have ended by itself
                        largest.overdrawn = True
                        largest.signal(signal.SIGKILL)


def pid_of(pidfd: int) -> int:
    """The pid behind a pidfd as this process sees it, whatever the other calls itself."""
    with open(f"/proc/self/fdinfo/{pidfd}", encoding="ascii") as file:
        fields = dict(line.split(":", 1) for line in file)
    return int(fields["Pid"])


def resident_bytes(pid: int) -> int:
    """Memory that a process has touched, 0 when it has ended."""
    with contextlib.suppress(OSError):
        text = Path(f"/proc/{pid}/statm").read_text(encoding="ascii")
        return int(text.split()[1]) * _PAGE
    return 0


def machine_bytes() -> int:
    """Memory of the machine, or of the container if that has less."""
    total = os.sysconf("SC_PHYS_PAGES") * _PAGE
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with contextlib.suppress(OSError, ValueError):
            total = min(total, int(Path(path).read_text(encoding="ascii")))
    return total
