"""One cell while it runs: its deadline, its sub-calls, and what the session may send now."""

from __future__ import annotations

import asyncio
import secrets
import signal
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from rlm_executor.sandbox import frames
from rlm_executor.sandbox.link import Gone, Link, Violation
from rlm_executor.sandbox.pool import Place

NUDGE_SECONDS = 0.5  # SIGINT is repeated: one that comes before the cell begins is lost
MOST_ERROR_CHARS = 200_000
MOST_NAMES, MOST_NAME_CHARS = 500, 100_000
MOST_AT_ONCE = 256  # a session may have 64 threads, each asks for one thing
LOW_BYTES = 64 << 20  # queued for a session, before the next file is read for it
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
    raised: str = ""  # what it raised, as "Type: message"
    names: tuple[str, ...] = ()  # its variables of the plainest types

    @property
    def final(self) -> bool:
        """Whether this cell gave the run's answer."""
        return self.status == "ok" and self.ready and bool(self.answer.strip())


@dataclass(frozen=True)
class Call:
    """What the code asks for: replies to some prompts."""

    prompts: tuple[str, ...]
    recursive: bool = False  # rlm_query
    model: str = ""  # its name, "" for the usual one
    context: str | None = None  # of rlm_query, where it is not the prompt itself

    @classmethod
    def of(cls, fields: list[str]) -> Call | None:
        """From a CALL's fields; None if they are none."""
        kind, model, *texts = fields if len(fields) > 2 else ("", "")
        if kind == "c" and len(texts) == 2:
            return cls((texts[0],), True, model, texts[1])
        return cls((*texts,), kind == "r", model) if kind in ("l", "r") else None


AnswerCall = Callable[[Call], Awaitable[list[CallReply]]]


