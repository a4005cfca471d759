"""The lines under ``oolong_full`` and ``pairs_full``: a world's texts in a skin, by users, dated.

A head names the labels and, where made-up words stand for them, explains the words; the lines
follow, and perhaps a last sentence. Label, user and date are drawn together from three mixes: the
window's, the user's own (``taste``) and, from some day on, another (``drift``), so that what
holds for all lines need not hold for some of them. A long window is drawn twice from the same
random numbers, once for its truth and once for its text, and is never held as a whole.
"""

from __future__ import annotations

import datetime
import itertools
import math
import random
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from data_gen.tasks import lexicon
from data_gen.tasks.skins import Entry, Skin, draw_skin
from data_gen.tasks.task import BYTES_PER_TOKEN
from data_gen.tasks.worlds import World, draw_world

HEADS: tuple[str, ...] = (
    "The following {count} lines are notes, one a line. Each has one of {k} labels: {labels}.",
    "Below are {count} short notes. Every note belongs to one of these {k} kinds: {labels}.",
    "Here is a list of {count} notes. No label is written down; it is one of: {labels}.",
)
HEADS_HELD_OUT: tuple[str, ...] = (
    "What comes next are {count} remarks. A remark falls into one class out of {k}: {labels}.",
    "You find {count} remarks underneath, to be sorted into {k} groups: {labels}.",
)
KEYS: tuple[str, ...] = ("Made-up words tell the label:", "These words stand for the labels:")
KEYS_HELD_OUT: tuple[str, ...] = ("Which words mean which group:",)
TAILS: tuple[str, ...] = ("These were all {count} notes.", "The list ends here.")
TAILS_HELD_OUT: tuple[str, ...] = ("There is no further remark.",)
# Days on which a window may begin; none of a training window is a day of another split's.
_FIRST, _FIRST_HELD_OUT = datetime.date(2018, 1, 1), datetime.date(2023, 1, 1)
_START_DAYS, _SPANS = 700, (60, 150, 400, 900)
# User numbers, by split.
_NUMBERS, _NUMBERS_HELD_OUT = range(1_000, 70_000), range(70_000, 1_000_000)
_LINE_BYTES = 105  # of a typical line: an estimate for the number of users
_REDRAWS = 40  # texts tried for what is left at the end


class Row(NamedTuple):
    """A line's truth: what is asked about is worked out from these."""

    date: datetime.date
    user: str
    label: str


@dataclass(frozen=True)
class Crowd:
    """How many users write: ``common`` of 100 lines' worth of users write ``share`` of the lines.

    Args:
        common: users that write often, for each 100 lines.
        others: users that write seldom, for each 100 lines.
        share: of the lines that are by common users.
        most: users of a kind at most.
        numeric: whether all are numbers; otherwise names, in some windows.
    """

    common: int
    others: int
    share: float
    most: int
    numeric: bool


@dataclass
class Sheet:
    """The lines of one window; ``rows`` is their truth, in the order of the text."""

    name: str
    length: int
    held_out: bool
    world: World
    skin: Skin
    labels: tuple[str, ...]
    head: str
    tail: str
    common: list[str]
    others: list[str]
    share: float
    taste: float
    drift: float
    first: datetime.date
    span: int
    rows: list[Row] = field(default_factory=list, repr=False)

    def entries(self) -> Iterator[Entry]:
        """The lines, the same each time."""
        rng = random.Random(f"{self.name}/lines")
        world = replace(self.world, _cells={})
        mixes = _Mixes(self)
        head = self.head.format(count=10**7) + self.skin.head
        left = self.length * BYTES_PER_TOKEN - len((head + self.tail.format(count=10**7)).encode())
        while True:
            pool = self.common if rng.random() < self.share else self.others
            user = rng.choice(pool)
            day = rng.randrange(self.span)
            label = mixes.label(rng, user, day)
            date = self.first + datetime.timedelta(day)
            for _ in range(1 if left > 400 else _REDRAWS):
                entry = Entry(date, user, world.text(rng, label), label)
                size = len(self.skin.render(entry))
                if size <= left:
                    break
            else:
                return
            left -= size
            yield entry

    def chunks(self) -> Iterator[str]:
        """The context, in pieces of a thousand lines."""
        yield self.head.format(count=len(self.rows)) + self.skin.head
        lines = self.entries()
        while part := list(itertools.islice(lines, 1000)):
            yield "".join(map(self.skin.render, part))
        yield self.tail.format(count=len(self.rows))

    def users(self) -> list[str]:
        """Who wrote any line, in the order of their numbers or names."""
        return sorted({row.user for row in self.rows}, key=lambda user: (len(user), user))


