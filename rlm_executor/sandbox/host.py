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
import hashlib
import logging
import secrets
import signal
import time
from collections import defaultdict, deque
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Any

from rlm_executor.context import Context, Metadata
from rlm_executor.errors import SandboxError
from rlm_executor.sandbox import frames
from rlm_executor.sandbox.link import Gone, Link, Violation
from rlm_executor.sandbox.pool import SEED, START_SECONDS, Place, Pool
from rlm_executor.sandbox.running import (
    AnswerCall,
    Call,
    CallReply,
    Cell,
    Running,
    cell_of,
    flat,
    late,
)
from rlm_executor.sandbox.tiers import NONE_WARNING

__all__ = ["SEED", "AnswerCall", "Call", "CallReply", "Cell", "Repl"]

_MOST_REPLAYED_BYTES = 64 << 20  # of replies kept; a session that had more is not restored
_MOST_REPLAY_SECONDS = 120.0
_REPLY_BYTES = 200  # that keeping one costs beyond its text
_LOG = logging.getLogger(__name__)


@dataclass
class _Past:
    """A cell that was run, and what its sub-calls were given."""

    number: int
    code: str
    status: str = ""
    seconds: float = 0.0
    size: int = 0  # of the replies, in bytes, about
    replies: dict[bytes, deque[list[CallReply]]] = field(default_factory=lambda: defaultdict(deque))

    def keep(self, call: Call, replies: list[CallReply]) -> None:
        """Remember what was answered."""
        self.size += sum(len(reply.text) + _REPLY_BYTES for reply in replies)
        self.replies[_digest(call)].append(replies)

    async def answer(self, call: Call) -> list[CallReply]:
        """The reply that was given then. No language model is asked."""
        given = self.replies.get(_digest(call))
        if not given:
            return late(call)  # it was cancelled
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
        finish: how code gives the answer: the dict "answer", or the functions "final".
        numbered: whether the context is ``context_0`` too.
        extras: more names that the model knows: "chunks", "rlm_query" (with a context).
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
        finish: str = "answer",
        numbered: bool = False,
        extras: tuple[str, ...] = (),
    ) -> None:
        self.metadata = Metadata("str")  # known after start
        self.posture = ""  # what holds the session, as name=value words; known after start
        self._context, self._answer_call = context, answer_call
        self._cell_timeout_s, self._grace_s = cell_timeout_s, grace_s
        self._keep_chars = keep_chars
        self._settings: dict[str, Any] = {
            "keep_chars": keep_chars,
            "finish": finish,
            "numbered": numbered,
            "extras": list(extras),
        }
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
            self.metadata = home.metadata
            try:
                async with asyncio.timeout(START_SECONDS):
                    self._place = await home.fork(self._settings)
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
                    asked = Call.of(fields) if kind == frames.CALL else None
                    if asked is not None:
                        self._link.send(frames.REPLY, number, *flat(late(asked)))
                    elif kind == frames.OPEN:  # a thread that is left over
                        self._link.send(frames.REPLY, number, "")
                    else:
                        raise Violation("it sent what it may not send now")
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
        async def answer(call: Call) -> list[CallReply]:
            replies = await self._answer_call(call)
            past.keep(call, replies)
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
        run = Running(self._link, self._place, answer, self._context.file)
        try:
            fields = await run.go(str(past.number), past.code, deadline, timeout_s, self._grace_s)
            return cell_of(fields, self._keep_chars, time.monotonic() - started)
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


def _digest(call: Call) -> bytes:
    how = f"{call.recursive:d}{call.context is not None:d}{call.model}"
    fields = (how, call.context or "", *call.prompts)
    return hashlib.sha256(frames.pack(frames.CALL, 0, *fields)).digest()
