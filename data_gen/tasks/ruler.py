"""``ruler``: the eight needle-in-a-haystack tasks of RULER (arXiv 2404.06654), in many skins.

Kinds, value types, haystacks, depths, the first wordings and the score are RULER's (``niah.py`` and
``synthetic.yaml`` @c3f5e3b4). Its essays and word lists are downloads; here running text is real
source text (``sources``) and keys are other words, half of them made up. Beyond RULER, needles come
in other sentences, some with a value that does not count, and stand in the text in several ways
(``SKINS``), so that no one regular expression finds them all. Development and test seeds
have other words, sentences, skins, noise and real text than training. A window is streamed.

    window = make_window(length=2**12, seed=17, n_questions=2)
"""

from __future__ import annotations

import functools
import random
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from data_gen.tasks import lexicon, sources
from data_gen.tasks.task import BYTES_PER_TOKEN, Task, Window, task_id
from rlm_executor.errors import InputError

_WORDS_SHARE = 0.2  # of the windows with numbers that have words for values instead
_N_DEPTHS = 40  # RULER's points from 0 to 100 %
_BLOCK = 500  # needles that are yielded together


@dataclass(frozen=True)
class Kind:
    """One of RULER's tasks: what the needles lie in, what they hold, and how many there are."""

    haystack: str  # noise, text or needles
    keys: str = "words"
    values: str = "numbers"
    n_keys: int = 1  # at least so many in the window
    n_values: int = 1  # of each key
    n_queries: int = 1  # keys in one question


KINDS: dict[str, Kind] = {
    "single_1": Kind("noise"),
    "single_2": Kind("text"),
    "single_3": Kind("text", values="uuids"),
    "multikey_1": Kind("text", n_keys=4),
    "multikey_2": Kind("needles"),
    "multikey_3": Kind("needles", keys="uuids", values="uuids"),
    "multivalue": Kind("text", n_values=4),
    "multiquery": Kind("text", n_keys=4, n_queries=4),
}
# A needle's sentence; {one} is "number", {many} "numbers", {other} a value that does not count.
WORDINGS = (
    "One of the special magic {many} for {key} is: {value}.",  # RULER's
    "The special magic {one} for {key} is {value}.",
    "Remember the special magic {one} {value} when you see {key}.",
    "{value} is one of the special magic {many} for {key}.",
    "Once {other}, now {value} is the special magic {one} that {key} has.",
    "The special magic {one} for {key} is not {other}, it is {value}.",
)
WORDINGS_HELD_OUT = (
    "Whoever asks about {key} is told the special magic {one} {value}.",
    "The special magic {one} {value} replaced {other} and belongs to {key}.",
    "As a special magic {one}, {key} was given {value}.",
    "The special magic {one} of {key} is no longer {other} but {value}.",
)
_MIXED_SHARE = 0.25  # of the windows in which every needle draws its own sentence


@dataclass(frozen=True)
class Skin:
    """How needles stand in the text; ``records`` are there in place of sentences."""

    name: str
    frame: str = "{needle}"
    inline: bool = False  # within a line of the text, else on lines of their own
    wrapped: bool = False  # over several lines
    records: tuple[str, ...] = ()


