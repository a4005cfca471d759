"""The REPL itself, in a process of its own: runs one cell after another in one namespace.

Standard library only. Cells run in the main thread; their threads may call ``llm_query`` too.
SIGINT stops a cell and keeps what it had assigned; the end of the channel ends the process.
"""

from __future__ import annotations

import gc
import io
import os
import random
import resource
import signal
import socket
import sys
import threading
import types
from collections.abc import Callable
from typing import Any, NoReturn

from rlm_executor.sandbox import frames
from rlm_executor.sandbox.channel import COMMAND, Channel, Stopper
from rlm_executor.sandbox.describe import (
    answer_text,
    format_error,
    format_frames,
    glance,
    remember_source,
)
from rlm_executor.sandbox.memory_files import MemoryFiles

_MAX_ANSWER_CHARS = 8_000_000  # a result holds 48 MiB, a character up to 4 bytes
_MAX_ERROR_CHARS = 100_000
_MAX_CALL_BYTES = frames.LIMITS[frames.CALL] - (1 << 20)
_MAX_NAME_CHARS = 4096
_NAMES_SHOWN = 40


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
        self._kept = self._total = 0

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        with self._lock:
            self._total += len(text)
            if self._kept < self._keep:
                self._parts.append(text[: self._keep - self._kept])
                self._kept += len(self._parts[-1])
        return len(text)

    def take(self) -> tuple[str, int]:
        """What was kept and how much there was, since the last time."""
        with self._lock:
            taken = "".join(self._parts), self._total
            self._parts, self._kept, self._total = [], 0, 0
        return taken


class Session:
    """One namespace and the cells run in it."""

    def __init__(self, channel: Channel, stopper: Stopper, context: str, keep_chars: int) -> None:
        self._channel, self._stopper = channel, stopper
        self._pid = os.getpid()
        self._output = Output(keep_chars)
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
        signal.signal(signal.SIGINT, self._stopper)
        sys.stdout = sys.stderr = self._output
        while True:
            kind, nonce, fields = self._channel.wait(COMMAND)
            if kind == frames.EXEC:
                result = self._run(*fields)
                if os.getpid() != self._pid:  # a child that model code forked came out of its cell
                    os._exit(0)
                self._channel.send(frames.DONE, nonce, *result)
            else:
                self._channel.send(frames.STATE, nonce, self._state())

    def _run(self, number: str, code: str) -> tuple[str, ...]:
        name = f"<cell {number}>"
        remember_source(name, code)
        status, error = "ok", ""
        self._stopper.stopped = False
        try:
            program = compile(code, name, "exec", dont_inherit=True)
            try:
                self._stopper.in_cell = True
                exec(program, self._names)
            finally:
                self._stopper.in_cell = False
        except BaseException as raised:
            self._stopper.in_cell = False  # the interrupt may have come in the `finally`
            if self._stopper.stopped and isinstance(raised, KeyboardInterrupt):
                # Frames only: in which words a timeout is told is the dialect's to say.
                status, error = "timeout", format_frames(raised)
            else:
                status, error = "error", format_error(raised)
        if len(error) > _MAX_ERROR_CHARS:
            half = _MAX_ERROR_CHARS // 2
            error = f"{error[:half]}\n...\n{error[-half:]}"
        answer, flags = self._inspect_answer()
        output, total = self._output.take()
        return status, output, str(total), error, answer, flags

    def _inspect_answer(self) -> tuple[str, str]:
        """The answer's text and its flags: "r" ready, "m" moved into a dict, "!" unreadable.

        Looked at after the cell, so every way of setting it counts: item by item, ``update``,
        a new dict, in any order. Other reserved names that a cell has overwritten are put back.
        """
        self._names.update(self._reserved)
        moved = ""
        answer = self._names.get("answer")
        if not isinstance(answer, dict):
            moved = "m" if "answer" in self._names else ""
            answer = self._names["answer"] = {"content": answer, "ready": False}
        try:
            ready = "r" if answer.get("ready") else ""
            text = answer_text(answer.get("content"))
        except Exception:
            return "", moved + "!"
        if len(text) > _MAX_ANSWER_CHARS:
            return "", moved + "!"
        return text, ready + moved

    def _state(self) -> str:
        try:
            text, _ = self._inspect_answer()
            shown = f'answer["content"] is {glance(text)}' if text else 'answer["content"] is empty'
            return f"{self._show_vars()}\n{shown}"
        except Exception as error:  # a model's own __str__ may do anything
            return f"(the REPL's variables cannot be listed: {type(error).__name__})"

    # What the model may call. `answer` and `context` are plain values.

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
        kind, text = kinds[failed[0]], texts[failed[0]]
        if len(failed) == len(kinds) and len({*kinds}) == 1:
            raise _error_type(kind)(text)
        error = BatchError(
            f"{len(failed)} of {len(kinds)} calls failed, the first at index {failed[0]}: "
            f"{kind}: {text} (this exception's .results has the other replies)"
        )
        error.results = [None if bad else text for bad, text in zip(kinds, texts, strict=True)]
        raise error

    def _show_vars(self) -> str:
        """The variables made so far, with type and size."""
        lines = [
            f"- {name}: {glance(value)}"
            for name, value in list(self._names.items())
            if name not in self._hidden
            and not name.startswith("_")
            and not isinstance(value, types.ModuleType)
        ]
        if not lines:
            return "Variables: none"
        more = [f"- ... and {len(lines) - _NAMES_SHOWN} more"] if len(lines) > _NAMES_SHOWN else []
        return "\n".join(["Variables:", *lines[:_NAMES_SHOWN], *more])

    def _ask(self, prompts: list[str]) -> list[str]:
        if os.getpid() != self._pid:
            raise RuntimeError("sub-calls can only be made from the REPL's own process")
        replies: dict[str, tuple[str, str]] = {}
        distinct = list(dict.fromkeys(prompts))
        while distinct:  # what is too much for one frame goes in several
            size = many = 0
            for prompt in distinct[: frames.MAX_FIELDS]:
                size += 4 * len(prompt) + 8  # at most
                if size > _MAX_CALL_BYTES and many:
                    break
                many += 1
            if size > _MAX_CALL_BYTES and many == 1:
                raise ValueError(f"a prompt of {len(distinct[0])} characters is too long to send")
            told = self._channel.call(frames.CALL, distinct[:many])
            replies |= zip(distinct[:many], zip(told[::2], told[1::2], strict=True), strict=True)
            distinct = distinct[many:]
        return [field for prompt in prompts for field in replies[prompt]]

    def fetch_file(self, name: str) -> str | None:
        """The content of a file of the context, None if there is none of that name."""
        if len(name) > _MAX_NAME_CHARS:
            return None
        (found,) = self._channel.call(frames.OPEN, [name])
        return self._reserved["context"] if found else None


