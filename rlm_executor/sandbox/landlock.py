"""Landlock: the kernel's second wall, which names files, ports and signals instead of calls.

    abi = version()                    # 0 where the kernel has none
    restrict(read=["/usr/lib"], write=["/scratch"])

Below version 3 a file that may be read can be emptied, and below 6 signals and abstract sockets
are open: so it stands behind the seccomp filter, and never alone. Numbers: linux/landlock.h.
Standard library only.
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Sequence

CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446  # the same on every machine
GET_VERSION, PATH_BENEATH = 1, 1

EXECUTE, WRITE, READ, READ_DIR, REMOVE_DIR, REMOVE_FILE = 1, 2, 4, 8, 16, 32
MAKE_DIR, MAKE_REG, REFER, TRUNCATE, IOCTL = 128, 256, 1 << 13, 1 << 14, 1 << 15
MAY_READ = READ | READ_DIR | EXECUTE  # shared libraries are mapped executable
MAY_WRITE = MAY_READ | WRITE | REMOVE_DIR | REMOVE_FILE | MAKE_DIR | MAKE_REG
MAY_WRITE |= REFER | TRUNCATE
_OF_A_FILE = EXECUTE | WRITE | READ | TRUNCATE | IOCTL
_RIGHTS = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 4: (1 << 15) - 1}
_ALL_RIGHTS = (1 << 16) - 1  # from version 5 on
_TCP, _SCOPES = 3, 3  # bind and connect; abstract sockets and signals


def version() -> int:
    """The kernel's version of Landlock, 0 if it has none or it is switched off."""
    return max(0, int(_libc().syscall(CREATE_RULESET, None, 0, GET_VERSION)))


def restrict(read: Sequence[str] = (), write: Sequence[str] = ()) -> int:
    """Deny this thread, and all it starts, every path but these; TCP and others' signals too.

    Returns:
        The version used; 0: the kernel has none and nothing was done.

    Raises:
        OSError: the kernel has it and refuses.
    """
    abi = version()
    if not abi:
        return 0
    rights = _RIGHTS.get(abi, _ALL_RIGHTS)
    fields = [rights, *([_TCP] if abi >= 4 else []), *([_SCOPES] if abi >= 6 else [])]
    attributes = struct.pack(f"<{len(fields)}Q", *fields)
    rules = _call(CREATE_RULESET, attributes, len(attributes), 0)
    try:
        for paths, wanted in ((read, MAY_READ), (write, MAY_WRITE)):
            for path in paths:
                _allow(rules, path, wanted & rights)
        _call(RESTRICT_SELF, rules, 0)
    finally:
        os.close(rules)
    return abi


def _allow(rules: int, path: str, rights: int) -> None:
    try:
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except PermissionError:
        return  # it is closed to this user anyway
    try:
        if not os.path.isdir(path):
            rights &= _OF_A_FILE
        _call(ADD_RULE, rules, PATH_BENEATH, struct.pack("<Qi", rights, descriptor), 0)
    finally:
        os.close(descriptor)


def _call(number: int, *arguments: int | bytes) -> int:
    result = int(_libc().syscall(number, *arguments))
    if result < 0:
        raise OSError(ctypes.get_errno(), f"landlock ({number})")
    return result


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)
