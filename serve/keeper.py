"""Runs one command in a session of its own and stops all of it when its owner is gone.

    python serve/keeper.py OWNER_PID GRACE_S COMMAND ...

vLLM is several processes, and a SIGKILL gives its owner no chance to stop them; this small one
(standard library only, so it starts at once) stays in between. The owner's death, by whatever
cause, or a SIGTERM ends every process of the session: SIGTERM first, SIGKILL after GRACE_S. When
the command ends by itself, what it left behind is ended and its exit code is passed on. Not
covered: a SIGKILL of owner and keeper at once (vLLM's first process still goes, its second stays).
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time

POLL_S = 0.2
PR_SET_PDEATHSIG = 1
PR_SET_NAME = 15
PR_SET_CHILD_SUBREAPER = 36


def main(owner: int, grace_s: float, command: list[str]) -> int:
    """Run ``command`` until it ends, the owner is gone, or a SIGTERM comes."""
    # Alone in a session, so that neither Ctrl-C nor the owner's group reaches vLLM before us.
    if os.getsid(0) != os.getpid():
        os.setsid()
    stop: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: stop.append(number))
    ctypes.CDLL(None).prctl(PR_SET_NAME, b"vllm-keeper", 0, 0, 0)  # `killall -9 python` misses us
    prctl(PR_SET_CHILD_SUBREAPER, 1)  # what the command leaves behind becomes ours
    # The kernel looks at the parent thread: the main one here, which lives as long as we do.
    child = subprocess.Popen(command, preexec_fn=lambda: prctl(PR_SET_PDEATHSIG, signal.SIGKILL))
    codes: dict[int, int] = {}
    while child.pid not in codes and not stop and os.getppid() == owner:
        time.sleep(POLL_S)
        codes |= reap()
    end_session(grace_s, codes)
    code = codes.get(child.pid, -signal.SIGKILL)
    return 128 - code if code < 0 else code


def reap() -> dict[int, int]:
    """Exit codes of children and adopted orphans that ended; some containers' init takes none."""
    codes = {}
    with contextlib.suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            codes[ended[0]] = os.waitstatus_to_exitcode(ended[1])
    return codes


def prctl(option: int, value: int) -> None:
    """The system call that Python has no name for; a kernel without it loses only that net."""
    ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def end_session(grace_s: float, codes: dict[int, int]) -> None:
    """Ask every other process of this session to end, then kill what is left of it."""
    deadline = time.monotonic() + grace_s
    asked: set[int] = set()
    while others := session_members():
        late = time.monotonic() > deadline
        for pid in others if late else set(others) - asked:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL if late else signal.SIGTERM)
        asked.update(others)
        time.sleep(0.05)
        codes |= reap()
    codes |= reap()


def session_members() -> list[int]:
    """The living processes of this session and the orphans given to us, without ourselves."""
    me, found = os.getpid(), []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/stat", encoding="utf-8", errors="replace") as file:
                state, parent, _, session, *_ = file.read().rpartition(")")[2].split()
        except OSError:  # it ended while we looked
            continue
        if int(name) != me and state != "Z" and me in (int(parent), int(session)):
            found.append(int(name))
    return found


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), float(sys.argv[2]), sys.argv[3:]))
