"""The filter that a session's system calls go through: an allow-list in the kernel's own bytecode.

    made = program(files=False, threads=True)      # for any session
    load(made, os.getpid())                        # for this one; cannot be taken back

Written as raw BPF because libseccomp is not on every slim image. Standard library only.
"""

from __future__ import annotations

import ctypes
import errno
import platform
import struct
from collections.abc import Sequence

from rlm_executor.sandbox.syscalls import AUDIT, FILES, NO_FILES, NUMBERS, PLAIN, UNKNOWN

LD, JEQ, JGE, JSET, AND, RET = 0x20, 0x15, 0x35, 0x45, 0x54, 0x06  # linux/filter.h
ALLOW, KILL_PROCESS, ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
X32_CALLS = 0x40000000  # numbers from here on are another table of the same machine
SET_MODE_FILTER = 1

PROT_EXEC, MAP_SHARED = 4, 1
MSG_OOB, MSG_USUAL = 1, 0x40 | 0x4000  # DONTWAIT, NOSIGNAL
# clone: threads only. What makes a thread, and what makes a namespace, a process or a handle.
THREAD = 0x100 | 0x200 | 0x400 | 0x800 | 0x10000  # VM, FS, FILES, SIGHAND, THREAD
NOT_THREAD = 0x7E020000 | 0x80 | 0x1000 | 0x2000 | 0x4000  # NEW*, NEWTIME, PIDFD, PTRACE, VFORK
PR_SET_NAME, PR_GET_NAME, PR_SET_VMA = 15, 16, 0x53564D41
F_GETFD, F_SETFD, F_GETFL, F_SETFL = 1, 2, 3, 4
FIONBIO, FIONCLEX, FIOCLEX = 0x5421, 0x5450, 0x5451
MADVICE = (0, 3, 4, 8, 14, 15, 18, 19)  # use, no use, free, huge pages or not, dump or not
AF_UNIX = 1

OWN_PID = 0x7EAD0001  # stands for the session's pid in a program made ahead
Instruction = tuple[int, int, int, int]  # code, jump if true, jump if false, constant


def _argument(index: int, *, high: bool = False) -> int:
    return 16 + 8 * index + 4 * high  # offset in struct seccomp_data, little-endian


def _deny(error: int) -> Instruction:
    return (RET, 0, 0, ERRNO | error)


def one_of(index: int, values: Sequence[int], error: int) -> list[Instruction]:
    """Deny unless the argument is one of ``values``."""
    tests = [(JEQ, len(values) - at, 0, value) for at, value in enumerate(values)]
    return [(LD, 0, 0, _argument(index)), *tests, _deny(error)]


def no_bits(index: int, bits: int, error: int) -> list[Instruction]:
    """Deny if the argument has any of ``bits``."""
    return [(LD, 0, 0, _argument(index)), (JSET, 0, 1, bits), _deny(error)]


def all_bits(index: int, bits: int, error: int) -> list[Instruction]:
    """Deny unless the argument has all of ``bits``."""
    masked = [(LD, 0, 0, _argument(index)), (AND, 0, 0, bits)]
    return [*masked, (JEQ, 1, 0, bits), _deny(error)]


def null(index: int, error: int) -> list[Instruction]:
    """Deny unless the argument, a pointer, is NULL."""
    low = [(LD, 0, 0, _argument(index)), (JEQ, 0, 2, 0)]
    high = [(LD, 0, 0, _argument(index, high=True)), (JEQ, 1, 0, 0)]
    return [*low, *high, _deny(error)]


