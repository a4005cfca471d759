"""Host side of one REPL session: run cells in it, answer its sub-calls, keep its state, end it.

    async with Repl(context, answer_call, cell_timeout_s=60, keep_chars=8000) as repl:
        cell = await repl.execute("print(len(context))", deadline=time.monotonic() + 600)

The code that runs there was written by a model which may have read anything: it is held by the
kernel (``confine``), and what it sends is believed in nothing (``link``). A cell may take
``cell_timeout_s`` of its own, sub-calls not counted; then it is interrupted, which keeps its
variables, and if that does not help the session is killed and built again: the earlier cells run
once more with the replies they had, at no language model's cost.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import secrets
import signal
import time
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from types import TracebackType

from rlm_executor.context import Context, Metadata
from rlm_executor.errors import SandboxError
from rlm_executor.sandbox import frames
from rlm_executor.sandbox.link import Gone, Link, Violation
from rlm_executor.sandbox.pool import SEED, START_SECONDS, Place, Pool
from rlm_executor.sandbox.tiers import NONE_WARNING

__all__ = ["SEED", "AnswerCall", "CallReply", "Cell", "Repl"]

_NUDGE_SECONDS = 0.5  # SIGINT is repeated: one that comes before the cell begins is lost
_MOST_REPLAYED_BYTES = 64 << 20  # of replies kept; a session that had more is not restored
_MOST_REPLAY_SECONDS = 120.0
_MOST_ERROR_CHARS = 200_000
_REPLY_BYTES = 200  # that keeping one costs beyond its text
_LATE = "the cell ended before the reply came"
_LOG = logging.getLogger(__name__)


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


@dataclass
class _Past:
    """A cell that was run, and what its sub-calls were given."""

    number: int
    code: str
    status: str = ""
    seconds: float = 0.0
    size: int = 0  # of the replies, in bytes, about
    replies: dict[bytes, deque[list[CallReply]]] = field(default_factory=lambda: defaultdict(deque))

    def keep(self, prompts: list[str], replies: list[CallReply]) -> None:
        """Remember what was answered."""
        self.size += sum(len(reply.text) + _REPLY_BYTES for reply in replies)
        self.replies[_digest(prompts)].append(replies)

    async def answer(self, prompts: list[str]) -> list[CallReply]:
        """The reply that was given then. No language model is asked."""
        given = self.replies.get(_digest(prompts))
        if not given:
            return _late(prompts)  # it was cancelled
        replies = given.popleft()
        given.append(replies)
        return replies


class Repl:
    """One REPL session: ``start``, then ``execute`` and ``state``, then ``close``.

    Args:
        context: the text that becomes ``context``.
        answer_call: answers the prompts of one sub-call, in order; several may run at once. Its
            exceptions are ours and end the run: a failed call is a ``CallReply`` with an error.
        cell_timeout_s: a cell's own running time.
        keep_chars: head of the output that is kept.
        grace_s: between SIGINT and SIGKILL; what is inside one C call needs some of it.
        isolation: one of ``tiers.ISOLATIONS``.
        preload: modules beyond the standard library that cells may import.
    """

    def __init__(
        self,
        context: Context,
        answer_call: AnswerCall,
        *,
        cell_timeout_s: float,
        keep_chars: int,
        grace_s: float = 3.0,
        isolation: str = "sealed",
        preload: tuple[str, ...] = (),
    ) -> None:
        self.metadata = Metadata(context.type, 0, 0)  # known after start
        self.posture = ""  # what holds the session, as name=value words; known after start
        self._context, self._answer_call = context, answer_call
        self._cell_timeout_s, self._grace_s = cell_timeout_s, grace_s
        self._keep_chars = keep_chars
        self._pool = Pool.of(isolation, preload)
        self._past: list[_Past] = []
        self._restorable = True
        self._cells = 0
        self._place: Place | None = None
        self._link: Link | None = None

    async def __aenter__(self) -> Repl:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    async def start(self) -> None:
        """Start a fresh session.

        Raises:
            InputError: the context is not UTF-8 text, or too large.
            SandboxError: no session came up, or a wall of it is missing.
        """
        if self._pool.isolation == "none":
            _LOG.warning(NONE_WARNING)
        for attempt in (1, 2):  # its zygote may have been ended from outside
            home = await self._pool.home(self._context)
            self.metadata = Metadata(self._context.type, home.chars, home.lines)
            try:
                async with asyncio.timeout(START_SECONDS):
                    self._place = await home.fork(self._keep_chars)
                    self._link = Link(self._place.sock)
                    self._place.admit(await self._link.receive_pidfd())
                    await self._link.open()
                    kind, _, fields = await self._link.read()
                break
            except (TimeoutError, Gone, OSError) as error:
                self.close()
                if attempt == 2:
                    raise SandboxError(
                        f"the REPL process did not start ({error or 'time-out'}); "
                        "memory or the process limit of this machine may be used up"
                    ) from error
            except BaseException:
                self.close()
                raise
        if kind != frames.READY or len(fields) != 1:
            self.close()
            raise SandboxError(
                f"the REPL was not started, because {fields[0] if fields else 'it said nothing'}; "
                "use another machine, or `isolation: none` if the code may do anything"
            )
        self.posture = f"isolation={self._pool.isolation} {fields[0]}".rstrip()

    async def execute(self, code: str, *, deadline: float) -> Cell:
        """Run one cell; ``deadline`` (monotonic) bounds it whole, sub-calls included.

        The model's mistakes are in the ``Cell``. After a "died" one the session is a new one.

        Raises:
            SandboxError: the session is not running (never started, or closed).
        """
        self._cells += 1
        past = _Past(self._cells, code)
        cell = await self._run(past, self._recording(past), deadline, self._cell_timeout_s)
        if cell.status == "died":
            return replace(cell, restored=await self._restore())
        past.status, past.seconds = cell.status, cell.seconds
        self._past.append(past)
        return cell

    async def state(self) -> str:
        """The session's variables and the answer so far, as text; "" if it is gone."""
        if self._link is None or self._place is None:
            return ""
        nonce = secrets.randbits(64)
        self._place.signal(signal.SIGCONT)
        try:
            self._link.send(frames.STATE, nonce)
            async with asyncio.timeout(self._grace_s):
                while True:
                    kind, number, fields = await self._link.read()
                    if (kind, number) == (frames.STATE, nonce):
                        return fields[0] if fields else ""
                    if kind != frames.CALL:
                        raise Violation("it sent what it may not send now")
                    self._link.send(frames.REPLY, number, *_flat(_late(fields)))
        except (Gone, TimeoutError):  # whatever it is at: the next cell needs one that listens
            await self._restore()
            return ""
        finally:
            if self._place is not None:
                self._place.signal(signal.SIGSTOP)

    def close(self) -> None:
        """End the session. Calling it twice is fine."""
        if self._link is not None:
            self._link.close()
            self._link = None
        if self._place is not None:
            self._place.close()
            self._place = None

    def _recording(self, past: _Past) -> AnswerCall:
        async def answer(prompts: list[str]) -> list[CallReply]:
            replies = await self._answer_call(prompts)
            past.keep(prompts, replies)
            if past.size + sum(one.size for one in self._past) > _MOST_REPLAYED_BYTES:
                self._restorable = False
                for one in (past, *self._past):
                    one.replies.clear()
            return replies

        return answer

    async def _restore(self) -> bool:
        """A new session in place of one that was lost.

        Returns:
            Whether it has the state of that one: all its cells ended as they had, in about the
            time that they had taken. Else it is a fresh one.
        """
        self.close()
        await self.start()
        if not self._restorable:
            self._past, self._restorable = [], True
            return False
        spent = sum(past.seconds for past in self._past)
        deadline = time.monotonic() + min(2 * spent + 5, _MOST_REPLAY_SECONDS)
        for past in self._past:
            timeout_s = past.seconds if past.status == "timeout" else self._cell_timeout_s
            cell = await self._run(past, past.answer, deadline, timeout_s)
            if cell.status != past.status:
                self._restorable = False
                return await self._restore()
        return True

    async def _run(
        self, past: _Past, answer: AnswerCall, deadline: float, timeout_s: float
    ) -> Cell:
        if self._link is None or self._place is None:
            raise SandboxError("the REPL session is not running")
        started = time.monotonic()
        run = _Running(self._link, self._place, answer, self._context.is_file)
        try:
            fields = await run.go(str(past.number), past.code, deadline, timeout_s, self._grace_s)
            return _cell(fields, self._keep_chars, time.monotonic() - started)
        except Gone as gone:
            reason = str(gone)
            if self._place.overdrawn:
                reason = "all sessions together had used up their memory"
            self.close()
            seconds = time.monotonic() - started
            return Cell("died", "", 0, reason, "", ready=False, moved=False, seconds=seconds)
        finally:
            await run.end()
            if self._place is not None:  # threads that outlive their cell stand still
                self._place.signal(signal.SIGSTOP)


