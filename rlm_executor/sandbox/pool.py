"""Where sessions come from: the zygotes of this process, and what all sessions may use together.

    pool = Pool.of("sealed")
    home = await pool.home(context)      # the context's zygote: made once, shared by its sessions
    place = await home.fork(...)         # a session: its channel and its pidfd

Everything is taken back on every path: a session when its ``Place`` is closed, a context's zygote
when the context is gone, the base zygote with this process. When this process is killed, the
sockets end, and with them every zygote and, by the kernel's hand, every session.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import weakref
from collections import deque
from pathlib import Path
from typing import Any

from rlm_executor.context import Context, Metadata
from rlm_executor.errors import InputError, SandboxError
from rlm_executor.sandbox import confine, tiers, zygote
from rlm_executor.sandbox.memory import Watch

SEED = 0  # of `random` in every session, and of its string hashes: replays see the same orders
MOST_SESSIONS = 1024  # slots, each with a uid of its own
START_SECONDS = 60.0  # a machine that needs longer to load a context is not going to get better
ENVIRONMENT = {
    "PATH": "/usr/bin:/bin",
    "LANG": "C.UTF-8",
    "PYTHONHASHSEED": str(SEED),
    "PYTHONDONTWRITEBYTECODE": "1",
    # Numerical libraries start their threads at import, and a fork would lose them.
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
}
SCRIPT = Path(zygote.__file__)
PYTHON = sys.executable

# Shared by all pools. The slot that was freed last is taken last: its process may be dying still.
_slots = deque(range(MOST_SESSIONS))
watch = Watch()


class Place:
    """One session as its host holds it: close it, and the session is gone."""

    def __init__(self, slot: int, sock: socket.socket, scratch: str) -> None:
        self.sock, self.scratch = sock, scratch
        self.pidfd = -1
        self.overdrawn = False  # ended because all sessions together had used up their memory
        self._slot = slot

    def admit(self, pidfd: int) -> None:
        """It has started: from now on it can be signalled, and its memory counts."""
        self.pidfd = pidfd
        watch.add(self)

    def signal(self, which: signal.Signals) -> None:
        """Send a signal; nothing if it has ended."""
        if self.pidfd >= 0:
            with contextlib.suppress(OSError):
                signal.pidfd_send_signal(self.pidfd, which)

    def close(self) -> None:
        """End the session and give back what it had. Calling it twice is fine."""
        if self._slot < 0:
            return
        self.signal(signal.SIGKILL)
        watch.remove(self)
        self.sock.close()
        if self.pidfd >= 0:
            os.close(self.pidfd)
            self.pidfd = -1
        if self.scratch:  # whatever a model has put there: not on the event loop
            threading.Thread(target=_remove, args=(self.scratch,), daemon=True).start()
        _slots.append(self._slot)
        self._slot = -1


class Home:
    """The zygote of one context."""

    def __init__(self, pool: Pool, control: socket.socket, metadata: Metadata) -> None:
        self.metadata = metadata
        self._pool, self._control = pool, control

    async def fork(self, settings: dict[str, Any]) -> Place:
        """Fork a session; what it says first is on its socket.

        Args:
            settings: as ``worker.main`` takes them.

        Raises:
            SandboxError: too many sessions.
            OSError: the zygote has ended, or this process has no descriptors left.
        """
        try:
            slot = _slots.popleft()
        except IndexError:
            raise SandboxError(
                f"{MOST_SESSIONS} REPL sessions are open in this process; end some of them"
            ) from None
        place = None
        try:
            scratch = self._pool.make_scratch(slot)
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
            place = Place(slot, ours, scratch)
            ours_too = {
                "slot": slot,
                "seed": SEED,
                "confined": self._pool.confined,
                "scratch": scratch,
                "readable": list(tiers.READABLE) if scratch else [],
            }
            packet = json.dumps(settings | ours_too).encode()
            with theirs:
                while True:
                    try:
                        socket.send_fds(self._control, [packet], [theirs.fileno()])
                        return place
                    except BlockingIOError:  # it has many requests to work off
                        await asyncio.sleep(0.001)
        except BaseException:
            if place is not None:
                place.close()
            else:
                _slots.append(slot)
            raise

    def ended(self) -> bool:
        """Whether its process is gone."""
        poll = select.poll()
        try:
            poll.register(self._control, select.POLLHUP)
        except (ValueError, OSError):  # closed here
            return True
        return bool(poll.poll(0))

    def close(self) -> None:
        """Let the zygote end, and with it its sessions."""
        self._control.close()


class Pool:
    """The zygotes and sessions of one kind of isolation in this process."""

    _pools: dict[tuple[str, tuple[str, ...]], Pool] = {}
    _making = threading.Lock()

    @classmethod
    def of(cls, isolation: str, preload: tuple[str, ...] = ()) -> Pool:
        """This process's pool of that kind.

        Args:
            isolation: ``sealed``, ``sealed+ns``, ``files`` or ``none``.
            preload: modules that cells may import beyond the standard library, numpy say.

        Raises:
            SandboxError: this machine cannot have it.
        """
        with cls._making:
            pool = cls._pools.get((isolation, preload))
            if pool is None:
                pool = cls._pools[isolation, preload] = cls(isolation, preload)
            return pool

    def __init__(self, isolation: str, preload: tuple[str, ...]) -> None:
        tiers.check_platform(isolation)
        self.isolation, self.confined = isolation, isolation != "none"
        self._preload = preload
        self._homes: weakref.WeakKeyDictionary[Context, Home] = weakref.WeakKeyDictionary()
        self._settling = threading.Lock()  # contexts load one at a time
        self._base: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._end: weakref.finalize[..., Pool] | None = None

    async def home(self, context: Context) -> Home:
        """The zygote that holds this context, started if there is none.

        Raises:
            InputError: it is not what it should be, or too large.
            SandboxError: no zygote can be had.
        """
        known = self._homes.get(context)
        if known is not None and not known.ended():
            return known
        return await asyncio.to_thread(self._settle, context)

    def make_scratch(self, slot: int) -> str:
        """A folder for the files of a session that may have some, else ""."""
        if self.isolation != "files":
            return ""
        folder = tempfile.mkdtemp(prefix="rlm-")
        if os.geteuid() == 0:
            os.chown(folder, confine.FIRST_UID + slot, confine.FIRST_UID + slot)
        return folder

    def abandon(self) -> None:
        """In a fork of this process: the zygotes are the parent's, and end with it."""
        for sock in [self._control, *(home._control for home in self._homes.values())]:
            if sock is not None:
                sock.close()

    def _settle(self, context: Context) -> Home:
        with self._settling:
            known = self._homes.get(context)
            if known is not None and not known.ended():
                return known
            ours, reply = self._load(context)
            if not reply.startswith("ok "):
                ours.close()
                raise InputError(f"context {context.label} {reply.removeprefix('no ')}")
            told = [
                Metadata.told(part.name, facts)
                for part, facts in zip(context.parts, json.loads(reply[3:]), strict=True)
            ]
            ours.setblocking(False)
            home = self._homes[context] = Home(self, ours, Metadata.joined(tuple(told)))
            weakref.finalize(context, home.close)
            return home

    def _load(self, context: Context) -> tuple[socket.socket, str]:
        """A new zygote's control socket, and what it says of the context."""
        said = ""
        for attempt in (1, 2):
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            ours.settimeout(START_SECONDS)
            try:
                with theirs:
                    base = self._control or self._start()
                    with contextlib.suppress(BrokenPipeError):  # it says why
                        _hand_over(base, theirs, context)
                reply = ours.recv(zygote.MAX_PACKET).decode("utf-8", "replace")
                if reply:
                    return ours, reply
                reason: Exception = SandboxError("it ended while it read the context")
            except OSError as error:
                reason = error
            ours.close()
            if self._base is not None and self._base.poll() is None and attempt == 1:
                with contextlib.suppress(subprocess.TimeoutExpired):  # it may be ending
                    self._base.wait(0.2)
            if self._base is not None and self._base.poll() is None:
                break  # it is not the base that is wrong
            said = self._drop()
        raise SandboxError(f"no REPL process can be started: {reason}{said}")

    def _start(self) -> socket.socket:
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        # The control socket ends with this object, and the base zygote with the socket.
        command = [PYTHON, "-S", "-s", "-P", str(SCRIPT), str(theirs.fileno())]
        paths: list[str] = []
        if self._preload:
            paths = [path for path in sys.path if path and os.path.isdir(path)]
        if self.isolation == "sealed+ns":
            command = [*tiers.bwrap([str(SCRIPT.parent), *paths]), *command]
        environment = ENVIRONMENT | ({"PYTHONPATH": os.pathsep.join(paths)} if paths else {})
        with theirs:
            self._base = subprocess.Popen(
                [*command, *self._preload],
                env=environment,
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                pass_fds=[theirs.fileno()],
                start_new_session=True,  # a Ctrl-C in the terminal is ours, not the sessions'
            )
        self._end = weakref.finalize(self, _reap, self._base, self._control, os.getpid())
        return self._control

    def _drop(self) -> str:
        """Forget the base zygote, which has ended; its last words."""
        said = ""
        if self._base is not None and self._base.stderr is not None:
            lines = self._base.stderr.read().decode("utf-8", "replace").strip().splitlines()
            said = f": {lines[-1]}" if lines else ""
        if self._end is not None:
            self._end()
        self._base = self._control = None
        return said