class _Mixes:
    """How likely a user gives a label on a day."""

    def __init__(self, sheet: Sheet) -> None:
        self._rng = random.Random(f"{sheet.name}/mixes")
        self._sheet = sheet
        self._base = [self._rng.uniform(0.3, 1.0) ** 2 for _ in sheet.labels]
        self._later = self._tilt(sheet.drift)
        self._change = int(sheet.span * self._rng.uniform(0.3, 0.7))
        self._known: dict[tuple[str, bool], list[float]] = {}

    def label(self, rng: random.Random, user: str, day: int) -> str:
        late = day >= self._change
        if (user, late) not in self._known:
            # Of its own random numbers: else who writes first would change everybody's taste.
            own = self._tilt(self._sheet.taste, random.Random(f"{self._sheet.name}/{user}"))
            later = self._later if late else itertools.repeat(1.0)
            weights = (a * b * c for a, b, c in zip(self._base, own, later, strict=False))
            self._known[user, late] = list(itertools.accumulate(weights))
        return rng.choices(self._sheet.labels, cum_weights=self._known[user, late])[0]

    def _tilt(self, size: float, rng: random.Random | None = None) -> list[float]:
        rng = rng or self._rng
        return [math.exp(rng.gauss(0, size)) for _ in self._sheet.labels]


def draw_sheet(name: str, length: int, held_out: bool, crowd: Crowd) -> Sheet:
    """The lines that ``name``, the window's family, length and seed, stands for."""
    rng = random.Random(name)
    world, skin = draw_world(rng, held_out), draw_skin(rng, held_out)
    labels = tuple(rng.sample(world.labels, len(world.labels)))
    heads, keys = (HEADS_HELD_OUT, KEYS_HELD_OUT) if held_out else (HEADS, KEYS)
    head = rng.choice(heads).replace("{k}", str(len(labels)))
    head = head.replace("{labels}", ", ".join(labels)) + "\n\n"
    if world.glossary:
        head += f"{rng.choice(keys)}\n{world.glossary}\n\n"
    tail = "\n" + rng.choice(TAILS_HELD_OUT if held_out else TAILS) + "\n"
    hundreds = length * BYTES_PER_TOKEN / _LINE_BYTES / 100
    counts = [
        min(crowd.most, max(least, int(part * hundreds)))
        for least, part in ((3, crowd.common), (4, crowd.others))
    ]
    numeric = crowd.numeric or rng.random() < 0.6
    users = _users(rng, held_out, sum(counts), numeric, {w for own in world.terms for w in own})
    sheet = Sheet(
        name=name,
        length=length,
        held_out=held_out,
        world=world,
        skin=skin,
        labels=labels,
        head=head,
        tail=tail if rng.random() < 0.4 else "",
        common=users[: counts[0]],
        others=users[counts[0] :],
        share=crowd.share,
        taste=rng.choice((0.0, 0.5, 1.0)),
        drift=rng.choice((0.0, 0.5, 1.0)),
        first=(_FIRST_HELD_OUT if held_out else _FIRST)
        + datetime.timedelta(rng.randrange(_START_DAYS)),
        span=rng.choice(_SPANS),
    )
    sheet.rows = [Row(entry.date, entry.user, entry.label) for entry in sheet.entries()]
    return sheet


def _users(
    rng: random.Random, held_out: bool, count: int, numeric: bool, taken: set[str]
) -> list[str]:
    """Numbers or made-up names; the splits share neither."""
    if numeric:
        numbers = _NUMBERS_HELD_OUT if held_out else _NUMBERS
        return [str(number) for number in rng.sample(numbers, count)]
    make = lexicon.nonce_held_out if held_out else lexicon.nonce
    names: dict[str, None] = {}
    while len(names) < count:
        name = make(rng)
        if name not in taken:
            names[name] = None
    return list(names)
