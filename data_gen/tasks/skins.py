"""How a labelled line is laid out in a context: OOLONG's layout and others, in two splits.

A layout is never named in the question: who wants to read the lines looks at the context first.
"""

from __future__ import annotations

import datetime
import random
from dataclasses import dataclass
from functools import cache


@dataclass(frozen=True)
class Entry:
    """One line's content: who wrote it when, its text, and the label that the text implies."""

    date: datetime.date
    user: str
    text: str
    label: str


@dataclass(frozen=True)
class Skin:
    """A layout: ``line`` has ``{date}``, ``{user}`` and ``{text}``; ``head`` stands above all."""

    name: str
    line: str
    dates: str  # strftime
    head: str = ""

    def day(self, date: datetime.date) -> str:
        """The date as this layout, and a question about it, writes it."""
        return _written(date, self.dates)

    def render(self, entry: Entry) -> str:
        """The line as it stands in the context, without its label."""
        return self.line.format(date=self.day(entry.date), user=entry.user, text=entry.text) + "\n"


@cache
def _written(date: datetime.date, form: str) -> str:
    """Cached: a long window writes each of its days hundreds of times."""
    return date.strftime(form)


SKINS: tuple[Skin, ...] = (
    # arXiv 2511.02817, oolong-synth
    Skin("oolong", "Date: {date} || User: {user} || Instance: {text}", "%b %d, %Y"),
    Skin("log", "[{date}] u/{user}: {text}", "%Y-%m-%d"),
    Skin("csv", '{date},{user},"{text}"', "%Y-%m-%d", head="date,user,text\n"),
    Skin("json", '{{"date": "{date}", "user": "{user}", "text": "{text}"}}', "%Y-%m-%d"),
    Skin("pipes", "{user} | {date} | {text}", "%d.%m.%Y"),
)
SKINS_HELD_OUT: tuple[Skin, ...] = (
    Skin("tabs", "{text}\t{user}\t{date}", "%Y-%m-%d", head="note\tauthor\tday\n"),
    Skin("angles", "<{user} {date}> {text}", "%Y/%m/%d"),
    Skin("letters", "On {date} user {user} wrote: {text}", "%d %B %Y"),
)


def draw_skin(rng: random.Random, held_out: bool) -> Skin:
    """A layout of the training split, or of the other."""
    return rng.choice(SKINS_HELD_OUT if held_out else SKINS)
