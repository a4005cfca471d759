"""Make trajectories: tasks go to a teacher in the real executor; the good runs become a dataset.

    python -m data_gen.generate --config configs/data/tiny.yaml --run runs/demo

Writes into RUN/data: one journal a run, ``attempts.jsonl`` (one line an attempt), and at the end
``dataset/``, ``funnel.json``, ``rlm.json`` and the dataset card. Attempts are numbered and made
in order until each family has its share, so an interrupted run goes on where it was and ends with
the same trajectories. Scoring and dropping is ``filter.py``, rows are ``dataset.py``.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import random
import shutil
import time
from pathlib import Path
from typing import Any

from pydantic import Field, field_validator

from data_gen import dataset
from data_gen.filter import dropped_by, funnel
from data_gen.tasks import FAMILIES, check_seed, make_window, score
from data_gen.teacher import ExpertLM, ModelConfig, open_model, scripted_leaf
from rlm_executor import LM, RLM, RLMCard, Trajectory
from rlm_executor.cli import run_cli
from rlm_executor.config import Config, load_config
from rlm_executor.errors import EnvironmentFault
from rlm_executor.files import append_jsonl, read_jsonl, sha256_text, write_json_atomic
from rlm_executor.sandbox.tiers import Isolation

WAVE = 120  # attempts between two looks at what is still owed


class GenerateConfig(Config):
    """What to make, by whom, and what to keep."""

    keep: int = Field(gt=0)  # trajectories in the finished dataset
    families: dict[str, float]  # share of each family
    lengths: list[int]  # of the contexts, in tokens (bytes/4)
    first_seed: int = 0  # attempts use the seeds from here on; below 700000
    teacher: ModelConfig = ModelConfig()
    leaf: ModelConfig = ModelConfig()
    mistakes: float = Field(default=0.0, ge=0, le=1)  # share of careless runs of the expert
    min_score: float = Field(default=1.0, ge=0, le=1)
    max_attempts_factor: float = Field(default=3.0, ge=1)  # give up beyond keep times this
    concurrency: int = Field(default=8, gt=0)
    isolation: Isolation = "sealed"  # what holds the code of the runs
    card: RLMCard

    @field_validator("families")
    @classmethod
    def _known(cls, value: dict[str, float]) -> dict[str, float]:
        unknown = set(value) - set(FAMILIES)
        if unknown or not value or min(value.values()) <= 0:
            raise ValueError(f"give a positive share for some of: {', '.join(FAMILIES)}")
        return value

    def quota(self) -> dict[str, int]:
        """Trajectories to keep of each family, together ``keep``."""
        total = sum(self.families.values())
        counts = {name: int(self.keep * share / total) for name, share in self.families.items()}
        first = next(iter(counts))
        counts[first] += self.keep - sum(counts.values())
        return counts


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--run", type=Path, default=Path("runs/demo"))
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides")
    args = parser.parse_args()
    config = load_config(GenerateConfig, args.config, args.overrides)
    folder: Path = args.run / "data"
    digest = sha256_text(config.model_dump_json())
    if dataset.is_done(folder, digest):
        print(f"data: done before, {config.keep} trajectories in {folder}")
        return
    _own_folder(folder, digest)
    started = time.monotonic()
    attempts = asyncio.run(generate(config, folder))
    chosen = choose(config, attempts)
    write_json_atomic(folder / "funnel.json", funnel(attempts, chosen))
    config.card.save(folder)
    dataset.write(folder, chosen, config.card, config.model_dump(mode="json"))
    dataset.mark_done(folder, digest, time.monotonic() - started)
    dataset.print_funnel(folder)


def _own_folder(folder: Path, digest: str) -> None:
    """Start afresh if what lies here came from another configuration."""
    stamp = folder / "config.sha256"
    if folder.exists() and (not stamp.exists() or stamp.read_text() != digest):
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    stamp.write_text(digest)


def choose(config: GenerateConfig, attempts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The first passing attempts of each family, in order of their number, up to the quota."""
    left = config.quota()
    chosen = []
    for attempt in sorted(attempts, key=lambda row: row["index"]):
        if attempt["dropped_by"] is None and left[attempt["family"]]:
            left[attempt["family"]] -= 1
            chosen.append(attempt)
    return chosen


def plan(config: GenerateConfig, index: int) -> tuple[str, int, int]:
    """Family, length and seed of attempt ``index``; independent of all other attempts."""
    rng = random.Random(f"plan/{config.first_seed + index}")
    family = rng.choices(list(config.families), list(config.families.values()))[0]
    return family, rng.choice(config.lengths), config.first_seed + index