SKINS = (
    Skin("line"),
    Skin("inline", inline=True),
    Skin("list", "- {needle}"),
    Skin("comment", "# {needle}"),
    Skin(
        "json",
        records=(
            '{{"for": "{key}", "special magic {one}": "{value}", "before": "{other}"}}',
            '{{"special magic": "{one}", "value": "{value}", "key": "{key}"}}',
        ),
    ),
)
SKINS_HELD_OUT = (
    Skin("quote", '> "{needle}"'),
    Skin("brackets", "[[{needle}]]", inline=True),
    Skin("wrapped", wrapped=True),
    Skin(
        "table",
        records=(
            "| {key} | special magic {one} | {value} |",
            "| special magic {one} | old: {other} | new: {value} | {key} |",
        ),
    ),
    Skin("tags", records=('<magic special="{one}" was="{other}" is="{value}" of="{key}"/>',)),
)
# (for one value, for several)
QUESTIONS = (
    (  # RULER's
        "What is the special magic {one} for {query} mentioned in the provided text?",
        "What are all the special magic {many} for {query} mentioned in the provided text?",
    ),
    (
        "Which special magic {one} does the text give for {query}?",
        "Which special magic {many} does the text give for {query}? List them all.",
    ),
    (
        "Find the special magic {one} of {query} in the text.",
        "Find every special magic {one} of {query} in the text.",
    ),
)
QUESTIONS_HELD_OUT = (
    (
        "Somewhere in there is a special magic {one} that goes with {query}. Report it.",
        "Somewhere in there are special magic {many} that go with {query}. Report each of them.",
    ),
    (
        "Look up {query}: what special magic {one} is it?",
        "Look up {query}: what special magic {many} are there?",
    ),
)
HEAD = (  # RULER's
    "Some special magic {many} are hidden within the following text. Make sure to memorize it. "
    "I will quiz you about the {many} afterwards.\n"
)
HEAD_HELD_OUT = "What follows is long; here and there it tells of special magic {many}.\n"
NOISE = (
    # RULER's
    "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again.\n",
    "The cup is full. The road is long. The night is cold. So it goes. Round and round we walk.\n",
)
NOISE_HELD_OUT = (
    "Rain falls on roofs. A dog sleeps by a gate. Clocks strike nine. That was all. Begin anew.\n",
)
_ADJECTIVES = lexicon.NEEDLE_ADJECTIVES_TRAIN + tuple(
    "agile barren candid damp elder fierce grave husky idle jaunty kindly lively muted".split()
)
_NOUNS = lexicon.NEEDLE_NOUNS_TRAIN + tuple(
    "abbey barrel cactus dungeon estuary feather goblet helmet inlet javelin kiosk".split()
)
_ADJECTIVES_HELD_OUT = lexicon.NEEDLE_ADJECTIVES_TEST + tuple(
    "alert bashful clumsy drowsy exotic frugal grumpy hushed inky jumpy lanky meek".split()
)
_NOUNS_HELD_OUT = lexicon.NEEDLE_NOUNS_TEST + tuple(
    "almanac bonfire cutlass doorbell easel flagon grotto hemlock icicle jukebox".split()
)
_MADE_UP_SHARE = 0.5


def make_window(length: int, seed: int, n_questions: int) -> Window:
    """A haystack of ``length`` tokens; the seed draws the kind, which all its questions have.

    Raises:
        InputError: the needles of so many questions do not fit.
    """
    rng = random.Random(f"ruler/{length}/{seed}")
    test = seed >= 700_000
    name = rng.choice(sorted(KINDS))
    kind = KINDS[name]
    words_instead = kind.values == "numbers" and rng.random() < _WORDS_SHARE
    values = "words" if words_instead else kind.values
    maker = _Needles(rng, kind.keys, values, test)
    n_asked = n_questions * kind.n_queries
    keys = maker.draw_keys(rng, max(kind.n_keys, n_asked))
    told = {key: [maker.value(rng) for _ in range(kind.n_values)] for key in keys}
    placed = sorted(
        (rng.randrange(_N_DEPTHS) / (_N_DEPTHS - 1), key, maker.needle(rng, key, value))
        for key, many in told.items()
        for value in many
    )
    questions = QUESTIONS_HELD_OUT if test else QUESTIONS
    tasks = []
    for index in range(n_questions):
        asked = keys[index * kind.n_queries : (index + 1) * kind.n_queries]
        gold = [value for key in asked for value in told[key]]
        tasks.append(
            Task(
                id=task_id("ruler", length, seed, index),
                family="ruler",
                question=rng.choice(questions)[len(gold) > 1].format(
                    one=values[:-1], many=values, query=_listed(asked)
                ),
                answer=gold,
                metric="string_match_all",
                meta={
                    "length": length,
                    "seed": seed,
                    "window_id": f"ruler-{length}-{seed}",
                    "kind": name,
                    "value_type": values,
                    "skin": maker.skin.name,
                    "depths": [round(depth, 3) for depth, key, _ in placed if key in asked],
                },
            )
        )
    head = (HEAD_HELD_OUT if test else HEAD).format(many=values) if rng.random() < 0.5 else ""
    n_bytes = length * BYTES_PER_TOKEN - len(head)
    needles = [(depth, text) for depth, _, text in placed]
    if sum(len(text) for _, text in needles) > 0.6 * n_bytes:
        raise InputError(f"{len(needles)} needles leave no haystack in {length} tokens; ask fewer")
    haystack_seed = rng.random()
    noise = rng.choice(NOISE_HELD_OUT if test else NOISE)
    split = "test" if test else "train"

    def chunks() -> Iterator[str]:
        own = random.Random(haystack_seed)
        if head:
            yield head
        if kind.haystack == "needles":
            yield from _among_needles(own, n_bytes, needles, maker)
        elif kind.haystack == "noise":
            yield from _within(n_bytes, needles, lambda: noise, maker.skin.inline)
        else:
            pieces = _pieces(split, maker.skin.inline)
            yield from _within(n_bytes, needles, lambda: own.choice(pieces), maker.skin.inline)

    return Window(
        id=f"ruler-{length}-{seed}",
        family="ruler",
        length=length,
        seed=seed,
        tasks=tasks,
        chunks=chunks,
        facts={"keys": keys, "source_sha256": sources.load(split).sha256},
    )


