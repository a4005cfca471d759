"""Runs the attacks in one posture and prints a JSON line for each: did it hold?

    python -m tests.attacks.harness [--user nobody] [--docker] [--only NAME]

A process of its own, because it gives up its rights: as Docker's default does (capabilities and
system calls, from Docker's documentation of its seccomp profile), and then as another user.
An attack holds when its program got through nowhere, its cell ended as it may, and the host, the
decoys, and a bystander's session are as they were.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import ctypes
import errno
import json
import os
import platform
import resource
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from rlm_executor.context import Context
from rlm_executor.sandbox import confine, pool, seccomp, syscalls
from rlm_executor.sandbox.host import Call, CallReply, Cell, Repl
from rlm_executor.sandbox.memory import pid_of
from tests.attacks.kernel_view import CHECKS
from tests.attacks.programs import ATTACKS, PRELUDE, Attack

NOBODY = 65534
SECRET = "ATTACK-SECRET-4711"
HOST_ONLY = b"HOST-ONLY-MEMORY"
BYSTANDER = "BYSTANDER-CONTEXT of another session " * 100
CELL_SECONDS, GRACE_SECONDS = 0.7, 1.0
AT_ONCE = 4
LONGEST_SECONDS = 20.0  # of one attack
MAX_GROWTH = 600 << 20  # bytes that attacks may cost the host, all together
CALLS_ALLOWED = 10
PAUSES = 5  # between two cells, of which one has to be still

# What Docker's default profile denies of the calls above, on x86_64.
DOCKER_DENIED = [
    103, 134, 135, 136, 139, 153, 154, 155, 156, 161, 163, 164, 165, 166, 167, 168, 169, 170, 171,
    172, 173, 174, 175, 176, 177, 178, 179, 180, 212, 227, 237, 238, 239, 246, 248, 249, 250, 256,
    272, 279, 298, 300, 301, 304, 305, 308, 312, 313, 320, 321, 323, 425, 426, 427, 428, 429, 430,
    431, 432, 433, 442,
]  # fmt: skip
DOCKER_CAPABILITIES = 0xA80425FB
NEW_NAMESPACES = 0x7E020000


def main() -> None:
    """Take the posture, attack, report."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--user", choices=["root", "nobody", "rightless"], default="root")
    parser.add_argument("--docker", action="store_true")
    parser.add_argument("--only", help="attacks with this in their name")
    parser.add_argument("--folder", type=Path, help="of the decoys; its owner removes it")
    arguments = parser.parse_args()
    os.environ["ATTACK_SECRET"] = SECRET
    if os.geteuid() == 0:  # else there is none to take away
        resource.setrlimit(resource.RLIMIT_CORE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    folder = arguments.folder or Path(tempfile.mkdtemp(prefix="attacks-"))
    folder.chmod(0o755)
    build(folder / "rlm_executor" / "sandbox")
    scene = Scene(folder)
    if arguments.docker:
        be_docker()
    if arguments.user == "nobody":
        be_nobody()
    if arguments.user == "rightless":
        keep_rights(~0xC0)  # a root that cannot become another user
    asyncio.run(attack_all(scene, arguments.only or ""))
    sys.stdout.flush()
    os._exit(0)  # whatever an attack has left hanging


def be_nobody() -> None:
    """Another user, who may not even read the Python that runs this."""
    asyncio.run(once())  # whatever is imported late is imported now
    pool.Pool._pools.clear()
    pool.PYTHON = python_of_anybody() or sys.exit("no Python that another user may run")
    os.setgroups([])
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)


def build(folder: Path) -> None:
    """A copy of the sandbox that other users can read."""
    caches = shutil.ignore_patterns("__pycache__")
    shutil.copytree(Path(pool.__file__).parent, folder, ignore=caches)
    for path in [folder.parent, folder, *folder.iterdir()]:
        path.chmod(0o755)
    pool.SCRIPT = folder / "zygote.py"


def be_docker() -> None:
    """Rights and calls of a process in a container that Docker starts by default."""
    deny = (seccomp.RET, 0, 0, seccomp.ERRNO | errno.EPERM)
    code = [(seccomp.LD, 0, 0, 0)]
    for number in DOCKER_DENIED:
        code += [(seccomp.JEQ, 0, 1, number), deny]
    code += [(seccomp.JEQ, 0, 1, 435), (seccomp.RET, 0, 0, seccomp.ERRNO | errno.ENOSYS)]
    clone = seccomp.no_bits(0, NEW_NAMESPACES, errno.EPERM)
    code += [(seccomp.JEQ, 0, len(clone), 56), *clone, (seccomp.RET, 0, 0, seccomp.ALLOW)]
    made = b"".join(struct.pack("<HBBI", *instruction) for instruction in code)
    seccomp.load(made, os.getpid())
    keep_rights(DOCKER_CAPABILITIES)


