"""OOLONG-Pairs (arXiv 2512.24601, App. D.1): list all pairs of users that meet a predicate.

Hub: mit-oasys/oolong-pairs, data/oolong-pairs-{length}.json for 2^10 to 2^20 tokens, 20 questions a
length; licence not found. It holds no text: the gold is about one trec_coarse window of that length
in the validation split of oolong-synth (``WINDOWS``; the ids at 1,024 and 32,768 were checked by
others, the rest and the revision of oolong-synth they belong to were not). So at loading
the gold is made again from the window's labels (``pairs_gold.py``), and for each question the pairs
in which they disagree are counted: ``notes`` and ``meta["gold_disagreements"]``. More than a
handful means another window than the gold's.

Score: F1 over unordered pairs; the floor is what printing every pair scores, 2p/(1+p) for a share p
of all pairs: 0.199 on average at 32,768, above several published results. One window a length, so
nothing can be said about other windows.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import field_validator

from data_gen.real import oolong_synth, pairs_gold, source
from data_gen.real.rows import Origin, Row, expect_count, rows, scan
from data_gen.real.scoring import Hooks, Score
from data_gen.tasks.task import Task, Window
from rlm_executor.errors import InputError

FAMILY = "oolong-pairs"
DATASET = "trec_coarse"
# Length in tokens -> context_window_id in oolong-synth validation.
WINDOWS = {
    1_024: 0,
    2_048: 3,
    4_096: 8,
    8_192: 9,
    16_384: 12,
    32_768: 0,
    65_536: 3,
    131_072: 8,
    262_144: 9,
    524_288: 12,
    1_048_576: 16,
}
_READ = ("id", "question", "answer")
_BRACKETED = re.compile(r"\((\d+)\s*,\s*(\d+)\)")
_BARE = re.compile(r"(\d+)\s*,\s*(\d+)")


class OolongPairsConfig(source.RealConfig):
    """Which length, and where the windows are."""

    revision: str = "d1e1522b86ac0c169bbc890b0471408aaa29e8fa"
    length: int = 32_768  # tokens
    windows_path: Path | None = None  # of oolong-synth's validation split; None: from the Hub
    windows_revision: str = oolong_synth.REVISION
    rows: int = 20

    @field_validator("length")
    @classmethod
    def _known(cls, value: int) -> int:
        if value not in WINDOWS:
            raise ValueError(f"give one of {', '.join(map(str, WINDOWS))}")
        return value


def origin(length: int) -> Origin:
    """The file of one length."""
    return Origin(
        repo="mit-oasys/oolong-pairs",
        files=(f"data/oolong-pairs-{length}.json",),
        columns={"id": "text or integer", "question": "text", "answer": "list of texts"},
    )


def load(config: OolongPairsConfig) -> source.RealSet:
    """The one window of the length with its questions.

    Raises:
        InputError: a file can't be had, or is not what the pinned revision holds.
    """
    files = source.find(origin(config.length), config.path, config.revision)
    found = scan(files, _READ, lambda row: True, config.limit)
    expect_count(files, f"rows at {config.length:,} tokens", found.rows, config.rows)
    windows_from = source.find(
        oolong_synth.origin("validation"),
        config.windows_path,
        config.windows_revision,
        field="windows_path",
    )
    number = WINDOWS[config.length]
    text, labelled = oolong_synth.labelled_window(windows_from, DATASET, config.length, number)
    members = [row for _, row in rows(files, _READ, set(found.chosen))]
    wrong = check_gold(members, labelled)
    told = f"{files.source}, windows of {windows_from.source}"
    digest = source.joined_hash(found.sha256, text, labelled)
    tasks = _tasks(config.length, members, text, wrong, f"{told} sha256:{digest}")

    def windows() -> Iterator[Window]:
        yield source.text_window(FAMILY, str(config.length), text, tasks)

    notes = {"pairs in which gold and labels disagree": sum(wrong.values())}
    return source.RealSet(FAMILY, told, found.rows, digest, windows, notes)


def score(task: Task, answer: str, hooks: Hooks) -> Score:
    """F1 of the answer's pairs, with precision, recall and the floor beside it."""
    gold, found = pairs_in("\n".join(task.answer)), pairs_in(answer)
    hits = len(gold & found)
    parts = {
        "pairs_f1": f1(gold, found),
        "precision": hits / len(found) if found else float(not gold),
        "recall": hits / len(gold) if gold else 1.0,
        "floor_every_pair": task.meta["floor"],
    }
    return Score.of(task.metric, parts)


def pairs_in(text: str) -> set[pairs_gold.Pair]:
    """Unordered pairs of numbers in brackets; only where there are none, those without."""
    found = _BRACKETED.findall(text) or _BARE.findall(text)
    return {(min(a, b), max(a, b)) for a, b in (map(int, pair) for pair in found)}


def f1(gold: set[pairs_gold.Pair], found: set[pairs_gold.Pair]) -> float:
    """F1 of two sets of pairs; both empty is 1."""
    if not gold and not found:
        return 1.0
    return 2 * len(gold & found) / (len(gold) + len(found))


def floor(gold_pairs: int, users: int) -> float:
    """What printing every pair of ``users`` scores: 2p/(1+p), p the share that is gold."""
    share = gold_pairs / math.comb(users, 2) if users > 1 else 0.0
    return 2 * share / (1 + share)


def check_gold(members: list[Row], labelled: str) -> dict[str, int]:
    """Question id -> pairs in which its gold and the window's labels disagree.

    Raises:
        InputError: an id that is not 1 to 20, or a window without its labels.
    """
    try:
        users = pairs_gold.labelled_users(labelled)
    except ValueError as error:
        raise InputError(f"the labelled window can't be read: {error}") from error
    if not users:
        raise InputError("the labelled window has no line `Date: ... || User: ... || Label: ...`")
    known = {str(number): number for number in (*pairs_gold.BOTH, *pairs_gold.EITHER)}
    wrong = {}
    for row in members:
        name = str(row["id"])
        if name not in known:
            raise InputError(f"question {name!r} of OOLONG-Pairs is unknown; expected 1 to 20")
        wanted = pairs_gold.sides(known[name], users)
        wrong[name] = pairs_gold.disagreements(pairs_in("\n".join(row["answer"])), wanted)
    return wrong


def _tasks(
    length: int, members: list[Row], text: str, wrong: dict[str, int], data: str
) -> list[Task]:
    users = len(pairs_gold.users_in(text))

    def meta(row: Row) -> dict[str, Any]:
        gold = pairs_in("\n".join(row["answer"]))
        return {
            "kind": f"pairs {row['id']}",
            "bucket": length,
            "users": users,
            "floor": floor(len(gold), users),
            "gold_disagreements": wrong[str(row["id"])],
            "row": row["id"],
            "data": data,
        }

    return [
        Task(
            id=source.task_id(FAMILY, length, row["id"]),
            family=FAMILY,
            question=row["question"],
            answer=row["answer"],
            metric="pairs_f1",
            meta=meta(row),
        )
        for row in members
    ]
