"""How quickly the viewer's page is made, opens and answers: `make bench-viewer`.

A data run of made-up journals is made into a page, which headless Chromium opens from its file.
Prints one JSON line; needs Debian's package chromium.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import resource
import statistics
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rlm_executor import Completion, RLMCard, RLMResult, Usage
from rlm_executor.cli import run_cli
from rlm_executor.errors import EnvironmentFault
from rlm_executor.files import append_jsonl
from rlm_executor.journal import Journal
from rlm_executor.sandbox.host import Cell
from rlm_executor.viewer import write_page
from scripts.bench_record import print_record
from tests.chromium import Chromium, Page, find_chromium

FAMILIES = ("niah", "oolong", "pairs")
RULES = (None, None, None, "score_zero", "single_turn")  # of every fifth and so on
WORDS = "sparrow heron wren anvil barge clove dahlia ember fjord gravel harbor inkwell".split()
BIG_CHARS = 100_000  # printed by one cell of every tenth run
# Time until the frame after an action is on the screen; the action comes before it.
FRAME = "new Promise(done => requestAnimationFrame(() => setTimeout(done)))"


def main() -> None:
    """Make up the journals, write the page, open it, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--repeat", type=int, default=5)
    args = parser.parse_args()
    if find_chromium() is None:
        raise EnvironmentFault("no Chromium is installed; install Debian's package chromium")
    with tempfile.TemporaryDirectory() as folder:
        data, out = Path(folder, "data"), Path(folder, "view.html")
        make_up(data, args.runs)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        started = time.perf_counter()
        write_page([data], out)
        seconds = time.perf_counter() - started
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        size = sum(path.stat().st_size for path in data.rglob("*.jsonl"))
        values: dict[str, Any] = {
            "runs": args.runs,
            "journals_mb": round(size / 1e6, 1),
            "page_mb": round(out.stat().st_size / 1e6, 1),
            "write_s": round(seconds, 2),
            "write_peak_mb": round(grown / 1024, 1),
        }
        with Chromium() as browser:
            values |= asyncio.run(measure(browser, out.as_uri(), args.repeat))
    print_record("viewer in headless Chromium, medians; limit for ready_s: 3", values)


async def measure(browser: Chromium, url: str, repeat: int) -> dict[str, float]:
    """Seconds from the navigation until the table stands and all is loaded; then of actions."""
    taken: dict[str, list[float]] = {}
    for _ in range(repeat):
        async with browser.page() as page:
            started = time.perf_counter()
            await page.goto(url)
            await page.js(FRAME)
            taken.setdefault("ready_s", []).append(time.perf_counter() - started)
            for name, action in ACTIONS.items():
                taken.setdefault(name, []).append(await timed(page, action))
    return {name: round(statistics.median(all_), 4) for name, all_ in taken.items()}


ACTIONS = {
    "filter_s": "byId('search').value = 'heron 7'; refresh()",
    "unfilter_s": "byId('search').value = ''; refresh()",
    "sort_s": "document.querySelector('th[data-key=seconds] button').click()",
    "open_s": "location.hash = hashOf(matching[0]); await follow()",
}


async def timed(page: Page, action: str) -> float:
    """Seconds of an action, as the page measures them, until its frame is drawn."""
    milliseconds: float = await page.js(
        f"(async () => {{ const from = performance.now(); {action}; await {FRAME};"
        " return performance.now() - from; })()"
    )
    return milliseconds / 1000


def make_up(folder: Path, runs: int) -> None:
    """Write a data run of ``runs`` attempts; the same each time."""
    card = RLMCard().model_dump(mode="json")
    for index in range(runs):
        rng = random.Random(index)
        family, name = FAMILIES[index % len(FAMILIES)], f"{index:06d}.jsonl"
        result = one_run(folder / "journals" / name, rng, index, family, card)
        dropped = RULES[index % len(RULES)]
        row = {"index": index, "task_id": f"{family}-{index}", "family": family, "length": 2048}
        row |= {"journal": name, "score": 0.0 if dropped else 1.0, "dropped_by": dropped}
        append_jsonl(folder / "attempts.jsonl", row | {"stop_reason": result.stop_reason})


def one_run(
    path: Path, rng: random.Random, index: int, family: str, card: dict[str, Any]
) -> RLMResult:
    """One journal: four turns, each with a cell that makes eight sub-calls."""
    journal = Journal(path, None)
    question = f"Question {index}: which {rng.choice(WORDS)} comes first?"
    facts = {"type": "str", "chars": 80_000, "lines": 900, "preview": said(rng, 30)}
    task = {"id": f"{family}-{index}", "family": family, "length": 2048}
    journal.run(
        question=question, context=facts, task=task, models=["root", "leaf"], prelude=[], card=card
    )
    messages = [{"role": "system", "content": "Write code."}, {"role": "user", "content": question}]
    for turn in range(4):
        code = f"out = llm_query_batched(parts[{turn}])\nprint(out)  # {said(rng, 20)}"
        reply = f"{said(rng, 30)}\n```repl\n{code}\n```"
        event = journal.asked(turn, messages, "")
        journal.replied(event, Completion(reply, Usage(400 + turn, 60, 1)), 1, rng.random())
        for number in range(8):
            usage = asdict(Usage(250, 9, 1))
            call = {"type": "call", "cell": turn + 1, "prompt": f"{number}: {said(rng, 100)}"}
            call |= {"reply": said(rng, 9), "usage": usage, "seconds": 0.1}
            journal.record(call)
        size = BIG_CHARS // 8 if index % 10 == 0 and turn == 2 else 150
        output = said(rng, size)
        journal.cell(turn, turn + 1, code, Cell("ok", output, len(output), "", "", False, False, 1))
        messages += [{"role": "assistant", "content": reply}]
        messages += [{"role": "user", "content": output[:2000]}]
    stop = "max_turns" if index % 7 == 0 else "answered"
    root, sub = Usage(1606, 240, 4), Usage(8000, 288, 32)
    seconds = round(rng.uniform(1, 30), 3)
    result = RLMResult(said(rng, 5), stop, "answer", 4, 0, root, sub, seconds, "", None)
    journal.end(asdict(result))
    journal.close()
    return result


def said(rng: random.Random, words: int) -> str:
    """That many words."""
    return " ".join(rng.choices(WORDS, k=words))


if __name__ == "__main__":
    run_cli(main)
