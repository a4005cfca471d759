"""Where the tasks of a generation come from: synthetic families, or a real data set."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from data_gen import real
from data_gen.config import GenerateConfig
from data_gen.tasks import check_seed, make_window, score
from data_gen.tasks.task import Task
from rlm_executor.errors import InputError


@dataclass(frozen=True)
class Asked:
    """A task with its context."""

    task: Task
    text: str
    seed: int  # draws the style of a scripted expert

    @property
    def length(self) -> int:
        """Of the context, in tokens (bytes/4)."""
        return int(self.task.meta["length"])


class Supply(Protocol):
    """Tasks by number, from 0; ``count`` of them, None for any number."""

    count: int | None

    def between(self, first: int, last: int) -> None:
        """Be ready for the tasks from ``first`` up to, without, ``last``; never backwards."""
        ...

    def family(self, number: int) -> str:
        """Of a task, whether it is ready for it or not."""
        ...

    def task(self, number: int) -> Asked:
        """One of those that it is ready for."""
        ...

    def score(self, task: Task, answer: str) -> float | None:
        """In [0, 1]; None where its metric can't be taken here."""
        ...


def supply(config: GenerateConfig) -> Supply:
    """The tasks that a configuration asks for.

    Raises:
        InputError: the files of a real data set are not what they should be.
    """
    return Synthetic(config) if config.real is None else Real(config)


class Synthetic:
    """One task of each seed; family and length are drawn from the seed, too."""

    def __init__(self, config: GenerateConfig) -> None:
        self._config, self.count = config, config.tasks

    def between(self, first: int, last: int) -> None:
        """Each is made when it is asked for."""

    def plan(self, number: int) -> tuple[str, int, int]:
        """Family, length and seed of a task; independent of all other tasks."""
        config, seed = self._config, self._config.first_seed + number
        rng = random.Random(f"plan/{seed}")
        family = rng.choices(list(config.families), list(config.families.values()))[0]
        return family, rng.choice(config.lengths), seed

    def family(self, number: int) -> str:
        """Drawn from its seed."""
        return self.plan(number)[0]

    def task(self, number: int) -> Asked:
        """Raises InputError for a seed that is not for training."""
        family, length, seed = self.plan(number)
        check_seed(seed, "train")
        window = make_window(family, length, seed, 1)
        return Asked(window.tasks[0], window.text(), seed)

    def score(self, task: Task, answer: str) -> float:
        """By the family's metric."""
        return score(task, answer)


class Real:
    """The tasks of a data set, in the order of its files; a stretch of them is in memory."""

    def __init__(self, config: GenerateConfig) -> None:
        values: dict[str, Any] = dict(config.real or {})
        name = values.pop("name", None)
        if not isinstance(name, str):
            raise InputError(f"real: name a data set; known: {', '.join(real.SETS)}")
        self._set = real.load(name, real.configure(name, values))
        self._tasks: Iterator[Asked] = self._all()
        self._next = 0
        self._ready: dict[int, Asked] = {}
        size = sum(len(window.tasks) for window in self._set)
        self.count = min(size, config.tasks or size)
        self.source, self.sha256 = self._set.source, self._set.sha256

    def _all(self) -> Iterator[Asked]:
        for window in self._set:
            text = window.text()
            for task in window.tasks:
                if task.meta.get("sealed"):  # or a crawler could learn from our dataset
                    raise InputError(
                        f"real: {self._set.name} is published encrypted so that nobody trains on "
                        "it; it is for evaluation only"
                    )
                yield Asked(task, text, 0)

    def between(self, first: int, last: int) -> None:
        """Reads on; what came before ``first`` is forgotten."""
        self._ready = {n: one for n, one in self._ready.items() if n >= first}
        for one in itertools.islice(self._tasks, max(0, last - self._next)):
            if self._next >= first:
                self._ready[self._next] = one
            self._next += 1

    def family(self, number: int) -> str:
        """A set is one family."""
        return self._set.name

    def task(self, number: int) -> Asked:
        """One of those read last."""
        return self._ready[number]

    def score(self, task: Task, answer: str) -> float | None:
        """By the data set's official metric."""
        return real.score(task, answer).value
