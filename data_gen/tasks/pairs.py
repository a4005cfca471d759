"""``pairs``: list all pairs of users whose lines satisfy a predicate, after OOLONG-Pairs.

Predicate shapes follow arXiv 2512.24601 App. D.1 (both users have at least m lines of a label, or
of one of two labels; one user has the one and the other has the other). Thresholds are drawn
until 5 to 50 % of all pairs satisfy the predicate, so that printing every pair is a weak answer.
"""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Callable

from data_gen.tasks.lines import draw_lines, render
from data_gen.tasks.task import Task, Window, task_id

KINDS = ("both", "both_any", "one_other")
_FORMAT = "Answer with one pair a line in the form (user1, user2), lower user first."


def make_window(length: int, seed: int, n_questions: int) -> Window:
    """A window of lines and ``n_questions`` predicates over pairs of its users."""
    for again in range(50):  # a short window may admit too few questions: its lines are redrawn
        name = f"pairs/{length}/{seed}" + (f"/{again}" if again else "")
        window = _window(random.Random(name), length, seed, n_questions)
        if window is not None:
            return window
    raise RuntimeError(f"windows pairs/{length}/{seed} admit too few questions")


def _window(rng: random.Random, length: int, seed: int, n_questions: int) -> Window | None:
    labels, lines = draw_lines(rng, length, users_per_line=0.2, held_out_frames=seed >= 700_000)
    users = sorted({line.user for line in lines})
    counts = {user: Counter[str]() for user in users}
    for line in lines:
        counts[line.user][line.label] += 1
    tasks: list[Task] = []
    attempts = 0
    while len(tasks) < n_questions:
        attempts += 1
        if attempts > 2_000:
            return None
        kind = rng.choice(KINDS)
        body, holds = _predicate(rng, kind, labels)
        gold = [
            f"({first}, {second})"
            for first, second in itertools.combinations(users, 2)
            if holds(counts[first], counts[second])
        ]
        share = len(gold) / max(1, len(users) * (len(users) - 1) // 2)
        if not 0.05 <= share <= 0.5 or any(body in task.question for task in tasks):
            continue
        tasks.append(
            Task(
                id=task_id("pairs", length, seed, len(tasks)),
                family="pairs",
                question=f"Each line has one of the labels: {', '.join(labels)}. {body} {_FORMAT}",
                answer=gold,
                metric="pairs_f1",
                meta={
                    "length": length,
                    "seed": seed,
                    "window_id": f"pairs-{length}-{seed}",
                    "kind": kind,
                    "lines": len(lines),
                    "labels": labels,
                    "users": len(users),
                    "share": round(share, 4),
                },
            )
        )
    return Window(
        id=f"pairs-{length}-{seed}",
        family="pairs",
        length=length,
        seed=seed,
        tasks=tasks,
        chunks=lambda: render(labels, lines),
        facts={"lines": lines, "labels": labels, "users": users},
    )


def _predicate(
    rng: random.Random, kind: str, labels: list[str]
) -> tuple[str, Callable[[Counter[str], Counter[str]], bool]]:
    first, second = rng.sample(labels, 2)
    m, n = rng.randint(1, 4), rng.randint(1, 4)
    start = "List all pairs of users"
    if kind == "both":
        return (
            f"{start} where both users have at least {m} lines with the label {first}.",
            lambda a, b: a[first] >= m and b[first] >= m,
        )
    if kind == "both_any":
        return (
            f"{start} where both users have at least {m} lines with the label {first} or {second}.",
            lambda a, b: a[first] + a[second] >= m and b[first] + b[second] >= m,
        )
    return (
        f"{start} where one user has at least {m} lines with the label {first} and the other "
        f"user has at least {n} lines with the label {second}.",
        lambda a, b: (a[first] >= m and b[second] >= n) or (b[first] >= m and a[second] >= n),
    )


def floor_answer(window: Window, task: Task) -> str:
    """Every pair of users."""
    users = window.facts["users"]
    return "\n".join(f"({a}, {b})" for a, b in itertools.combinations(users, 2))
