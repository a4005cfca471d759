"""What the samples of the tiny base are made of: words, names, marks, wordings, in two splits.

``Words(held_out=False)`` is for training, ``Words(held_out=True)`` for measuring: made-up words of
other syllables, other names, marks, layouts, and wordings that join known words anew (a model
from random weights cannot know a word that it never read). Digits and letters are common to both.
"""

from __future__ import annotations

import random
import string
from collections.abc import Sequence
from dataclasses import dataclass

from data_gen.tasks import lexicon

# Between a key and its value.
MARKS: tuple[str, ...] = (
    ": ", " = ", " -> ", " is ", ", ", " | ", "\t", " - ", " => ", ";", "=", " :: ", "/", " has ",
    ":", " . ", " >> ", " stands for ", " (", " ~ ", " means ",
)  # fmt: skip
MARKS_HELD_OUT: tuple[str, ...] = (" := ", " --> ", " || ", " + ", " gives ", "; ", " <- ", " # ")
# Between the parts of a row, or the words of a list.
GAPS: tuple[str, ...] = (", ", " | ", "; ", "\t", " || ", " / ", " - ", ",", " :: ", " ~ ")
GAPS_HELD_OUT: tuple[str, ...] = (" ; ", " // ", " || | ", " + ", "|", " -- ")
# Around a passage.
FENCES: tuple[tuple[str, str], ...] = (
    ("<<", ">>"), ("[", "]"), ("{", "}"), ("'", "'"), ("(", ")"), ("=== ", " ==="), ("* ", " *"),
    ("<text>", "</text>"), ("begin ", " end"), ("# ", " #"),
)  # fmt: skip
FENCES_HELD_OUT: tuple[tuple[str, str], ...] = (
    ("<<<", ">>>"), ("[[", "]]"), ("<part>", "</part>"), ("--- ", " ---"), ("start ", " stop"),
)  # fmt: skip
# In front of the lines of a list; {} is the number.
BULLETS: tuple[str, ...] = ("", "", "", "{}. ", "- ", "[{}] ", "{}: ", "* ", "line {}: ", "{} ")
BULLETS_HELD_OUT: tuple[str, ...] = ("", "{}) ", "+ ", "({}) ", "#{} ")


@dataclass
class Words:
    """One of the two splits; ``breadth`` in [0, 1] says how much of the lists there is so far.

    What is asked in one way first is learned sooner, and the other ways then come quickly.
    """

    held_out: bool = False
    breadth: float = 1.0

    def of(self, train: Sequence, held_out: Sequence) -> Sequence:
        """The list of this split, or its beginning."""
        if self.held_out:
            return held_out
        return train[: 2 + int(self.breadth * (len(train) - 2) + 0.5)]

    def name(self, rng: random.Random) -> str:
        """A first name."""
        return rng.choice(self.of(lexicon.NAMES, lexicon.NAMES_HELD_OUT))

    def nonce(self, rng: random.Random) -> str:
        """A made-up word: open syllables in training, closed ones with clusters held out."""
        return lexicon.nonce_held_out(rng) if self.held_out else lexicon.nonce(rng)

    def mark(self, rng: random.Random) -> str:
        """What stands between key and value; in training often marks drawn at random."""
        if not self.held_out and rng.random() < 0.3 * self.breadth:
            pad = rng.choice(("", " ", " "))
            return pad + "".join(rng.choices(":=->|~#*/.;,+<", k=rng.randint(1, 3))) + pad
        return rng.choice(self.of(MARKS, MARKS_HELD_OUT))

    def gap(self, rng: random.Random) -> str:
        """What stands between the parts of a row; in training often drawn at random."""
        if not self.held_out and rng.random() < 0.2 * self.breadth:
            return " " + "".join(rng.choices(":=->|~#*/.;+", k=rng.randint(1, 2))) + " "
        return rng.choice(self.of(GAPS, GAPS_HELD_OUT))

    def fence(self, rng: random.Random) -> tuple[str, str]:
        """What stands around a passage."""
        return rng.choice(self.of(FENCES, FENCES_HELD_OUT))

    def bullets(self, rng: random.Random, lines: Sequence[str]) -> str:
        """``lines`` under each other, perhaps numbered."""
        bullet = rng.choice(self.of(BULLETS, BULLETS_HELD_OUT))
        return "\n".join(bullet.format(i) + line for i, line in enumerate(lines, 1))

    def number(self, rng: random.Random) -> str:
        """Of one to seven digits."""
        return str(rng.randrange(10 ** rng.randint(1, 7)))

    def date(self, rng: random.Random) -> str:
        """A day, in one of three spellings (the same three in both splits)."""
        month, day, year = rng.randrange(12), rng.randint(1, 28), rng.randint(2019, 2026)
        kind = rng.randrange(3)
        if kind == 0:
            return f"{lexicon.MONTHS[month]} {day}, {year}"
        return f"{year}-{month + 1:02}-{day:02}" if kind == 1 else f"{day}.{month + 1}.{year}"

    def code(self, rng: random.Random) -> str:
        """Letters and digits in any order."""
        return "".join(rng.choices(string.ascii_lowercase + string.digits, k=rng.randint(3, 8)))

    def compound(self, rng: random.Random) -> str:
        """Adjective and noun, as the keys of ``niah`` are."""
        return (
            rng.choice(self.of(lexicon.NEEDLE_ADJECTIVES_TRAIN, lexicon.NEEDLE_ADJECTIVES_TEST))
            + "-"
            + rng.choice(self.of(lexicon.NEEDLE_NOUNS_TRAIN, lexicon.NEEDLE_NOUNS_TEST))
        )

    def token(self, rng: random.Random) -> str:
        """Something that tasks need copied: a made-up word, a name, a number, a compound."""
        kind = rng.random() * (0.5 + 0.5 * self.breadth)
        if kind < 0.32:
            return self.nonce(rng)
        if kind < 0.5:
            return self.number(rng)
        if kind < 0.62:
            return self.nonce(rng) + rng.choice("-_. ") + self.nonce(rng)
        if kind < 0.72:
            return self.compound(rng)
        if kind < 0.8:
            return self.code(rng)
        if kind < 0.84:
            return self.date(rng)
        if kind < 0.9:
            return self.name(rng)
        return rng.choice(rng.choice(list(lexicon.CATEGORIES.values())))
