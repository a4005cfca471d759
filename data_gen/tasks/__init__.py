"""Task families with truth known by construction.

window = make_window("oolong", length=2**11, seed=17, n_questions=4)
score(window.tasks[0], "animal")
"""

from __future__ import annotations

import itertools
import random

from data_gen.tasks import metrics, niah, oolong, pairs
from data_gen.tasks.task import Task, Window, check_seed
from rlm_executor.errors import InputError

__all__ = ["FAMILIES", "Task", "Window", "check_seed", "floor_answer", "make_window", "score"]

FAMILIES = {"niah": niah, "oolong": oolong, "pairs": pairs}


def make_window(family: str, length: int, seed: int, n_questions: int) -> Window:
    """The window of ``family`` for ``seed``, ``length`` tokens (bytes/4) long.

    Raises:
        InputError: unknown family, or a length under 2^9 tokens.
    """
    if family not in FAMILIES:
        raise InputError(f"unknown family {family!r}; known: {', '.join(FAMILIES)}")
    if length < 512:
        raise InputError(f"length {length} is too short for a window; use at least 512 tokens")
    return FAMILIES[family].make_window(length, seed, n_questions)


def score(task: Task, answer: str) -> float:
    """Score of an answer text under the task's metric, in [0, 1]."""
    if task.metric == "string_match_all":
        return metrics.string_match_all(list(task.answer), answer)
    if task.metric == "pairs_f1":
        return metrics.pairs_f1(list(task.answer), answer)
    if task.meta["kind"].startswith("user_most"):
        return float(answer.strip() == task.answer)
    return metrics.oolong(str(task.answer), answer)


def floor_answer(window: Window, task: Task) -> str:
    """What a guesser says: a random value, a random valid choice, or every pair of users."""
    rng = random.Random(f"floor/{task.id}")
    if task.family == "niah":
        return str(rng.randrange(10**6, 10**7))
    if task.family == "oolong":
        return str(rng.choice(task.meta["choices"]))
    users = window.facts["users"]
    return "\n".join(f"({a}, {b})" for a, b in itertools.combinations(users, 2))
