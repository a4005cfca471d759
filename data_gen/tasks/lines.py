"""The labelled lines under ``oolong`` and ``pairs``: dated, by users, label to be inferred.

The layout of a line is OOLONG's (arXiv 2511.02817, ``oolong-synth``); the text is ours. Label,
user and date are drawn independently of each other and of the position.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

from data_gen.tasks import lexicon
from data_gen.tasks.task import BYTES_PER_TOKEN

_HEADER = (
    "The following lines contain {count} notes, one per line. "
    "Each note tells of one thing that can be labelled as one of {k} categories: {labels}.\n\n"
)


@dataclass(frozen=True)
class Line:
    """One note: who wrote it when, its text, and the label that the text implies."""

    date: str
    user: str
    text: str
    label: str

    def render(self) -> str:
        """The note as it stands in the context, without its label."""
        return f"Date: {self.date} || User: {self.user} || Instance: {self.text}\n"


def draw_lines(
    rng: random.Random, length: int, *, users_per_line: float, held_out_frames: bool
) -> tuple[list[str], list[Line]]:
    """Labels of a window of ``length`` tokens (4 to 6 of them) and its lines."""
    labels = rng.sample(sorted(lexicon.CATEGORIES), rng.choice((4, 5, 6)))
    frames = lexicon.FRAMES + (lexicon.FRAMES_HELD_OUT if held_out_frames else ())
    # Class mix as in OOLONG: a softmax-like draw, so that some labels are rare.
    weights = [rng.uniform(0.3, 1.0) ** 2 for _ in labels]
    budget = length * BYTES_PER_TOKEN - 250
    n_users = max(4, int(budget / 95 * users_per_line))
    users = [str(user) for user in rng.sample(range(1000, 10_000), min(n_users, 9_000))]
    lines: list[Line] = []
    while True:
        label = rng.choices(labels, weights)[0]
        text = rng.choice(frames).format(
            name=rng.choice(lexicon.NAMES), thing=rng.choice(lexicon.CATEGORIES[label])
        )
        date = f"{rng.choice(lexicon.MONTHS)} {rng.randint(1, 28)}, {rng.randint(2022, 2024)}"
        line = Line(date, rng.choice(users), text, label)
        budget -= len(line.render())
        if budget < 0:
            return labels, lines
        lines.append(line)


def render(labels: list[str], lines: list[Line]) -> Iterator[str]:
    """The context: a header that names the labels, then the lines."""
    yield _HEADER.format(count=len(lines), k=len(labels), labels=", ".join(labels))
    for start in range(0, len(lines), 1000):
        yield "".join(line.render() for line in lines[start : start + 1000])
