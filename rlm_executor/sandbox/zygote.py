"""Forks sessions on demand: ``python -S -s -P zygote.py DESCRIPTOR [MODULE ...]``.

Three levels, so that a session costs milliseconds and a context is in memory once. The *base
zygote*, a fresh interpreter with a scrubbed environment, imports what cells are likely to use; it
holds no credentials and never sees data. For each context it forks a *context zygote*, which makes
one ``str`` of the text; for each session that forks a child, which shares the text's pages, locks
itself in (``confine``) and runs cells (``worker``). All of them end with the sockets that the host
holds, or with their parent. Started and spoken to by ``pool``.

    base:     one packet a context, the JSON list of its values ([name, kind, ...]), with their
              descriptors behind that of its control socket
    context:  answers "ok" and the JSON list of what the values are, or "no REASON"; then one packet
              a session, its settings as JSON, with the descriptor of its channel
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import platform
import signal
import socket
import sys
import types
from pathlib import Path
from typing import Any

MEMORY_FLOOR = 1 << 30  # bytes of address space a session may take for itself ...
MEMORY_PER_CONTEXT_BYTE = 8  # ... and for each byte of its context: wide text, splits, copies
MAX_PACKET = 65536
PIECE = 1 << 20  # bytes of a text that wait in its pipe
MAX_VALUES = 100  # of a context: the kernel passes 253 descriptors at once
# What cells may import: a session cannot load files.
PRELOADED = (
    "_strptime abc argparse array ast asyncio atexit base64 binascii bisect builtins bz2 calendar "
    "cmath cmd code codecs codeop collections collections.abc colorsys concurrent.futures "
    "concurrent.futures.thread configparser contextlib contextvars copy copyreg csv ctypes "
    "dataclasses datetime decimal difflib dis email.message email.parser email.utils "
    "encodings.ascii encodings.cp1252 encodings.idna encodings.latin_1 encodings.punycode "
    "encodings.unicode_escape encodings.utf_16 encodings.utf_32 enum errno filecmp fnmatch "
    "fractions functools gc getopt gettext glob graphlib gzip hashlib heapq hmac html html.parser "
    "importlib importlib.util inspect io ipaddress itertools json keyword linecache locale logging "
    "lzma math mimetypes mmap numbers opcode operator os pathlib pickle pickletools platform "
    "plistlib pprint queue quopri random re reprlib resource sched secrets select selectors shlex "
    "shutil signal socket sqlite3 stat statistics string stringprep struct subprocess sys "
    "sysconfig tarfile tempfile textwrap threading time timeit token tokenize tomllib traceback "
    "types typing unicodedata unittest unittest.mock urllib.parse uuid warnings weakref "
    "xml.dom.minidom xml.etree.ElementTree zipfile zlib"
).split()


def main() -> None:
    """Be the base zygote until the host closes its end."""
    control = socket.socket(fileno=int(sys.argv[1]))
    confine, worker, seccomp, values = import_ours()
    preload(sys.argv[2:])
    programs = {
        (files, threads): seccomp.program(files=files, threads=threads)
        for files in (False, True)
        for threads in (False, True)
        if platform.machine() in seccomp.NUMBERS  # without a table only `none` is possible
    }
    settle()
    parent = os.getpid()
    while True:
        packet, descriptors, _, _ = socket.recv_fds(control, MAX_PACKET, MAX_VALUES + 1)
        if not packet:
            return
        theirs, *texts = descriptors
        if fork() == 0:
            try:
                confine.die_with(parent)
                control.close()
                ours = confine, worker, programs, values
                serve_context(socket.socket(fileno=theirs), packet, texts, ours)
            finally:
                os._exit(0)
        for descriptor in descriptors:
            os.close(descriptor)


def serve_context(control: socket.socket, packet: bytes, texts: list[int], ours: Any) -> None:
    """Be the zygote of one context until the host closes its end."""
    values = ours[3]
    context: dict[str, Any] = {}
    try:
        for (name, kind, *more), text in zip(json.loads(packet), texts, strict=True):
            context[name] = values.read(kind, text, *more)
        facts = [values.describe(value) for value in context.values()]
        told = json.dumps(facts)
        if len(told) >= MAX_PACKET - 3:
            told = json.dumps([values.shortened(fact) for fact in facts])
        weight = sum(map(values.weight, context.values()))
    except values.BadContext as error:
        control.send(f"no {error}".encode()[:MAX_PACKET])
        return
    except (MemoryError, OSError):
        control.send(b"no does not fit into this machine's memory")
        return
    control.send(f"ok {told}".encode())
    settle()
    parent = os.getpid()
    while True:
        packet, descriptors, _, _ = socket.recv_fds(control, MAX_PACKET, 1)
        if not packet:
            return
        (channel,) = descriptors
        if fork() == 0:
            try:
                control.close()
                begin_session(socket.socket(fileno=channel), packet, context, weight, parent, ours)
            finally:
                os._exit(1)
        os.close(channel)


def fork() -> int:
    """As ``os.fork``; -1 where there is no room: who asked sees its socket end."""
    try:
        return os.fork()
    except OSError:
        return -1


def begin_session(
    channel: socket.socket,
    packet: bytes,
    context: dict[str, Any],
    weight: int,
    parent: int,
    ours: Any,
) -> None:
    """In the fork: be a session; leaves only with an error."""
    confine, worker, programs, _ = ours
    settings = json.loads(packet)
    scratch = settings["scratch"]
    confinement = confine.Confinement(
        slot=settings["slot"],
        memory=MEMORY_FLOOR + MEMORY_PER_CONTEXT_BYTE * weight,
        program=lambda threads: programs[bool(scratch), threads],
        scratch=scratch,
        readable=tuple(settings["readable"]),
    )
    confine.die_with(parent)
    worker.main(
        channel,
        context,
        settings,
        enter=(lambda: confinement.enter(parent)) if settings["confined"] else None,
    )


def settle() -> None:
    """Ready to fork: what is shared stays shared, what ends is reaped by the kernel."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    gc.collect()
    gc.freeze()  # the collector does not write into pages that are shared
    gc.disable()


def import_ours() -> tuple[Any, ...]:
    """The modules of a session, without the packages around them: those want pydantic."""
    here = Path(__file__).resolve().parent
    for name, folder in (("rlm_executor", here.parent), ("rlm_executor.sandbox", here)):
        package = types.ModuleType(name)
        package.__path__ = [str(folder)]
        sys.modules[name] = package
    names = ("confine", "worker", "seccomp", "values")
    ours = tuple(importlib.import_module(f"rlm_executor.sandbox.{name}") for name in names)
    for name in [name for name in sys.modules if name.split(".")[0] == "rlm_executor"]:
        del sys.modules[name]  # model code has no business with them
    return ours


def preload(more: list[str]) -> None:
    """Import what cells may use; of these only ``more`` must be there."""
    for name in PRELOADED:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    for name in more:
        importlib.import_module(name)


if __name__ == "__main__":
    main()
