"""Windows of numbered entries: real paragraphs, in each of which one sentence is planted.

    [entry 7]
    a real paragraph. The planted sentence. The rest of it.
    [end]

Between entries stands other real text. Each kind of sentence has frames of its own; the last of
them are for development and test seeds. ``read`` finds a sentence again by its frames.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from functools import lru_cache

from data_gen.tasks import lexicon, real_text
from rlm_executor.errors import InputError

MAX_ENTRIES = 60
_ENTRY_BYTES = 330
_N_HELD_OUT = 2
FRAMES: dict[str, tuple[str, ...]] = {
    "date": (
        "It was filed on {day} {month} {year}.",
        "On the day of {month} {day}, {year}, it came into the archive.",
        "In {year}, on {day} {month}, a clerk put it on the shelf.",
        "The stamp on it says {month} {day} {year}.",
        "The archive has had it since {day} {month}, {year}.",
        "It reached this room in {year}, {month} being {day} days old.",
    ),
    "lives": (
        "{name} lives in {place}.",
        "In {place} one finds the house of {name}.",
        "{name} has a home in {place}.",
        "The people of {place} call {name} a neighbour.",
        "{name} still keeps the old address in {place}.",
    ),
    "lives not": (
        "{name} has never lived in {place}.",
        "{name} once asked for the way to {place}.",
        "In {place} nobody has heard of {name}.",
        "{name} moved away from {place} long ago.",
        "A letter from {place} never reached {name}.",
    ),
    "pages": (
        "The file of {name} has {number} pages.",
        "There are {number} pages in the file of {name}.",
        "Someone counted {number} pages when the file of {name} was bound.",
        "It takes {number} pages to hold the file of {name}.",
        "Of the file of {name} one can read {number} pages.",
    ),
    "paid": (
        "On day {other}, {name} paid {number} crowns.",
        "{number} crowns came from {name} for room {other}.",
        "For {other} nights {name} left {number} crowns.",
        "The {other} clerks took {number} crowns from {name}.",
        "With {other} witnesses {name} put down {number} crowns.",
    ),
    "thing": tuple(f"{frame[0].upper()}{frame[1:]}." for frame in lexicon.FRAMES[:12])
    + tuple(f"{frame[0].upper()}{frame[1:]}." for frame in lexicon.FRAMES_HELD_OUT[:_N_HELD_OUT]),
    "wants": (
        "{name} says: I would like the {thing}.",
        "{name} says: let it be the {thing} from now on.",
        "{name} says: the {thing} is what I take.",
        "{name} says: bring me the {thing} after all.",
        "{name} says: my choice falls on the {thing}.",
    ),
    "tells": (
        "{name} says: I have seen the {thing} somewhere.",
        "{name} says: who left the {thing} here?",
        "{name} says: a friend has the {thing}.",
        "{name} says: the {thing} is no business of mine.",
        "{name} says: do not speak of the {thing}.",
    ),
}  # fmt: skip
MONTHS = (
    "January February March April May June July August September October November December"
).split()


def frame(rng: random.Random, kind: str, split: str, **fields: object) -> str:
    """A sentence of ``kind``, in a wording of the split."""
    every = FRAMES[kind]
    own = every[-_N_HELD_OUT:] if split == "test" else every[:-_N_HELD_OUT]
    return rng.choice(own).format(**fields)


def read(kind: str, text: str) -> dict[str, str] | None:
    """The fields of a sentence of ``kind`` in the text, or None."""
    for pattern in _patterns(kind):
        if match := pattern.search(text):
            return match.groupdict()
    return None


@lru_cache(maxsize=16)
def _patterns(kind: str) -> tuple[re.Pattern[str], ...]:
    return tuple(
        re.compile(re.sub(r"\\\{(\w+)\\\}", r"(?P<\1>\\w+)", re.escape(f))) for f in FRAMES[kind]
    )


def n_entries(n_bytes: int) -> int:
    """How many entries a window of this size has."""
    return min(MAX_ENTRIES, int(0.9 * n_bytes) // _ENTRY_BYTES)


def layout(
    rng: random.Random, split: str, n_bytes: int, planted: Sequence[str]
) -> tuple[list[str], list[str]]:
    """Parts of a window with an entry for each planted sentence; names of what was used."""
    topics = [(t, p) for t, p in real_text.paragraphs(split) if len(p) >= 80]
    used = []
    parts = []
    for at, sentence in enumerate(planted, 1):
        topic, paragraph = rng.choice(topics)
        used.append(f"topic/{topic}")
        parts.append(f"[entry {at}]\n{_plant(rng, paragraph, sentence)}\n[end]\n")
    room = n_bytes - sum(len(part.encode()) for part in parts)
    fillers, names = _filler(rng, split, room, len(parts))
    places = sorted(rng.randrange(len(parts) + 1) for _ in fillers)
    for place, filler in zip(reversed(places), fillers, strict=True):
        parts.insert(place, filler)
    return parts, sorted({*used, *names})


def _plant(rng: random.Random, paragraph: str, sentence: str) -> str:
    """One line: some of the paragraph with the sentence at a random seam of sentences."""
    words, size = [], 0
    for word in paragraph.split():
        size += len(word.encode()) + 1
        if size > 190:
            break
        words.append(word)
    text = " ".join(words)
    seams = [0, *(match.end() for match in re.finditer(r"\. ", text)), len(text)]
    seam = rng.choice(seams)
    return f"{text[:seam].rstrip()} {sentence} {text[seam:].lstrip()}".strip()


def _filler(
    rng: random.Random, split: str, n_bytes: int, n_parts: int
) -> tuple[list[str], list[str]]:
    """Real text of ``n_bytes`` in pieces: paragraphs first, then whole source files."""
    topics = list(real_text.paragraphs(split))
    rng.shuffle(topics)
    found, names = [], []
    sources = real_text.files(rng, split)
    while n_bytes > 0:
        if topics and len(found) < 3 * n_parts:
            topic, text = topics.pop()
            name = f"topic/{topic}"
        elif (source := next(sources, None)) is not None:
            name, text = source
        else:
            raise InputError(f"the text of split {split!r} is {n_bytes} bytes short of the window")
        text = f"{text.strip()}\n".encode()[:n_bytes].decode("utf-8", "ignore")
        found.append(text.rstrip("\n")[: len(text) - 1] + "\n")
        names.append(name)
        n_bytes -= len(text.encode())
    return found, names
