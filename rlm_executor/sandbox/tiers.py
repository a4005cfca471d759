"""Kinds of isolation, and what a machine must have for each. Missing things are refused, by name.

sealed      a system-call filter, limits, an identity of its own, Landlock where there is one
sealed+ns   the same in namespaces of bubblewrap: no network, no file system, no other processes
            (started by root it has no user of its own there, and no threads)
files       sealed, with a scratch folder and Python's own files, behind Landlock
none        a plain process of this user: only where it is spelled out
"""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, get_args

from rlm_executor.errors import SandboxError
from rlm_executor.sandbox.syscalls import NUMBERS

Isolation = Literal["sealed", "sealed+ns", "files", "none"]
ISOLATIONS = get_args(Isolation)
# What a session with files may read: Python itself, and the libraries that its modules need.
READABLE = [
    path
    for path in (sys.base_prefix, sys.prefix, "/usr/lib", "/lib", "/lib64")
    if os.path.isdir(path)
]
TESTED = ("x86_64",)  # the attacks have been run there
NONE_WARNING = (
    "isolation is off: code that a model writes runs as this user, with its files, its network "
    "and its keys within reach; leave `isolation` at `sealed` unless that is meant"
)


def check_platform(isolation: str) -> None:
    """Refuse what cannot work here.

    Raises:
        SandboxError: no such isolation, or not on this machine.
    """
    if isolation not in ISOLATIONS:
        raise SandboxError(f"isolation {isolation!r} is not known; use {', '.join(ISOLATIONS)}")
    if sys.platform != "linux":
        raise SandboxError(f"the REPL needs Linux, this is {sys.platform}; use another machine")
    if isolation == "none":
        return
    remedy = "use another machine, or `isolation: none` if the code may do anything"
    machine = platform.machine()
    if machine not in TESTED:
        known = "has a table but was never tested" if machine in NUMBERS else "has no table"
        raise SandboxError(f"isolation `{isolation}` {known} on {machine}; {remedy}")
    if isolation == "sealed+ns" and shutil.which("bwrap") is None:
        raise SandboxError(
            "isolation `sealed+ns` needs bubblewrap (the command bwrap); install it, or use "
            "`sealed`"
        )


def bwrap(folders: Sequence[Path | str]) -> list[str]:
    """The command that puts what follows into namespaces of its own.

    Args:
        folders: what it must be able to read, beside the system's libraries.
    """
    command = ["bwrap", "--unshare-all", "--new-session", "--cap-drop", "ALL"]
    command += ["--dev", "/dev", "--proc", "/proc", "--tmpfs", "/tmp"]
    system = [Path("/usr"), Path("/lib"), Path("/lib64"), Path("/bin"), Path("/etc/ld.so.cache")]
    for folder in [*system, Path(sys.base_prefix), Path(sys.prefix), *map(Path, folders)]:
        command += ["--ro-bind-try", str(folder), str(folder)]
    return [*command, "--"]
