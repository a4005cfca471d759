"""``pro``: questions of LongBench-Pro's kinds over real text, each scored by its metric.

A window has entries of one kind among other real text (``pro_entries``); ``pro_kinds`` says what is
planted and asked. Gold by construction. Entries are at most 60, however long the window is.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator

from data_gen.real.pro_metrics import BY_TASK
from data_gen.tasks import real_text
from data_gen.tasks.lexicon import CATEGORIES
from data_gen.tasks.pro_entries import layout, n_entries
from data_gen.tasks.pro_kinds import KINDS, Asked, Truth
from data_gen.tasks.task import BYTES_PER_TOKEN, Task, Window, task_id
from rlm_executor.errors import InputError
from rlm_executor.files import sha256_text

_N_TRIES = 200
_MIN_SPAN = 4


def make_window(length: int, seed: int, n_questions: int) -> Window:
    """Entries among real text of ``length`` tokens; the seed draws the kind.

    Raises:
        InputError: too many questions for so few entries, or too little real text.
    """
    rng = random.Random(f"pro/{length}/{seed}")
    split = real_text.split_of(seed)
    name = rng.choice(sorted(KINDS))
    kind = KINDS[name]
    for _ in range(_N_TRIES):
        planted, truth = kind.plant(rng, split, n_entries(length * BYTES_PER_TOKEN))
        asked = _asked(rng, name, truth, n_questions)
        if len(asked) == n_questions:
            break
    else:
        raise InputError(f"{len(planted)} entries have no {n_questions} questions; ask fewer")
    parts, used = layout(rng, split, length * BYTES_PER_TOKEN, planted)
    tasks = []
    for index, (fields, gold) in enumerate(asked):
        wording = kind.wordings[-1] if split == "test" else rng.choice(kind.wordings[:-1])
        tasks.append(
            Task(
                id=task_id("pro", length, seed, index),
                family="pro",
                question=f"{wording.format(**fields)} {kind.ends}",
                answer=gold,
                metric=BY_TASK[kind.family].__name__,
                meta={
                    "length": length,
                    "seed": seed,
                    "window_id": f"pro-{length}-{seed}",
                    "kind": name,
                    "secondary_task": kind.family,
                },
            )
        )

    def chunks() -> Iterator[str]:
        yield from parts

    return Window(
        id=f"pro-{length}-{seed}",
        family="pro",
        length=length,
        seed=seed,
        tasks=tasks,
        chunks=chunks,
        facts={
            "sources": used,
            "sha256": sha256_text("".join(parts)),
            "truth": truth,
            "planted": planted,
        },
    )


def _asked(rng: random.Random, name: str, truth: Truth, n_questions: int) -> list[Asked]:
    """Questions about different spans of the entries."""
    found: dict[str, Asked] = {}
    for _ in range(20 * n_questions):
        size = rng.randint(min(_MIN_SPAN, len(truth)), min(len(truth), 40))
        low = rng.randint(1, len(truth) - size + 1)
        told = KINDS[name].ask(rng, truth, low, low + size - 1)
        if told is not None:
            fields, gold = told
            span = f"entries {low} to {low + size - 1}"
            found.setdefault(span, (fields | {"span": span}, gold))
        if len(found) == n_questions:
            break
    return list(found.values())


def floor_answer(window: Window, task: Task) -> str:
    """Every entry in its order, or any kind, thing or number that the question allows."""
    rng = random.Random(f"floor/{task.id}")
    low, high = map(int, re.findall(r"entries (\d+) to (\d+)", task.question)[-1])
    name = task.meta["kind"]
    if name == "sums":
        return f"total: 0\nlargest: 0\nentry: {rng.randint(low, high)}"
    if name == "wish":
        return rng.choice([thing for group in CATEGORIES.values() for thing in group])
    if name == "rank":
        kinds = sorted({told["kind"] for told in window.facts["truth"]})
        return "\n".join(rng.sample(kinds, len(kinds)))
    if name == "rule":
        trays = sorted({told["tray"] for told in window.facts["truth"]})
        return "\n".join(f"{entry}: {rng.choice(trays)}" for entry in range(low, high + 1))
    return "\n".join(map(str, range(low, high + 1)))