def floor_answer(window: Window, task: Task) -> str:
    """What a guesser says: as many random values of the asked type."""
    rng = random.Random(f"floor/{task.id}")
    made = [_value(rng, task.meta["value_type"], window.seed >= 700_000) for _ in task.answer]
    return ", ".join(made)


class _Needles:
    """Makes keys, values and needles of one window."""

    def __init__(self, rng: random.Random, keys: str, values: str, test: bool) -> None:
        self._keys, self._values, self._test = keys, values, test
        self.skin = rng.choice(SKINS_HELD_OUT if test else SKINS)
        wordings = WORDINGS_HELD_OUT if test else WORDINGS
        mixed = not self.skin.records and rng.random() < _MIXED_SHARE
        self.templates = wordings if mixed else (rng.choice(self.skin.records or wordings),)
        self._planted: dict[str, None] = {}
        self._used: set[str] = set()

    def draw_keys(self, rng: random.Random, count: int) -> list[str]:
        """Keys that stand nowhere else, not in each other either; some share a word."""
        text = _all_text("test" if self._test else "train")
        while len(self._planted) < count:
            key = _value(rng, self._keys, self._test)
            if self._planted and self._keys == "words" and rng.random() < 0.4:
                first, second = rng.choice(list(self._planted)).split("-")
                own, other = key.split("-")
                key = rng.choice((f"{first}-{other}", f"{own}-{second}"))
            if not self._clashes(key) and key not in text:
                self._planted[key] = None
        return list(self._planted)

    def value(self, rng: random.Random) -> str:
        """A value that no other needle of the planted keys has."""
        value = self._free(rng, self._values)
        self._used.add(value)
        return value

    def needle(self, rng: random.Random, key: str, value: str) -> str:
        """The needle as it stands in the text; it changes nothing here."""
        template = rng.choice(self.templates)
        fields = {"one": self._values[:-1], "many": self._values, "key": key, "value": value}
        if "{other}" in template:
            fields["other"] = self._free(rng, self._values)
        text = self.skin.frame.format(needle=template.format(**fields))
        if not self.skin.wrapped:
            return text
        words, size = text.split(" "), rng.randint(4, 6)
        return "\n".join(" ".join(words[at : at + size]) for at in range(0, len(words), size))

    def filler(self, rng: random.Random) -> str:
        """The needle of a key that is not asked for."""
        return self.needle(rng, self._free(rng, self._keys), self._free(rng, self._values))

    def _free(self, rng: random.Random, names: str) -> str:
        while (name := _value(rng, names, self._test)) in self._used or self._clashes(name):
            pass
        return name

    def _clashes(self, name: str) -> bool:
        for key in self._planted:
            if key in name or name in key:
                return True
        return False


