"""What the samples of the tiny base are made of: words, names, marks, wordings, in two splits.

``Words(held_out=False)`` is for training, ``Words(held_out=True)`` for measuring: made-up words of
other syllables, other names, marks, layouts, and wordings that join known words anew (a model
from random weights cannot know a word that it never read). Digits and letters are common to both.

Lists are learned by heart. So training also draws what no list holds: words of the corpus, letters,
marks and sentences at random.
"""

from __future__ import annotations

import random
import re
import string
from collections.abc import Sequence
from dataclasses import dataclass

from data_gen.tasks import lexicon
from data_gen.tasks.squares import SETS

# Between a key and its value.
MARKS: tuple[str, ...] = (
    ": ", " = ", " -> ", " is ", ", ", " | ", "\t", " - ", " => ", ";", "=", " :: ", "/", " has ",
    ":", " . ", " >> ", " stands for ", " (", " ~ ", " means ",
)  # fmt: skip
# Held out are also marks that training does not draw at random: those have none of &@%^!$?.
MARKS_HELD_OUT: tuple[str, ...] = (" @ ", " &: ", " %% ", "!= ", " gives ", " ^ ", " $ ", " ?> ")
# Between the parts of a row, or the words of a list.
GAPS: tuple[str, ...] = (", ", " | ", "; ", "\t", " || ", " / ", " - ", ",", " :: ", " ~ ")
GAPS_HELD_OUT: tuple[str, ...] = (" & ", " !! ", " || | ", " %, ", "|", " -^- ")
# Around a passage.
FENCES: tuple[tuple[str, str], ...] = (
    ("<<", ">>"), ("[", "]"), ("{", "}"), ("'", "'"), ("(", ")"), ("=== ", " ==="), ("* ", " *"),
    ("<text>", "</text>"), ("begin ", " end"), ("# ", " #"),
)  # fmt: skip
FENCES_HELD_OUT: tuple[tuple[str, str], ...] = (
    ("<@", "@>"), ("[$", "$]"), ("<part>", "</part>"), ("%-- ", " --%"), ("start ", " stop"),
)  # fmt: skip
# In front of the lines of a list; {} is the number.
BULLETS: tuple[str, ...] = ("", "", "", "{}. ", "- ", "[{}] ", "{}: ", "* ", "line {}: ", "{} ")
BULLETS_HELD_OUT: tuple[str, ...] = ("", "{}) ", "+ ", "({}) ", "#{} ")


def corpus_words(source: Sequence[str]) -> list[str]:
    """The words of ``source`` in small letters, but those that decide a label or are held out."""
    taken = {word for words in lexicon.CATEGORIES.values() for word in words}
    taken |= set(lexicon.CATEGORIES)
    for made in SETS.values():
        taken |= {
            word for latent in (made.first, made.second) for words in latent for word in words
        }
        taken |= set(made.labels)
    for held_out in (
        lexicon.NAMES_HELD_OUT, lexicon.NEEDLE_ADJECTIVES_TEST, lexicon.NEEDLE_NOUNS_TEST,
    ):  # fmt: skip
        taken |= {word.lower() for word in held_out}
    found = {word.lower() for text in source for word in re.findall("[A-Za-z]{2,12}", text)}
    return sorted(found - taken)


@dataclass
class Words:
    """One of the two splits; ``breadth`` in [0, 1] says how much of the lists there is so far.

    What is asked in one way first is learned sooner, and the other ways then come quickly.
    """

    held_out: bool = False
    breadth: float = 1.0
    corpus: Sequence[str] = ()

    def at_random(self, rng: random.Random, share: float) -> bool:
        """Whether this one is drawn at random, as ``share`` of them are in training in the end."""
        return not self.held_out and bool(self.corpus) and rng.random() < share * self.breadth

    def any_word(self, rng: random.Random) -> str:
        """A word of the corpus, or letters."""
        if rng.random() < 0.6:
            return rng.choice(self.corpus)
        return "".join(rng.choices(string.ascii_lowercase, k=rng.randint(2, 9)))

    def strew(self, rng: random.Random, *parts: str, least: int = 0, most: int = 6) -> str:
        """``parts`` in this order among random words, ``least`` to ``most`` between them."""
        words = []
        for index, part in enumerate((*parts, "")):
            count = rng.randint(least if 0 < index < len(parts) else 0, most)
            words += [rng.choice(self.corpus) for _ in range(count)] + [part]
        return " ".join(word for word in words if word)

    def of(self, train: Sequence, held_out: Sequence) -> Sequence:
        """The list of this split, or its beginning."""
        if self.held_out:
            return held_out
        return train[: 2 + int(self.breadth * (len(train) - 2) + 0.5)]

    def name(self, rng: random.Random) -> str:
        """A first name."""
        if self.at_random(rng, 0.4):
            return self.any_word(rng).capitalize()
        return rng.choice(self.of(lexicon.NAMES, lexicon.NAMES_HELD_OUT))

    def nonce(self, rng: random.Random) -> str:
        """A made-up word: open syllables in training, closed ones with clusters held out."""
        if self.at_random(rng, 0.5):
            return self.any_word(rng)
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
        if self.at_random(rng, 0.3):
            mark = "".join(rng.choices("<[{(=*#~-|'", k=rng.randint(1, 3)))
            pad = rng.choice(("", " "))
            return mark + pad, pad + mark.translate(str.maketrans("<[{(", ">]})"))[::-1]
        return rng.choice(self.of(FENCES, FENCES_HELD_OUT))

    def bullets(self, rng: random.Random, lines: Sequence[str]) -> str:
        """``lines`` under each other, perhaps numbered."""
        bullet = rng.choice(self.of(BULLETS, BULLETS_HELD_OUT))
        if self.at_random(rng, 0.2):
            bullet = rng.choice(("", "{}")) + "".join(rng.choices("#)-.:*|>", k=2)) + " "
        return "\n".join(bullet.format(i) + line for i, line in enumerate(lines, 1))

    def telling(self, rng: random.Random, thing: str) -> str:
        """A line about a thing and, mostly, a name."""
        name = self.name(rng)
        if self.at_random(rng, 0.5):
            parts = [thing, *([name] if rng.random() < 0.8 else [])]
            return self.strew(rng, *rng.sample(parts, len(parts)))
        frames = self.of(lexicon.FRAMES, lexicon.FRAMES_HELD_OUT)
        return str(rng.choice(frames)).format(name=name, thing=thing)

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
        if self.at_random(rng, 0.4):
            return f"{self.any_word(rng)}-{self.any_word(rng)}"
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


def numbers_to_compare(rng: random.Random, count: int, most: int = 5) -> list[int]:
    """Different numbers of up to ``most`` digits, often of one length and with a common start."""
    digits = rng.randint(1, most)
    while True:
        if rng.random() < 0.3:
            numbers = {rng.randrange(10 ** rng.randint(1, most)) for _ in range(count)}
        else:
            low = 10 ** (digits - 1) if digits > 1 else 0
            start = rng.randrange(low, 10**digits)
            near = 10 ** rng.randint(1, digits)
            numbers = {max(0, start // near * near + rng.randrange(near)) for _ in range(count)}
        if len(numbers) == count:
            shuffled = list(numbers)
            rng.shuffle(shuffled)
            return shuffled


def nearly(rng: random.Random, word: str) -> str:
    """``word`` with one of its characters changed."""
    place = rng.randrange(len(word))
    return word[:place] + rng.choice("abcdefghijklmnopqrstuvwxyz0123456789") + word[place + 1 :]
