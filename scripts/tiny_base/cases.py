"""What the tiny base is measured on: cases of the skills in held-out words, and their aims."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from scripts.tiny_base.labels import label
from scripts.tiny_base.mixture import encode
from scripts.tiny_base.skills import Case, Sample, Size, Skills
from scripts.tiny_base.words import Words

COPIES = ("copy", "passage", "fill")
LINES = 16


@dataclass(frozen=True)
class Row:
    """One figure: a kind of case, prompts of ``shortest`` to ``longest`` tokens, its aim."""

    kind: str
    shortest: int
    longest: int
    aim: float
    by_line: bool = False

    @property
    def name(self) -> str:
        """As in ``skills.json``."""
        return f"{self.kind}_{self.longest}" if self.longest in (1024, 4000) else self.kind


ROWS: tuple[Row, ...] = (
    *(Row(kind, 0, 1024, 0.98) for kind in (*COPIES, "look_up")),
    *(Row(kind, 3400, 4000, 0.95) for kind in ("copy", "passage", "look_up")),
    Row("extract", 0, 1024, 0.97),
    Row("extract", 3400, 4000, 0.95),
    Row("compare", 0, 512, 0.97),
    *(Row(kind, 0, 1000, 0.97, True) for kind in ("things", "squares")),
    Row("glossary", 0, 1000, 0.90, True),
)


def cases(
    row: Row, tokenizer: PreTrainedTokenizerBase, source: list[str], count: int
) -> Iterator[tuple[Sample, list[int]]]:
    """``count`` samples of ``row`` with their ids, the same ones each time."""
    words = Words(held_out=True)
    skills = Skills(source, words)
    rng = random.Random(f"measure/{row.name}")
    made = 0
    while made < count:
        # What is aimed at in tokens is made in characters: each try is scaled by the one before.
        target, scale = rng.uniform(max(row.shortest, 100), row.longest - 40), 2.0
        state = rng.random()
        for _ in range(8):
            sample = _sample(random.Random(state), row, skills, words, int(target * scale))
            ids = encode(tokenizer, sample, False)[0]
            answer = len(tokenizer(sample[-1][1])["input_ids"])
            if row.shortest <= len(ids) - answer <= row.longest and len(ids) < 4080:
                made += 1
                yield sample, ids
                break
            scale *= (row.shortest + row.longest) / 2 / len(ids)


def _sample(rng: random.Random, row: Row, skills: Skills, words: Words, room: int) -> Sample:
    if row.by_line:
        case = label(rng, words, row.kind, LINES, LINES)
        asked, answer = case.turns[0]
        text = f"{case.given}\n\n{asked}" if asked else case.given
        return [("user", text), ("assistant", answer)]
    short = row.kind in ("copy", "fill", "compare")
    given = min(room, 400) if short else room
    case: Case = getattr(skills, row.kind)(
        rng, Size(given, 10_000 if row.kind in ("look_up", "extract") else 20)
    )
    sample = skills.conversation(rng, case, room)
    if row.longest == 4000 and len(case.given) < room - 500:  # a long prompt is asked for
        return skills.lengthen(rng, sample, case, room)
    return sample
