"""Data of the control arm ``direct-sft``: the same families, answered without the loop.

    python -m data_gen.direct --config configs/data/tiny-direct.yaml --run runs/demo

As many examples as the loop's data has trajectories, drawn at lengths that fit the window; the
prompt is the whole context and the question, the completion is the gold answer. Several questions
share a context, as in the evaluation, so that training reads it once for all of them.
"""

from __future__ import annotations

import argparse
import itertools
import random
import time
from pathlib import Path
from typing import Any

from pydantic import Field

from data_gen import dataset
from data_gen.tasks import check_seed, make_window
from data_gen.tasks.task import Task, Window
from rlm_executor.cli import run_cli
from rlm_executor.config import Config, load_config
from rlm_executor.files import sha256_text

NO_THINKING = {"enable_thinking": False}


class DirectConfig(Config):
    """How many examples of which families, lengths (tokens, bytes/4; with weights) and seeds."""

    keep: int = Field(gt=0)
    questions: int = Field(default=1, gt=0)  # about one context
    families: dict[str, float]
    lengths: dict[int, float]
    first_seed: int = 300_000


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--run", type=Path, default=Path("runs/demo"))
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides")
    args = parser.parse_args()
    config = load_config(DirectConfig, args.config, args.overrides)
    folder: Path = args.run / "direct-data"
    digest = sha256_text(config.model_dump_json())
    if dataset.is_done(folder, digest):
        print(f"direct-data: done before, {config.keep} examples in {folder}")
        return
    started = time.monotonic()
    folder.mkdir(parents=True, exist_ok=True)
    dataset.write_parquet(folder / "dataset", {"turns": examples(config)})
    dataset.mark_done(folder, digest, time.monotonic() - started)
    print(f"direct-data: {config.keep} examples in {time.monotonic() - started:.0f} s")


def examples(config: DirectConfig) -> list[dict[str, Any]]:
    """The training rows: context and question, and the gold answer."""
    rows: list[dict[str, Any]] = []
    for number in itertools.count():
        if len(rows) >= config.keep:
            return rows[: config.keep]
        seed = config.first_seed + number
        check_seed(seed, "train")
        rng = random.Random(f"direct/{seed}")
        family = rng.choices(list(config.families), list(config.families.values()))[0]
        length = rng.choices(list(config.lengths), list(config.lengths.values()))[0]
        window = make_window(family, length, seed, config.questions)
        text = window.text()
        rows += [example(window, text, task) for task in window.tasks]
    raise AssertionError("not reached")


def example(window: Window, text: str, task: Task) -> dict[str, Any]:
    """One row; those of a window are one run to the trainer."""
    joint = "\n" if task.family == "pairs" else ", "
    answer = task.answer if isinstance(task.answer, str) else joint.join(task.answer)
    return {
        "prompt": [{"role": "user", "content": f"{text}\n\n{task.question}"}],
        "completion": [{"role": "assistant", "content": answer}],
        "chat_template_kwargs": NO_THINKING,
        "run": window.id,
        "task_id": task.id,
        "family": task.family,
        "turn": 0,
        "turns": 1,
    }


if __name__ == "__main__":
    run_cli(main)