def keep_rights(kept: int) -> None:
    """Give up all capabilities but these."""
    libc = ctypes.CDLL(None, use_errno=True)
    for capability in range(64):
        if not kept >> capability & 1:
            libc.prctl(confine.PR_CAPBSET_DROP, capability, 0, 0, 0)
    low, high = kept & 0xFFFFFFFF, kept >> 32 & 0x1FF
    libc.capset(confine._CAPSET_HEADER, struct.pack("<6I", low, low, 0, high, high, 0))


class Scene:
    """What there is to get: a file, servers, a secret of the environment and one of the memory."""

    def __init__(self, folder: Path) -> None:
        self.decoy = folder / "decoy"
        self.decoy.write_text(SECRET)
        self.decoy.chmod(0o666)
        self.secret = bytes(HOST_ONLY)
        self.library = folder / "evil.so"
        shutil.copyfile(any_library(), self.library)
        self.abstract = f"\0attack-{os.getpid()}"
        self.unix = str(folder / "listener")
        self.listeners = [socket.create_server(("127.0.0.1", 0))]
        for address in (self.unix, self.abstract):
            listener = socket.socket(socket.AF_UNIX)
            listener.bind(address)
            listener.listen()
            self.listeners.append(listener)
        self.mailbox = str(folder / "mailbox")  # Landlock does not guard a named one
        self.datagrams = [socket.socket(family, socket.SOCK_DGRAM) for family in (2, 1)]
        self.datagrams[0].bind(self.listeners[0].getsockname())
        self.datagrams[1].bind(self.mailbox)
        for path in (self.unix, self.mailbox):
            os.chmod(path, 0o777)
        for listener in (*self.listeners, *self.datagrams):
            listener.setblocking(False)

    def values(self, bystander: int, zygote: int) -> str:
        """What the programs are told."""
        names = syscalls.NUMBERS[platform.machine()]
        calls = {names[name] for name in syscalls.PLAIN if name in names}
        calls |= {names[name] for name in seccomp.checked(0, files=False, threads=True)}
        facts: dict[str, Any] = {
            "H": os.getpid(),
            "Z": zygote,
            "P2": bystander,
            "PORT": self.listeners[0].getsockname()[1],
            "UNIX": self.unix,
            "ABSTRACT": self.abstract,
            "MAILBOX": self.mailbox,
            "EVIL": str(self.library),
            "DECOY": str(self.decoy),
            "THREADS": confine.MAX_THREADS
            + (0 if os.getuid() == 0 else confine.count_tasks() + 200),
            "CALLS": calls,
        }
        return "\n".join(f"{name} = {value!r}" for name, value in facts.items())

    def touched(self) -> str:
        """What has been done to it, "" if nothing."""
        if self.decoy.read_text() != SECRET:
            return "the decoy was changed"
        for listener in self.listeners:
            with contextlib.suppress(BlockingIOError):
                listener.accept()
                return "somebody connected"
        for box in self.datagrams:
            with contextlib.suppress(BlockingIOError):
                box.recv(9)
                return "a datagram came"
        return ""


def soon() -> float:
    """A deadline that only something broken reaches."""
    return time.monotonic() + 30


def any_library() -> str:
    """Any shared library."""
    import _json

    return _json.__file__


async def once() -> None:
    """A session, and that was it."""
    repl = Repl(Context.from_text(""), nothing, cell_timeout_s=30, keep_chars=1000)
    async with repl:
        await repl.execute("import ctypes", deadline=soon())


async def nothing(call: Call) -> list[CallReply]:
    """For who does not call."""
    return [CallReply("")] * len(call.prompts)


