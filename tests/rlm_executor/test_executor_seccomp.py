"""The filter's program, call by call, on both machines that have a table; no kernel needed."""

from __future__ import annotations

import errno
import struct

import pytest

from rlm_executor.sandbox import seccomp
from rlm_executor.sandbox.syscalls import AUDIT, FILES, NO_FILES, NUMBERS, PLAIN, UNKNOWN
from tests.attacks.kernel_view import run_filter

PID = 4711


@pytest.fixture(params=sorted(NUMBERS))
def machine(request: pytest.FixtureRequest) -> str:
    return request.param


def verdict(
    machine: str, call: str | int, *arguments: int, files: bool = False, threads: bool = True
) -> int | str:
    """What the filter says: "allow", "kill", or the error that the call fails with."""
    code = seccomp.instructions(PID, files=files, threads=threads, machine=machine)
    number = NUMBERS[machine][call] if isinstance(call, str) else call
    padded = [argument & (1 << 64) - 1 for argument in (*arguments, *[0] * 6)][:6]
    said = run_filter(code, struct.pack("<IIQ6Q", number, AUDIT[machine], 0, *padded))
    if said == seccomp.ALLOW:
        return "allow"
    return "kill" if said == seccomp.KILL_PROCESS else said & 0xFFFF


def test_what_is_plain_is_allowed_and_what_is_not_there_fails(machine: str) -> None:
    numbers = NUMBERS[machine]
    assert all(verdict(machine, name) == "allow" for name in PLAIN if name in numbers)
    assert {verdict(machine, name) for name in UNKNOWN if name in numbers} == {errno.ENOSYS}
    assert {verdict(machine, name) for name in NO_FILES if name in numbers} == {errno.EACCES}
    known = {numbers[name] for name in numbers if name != "seccomp"}
    others = [number for number in range(500) if number not in known]
    assert {verdict(machine, number) for number in others} == {errno.EPERM}


def test_files_are_a_tier_of_their_own(machine: str) -> None:
    for name in set(FILES) & set(NUMBERS[machine]):
        assert verdict(machine, name, files=True) == "allow"
        assert verdict(machine, name) != "allow"
    assert verdict(machine, "mmap", 0, 0, seccomp.PROT_EXEC, files=True) == "allow"


@pytest.mark.parametrize(
    ("call", "allowed", "denied"),
    [
        ("mmap", (0, 4096, 3, 34), (0, 4096, 7, 34)),
        ("mmap", (0, 4096, 3, 34), (0, 4096, 3, 33)),  # shared
        ("clone", (0x3D0F00,), (0x3D0F00 & ~0x400,)),  # with descriptors of its own
        ("mprotect", (0, 4096, 1), (0, 4096, 5)),
        ("clone", (0x3D0F00,), (17,)),  # a thread of glibc; a fork
        ("clone", (0x3D0F00,), (0x3D0F00 | 0x10000000,)),  # with a user namespace
        ("clone", (0x3D0F00,), (0x3D0F00 | 0x1000,)),  # with a handle
        ("clone", (0x3D0F00,), (0x3D0F00 & ~0x10000,)),  # not a thread
        ("kill", (PID, 2), (PID + 1, 0)),
        ("kill", (PID, 9), (-1, 9)),
        ("tgkill", (PID, PID, 2), (1, 1, 2)),
        ("prctl", (seccomp.PR_SET_NAME,), (22,)),  # PR_SET_SECCOMP
        ("fcntl", (3, seccomp.F_GETFD), (3, 1033)),  # F_ADD_SEALS
        ("ioctl", (3, seccomp.FIONBIO), (3, 0x5412)),  # TIOCSTI
        ("prlimit64", (0, 7, 0), (0, 7, 0x1000)),
        ("prlimit64", (0, 7, 0), (0, 7, 1 << 40)),
        ("prlimit64", (0, 7, 0), (1, 7, 0)),
        ("madvise", (0, 0, 4), (0, 0, 12)),  # MADV_MERGEABLE
        ("socketpair", (seccomp.AF_UNIX, 1), (2, 1)),
        ("sendto", (3, 0, 0, 0, 0), (3, 0, 0, 0, 1 << 33)),
        ("sendto", (3, 0, 0, 0x4000, 0), (3, 0, 0, 1, 0)),  # MSG_OOB
        ("recvfrom", (3, 0, 0, 0x40), (3, 0, 0, 1)),
    ],
)
def test_arguments_are_looked_at(machine: str, call: str, allowed: tuple, denied: tuple) -> None:
    assert verdict(machine, call, *allowed) == "allow"
    assert verdict(machine, call, *denied) not in ("allow", "kill")


def test_without_threads_there_are_none(machine: str) -> None:
    assert verdict(machine, "clone", 0x3D0F00, threads=False) == errno.EAGAIN


def test_another_machine_or_table_is_the_end(machine: str) -> None:
    code = seccomp.instructions(PID, files=False, threads=True, machine=machine)
    other = next(name for name in AUDIT if name != machine)
    read = struct.pack("<IIQ6Q", NUMBERS[machine]["read"], AUDIT[other], 0, *[0] * 6)
    assert run_filter(code, read) == seccomp.KILL_PROCESS
    assert verdict(machine, seccomp.X32_CALLS + 39) == "kill"


def test_programs_fit_what_the_kernel_takes(machine: str) -> None:
    for files in (False, True):
        code = seccomp.instructions(PID, files=files, threads=True, machine=machine)
        assert len(code) < 4096
        assert all(0 <= jump < 256 for _, *jumps, _ in code for jump in jumps)
        reach = [at + 1 + max(true, false) for at, (_, true, false, _) in enumerate(code)]
        assert max(reach) <= len(code)


def test_numbers_are_each_used_once(machine: str) -> None:
    assert len(set(NUMBERS[machine].values())) == len(NUMBERS[machine])
