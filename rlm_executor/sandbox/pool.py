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
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import weakref
from pathlib import Path

from rlm_executor.context import Context
from rlm_executor.errors import InputError, SandboxError
from rlm_executor.sandbox import confine, zygote
from rlm_executor.sandbox.memory import Watch
from rlm_executor.sandbox.tiers import bwrap, check_platform

SEED = 0  # of `random` in every session, and of its string hashes: replays see the same orders
MEMORY_FLOOR = 1 << 30  # bytes of address space a session may take for itself ...
MEMORY_PER_CONTEXT_BYTE = 8  # ... and for each byte of its context: wide text, splits, copies
MOST_SESSIONS = 4096  # slots, each with a uid of its own
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


class Place:
    """One session as its host holds it: close it, and the session is gone."""

    def __init__(self, pool: Pool, slot: int, sock: socket.socket, scratch: str) -> None:
        self.sock, self.scratch = sock, scratch
        self.pidfd = -1
        self.overdrawn = False  # ended because all sessions together had used up their memory
        self._pool, self._slot = pool, slot

    def admit(self, pidfd: int) -> None:
        """It has started: from now on it can be signalled, and its memory counts."""
        self.pidfd = pidfd
        self._pool.watch.add(self)

    def signal(self, which: signal.Signals) -> None:
        """Send a signal; nothing if it has ended."""
        if self.pidfd >= 0:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                signal.pidfd_send_signal(self.pidfd, which)

    def close(self) -> None:
        """End the session and give back what it had. Calling it twice is fine."""
        if self._slot < 0:
            return
        self.signal(signal.SIGKILL)
        self._pool.watch.remove(self)
        self.sock.close()
        if self.pidfd >= 0:
            os.close(self.pidfd)
            self.pidfd = -1
        if self.scratch:
            shutil.rmtree(self.scratch, ignore_errors=True)
        self._pool.free(self._slot)
        self._slot = -1


class Home:
    """The zygote of one context."""

    def __init__(self, pool: Pool, control: socket.socket, chars: int, lines: int) -> None:
        self.chars, self.lines = chars, lines
        self._pool, self._control = pool, control

    async def fork(self, keep_chars: int) -> Place:
        """Fork a session; what it says first is on its socket.

        Raises:
            SandboxError: too many sessions, or the zygote has ended.
        """
        pool = self._pool
        slot = pool.take()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        scratch = pool.make_scratch(slot)
        place = Place(pool, slot, ours, scratch)
        settings = zygote.SETTINGS.pack(
            slot, MEMORY_FLOOR, MEMORY_PER_CONTEXT_BYTE, keep_chars, SEED, pool.confined
        )
        paths = "\0".join([scratch, *(pool.readable if scratch else [])]).encode()
        try:
            with theirs:
                while True:
                    try:
                        socket.send_fds(self._control, [settings + paths], [theirs.fileno()])
                        return place
                    except BlockingIOError:  # it has many requests to work off
                        await asyncio.sleep(0.001)
        except OSError as error:
            place.close()
            raise SandboxError(f"no REPL process can be started: {error}") from error
        except BaseException:
            place.close()
            raise

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
            if pool is None or pool.owner != os.getpid():
                pool = cls._pools[isolation, preload] = cls(isolation, preload)
            return pool

    def __init__(self, isolation: str, preload: tuple[str, ...]) -> None:
        check_platform(isolation)
        self.isolation, self.confined = isolation, isolation != "none"
        self.owner = os.getpid()
        self.watch = Watch()
        self.readable = [sys.base_prefix, sys.prefix] if isolation == "files" else []
        self._preload = preload
        self._slots = set(range(MOST_SESSIONS))
        self._homes: weakref.WeakKeyDictionary[Context, Home] = weakref.WeakKeyDictionary()
        self._lock = threading.Lock()  # of what follows; contexts load one at a time
        self._base: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None

    async def home(self, context: Context) -> Home:
        """The zygote that holds this context, started if there is none.

        Raises:
            InputError: it is not UTF-8 text, or too large.
            SandboxError: no zygote can be had.
        """
        known = self._homes.get(context)
        if known is not None:
            return known
        return await asyncio.to_thread(self._settle, context)

    def forget(self, context: Context) -> None:
        """Its zygote has ended: the next session gets a new one."""
        with self._lock:
            home = self._homes.pop(context, None)
        if home is not None:
            home.close()

    def take(self) -> int:
        """A free slot."""
        with self._lock:
            if not self._slots:
                raise SandboxError(
                    f"{MOST_SESSIONS} REPL sessions are open in this process; end some of them"
                )
            return self._slots.pop()

    def free(self, slot: int) -> None:
        """A slot is free again."""
        with self._lock:
            self._slots.add(slot)

    def make_scratch(self, slot: int) -> str:
        """A folder for the files of a session that may have some, else ""."""
        if self.isolation != "files":
            return ""
        folder = tempfile.mkdtemp(prefix="rlm-")
        if os.geteuid() == 0:
            os.chown(folder, confine.FIRST_UID + slot, confine.FIRST_UID + slot)
        return folder

    def _settle(self, context: Context) -> Home:
        with self._lock:
            known = self._homes.get(context)
            if known is not None:
                return known
            for attempt in (1, 2):
                ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
                try:
                    with theirs:
                        base = self._control or self._start()
                        socket.send_fds(base, [b"C"], [theirs.fileno(), context.fileno()])
                    reply = ours.recv(zygote.MAX_PACKET).decode("utf-8", "replace")
                    if reply:
                        break
                    raise OSError("the zygote has ended" + self._last_words())
                except OSError as error:
                    ours.close()
                    self._drop()
                    if attempt == 2:
                        raise SandboxError(f"no REPL process can be started: {error}") from error
            if not reply.startswith("ok "):
                ours.close()
                raise InputError(f"context {context.label} {reply.removeprefix('no ')}")
            _, chars, lines = reply.split()
            ours.setblocking(False)
            home = self._homes[context] = Home(self, ours, int(chars), int(lines))
            weakref.finalize(context, home.close)
            return home

    def _start(self) -> socket.socket:
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        # The control socket ends with this object, and the base zygote with the socket.
        command = [PYTHON, "-S", "-s", "-P", str(SCRIPT), str(theirs.fileno())]
        paths = [path for path in sys.path if path and os.path.isdir(path)] if self._preload else []
        if self.isolation == "sealed+ns":
            command = [
                *bwrap([SCRIPT.parent, Path(sys.executable).parent.parent, *paths]),
                *command,
            ]
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
        weakref.finalize(self, _reap, self._base, self._control, self.owner)
        return self._control

    def _drop(self) -> None:
        if self._control is not None:
            self._control.close()
            self._control = None

    def _last_words(self) -> str:
        if self._base is None or self._base.stderr is None:
            return ""
        try:
            _, said = self._base.communicate(timeout=5)
        except subprocess.TimeoutExpired:
            return ""
        lines = said.decode("utf-8", "replace").strip().splitlines()
        return f": {lines[-1]}" if lines else ""


def _reap(process: subprocess.Popen[bytes], control: socket.socket, owner: int) -> None:
    """Let a base zygote end; at the latest when this process does."""
    control.close()
    if os.getpid() == owner:
        if process.stderr is not None:
            process.stderr.close()
        process.wait(timeout=5)
