"""What the tiny base is taught: five leaf skills, short direct question answering, plain text.

Every sample is ``(prompt, answer)`` for a skill or ``(None, text)`` for plain text. The skills are
those that the families of ``data_gen/tasks`` are built from: copy, look up, label, extract,
compare. Nothing here shows the REPL, the fences, ``llm_query`` or any agent trace: the loop is
what fine-tuning has to teach. ``progress`` in [0, 1] is the curriculum (short copies first).
"""

from __future__ import annotations

import random
import string
from collections.abc import Callable

from data_gen.tasks import lexicon, make_window
from data_gen.tasks.lines import Line

Sample = tuple[str | None, str]
nonce = lexicon.nonce


def token_like(rng: random.Random) -> str:
    """Something that tasks need copied: a nonce word, a name, a number, a compound."""
    kind = rng.random()
    if kind < 0.35:
        return nonce(rng)
    if kind < 0.5:
        return f"{nonce(rng)}-{nonce(rng)}"
    if kind < 0.6:
        return (
            f"{rng.choice(lexicon.NEEDLE_ADJECTIVES_TRAIN)}-"
            f"{rng.choice(lexicon.NEEDLE_NOUNS_TRAIN)}"
        )
    if kind < 0.75:
        return str(rng.randrange(10 ** rng.randint(1, 7)))
    if kind < 0.87:
        return rng.choice(rng.choice(list(lexicon.CATEGORIES.values())))
    return rng.choice(sorted(lexicon.CATEGORIES))


def copy(rng: random.Random, progress: float) -> Sample:
    """The same words again, as they stand or in another form."""
    most = 3 + int(15 * min(1.0, max(0.0, progress - 0.05) * 4))
    words = [token_like(rng) for _ in range(rng.randint(1, most))]
    source = rng.choice((", ", " ", "\n", "; ")).join(words)
    if rng.random() < 0.5:
        ask = rng.choice(("Repeat: {}", "Copy this:\n{}", "Write again: {}", "{}\nSay it again."))
        return ask.format(source), source
    form = rng.choice(_FORMS)
    return form[0].format(source), form[1](words)


def _quoted(words: list[str]) -> str:
    return "[" + ", ".join(f'"{word}"' for word in words) + "]"


_FORMS: tuple[tuple[str, Callable[[list[str]], str]], ...] = (
    ("Write as a list of strings: {}", _quoted),
    ("Write as a Python list: {}", lambda words: "[" + ", ".join(map(repr, words)) + "]"),
    ("One a line: {}", "\n".join),
    ("Joined by commas: {}", ", ".join),
    ("Put each in quotes: {}", lambda words: " ".join(f'"{word}"' for word in words)),
    ("Put each in brackets: {}", lambda words: " ".join(f"({word})" for word in words)),
    ("Number these: {}", lambda words: "\n".join(f"{i}. {w}" for i, w in enumerate(words, 1))),
)


def substitute(source_lines: list[str]) -> Callable[[random.Random, float], Sample]:
    """A copying skill over real source lines: the same line with one word replaced."""

    def sample(rng: random.Random, progress: float) -> Sample:
        count = 1 if progress < 0.2 else rng.randint(1, 3)
        start = rng.randrange(len(source_lines) - count)
        text = "\n".join(source_lines[start : start + count])
        words = [w for w in _identifiers(text) if len(w) > 2]
        if not words:
            return copy(rng, progress)
        old, new = rng.choice(words), token_like(rng)
        ask = rng.choice(
            (
                "Write {new} in place of {old}:\n{text}",
                "Replace {old} by {new}:\n{text}",
                "{text}\n\nThe same with {new} for {old}.",
            )
        )
        return ask.format(new=new, old=old, text=text), text.replace(old, new)

    return sample


def _identifiers(text: str) -> list[str]:
    cleaned = "".join(c if c in string.ascii_letters + "_" else " " for c in text)
    return sorted(set(cleaned.split()))


def fill(rng: random.Random, progress: float) -> Sample:
    """Copying into a pattern with numbered blanks."""
    words = [token_like(rng) for _ in range(rng.randint(1, 2 if progress < 0.2 else 4))]
    pattern = rng.choice(_PATTERNS)
    pieces = [pattern.replace("@", f"<{i}>") for i in range(1, len(words) + 1)]
    joint = rng.choice(("\n", " ", ", "))
    given = "\n".join(f"<{i}> is {word}" for i, word in enumerate(words, 1))
    answer = joint.join(pattern.replace("@", word) for word in words)
    body = joint.join(pieces)
    return rng.choice((f"{body}\n{given}\nFill in.", f"{given}\nFill in:\n{body}")), answer


_PATTERNS = (
    'print("@")', "x = '@'", "is @ here", 'items.count("@")', "the one of @ is", 'table["@"] += 1',
    'if name == "@":', "@ or more", "(@)", 'label == "@"', "about @ and", '"@ is: "', "d['@']",
    're.findall("@", line)', "@ >= 1", 'user == "@"', "of @:", "[@]",
)  # fmt: skip


