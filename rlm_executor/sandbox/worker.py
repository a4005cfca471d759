"""The REPL itself, in a process of its own: runs one cell after another in one namespace.

Standard library only. The main thread runs cells; a second thread reads the channel, so that any
thread of the model's code may wait in ``llm_query``. SIGINT stops a cell and keeps what it had
assigned; the end of the channel ends the process.
"""

from __future__ import annotations

import io
import linecache
import mmap
import os
import queue
import random
import reprlib
import resource
import signal
import socket
import sys
import threading
import traceback
import types
from collections.abc import Callable
from typing import Any, NoReturn

from rlm_executor.sandbox import frames

_MAX_FILE_BYTES = 16 << 20  # what one file written by model code may hold
_MAX_OPEN_FILES = 128
_MAX_ANSWER_CHARS = 200_000_000  # frames hold 1 GiB, and a character up to 4 bytes
_FRAMES_SHOWN = 8  # of a deep traceback: half from the top, half from the bottom
_STATE_NAMES = 40


class LMError(RuntimeError):
    """A sub-call failed. Its subclasses are named like the host's error types."""


class BatchError(LMError):
    """Some calls of a batch failed; ``results`` holds the replies, None where there is none."""

    results: list[str | None]


LMError.__module__ = BatchError.__module__ = "builtins"  # tracebacks then show the bare name
_ERROR_TYPES: dict[str, type[LMError]] = {"LMError": LMError}


def _error_type(name: str) -> type[LMError]:
    if name not in _ERROR_TYPES:
        _ERROR_TYPES[name] = type(name, (LMError,), {"__module__": "builtins"})
    return _ERROR_TYPES[name]


class Output(io.TextIOBase):
    """stdout and stderr of cells: keeps the head, counts everything."""

    encoding = "utf-8"

    def __init__(self, keep: int) -> None:
        self._keep, self._lock = keep, threading.Lock()
        self._parts: list[str] = []
        self._kept = self.total = 0

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        with self._lock:
            self.total += len(text)
            if self._kept < self._keep:
                self._parts.append(text[: self._keep - self._kept])
                self._kept += len(self._parts[-1])
        return len(text)

    def take(self) -> tuple[str, int]:
        """What was kept and how much there was, since the last time."""
        with self._lock:
            taken = "".join(self._parts), self.total
            self._parts, self._kept, self.total = [], 0, 0
        return taken


