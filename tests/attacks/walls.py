"""Every wall, and what shows that it is gone: builds of the sandbox with one of them taken out.

A wall that no attack notices is no wall, or is not tested; so each entry names the attacks that
must then get through (or the start that must be refused).
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import rlm_executor


@dataclass(frozen=True)
class Wall:
    """What to take out of which file, and the attacks that see it."""

    name: str
    file: str
    old: str
    new: str
    attacks: str  # part of their names
    user: str = "root"


WALLS = [
    # what the session does to itself
    Wall("address space", "confine.py", "(resource.RLIMIT_AS, size),", "", "r26"),
    Wall("open files", "confine.py", "(resource.RLIMIT_NOFILE, MAX_OPEN_FILES),", "", "r03"),
    Wall("threads", "confine.py", "(resource.RLIMIT_NPROC, self._processes()),", "", "r10"),
    Wall("core files", "confine.py", "(resource.RLIMIT_CORE, 0),", "", "k01"),
    Wall("file size", "confine.py", "if self.scratch else 0\n", "if True else 0\n", "k01"),
    Wall("locked memory", "confine.py", "(resource.RLIMIT_MEMLOCK, 0),", "", "k01"),
    Wall("message queues", "confine.py", "(resource.RLIMIT_MSGQUEUE, 0),", "", "k01"),
    Wall("queued signals", "confine.py", "(resource.RLIMIT_SIGPENDING, MAX_THREADS),", "", "k01"),
    Wall("a user of its own", "confine.py", "os.setresuid(uid, uid, uid)", "pass", "k01"),
    Wall("a group of its own", "confine.py", "os.setresgid(uid, uid, uid)", "pass", "k01"),
    Wall("no other groups", "confine.py", "os.setgroups([])", "os.setgroups([0, 1])", "k01"),
    Wall("no way to rights", "confine.py", "libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)", "0", "k01"),
    Wall("no rights", "confine.py", "libc.capset(_CAPSET_HEADER, _CAPSET_NONE)", "0", "k01", "rightless"),
    Wall("no new privileges", "confine.py", "libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)", "0", "k01"),
    Wall("not to be looked into", "confine.py", "libc.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)", "pass", "k01", "nobody"),
    Wall("first to go", "confine.py", 'file.write("1000")', 'file.write("0")', "k01"),
    Wall("last to run", "confine.py", "os.nice(NICENESS)", "pass", "k01"),
    Wall("death with the zygote", "confine.py", "libc.prctl(PR_SET_PDEATHSIG", "(lambda *_: 0)(PR_SET_PDEATHSIG", "k02"),
    Wall("Landlock", "confine.py", "return landlock.restrict()", "return 0", "k01"),
    Wall("the filter", "confine.py", "seccomp.load(self.program(threads), os.getpid())", "pass", "k01"),
    Wall("the walls are tried", "confine.py", "raise Hole(f\"the session could {what}\")", "pass", "k03"),
    Wall("descriptors", "worker.py", "os.closerange(4,", "(lambda *_: 0)(4,", "k01"),
    # what the filter checks
    Wall("machine", "seccomp.py", "(JEQ, 1, 0, AUDIT[machine]),", "(JEQ, 1, 1, AUDIT[machine]),", "k04"),
    Wall("x32", "seccomp.py", "(JGE, 0, 1, X32_CALLS),", "(JGE, 1, 1, X32_CALLS),", "p11"),
    Wall("code in memory", "seccomp.py", '"mmap": [*executable, *private]', '"mmap": private', "p10"),
    Wall("code made of data", "seccomp.py", '"mprotect": executable', '"mprotect": []', "p10"),
    Wall("threads only", "seccomp.py", "*all_bits(0, THREAD, errno.EPERM)", "", "p05"),
    Wall("signals to oneself", "seccomp.py", '"kill": one_of(0, [pid], errno.EPERM)', '"kill": []', "p03", "nobody"),
    Wall("process options", "seccomp.py", '"prctl": one_of(0, [PR_SET_NAME, PR_GET_NAME, PR_SET_VMA], errno.EPERM)', '"prctl": []', "p07"),
    Wall("limits are read", "seccomp.py", '[*one_of(0, [0], errno.EPERM), *null(2, errno.EPERM)]', "[]", "p08"),
    Wall("pairs of one kind", "seccomp.py", "*null(4, errno.EPERM), *no_bits", "*no_bits", "n06"),
    Wall("private pages", "seccomp.py", '"mmap": [*executable, *private]', '"mmap": executable', "r27"),
    Wall("threads share descriptors", "seccomp.py", "THREAD = 0x100 | 0x200 | 0x400 |", "THREAD = 0x100 |", "r28"),
    Wall("urgent data", "seccomp.py", '*no_bits(3, ~MSG_USUAL & 0xFFFFFFFF, errno.EPERM)', "", "r29"),
    Wall("everything else", "seccomp.py", "return [*code, _deny(errno.EPERM)]", "return [*code, (RET, 0, 0, ALLOW)]", "p04"),
    # what the zygotes do
    Wall("the environment", "pool.py", "env=environment,", "env={**os.environ, **environment},", "f03"),
    Wall("a process a context", "zygote.py", "if fork() == 0:\n            try:\n                confine.die_with(parent)", "if not fork():\n            try:\n                pass", "k02"),
    # what the host believes
    Wall("the nonce", "running.py", "elif (kind, number) == (frames.DONE, self._nonce):", "elif kind == frames.DONE:", "c03"),
    Wall("the size of a frame", "link.py", "frames.unpack(bytes(self._buffer[:at]), frames.LIMITS)", "frames.HEADER.unpack(self._buffer[:at])", "c04"),
    Wall("the number of fields", "link.py", "[at : at + size], frames.MAX_FIELDS)", "[at : at + size])", "c15"),
    Wall("kinds of frames", "running.py", 'self.lost(Violation("it sent what it may not send now"))', "pass", "c18"),
    Wall("still between cells", "host.py", "self._place.signal(signal.SIGSTOP)", "pass", "r15"),
    Wall("the last resort", "running.py", 'self.lost(Gone("it did not stop when its time was up"))', "pass", "r06"),
]  # fmt: skip


def build_without(wall: Wall, folder: Path) -> None:
    """A copy of the package in ``folder``, with the wall taken out."""
    package = folder / "rlm_executor"
    source = Path(rlm_executor.__file__).parent
    shutil.copytree(source, package, ignore=shutil.ignore_patterns("__pycache__"))
    path = package / "sandbox" / wall.file
    text = path.read_text(encoding="utf-8")
    assert wall.old in text, f"{wall.file} has no {wall.old!r} any more"
    path.write_text(text.replace(wall.old, wall.new), encoding="utf-8")
