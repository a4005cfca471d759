"""``hops``: chains of two to four facts that lie in different documents, like BrowseComp's.

Dossiers of made-up people, firms and places stand among documents of real source text
(``sources``). A question names a start and the fields to follow; the answer is a short name. Hard
negatives: for entities on the chains there is a dossier of one with a nearly equal name, the same
but for the field that is asked. Names, wordings, layouts and real text differ between the splits.
"""

from __future__ import annotations

import json
import random
import re
import string
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from data_gen.tasks import sources
from data_gen.tasks.task import BYTES_PER_TOKEN, Task, Window, task_id

# What a field is of and what it holds; "" where the value has no dossier of its own.
FIELDS: dict[str, tuple[str, str]] = {
    "firm": ("person", "firm"),
    "friend": ("person", "person"),
    "home": ("person", "place"),
    "town": ("firm", "place"),
    "founder": ("firm", "person"),
    "product": ("firm", ""),
    "mayor": ("place", "person"),
    "neighbour": ("place", "place"),
    "river": ("place", ""),
}
WORDINGS: dict[str, tuple[str, ...]] = {
    "firm": ("{x} works for {y}.", "{x} is employed by {y}.", "The firm of {x} is {y}."),
    "friend": ("{x} often meets {y}.", "The best friend of {x} is {y}.", "{x} is close to {y}."),
    "home": ("{x} lives in {y}.", "The home of {x} is in {y}.", "{x} has a house in {y}."),
    "town": ("{x} has its seat in {y}.", "{x} is a firm in {y}.", "The town of {x} is {y}."),
    "founder": ("{x} was founded by {y}.", "The founder of {x} is {y}.", "{x} was set up by {y}."),
    "product": ("{x} makes {y}.", "The product of {x} is {y}.", "{x} is known for its {y}."),
    "mayor": ("{x} is governed by {y}.", "The mayor of {x} is {y}.", "{x} elected {y} as mayor."),
    "neighbour": ("{x} borders on {y}.", "The neighbour of {x} is {y}.", "{x} lies next to {y}."),
    "river": ("{x} lies on the {y}.", "The river of {x} is the {y}.", "{x} stands beside the {y}."),
}
WORDINGS_HELD_OUT: dict[str, tuple[str, ...]] = {
    "firm": ("{x} has a desk at the firm {y}.", "{x} earns a wage at {y}."),
    "friend": ("{x} has a friend called {y}.", "{x} trusts {y}."),
    "home": ("{x} calls {y} home.", "{x} sleeps in {y}."),
    "town": ("{x} operates from the town of {y}.", "{x} can be visited in {y}."),
    "founder": ("{x} has {y} as its founder.", "{x} began with {y}."),
    "product": ("{x} has one product, {y}.", "{x} sells {y}."),
    "mayor": ("{x} has a mayor, {y}.", "{x} is led by {y}."),
    "neighbour": ("{x} has {y} for a neighbour.", "{x} touches {y}."),
    "river": ("{x} has a river, the {y}.", "{x} is crossed by the {y}."),
}
QUESTIONS = (
    "What is the {of}? Answer with the name alone.",
    "Start at {start}. Follow {then}. Which name stands at the end?",
    "{start} -> {arrows}: what comes last? Answer with the name.",
)
QUESTIONS_HELD_OUT = (
    "The documents tell what is the {of}. Give that name and nothing else.",
    "Begin with {start} and go by {then}. What do you arrive at?",
)
_PRODUCTS = "bricks ropes kettles candles mirrors barrels needles clocks saddles lamps".split()
_PRODUCTS_HELD_OUT = "buttons ladders violins stoves anchors pencils baskets carpets".split()
_FIRMS = ("Works", "Brothers", "Mills", "Trading", "Union")
_FIRMS_HELD_OUT = ("Partners", "Supply", "Foundry")


@dataclass(frozen=True)
class Skin:
    """How documents are laid out; ``frame`` gives one of them."""

    name: str
    frame: Callable[[int, str], str]


def _as_json(number: int, text: str) -> str:
    return json.dumps({"id": number, "text": text}) + "\n"


SKINS = (
    Skin("bars", lambda number, text: f"=== doc {number} ===\n{text}"),
    Skin("tags", lambda number, text: f"<doc id={number}>\n{text}</doc>\n"),
    Skin("jsonl", _as_json),
    Skin("marks", lambda number, text: f"## Document {number}\n\n{text}\n"),
)
SKINS_HELD_OUT = (
    Skin("files", lambda number, text: f">>> file {number:04d}.txt\n{text}"),
    Skin("stars", lambda number, text: f"{text}***** end of {number}\n"),
)


