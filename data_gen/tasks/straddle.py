"""``straddle``: facts that lie across the places where a context is cut into chunks.

The context is one running text. A fact begins with a sentence that names a place ("They reached the
depot called Lamade") and ends, some sentences later, with one that only refers to it ("Its crates
were counted: 37."). One such fact stands across every multiple of ``stride`` characters (1,000 in
short windows, more in long ones, so that there are at most 60), and only these are asked about: a
program that cuts at such multiples without overlap finds the name in one chunk and the number in
the next. Around them stand hard negatives: the place named without a count, a nearly equal name
with a count of another thing, another kind of place with the same name, counts of no place.
Words, wordings, names and layouts differ between the splits; only the syntax is shared.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass

from data_gen.tasks import lexicon
from data_gen.tasks.hops import exact_match
from data_gen.tasks.task import BYTES_PER_TOKEN, Task, Window, task_id
from rlm_executor.errors import InputError

__all__ = ["exact_match", "floor_answer", "make_window"]

VALUES = range(11, 990)
MOST_FACTS = 60
MOST_CHARS = 470  # of a fact, so that an overlap of 500 holds every one


@dataclass(frozen=True)
class Words:
    """What one split is written in."""

    kinds: tuple[str, ...]
    things: tuple[str, ...]
    openings: tuple[str, ...]  # the kind stands before the name
    counts: tuple[str, ...]
    mentions: tuple[str, ...]
    loose: tuple[str, ...]
    fillers: tuple[str, ...]
    people: tuple[str, ...]
    objects: tuple[str, ...]


_OBJECTS = sorted(thing for things in lexicon.CATEGORIES.values() for thing in things)
TRAIN = Words(
    kinds=("depot", "chapel", "tavern", "dairy", "forge"),
    things=("crates", "lanterns", "kegs", "benches", "blankets"),
    openings=(
        "The {kind} of {name} stood at the end of a long road.",
        "Late in the day they reached the {kind} called {name} and rested.",
        "Soldiers marched to the {kind} at {name} that morning.",
        "Rain fell on the {kind} of {name} for a whole week.",
    ),
    counts=(
        "Its {things} were counted: {n}.",
        "All in all it had {n} {things}.",
        "They found {n} {things} in it.",
        "The place held {n} {things} that day.",
    ),
    mentions=(
        "Nobody had asked for the {kind} of {name} in years.",
        "{person} never went to the {kind} at {name} again.",
        "A song was sung about the {kind} called {name}.",
    ),
    loose=("On a cart {person} had seen {n} {things}.", "{person} once dreamt of {n} {things}."),
    fillers=lexicon.FRAMES,
    people=lexicon.NAMES,
    objects=tuple(_OBJECTS[::2]),
)
HELD_OUT = Words(
    kinds=("bakery", "lodge", "winery", "abbey"),
    things=("jars", "statues", "tiles", "pitchers"),
    openings=(
        "Few had visited the {kind} named {name} before the war.",
        "The {kind} known as {name} lay behind the hills.",
        "It was snowing when the {kind} by {name} opened its gates.",
    ),
    counts=(
        "The count of its {things} came to {n}.",
        "Inside that building were {n} {things}.",
        "Of {things} it kept {n}.",
    ),
    mentions=(
        "{person} wished to see the {kind} named {name}.",
        "Postcards of the {kind} known as {name} were sold out.",
    ),
    loose=("A poem by {person} speaks of {n} {things}.", "A ship sank with {n} {things} aboard."),
    fillers=(
        *lexicon.FRAMES_HELD_OUT,
        "{name} traded the {thing} for a pair of tickets",
        "without the {thing} {name} felt rather lost",
        "only {name} understood why the {thing} mattered",
        "the twins argued with {name} over a {thing}",
        "{name} hid the {thing} under a heap of leaves",
    ),
    people=lexicon.NAMES_HELD_OUT,
    objects=tuple(_OBJECTS[1::2]),
)

# Wordings by kind of question; the last two of each are asked in held-out windows only.
QUESTIONS: dict[str, tuple[str, ...]] = {
    "value": (
        "How many {things} were counted at the {kind} of {x}? Answer with the number alone.",
        "Give the number of {things} of the {kind} {x}, nothing else.",
        "The text counts {things}. What is the number for the {kind} of {x}?",
        "Which number of {things} does the text tell for {x}, a {kind}? Only the number.",
        "State how many {things} the {kind} by the name of {x} had, as a bare number.",
    ),
    "list": (
        "How many {things} had each {kind} of these: {names}? In this order, with commas.",
        "List the {things} of every {kind} named here, in order, with commas: {names}.",
        "For {names} (each is a {kind}) tell the counts of {things}, comma-separated.",
        "Write, with commas between, the number of {things} for each {kind} in: {names}.",
    ),
    "total": (
        "How many {things} has every {kind} in the text together? Answer with the number alone.",
        "Add up the {things} of every single {kind} that has a count. What is the sum?",
        "Each {kind} that was counted has some {things}. Give the sum of them all as a number.",
        "Taking every {kind} together, what do the counts of {things} come to? Only the number.",
        "Sum the {things} found at any {kind} and state the bare number.",
    ),
    "most": (
        "Which {kind} has the most {things}? Answer with its name alone.",
        "Name the {kind} with the largest number of {things}.",
        "Compare the {things} of every {kind}: where are there most? Give the name only.",
        "At which {kind} is the count of {things} the highest? Just its name.",
        "What is the name of the {kind} that beats all others in {things}?",
    ),
    "above": (
        "How many places of the kind {kind} have more than {n} {things}? Only the number.",
        "Count every {kind} with more than {n} {things} and give that count.",
        "How often does a {kind} have over {n} {things}? Only the number.",
        "State the number of places, each a {kind}, whose {things} exceed {n}.",
    ),
    "more": (
        "How many more {things} has the {kind} of {x} than that of {y}? Only the number.",
        "By how many {things} does the {kind} of {x} exceed the {kind} of {y}?",
        "Take the {things} of {y} from those of {x}, both being a {kind}; what is left?",
        "Between {x} and {y}, each a {kind}, how large is the gap in {things}? A bare number.",
    ),
}

# No place is called as a question begins: "Give" is one in ten thousand made-up names.
_ASKING = {
    word for asked in QUESTIONS.values() for text in asked for word in re.findall(r"\w+", text)
}


@dataclass(frozen=True)
class Skin:
    """How the text runs: what joins sentences, and what stands where a line is full."""

    name: str
    join: str = " "
    wrap: str = ""  # in place of a space between words; "" never
    paragraph: str = ""  # in place of ``join``; "" never
    width: int = 0


SKINS = (
    Skin("stream"), Skin("slashes", join=" / "), Skin("wrapped", wrap="\n", width=90),
    Skin("paragraphs", paragraph="\n\n", width=1300),
)  # fmt: skip
SKINS_HELD_OUT = (
    Skin("bars", join=" | "), Skin("quoted", wrap="\n> ", width=104),
    Skin("indented", paragraph="\n    ", width=900),
)  # fmt: skip


@dataclass(frozen=True)
class _Block:
    """Sentences that stay together; a cut after ``head`` and before ``tail`` takes a fact apart."""

    sentences: tuple[str, ...]
    head: int = 0
    tail: int = 0


def stride_of(n_bytes: int) -> int:
    """Characters from one asked fact to the next: a size that programs cut at, or a multiple."""
    sizes = [500] * (n_bytes < 4000) + [n * 10**power for power in range(3, 8) for n in (1, 2, 5)]
    return next((size for size in sizes if n_bytes // size <= MOST_FACTS), 10**8)


def make_window(length: int, seed: int, n_questions: int) -> Window:
    """A text of ``length`` tokens with a fact over every multiple of the stride.

    Raises:
        InputError: so few facts have no ``n_questions`` different questions.
    """
    rng = random.Random(f"straddle/{length}/{seed}")
    held_out = seed >= 700_000
    window_id, n_bytes = f"straddle-{length}-{seed}", length * BYTES_PER_TOKEN
    stride = stride_of(n_bytes)
    count = max(2, (n_bytes - 600) // stride)
    plan = _Plan(rng, held_out, stride, count)
    skin = rng.choice(SKINS_HELD_OUT if held_out else SKINS)
    tasks = [
        Task(
            task_id("straddle", length, seed, index), "straddle", question, answer, "exact_match",
            {"length": length, "seed": seed, "window_id": window_id, "kind": kind}
            | {"skin": skin.name, "stride": stride},
        )
        for index, (kind, question, answer) in enumerate(plan.questions(n_questions))
    ]  # fmt: skip
    filler_seed = rng.random()
    facts = {"values": plan.values, "kind": plan.kind, "things": plan.things}

    def chunks() -> Iterator[str]:
        yield from _text(random.Random(filler_seed), plan, skin, n_bytes)

    return Window(window_id, "straddle", length, seed, tasks, chunks, facts)


def floor_answer(window: Window, task: Task) -> str:
    """What a guesser says who has not read the text: a random valid choice."""
    rng = random.Random(f"floor/{task.id}")
    names, kind = sorted(window.facts["values"]), task.meta["kind"]
    if kind == "most":
        return str(rng.choice(names))
    if kind == "above":
        return str(rng.randint(0, len(names)))
    if kind == "total":
        return str(sum(rng.choices(VALUES, k=len(names))))
    if kind == "more":
        return str(abs(rng.choice(VALUES) - rng.choice(VALUES)))
    n_values = str(task.answer).count(",") + 1
    return ", ".join(str(rng.choice(VALUES)) for _ in range(n_values))


class _Plan:
    """The facts and hard negatives of a window, before they are laid out."""

    def __init__(self, rng: random.Random, held_out: bool, stride: int, count: int) -> None:
        self._rng, self._held_out = rng, held_out
        self.words = HELD_OUT if held_out else TRAIN
        self.stride = stride
        self.kind, self._other_kind = rng.sample(self.words.kinds, 2)
        self.things, self._other_things = rng.sample(self.words.things, 2)
        self._taken = {*self.words.people, *_ASKING}
        self._numbers = iter(rng.sample(VALUES, len(VALUES)))  # no two alike
        self.values: dict[str, int] = {}
        for _ in range(count):
            near = self.values and rng.random() < 0.25
            self.values[self._near() if near else self._name()] = next(self._numbers)
        self.facts = [self._fact(name, value) for name, value in self.values.items()]
        sizes = [rng.randint(1, 3 if stride >= 1000 else 1) for _ in range(count)]
        self.negatives = [[self._negative() for _ in range(size)] for size in sizes]

    def questions(self, count: int) -> list[tuple[str, str, str]]:
        """Kind, wording and gold of ``count`` different questions."""
        found: dict[tuple[str, str], tuple[str, str, str]] = {}
        for _ in range(60 * count):
            kind = self._rng.choice(list(QUESTIONS))
            fields, answer = self._asked(kind)
            wordings = QUESTIONS[kind][-2:] if self._held_out else QUESTIONS[kind][:-2]
            text = self._rng.choice(wordings).format(kind=self.kind, things=self.things, **fields)
            found.setdefault((kind, str(fields)), (kind, text, answer))
        if len(found) < count:
            raise InputError(f"{len(self.values)} facts have no {count} questions; ask fewer")
        return list(found.values())[:count]

    def _asked(self, kind: str) -> tuple[dict[str, str], str]:
        rng, values = self._rng, self.values
        if kind == "total":
            return {}, str(sum(values.values()))
        if kind == "most":
            return {}, max(values, key=lambda name: values[name])
        if kind in ("value", "list"):
            most = 1 if kind == "value" else min(5, len(values))
            names = rng.sample(list(values), rng.randint(min(2, most), most))
            told = ", ".join(str(values[name]) for name in names)
            return {"x": names[0], "names": ", ".join(names)}, told
        if kind == "more":
            x, y = sorted(rng.sample(list(values), 2), key=lambda name: -values[name])
            return {"x": x, "y": y}, str(values[x] - values[y])
        low, high = min(values.values()), max(values.values())  # so that neither 0 nor all is right
        limit = rng.choice([n for n in range(low, high) if n not in values.values()] or [low])
        return {"n": str(limit)}, str(sum(value > limit for value in values.values()))

    def _fact(self, name: str, value: int) -> _Block:
        """Name, sentences between, count. Between may stand a count of something else."""
        rng, words = self._rng, self.words
        opening = rng.choice(words.openings).format(kind=self.kind, name=name)
        ending = rng.choice(words.counts).format(things=self.things, n=value)
        room = (MOST_CHARS if self.stride >= 1000 else 330) - len(opening) - len(ending) - 30
        target, between = rng.randint(120, max(120, room - 90)), [sentence(rng, words)]
        if rng.random() < 0.4:
            between.append(self._told(words.counts, self._other_things))
        elif rng.random() < 0.3:
            between.append(self._told(words.loose, self.things))
        rng.shuffle(between)
        # At most 5 between: also an overlap told in sentences holds every fact.
        while len(between) < 5 and sum(map(len, between)) < target:
            between.insert(rng.randint(0, len(between)), sentence(rng, words))
        parts = (opening, *between, ending)
        tail = sum(len(part) + 1 for part in parts[:-1]) + ending.index(str(value))
        return _Block(parts, opening.index(name) + len(name) + 1, tail)

    def _negative(self) -> _Block:
        rng, words = self._rng, self.words
        way = rng.choice(("mention", "mention", "loose", "other kind", "other thing"))
        if self.stride < 1000 or way == "mention":
            wording = rng.choice(words.mentions)
            name, person = rng.choice(list(self.values)), rng.choice(words.people)
            return _Block((wording.format(kind=self.kind, name=name, person=person),))
        if way == "loose":
            return _Block((self._told(words.loose, self.things),))
        kind, things, name = self._other_kind, self.things, rng.choice(list(self.values))
        if way == "other thing":
            kind, things, name = self.kind, self._other_things, self._near()
        opening = rng.choice(words.openings).format(kind=kind, name=name)
        return _Block((opening, sentence(rng, words), self._told(words.counts, things)))

    def _told(self, wordings: tuple[str, ...], things: str) -> str:
        person, n = self._rng.choice(self.words.people), next(self._numbers)
        return self._rng.choice(wordings).format(person=person, things=things, n=n)

    def _name(self) -> str:
        """A made-up name of this split."""
        while True:
            word = (lexicon.nonce_held_out if self._held_out else lexicon.nonce)(self._rng)
            name = word.capitalize()
            if name not in self._taken and len(name) > 3:
                self._taken.add(name)
                return name

    def _near(self) -> str:
        """Another vowel in a name that is asked about; still of this split's syllables."""
        vowels = "ai ea ee ie oa oo ou".split() if self._held_out else list("aeiou")
        for _ in range(20):
            name = self._rng.choice(list(self.values))
            old = next(part for part in re.findall(r"[aeiou]y|[aeiou]+", name))
            near = name.replace(old, self._rng.choice(vowels), 1)
            if near not in self._taken:
                self._taken.add(near)
                return near
        return self._name()