class _Running:
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
                patience = min(self._interrupted + grace_s, nudged + _NUDGE_SECONDS) - now
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
        replies = _late(prompts)
        with contextlib.suppress(asyncio.CancelledError):
            if self._interrupted is None:
                replies = await self._answer(prompts)
        with contextlib.suppress(Gone):  # whoever reads the channel will notice
            self._link.send(frames.REPLY, number, *_flat(replies))


def _late(prompts: list[str]) -> list[CallReply]:
    return [CallReply(_LATE, "CallCancelled")] * len(prompts)


def _flat(replies: list[CallReply]) -> list[str]:
    return [field for reply in replies for field in (reply.error, reply.text)]


def _digest(prompts: list[str]) -> bytes:
    return hashlib.sha256(frames.pack(frames.CALL, 0, *prompts)).digest()


def _cell(fields: list[str], keep_chars: int, seconds: float) -> Cell:
    if len(fields) != 6 or not fields[2].isdecimal() or len(fields[2]) > 18:
        raise Violation("it sent a result that is none")
    status, output, total, error, answer, flags = fields
    return Cell(
        status=status if status in ("ok", "timeout") else "error",
        output=output[:keep_chars],
        output_chars=max(int(total), len(output)),
        error=error[:_MOST_ERROR_CHARS],
        answer=answer,
        ready="r" in flags,
        moved="m" in flags,
        seconds=seconds,
    )
