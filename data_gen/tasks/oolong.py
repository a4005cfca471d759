"""``oolong``: label statistics over many lines whose labels must be inferred.

Question groups follow OOLONG (arXiv 2511.02817): most and least frequent label, how many of one
label, which of two is more common, the user with most lines of a label, the count within one
user's lines. Unlike its generator we never ask about a tie: every gold has a margin.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable

from data_gen.tasks.lines import Line, draw_lines, render
from data_gen.tasks.task import Task, Window, task_id

KINDS = ("most", "least", "count", "compare", "user_most", "user_count")
Labels = list[str]
_Question = tuple[str, str, list[str]]


def make_window(length: int, seed: int, n_questions: int) -> Window:
    """A window of lines and ``n_questions`` statistics about their labels."""
    rng = random.Random(f"oolong/{length}/{seed}")
    labels, lines = draw_lines(rng, length, users_per_line=0.12, held_out_frames=seed >= 700_000)
    kinds = rng.sample(KINDS, len(KINDS))
    tasks: list[Task] = []
    attempt = 0
    while len(tasks) < n_questions:
        kind = kinds[attempt % len(kinds)]
        attempt += 1
        made = _MAKERS[kind](rng, labels, lines)
        if made is None or any(made[0] in task.question for task in tasks):
            if attempt > 100 * n_questions:
                raise RuntimeError(f"window oolong/{length}/{seed} admits too few questions")
            continue
        body, answer, choices = made
        tasks.append(
            Task(
                id=task_id("oolong", length, seed, len(tasks)),
                family="oolong",
                question=f"Each line has one of the labels: {', '.join(labels)}. {body}",
                answer=answer,
                metric="oolong",
                meta={
                    "length": length,
                    "seed": seed,
                    "window_id": f"oolong-{length}-{seed}",
                    "kind": kind,
                    "choices": choices,
                    "lines": len(lines),
                    "labels": labels,
                },
            )
        )
    return Window(
        id=f"oolong-{length}-{seed}",
        family="oolong",
        length=length,
        seed=seed,
        tasks=tasks,
        chunks=lambda: render(labels, lines),
        facts={"lines": lines, "labels": labels},
    )


def _most(rng: random.Random, labels: Labels, lines: list[Line]) -> _Question | None:
    ranked = _ranked(lines)
    if not _clear(ranked[0][1], ranked[1][1], lines):
        return None
    return "Which label is the most common? Answer with the label.", ranked[0][0], labels


def _least(rng: random.Random, labels: Labels, lines: list[Line]) -> _Question | None:
    ranked = _ranked(lines)
    if len(ranked) < len(labels) or not _clear(ranked[-2][1], ranked[-1][1], lines):
        return None
    return "Which label is the least common? Answer with the label.", ranked[-1][0], labels


def _count(rng: random.Random, labels: Labels, lines: list[Line]) -> _Question | None:
    label = rng.choice(labels)
    count = sum(line.label == label for line in lines)
    guess = str(round(len(lines) / len(labels)))
    return f"How many lines have the label {label}? Answer with a number.", str(count), [guess]


def _compare(rng: random.Random, labels: Labels, lines: list[Line]) -> _Question | None:
    first, second = rng.sample(labels, 2)
    counts = Counter(line.label for line in lines)
    if not _clear(counts[first], counts[second], lines):
        return None
    answer = "more common" if counts[first] > counts[second] else "less common"
    body = (
        f"Is the label {first} more common or less common than {second}? "
        "Answer with more common or less common."
    )
    return body, answer, ["more common", "less common"]


def _user_most(rng: random.Random, labels: Labels, lines: list[Line]) -> _Question | None:
    label = rng.choice(labels)
    ranked = Counter(line.user for line in lines if line.label == label).most_common(2)
    if not ranked or (len(ranked) == 2 and ranked[0][1] == ranked[1][1]):
        return None
    body = f"Which user has the most lines with the label {label}? Answer with the user."
    return body, ranked[0][0], sorted({line.user for line in lines})


def _user_count(rng: random.Random, labels: Labels, lines: list[Line]) -> _Question | None:
    label, user = rng.choice(labels), rng.choice(lines).user
    own = [line for line in lines if line.user == user]
    count = sum(line.label == label for line in own)
    body = f"How many lines of user {user} have the label {label}? Answer with a number."
    return body, str(count), [str(round(len(own) / len(labels)))]


_MAKERS: dict[str, Callable[[random.Random, Labels, list[Line]], _Question | None]] = {
    "most": _most,
    "least": _least,
    "count": _count,
    "compare": _compare,
    "user_most": _user_most,
    "user_count": _user_count,
}


def _ranked(lines: list[Line]) -> list[tuple[str, int]]:
    return Counter(line.label for line in lines).most_common()


def _clear(more: int, less: int, lines: list[Line]) -> bool:
    """OOLONG's margin: the two counts differ by at least 2 % of the lines (and by one)."""
    return abs(more - less) >= max(1, 0.02 * len(lines))


def floor_answer(window: Window, task: Task) -> str:
    """A random one of the possible answers; of a count, the one to expect."""
    return str(random.Random(f"floor/{task.id}").choice(task.meta["choices"]))