def sentence(rng: random.Random, words: Words) -> str:
    """One that tells nothing of any place."""
    frame, name, thing = map(rng.choice, (words.fillers, words.people, words.objects))
    text = frame.format(name=name, thing=thing)
    return f"{text[0].upper()}{text[1:]}."


class _Layout:
    """Joins sentences in a skin and knows how long the text is."""

    def __init__(self, skin: Skin) -> None:
        self._skin = skin
        self.size = self._column = 0

    def add(self, text: str) -> str:
        """The sentence with what stands before it."""
        skin = self._skin
        if not self.size:
            laid = text
        elif skin.paragraph and self._column > skin.width:
            self._column, laid = 0, skin.paragraph + text
        elif skin.wrap:
            laid = ""
            for word in text.split(" "):
                full = self._column + 1 + len(word) > skin.width
                laid += (skin.wrap if full else " ") + word
                self._column = len(word) if full else self._column + 1 + len(word)
        else:
            laid = skin.join + text
        if not skin.wrap or not self.size:
            self._column += len(laid)
        self.size += len(laid)
        return laid


def _text(rng: random.Random, plan: _Plan, skin: Skin, n_bytes: int) -> Iterator[str]:
    """The text: every fact where its multiple of the stride falls between name and number."""
    layout = _Layout(skin)
    most, slack = 100, 18  # a sentence; what joins and wraps add before a cut
    for index, fact in enumerate(plan.facts):
        cut = (index + 1) * plan.stride
        earliest, latest = cut - fact.tail, cut - fact.head - slack
        target = rng.randint(earliest, max(earliest, latest - most))
        for block in plan.negatives[index]:
            need = sum(len(text) + 4 for text in block.sentences)
            if layout.size + need + most > target:
                continue
            start = rng.randint(layout.size, target - need - most)
            while layout.size < start:
                yield layout.add(sentence(rng, plan.words))
            yield from map(layout.add, block.sentences)
        while layout.size < target:
            yield layout.add(sentence(rng, plan.words))
        yield from map(layout.add, fact.sentences)
    missed = 0
    while missed < 30:  # a shorter one may still fit
        text = sentence(rng, plan.words)
        fits = layout.size + len(text) + 6 <= n_bytes
        missed += not fits
        if fits:
            yield layout.add(text)
