"""Scripted experts: programs that solve the synthetic families turn by turn in the real REPL.

An expert's module has two functions. ``next_turn(question, seen, style)`` gives the next reply
from the question and the outputs of the cells so far, as a model would, or None if the question
is of another family; ``leaf(prompt)`` answers the sub-calls that it sends, or None for others'.
"""

from __future__ import annotations

from collections.abc import Sequence

from data_gen.experts import codeqa, deep, hops, labelled, pro, ruler, straddle
from data_gen.experts.style import Style

__all__ = ["EXPERTS", "Style", "leaf", "next_turn"]

EXPERTS = {
    "hops": hops,
    "codeqa": codeqa,
    "pro": pro,
    "straddle": straddle,
    "ruler": ruler,
    "oolong_full": labelled,
    "pairs_full": labelled,
    "deep": deep,
}
_SAME_WORDS = ("ruler",)  # its questions are those of `niah`, too


def next_turn(question: str, seen: Sequence[str], style: Style, family: str = "") -> str | None:
    """The reply of the family's expert, or of whichever knows the question; None: none does."""
    for name, expert in EXPERTS.items():
        if name == family or (not family and name not in _SAME_WORDS):
            reply = expert.next_turn(question, seen, style)
            if reply is not None:
                return reply
    return None


def leaf(prompt: str) -> str | None:
    """The reply of whichever expert has asked this; None: none has."""
    for expert in EXPERTS.values():
        reply = expert.leaf(prompt)
        if reply is not None:
            return reply
    return None