def make_window(length: int, seed: int, n_questions: int) -> Window:
    """Documents of ``length`` tokens, at most about a thousand, and ``n_questions`` chains."""
    rng = random.Random(f"hops/{length}/{seed}")
    test = seed >= 700_000
    source = sources.load("test" if test else "train")
    n_bytes = length * BYTES_PER_TOKEN
    count = min(240, int(12 * (length / 1024) ** 0.6))
    world = _World(rng, test, source.words, max(9, count * 2 // 3))
    chains = world.chains(n_questions)
    world.add_twins(chains, max(2, count // 3))
    skin = rng.choice(SKINS_HELD_OUT if test else SKINS)
    questions = QUESTIONS_HELD_OUT if test else QUESTIONS
    tasks = [
        Task(
            id=task_id("hops", length, seed, index),
            family="hops",
            question=_question(rng.choice(questions), start, path),
            answer=answer,
            metric="exact_match",
            meta={
                "length": length,
                "seed": seed,
                "window_id": f"hops-{length}-{seed}",
                "kind": f"{len(path)}-hop",
                "skin": skin.name,
            },
        )
        for index, (start, path, answer) in enumerate(chains)
    ]
    dossiers = [world.dossier(name) for name in world.facts]
    rng.shuffle(dossiers)
    n_documents = max(len(dossiers) + 1, min(1000, n_bytes // 600))
    filler_seed = rng.random()

    def chunks() -> Iterator[str]:
        yield from _documents(
            random.Random(filler_seed), skin, dossiers, n_documents, n_bytes, source.pieces
        )

    return Window(
        id=f"hops-{length}-{seed}",
        family="hops",
        length=length,
        seed=seed,
        tasks=tasks,
        chunks=chunks,
        facts={"choices": sorted(world.facts), "source_sha256": source.sha256},
    )


def exact_match(gold: str, answer: str) -> float:
    """1 for the same words; case, punctuation and a leading article do not count."""
    return float(_plain(gold) == _plain(answer))


def _plain(text: str) -> list[str]:
    words = re.sub(rf"[{re.escape(string.punctuation)}]", " ", text.lower()).split()
    return words[1:] if words[:1] in (["the"], ["a"], ["an"]) else words


def _question(wording: str, start: str, path: list[str]) -> str:
    return wording.format(
        of=" of the ".join(reversed(path)) + f" of {start}",
        start=start,
        then=", ".join(path),
        arrows=" -> ".join(path),
    )


class _World:
    """Entities, each with three facts."""

    def __init__(
        self, rng: random.Random, test: bool, taken: frozenset[str], n_entities: int
    ) -> None:
        self._rng, self._test, self._taken = rng, test, set(taken)
        n_small = max(3, n_entities // 4)  # a changed value needs a choice
        kinds = [("person", n_entities - 2 * n_small), ("firm", n_small), ("place", n_small)]
        self._of: dict[str, list[str]] = {
            kind: [self._name(kind) for _ in range(count)] for kind, count in kinds
        }
        self.facts: dict[str, dict[str, str]] = {}
        for kind, names in self._of.items():
            for name in names:
                self.facts[name] = {
                    field: self._value(field, name)
                    for field, (owner, _) in FIELDS.items()
                    if owner == kind
                }

    def chains(self, count: int) -> list[tuple[str, list[str], str]]:
        """Start, fields and end of ``count`` walks that pass no entity twice."""
        found: dict[tuple[str, tuple[str, ...]], str] = {}
        while len(found) < count:
            start = at = self._rng.choice(list(self.facts))
            hops, passed = self._rng.choice((2, 3, 3, 4)), {start}
            path: list[str] = []
            while len(path) < hops and at in self.facts:
                field = self._rng.choice(list(self.facts[at]))
                at = self.facts[at][field]
                if at in passed:
                    break
                passed.add(at)
                path.append(field)
            if len(path) == hops:
                found[start, tuple(path)] = at
        return [(start, [*path], end) for (start, path), end in found.items()]

    def add_twins(self, chains: list[tuple[str, list[str], str]], count: int) -> None:
        """Nearly equal names whose dossier differs in one field, the asked one first."""
        asked: dict[str, str] = {}
        for start, path, _ in chains:
            at = start
            for field in path:
                asked.setdefault(at, field)
                at = self.facts[at][field]
        others = [name for name in self.facts if name not in asked]
        self._rng.shuffle(others)
        for name in [*asked, *others][:count]:
            facts = dict(self.facts[name])
            changed = asked.get(name) or self._rng.choice(list(facts))
            while facts[changed] == self.facts[name][changed]:
                facts[changed] = self._value(changed, name)
            self.facts[self._near(name)] = facts

    def dossier(self, name: str) -> str:
        """Three sentences, in any order."""
        wordings = WORDINGS_HELD_OUT if self._test else WORDINGS
        sentences = [
            self._rng.choice(wordings[field]).format(x=name, y=value)
            for field, value in self.facts[name].items()
        ]
        self._rng.shuffle(sentences)
        return " ".join(sentences) + "\n"

    def _value(self, field: str, name: str) -> str:
        kind = FIELDS[field][1]
        if not kind:
            products = _PRODUCTS_HELD_OUT if self._test else _PRODUCTS
            return self._word() if field == "river" else self._rng.choice(products)
        return self._rng.choice([other for other in self._of[kind] if other != name])

    def _word(self) -> str:
        """A new word; the two splits share no syllable, so they share none of them."""
        consonants, vowels = ("gjkpvwz", "iou") if self._test else ("bdflmnrst", "ae")
        while True:
            size = self._rng.randint(3, 4)
            letters = [self._rng.choice(consonants) + self._rng.choice(vowels) for _ in range(size)]
            word = "".join(letters).capitalize()
            if word not in self._taken:
                self._taken.add(word)
                return word

    def _name(self, kind: str) -> str:
        if kind == "person":
            return f"{self._word()} {self._word()}"
        if kind == "firm":
            return f"{self._word()} {self._rng.choice(_FIRMS_HELD_OUT if self._test else _FIRMS)}"
        return self._word()

    def _near(self, name: str) -> str:
        """Another last letter, or one more, in the first or last word that is made up."""
        words = name.split()
        at = -1 if len(words) == 2 and words[1] not in _FIRMS + _FIRMS_HELD_OUT else 0
        word = words[at]
        while word in self._taken:
            extra = self._rng.choice("gkvz" if self._test else "lnrt")
            word = words[at] + extra if self._rng.random() < 0.5 else words[at][:-1] + extra
            if word in self._taken and self._rng.random() < 0.5:
                word += extra
        self._taken.add(word)
        words[at] = word
        return " ".join(words)


def _documents(
    rng: random.Random,
    skin: Skin,
    dossiers: list[str],
    n_documents: int,
    n_bytes: int,
    pieces: tuple[str, ...],
) -> Iterator[str]:
    """Documents of at most ``n_bytes`` together; a dossier stands in one of its own."""
    holders = sorted(rng.sample(range(n_documents), len(dossiers)))
    held = dict(zip(holders, dossiers, strict=True))
    # A document can be larger than its share as long as the dossiers that follow have room.
    frame = len(skin.frame(n_documents, ""))
    need = sum(len(dossier) for dossier in dossiers) + n_documents * (frame + 2)
    spare = n_bytes - need
    for number in range(n_documents):
        room = spare // (n_documents - number)
        before, after = _filler(rng, skin, room, pieces)
        dossier = held.get(number, "")
        text = skin.frame(number + 1, before + dossier + after)
        spare -= max(0, len(text) - len(dossier) - frame - 2)
        yield text


def _filler(rng: random.Random, skin: Skin, room: int, pieces: tuple[str, ...]) -> tuple[str, str]:
    """Whole lines of real text that take ``room`` bytes in the skin, in two parts."""
    blocks: list[str] = []
    while room > 0:
        piece = rng.choice(pieces)
        taken = _size(skin, piece)
        if taken > room:
            lines: list[str] = []
            for line in piece.splitlines(keepends=True):
                room -= _size(skin, line)
                if room < 0:
                    break
                lines.append(line)
            blocks.append("".join(lines))
            break
        blocks.append(piece)
        room -= taken
    lines = "".join(blocks).splitlines(keepends=True)
    at = rng.randint(0, len(lines))
    return "".join(lines[:at]), "".join(lines[at:])


def _size(skin: Skin, text: str) -> int:
    return len(json.dumps(text)) - 2 if skin.name == "jsonl" else len(text)


def floor_answer(window: Window, task: Task) -> str:
    """A random one of the names."""
    return str(random.Random(f"floor/{task.id}").choice(window.facts["choices"]))