async def generate(config: GenerateConfig, folder: Path) -> list[dict[str, Any]]:
    """Make what is owed, wave by wave, until every family has its quota.

    Raises:
        EnvironmentFault: too few runs pass the filter.
    """
    path = folder / "attempts.jsonl"
    attempts = {row["index"]: row for row in read_jsonl(path, repair=True)}
    quota = config.quota()
    limit = int(config.keep * config.max_attempts_factor) + WAVE
    print(
        f"data: {config.keep} trajectories wanted {quota}, at most {limit} attempts; "
        f"teacher={config.teacher.model or 'scripted expert'} "
        f"leaf={config.leaf.model or 'scripted'}; {len(attempts)} attempts found",
        flush=True,
    )
    async with _models(config) as (root, leaf):
        progress = _Progress(len(attempts))
        semaphore = asyncio.Semaphore(config.concurrency)
        # Waves end at fixed numbers, so the attempts made do not depend on interruptions.
        for end in range(WAVE, limit + WAVE, WAVE):
            made = [attempts[i] for i in range(end - WAVE) if i in attempts]
            if len(choose(config, made)) == config.keep:
                return made
            owed = [index for index in range(end - WAVE, end) if index not in attempts]

            async def one(index: int) -> None:
                async with semaphore:
                    row = await attempt(config, folder, index, root, leaf)
                append_jsonl(path, row)
                attempts[index] = row
                progress.step(row, len(choose(config, list(attempts.values()))), config.keep)

            async with asyncio.TaskGroup() as group:
                for index in owed:
                    group.create_task(one(index))
    raise EnvironmentFault(
        f"only {len(choose(config, list(attempts.values())))} of {config.keep} trajectories after "
        f"{len(attempts)} attempts; look at dropped_by in {path.name}, mend the teacher or raise "
        "max_attempts_factor"
    )


@contextlib.asynccontextmanager
async def _models(config: GenerateConfig) -> Any:
    root = (
        open_model(config.teacher, config.concurrency)
        if config.teacher.kind == "endpoint"
        else None
    )
    leaf = (
        open_model(config.leaf, config.concurrency)
        if config.leaf.kind == "endpoint"
        else scripted_leaf()
    )
    try:
        yield root, leaf
    finally:
        for model in (root, leaf):
            if model is not None:
                await model.aclose()


async def attempt(
    config: GenerateConfig, folder: Path, index: int, root: LM | None, leaf: LM
) -> dict[str, Any]:
    """One run of the teacher on one task, as a row; a failing run is a row too."""
    family, length, seed = plan(config, index)
    check_seed(seed, "train")
    window = make_window(family, length, seed, 1)
    task = window.tasks[0]
    journal = folder / "journals" / f"{index:06d}.jsonl"
    journal.parent.mkdir(parents=True, exist_ok=True)
    journal.unlink(missing_ok=True)  # of an attempt that was killed before its row was written
    teacher = root or ExpertLM(seed=seed, mistakes=config.mistakes)
    row: dict[str, Any] = {"index": index, "task_id": task.id, "family": family, "seed": seed}
    row |= {"length": length, "kind": task.meta["kind"], "journal": journal.name}
    about = {"id": task.id, "family": family, "seed": seed, "length": length}
    rlm = RLM(teacher, leaf, config.card, journal=journal, task=about, isolation=config.isolation)
    result = await rlm.run(task.question, window.text())
    turns = Trajectory.read(journal).turns
    row |= {
        "score": score(task, result.answer),
        "stop_reason": result.stop_reason,
        "turns": result.turns,
        "error_turns": sum(turn.error for turn in turns),
        "calls": result.sub.calls,
        "tokens_root": result.root.prompt_tokens + result.root.completion_tokens,
        "tokens_sub": result.sub.prompt_tokens + result.sub.completion_tokens,
        "longest_turn_chars": max(
            (sum(len(m["content"]) for m in t.messages) + len(t.reply) for t in turns), default=0
        ),
        "seconds": result.seconds,
    }
    # A turn of more characters than tokens fit can't be served: the card's window decides.
    row["dropped_by"] = dropped_by(
        row, min_score=config.min_score, max_chars=config.card.root_window * 4
    )
    return row


class _Progress:
    """One line every few seconds: done, kept, rate."""

    def __init__(self, found: int) -> None:
        self.done, self.begun, self.shown = found, time.monotonic(), 0.0
        self.new = 0

    def step(self, row: dict[str, Any], kept: int, keep: int) -> None:
        """Count ``row``; print now and then."""
        self.done, self.new = self.done + 1, self.new + 1
        now = time.monotonic()
        if now - self.shown > 5:
            self.shown = now
            rate = self.new / max(1e-9, now - self.begun)
            print(
                f"data: attempts={self.done} kept={kept}/{keep} per_second={rate:.1f}", flush=True
            )


if __name__ == "__main__":
    run_cli(main)
