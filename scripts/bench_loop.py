"""What the loop itself costs, without a model: `make bench-loop`.

Scripted models answer at once, so all that is measured is ours: starting the REPL, a turn, a
sub-call, and a context of many megabytes. One row a case, medians of --repeat runs.
"""

from __future__ import annotations

import argparse
import statistics
import time

from rlm_executor import RLM, Context, Limits, RLMCard, ScriptedLM
from rlm_executor.cli import run_cli

CELL = "```repl\n{code}\n```"
LAST = CELL.format(code='answer["content"] = str(len(context))\nanswer["ready"] = True')
CALLS = 'llm_query_batched(["label this line"] * 200)'
# name -> (turns before the last, code of each, characters of the context)
CASES = {
    "start and answer, 1 KB": (0, "", 1_000),
    "20 turns, 1 KB": (20, "print(context[:100])", 1_000),
    "1,000 sub-calls, 1 KB": (5, CALLS, 1_000),
    "start and answer, 64 MiB": (0, "", 64 * 2**20),
    "search five times, 64 MiB": (5, "print(context.find('needle'))", 64 * 2**20),
}


def main() -> None:
    """Run every case and print its median."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--repeat", type=int, default=3)
    repeat = parser.parse_args().repeat
    limits = Limits(max_turns=100, max_calls=10_000)
    for name, (turns, code, characters) in CASES.items():
        context = Context.from_text("x" * characters)
        seconds = []
        for _ in range(repeat):
            replies = iter([CELL.format(code=code)] * turns + [LAST])
            root = ScriptedLM(lambda _, replies=replies: next(replies))
            rlm = RLM(root, ScriptedLM(lambda _: "tool"), RLMCard(), limits=limits)
            started = time.perf_counter()
            result = rlm.complete("How long is it?", context)
            seconds.append(time.perf_counter() - started)
            assert result.answer == str(characters), result
        print(f"{name:28} {statistics.median(seconds):7.3f} s", flush=True)


if __name__ == "__main__":
    run_cli(main)
