"""What the tiny base is taught: copy, look up, extract and compare (``label`` has its own file).

A skill makes a ``Case``: what is given, and one or more questions about it with their answers.
Several questions about one given text cost little more than one and teach several times as much.
``conversation`` lays a case out: question before or after, other text between, in one message or
in several turns. Nothing here shows the REPL, its fences, ``llm_query`` or any trace of an agent:
the loop is what fine-tuning has to teach.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass

from data_gen.tasks import lexicon
from data_gen.tasks.niah import prose
from scripts.tiny_base import wordings
from scripts.tiny_base.words import Words, nearly, numbers_to_compare

Sample = list[tuple[str, str]]
"""``(role, text)`` of a conversation, or one ``("text", ...)`` to be continued."""


@dataclass(frozen=True)
class Case:
    """What is given, and ``(asked, answer)`` pairs about it.

    ``about`` says of each line of each answer what it speaks of: a line of what is given, and the
    word in it that decides (two: the later, the earlier); or what was asked for, as the question
    writes it. Empty: not told.
    ``whole``: the question speaks of all that is given, so what stands around it must look unlike
    it, or nobody could know what is meant.
    """

    given: str
    turns: list[tuple[str, str]]
    about: tuple[tuple[tuple[str, ...], ...], ...] = ()
    whole: bool = False


@dataclass(frozen=True)
class Size:
    """How large a case may be: characters of what is given, list items, questions."""

    room: int
    items: int
    turns: int = 1


class Skills:
    """Cases of each skill in the words of one split, around pieces of ``source`` code."""

    def __init__(self, source: Sequence[str], words: Words) -> None:
        self.words = words
        self._lines = [
            line for text in source for line in text.splitlines() if 8 < len(line.strip()) < 70
        ]

    # Copy ---------------------------------------------------------------------------------------

    def copy(self, rng: random.Random, size: Size) -> Case:
        """The same words again, as they stand or in another form."""
        words = self._list(rng, size)
        if len(words) == 1:  # or it could be two
            words = [re.sub(r"[, ]+", "-", words[0])]
        held = "\r".join(words)
        joints = [j for j in (" ", ", ", "\n", self.words.gap(rng)) if j not in held]
        source = rng.choice(self.words.of(joints, joints)).join(words)
        turns = []
        for _ in range(rng.randint(1, min(size.turns, 3))):
            if rng.random() < 0.9 - 0.5 * self.words.breadth:
                turns.append(
                    (rng.choice(self.words.of(wordings.AGAIN, wordings.AGAIN_HELD_OUT)), source)
                )
            else:
                asks, form = rng.choice(self.words.of(wordings.FORMS, wordings.FORMS))
                turns.append((rng.choice(asks[-1:] if self.words.held_out else asks[:-1]),
                              form(words)))  # fmt: skip
        return Case(source, turns, whole=True)

    def fill(self, rng: random.Random, size: Size) -> Case:
        """Copying into patterns with numbered blanks."""
        words = [self.words.token(rng) for _ in range(rng.randint(1, min(6, size.items)))]
        if self.words.at_random(rng, 0.6):
            pattern = self._pattern(rng)
        else:
            pattern = rng.choice(self.words.of(wordings.PATTERNS, wordings.PATTERNS_HELD_OUT))
        pieces = [pattern.replace("@", f"<{i}>") for i in range(1, len(words) + 1)]
        joint = rng.choice(("\n", " ", ", "))
        answer = joint.join(pattern.replace("@", word) for word in words)
        return Case(_blanks(words), [(f"Fill in:\n{joint.join(pieces)}", answer)])

    def _pattern(self, rng: random.Random) -> str:
        """A piece of source or of random words and marks, with ``@`` once or twice."""
        if rng.random() < 0.5:
            words = rng.choice(self._lines).strip()[:40].replace("@", "").split(" ")
            words.insert(rng.randrange(len(words) + 1), "@")
            return " ".join(words)
        parts = [self.words.any_word(rng) for _ in range(rng.randint(0, 3))]
        for _ in range(1 if rng.random() < 0.8 else 2):
            left, right = self.words.fence(rng)
            parts.insert(rng.randint(0, len(parts)), f"{left}@{right}")
        return "".join(part + rng.choice((" ", "", "=", ".", ", ")) for part in parts).strip()

    def passage(self, rng: random.Random, size: Size) -> Case:
        """One of several passages again, by its name or by the marks around it."""
        left, right = self.words.fence(rng)
        if rng.random() < 0.3 * self.words.breadth:  # one marked passage in other text
            inner = self._passage(rng, size)
            before = self.filler(rng, rng.randint(0, size.room))
            after = self.filler(rng, max(0, size.room - len(before)))
            ask = rng.choice(self.words.of(wordings.BETWEEN, wordings.BETWEEN_HELD_OUT))
            for _ in range(20):  # marks that stand nowhere else
                left, right = self.words.fence(rng)
                text = f"{before}\n{inner}\n{after}"
                if left.strip() not in text and right.strip() not in text:
                    break
            given = f"{before}\n{left}{inner}{right}\n{after}"
            return Case(given, [(ask.format(left=left.strip(), right=right.strip()), inner)])
        passages: dict[str, str] = {}
        room = size.room
        while not passages or (room > 0 and len(passages) < 40):
            body = self._passage(rng, size)
            passages[self.words.token(rng)] = body
            room -= len(body) + 16
        given = "\n".join(f"{left}{title}{right}\n{body}" for title, body in passages.items())
        titles = self._some(rng, list(passages), size.turns)
        asks = self.words.of(wordings.PASSAGE, wordings.PASSAGE_HELD_OUT)
        turns = [(rng.choice(asks).format(t), passages[t]) for t in titles]
        return Case(given, turns, tuple(((t, t),) for t in titles))

    # Look up ------------------------------------------------------------------------------------

    def look_up(self, rng: random.Random, size: Size) -> Case:
        """The values of keys, or the keys of values, among many."""
        pairs: dict[str, str] = {}
        room = size.room
        while not pairs or (room > 0 and len(pairs) < size.items):
            key, value = self.words.token(rng), self.words.token(rng)
            if key in pairs or value in pairs.values():
                continue
            pairs[key] = value
            room -= len(key) + len(value) + 4
        lines, form = self._pair_lines(rng, pairs)
        if (
            form is None and rng.random() < 0.5 * self.words.breadth and size.room > 200
        ):  # strewn into other text
            others = self.filler(rng, size.room // 2).splitlines()
            places = sorted(rng.randint(0, len(others)) for _ in lines)
            for place, line in reversed(list(zip(places, lines, strict=True))):
                others.insert(place, line)
            given = "\n".join(others)
        else:
            given = form or self.words.bullets(rng, lines)
        turns, about = [], []
        for key in self._some(rng, list(pairs), size.turns):
            kind = rng.random() / max(0.01, self.words.breadth)
            if kind < 0.25 and form is None:
                asks = self.words.of(wordings.KEY_OF, wordings.KEY_OF_HELD_OUT)
                turns.append((rng.choice(asks).format(pairs[key]), key))
                about.append(((pairs[key], pairs[key]),))
            elif kind < 0.45 and len(pairs) > 2:
                more = list(dict.fromkeys([key, *rng.sample(list(pairs), rng.randint(1, 2))]))
                ask = rng.choice(self.words.of(wordings.VALUES_OF, wordings.VALUES_OF_HELD_OUT))
                turns.append((ask.format(", ".join(more)), "\n".join(pairs[k] for k in more)))
                about.append(tuple((k, k) for k in more))
            else:
                asks = self.words.of(wordings.VALUE_OF, wordings.VALUE_OF_HELD_OUT)
                turns.append((rng.choice(asks).format(key), pairs[key]))
                about.append(((key, key),))
        return Case(given, turns, tuple(about))

    def _pair_lines(
        self, rng: random.Random, pairs: dict[str, str]
    ) -> tuple[list[str], str | None]:
        kind = rng.random() / max(0.01, self.words.breadth)
        if kind < 0.12:
            return [], json.dumps(pairs, indent=rng.choice((None, 1)))
        if kind < 0.4:
            if self.words.at_random(rng, 0.5):
                sentence = self._sentence(rng)
            else:
                sentence = rng.choice(
                    self.words.of(wordings.SENTENCES, wordings.SENTENCES_HELD_OUT)
                )
            return [sentence.format(k=k, v=v) for k, v in pairs.items()], None
        mark = self.words.mark(rng)
        return [f"{k}{mark}{v}" for k, v in pairs.items()], None

    def _sentence(self, rng: random.Random) -> str:
        """Key and value in either order, random words around them, perhaps in marks."""
        parts = rng.sample(("{k}", "{v}"), 2)
        if rng.random() < 0.3:
            left, right = self.words.fence(rng)
            fenced = rng.randrange(2)
            left, right = (mark.replace("{", "<").replace("}", ">") for mark in (left, right))
            parts[fenced] = f"{left}{parts[fenced]}{right}"
        return self.words.strew(rng, *parts, most=3) + rng.choice(("", ".", ";", " !"))

    # Extract ------------------------------------------------------------------------------------

    def extract(self, rng: random.Random, size: Size) -> Case:
        """Fields of records: one by another, or a whole column."""
        kinds = rng.sample(list(wordings.FIELDS), rng.randint(2, min(5, 2 + size.items // 2)))
        if rng.random() < 0.3 * self.words.breadth:
            names = list(dict.fromkeys(self.words.nonce(rng) for _ in kinds))
            kinds = kinds[: len(names)]
        else:
            names = [rng.choice(wordings.FIELDS[kind]) for kind in kinds]
        records: list[list[str]] = []
        room = size.room
        while not records or (room > 0 and len(records) < size.items):
            records.append([self._value(rng, kind) for kind in kinds])
            room -= sum(map(len, records[-1])) + 4 * len(kinds)
        given = self._table(rng, names, records)
        turns, about = [], []
        for record in self._some(rng, records, size.turns):
            asked, by = rng.sample(range(len(kinds)), 2) if len(kinds) > 1 else (0, 0)
            shown = [cell for other in records for cell in other]
            if shown.count(record[by]) > 1 or (rng.random() < 0.15 and len(records) <= 24):
                ask = rng.choice(self.words.of(wordings.COLUMN, wordings.COLUMN_HELD_OUT))
                answer = "\n".join(other[asked] for other in records)
                if len(answer) > 500:
                    continue
                turns.append((ask.format(f=names[asked]), answer))
                about.append(())
            else:
                ask = rng.choice(self.words.of(wordings.FIELD, wordings.FIELD_HELD_OUT))
                ask = ask.format(f=names[asked], g=names[by], v=record[by])
                turns.append((ask, record[asked]))
                about.append(((record[by], record[by]),))
        return Case(given, turns, tuple(about)) if turns else self.extract(rng, size)

    def _value(self, rng: random.Random, kind: str) -> str:
        if kind == "user":
            return self.words.name(rng) if rng.random() < 0.5 else str(rng.randint(1000, 9999))
        if kind == "date":
            return self.words.date(rng)
        if kind == "text":
            return self.words.telling(
                rng, rng.choice(rng.choice(list(lexicon.CATEGORIES.values())))
            )
        if kind == "place":
            return self.words.nonce(rng).capitalize()
        return self.words.number(rng) if kind == "amount" else self.words.code(rng)

    def _table(self, rng: random.Random, names: list[str], records: list[list[str]]) -> str:
        kind, cells = rng.random() / max(0.01, self.words.breadth), "\r".join(sum(records, []))
        gap = next((g for g in (self.words.gap(rng) for _ in range(4)) if g not in cells), "\t")
        if kind < 0.15:
            rows = [json.dumps(dict(zip(names, record, strict=True))) for record in records]
            return "\n".join(rows)
        if kind < 0.3:  # the names only above the columns
            return "\n".join(gap.join(row) for row in (names, *records))
        if kind < 0.4:  # a block a record
            mark = self.words.mark(rng)
            blocks = [
                "\n".join(f"{n}{mark}{v}" for n, v in zip(names, record, strict=True))
                for record in records
            ]
            return "\n\n".join(blocks)
        mark = rng.choice(self.words.of((": ", "=", ":", " is ", " "), (" @ ", " &: ")))
        if self.words.at_random(rng, 0.4):
            mark = self.words.mark(rng)
        rows = [
            gap.join(f"{n}{mark}{v}" for n, v in zip(names, record, strict=True))
            for record in records
        ]
        return self.words.bullets(rng, rows)

    # Compare ------------------------------------------------------------------------------------

    def compare(self, rng: random.Random, size: Size) -> Case:
        """Numbers and equality, one answer for each line."""
        kind = rng.randrange(4)
        lines: list[tuple[str, str]] = []
        gap = rng.choice((", ", " and ", self.words.gap(rng)))
        word, other = rng.choice(wordings.MORE_LESS)
        best = max if other == "larger" else min
        room = size.room
        for _ in range(rng.randint(1, min(12, size.items))):
            if kind < 3:
                most = 2 if kind != 1 else rng.randint(3, 3 + min(3, size.items // 3))
                numbers = numbers_to_compare(rng, most, min(5, 1 + size.items // 2))
                if kind < 2:
                    lines.append((gap.join(map(str, numbers)), str(best(numbers))))
                else:
                    first, second = self.words.token(rng), self.words.token(rng)
                    says = "more" if numbers[0] > numbers[1] else "less"
                    lines.append((f"{first}: {numbers[0]}{gap}{second}: {numbers[1]}", says))
            else:
                first = self.words.token(rng)
                second = nearly(rng, first) if rng.random() < 0.3 else self.words.token(rng)
                if rng.random() < 0.5:
                    second = first
                lines.append((f"{first}{gap}{second}", "yes" if first == second else "no"))
            room -= len(lines[-1][0]) + 4
            if room < 0:
                break
        given = self.words.bullets(rng, [line for line, _ in lines])
        asks = (wordings.PICK, wordings.PICK, wordings.COMMON, wordings.SAME)[kind]
        ask = rng.choice(asks[-1:] if self.words.held_out else asks[:-1]).format(word=word)
        about = tuple((line, line) for line, _ in lines)
        answer = "\n".join(answer for _, answer in lines)
        return Case(given, [(ask, answer)], (about,), whole=True)

    # Around them --------------------------------------------------------------------------------

    def conversation(self, rng: random.Random, case: Case, room: int) -> Sample:
        """The messages of ``case`` in about ``room`` characters, with other text where it fits."""
        (asked, answer), *more = case.turns
        given, spare = case.given, room - len(case.given)
        kind = rng.random()
        if spare > 80 and kind < 0.35:
            between = self.filler(rng, rng.randint(40, spare), not case.whole)
            given = f"{between}\n\n{given}" if rng.random() < 0.3 else f"{given}\n\n{between}"
        if kind < 0.1 or (kind > 0.9 and not more):
            start = [("system", given), ("user", asked)]
        elif kind < 0.2 and not more:
            start = [("user", f"{asked}\n\n{given}")]
        elif 0.35 < kind < 0.45 and spare > 200:  # another question first
            size = Size(100, 3)
            first = rng.choice((self.copy, self.fill, self.compare))(rng, size)
            before, replied = first.turns[0]
            start = [("user", f"{first.given}\n\n{before}"), ("assistant", replied),
                     ("user", f"{given}\n\n{asked}")]  # fmt: skip
        else:
            start = [("user", f"{given}\n\n{asked}")]
        for next_asked, next_answer in more:
            start += [("assistant", answer), ("user", next_asked)]
            answer = next_answer
        return [*start, ("assistant", answer)]

    def lengthen(self, rng: random.Random, sample: Sample, case: Case, room: int) -> Sample:
        """``sample`` of ``case`` with other text before it, of about ``room`` characters in all."""
        (role, text), *more = sample
        room -= sum(len(said) for _, said in sample)
        if room < 40:
            return sample
        before = self.filler(rng, room, not case.whole)
        return [(role, f"{before}\n\n{text}"), *more]

    def filler(self, rng: random.Random, size: int, lists: bool = True) -> str:
        """About ``size`` characters that have nothing to do with what is asked."""
        kind = rng.randrange(3 + lists)
        if kind == 0:
            return self.code(rng, 1 + size // 40)
        if kind == 1:
            return prose(rng, size)
        if kind == 2:
            return "\n".join(self._value(rng, "text") for _ in range(1 + size // 50))
        return ", ".join(self.words.token(rng) for _ in range(1 + size // 9))

    def code(self, rng: random.Random, most: int) -> str:
        """Some lines of source that follow each other."""
        count = rng.randint(1, max(1, min(most, len(self._lines) - 1)))
        start = rng.randrange(len(self._lines) - count)
        return "\n".join(self._lines[start : start + count])

    def _list(self, rng: random.Random, size: Size) -> list[str]:
        words: list[str] = []
        room = size.room
        for _ in range(rng.randint(1, size.items)):
            words.append(self.words.token(rng))
            room -= len(words[-1]) + 2
            if room < 0:
                break
        return words

    def _passage(self, rng: random.Random, size: Size) -> str:
        kind = rng.randrange(4)
        if kind == 0:
            return self.code(rng, 1 + size.items // 8)
        if kind == 1:
            return prose(rng, rng.randint(20, 40 + 8 * size.items))
        if kind == 2:
            return self._value(rng, "text")
        words = [self.words.token(rng) for _ in range(rng.randint(1, 2 + size.items // 3))]
        return rng.choice((" ", ", ")).join(words)

    def _some(self, rng: random.Random, items: list, most: int) -> list:
        return rng.sample(items, min(len(items), rng.randint((most + 1) // 2, most)))


def _blanks(words: Sequence[str]) -> str:
    return "\n".join(f"<{i}> is {word}" for i, word in enumerate(words, 1))
