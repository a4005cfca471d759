"""Forks workers on demand: ``python -S -s -P zygote.py DESCRIPTOR``, started by ``host``.

A fresh interpreter with a scrubbed environment imports once what cells are likely to use; each
worker is then a fork, which costs milliseconds instead of a new interpreter's hundred. It holds
no credentials, no context and no other session, and it ends with its socket.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import os
import signal
import socket
import sys
import types
from pathlib import Path

_PRELOAD = (
    "abc argparse ast base64 bisect calendar cmath collections collections.abc concurrent.futures "
    "contextlib copy csv dataclasses datetime decimal difflib enum fractions functools hashlib "
    "heapq html io itertools json keyword logging math numbers operator pprint random re "
    "statistics string struct textwrap threading time traceback types typing unicodedata uuid "
    "zlib"
).split()
_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Serve fork requests until the host closes its end."""
    control = socket.socket(fileno=int(sys.argv[1]))
    worker = _import_worker()
    for name in _PRELOAD:
        importlib.import_module(name)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # ended workers are reaped by the kernel
    own_pid = os.getpid()
    libc = ctypes.CDLL(None, use_errno=True)

    def die_with_zygote() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != own_pid:  # it died before we asked
            os._exit(1)

    gc.collect()
    gc.freeze()  # shared pages stay shared: the collector does not write into them
    while True:
        settings, descriptors, _, _ = socket.recv_fds(control, 4096, 2)
        if not settings:
            return
        channel, context = descriptors
        if os.fork() == 0:
            try:
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                control.close()
                worker.main(socket.socket(fileno=channel), context, settings, die_with_zygote)
            finally:
                os._exit(1)
        os.close(channel)
        os.close(context)


def _import_worker() -> types.ModuleType:
    # Empty packages in place of the real ones: their __init__ wants pydantic, which is not here.
    here = Path(__file__).resolve().parent
    for name, folder in (("rlm_executor", here.parent), ("rlm_executor.sandbox", here)):
        package = types.ModuleType(name)
        package.__path__ = [str(folder)]
        sys.modules[name] = package
    worker = importlib.import_module("rlm_executor.sandbox.worker")
    for name in [name for name in sys.modules if name.split(".")[0] == "rlm_executor"]:
        del sys.modules[name]  # model code has no business with them
    return worker


if __name__ == "__main__":
    main()
