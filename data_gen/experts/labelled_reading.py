"""What the labelled lines' expert reads: the question, the layout of lines seen, a line's label.

``layout_of`` knows no layout by name. It takes lines with a date, finds the word that differs
between them where the user must stand, and leaves the longest part to the text.
"""

from __future__ import annotations

import json
import os.path
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from functools import cache

from data_gen.tasks import oolong_wordings, pairs_full
from data_gen.tasks.pairs_full import Part
from data_gen.tasks.squares import SETS, LabelSet

# Pattern of a date in a line, and how it is written.
DATES = (
    (r"[A-Z][a-z]{2} \d\d, \d{4}", "%b %d, %Y"),
    (r"\d{4}-\d\d-\d\d", "%Y-%m-%d"),
    (r"\d\d\.\d\d\.\d{4}", "%d.%m.%Y"),
    (r"\d{4}/\d\d/\d\d", "%Y/%m/%d"),
    (r"\d\d [A-Z][a-z]+ \d{4}", "%d %B %Y"),
)
_DAY = "|".join(pattern for pattern, _ in DATES)
_FIELDS = {
    **dict.fromkeys("abxy", r"[a-z]+(?: or [a-z]+)?"),
    **dict.fromkeys("uv", r"\w+"),
    **dict.fromkeys(("day", "first", "last"), _DAY),
    **{"n": r"\d+", "labels": "[a-z, ]+", "users": r"[\w, ]+", "month": r"[A-Z]\w+"},
    **{"one": ".+", "two": ".+"},
}
_SEPARATORS = (" || ", " | ", "\t")


@dataclass(frozen=True)
class Asked:
    """A question taken apart; ``body`` is a kind of either family."""

    pairs: bool
    labels: tuple[str, ...]  # empty where the question does not tell them
    scope: str
    body: str
    fields: dict[str, str]
    one: tuple[Part, ...] = ()
    two: tuple[Part, ...] = ()

    def day(self, name: str) -> date:
        """The date that a field holds."""
        return read_date(self.fields[name])


@dataclass(frozen=True)
class Layout:
    """Where date, user and text stand in a line.

    Args:
        fields: in their order.
        pattern: of a whole line, with a group for each field.
        format: of the date, for ``strptime``.
        shape: ``json``, ``csv`` or neither.
        keys: of each field, as code after a parsed row, if there is a shape.
        between: what stands between the fields if it is the same twice; ``parts`` then are the
            fields as code after a line split at it.
        headings: lines above the first that split like the others.
    """

    fields: tuple[str, ...]
    pattern: str
    format: str
    shape: str = ""
    keys: dict[str, str] = field(default_factory=dict)
    between: str = ""
    parts: dict[str, str] = field(default_factory=dict)
    headings: int = 0


def read_date(text: str) -> date:
    """A date in any of the forms known."""
    for pattern, form in DATES:
        if re.fullmatch(pattern, text):
            return datetime.strptime(text, form).date()
    raise ValueError(text)


def asked_of(question: str) -> Asked | None:
    """The question, or None if it is of neither family."""
    labels, rest = _begins((*oolong_wordings.LABELS, *pairs_full.LABELS), question)
    names = tuple(labels["labels"].split(", ")) if labels else ()
    return _pairs(names, rest) or _statistic(names, rest)


def _statistic(names: tuple[str, ...], rest: str) -> Asked | None:
    scope, scoped = "all", {}
    for name, wordings in oolong_wordings.SCOPES.items():
        found, after = _begins(wordings, rest) if name != "all" else (None, rest)
        if found is not None:
            scope, scoped, rest = name, found, after
            break
    for body, wordings in oolong_wordings.BODIES.items():
        ends = oolong_wordings.ENDS[oolong_wordings.TYPES[body]]
        for wording in wordings:
            for end in ends:
                if match := _pattern(f"{wording} {end}").fullmatch(rest):
                    return Asked(False, names, scope, body, {**scoped, **match.groupdict()})
    return None


