"""Many sessions, a tenth of them killed at random moments: does anything stay behind?

python -m scripts.soak_sandbox --sessions 10000
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import random
import resource
import signal
import time
from pathlib import Path

from rlm_executor import Context
from rlm_executor.cli import run_cli
from rlm_executor.sandbox.host import Call, CallReply, Repl
from rlm_executor.sandbox.pool import Pool
from scripts.bench_record import record

AT_ONCE = 16
CODE = "x = [llm_query(str(i)) for i in range(3)]\nimport time\ntime.sleep({seconds})"


def main() -> None:
    """Run them, then count what is left."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--sessions", type=int, default=10_000)
    sessions: int = parser.parse_args().sessions
    asyncio.run(soak(min(200, sessions)))  # the first ones fill caches
    gc.collect()
    before, started = left(), time.monotonic()
    killed = asyncio.run(soak(sessions))
    gc.collect()
    seconds, after = time.monotonic() - started, left()
    growth = {name: after[name] - before[name] for name in after}
    values = {"sessions": sessions, "killed": killed, "seconds": round(seconds, 1), **growth}
    print(json.dumps(record("left behind by sessions", values)))
    leaked = [name for name in ("processes", "descriptors", "memfds") if growth[name] > 0]
    if leaked or growth["megabytes"] > 20:
        raise SystemExit(f"left behind: {growth}")


async def soak(sessions: int) -> int:
    """Start, use and end sessions, a few contexts among them; how many were killed."""
    gate, rng, killed = asyncio.Semaphore(AT_ONCE), random.Random(sessions), 0
    contexts = [Context.from_text(f"context {number} " * 1000) for number in range(8)]

    async def one(number: int) -> None:
        nonlocal killed
        async with gate:
            kill = number % 10 == 0
            repl = Repl(contexts[number % 8], answer, cell_timeout_s=20, keep_chars=100)
            async with repl:
                code = CODE.format(seconds=0.02 if kill else 0)
                running = asyncio.create_task(repl.execute(code, deadline=time.monotonic() + 60))
                if kill:
                    await asyncio.sleep(rng.random() * 0.03)
                    if repl._place is not None:
                        repl._place.signal(signal.SIGKILL)
                    killed += 1
                await running

    await asyncio.gather(*map(one, range(sessions)))
    return killed


async def answer(call: Call) -> list[CallReply]:
    """A model that needs a moment."""
    await asyncio.sleep(0.001)
    return [CallReply("reply")] * len(call.prompts)


def left() -> dict[str, int]:
    """Processes below this one, its open descriptors, its memory."""
    time.sleep(1)  # for the kernel to bury the dead
    base = Pool.of("sealed")._base
    names = []
    for descriptor in os.listdir("/proc/self/fd"):
        try:
            names.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        except OSError:
            continue
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return {
        "processes": descendants(base.pid) if base else 0,
        "descriptors": len(names),
        "memfds": sum("memfd:" in name for name in names),
        "megabytes": pages * resource.getpagesize() >> 20,
    }


def descendants(pid: int) -> int:
    """Children of a process, and theirs."""
    parents: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        parents.setdefault(int(fields[1]), []).append(int(path.parent.name))
    found, todo = 0, [pid]
    while todo:
        children = parents.get(todo.pop(), [])
        found += len(children)
        todo += children
    return found


if __name__ == "__main__":
    run_cli(main)
