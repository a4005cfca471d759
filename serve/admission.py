"""Who is let in, and who has gone away: slots with a bounded queue, work that ends with its client.

async with Admission(running=4, waiting=16).slot(): ...     # a Refusal (429) if the queue is full
result = await while_connected(request, work())             # None: the client went away
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import AsyncIterator, Coroutine
from typing import Any, TypeVar

from starlette.requests import Request

from serve.wire import Refusal

ResultT = TypeVar("ResultT")


class Admission:
    """Slots for running loops and a bounded queue before them."""

    def __init__(self, running: int, waiting: int) -> None:
        self._slots = asyncio.Semaphore(running)
        self._running, self._most = running, running + waiting
        self.present = 0
        self._seconds: deque[float] = deque([5.0], maxlen=16)  # of recent runs; a guess at first

    @contextlib.asynccontextmanager
    async def slot(self) -> AsyncIterator[None]:
        """Wait for a slot and hold it.

        Raises:
            Refusal: 429, too many are waiting.
        """
        if self.present >= self._most:
            raise Refusal(
                429,
                f"{self.present} requests are running or waiting; try again later",
                kind="rate_limit_error",
                code="too_many_requests",
                retry_after_s=self.retry_after_s(),
            )
        self.present += 1
        try:
            async with self._slots:
                started = time.monotonic()
                yield
                self._seconds.append(time.monotonic() - started)
        finally:
            self.present -= 1

    def retry_after_s(self) -> int:
        """When a slot in the queue should be free."""
        mean = sum(self._seconds) / len(self._seconds)
        return max(1, min(600, round(mean / self._running + 0.5)))


async def while_connected(request: Request, work: Coroutine[Any, Any, ResultT]) -> ResultT | None:
    """The result of ``work``, or None after cancelling it because the client went away."""
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_until_gone(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        return task.result() if task.done() else None
    finally:
        for future in (task, gone):
            future.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def _until_gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
