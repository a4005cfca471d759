"""Real data sets as windows and tasks, from files that the user has.

    config = configure("longbench-v2", {"path": "data.json"})
    for window in load("longbench-v2", config):
        score(window.tasks[0], "The correct answer is (A).").value

    python -m data_gen.real longbench-v2 --path data.json      # checks the files, spends nothing

Nothing here is part of a run's split by seeds: these are fixed sets, told apart by ``data`` in
each task's meta (repository, commit, sha256 of the rows used).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from data_gen.real import (
    browsecomp_plus,
    longbench_pro,
    longbench_v2,
    oolong_pairs,
    oolong_synth,
)
from data_gen.real.scoring import Hooks, Score
from data_gen.real.source import RealConfig, RealSet
from data_gen.tasks.task import Task
from rlm_executor.errors import ConfigError, InputError

__all__ = ["SETS", "Hooks", "RealSet", "Score", "configure", "load", "score"]


@dataclass(frozen=True)
class Loader:
    """What a set consists of."""

    config: type[RealConfig]
    load: Callable[[Any], RealSet]
    score: Callable[[Task, str, Hooks], Score]


SETS = {
    longbench_pro.FAMILY: Loader(
        longbench_pro.LongBenchProConfig, longbench_pro.load, longbench_pro.score
    ),
    oolong_synth.FAMILY: Loader(
        oolong_synth.OolongSynthConfig, oolong_synth.load, oolong_synth.score
    ),
    oolong_pairs.FAMILY: Loader(
        oolong_pairs.OolongPairsConfig, oolong_pairs.load, oolong_pairs.score
    ),
    browsecomp_plus.FAMILY: Loader(
        browsecomp_plus.BrowseCompPlusConfig, browsecomp_plus.load, browsecomp_plus.score
    ),
    longbench_v2.FAMILY: Loader(
        longbench_v2.LongBenchV2Config, longbench_v2.load, longbench_v2.score
    ),
}


def configure(name: str, values: dict[str, Any]) -> RealConfig:
    """The configuration of the set ``name`` with ``values`` over its defaults.

    Raises:
        InputError: no such set.
        ConfigError: an unknown field or a bad value.
    """
    model = _loader(name).config
    try:
        return model.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        known = ", ".join(model.model_fields)
        raise ConfigError(
            f"{name}: {where}", first["msg"].lower(), f"the fields are {known}"
        ) from error


def load(name: str, config: RealConfig) -> RealSet:
    """The set ``name``: found, checked and counted; iterate it for its windows.

    Raises:
        InputError: no such set, or its files are not what they should be.
    """
    return _loader(name).load(config)


def score(task: Task, answer: str, hooks: Hooks | None = None) -> Score:
    """Score of an answer text under the task's metric.

    Raises:
        InputError: the task is of no real set.
    """
    return _loader(task.family).score(task, answer, hooks or Hooks())


def _loader(name: str) -> Loader:
    if name not in SETS:
        raise InputError(f"unknown real data set {name!r}; known: {', '.join(SETS)}")
    return SETS[name]
