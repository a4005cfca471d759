"""What isolation costs: `make bench-sandbox` writes benchmarks/sandbox.json.

Starts, cells, sub-calls and contexts of sealed sessions, with a plain Python process started
beside them (the limit that a process of its own has), and the attacks of tests/attacks.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from rlm_executor import Context
from rlm_executor.cli import run_cli
from rlm_executor.files import write_json_atomic
from rlm_executor.sandbox.host import Call, CallReply, Repl
from rlm_executor.sandbox.memory import pid_of
from rlm_executor.sandbox.pool import Pool
from scripts.bench_record import ROOT, record

LINE = "sparrow 4711 heron 12 wren; a line of a long context, forty-five bytes"


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--starts", type=int, default=300)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "sandbox.json")
    arguments = parser.parse_args()
    figures = asyncio.run(measure(arguments.starts))
    figures["plain_python_start_p50_ms"] = plain_python(arguments.starts // 3)
    figures |= attacks()
    entry = record("sealed sessions: ms, MB, attacks", {k: round(v, 3) for k, v in figures.items()})
    write_json_atomic(arguments.out, entry)
    print(json.dumps(entry))


async def measure(starts: int) -> dict[str, float]:
    """Everything that needs sessions."""
    small = Context.from_text(LINE)
    await Pool.of("sealed").home(small)
    begun = []
    for _ in range(starts):
        repl, before = session(small), time.perf_counter()
        await repl.start()
        begun.append(milliseconds(before))
        repl.close()
    figures = {
        "start_p50_ms": statistics.median(begun),
        "start_p99_ms": statistics.quantiles(begun, n=100)[98],
    }
    before = time.perf_counter()
    hundred = [session(small) for _ in range(100)]
    await asyncio.gather(*(repl.start() for repl in hundred))
    figures["hundred_sessions_ms"] = milliseconds(before)
    figures["private_mb_per_session"] = statistics.mean(map(private_mb, hundred))
    for repl in hundred:
        repl.close()
    async with session(small) as repl:
        figures["cell_p50_ms"] = await timed(lambda: cell(repl, "1"), 200)
        await cell(repl, "import time")
        rpc = "t = time.perf_counter()\nllm_query('x')\nprint(time.perf_counter() - t)"
        spent = [1000 * float(await cell(repl, rpc)) for _ in range(200)]
        figures["subcall_rpc_p50_ms"] = statistics.median(spent)
    for megabytes in (45, 450):
        text = (LINE + "\n") * (megabytes * 1_000_000 // (len(LINE) + 1))
        handed_in, before = Context.from_text(text), time.perf_counter()
        await Pool.of("sealed").home(handed_in)
        figures[f"text_{megabytes}mb_ready_ms"] = milliseconds(before)
        del handed_in
        with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
            file.write(text)
            file.flush()
            del text
            context = Context.from_file(Path(file.name))
            before = time.perf_counter()
            await Pool.of("sealed").home(context)
            figures[f"context_{megabytes}mb_ready_ms"] = milliseconds(before)
        if megabytes == 45:
            ten = [session(context) for _ in range(10)]
            await asyncio.gather(*(repl.start() for repl in ten))
            for repl in ten:
                await cell(repl, "print(len(context), context[1000:1010], context.count('wren'))")
            figures["context_private_mb_per_session"] = statistics.mean(map(private_mb, ten))
            for repl in ten:
                repl.close()
    return figures


def session(context: Context) -> Repl:
    """One that answers its sub-calls at once."""
    return Repl(context, answer, cell_timeout_s=60, keep_chars=1000)


async def answer(call: Call) -> list[CallReply]:
    """A model that needs no time."""
    return [CallReply("reply")] * len(call.prompts)


async def cell(repl: Repl, code: str) -> str:
    """Run a cell that must succeed; what it printed."""
    done = await repl.execute(code, deadline=time.monotonic() + 60)
    assert done.status == "ok", done
    return done.output


async def timed(step: Callable[[], Awaitable[object]], times: int) -> float:
    """Median of some runs, in milliseconds."""
    spent = []
    for _ in range(times):
        before = time.perf_counter()
        await step()
        spent.append(milliseconds(before))
    return statistics.median(spent)


def milliseconds(since: float) -> float:
    """Passed since then."""
    return 1000 * (time.perf_counter() - since)


def private_mb(repl: Repl) -> float:
    """Memory that only this session has, as the kernel counts it."""
    assert repl._place is not None
    text = Path(f"/proc/{pid_of(repl._place.pidfd)}/smaps_rollup").read_text()
    (dirty,) = [line for line in text.splitlines() if line.startswith("Private_Dirty")]
    return int(dirty.split()[1]) / 1024


def plain_python(times: int) -> float:
    """Median start of a Python process that does nothing."""
    spent = []
    for _ in range(times):
        before = time.perf_counter()
        subprocess.run(
            [sys.executable, "-I", "-S", "-c", "print()"], stdout=subprocess.DEVNULL, check=True
        )
        spent.append(milliseconds(before))
    return statistics.median(spent)


def attacks() -> dict[str, float]:
    """The attacks, in this user's own posture."""
    done = subprocess.run(
        [sys.executable, "-P", "-m", "tests.attacks.harness"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    return {"attacks_total": len(lines), "attacks_held": sum(line["held"] for line in lines)}


if __name__ == "__main__":
    run_cli(main)
