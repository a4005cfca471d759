"""One cell while it runs: its deadline, its sub-calls, and what the session may send now."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import signal
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from rlm_executor.sandbox import frames
from rlm_executor.sandbox.link import Gone, Link, Violation
from rlm_executor.sandbox.pool import Place

NUDGE_SECONDS = 0.5  # SIGINT is repeated: one that comes before the cell begins is lost
MOST_ERROR_CHARS = 200_000
LATE = "the cell ended before the reply came"


@dataclass(frozen=True)
class CallReply:
    """What a sub-call gives back to the code: a text, or an error's type name and message."""

    text: str
    error: str = ""


@dataclass(frozen=True)
class Cell:
    """One cell that was run.

    status: "ok", "error" (it raised), "timeout" (stopped, its variables are kept) or "died" (the
    session was lost: ``error`` says why; ``restored`` whether the earlier cells were run again).
    """

    status: str
    output: str  # the head of what it printed
    output_chars: int  # how much it printed in all
    error: str  # traceback with the cell's own frames; for "timeout" the frames alone
    answer: str  # answer["content"] as text, "" if unset
    ready: bool  # answer["ready"]
    moved: bool  # `answer` was no dict any more and has been put into one
    seconds: float
    restored: bool = False

    @property
    def final(self) -> bool:
        """Whether this cell gave the run's answer."""
        return self.status == "ok" and self.ready and bool(self.answer.strip())


AnswerCall = Callable[[list[str]], Awaitable[list[CallReply]]]


class Running:
    """One cell while it runs: its deadline, its sub-calls, and what the session may send now."""

    def __init__(
        self, link: Link, place: Place, answer: AnswerCall, is_file: Callable[[str], bool]
    ) -> None:
        self._link, self._place, self._answer, self._is_file = link, place, answer, is_file
        self._calls: set[asyncio.Task[None]] = set()
        self._reading: asyncio.Task[tuple[bytes, int, list[str]]] | None = None
        self._interrupted: float | None = None

    async def go(
        self, number: str, code: str, deadline: float, timeout_s: float, grace_s: float
    ) -> list[str]:
        """Run it to its end; what the session says of it.

        Raises:
            Gone: the session is lost.
        """
        mark = time.monotonic()
        nonce = secrets.randbits(64)
        self._place.signal(signal.SIGCONT)
        self._link.send(frames.EXEC, nonce, number, code)
        own_seconds = 0.0  # running time of the cell itself
        nudged = 0.0
        while True:
            self._reading = self._reading or asyncio.create_task(self._link.read())
            now = time.monotonic()
            if self._interrupted is not None:
                patience = min(self._interrupted + grace_s, nudged + NUDGE_SECONDS) - now
            elif self._calls and own_seconds < timeout_s:
                patience = deadline - now
            else:
                patience = min(deadline - now, timeout_s - own_seconds)
            if patience <= 0:
                if self._interrupted is None:
                    self._interrupted = now
                    for unanswered in self._calls:
                        unanswered.cancel()
                elif now >= self._interrupted + grace_s:
                    raise Gone("it did not stop when its time was up")
                self._place.signal(signal.SIGINT)
                nudged = now
                continue
            waiting = bool(self._calls)
            done, _ = await asyncio.wait(
                {self._reading, *self._calls}, timeout=patience, return_when="FIRST_COMPLETED"
            )
            before, mark = mark, time.monotonic()
            if not waiting or self._reading in done:  # who goes on calling does not wait
                own_seconds += mark - before
            for call in done & self._calls:
                self._calls.discard(call)
                if not call.cancelled():  # before its first step, at an interrupt
                    call.result()
            if self._reading in done:
                frame, self._reading = self._reading.result(), None
                if frame[:2] == (frames.DONE, nonce):
                    return frame[2]
                self._serve(*frame)

    async def end(self) -> None:
        """Nothing of the cell goes on."""
        if self._reading is not None:
            self._reading.cancel()
        for unanswered in self._calls:
            unanswered.cancel()
        await asyncio.gather(*self._calls, return_exceptions=True)

    def _serve(self, kind: bytes, number: int, fields: list[str]) -> None:
        if kind == frames.CALL and fields:
            self._calls.add(asyncio.create_task(self._call(number, fields)))
        elif kind == frames.OPEN and len(fields) == 1:
            self._link.send(frames.REPLY, number, "1" if self._is_file(fields[0]) else "")
        else:
            raise Violation("it sent what it may not send now")

    async def _call(self, number: int, prompts: list[str]) -> None:
        # When the cell's time is up or it has ended, its threads must not wait for ever.
        replies = late(prompts)
        with contextlib.suppress(asyncio.CancelledError):
            if self._interrupted is None:
                replies = await self._answer(prompts)
        with contextlib.suppress(Gone):  # whoever reads the channel will notice
            self._link.send(frames.REPLY, number, *flat(replies))


def late(prompts: list[str]) -> list[CallReply]:
    """What calls get whose cell is over."""
    return [CallReply(LATE, "CallCancelled")] * len(prompts)


def flat(replies: list[CallReply]) -> list[str]:
    """The fields of a REPLY."""
    return [field for reply in replies for field in (reply.error, reply.text)]


def cell_of(fields: list[str], keep_chars: int, seconds: float) -> Cell:
    """What a session says of its cell, as far as it can be believed.

    Raises:
        Violation: it is no such thing.
    """
    if len(fields) != 6 or not fields[2].isdecimal() or len(fields[2]) > 18:
        raise Violation("it sent a result that is none")
    status, output, total, error, answer, flags = fields
    return Cell(
        status=status if status in ("ok", "timeout") else "error",
        output=output[:keep_chars],
        output_chars=max(int(total), len(output)),
        error=error[:MOST_ERROR_CHARS],
        answer=answer,
        ready="r" in flags,
        moved="m" in flags,
        seconds=seconds,
    )