class Running:
    """One cell while it runs: its deadline, its sub-calls, and what the session may send now.

    Listens to the link: what comes is dealt with where it arrives, without a task that waits.
    """

    def __init__(
        self, link: Link, place: Place, answer: AnswerCall, file: Callable[[str], str | None]
    ) -> None:
        self._link, self._place, self._answer, self._file = link, place, answer, file
        # What is being answered, and what is sent if it is not: nobody's thread waits for ever.
        self._calls: dict[asyncio.Task[None], tuple[int, list[str]]] = {}
        self._opening = asyncio.Lock()  # files go one after the other: they may be large
        self._interrupted: float | None = None
        self._own_seconds = 0.0  # running time of the cell itself
        self._timer: asyncio.TimerHandle | None = None
        self._timer_due = 0.0

    async def go(
        self, number: str, code: str, deadline: float, timeout_s: float, grace_s: float
    ) -> list[str]:
        """Run it to its end; what the session says of it.

        Raises:
            Gone: the session is lost.
        """
        self._loop = asyncio.get_running_loop()
        self._deadline, self._timeout_s, self._grace_s = deadline, timeout_s, grace_s
        self._done: asyncio.Future[list[str]] = self._loop.create_future()
        self._nonce = secrets.randbits(64)
        self._mark, self._nudged = time.monotonic(), 0.0
        self._place.signal(signal.SIGCONT)
        self._link.send(frames.EXEC, self._nonce, number, code)
        self._link.listen(self)
        self._watch()
        return await self._done

    async def end(self) -> None:
        """Nothing of the cell goes on."""
        self._link.listen(None)
        if self._timer is not None:
            self._timer.cancel()
        if self._calls:
            for unanswered in self._calls:
                unanswered.cancel()
            await asyncio.gather(*self._calls, return_exceptions=True)

    # What the link tells.

    def frame(self, kind: bytes, number: int, fields: list[str]) -> None:
        """Something that the session sent."""
        self._pass(waited=False)
        asked = Call.of(fields) if kind == frames.CALL else None
        if len(self._calls) >= MOST_AT_ONCE:
            self.lost(Violation("it asked for more at once than its threads can"))
        elif asked is not None:
            self._start(self._call(number, asked), number, flat(late(asked)))
        elif (kind, number) == (frames.DONE, self._nonce):
            self._link.listen(None)
            if not self._done.done():
                self._done.set_result(fields)
        elif kind == frames.OPEN and len(fields) == 1:
            self._start(self._open(number, fields[0]), number, [""])
        else:
            self.lost(Violation("it sent what it may not send now"))

    def lost(self, why: BaseException) -> None:
        """The session, or the answer to one of its calls."""
        if not self._done.done():
            self._done.set_exception(why)

    def _start(self, step: Coroutine[Any, Any, None], number: int, otherwise: list[str]) -> None:
        call = asyncio.create_task(step)
        self._calls[call] = number, otherwise
        call.add_done_callback(self._called)

    async def _open(self, number: int, name: str) -> None:
        async with self._opening:
            text = await asyncio.to_thread(self._file, name)
            self._reply(number, [text or ""])
            while self._link.queued > LOW_BYTES:
                await asyncio.sleep(0.01)

    async def _call(self, number: int, call: Call) -> None:
        if self._interrupted is not None:  # the cell's time is up
            raise asyncio.CancelledError
        self._reply(number, flat(await self._answer(call)))

    def _reply(self, number: int, fields: list[str]) -> None:
        try:
            self._link.send(frames.REPLY, number, *fields)
        except Violation as violation:
            self.lost(violation)
        except Gone:  # whoever reads the channel will notice
            pass

    def _called(self, call: asyncio.Task[None]) -> None:
        self._pass(waited=True)
        number, otherwise = self._calls.pop(call)
        if call.cancelled():
            self._reply(number, otherwise)
        elif (error := call.exception()) is not None:  # ours: it ends the run
            self.lost(error)
        if not self._calls and not self._done.done():
            self._watch()

    # The cell's time.

    def _pass(self, *, waited: bool) -> None:
        """Count the time since the last event; who goes on calling does not wait."""
        before, self._mark = self._mark, time.monotonic()
        if not (waited and self._calls):
            self._own_seconds += self._mark - before

    def _watch(self) -> None:
        """Be there when its time may be up; a timer that is due earlier finds out and goes on."""
        due = self._due()
        if self._timer is None or due < self._timer_due:
            if self._timer is not None:
                self._timer.cancel()
            self._timer_due = due
            self._timer = self._loop.call_later(max(0.0, due - time.monotonic()), self._look)

    def _due(self) -> float:
        if self._interrupted is not None:
            return min(self._interrupted + self._grace_s, self._nudged + NUDGE_SECONDS)
        if self._calls and self._own_seconds < self._timeout_s:
            return self._deadline
        return min(self._deadline, self._mark + self._timeout_s - self._own_seconds)

    def _look(self) -> None:
        self._timer = None
        if self._done.done():
            return
        self._pass(waited=True)
        now = self._mark
        if now >= self._due():
            if self._interrupted is None:
                self._interrupted = now
                for unanswered in self._calls:
                    unanswered.cancel()
            elif now >= self._interrupted + self._grace_s:
                self.lost(Gone("it did not stop when its time was up"))
                return
            self._place.signal(signal.SIGINT)
            self._nudged = now
        self._watch()


def late(call: Call) -> list[CallReply]:
    """What calls get whose cell is over."""
    return [CallReply(LATE, "CallCancelled")] * len(call.prompts)


def flat(replies: list[CallReply]) -> list[str]:
    """The fields of a REPLY."""
    return [field for reply in replies for field in (reply.error, reply.text)]


def cell_of(fields: list[str], keep_chars: int, seconds: float) -> Cell:
    """What a session says of its cell, as far as it can be believed.

    Raises:
        Violation: it is no such thing.
    """
    if len(fields) != 8 or not fields[2].isdecimal() or len(fields[2]) > 18:
        raise Violation("it sent a result that is none")
    status, output, total, error, answer, flags, raised, names = fields
    return Cell(
        status=status if status in ("ok", "timeout") else "error",
        output=output[:keep_chars],
        output_chars=max(int(total), len(output)),
        error=error[:MOST_ERROR_CHARS],
        answer=answer,
        ready="r" in flags,
        moved="m" in flags,
        seconds=seconds,
        raised=raised[:MOST_ERROR_CHARS],
        names=(*names[:MOST_NAME_CHARS].split("\n", MOST_NAMES)[:MOST_NAMES],) if names else (),
    )
