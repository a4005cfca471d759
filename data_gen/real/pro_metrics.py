"""LongBench-Pro's metrics, each in [0, 1]: pure functions of the gold lines and the answer text.

Rules after caskcsg/longcontext (LongBench-Pro/modules/utils.py), in our own code. An answer is
what follows its last "[Answer]" (where there is none, its last "[答案]"), lower-cased, one item a
line, runs of spaces made one; blank lines inside count as items, as in the official code. An item
that is repeated stands where it stands last.

Official quirks that are kept: pairwise accuracy divides by the pairs of the *answer*, so extra
lines cost; it is 0 for a gold of one item. Ours: it is capped at 1, which only a gold with repeated
items can reach. A summary is read whole, without the search for "[Answer]".
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Sequence

from data_gen.real.scoring import Embed

_MARKS = ("[Answer]", "[答案]")


def answer_lines(text: str) -> list[str]:
    """Normalised items of an answer; an empty answer is one empty item."""
    for mark in _MARKS:
        if mark in text:
            text = text.rpartition(mark)[2]
            break
    return [_clean(line) for line in text.strip().split("\n")]


def ndcg(gold: list[str], answer: str) -> float:
    """NDCG at len(gold); of n gold items the first has relevance n, the last 1."""
    relevance = {item: len(gold) - at for at, item in enumerate(map(_clean, gold))}
    last = {item: at for at, item in enumerate(answer_lines(answer))}
    ranked = sorted(last, key=last.__getitem__)
    ideal = _gain(sorted(relevance.values(), reverse=True))
    return _gain([relevance.get(item, 0) for item in ranked[: len(gold)]]) / ideal if ideal else 0.0


def pairwise_accuracy(gold: list[str], answer: str) -> float:
    """Gold pairs in the right order in the answer, over all pairs of lines of the answer."""
    lines = answer_lines(answer)
    if len(gold) < 2 or len(lines) < 2:
        return 0.0
    last = {item: at for at, item in enumerate(lines)}
    right = sum(
        first in last and second in last and last[first] < last[second]
        for first, second in itertools.combinations(map(_clean, gold), 2)
    )
    return min(1.0, right / math.comb(len(lines), 2))


def accuracy(gold: list[str], answer: str) -> float:
    """1 if the answer's first line is the first gold item."""
    return float(bool(gold) and answer_lines(answer)[0] == _clean(gold[0]))


def set_f1(gold: list[str], answer: str) -> float:
    """F1 between the sets of gold items and answer lines."""
    wanted, found = set(map(_clean, gold)), set(answer_lines(answer))
    return 2 * len(wanted & found) / (len(wanted) + len(found))


def sub_em(gold: list[str], answer: str) -> float:
    """Share of gold items that are lines of the answer."""
    found = set(answer_lines(answer))
    return sum(item in found for item in map(_clean, gold)) / len(gold) if gold else 0.0


def rouge_l(gold: str, answer: str) -> float:
    """F1 of the longest common subsequence of words (split at spaces).

    The official code takes it from the package `rouge`, which joins subsequences by sentence, so
    its values differ a little; how much was not measured.
    """
    wanted, found = gold.split(), answer.split()
    row = [0] * (len(found) + 1)
    for word in wanted:
        before = row[:]
        for at, other in enumerate(found):
            row[at + 1] = before[at] + 1 if word == other else max(row[at], before[at + 1])
    return 2 * row[-1] / (len(wanted) + len(found)) if row[-1] else 0.0


def summary(gold: list[str], answer: str, embed: Embed) -> float:
    """Half the best cosine, half the best ROUGE-L, over the reference summaries.

    The official embedding model is Qwen3-Embedding-8B; a score by another one does not compare.
    """
    references, text = list(map(_clean, gold)), _clean(answer)
    if not references or not text:
        return 0.0
    *theirs, ours = embed([*references, text])
    cosine = max(_cosine(vector, ours) for vector in theirs)
    overlap = max(rouge_l(reference, text) for reference in references)
    return 0.5 * min(1.0, max(0.0, cosine)) + 0.5 * overlap


# Secondary task, or the whole family, -> metric. T4 (summaries) is scored by ``summary``.
BY_TASK: dict[str, Callable[[list[str], str], float]] = {
    "T1": ndcg,
    "T2": pairwise_accuracy,
    "T3": accuracy,
    "T5": set_f1,
    "T6.1": sub_em,
    "T6.2": set_f1,
    "T6.3": pairwise_accuracy,
    "T7": set_f1,
    "T8": sub_em,
    "T9": set_f1,
    "T10": sub_em,
    "T11": accuracy,
}
SUMMARY = "T4"


def metric_name(secondary_task: str) -> str | None:
    """Name of the metric of a secondary task ("T6.2 Targeted ..."); None: no such task."""
    match = re.match(r"(T\d+)\.\d+", secondary_task)
    if match is None:
        return None
    if match[1] == SUMMARY:
        return "summary"
    metric = BY_TASK.get(match[1]) or BY_TASK.get(match[0])
    return metric.__name__ if metric else None


BY_NAME = {metric.__name__: metric for metric in BY_TASK.values()}


def _clean(text: str) -> str:
    return " ".join(text.lower().split())


def _gain(relevances: list[int]) -> float:
    return sum(value / math.log2(at + 2) for at, value in enumerate(relevances))


def _cosine(first: Sequence[float], second: Sequence[float]) -> float:
    size = math.hypot(*first) * math.hypot(*second)
    return sum(x * y for x, y in zip(first, second, strict=True)) / size if size else 0.0
