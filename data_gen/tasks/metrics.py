"""Scores of the families, each in [0, 1]; pure functions of gold and answer text.

``string_match_all``: RULER's (share of gold values that occur in the answer, case-insensitive).
``oolong``: OOLONG's strict rule (equal text; numbers 0.75^|difference|).
``pairs_f1``: OOLONG-Pairs' F1 over the set of unordered pairs in the answer.
"""

from __future__ import annotations

import re

_PAIR = re.compile(r"\(\s*(\d+)\s*,\s*(\d+)\s*\)")


def string_match_all(gold: list[str], answer: str) -> float:
    """Mean over gold values of: it occurs in the answer."""
    text = answer.lower()
    return sum(value.lower() in text for value in gold) / len(gold)


def oolong(gold: str, answer: str) -> float:
    """1 for the same text after trimming; for a number 0.75 to the power of the error."""
    text = answer.strip().rstrip(".").strip()
    if ":" in text:
        text = text.rsplit(":", 1)[1].strip()
    if text.lower() == gold.lower():
        return 1.0
    # A user's number is a name: only counts (short gold numbers) earn partial credit.
    if gold.isdigit() and text.isdigit() and len(text) <= 9:
        return 0.75 ** abs(int(gold) - int(text))
    return 0.0


def pairs_f1(gold: list[str], answer: str) -> float:
    """F1 of the pairs in ``answer`` against ``gold``; both empty is 1."""
    wanted = {_pair(text) for text in gold}
    found = {tuple(sorted(match)) for match in _PAIR.findall(answer)}
    if not wanted and not found:
        return 1.0
    hits = len(wanted & found)
    return 2 * hits / (len(wanted) + len(found))


def _pair(text: str) -> tuple[str, ...]:
    match = _PAIR.fullmatch(text)
    assert match is not None, text
    return tuple(sorted(match.groups()))
