"""The label skill: one label for each line, by fixed meanings or by a glossary in the prompt.

Four kinds of label sets: ``things`` (a line names a thing, its label is the category), ``squares``
(a line tells two latents, its label is their cell; ``data_gen/tasks/squares.py``), ``glossary``
(the prompt says which new words stand for which label) and ``renamed`` (a square, of which the
prompt gives new words for one latent). The answer is the labels alone, one a line.
"""

from __future__ import annotations

import random
import string
from collections.abc import Sequence

from data_gen.tasks import lexicon
from data_gen.tasks.squares import SETS, LabelSet
from scripts.tiny_base.skills import Case
from scripts.tiny_base.words import Words

KINDS = ("things", "squares", "glossary", "renamed")
_LABELS = tuple(
    "A B C D E F G H one two three four five six red blue green white black gold good bad new old "
    "up down left right open shut fast slow first second third last sun moon star rain".split()
)
_PROMPTS = (
    *lexicon.LABEL_PROMPTS,
    "Labels: {labels}. Write the label of each line, one a line.",
    "Give each line one of the labels {labels}, one a line.",
)
_PROMPTS_HELD_OUT = (
    "Write one of the labels {labels} for each line, one a line.",
    "The labels are: {labels}. Give the label of every line, one label a line.",
)
_GLOSSARY = ("{label}: {words}", "{label} = {words}", "{words} -> {label}", "{words}: {label}",
             "{words} means {label}", "{label} ({words})", "{words} is {label}")  # fmt: skip
_GLOSSARY_HELD_OUT = ("{words} => {label}", "{label} - {words}", "{words} stands for {label}")


def label(rng: random.Random, words: Words, kind: str, most: int, least: int = 1) -> Case:
    """A case of ``least`` to ``most`` lines of one of ``KINDS``."""
    count = rng.randint(least, most)
    glossary = ""
    if kind == "things":
        labels, pairs = _things(rng, words, count)
    elif kind == "glossary":
        labels, glossary, pairs = _glossary(rng, words, count)
    else:
        labels, glossary, pairs = _square(rng, words, count, renamed=kind == "renamed")
    ask = rng.choice(words.of(_PROMPTS, _PROMPTS_HELD_OUT)).format(labels=", ".join(labels))
    lines = words.bullets(rng, [line for line, _, _ in pairs])
    answer = "\n".join(label for _, _, label in pairs)
    about = (tuple((line, word) for line, word, _ in pairs),)
    given = f"{glossary}\n\n{lines}" if glossary else lines
    if rng.random() < 1 - 0.3 * words.breadth:  # as data_gen/expert.py asks
        head = f"{ask}\n\n{given}" if rng.random() < 0.5 or not glossary else (
            f"{glossary}\n\n{ask}\n\n{lines}")  # fmt: skip
        return Case(head, [("", answer)], about)
    return Case(given, [(ask, answer)], about)


def _things(rng: random.Random, words: Words, count: int) -> tuple[list[str], list]:
    labels = rng.sample(sorted(lexicon.CATEGORIES), rng.randint(3, 8))
    pairs = []
    frames = words.of(lexicon.FRAMES, lexicon.FRAMES_HELD_OUT)
    bare = rng.random() < 0.15
    for _ in range(count):
        label = rng.choice(labels)
        thing = rng.choice(lexicon.CATEGORIES[label])
        line = thing if bare else rng.choice(frames).format(name=words.name(rng), thing=thing)
        pairs.append((line, thing, label))
    return labels, pairs


def _glossary(rng: random.Random, words: Words, count: int) -> tuple[list[str], str, list]:
    labels = _new_labels(rng, words, rng.randint(2, 6))
    terms = _terms(rng, words, len(labels))
    frames = words.of(lexicon.FRAMES, lexicon.FRAMES_HELD_OUT)
    pairs = []
    for _ in range(count):
        index = rng.randrange(len(labels))
        thing = rng.choice(terms[index])
        line = rng.choice(frames).format(name=words.name(rng), thing=thing)
        pairs.append((line, thing, labels[index]))
    return labels, _explain(rng, words, labels, terms), pairs


def _square(
    rng: random.Random, words: Words, count: int, *, renamed: bool
) -> tuple[list[str], str, list]:
    names = [name for name, made in SETS.items() if not renamed or len(made.labels) <= 5]
    made = SETS[rng.choice(names)]
    glossary, new_words = "", (None, None)
    if renamed:
        values = made.first
        terms = _terms(rng, words, len(values), most=1)
        new_words = (terms, None)
        glossary = _explain(rng, words, [value[0] for value in values], terms)
    pairs = [_square_line(rng, words, made, new_words) for _ in range(count)]
    labels = list(made.labels)
    rng.shuffle(labels)
    return labels, glossary, pairs


def _square_line(
    rng: random.Random, words: Words, made: LabelSet, new_words: tuple
) -> tuple[str, str, str]:
    first, second = rng.randrange(len(made.first)), rng.randrange(len(made.second))
    line = made.line(
        rng, first, second, words.name(rng), held_out=words.held_out, new_words=new_words
    )
    return line, line, made.label(first, second)


def _new_labels(rng: random.Random, words: Words, count: int) -> list[str]:
    if rng.random() < 0.3:
        return list(dict.fromkeys(words.nonce(rng) for _ in range(count)))
    if rng.random() < 0.3:
        return list(string.ascii_uppercase[:count])
    return rng.sample(_LABELS, count)


def _terms(rng: random.Random, words: Words, count: int, most: int = 3) -> list[list[str]]:
    """New words for each of ``count`` values, no word twice."""
    taken: set[str] = set()
    terms: list[list[str]] = []
    for _ in range(count):
        own: list[str] = []
        for _ in range(rng.randint(1, most)):
            while (word := words.nonce(rng)) in taken:
                pass
            taken.add(word)
            own.append(word)
        terms.append(own)
    return terms


def _explain(
    rng: random.Random, words: Words, labels: Sequence[str], terms: Sequence[Sequence[str]]
) -> str:
    entry = rng.choice(words.of(_GLOSSARY, _GLOSSARY_HELD_OUT))
    entries = [
        entry.format(label=label, words=", ".join(own))
        for label, own in zip(labels, terms, strict=True)
    ]
    rng.shuffle(entries)
    return "\n".join(entries)