def _pairs(names: tuple[str, ...], rest: str) -> Asked | None:
    start, rest = _begins([f"{wording} " for wording in pairs_full.STARTS], rest)
    end = next((end for end in pairs_full.ENDS if rest.endswith(f" {end}")), None)
    if start is None or end is None:
        return None
    rest = rest.removesuffix(f" {end}")
    for kind, wordings in pairs_full.FRAMES.items():
        for wording in wordings:
            for note in ("", *(f" {note}" for note in pairs_full.NOTES.get(kind, ()))):
                if match := _pattern(f"{wording}.{note}").fullmatch(rest):
                    told = match.groupdict()
                    one, two = (_parts(told.pop(name, "")) for name in ("one", "two"))
                    if None not in (one, two):
                        return Asked(True, names, "all", kind, told, one or (), two or ())
    return None


def _parts(text: str) -> tuple[Part, ...] | None:
    """The parts of a condition, or None if one of them is none."""
    parts: list[Part] = []
    pieces = text.split(", and ") if text else []
    for piece in pieces:
        for kind, wordings in pairs_full.PARTS.items():
            for wording in wordings:
                if match := _pattern(wording).fullmatch(piece):
                    told = match.groupdict()
                    day = read_date(told["day"]) if "day" in told else date.min
                    own = tuple(told["x"].split(" or "))
                    parts.append(Part(kind, own, int(told.get("n", 0)), day))
    return tuple(parts) if len(parts) == len(pieces) else None


@cache
def _pattern(wording: str) -> re.Pattern[str]:
    """A wording with its fields as groups; one line or day is no lines or days."""
    text = re.sub(
        r"(\\{n\\}\\? (?:line|day|label))s", r"\1s?", re.escape(wording).replace("\\ ", " ")
    )
    return re.compile(re.sub(r"\\\{(\w+)\\\}", lambda m: f"(?P<{m[1]}>{_FIELDS[m[1]]})", text))


def _begins(wordings: Iterable[str], text: str) -> tuple[dict[str, str] | None, str]:
    """The fields of the first wording that ``text`` begins with, and what follows."""
    for wording in wordings:
        if match := _pattern(wording).match(text):
            return match.groupdict(), text[match.end() :]
    return None, text


def layout_of(shown: str) -> Layout | None:
    """The layout of the lines in an output, or None if it shows too little."""
    every = shown.splitlines()
    gaps = [at for at, line in enumerate(every) if line.startswith("...")]  # an output too long
    whole = [line for at, line in enumerate(every) if all(abs(at - gap) > 1 for gap in gaps)]
    for pattern, form in DATES:
        lines = [line for line in whole if re.search(rf"(?<!\w){pattern}(?!\w)", line)]
        for line in lines:
            found = _fields(line, [other for other in lines if other != line], pattern, form)
            if found is not None:
                return found
    return None


def _fields(line: str, others: Sequence[str], day: str, form: str) -> Layout | None:
    """The layout of ``line``, if another line has it, too, and is by another user."""
    at = re.search(day, line)
    assert at is not None
    before = [word.span() for word in re.finditer(r"\w+", line[: at.start()])]
    after = [(a + at.end(), b + at.end()) for a, b in
             (word.span() for word in re.finditer(r"\w+", line[at.end() :]))]  # fmt: skip
    for user in (*before[-1:], *after[:2]):
        spans = sorted([("date", *at.span()), ("user", *user)], key=lambda span: span[1])
        (_, a, b), (_, c, d) = spans[0], spans[1]
        groups = {"date": f"({day})", "user": r"(\w+)"}
        core = groups[spans[0][0]] + re.escape(line[b:c]) + groups[spans[1][0]]
        if len(line) - d <= 2:  # the text stands first
            gap = re.search(r"\W+$", line[:a])
            if gap is None:
                continue
            pattern = "(.+)" + re.escape(gap[0]) + core + re.escape(line[d:])
            fields = ("text", spans[0][0], spans[1][0])
        else:
            pattern = re.escape(line[:a]) + core + "(.+)"
            fields = (spans[0][0], spans[1][0], "text")
        matches = [re.fullmatch(pattern, other) for other in (line, *others)]
        rows = [dict(zip(fields, match.groups(), strict=True)) for match in matches if match]
        if len({row["user"] for row in rows}) < 2:
            continue
        pattern, lead = _trimmed(pattern, [row["text"] for row in rows])
        match = re.fullmatch(pattern, line)
        # After a space alone the word may be one of the text.
        if match is None or (fields[2] == "text" and not re.search(r"[^\w ]", lead)):
            continue
        pattern = pattern.replace("\\ ", " ").replace("\\\t", "\\t")
        row = dict(zip(fields, match.groups(), strict=True))
        return Layout(fields, f"^{pattern}$", form, *_shape(line, row))
    return None


