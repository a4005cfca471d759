"""Whether a training set has seen the evaluation: shared task ids and shared 13-grams of words.

    report = check(rows, {"niah": ((task.id, task.question) for task in tasks)}, allowed=WORDINGS)
    report.told()  # for a JSON file
    report.clean

A gram is GPT-3's (arXiv 2005.14165 App. C): 13 words in a row, where a word is lower-cased, has
whitespace around it and no punctuation. One shared gram marks an evaluation text. Grams of texts
that both sides have by construction, as a closed list of wordings, may be ``allowed``: those do
not mark, and are counted on their own.

Grams of the training set are kept as hashes of 8 bytes (60 to 100 bytes each in a Python set); of
an evaluation set one text is held at a time. With 10^8 grams on each side, the chance that any two
different ones have the same hash is 1 in 2,000.
It does not see: texts of under 13 words (their number is told, as ``short``), a paraphrase, and
what stands in a sub-call's prompt behind the part that a journal keeps.
"""

from __future__ import annotations

import sys
import unicodedata
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from hashlib import blake2b
from itertools import chain
from re import finditer
from typing import Any, NamedTuple

from rlm_executor import Trajectory
from rlm_executor.errors import InputError

GRAM = 13  # words
EXAMPLES = 3  # of each evaluation set, at most


@dataclass(frozen=True)
class TrainingRow:
    """What one run brings into the training set.

    code: the replies, with the code in them.
    prompts: of its sub-calls.
    context: the text that it worked on; None if it is not at hand.
    """

    task_id: str
    question: str
    code: Sequence[str] = ()
    prompts: Sequence[str] = ()
    context: str | None = None


class Overlap(NamedTuple):
    """An evaluation text that shares a gram with the training set, and the first such gram."""

    task_id: str
    gram: str


@dataclass(frozen=True)
class SetReport:
    """One evaluation set against the training set.

    texts: how many there were; ``short`` of them have no gram at all.
    shared_ids: task ids that are in the training set, too.
    overlaps: texts that share a gram which is not allowed, with a few of them as ``examples``.
    allowed_overlaps: texts that share an allowed gram, whether or not another one, too.
    """

    texts: int
    short: int
    shared_ids: tuple[str, ...]
    overlaps: int
    allowed_overlaps: int
    examples: tuple[Overlap, ...]

    @property
    def share(self) -> float:
        """Of the texts, those that share a gram which is not allowed."""
        return self.overlaps / self.texts

    @property
    def clean(self) -> bool:
        """Neither a task nor a gram, beyond those allowed, is shared."""
        return not self.shared_ids and not self.overlaps

    def told(self) -> dict[str, Any]:
        """For JSON."""
        examples = [example._asdict() for example in self.examples]
        own = {**asdict(self), "shared_ids": [*self.shared_ids], "examples": examples}
        return {**own, "share": round(self.share, 4), "clean": self.clean}


@dataclass(frozen=True)
class Contamination:
    """Every evaluation set against one training set.

    contexts: whether the contexts of the training set counted.
    grams: different ones of the training set, those allowed among them.
    allowed_grams: different ones of the allowed texts, whether or not they were met.
    """

    rows: int
    contexts: bool
    grams: int
    allowed_grams: int
    sets: dict[str, SetReport]

    @property
    def clean(self) -> bool:
        """Whether every set is."""
        return all(own.clean for own in self.sets.values())

    def told(self) -> dict[str, Any]:
        """For JSON."""
        sets = {name: own.told() for name, own in self.sets.items()}
        own = {key: getattr(self, key) for key in ("rows", "contexts", "grams", "allowed_grams")}
        return {**own, "words_a_gram": GRAM, "clean": self.clean, "sets": sets}