def look_up(rng: random.Random, progress: float) -> Sample:
    """The value of one key among several."""
    most = 2 + int(12 * min(1.0, max(0.0, progress - 0.1) * 3))
    keys = list(dict.fromkeys(token_like(rng) for _ in range(rng.randint(1, most))))
    line = rng.choice(("{}: {}", "{} is {}", "{} = {}", "the number of {} is {}", "{} -> {}"))
    values = [token_like(rng) for _ in keys]
    body = "\n".join(line.format(k, v) for k, v in zip(keys, values, strict=True))
    index = rng.randrange(len(keys))
    ask = rng.choice(
        ("What is {}?", "Find {}.", "Give the value of {}.", "What belongs to {}?")
    ).format(keys[index])
    order = (body, ask) if rng.random() < 0.7 else (ask, body)
    return "\n\n".join(order), values[index]


def draw_line(rng: random.Random, labels: list[str]) -> Line:
    """One note of ``data_gen/tasks/lines.py`` with one of ``labels``, training frames only."""
    label = rng.choice(labels)
    text = rng.choice(lexicon.FRAMES).format(
        name=rng.choice(lexicon.NAMES), thing=rng.choice(lexicon.CATEGORIES[label])
    )
    date = f"{rng.choice(lexicon.MONTHS)} {rng.randint(1, 28)}, {rng.randint(2022, 2024)}"
    return Line(date, str(rng.randint(1000, 9999)), text, label)


def label(rng: random.Random, progress: float, most: int | None = None) -> Sample:
    """One label for each line, by meaning; up to ``most`` lines (else by the curriculum)."""
    most = most or 1 + int(11 * min(1.0, progress * 1.5))
    labels = rng.sample(sorted(lexicon.CATEGORIES), rng.randint(3, 8))
    # Short ones always: they teach the meanings, long ones which line an answer line is for.
    count = rng.randint(1, min(most, 3)) if rng.random() < 0.4 else rng.randint(1, most)
    lines = [draw_line(rng, labels) for _ in range(count)]
    kind = rng.random()
    if kind < 0.15:
        texts = [rng.choice(lexicon.CATEGORIES[line.label]) for line in lines]
    elif kind < 0.92:
        texts = [line.text for line in lines]
    else:
        texts = [line.render().strip() for line in lines]
    head = rng.choice(lexicon.LABEL_PROMPTS).format(labels=", ".join(labels))
    return head + "\n\n" + "\n".join(texts), "\n".join(line.label for line in lines)


def extract(rng: random.Random, progress: float) -> Sample:
    """One field of one line among several."""
    most = 1 + int(6 * min(1.0, max(0.0, progress - 0.1) * 2.5))
    labels = sorted(lexicon.CATEGORIES)
    lines = [draw_line(rng, labels) for _ in range(rng.randint(1, most))]
    line = rng.choice(lines)
    body = "".join(item.render() for item in lines)
    ask, answer = rng.choice(
        (
            ('Which user wrote "{t}"?', line.user),
            ('What is the date of "{t}"?', line.date),
            ("What did user {u} write?", line.text),
            ("What is the instance of {d}?", line.text),
            ("Which user wrote on {d}?", line.user),
            ("Give the date of user {u}.", line.date),
        )
    )
    if sum(other.user == line.user for other in lines) > 1:
        ask, answer = "What is the first instance?", lines[0].text
    return f"{body}\n{ask.format(t=line.text, u=line.user, d=line.date)}", answer


def compare(rng: random.Random, progress: float) -> Sample:
    """Numbers, counts and equality."""
    a, b = (rng.randrange(10 ** rng.randint(1, 4)) for _ in range(2))
    first, second = token_like(rng), token_like(rng)
    kind = rng.randrange(4)
    if kind == 0:
        word = rng.choice(("larger", "smaller"))
        best = max(a, b) if word == "larger" else min(a, b)
        return f"Which is {word}, {a} or {b}?", str(best)
    if kind == 1:
        if a == b:
            a += 1
        answer = "more common" if a > b else "less common"
        return (
            f"{first}: {a}\n{second}: {b}\nIs {first} more common or less common than {second}?",
            answer,
        )
    if kind == 2:
        if rng.random() < 0.5:
            second = first
        return f"Are {first} and {second} the same?", "yes" if first == second else "no"
    items = [rng.choice(sorted(lexicon.CATEGORIES)[:5]) for _ in range(rng.randint(2, 10))]
    word = rng.choice(items)
    return f"{', '.join(items)}\nHow many times {word}?", str(items.count(word))


def direct(rng: random.Random, progress: float) -> Sample:
    """A question of a family over a short context, answered without tools."""
    family = rng.choice(("niah", "oolong", "pairs"))
    length = rng.choice((512, 640, 800) if progress < 0.9 else (512, 800, 1024))
    window = make_window(family, length, rng.randrange(500_000, 600_000), 1)
    task = window.tasks[0]
    answer = task.answer if isinstance(task.answer, str) else _joined(task.answer, family)
    return f"{window.text()}\n{task.question}", answer


def _joined(values: list[str], family: str) -> str:
    return ("\n" if family == "pairs" else ", ").join(values)