def _trimmed(pattern: str, texts: Sequence[str]) -> tuple[str, str]:
    """The pattern without what stands round every text, as a quote does, and what stands before."""
    lead = re.match(r".*[^\w\s]\s*|\s*", os.path.commonprefix(texts))
    tail = re.match(r"[^\w\s]*", os.path.commonprefix([text[::-1] for text in texts]))
    assert lead is not None and tail is not None
    inner = f"{re.escape(lead[0])}(.+){re.escape(tail[0][::-1])}"
    return pattern.replace("(.+)", inner), lead[0]


def _shape(line: str, row: dict[str, str]) -> tuple[str, dict[str, str], str, dict[str, str], int]:
    """Shape, keys, separator, parts and headings of a line with these fields."""
    if line.startswith("{"):
        told = {value: key for key, value in json.loads(line).items()}
        return "json", {name: f'["{told[value]}"]' for name, value in row.items()}, "", {}, 0
    if line.endswith('"') and line.count(",") >= 2:
        return "csv", {name: f"[{at}]" for at, name in enumerate(row)}, "", {}, 0
    for between in _SEPARATORS:
        if line.count(between) == 2:
            parts = {}
            for at, piece in enumerate(line.split(between)):
                for name, value in row.items():
                    if value in piece:
                        skip = piece.index(value)
                        parts[name] = f"[{at}]" + (f"[{skip}:]" if skip else "")
            # Columns that only a tab parts have their names above them.
            return "", {}, between, parts, int(between == "\t")
    return "", {}, "", {}, 0


def read_label(line: str, labels: Sequence[str], glossary: str) -> str:
    """The label of a text, by the glossary's words or by the meaning of its two clauses; or ""."""
    words = {*re.findall(r"\w+", line)}
    for row in glossary.splitlines():
        if match := re.fullmatch(r"(\w+): (\w+), (\w+)", row):
            own, label = match.groups()[1:], match[1]
        elif match := re.fullmatch(r"(\w+), (\w+) stands for (\w+)", row):
            own, label = match.groups()[:2], match[3]
        else:
            continue
        if words & {*own} and label in labels:
            return label
    for made in SETS.values():
        if {*made.labels} == {*labels}:
            return _of_square(line, made)
    return ""


def _of_square(line: str, made: LabelSet) -> str:
    for first, values in _clauses(made, 0):
        if one := first.match(line):
            for second, others in _clauses(made, 1):
                if two := second.search(line, one.end()):
                    return made.label(values[one["it"]], others[two["it"]])
    return ""


Clauses = list[tuple[re.Pattern[str], dict[str, int]]]


def _clauses(made: LabelSet, which: int) -> Clauses:
    """Patterns of a latent's clause, each with the values of the words."""
    if which == 0:
        return _clauses_of(made.first_frames, made.first, r"\b")
    return _clauses_of(made.second_frames, made.second, "$")


def _read_frame(frame: str, told: str) -> str:
    return re.escape(frame).replace(r"\{name\}", r"\w+").replace(r"\{it\}", f"(?P<it>{told})")


@cache
def _clauses_of(frames: tuple[str, ...], words: tuple[tuple[str, ...], ...], end: str) -> Clauses:
    values = {word: at for at, own in enumerate(words) for word in own}
    told = "|".join(sorted(values, key=len, reverse=True))
    return [(re.compile(_read_frame(frame, told) + end), values) for frame in frames]