def row_of(task_id: str, trajectory: Trajectory, context: str | None = None) -> TrainingRow:
    """What a run, and those that it has started, brings into the training set."""
    runs = [*_tree(trajectory)]
    return TrainingRow(
        task_id,
        trajectory.run["question"],
        [turn["reply"] for run in runs for turn in run.turn_rows if "error" not in turn],
        [call["prompt"] for run in runs for call in run.calls],
        context,
    )


def _tree(trajectory: Trajectory) -> Iterator[Trajectory]:
    yield trajectory
    for child in trajectory.children.values():
        yield from _tree(child)


def check(
    rows: Iterable[TrainingRow],
    evaluations: Mapping[str, Iterable[tuple[str, str]]],
    *,
    contexts: bool = False,
    allowed: Collection[str] = (),
) -> Contamination:
    """Look for each evaluation set in the training set.

    Args:
        rows: of the training set; read once.
        evaluations: by name, the task ids with their texts; a task may have several. Read once.
        contexts: whether the contexts of the training set count.
        allowed: texts whose grams do not mark.

    Raises:
        InputError: the training set or an evaluation set is empty, or a context is missing.
    """
    ids: set[str] = set()
    known: set[int] = set()
    count = 0
    for row in rows:
        count += 1
        ids.add(row.task_id)
        known.update(_hash(gram) for text in _texts(row, contexts) for gram in grams(text))
    if not count:
        raise InputError("the training set has no rows: nothing can be looked for in it")
    free = {_hash(gram) for text in allowed for gram in grams(text)}
    sets = {name: _look(name, texts, ids, known, free) for name, texts in evaluations.items()}
    return Contamination(count, contexts, len(known), len(free), sets)


def grams(text: str) -> Iterator[str]:
    """The 13-grams of a text in order, each as its words with a space between them."""
    plain = text.lower().translate(_punctuation())
    last: deque[str] = deque(maxlen=GRAM)
    for word in finditer(r"\S+", plain):  # a list of all words of a long text takes ten times it
        last.append(word[0])
        if len(last) == GRAM:
            yield " ".join(last)


@cache
def _punctuation() -> dict[int, None]:
    """What is deleted: punctuation and symbols of any script, as string.punctuation in ASCII."""
    return {
        code: None
        for code in range(sys.maxunicode + 1)
        if unicodedata.category(chr(code))[0] in "PS"
    }


def _hash(gram: str) -> int:
    """The same in every process, unlike hash()."""
    digest = blake2b(gram.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def _texts(row: TrainingRow, contexts: bool) -> Iterable[str]:
    if contexts and row.context is None:
        raise InputError(f"training row {row.task_id} has no context, but contexts are to count")
    context = [row.context] if contexts and row.context is not None else []
    return chain([row.question], row.code, row.prompts, context)


def _look(
    name: str, texts: Iterable[tuple[str, str]], ids: set[str], known: set[int], free: set[int]
) -> SetReport:
    count = short = overlaps = allowed = 0
    shared: set[str] = set()
    examples: list[Overlap] = []
    for task_id, text in texts:
        count += 1
        shared |= {task_id} & ids
        bad, has_allowed, has_grams = _shared(text, known, free)
        short += not has_grams
        allowed += has_allowed
        overlaps += bool(bad)
        if bad and len(examples) < EXAMPLES:
            examples.append(Overlap(task_id, bad))
    if not count:  # an iterator that was read before would look clean
        raise InputError(f"evaluation set {name} has no texts: give it as a fresh iterable")
    return SetReport(count, short, (*sorted(shared),), overlaps, allowed, (*examples,))


def _shared(text: str, known: set[int], free: set[int]) -> tuple[str, bool, bool]:
    """Its first shared gram that is not allowed, or ""; whether it shares an allowed; has any."""
    bad, has_allowed, has_grams = "", False, False
    for gram in grams(text):
        has_grams = True
        code = _hash(gram)
        if code in known:
            if code in free:
                has_allowed = True
            else:
                bad = bad or gram
        if bad and (has_allowed or not free):
            break
    return bad, has_allowed, has_grams