def _value(rng: random.Random, values: str, test: bool) -> str:
    """A name of the type ``values``; the words of the two splits are others."""
    if values == "numbers":
        return str(rng.randrange(10**6, 10**7))
    if values == "uuids":
        return str(uuid.UUID(int=rng.getrandbits(128), version=4))
    if rng.random() < _MADE_UP_SHARE:
        return f"{rng.choice(_made_up(test))}-{rng.choice(_made_up(test))}"
    if test:
        return f"{rng.choice(_ADJECTIVES_HELD_OUT)}-{rng.choice(_NOUNS_HELD_OUT)}"
    return f"{rng.choice(_ADJECTIVES)}-{rng.choice(_NOUNS)}"


_LISTED = {*_ADJECTIVES, *_NOUNS, *_ADJECTIVES_HELD_OUT, *_NOUNS_HELD_OUT}


@functools.cache
def _made_up(test: bool) -> tuple[str, ...]:
    """Made-up words of a split; 16 million keys are enough for the longest window of needles."""
    rng = random.Random(f"ruler/words/{test}")
    make = lexicon.nonce_held_out if test else lexicon.nonce
    return tuple(sorted({make(rng) for _ in range(4_000)} - _LISTED))


def _listed(names: list[str]) -> str:
    """As RULER lists keys."""
    return f"{', '.join(names[:-1])}, and {names[-1]}" if len(names) > 1 else names[0]


@functools.cache
def _all_text(split: str) -> str:
    return "".join(sources.load(split).pieces)


@functools.cache
def _pieces(split: str, inline: bool) -> tuple[str, ...]:
    """Real text; as one line a piece where needles stand within lines."""
    pieces = sources.load(split).pieces
    return tuple(" ".join(piece.split()) + "\n" for piece in pieces) if inline else pieces


def _within(
    n_bytes: int, placed: list[tuple[float, str]], draw: Callable[[], str], inline: bool
) -> Iterator[str]:
    """``n_bytes`` of what ``draw`` gives, with each needle after its share of it."""
    room = n_bytes - sum(len(text) + 1 for _, text in placed)
    pending = [(int(depth * room), text) for depth, text in placed]
    written = 0
    while written < room:
        piece = draw()
        if len(piece) > room - written:
            piece = piece[: room - written - 1] + "\n"
        start, written = written, written + len(piece)
        here = [needle for needle in pending if needle[0] < written or written >= room]
        pending = pending[len(here) :]
        last = len(piece) - 1
        for at, text in reversed(here):  # from the end, so that offsets stay true
            piece = _insert(piece, min(at - start, last), text, inline)
        yield piece


def _insert(piece: str, at: int, needle: str, inline: bool) -> str:
    """The piece with the needle at the first seam from ``at`` on."""
    if not inline:
        at = piece.find("\n", at - 1) + 1 if 0 < at < len(piece) else at
        return f"{piece[:at]}{needle}\n{piece[at:]}"
    if at > 0:
        seam = piece.find(". ", at, at + 200) + 1 or piece.find(" ", at)
        if seam < 0:
            return f"{piece[:-1]} {needle}\n"
        at = seam + 1
    return f"{piece[:at]}{needle} {piece[at:]}"


def _among_needles(
    rng: random.Random, n_bytes: int, placed: list[tuple[float, str]], maker: _Needles
) -> Iterator[str]:
    """At most ``n_bytes`` of other keys' needles, with each needle after its share of them."""
    room = n_bytes - sum(len(text) + 1 for _, text in placed)
    pending = [(int(depth * room), text) for depth, text in placed]
    written = 0
    block: list[str] = []
    while True:
        fillers = (maker.filler(rng) for _ in range(8))
        filler = next((text for text in fillers if len(text) < room - written), None)
        while pending and (pending[0][0] <= written or filler is None):
            block.append(pending.pop(0)[1])
        if filler is not None:
            block.append(filler)
            written += len(filler) + 1
        if filler is None or len(block) >= _BLOCK:
            gaps = " \n" if maker.skin.inline else "\n\n"
            yield "".join(f"{text}{gaps[at % 8 == 7]}" for at, text in enumerate(block))
            block = []
        if filler is None:
            return
