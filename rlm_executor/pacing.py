"""How many requests go out at once, and what became of each attempt to send one.

``Pace`` is the limit: it goes down when a server says that it is asked too much and comes back
with its replies. ``Attempts`` know what the one error at the end of a call no longer tells.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from rlm_executor.lm import Usage

_SECONDS_BETWEEN_CUTS = 1.0  # refusals come in bursts: one burst is one sign


class Pace:
    """A limit on what is in flight: ``async with pace``, one event loop's.

    Halved by ``refused`` (at most once a second, never below 1), up by 1/limit with every
    ``succeeded``, never over ``most``. Waiters get their turn in order.
    """

    def __init__(self, most: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.most, self.in_flight = max(1, most), 0
        self._exact, self._clock, self._cut = float(self.most), clock, float("-inf")
        # Empty whenever a slot is free: whatever frees one hands it on at once.
        self._waiting: deque[asyncio.Future[None]] = deque()

    @property
    def limit(self) -> int:
        return int(self._exact)

    def refused(self) -> None:
        """The server said that it is asked too much."""
        now = self._clock()
        if now - self._cut >= _SECONDS_BETWEEN_CUTS:
            self._cut, self._exact = now, max(1.0, self._exact / 2)

    def succeeded(self) -> None:
        """A call got its reply."""
        self._exact = min(float(self.most), self._exact + 1 / self._exact)
        self._hand_on()

    async def __aenter__(self) -> None:
        if self.in_flight < self.limit:
            self.in_flight += 1
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled():  # it had been given its slot, and goes without taking it
                self._leave()
            elif turn in self._waiting:
                self._waiting.remove(turn)
            raise

    async def __aexit__(self, *_: object) -> None:
        self._leave()

    def _leave(self) -> None:
        self.in_flight -= 1
        self._hand_on()

    def _hand_on(self) -> None:
        while self._waiting and self.in_flight < self.limit:
            turn = self._waiting.popleft()
            if not turn.done():  # else cancelled, and its task has not run since
                self.in_flight += 1
                turn.set_result(None)


class Meter(Protocol):
    """Counts what is spent where several runs share a bound: one request after the other."""

    def take(self, most: Usage) -> None:
        """Room for a request that may use this much.

        Raises:
            SpendingStopped: there is none.
        """
        ...

    def settle(self, most: Usage, used: Usage | None) -> None:
        """The request has ended; None: nobody knows what it used, so all of it counts."""
        ...


@dataclass
class Attempts:
    """What was sent for one call.

    Args:
        meter: is asked before each attempt.
        most: what an attempt may use at most.

    Attributes:
        unknown: attempts that the server may have worked on, nobody knows how much.
        in_flight: one was sent, and how it ended is not known yet.
        started: when that one was, by time.monotonic.
        usage: what that one had used by now, where its stream tells.
    """

    meter: Meter | None = None
    most: Usage = Usage()
    unknown: int = 0
    in_flight: bool = False
    started: float = 0.0
    usage: Usage | None = None

    def sent(self) -> None:
        if self.meter is not None:
            self.meter.take(self.most)
        self.in_flight, self.started, self.usage = True, time.monotonic(), None

    def ended(self, *, known: bool) -> None:
        """The attempt in flight is over; ``known``: so is what it used."""
        self.in_flight = False
        self.unknown += not known
        if self.meter is not None:
            self.meter.settle(self.most, (self.usage or Usage()) if known else None)

    def cancelled(self) -> Usage | None:
        """What the call had used that is cancelled now; None if nobody knows."""
        if not self.in_flight:  # it waited for its turn, or to try again
            return None if self.unknown else Usage()
        self.ended(known=self.usage is not None)
        return self.usage
