"""The REPL itself, in a process of its own: runs one cell after another in one namespace.

Standard library only. Cells run in the main thread; their threads may call ``llm_query`` too.
SIGINT stops a cell and keeps what it had assigned; the end of the channel ends the process.
"""

from __future__ import annotations

import functools
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
    last_line,
    remember_source,
)
from rlm_executor.sandbox.memory_files import MemoryFiles
from rlm_executor.sandbox.queries import Queries, chunks
from rlm_executor.sandbox.values import Files

_MAX_ANSWER_CHARS = 8_000_000  # a result holds 48 MiB, a character up to 4 bytes
_MAX_ERROR_CHARS = 100_000
_MAX_NAME_CHARS = 4096
_NAMES_SHOWN = 40
_NAME_SHOWN = 200  # characters
_NAMES_TOLD = 500


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

    def __init__(
        self,
        channel: Channel,
        stopper: Stopper,
        values: dict[str, Any],
        settings: dict[str, Any],
    ) -> None:
        self._channel, self._stopper = channel, stopper
        self._pid = os.getpid()
        self._output = Output(settings["keep_chars"])
        self._final: str | None = None  # given to FINAL or FINAL_VAR in this cell
        self._by_call = settings["finish"] == "final"  # and there is no `answer` then
        for name, value in values.items():
            if isinstance(value, Files):
                value.connect(functools.partial(self.fetch_file, owner=name))
        if "context" not in values:
            values = {**values, "context": dict(values)}
        module = types.ModuleType("__main__")
        sys.modules["__main__"] = module  # dataclasses, pickle and typing look names up there
        self._names: dict[str, Any] = module.__dict__
        self._values, queries = values, Queries(channel)
        self._reserved: dict[str, Any] = {
            **values,
            "llm_query": queries.llm_query,
            "llm_query_batched": queries.llm_query_batched,
            "rlm_query": queries.rlm_query,
            "rlm_query_batched": queries.rlm_query_batched,
            "SHOW_VARS": self._show_vars,
        }
        if self._by_call:
            self._reserved |= {"FINAL": self._set_final, "FINAL_VAR": self._final_var}
        else:
            self._names["answer"] = {"content": "", "ready": False}
        self._first: tuple[str, ...] = ()  # names that are told before all others
        if settings["numbered"]:  # what else a family of models knows the context as
            self._reserved = {"context_0": values["context"], **self._reserved}
            # `rlms` loads the context with code that leaves an open file `f`, and for values
            # `json`; when the model gives those names a new value, their place stays.
            loaded = ("f",) if isinstance(values["context"], str) else ("json", "f")
            self._first = loaded if self._by_call else ("answer", *loaded)
        extras = {"chunks": chunks, "rlm_query": queries.rlm_query_over}
        self._reserved |= {name: extras[name] for name in settings["extras"]}
        self._names.update(self._reserved)
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
        status, error, raised_as, self._final = "ok", "", "", None
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
                status, error, raised_as = "error", format_error(raised), last_line(raised)
        if len(error) > _MAX_ERROR_CHARS:
            half = _MAX_ERROR_CHARS // 2
            error = f"{error[:half]}\n...\n{error[-half:]}"
        answer, flags = self._inspect_answer()
        output, total = self._output.take()
        return status, output, str(total), error, answer, flags, raised_as, self._simple()

    def _inspect_answer(self) -> tuple[str, str]:
        """The answer's text and its flags: "r" ready, "m" moved into a dict, "!" unreadable.

        Looked at after the cell, so every way of setting it counts: item by item, ``update``,
        a new dict, in any order. Other reserved names that a cell has overwritten are put back.
        """
        self._names.update(self._reserved)
        if self._by_call:
            return self._final or "", "" if self._final is None else "r"
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

    def _simple(self) -> str:
        """Names of variables of the plainest types, in the order in which they were made."""
        made = dict(self._names)
        first = {name: made[name] for name in self._first if name in made}
        return "\n".join(
            [
                name
                for name, value in (first | made).items()
                if isinstance(value, (str, int, float, bool, list, dict, tuple))
                and not name.startswith("_")
                and len(name) <= _MAX_NAME_CHARS
            ][:_NAMES_TOLD]
        )

    def _state(self) -> str:
        if self._by_call:
            return self._show_vars()
        try:
            text, _ = self._inspect_answer()
            shown = f'answer["content"] is {glance(text)}' if text else 'answer["content"] is empty'
            return f"{self._show_vars()}\n{shown}"
        except Exception as error:  # a model's own __str__ may do anything
            return f"(the REPL's variables cannot be listed: {type(error).__name__})"

    # What the model may call. `answer` and `context` are plain values.

    def _set_final(self, answer: Any) -> str:
        """Give the final answer."""
        self._final = answer_text(answer)[:_MAX_ANSWER_CHARS]
        return self._final

    def _final_var(self, name: Any) -> str:
        """Give a variable's value as the final answer; its name or the value itself will do."""
        if not isinstance(name, str):
            return self._set_final(name)
        name = name.strip().strip("\"'")
        if name in self._names and name not in self._reserved:
            return self._set_final(self._names[name])
        return f"Error: there is no variable {name!r}. {self._show_vars()}"

    def _show_vars(self) -> str:
        """The variables made so far, with type and size."""
        lines = [
            f"- {name[:_NAME_SHOWN]}: {glance(value)}"
            for name, value in list(self._names.items())
            if name not in self._hidden
            and not name.startswith("_")
            and not isinstance(value, types.ModuleType)
        ]
        if not lines:
            return "Variables: none"
        more = [f"- ... and {len(lines) - _NAMES_SHOWN} more"] if len(lines) > _NAMES_SHOWN else []
        return "\n".join(["Variables:", *lines[:_NAMES_SHOWN], *more])

    def fetch_file(self, name: str, owner: str = "") -> str | None:
        """The content of a file of the context, None if there is none of that name.

        Args:
            name: the file's.
            owner: the variable whose file it must be.
        """
        name = f"{owner}\0{name}" if owner else name
        if len(name) > _MAX_NAME_CHARS:
            return None
        (found,) = self._channel.call(frames.OPEN, [name])
        if found.startswith("="):  # it is there already
            return str(self._values[found[1:]])
        return found[1:] if found else None


def main(
    sock: socket.socket,
    values: dict[str, Any],
    settings: dict[str, Any],
    *,
    enter: Callable[[], str] | None,
) -> None:
    """Become a session: called once in a freshly forked process; leaves only with an error.

    Args:
        sock: the channel.
        values: the context by name, shared with the zygote and its other sessions.
        settings: ``keep_chars`` of output; ``seed`` of ``random``; ``scratch``, a folder that
            cells may write files in, "": their files are in memory; ``finish``, "answer" (the
            dict) or "final" (functions); ``numbered``, whether the context is ``context_0`` too;
            ``extras``, more names that a family of models knows.
        enter: locks this process in and gives the posture; None: nothing confines it.
    """
    sock = leave_everything_but(sock)
    scratch = settings["scratch"]
    os.chdir(scratch or "/")
    random.seed(settings["seed"])
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
    session = Session(channel, stopper, values, settings)
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
