"""What the kernel says of a session: each check gives what is wrong, "" if nothing is."""

from __future__ import annotations

import os
import platform
import shutil
import signal
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from rlm_executor.context import Context
from rlm_executor.errors import SandboxError
from rlm_executor.sandbox import confine, landlock, pool, seccomp
from rlm_executor.sandbox.host import Repl
from rlm_executor.sandbox.memory import pid_of

LIMITS = {
    "Max core file size": "0",
    "Max file size": "0",
    "Max open files": str(confine.MAX_OPEN_FILES),
    "Max locked memory": "0",
    "Max msgqueue size": "0",
    "Max pending signals": str(confine.MAX_THREADS),
}


def session(context: Context) -> Repl:
    """One that does nothing."""
    return Repl(context, None, cell_timeout_s=5, keep_chars=1000)  # type: ignore[arg-type]


def pid(repl: Repl) -> int:
    """Its process."""
    assert repl._place is not None
    return pid_of(repl._place.pidfd)


async def posture(context: Context) -> str:
    """Identity, rights, limits, descriptors."""
    async with session(context) as repl:
        number = pid(repl)
        folder = Path(f"/proc/{number}")
        status = dict(line.split(":\t", 1) for line in (folder / "status").read_text().splitlines())
        expected = {"NoNewPrivs": "1", "Seccomp": "2"}
        expected |= {name: "0" * 16 for name in ("CapEff", "CapPrm", "CapInh", "CapAmb")}
        wrong = [f"{name} is {status[name]}" for name in expected if status[name] != expected[name]]
        limits = (folder / "limits").read_text().splitlines()
        for name, limit in LIMITS.items():
            (line,) = [line for line in limits if line.startswith(name)]
            if line[len(name) :].split()[0] != limit:
                wrong.append(line)
        if "uid=0" not in repl.posture.split() and os.getuid() == 0:
            wrong += stranger(folder, status)
        if (folder / "environ").stat().st_uid != 0:  # what is not dumpable is root's
            wrong.append("it can be looked into by its user")
        if (folder / "oom_score_adj").read_text().strip() != "1000":
            wrong.append("it is not the first to go")
        if os.getpriority(os.PRIO_PROCESS, number) < confine.NICENESS:
            wrong.append("it is not nice")
        if f"landlock={landlock.version()}" not in repl.posture.split():
            wrong.append(repl.posture)
    return "; ".join(wrong)


def stranger(folder: Path, status: dict[str, str]) -> list[str]:
    """What a root that starts sessions makes of them."""
    wrong = []
    for name in ("Uid", "Gid"):
        numbers = {int(number) for number in status[name].split()}
        if len(numbers) != 1 or min(numbers) < confine.FIRST_UID:
            wrong.append(f"{name} is {status[name]}")
    if status["Groups"].strip():
        wrong.append(f"groups {status['Groups']}")
    if status["CapBnd"].strip() != "0" * 16:
        wrong.append(f"CapBnd is {status['CapBnd']}")
    if (found := sorted(os.listdir(folder / "fd"))) != ["0", "1", "2", "3"]:
        wrong.append(f"descriptors {found}")
    return wrong


async def family(context: Context) -> str:
    """Whoever is killed, those below go too."""
    wrong = []
    for level in ("the context's zygote", "the base zygote"):
        own = Context.from_text("of this test")
        async with session(own) as repl:
            number = pid(repl)
            home = parent(number)
            base = parent(home)
            # Its channel to the host stays open: only the kernel can end it now.
            os.kill(home if level == "the context's zygote" else base, signal.SIGKILL)
            if not gone(number):
                wrong.append(f"the session outlives {level}")
                os.kill(number, signal.SIGKILL)
    return "; ".join(wrong)


async def refusal(context: Context) -> str:
    """A hole is seen, and no session starts."""
    before, pool.Pool._pools = pool.Pool._pools, {}
    script, folder = pool.SCRIPT, pool.SCRIPT.parent
    holed = Path(tempfile.mkdtemp()) / "rlm_executor" / "sandbox"
    try:
        holed.mkdir(parents=True)
        for path in folder.glob("*.py"):
            text = path.read_text()
            if path.name == "confine.py":
                text = text.replace("seccomp.load(self.program(threads), os.getpid())", "pass")
            (holed / path.name).write_text(text)
        pool.SCRIPT = holed / "zygote.py"
        async with session(Context.from_text("of this test")):
            return "it started without its filter"
    except SandboxError as error:
        return "" if "the session could" in str(error) else str(error)
    finally:
        pool.SCRIPT, pool.Pool._pools = script, before
        shutil.rmtree(holed.parents[1])


async def machines(context: Context) -> str:
    """A call made as another machine would ends the process."""
    code = seccomp.instructions(1, files=False, threads=True, machine=platform.machine())
    data = bytearray(64)
    data[4:8] = (0x40000003).to_bytes(4, "little")  # i386: call 5 is open there, fstat here
    data[0:4] = (5).to_bytes(4, "little")
    return "" if run_filter(code, bytes(data)) == seccomp.KILL_PROCESS else "i386 got through"


def run_filter(code: list[seccomp.Instruction], data: bytes) -> int:
    """What the filter says of a call: the kernel's interpreter, in few lines."""
    at = accumulator = 0
    while True:
        operation, jump_true, jump_false, constant = code[at]
        at += 1
        if operation == seccomp.RET:
            return constant
        if operation == seccomp.LD:
            accumulator = int.from_bytes(data[constant : constant + 4], "little")
        elif operation == seccomp.AND:
            accumulator &= constant
        else:
            holds = {
                seccomp.JEQ: accumulator == constant,
                seccomp.JGE: accumulator >= constant,
                seccomp.JSET: bool(accumulator & constant),
            }[operation]
            at += jump_true if holds else jump_false


def parent(child: int) -> int:
    """The process that forked it."""
    return int(Path(f"/proc/{child}/stat").read_text().rsplit(")", 1)[1].split()[1])


def gone(number: int, within: float = 2.0) -> bool:
    """Whether a process ends within so many seconds."""
    end = time.monotonic() + within
    while time.monotonic() < end:
        try:
            if Path(f"/proc/{number}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z":
                return True
        except OSError:
            return True
        time.sleep(0.01)
    return False


CHECKS: dict[str, Callable[[Context], Awaitable[str]]] = {
    "k01 the kernel's view": posture,
    "k02 none survives its parent": family,
    "k03 a hole is refused": refusal,
    "k04 another machine's calls": machines,
}