async def attack_all(scene: Scene, only: str) -> None:
    """Every attack, a few at a time."""
    context = Context.from_text("the attack's own context\n" * 50)
    for name, check in CHECKS.items():
        if only in name:
            tell(name, "", await check(context))
    repl = Repl(Context.from_text(BYSTANDER), nothing, cell_timeout_s=30, keep_chars=1000)
    sibling = Repl(context, nothing, cell_timeout_s=30, keep_chars=1000)
    async with repl as bystander, sibling:
        assert bystander._place is not None and bystander._pool._base is not None
        base = bystander._pool._base.pid
        values = scene.values(pid_of(bystander._place.pidfd), base)
        gate, quiet, before = asyncio.Semaphore(AT_ONCE), asyncio.Lock(), resident()

        async def one(attack: Attack) -> None:
            async with gate:
                started = time.monotonic()
                status, why = "", "it does not end"
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(LONGEST_SECONDS):
                        status, why = await run(attack, values, context)
                async with quiet:
                    check = await bystander.execute("print(len(context))", deadline=soon())
                    other = await sibling.execute("print('well')", deadline=soon())
                if check.output != f"{len(BYSTANDER)}\n" or other.output != "well\n":
                    why = why or f"others were disturbed: {check} {other}"
                if resident() - before > MAX_GROWTH:
                    why = why or f"the host has grown by {(resident() - before) >> 20} MB"
                why = why or scene.touched()
                tell(attack.name, status, why, time.monotonic() - started)

        await asyncio.gather(*(one(attack) for attack in ATTACKS if only in attack.name))


def tell(name: str, status: str, why: str, seconds: float = 0.0) -> None:
    """One line of the result."""
    line = {"name": name, "held": not why, "status": status, "why": why}
    print(json.dumps(line | {"seconds": round(seconds, 2)}), flush=True)


async def run(attack: Attack, values: str, context: Context) -> tuple[str, str]:
    """One attack: how its cell ended, and what it got, "" if nothing."""
    answered = 0

    async def answer(call: Call) -> list[CallReply]:
        nonlocal answered
        if answered + len(call.prompts) > CALLS_ALLOWED:
            return [CallReply("none are left", "BudgetExhausted")] * len(call.prompts)
        answered += len(call.prompts)
        return [CallReply("reply" * 1000) for _ in call.prompts]

    repl = Repl(
        context, answer, cell_timeout_s=CELL_SECONDS, keep_chars=100_000, grace_s=GRACE_SECONDS
    )
    async with repl:
        first = await repl.execute(f"{PRELUDE}\n{values}\nkept = 'here'", deadline=soon())
        assert first.status == "ok", first
        cell = await repl.execute(attack.code, deadline=soon())
        after = await repl.execute("print('kept is', kept)", deadline=soon())
        if attack.name.startswith("r15"):
            return cell.status, await spun(repl)
    if "GOT" in cell.output:
        return cell.status, f"got through: {cell.output[cell.output.index('GOT') :][:300]}"
    if cell.status not in attack.status:
        return cell.status, f"its cell ended as {cell.status}: {(cell.error + cell.output)[:300]}"
    if attack.says not in cell.error:
        return cell.status, f"its cell ended for another reason: {cell.error[:300]}"
    if attack.calls is not None and answered > attack.calls:
        return cell.status, f"{answered} sub-calls were answered"
    return cell.status, "" if came_back(after) else f"the session is of no use: {after}"


def came_back(after: Cell) -> bool:
    """Whether the next cell ran, or the session was lost and is told to be."""
    return after.status != "died" or bool(after.error)


async def spun(repl: Repl) -> str:
    """How a thread got on between two cells, against as long a time within one.

    It runs on for the moment that passes between a cell's end and its stop: on a busy machine that
    may be most of one pause, but not of each of several.
    """
    for _ in range(PAUSES):  # where a sleep lasts longer than a cell may, once more
        within = await repl.execute(
            "before = ticks[0]\ntime.sleep(0.3)\nprint(ticks[0] - before)", deadline=soon()
        )
        if within.status == "ok":
            break
    read = "print(ticks[0])"
    least = running = int(within.output)
    for _ in range(PAUSES):
        first = await repl.execute(read, deadline=soon())
        await asyncio.sleep(0.3)
        second = await repl.execute(read, deadline=soon())
        least = min(least, int(second.output) - int(first.output))
        if least < running / 5:
            return ""
    return f"it ran on between the cells: {least} of {running} ticks"


def resident() -> int:
    """Memory of this process, in bytes."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def python_of_anybody() -> str | None:
    """A Python that another user may run, None if there is none."""
    for path in (sys.executable, "/usr/bin/python3"):
        with contextlib.suppress(OSError):
            old = "import sys; sys.exit(sys.version_info < (3, 11))"
            if not subprocess.run([path, "-c", old], user=NOBODY, cwd="/", check=False).returncode:
                return path
    return None


if __name__ == "__main__":
    main()