class Channel:
    """Frames over the one socket; writing is locked, reading is the reader thread's."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock, self._lock = sock, threading.Lock()

    def send(self, kind: bytes, number: int, *fields: str) -> None:
        frame = frames.pack(kind, number, *fields)
        with self._lock:
            self._sock.sendall(frame)

    def receive(self) -> tuple[bytes, int, list[str]]:
        return frames.read_frame(self._read_exactly)

    def _read_exactly(self, size: int) -> bytes:
        data = bytearray(size)
        view = memoryview(data)
        while view:
            got = self._sock.recv_into(view)
            if not got:
                raise EOFError
            view = view[got:]
        return bytes(data)


class Session:
    """One namespace and the cells run in it."""

    def __init__(self, channel: Channel, context: str, keep_chars: int) -> None:
        self._channel, self._pid = channel, os.getpid()
        self._output = Output(keep_chars)
        self._cells: queue.SimpleQueue[tuple[bytes, int, list[str]]] = queue.SimpleQueue()
        self._calls = 0
        self._calls_lock = threading.Lock()
        self._waiting: dict[int, queue.SimpleQueue[list[str]]] = {}
        self._in_cell = self._sending = self._stopped = False

        module = types.ModuleType("__main__")
        sys.modules["__main__"] = module  # dataclasses, pickle and typing look names up there
        self._names: dict[str, Any] = module.__dict__
        self._reserved: dict[str, Any] = {
            "context": context,
            "llm_query": self._llm_query,
            "llm_query_batched": self._llm_query_batched,
            "SHOW_VARS": self._show_vars,
        }
        self._names.update(self._reserved, answer={"content": "", "ready": False})
        self._hidden = {*self._names}

    def serve(self) -> NoReturn:
        """Run cells until the channel ends."""
        signal.signal(signal.SIGINT, self._on_interrupt)
        threading.Thread(target=self._read, name="channel", daemon=True).start()
        sys.stdout = sys.stderr = self._output
        while True:
            kind, number, fields = self._cells.get()
            if kind == frames.EXEC:
                result = self._run(number, fields[0])
                if os.getpid() != self._pid:  # a child that model code forked came out of its cell
                    os._exit(0)
                self._channel.send(frames.DONE, number, *result)
            else:
                self._channel.send(frames.STATE, number, self._state())

    def _read(self) -> None:
        try:
            while True:
                kind, number, fields = self._channel.receive()
                if kind == frames.REPLY:
                    waiting = self._waiting.get(number)
                    if waiting is not None:
                        waiting.put(fields)
                else:
                    self._cells.put((kind, number, fields))
        finally:
            os._exit(0)  # the host is gone or has no more use for this process

    def _on_interrupt(self, *_: object) -> None:
        if not self._in_cell:
            return  # it came too late: the cell is over
        self._stopped = True
        if not self._sending:  # half a frame must not be left on the channel: _ask raises it
            self._in_cell = False
            raise KeyboardInterrupt

    # -- cells ------------------------------------------------------------------------------

    def _run(self, number: int, code: str) -> tuple[str, ...]:
        name = f"<cell {number}>"
        linecache.cache[name] = (len(code), None, code.splitlines(keepends=True), name)
        status, error = "ok", ""
        self._stopped = False
        try:
            program = compile(code, name, "exec", dont_inherit=True)
            try:
                self._in_cell = True
                exec(program, self._names)
            finally:
                self._in_cell = False
        except BaseException as raised:
            if self._stopped and isinstance(raised, KeyboardInterrupt):
                # Frames only: in which words a timeout is told is the dialect's to say.
                status, error = "timeout", _format_frames(raised)
            else:
                status, error = "error", _format_error(raised)
        answer, flags = self._inspect_answer()
        output, total = self._output.take()
        return status, output, str(total), error, answer, flags

    def _inspect_answer(self) -> tuple[str, str]:
        """The answer's text and its flags: "r" ready, "m" moved into a dict, "!" unreadable.

        Looked at after the cell, so every way of setting it counts: item by item, ``update``,
        a new dict, in any order.
        """
        self._names.update(self._reserved)
        moved = ""
        answer = self._names.get("answer")
        if not isinstance(answer, dict):
            moved = "m" if "answer" in self._names else ""
            answer = self._names["answer"] = {"content": answer, "ready": False}
        try:
            ready = "r" if answer.get("ready") else ""
            text = _text_of(answer.get("content"))
        except Exception:
            return "", moved + "!"
        if len(text) > _MAX_ANSWER_CHARS:
            return "", moved + "!"
        return text, ready + moved

    def _state(self) -> str:
        try:
            text, _ = self._inspect_answer()
            shown = f'answer["content"] is {_brief(text)}' if text else 'answer["content"] is empty'
            return f"{self._show_vars()}\n{shown}"
        except Exception as error:  # a model's __len__ or __class__ may do anything
            return f"(the REPL's variables cannot be listed: {type(error).__name__})"

    # -- what the model may call ------------------------------------------------------------

    def _llm_query(self, prompt: str) -> str:
        """Ask a language model; returns its reply."""
        if not isinstance(prompt, str):
            raise TypeError(f"llm_query takes one str, not {type(prompt).__name__}")
        kind, text = self._ask([prompt])
        if kind:
            raise _error_type(kind)(text)
        return text

    def _llm_query_batched(self, prompts: list[str]) -> list[str]:
        """Ask for many prompts at once; returns the replies in the same order."""
        if isinstance(prompts, str):
            raise TypeError("llm_query_batched takes a list of str; for one prompt use llm_query")
        prompts = list(prompts)
        for prompt in prompts:
            if not isinstance(prompt, str):
                raise TypeError(f"prompts must be str, one is {type(prompt).__name__}")
        if not prompts:
            return []
        fields = self._ask(prompts)
        kinds, texts = fields[::2], fields[1::2]
        failed = [index for index, kind in enumerate(kinds) if kind]
        if not failed:
            return texts
        first = failed[0]
        if all(kinds[index] == kinds[first] for index in failed) and len(failed) == len(kinds):
            raise _error_type(kinds[first])(texts[first])
        error = BatchError(
            f"{len(failed)} of {len(kinds)} calls failed, the first at index {first}: "
            f"{kinds[first]}: {texts[first]} (the other replies are in this exception's .results)"
        )
        error.results = [
            None if kind else text for kind, text in zip(kinds, texts, strict=True)
        ]
        raise error

    def _show_vars(self) -> str:
        """The variables made so far, with type and size."""
        lines = [
            f"- {name}: {_brief(value)}"
            for name, value in list(self._names.items())
            if name not in self._hidden
            and not name.startswith("_")
            and not isinstance(value, types.ModuleType)
        ]
        if not lines:
            return "Variables: none"
        more = [f"- ... and {len(lines) - _STATE_NAMES} more"] if len(lines) > _STATE_NAMES else []
        return "\n".join(["Variables:", *lines[:_STATE_NAMES], *more])

    def _ask(self, prompts: list[str]) -> list[str]:
        if os.getpid() != self._pid:
            raise RuntimeError("sub-calls can only be made from the REPL's own process")
        with self._calls_lock:
            self._calls += 1
            number = self._calls
            waiting = self._waiting[number] = queue.SimpleQueue()
        main = threading.current_thread() is threading.main_thread()
        try:
            if main:
                self._sending = True
            try:
                self._channel.send(frames.CALL, number, *prompts)
            finally:
                if main:
                    self._sending = False
            if main and self._stopped:
                self._in_cell = False
                raise KeyboardInterrupt
            return waiting.get()
        finally:
            del self._waiting[number]


def _text_of(content: Any) -> str:
    if content is None:
        return ""
    if isinstance(content, (list, tuple)):
        return "\n".join(str(item) for item in content)
    return str(content)


_REPR = reprlib.Repr()
_REPR.maxstring = _REPR.maxother = 80
_REPR.maxlist = _REPR.maxtuple = _REPR.maxset = _REPR.maxfrozenset = _REPR.maxdict = 4
_REPR.maxlevel = 2


def _brief(value: Any) -> str:
    """Type, size and a glance, at a bounded cost whatever the value."""
    kind = type(value)
    if kind in (bool, int, float, complex) or value is None:
        return f"{kind.__name__} {_REPR.repr(value)}"
    if kind in (str, bytes):
        unit = "characters" if kind is str else "bytes"
        return f"{kind.__name__}, {len(value)} {unit}: {_REPR.repr(value)}"
    if kind in (list, tuple, set, frozenset, dict):
        return f"{kind.__name__}, {len(value)} items: {_REPR.repr(value)}"
    return kind.__name__


# -- errors, as short as they can be: the model's own frames, never ours ------------------------


def _format_error(error: BaseException) -> str:
    last = "".join(traceback.format_exception_only(error)).rstrip("\n")
    if not _own_frames(error):  # the cell does not compile: its text says where
        return last
    return f"{_format_frames(error)}\n{last}"


def _format_frames(error: BaseException) -> str:
    lines = ["Traceback (most recent call last):"]
    shown = _own_frames(error)
    if len(shown) > _FRAMES_SHOWN:
        half = _FRAMES_SHOWN // 2
        skipped = f"  ... {len(shown) - 2 * half} more frames ..."
        return "\n".join([*lines, *_each(shown[:half]), skipped, *_each(shown[-half:])])
    return "\n".join([*lines, *_each(shown)])


def _own_frames(error: BaseException) -> list[tuple[str, int, str]]:
    return [
        (frame.f_code.co_filename, line, frame.f_code.co_name)
        for frame, line in traceback.walk_tb(error.__traceback__)
        if frame.f_code.co_filename.startswith("<cell ")
    ]


def _each(shown: list[tuple[str, int, str]]) -> list[str]:
    lines: list[str] = []
    for name, line, function in shown:
        lines.append(f'  File "{name}", line {line}, in {function}')
        source = linecache.getline(name, line).strip()
        if source:
            lines.append(f"    {source}")
    return lines


# -- start --------------------------------------------------------------------------------------


def main(
    sock: socket.socket, context: int, settings: bytes, parent_died: Callable[[], None]
) -> None:
    """Become a session: called once in a freshly forked process, never returns.

    Args:
        sock: the channel.
        context: descriptor of the context's text.
        settings: memory limit, characters of output kept and seed, packed.
        parent_died: arranges this process's death after the zygote's.
    """
    os.setsid()  # its own group: one signal then reaches whatever model code may have started
    parent_died()
    memory, keep_chars, seed = frames.SETTINGS.unpack(settings)
    _limit(resource.RLIMIT_AS, memory)
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_FSIZE, _MAX_FILE_BYTES)
    _limit(resource.RLIMIT_NOFILE, _MAX_OPEN_FILES)
    random.seed(seed)
    channel = Channel(sock)
    try:
        text = _read_context(context)
    except UnicodeDecodeError as error:
        channel.send(frames.REFUSED, 0, f"is not UTF-8 text (byte {error.start})")
        return
    except MemoryError:
        channel.send(frames.REFUSED, 0, "does not fit the REPL's memory limit")
        return
    lines = text.count("\n") + (not text.endswith("\n") if text else 0)
    channel.send(frames.READY, os.getpid(), str(len(text)), str(lines))
    Session(channel, text, keep_chars).serve()


def _limit(what: int, value: int) -> None:
    _, hard = resource.getrlimit(what)
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(what, (value, value))


def _read_context(descriptor: int) -> str:
    """The text, decoded straight from the mapped file: no second copy in between."""
    size = os.fstat(descriptor).st_size
    try:
        if not size:
            return ""
        with mmap.mmap(descriptor, size, prot=mmap.PROT_READ) as mapped:
            return str(mapped, "utf-8")
    finally:
        os.close(descriptor)
