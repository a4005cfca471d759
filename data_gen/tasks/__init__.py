"""Task families with truth known by construction.

window = make_window("oolong", length=2**11, seed=17, n_questions=4)
score(window.tasks[0], "animal")

A family's module has ``make_window(length, seed, n_questions)`` and ``floor_answer(window, task)``,
which is what somebody says who has not read the context.
"""

from __future__ import annotations

from collections.abc import Callable

from data_gen.real.pro_metrics import BY_NAME
from data_gen.tasks import (
    codeqa,
    deep,
    hops,
    metrics,
    niah,
    oolong,
    oolong_full,
    pairs,
    pairs_full,
    pro,
    ruler,
    straddle,
)
from data_gen.tasks.task import Task, Window, check_seed
from rlm_executor.errors import InputError

__all__ = ["FAMILIES", "Task", "Window", "check_seed", "floor_answer", "make_window", "score"]

FAMILIES = {
    "niah": niah,
    "oolong": oolong,
    "pairs": pairs,
    "hops": hops,
    "codeqa": codeqa,
    "pro": pro,
    "straddle": straddle,
    "ruler": ruler,
    "oolong_full": oolong_full,
    "pairs_full": pairs_full,
    "deep": deep,
}
_OF_LISTS: dict[str, Callable[[list[str], str], float]] = {
    **BY_NAME,
    "string_match_all": metrics.string_match_all,
    "pairs_f1": metrics.pairs_f1,
}
_OF_TEXTS: dict[str, Callable[[str, str], float]] = {
    "oolong": metrics.oolong,
    "exact_match": hops.exact_match,
}


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
    if task.family == "oolong_full":
        return oolong_full.score(task, answer)
    if task.family == "oolong" and task.meta["kind"].startswith("user_most"):
        return float(answer.strip() == task.answer)
    if task.metric in _OF_LISTS:
        return _OF_LISTS[task.metric]([*task.answer], answer)
    return _OF_TEXTS[task.metric](str(task.answer), answer)


def floor_answer(window: Window, task: Task) -> str:
    """What a guesser says who has not read the context."""
    return FAMILIES[task.family].floor_answer(window, task)
