"""Host side of one REPL process: start it, run cells in it, answer its sub-calls, end it.

    async with Repl(context, answer_call, cell_timeout_s=60, keep_chars=8000) as repl:
        cell = await repl.execute("print(len(context))", deadline=time.monotonic() + 600)

Covered: a process group of its own (ended on every way out), a fresh interpreter's environment
without any of ours, limits on memory, file size, open files and one cell's running time (SIGINT,
then SIGKILL; waiting for sub-calls does not count), no credentials, no way to crash this process.
Not covered: model code runs as this user, so it can read this user's files, use the network, start
programs and look into this user's other processes (/proc). Give it no untrusted context on a
machine that holds secrets.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from rlm_executor.context import Context, Metadata
from rlm_executor.errors import InputError, SandboxError
from rlm_executor.sandbox import frames

SEED = 0  # of `random` in every session, and of its string hashes: replays see the same orders
_MEMORY_FLOOR = 2 << 30  # bytes of address space one session may have ...
_MEMORY_PER_CONTEXT_BYTE = 8  # ... and for each byte of its context: wide text, splits, copies
_NUDGE_SECONDS = 0.5  # SIGINT is repeated: one that comes before the cell begins is lost
_ENDED = "it ended itself, or the system ended it"
_START_SECONDS = 60.0  # a machine that needs longer to fork is not going to get better
_ENVIRONMENT = {
    "PATH": "/usr/bin:/bin",
    "LANG": "C.UTF-8",
    "PYTHONHASHSEED": str(SEED),
    "PYTHONDONTWRITEBYTECODE": "1",
}


@dataclass(frozen=True)
class CallReply:
    """What a sub-call gives back to the code: a text, or an error's type name and message."""

    text: str
    error: str = ""


@dataclass(frozen=True)
class Cell:
    """One cell that was run.

    status: "ok", "error" (it raised), "timeout" (stopped, its variables are kept) or "died" (the
    process is gone, and its variables with it: ``error`` says why).
    """

    status: str
    output: str  # the head of what it printed
    output_chars: int  # how much it printed in all
    error: str  # traceback with the cell's own frames; for "timeout" the frames alone
    answer: str  # answer["content"] as text, "" if unset
    ready: bool  # answer["ready"]
    moved: bool  # `answer` was no dict any more and has been put into one
    seconds: float

    @property
    def final(self) -> bool:
        """Whether this cell gave the run's answer."""
        return self.status == "ok" and self.ready and bool(self.answer.strip())


AnswerCall = Callable[[list[str]], Awaitable[list[CallReply]]]
_Frame = tuple[bytes, int, list[str]]


class _Gone(Exception):
    """The process is not there any more, or what it sends is not a frame; the text says why."""


