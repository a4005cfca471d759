"""What the loop costs beside that of others: `make bench-executor` writes benchmarks/executor.json.

The same scripted replies from the same server (0 and 50 ms) for our loop, sealed, for rlms' with
its local REPL and for dspy's with its interpreter: seconds a turn over contexts of 1, 45 and 450
MB, peak memory of all processes, a thousand sub-calls, the journal, and 64 runs at once in one
process. The limit for sub-calls is what the server's delay alone would take.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from rlm_executor import RLM, Context, Limits, OpenAILM, RLMCard
from rlm_executor.cli import run_cli
from rlm_executor.files import write_json_atomic
from scripts.bench_peers import peers
from scripts.bench_record import ROOT, record

LINE = "sparrow 4711 heron 12 wren; a line of a long context, seventy bytes\n"
SIZES = {"1MB": 1_000_000, "45MB": 45_000_000, "450MB": 450_000_000}
DSPY_TURNS = {"1MB": 10, "45MB": 2}  # Pyodide's bridge ends at 128 MB, and 45 take minutes
TURNS, CALLS, AT_ONCE, DELAY = 10, 1000, 64, 50
MANY = 64  # runs at once


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--python", type=Path, help="one that has rlms and dspy (else .peers)")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "executor.json")
    parser.add_argument("--worker", nargs="+", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        kind, *rest = arguments.worker
        print(json.dumps(asyncio.run(WORKERS[kind](*rest))))
        return
    python, found = peers(arguments.python)
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        files = {name: write(Path(folder) / f"{name}.txt", size) for name, size in SIZES.items()}
        server = subprocess.Popen(
            [sys.executable, "-m", "scripts.scripted_server"], stdout=subprocess.PIPE, text=True
        )
        try:
            assert server.stdout is not None
            url = f"http://127.0.0.1:{int(server.stdout.readline())}/v1"
            measure_ours(figures, url, files, Path(folder))
            measure_peers(figures, url, files, python, found)
        finally:
            server.kill()
            server.wait()
    entry = record("seconds a turn, sub-calls, memory, journal", figures)
    entry["command"] = "make bench-executor"
    write_json_atomic(arguments.out, entry)
    print(json.dumps(entry))


def measure_ours(figures: dict[str, Any], url: str, files: dict[str, Path], folder: Path) -> None:
    """Our own figures."""
    for delay in (0, DELAY):
        key = "turn_seconds" if not delay else f"turn_seconds_{delay}ms"
        figures[key] = {}
        for name, path in files.items():
            done, _ = run_one(ours("run", url, f"root-{TURNS}-{delay}-{name}", path, "file"))
            figures[key][name] = round(done["seconds"] / TURNS, 4)
    for kind, key in (("file", "peak_over_context"), ("str", "peak_over_context_str")):
        command = ours("run", url, f"root-{TURNS}-0-peak{kind}", files["450MB"], kind)
        _, peak = run_one(command, watch=True)
        figures[key] = round(peak / SIZES["450MB"], 3)
    done, _ = run_one(ours("batch", url, f"leaf-{DELAY}"))
    ideal = math.ceil(CALLS / AT_ONCE) * DELAY / 1000
    figures["subcalls_1000_seconds"] = round(done["seconds"], 3)
    figures["subcalls_1000_over_ideal"] = round(done["seconds"] / ideal, 3)
    journal = folder / "journal.jsonl"
    run_one(ours("run", url, "root-20-0-journal", files["45MB"], "file", journal))
    figures["journal_overhead_mb"] = round(journal.stat().st_size / 1e6, 4)
    done, peak = run_one(ours("many", url, folder), watch=True)
    figures["many_runs"] = MANY
    figures["many_runs_right"] = done["right"]
    figures["many_runs_seconds"] = round(done["seconds"], 2)
    figures["many_runs_peak_mb"] = round(peak / 1e6)


def measure_peers(
    figures: dict[str, Any], url: str, files: dict[str, Path], python: Path, found: list[str]
) -> None:
    """The same for those others that were found."""
    peer = [str(python), "-P", str(ROOT / "scripts" / "executed_peer.py")]
    for delay in (0, DELAY):
        key = "turn_seconds" if not delay else f"turn_seconds_{delay}ms"
        for kind in found:
            turns = DSPY_TURNS if kind == "dspy" else dict.fromkeys(SIZES, TURNS)
            figures[f"{kind}_{key}"] = {}
            for name, many in turns.items():
                if kind == "dspy" and delay and many < TURNS:
                    continue
                form = "dspy" if kind == "dspy" else "root"
                model = f"{form}-{many}-{delay}-{kind}{name}"
                done, _ = run_one([*peer, kind, url, model, str(files[name])])
                assert done["answer"] == str(SIZES[name]), done
                figures[f"{kind}_{key}"][name] = round(done["seconds"] / many, 4)
    if "rlms" not in found:
        return
    command = [*peer, "rlms", url, f"root-{TURNS}-0-rlmspeak", str(files["450MB"])]
    _, peak = run_one(command, watch=True)
    figures["rlms_peak_over_context"] = round(peak / SIZES["450MB"], 3)
    done, _ = run_one([*peer, "rlms_batch", url, f"leaf-{DELAY}", str(CALLS)])
    figures["rlms_subcalls_1000_seconds"] = round(done["seconds"], 3)


def ours(*arguments: object) -> list[str]:
    """The command of one of our own measurements."""
    command = [sys.executable, "-m", "scripts.bench_executor", "--worker"]
    return [*command, *map(str, arguments)]


def write(path: Path, size: int) -> Path:
    """A text of exactly ``size`` bytes."""
    with path.open("w", encoding="utf-8") as file:
        whole, rest = divmod(size, len(LINE))
        for _ in range(whole // 10_000):
            file.write(LINE * 10_000)
        file.write(LINE * (whole % 10_000) + "x" * rest)
    return path


def run_one(command: list[str], *, watch: bool = False) -> tuple[dict[str, Any], int]:
    """Run it; what it printed, and the most memory that its processes had, in bytes.

    Memory is looked at only if it is asked for: of large processes the kernel counts it slowly.
    """
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    peak, over = 0, threading.Event()

    def look() -> None:
        nonlocal peak
        while watch and not over.wait(0.05):
            peak = max(peak, sum(map(memory, tree(process.pid))))

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        out, _ = process.communicate(timeout=900)
    finally:
        over.set()
        watcher.join()
    assert process.returncode == 0, command
    return json.loads(out.splitlines()[-1]), peak


def tree(pid: int) -> list[int]:
    """A process and all below it."""
    try:
        threads = list(Path(f"/proc/{pid}/task").iterdir())
        below = [int(one) for t in threads for one in (t / "children").read_text().split()]
    except OSError:
        return []
    return [pid, *(found for child in below for found in tree(child))]


def memory(pid: int) -> int:
    """Bytes of a process that are anonymous or shared memory, shared ones by their share."""
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return 0
    fields = dict(line.split(":", 1) for line in text.splitlines()[1:])
    return sum(1024 * int(fields[name].split()[0]) for name in ("Pss_Anon", "Pss_Shmem"))


async def run(url: str, model: str, path: str, kind: str, journal: str = "") -> dict[str, Any]:
    """One run of ours."""
    import aiohttp  # noqa: F401 - imports are not counted, neither ours nor the others'

    lm = OpenAILM(url, model)
    context: Path | str = Path(path)
    if kind == "str":
        context = Path(path).read_text(encoding="utf-8")
    size = Path(path).stat().st_size
    rlm = RLM(
        lm, lm, RLMCard(), limits=Limits(max_turns=30), journal=Path(journal) if journal else None
    )
    started = time.perf_counter()
    result = await rlm.run("How long is it?", context)
    seconds = time.perf_counter() - started
    await rlm.aclose()
    assert (result.answer, result.stop_reason) == (str(size), "answered"), result
    return {"seconds": seconds}


async def batch(url: str, model: str) -> dict[str, Any]:
    """A thousand sub-calls of one cell."""
    from rlm_executor import ScriptedLM

    code = f"```repl\nanswer['content'] = len(llm_query_batched([str(i) for i in range({CALLS})]))"
    root = ScriptedLM(lambda _: f"{code}\nanswer['ready'] = True\n```")
    sub = OpenAILM(url, model, concurrency=AT_ONCE)
    await RLM(ScriptedLM(lambda _: "```repl\nllm_query('warm')\n```"), sub, RLMCard(),
              limits=Limits(max_turns=1)).run("?", "warm")  # fmt: skip
    rlm = RLM(root, sub, RLMCard())
    started = time.perf_counter()
    result = await rlm.run("How many?", "short")
    seconds = time.perf_counter() - started
    await rlm.aclose()
    assert result.answer == str(CALLS), result
    return {"seconds": seconds}


async def many(url: str, folder: str) -> dict[str, Any]:
    """Runs at once, each over a context of its own of 45 MB."""
    paths = [write(Path(folder) / f"many{i}.txt", SIZES["45MB"] + i) for i in range(MANY)]

    async def one(index: int, path: Path) -> bool:
        lm = OpenAILM(url, f"root-{TURNS}-{DELAY}-many{index}")
        result = await RLM(lm, lm, RLMCard()).run("How long is it?", Context.from_file(path))
        await lm.aclose()
        return result.answer == str(path.stat().st_size)

    started = time.perf_counter()
    right = await asyncio.gather(*(one(index, path) for index, path in enumerate(paths)))
    return {"seconds": time.perf_counter() - started, "right": sum(right)}


WORKERS = {"run": run, "batch": batch, "many": many}


if __name__ == "__main__":
    run_cli(main)
