"""The label skill: one label for each line, by fixed meanings or by a glossary in the prompt.

Three kinds of label sets: ``things`` (a line names a thing, its label is the category), ``squares``
(a line tells two latents, its label is their cell; ``data_gen/tasks/squares.py``) and ``glossary``
(the prompt says which new words stand for which label). The answer is the labels alone, one a line.
"""

from __future__ import annotations

import random
import re
import string
from collections.abc import Sequence

from data_gen.tasks import lexicon
from data_gen.tasks.squares import SETS
from scripts.tiny_base.skills import Case
from scripts.tiny_base.words import Words

KINDS = ("things", "squares", "glossary")
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
        labels, pairs = _squares(rng, words, count)
    ask = rng.choice(words.of(_PROMPTS, _PROMPTS_HELD_OUT)).format(labels=", ".join(labels))
    lines = words.bullets(rng, [line for line, *_ in pairs])
    answer = "\n".join(label for *_, label in pairs)
    about = (tuple((line, *told) for line, *told, _ in pairs),)
    given = f"{glossary}\n\n{lines}" if glossary else lines
    if rng.random() < 1 - 0.3 * words.breadth:  # as data_gen/expert.py asks
        head = f"{ask}\n\n{given}" if rng.random() < 0.5 or not glossary else (
            f"{glossary}\n\n{ask}\n\n{lines}")  # fmt: skip
        return Case(head, [("", answer)], about)
    return Case(given, [(ask, answer)], about)


def _things(rng: random.Random, words: Words, count: int) -> tuple[list[str], list]:
    labels = rng.sample(sorted(lexicon.CATEGORIES), rng.randint(3, 8))
    pairs = []
    bare = rng.random() < 0.15
    for _ in range(count):
        label = rng.choice(labels)
        thing = rng.choice(lexicon.CATEGORIES[label])
        line = thing if bare else words.telling(rng, thing)
        pairs.append((line, thing, label))
    return labels, pairs


def _glossary(rng: random.Random, words: Words, count: int) -> tuple[list[str], str, list]:
    labels = _new_labels(rng, words, rng.randint(2, 6))
    terms = _terms(rng, words, len(labels))
    pairs = []
    for _ in range(count):
        index = rng.randrange(len(labels))
        thing = rng.choice(terms[index])
        pairs.append((words.telling(rng, thing), thing, labels[index]))
    return labels, _explain(rng, words, labels, terms), pairs


def _squares(rng: random.Random, words: Words, count: int) -> tuple[list[str], list]:
    """In training some ask for one of the two facts only: what a cell is made of."""
    made = SETS[rng.choice(list(SETS))]
    half = None if words.held_out or rng.random() < 0.6 else rng.randrange(2)
    pairs: list[tuple[str, ...]] = []
    for _ in range(count):
        first, second = rng.randrange(len(made.first)), rng.randrange(len(made.second))
        line = made.line(rng, first, second, words.name(rng), held_out=words.held_out)
        if words.at_random(rng, 0.4):
            one, two = rng.choice(made.first[first]), rng.choice(made.second[second])
            line = words.strew(rng, one, two, least=1)
        told = re.findall(r"\w+", line)
        earlier = next(word for word in told if word in made.first[first])
        later = next(word for word in reversed(told) if word in made.second[second])
        if half is None:
            pairs.append((line, later, earlier, made.label(first, second)))
        elif half == 0:
            pairs.append((line, earlier, made.first[first][0]))
        else:
            pairs.append((line, later, made.second[second][0]))
    labels = made.labels if half is None else [
        told[0] for told in (made.first, made.second)[half]]  # fmt: skip
    return rng.sample(labels, len(labels)), pairs


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
    if words.at_random(rng, 0.4):
        entry = words.mark(rng).join(rng.sample(("{label}", "{words}"), 2))
    entries = [
        entry.format(label=label, words=", ".join(own))
        for label, own in zip(labels, terms, strict=True)
    ]
    rng.shuffle(entries)
    return "\n".join(entries)