def checked(pid: int, *, files: bool, threads: bool) -> dict[str, list[Instruction]]:
    """Calls that are allowed with some arguments only; each list denies or falls through."""
    executable = [] if files else no_bits(2, PROT_EXEC, errno.EACCES)
    # Shared pages stay when they are unmapped, out of every count of this process.
    private = [] if files else no_bits(3, MAP_SHARED, errno.EPERM)
    thread = [*no_bits(0, NOT_THREAD, errno.EPERM), *all_bits(0, THREAD, errno.EPERM)]
    return {
        "mmap": [*executable, *private],
        "mprotect": executable,
        "clone": thread if threads else [_deny(errno.EAGAIN)],
        "kill": one_of(0, [pid], errno.EPERM),
        "tgkill": one_of(0, [pid], errno.EPERM),
        "prctl": one_of(0, [PR_SET_NAME, PR_GET_NAME, PR_SET_VMA], errno.EPERM),
        "fcntl": one_of(1, [F_GETFD, F_SETFD, F_GETFL, F_SETFL], errno.EPERM),
        "ioctl": one_of(1, [FIONBIO, FIONCLEX, FIOCLEX], errno.ENOTTY),
        "prlimit64": [*one_of(0, [0], errno.EPERM), *null(2, errno.EPERM)],  # read its own
        "madvise": one_of(2, MADVICE, errno.EINVAL),
        "socketpair": one_of(0, [AF_UNIX], errno.EPERM),
        # A datagram pair cannot be aimed at somebody else; urgent data has had its bugs.
        "sendto": [*null(4, errno.EPERM), *no_bits(3, ~MSG_USUAL & 0xFFFFFFFF, errno.EPERM)],
        "recvfrom": no_bits(3, MSG_OOB, errno.EPERM),
    }


def instructions(pid: int, *, files: bool, threads: bool, machine: str) -> list[Instruction]:
    """The whole filter.

    Args:
        pid: the only process that it may signal.
        files: whether calls that name files are allowed (Landlock decides which files).
        threads: whether it may start threads.
    """
    numbers = NUMBERS[machine]
    code: list[Instruction] = [
        (LD, 0, 0, 4),  # the machine that the call is made for
        (JEQ, 1, 0, AUDIT[machine]),
        (RET, 0, 0, KILL_PROCESS),
        (LD, 0, 0, 0),  # the call
        (JGE, 0, 1, X32_CALLS),
        (RET, 0, 0, KILL_PROCESS),
    ]
    for name in [*PLAIN, *(FILES if files else [])]:
        if name in numbers:  # each machine lacks some
            code += [(JEQ, 0, 1, numbers[name]), (RET, 0, 0, ALLOW)]
    for name, checks in checked(pid, files=files, threads=threads).items():
        body = [*checks, (RET, 0, 0, ALLOW)]
        code += [(JEQ, 0, len(body), numbers[name]), *body]
    denials = [(name, errno.ENOSYS) for name in UNKNOWN]
    denials += [(name, errno.EACCES) for name in NO_FILES]
    for name, error in denials:
        if name in numbers:
            code += [(JEQ, 0, 1, numbers[name]), _deny(error)]
    return [*code, _deny(errno.EPERM)]


def program(*, files: bool, threads: bool) -> bytes:
    """The filter as the kernel takes it, made for a session whose pid is not known yet.

    Raises:
        KeyError: there is no table for this machine.
    """
    code = instructions(OWN_PID, files=files, threads=threads, machine=platform.machine())
    return b"".join(struct.pack("<HBBI", *instruction) for instruction in code)


def load(made: bytes, pid: int) -> None:
    """Put this thread, and all it starts, behind the filter for good.

    Raises:
        OSError: the kernel refuses.
    """
    filled = made.replace(struct.pack("<I", OWN_PID), struct.pack("<I", pid))
    buffer = ctypes.create_string_buffer(filled, len(filled))
    fields = struct.pack("@HxxxxxxP", len(filled) // 8, ctypes.addressof(buffer))
    libc = ctypes.CDLL(None, use_errno=True)
    call = NUMBERS[platform.machine()]["seccomp"]
    if libc.syscall(call, SET_MODE_FILTER, 0, ctypes.c_char_p(fields)):
        raise OSError(ctypes.get_errno(), "seccomp")
