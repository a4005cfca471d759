"""A session locks itself in: called once, in the forked child, before any code of a model.

    posture = Confinement(slot=3, ...).enter(parent)      # "uid=60003 seccomp=allow-list ..."

The order matters: limits, then the identity, then no way back up, then the kernel's two filters;
at the end the walls are tried, and one that gives way ends the session before it began. What each
step holds off is in tests/attacks; no privilege is needed, and a namespace neither, so it works
in an unprivileged container. Standard library only.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import socket
from collections.abc import Callable
from dataclasses import dataclass

from rlm_executor.sandbox import landlock, seccomp

FIRST_UID = 60_000  # of sessions started by root: one each in a process, so they are strangers
MAX_THREADS = 64
MAX_OPEN_FILES = 32
NICENESS = 10  # the GPU's server comes first
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_CAPBSET_DROP = 1, 4, 24
PR_SET_NO_NEW_PRIVS, PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL = 38, 47, 4
_CAPSET_HEADER = b"\x22\x05\x08\x20" + bytes(4)  # version 3 of the call, this thread
_CAPSET_NONE = bytes(24)


class Hole(Exception):
    """A wall is not there; the text says which."""


@dataclass(frozen=True)
class Confinement:
    """What one session is held in."""

    slot: int  # no other living session of this process has it
    memory: int  # bytes of address space beyond what the fork came with
    program: Callable[[bool], bytes]  # the seccomp filter, with threads or without
    scratch: str = ""  # a folder it may write: the session has files
    readable: tuple[str, ...] = ()  # more paths that it may read then

    def enter(self, parent: int) -> str:
        """Lock this process in, for good.

        Args:
            parent: pid of the zygote; the session dies with it.

        Returns:
            The posture, as ``name=value`` words.

        Raises:
            Hole: a wall cannot be put up, or gives way.
        """
        libc = ctypes.CDLL(None, use_errno=True)
        give_way()
        self._limit()
        uid = self._change_user(libc)
        if libc.capset(_CAPSET_HEADER, _CAPSET_NONE):
            raise Hole("it cannot give up its rights")
        if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
            raise Hole("the kernel has no no_new_privs")
        libc.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)  # nobody of this uid may look into it
        die_with(parent)
        threads = uid != 0  # the kernel does not count the processes of root
        try:
            abi = self._landlock()
            seccomp.load(self.program(threads), os.getpid())
        except OSError as error:
            raise Hole(f"the kernel refuses the filter: {error}") from error
        self._try_walls()
        limits = f"memory={self.memory >> 20}M threads={MAX_THREADS if threads else 1}"
        return f"uid={uid} seccomp=allow-list landlock={abi} {limits}"

    def _limit(self) -> None:
        size = mapped_bytes() + self.memory
        files = self.memory if self.scratch else 0
        for what, value in (
            (resource.RLIMIT_AS, size),
            (resource.RLIMIT_CORE, 0),
            (resource.RLIMIT_FSIZE, files),
            (resource.RLIMIT_NOFILE, MAX_OPEN_FILES),
            (resource.RLIMIT_MEMLOCK, 0),
            (resource.RLIMIT_MSGQUEUE, 0),
            (resource.RLIMIT_SIGPENDING, MAX_THREADS),
            (resource.RLIMIT_NPROC, self._processes()),
        ):
            _, hard = resource.getrlimit(what)
            value = value if hard == resource.RLIM_INFINITY else min(value, hard)
            resource.setrlimit(what, (value, value))

    def _processes(self) -> int:
        """Threads of a uid of its own; else all that there may be of this uid already, and more."""
        return MAX_THREADS if os.geteuid() == 0 else count_tasks() + MAX_THREADS

    def _change_user(self, libc: ctypes.CDLL) -> int:
        """A uid that no other session of this host has, where we may; gives the one it is now."""
        if os.geteuid() != 0:
            return os.getuid()
        for capability in range(64):  # before the change of user: after it we may not
            if libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0):
                break
        libc.prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
        uid = FIRST_UID + self.slot
        try:
            os.setgroups([])
            os.setresgid(uid, uid, uid)
            os.setresuid(uid, uid, uid)
        except OSError:  # a root without that right
            return os.getuid()
        return uid

    def _landlock(self) -> int:
        if not self.scratch:
            return landlock.restrict()
        abi = landlock.version()
        if abi < 3:
            raise Hole(
                f"isolation `files` needs Landlock of version 3 (Linux 6.2), here is {abi}; "
                "use `sealed`"
            )
        return landlock.restrict(read=self.readable, write=[self.scratch])

    def _try_walls(self) -> None:
        for what, attempt in _ATTEMPTS.items():
            try:
                attempt()
            except OSError:
                continue
            raise Hole(f"the session could {what}")


def _fork() -> None:
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)


def _open() -> None:
    os.close(os.open("/", os.O_RDONLY))


_ATTEMPTS: dict[str, Callable[[], None]] = {
    "open a file": _open,
    "make an internet socket": lambda: socket.socket(socket.AF_INET).close(),
    "make a local socket": lambda: socket.socket(socket.AF_UNIX).close(),
    "start a process": _fork,
    "signal its parent": lambda: os.kill(os.getppid(), 0),
}


def die_with(parent: int) -> None:
    """Arrange this process's death after its parent's."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it died before we asked
        os._exit(1)


def give_way() -> None:
    """First to go when memory is short, last to run when the processor is."""
    try:
        with open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
            file.write("1000")
    except OSError:
        pass  # no /proc, or a container that forbids it
    os.nice(NICENESS)


def mapped_bytes() -> int:
    """Address space of this process now."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[0]) * resource.getpagesize()


def count_tasks() -> int:
    """Processes and threads of the whole machine (of the container, where /proc says so)."""
    with open("/proc/loadavg", encoding="ascii") as file:
        return int(file.read().split()[3].partition("/")[2])
