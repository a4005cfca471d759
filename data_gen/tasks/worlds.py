"""What the lines of a window tell, and by what their labels are known; no n-gram gives them away.

Two tiers. ``square``: a line tells two latents in two clauses, its label is their cell of a Latin
square with fixed meanings (``squares.py``). ``glossary``: made-up words stand for the labels; the
head of the context says which, other words in each window, so that a label is read and not known.
A third of the held-out worlds use label sets that no training window shows.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass, field

from data_gen.tasks import lexicon
from data_gen.tasks.squares import SETS

UNSEEN_SETS: tuple[str, ...] = ("side", "shift", "season", "chair")
TRAIN_SETS: tuple[str, ...] = tuple(name for name in SETS if name not in UNSEEN_SETS)
GLOSSARY_LABELS: tuple[str, ...] = tuple(
    "alpha beta gamma delta copper iron silver amber ruby jade coral pearl".split()
)
GLOSSARY_LABELS_UNSEEN: tuple[str, ...] = tuple(
    "epsilon sigma omega zinc nickel cobalt topaz opal onyx quartz".split()
)
_ENTRY, _ENTRY_HELD_OUT = "{label}: {words}", "{words} stands for {label}"


@dataclass
class World:
    """Labels, how a context explains them, and the texts that imply each.

    Args:
        name: of the label set, or ``glossary``.
        labels: between 2 and 7 of them.
        glossary: lines for the head of the context; empty where meanings are fixed.
        seen: whether training windows show the label set.
    """

    name: str
    labels: tuple[str, ...]
    glossary: str
    seen: bool
    held_out: bool
    terms: tuple[tuple[str, ...], ...] = ()
    _cells: dict[str, Iterator[tuple[int, int]]] = field(default_factory=dict)

    def text(self, rng: random.Random, label: str) -> str:
        """A line of ``label``; its cells of the square come equally often."""
        name = rng.choice(lexicon.NAMES_HELD_OUT if self.held_out else lexicon.NAMES)
        if self.terms:
            frames = lexicon.FRAMES_HELD_OUT if self.held_out else lexicon.FRAMES
            thing = rng.choice(self.terms[self.labels.index(label)])
            return rng.choice(frames).format(name=name, thing=thing)
        made = SETS[self.name]
        if label not in self._cells:
            cells = [
                (first, second)
                for first, second in itertools.product(range(len(made.labels)), repeat=2)
                if made.label(first, second) == label
            ]
            self._cells[label] = _shuffled_cycles(rng, cells)
        first, second = next(self._cells[label])
        return made.line(rng, first, second, name, held_out=self.held_out)


def _shuffled_cycles(rng: random.Random, cells: list[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    while True:
        yield from rng.sample(cells, len(cells))


def draw_world(rng: random.Random, held_out: bool) -> World:
    """A world of the training split, or of the other."""
    if rng.random() < 0.6:
        unseen = held_out and rng.random() < 1 / 3
        name = rng.choice(UNSEEN_SETS if unseen else TRAIN_SETS)
        return World(name, SETS[name].labels, "", not unseen, held_out)
    unseen = held_out  # its words are new in any case, its labels too
    pool = GLOSSARY_LABELS_UNSEEN if unseen else GLOSSARY_LABELS
    labels = tuple(rng.sample(pool, rng.randint(3, 6)))
    make = lexicon.nonce_held_out if held_out else lexicon.nonce
    words: dict[str, None] = {}
    while len(words) < 2 * len(labels):
        words[make(rng)] = None
    terms = _pairs(list(words))
    entry = _ENTRY_HELD_OUT if held_out else _ENTRY
    entries = [
        entry.format(label=label, words=", ".join(own))
        for label, own in zip(labels, terms, strict=True)
    ]
    return World("glossary", labels, "\n".join(entries), not unseen, held_out, terms)


def _pairs(words: list[str]) -> tuple[tuple[str, ...], ...]:
    return tuple((words[i], words[i + 1]) for i in range(0, len(words), 2))
