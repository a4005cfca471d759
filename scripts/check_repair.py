"""Does the repair find what an erring teacher spoiled, and nothing else: by the real executor.

    python -m scripts.check_repair --attempts 2250

The teacher (tests/data_gen/erring_teacher.py) knows which turns it spoiled. Its runs, half in each
family of finishing, go through repair and the paper's rules; each mended run is said again in the
executor, and what is kept is replayed. Prints one JSON line; ``missed`` and ``good_turns_touched``
must be 0.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data_gen.config import GenerateConfig
from data_gen.funnel import Funnel
from data_gen.repair import Repaired, repair, rerun
from data_gen.rules import PRESETS, Verdict, judge, select
from data_gen.tasks import Task, make_window, score
from data_gen.teacher import scripted_leaf
from rlm_executor import RLM, RLMResult, Trajectory, replay
from rlm_executor.cli import run_cli
from rlm_executor.config import load_config
from tests.data_gen.erring_teacher import ANSWER_MISTAKES, FINAL_WORDS, ErringTeacher

CONFIG = Path(__file__).resolve().parents[1] / "configs" / "data" / "tiny.yaml"
LENGTH = 1024  # of a context, in tokens
RULES = PRESETS["paper"]


@dataclass
class Counts:
    """What was planted, and what became of it."""

    planted: Counter[str] = field(default_factory=Counter)
    turns: Counter[str] = field(default_factory=Counter)  # by family
    in_dropped_runs: int = 0
    repaired: int = 0  # planted turns that are other ones now, or gone
    saved: int = 0  # kept runs that as recorded had scored less
    missed: list[str] = field(default_factory=list)
    good_turns_touched: list[str] = field(default_factory=list)
    other_score: list[str] = field(default_factory=list)  # kept runs that a replay scores otherwise


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--attempts", type=int, default=2250)
    parser.add_argument("--table", action="store_true", help="print the funnel, too")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        told, funnel = asyncio.run(check(args.attempts, Path(folder)))
    if args.table:
        import rich

        rich.print(funnel.table())
    print(json.dumps(told))
    if told["where"]:
        raise SystemExit(1)


async def check(attempts: int, folder: Path) -> tuple[dict[str, Any], Funnel]:
    """Run the attempts; what is printed, and the funnel."""
    started = time.monotonic()
    config = load_config(GenerateConfig, CONFIG)
    counts = Counts()
    verdicts: dict[int, Verdict] = {}
    semaphore = asyncio.Semaphore(config.concurrency)

    async def one(index: int) -> None:
        async with semaphore:
            verdicts[index] = await attempt(config, index, folder, counts)

    async with asyncio.TaskGroup() as group:
        for index in range(attempts):
            group.create_task(one(index))
    funnel = Funnel(select([verdicts[index] for index in range(attempts)], RULES))
    told = funnel.told()
    return {
        "attempts": attempts,
        "turns": dict(sorted(counts.turns.items())),
        "planted": dict(sorted(counts.planted.items())),
        "planted_share": _shares(counts),
        "repaired": counts.repaired,
        "in_dropped_runs": counts.in_dropped_runs,
        "saved": counts.saved,
        "missed": len(counts.missed),
        "good_turns_touched": len(counts.good_turns_touched),
        "other_score": len(counts.other_score),
        "where": [*counts.missed, *counts.good_turns_touched, *counts.other_score][:10],
        "fixes": told["repaired"],
        "dropped": told["dropped"],
        "kept": told["kept"],
        "share_kept": round(told["kept"] / attempts, 3),
        "seconds": round(time.monotonic() - started, 1),
    }, funnel


def _shares(counts: Counts) -> dict[str, float]:
    """Of the turns of the family ``final``, as the paper counts; of ``answer``, all mistakes."""
    wrong = sum(n for kind, n in counts.planted.items() if kind.startswith("var_"))
    answer = sum(n for kind, n in counts.planted.items() if kind in ANSWER_MISTAKES)
    misused = counts.planted.total() - wrong - answer
    return {
        "final": round(misused / max(1, counts.turns["final"]), 3),
        "final_var": round(wrong / max(1, counts.turns["final"]), 3),
        "answer": round(answer / max(1, counts.turns["answer"]), 3),
    }


async def attempt(config: GenerateConfig, index: int, folder: Path, counts: Counts) -> Verdict:
    """One run of the teacher, its repair, and the comparison with what was planted."""
    finish = ("final", "answer")[index % 2]
    window = make_window("niah", LENGTH, index, 1)
    task, text = window.tasks[0], window.text()
    card = config.card
    if finish == "final":
        card = card.model_copy(update={"dialect": FINAL_WORDS})
    teacher = ErringTeacher(index, finish)
    journal, second = folder / f"{index}.jsonl", folder / f"{index}-mended.jsonl"
    rlm = RLM(teacher, scripted_leaf(), card, journal=journal, isolation=config.isolation)
    result = await rlm.run(task.question, text)
    recorded, reproduced = Trajectory.read(journal), True
    before, repaired = score(task, result.answer), repair(recorded)
    if repaired.fixes:
        result, reproduced = await rerun(
            recorded, repaired, text, second, isolation=config.isolation
        )
        journal = second
    row = _row(finish, task, result)
    verdict = judge(
        row, Trajectory.read(journal), RULES, repaired=repaired, reproduced=reproduced, context=text
    )
    counts.turns[finish] += len(teacher.said)
    _compare(index, teacher, repaired, verdict, counts)
    counts.saved += verdict.dropped is None and row["score"] > before
    if verdict.dropped is None and repaired.fixes:
        again = await replay(journal, text)
        if score(task, again.answer) != row["score"] or repair(Trajectory.read(journal)).fixes:
            counts.other_score.append(f"{index}: {list(repaired.fixes)}")
    return verdict


def _row(finish: str, task: Task, result: RLMResult) -> dict[str, Any]:
    return {
        "task_id": task.id,
        "family": finish,
        "length": LENGTH,
        "score": score(task, result.answer),
        "turns": result.turns,
        "stop_reason": result.stop_reason,
    }


def _compare(
    index: int, teacher: ErringTeacher, repaired: Repaired, verdict: Verdict, counts: Counts
) -> None:
    """Every planted turn has to be gone or mended or in a dropped run, all others as they were."""
    counts.planted.update(teacher.planted.values())
    last = repaired.replies[-1].turn
    for turn, said in enumerate(teacher.said):
        now = [reply.text for reply in repaired.replies if reply.turn == turn]
        where = f"{index}/{turn}"
        if turn in teacher.planted:
            if verdict.dropped is not None:
                counts.in_dropped_runs += 1
            elif now == [said]:
                counts.missed.append(f"{where}: {teacher.planted[turn]}")
            else:
                counts.repaired += 1
        elif turn <= last and now != [said]:
            counts.good_turns_touched.append(where)


if __name__ == "__main__":
    run_cli(main)