def _hand_over(base: socket.socket, control: socket.socket, context: Context) -> None:
    """Let the base zygote make one for this context, and give that one what it is about."""
    kinds: list[tuple[str | int, ...]] = []
    theirs, pipes, readers = [control.fileno()], [], []
    try:
        for part in context.parts:
            if part.descriptor >= 0:
                kinds.append((part.name, part.kind))
                theirs.append(part.descriptor)
            else:
                kinds.append((part.name, part.kind, len(part.text), part.widest()))
                reader, writer = os.pipe()
                with contextlib.suppress(OSError):  # a user may have only so much of them
                    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, zygote.PIECE)
                readers.append(reader)
                theirs.append(reader)
                pipes.append((writer, part))
        socket.send_fds(base, [json.dumps(kinds).encode()], theirs)
        while readers:
            os.close(readers.pop())
        for writer, part in pipes:  # in the order in which they are read
            for piece in part.pieces():
                view = memoryview(piece)
                while view:
                    view = view[os.write(writer, view) :]
    finally:
        for descriptor in [*readers, *(writer for writer, _ in pipes)]:
            os.close(descriptor)


def _reap(process: subprocess.Popen[bytes], control: socket.socket, owner: int) -> None:
    """Let a base zygote end; at the latest when this process does."""
    control.close()
    if os.getpid() != owner:
        return
    try:
        process.wait(timeout=5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if process.stderr is not None:
        process.stderr.close()


def _remove(folder: str) -> None:
    with contextlib.suppress(Exception):  # a tree may be deeper than Python can follow
        shutil.rmtree(folder, ignore_errors=True)


def _after_fork() -> None:
    pools, Pool._pools = Pool._pools, {}
    Pool._making = threading.Lock()
    watch.forget()
    for pool in pools.values():
        pool.abandon()


os.register_at_fork(after_in_child=_after_fork)