class Repl:
    """One REPL session: ``start``, then ``execute`` and ``state``, then ``close``.

    Args:
        context: the text that becomes ``context``.
        answer_call: answers the prompts of one sub-call, in order; several may run at once. Its
            exceptions are ours and end the run: a failed call is a ``CallReply`` with an error.
        cell_timeout_s: a cell's own running time.
        keep_chars: head of the output that is kept.
        grace_s: between SIGINT and SIGKILL; what is inside one C call needs some of it.
    """

    def __init__(
        self,
        context: Context,
        answer_call: AnswerCall,
        *,
        cell_timeout_s: float,
        keep_chars: int,
        grace_s: float = 3.0,
    ) -> None:
        self.metadata = Metadata(context.type, 0, 0)  # known after start
        self._context, self._answer_call = context, answer_call
        self._cell_timeout_s, self._grace_s = cell_timeout_s, grace_s
        self._keep_chars = keep_chars
        self._cells = self._pid = 0
        self._writer: asyncio.StreamWriter | None = None

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
        """Start a fresh process; after a "died" cell, this is how to go on.

        Raises:
            InputError: the context is not UTF-8 text, or too large.
            SandboxError: no process came up.
        """
        memory = _MEMORY_FLOOR + _MEMORY_PER_CONTEXT_BYTE * self._context.bytes
        settings = frames.SETTINGS.pack(memory, self._keep_chars, SEED)
        sock = _fork_worker(settings, self._context.fileno())
        self._reader, self._writer = await asyncio.open_unix_connection(sock=sock)
        try:
            kind, self._pid, fields = await asyncio.wait_for(self._read(), _START_SECONDS)
        except (TimeoutError, _Gone) as error:
            self.close()
            raise SandboxError(
                f"the REPL process did not start ({error or 'time-out'}); "
                "memory or the process limit of this machine may be used up"
            ) from error
        except BaseException:
            self.close()
            raise
        if kind == frames.REFUSED:
            self.close()
            raise InputError(f"context {self._context.label} {fields[0]}")
        chars, lines = fields
        self.metadata = Metadata(self._context.type, int(chars), int(lines))

    async def execute(self, code: str, *, deadline: float) -> Cell:
        """Run one cell; ``deadline`` (monotonic) bounds it whole, sub-calls included.

        The model's mistakes are in the ``Cell``.

        Raises:
            SandboxError: the process is not running (never started, or died before).
        """
        started = time.monotonic()
        self._cells += 1
        calls: set[asyncio.Task[None]] = set()
        own_seconds = 0.0  # running time of the cell itself
        interrupted: float | None = None
        nudged = 0.0
        reading: asyncio.Task[_Frame] | None = None
        try:
            await self._send(frames.EXEC, self._cells, code)
            reading = asyncio.create_task(self._read())
            while True:
                now = time.monotonic()
                if interrupted is not None:
                    patience = min(interrupted + self._grace_s, nudged + _NUDGE_SECONDS) - now
                elif calls:
                    patience = deadline - now
                else:
                    patience = min(deadline - now, self._cell_timeout_s - own_seconds)
                if patience <= 0:
                    if interrupted is None:
                        interrupted = now
                        for unanswered in calls:
                            unanswered.cancel()
                    elif now >= interrupted + self._grace_s:
                        return self._dead("it did not stop when its time was up", started)
                    self._kill(signal.SIGINT)
                    nudged = now
                    continue
                waiting = bool(calls)
                done, _ = await asyncio.wait(
                    {reading, *calls}, timeout=patience, return_when=asyncio.FIRST_COMPLETED
                )
                if not waiting:
                    own_seconds += time.monotonic() - now
                for call in done & calls:
                    calls.discard(call)
                    if not call.cancelled():  # before its first step, at an interrupt
                        call.result()
                if reading not in done:
                    continue
                kind, number, fields = reading.result()
                if kind == frames.DONE and number == self._cells:
                    return _cell(fields, time.monotonic() - started)
                if kind != frames.CALL:
                    raise _Gone("it wrote into the channel that it is driven by")
                late = interrupted is not None
                calls.add(asyncio.create_task(self._call(number, fields, late=late)))
                reading = asyncio.create_task(self._read())
        except _Gone as gone:
            return self._dead(str(gone), started)
        finally:
            if reading is not None:
                reading.cancel()
            for unanswered in calls:
                unanswered.cancel()
            await asyncio.gather(*calls, return_exceptions=True)

    async def state(self) -> str:
        """The REPL's variables and the answer so far, as text; "" if the process is gone."""
        try:
            await self._send(frames.STATE, 0)
            kind, _, fields = await asyncio.wait_for(self._read(), self._grace_s)
        except (_Gone, TimeoutError, SandboxError):
            return ""
        return fields[0] if kind == frames.STATE and fields else ""

    def close(self) -> None:
        """End the process and whatever it started. Calling it twice is fine."""
        if self._writer is not None:
            if self._pid:
                self._kill(signal.SIGKILL)
            self._writer.close()
            self._writer = None
            self._pid = 0

    def _dead(self, reason: str, started: float) -> Cell:
        self.close()
        seconds = time.monotonic() - started
        return Cell("died", "", 0, reason, "", ready=False, moved=False, seconds=seconds)

    async def _call(self, number: int, prompts: list[str], *, late: bool) -> None:
        # When the cell's time is up or it has ended, its threads must not wait for ever.
        replies = [CallReply("the cell ended before the reply came", "CallCancelled")]
        replies *= len(prompts)
        with contextlib.suppress(asyncio.CancelledError):
            if not late:
                replies = await self._answer_call(prompts)
        fields = [field for reply in replies for field in (reply.error, reply.text)]
        with contextlib.suppress(_Gone, SandboxError):  # whoever reads the channel will notice
            await self._send(frames.REPLY, number, *fields)

    async def _send(self, kind: bytes, number: int, *fields: str) -> None:
        if self._writer is None:
            raise SandboxError("the REPL process is not running")
        try:
            self._writer.write(frames.pack(kind, number, *fields))
            await self._writer.drain()
        except OSError as error:
            raise _Gone(_ENDED) from error

    async def _read(self) -> _Frame:
        try:
            kind, number, size = frames.unpack(await self._reader.readexactly(frames.HEADER.size))
            return kind, number, frames.fields_of(await self._reader.readexactly(size))
        except (asyncio.IncompleteReadError, OSError) as error:
            raise _Gone(_ENDED) from error
        except ValueError as error:
            raise _Gone("it wrote into the channel that it is driven by") from error

    def _kill(self, which: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):  # it has ended by itself
            if which is signal.SIGINT:
                os.kill(self._pid, which)
            else:
                os.killpg(self._pid, which)


def _cell(fields: list[str], seconds: float) -> Cell:
    if len(fields) != 6 or not fields[2].isdecimal():
        raise _Gone("it wrote into the channel that it is driven by")
    status, output, total, error, answer, flags = fields
    return Cell(
        status=status if status in ("ok", "timeout") else "error",
        output=output,
        output_chars=int(total),
        error=error,
        answer=answer,
        ready="r" in flags,
        moved="m" in flags,
        seconds=seconds,
    )


class _Zygote:
    """The process that forks workers; one for this process, started when first needed."""

    def __init__(self) -> None:
        self.owner = os.getpid()
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        script = Path(__file__).with_name("zygote.py")
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-S", "-s", "-P", str(script), str(theirs.fileno())],
                env=_ENVIRONMENT,
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                start_new_session=True,  # a Ctrl-C in the terminal is ours, not the workers'
            )

    def fork(self, settings: bytes, channel: int, context: int) -> None:
        socket.send_fds(self._socket, [settings], [channel, context])

    def close(self) -> None:
        self._socket.close()
        if self.owner == os.getpid():
            self._process.wait(timeout=5)


_zygote: _Zygote | None = None
_zygote_lock = threading.Lock()


def _fork_worker(settings: bytes, context: int) -> socket.socket:
    """A new worker; gives our end of its channel. A zygote that has ended is replaced once."""
    global _zygote
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with theirs, _zygote_lock:
        for attempt in (1, 2):
            try:
                if _zygote is None or _zygote.owner != os.getpid():
                    _zygote = _Zygote()
                _zygote.fork(settings, theirs.fileno(), context)
                return ours
            except OSError as error:
                _zygote = None
                if attempt == 2:
                    ours.close()
                    raise SandboxError(f"no REPL process can be started: {error}") from error
    raise AssertionError("not reached")


@atexit.register
def _close_zygote() -> None:
    if _zygote is not None and _zygote.owner == os.getpid():
        _zygote.close()
