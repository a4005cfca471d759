"""The evaluation sets that a dataset is compared with, and the comparison for its card."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data_gen import real
from data_gen.config import Evaluation, GenerateConfig
from data_gen.contamination import TrainingRow, check, row_of
from data_gen.rules import Verdict
from data_gen.tasks import make_window
from rlm_executor import Trajectory

_MOST_CHARS = 2_000_000  # of a context: the corpora that pad the longest ones repeat


def compared(
    config: GenerateConfig, kept: list[tuple[dict[str, Any], Verdict]], folder: Path
) -> dict[str, Any]:
    """What the kept runs share with each evaluation set; empty if there is none.

    Raises:
        InputError: the files of a set are not what they should be.
    """
    if not config.evaluation:
        return {}
    contexts = _contexts(config, {row["task_id"] for row, _ in kept})

    def rows() -> Iterator[TrainingRow]:
        for row, _ in kept:
            trajectory = Trajectory.read(folder / "journals" / row["journal"])
            yield row_of(row["task_id"], trajectory, contexts.get(row["task_id"]))

    sets = {one.name: _texts(one) for one in config.evaluation}
    return check(rows(), sets, contexts=config.real is not None).told()


def _contexts(config: GenerateConfig, ids: set[str]) -> dict[str, str]:
    """Of the tasks of a real data set: made-up ones share no text but by construction."""
    if config.real is None:
        return {}
    values = dict(config.real)
    name = str(values.pop("name"))
    windows = real.load(name, real.configure(name, values))
    return {task.id: window.text() for window in windows for task in window.tasks if task.id in ids}


def find(one: Evaluation) -> real.RealSet | None:
    """A real set, its files checked; None: the tasks are made here.

    Raises:
        InputError: the files are not what they should be.
    """
    return real.load(one.name, real.configure(one.name, one.real)) if not one.families else None


def _texts(one: Evaluation) -> Iterator[tuple[str, str]]:
    """Task ids, each with its question and its context."""
    found = find(one)
    if found is not None:
        for window in found:
            text = window.text()[:_MOST_CHARS]
            for task in window.tasks:
                yield task.id, f"{task.question}\n{text}"
        return
    for family in one.families:
        for length in one.lengths:
            for seed in range(one.first_seed, one.first_seed + one.windows):
                for task in make_window(family, length, seed, one.questions).tasks:
                    yield task.id, task.question