def main(
    sock: socket.socket,
    context: str,
    *,
    keep_chars: int,
    seed: int,
    enter: Callable[[], str] | None,
    scratch: str,
) -> None:
    """Become a session: called once in a freshly forked process; leaves only with an error.

    Args:
        sock: the channel.
        context: the text, shared with the zygote and its other sessions.
        keep_chars: characters of output kept.
        seed: of ``random``.
        enter: locks this process in and gives the posture; None: nothing confines it.
        scratch: a folder that cells may write files in; "": their files are in memory.
    """
    sock = leave_everything_but(sock)
    os.chdir(scratch or "/")
    random.seed(seed)
    stopper = Stopper()
    channel = Channel(sock, stopper)
    handle = os.pidfd_open(os.getpid())
    socket.send_fds(sock, [frames.pack(frames.PIDFD, 0)], [handle])
    os.close(handle)
    posture = ""
    if enter is not None:
        try:
            posture = enter()
        except Exception as error:
            channel.send(frames.REFUSED, 0, str(error))
            return
    session = Session(channel, stopper, context, keep_chars)
    if enter is not None and not scratch:
        MemoryFiles(session.fetch_file).install()
        sys.meta_path[:] = [*sys.meta_path[:2], _NoPackages]  # built-in and frozen ones stay
    gc.enable()
    channel.send(frames.READY, os.getpid(), posture)
    session.serve()


class _NoPackages:
    """Says at an import why there is nothing, instead of looking for files that cannot be read."""

    @staticmethod
    def find_spec(name: str, path: object = None, target: object = None) -> None:
        """Not found, whatever it is."""
        raise ModuleNotFoundError(
            f"No module named {name!r}: this REPL has the standard library only, without what "
            "needs files, programs or the network",
            name=name,
        )


def leave_everything_but(sock: socket.socket) -> socket.socket:
    """Close all descriptors that the fork came with; 0, 1 and 2 lead nowhere, 3 is the channel."""
    nowhere = os.open("/dev/null", os.O_RDWR)
    kept = os.dup(sock.detach())
    for standard in (0, 1, 2):
        os.dup2(nowhere, standard)
    os.dup2(kept, 3, inheritable=False)
    os.closerange(4, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    return socket.socket(fileno=3)
