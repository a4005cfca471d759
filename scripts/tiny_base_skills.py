"""What the tiny base is taught: five leaf skills, short direct question answering, plain text.

A sample is a list of ``(role, text)``: a conversation, or one ``("text", ...)`` to be continued.
The skills are those that the families of ``data_gen/tasks`` are built from: copy, look up, label,
extract, compare. Most come in two parts, what is given and what is asked, and the two may stand
far apart (``Skills.spread``): in one message, with other text between them, or in different turns.
Nothing here shows the REPL, the fences, ``llm_query`` or any agent trace: the loop is what
fine-tuning has to teach. ``progress`` in [0, 1] is the curriculum: short and near first.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence

from transformers import PreTrainedTokenizerBase

from data_gen.tasks import lexicon, make_window
from data_gen.tasks.lines import Line
from data_gen.tasks.niah import prose

Sample = list[tuple[str, str]]
Parts = tuple[str, str, str]  # given, asked, answer
nonce = lexicon.nonce
ANSWER_START = "<|im_start|>assistant\n<think>\n\n</think>\n\n"
_IDENTIFIER = re.compile(r"\b[A-Za-z_]\w{2,}")


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


def copy(rng: random.Random, progress: float) -> Parts:
    """The same words again, as they stand or in another form."""
    most = 3 + int(15 * min(1.0, max(0.0, progress - 0.05) * 4))
    words = [token_like(rng) for _ in range(rng.randint(1, most))]
    source = rng.choice((", ", " ", "\n", "; ")).join(words)
    if rng.random() < 0.5:
        return source, rng.choice(("Repeat.", "Copy this.", "Write it again.", "Say it.")), source
    ask, form = rng.choice(_FORMS)
    return source, ask, form(words)


def _quoted(words: list[str]) -> str:
    return "[" + ", ".join(f'"{word}"' for word in words) + "]"


_FORMS: tuple[tuple[str, Callable[[list[str]], str]], ...] = (
    ("Write as a list of strings.", _quoted),
    ("Write as a Python list.", lambda words: "[" + ", ".join(map(repr, words)) + "]"),
    ("One a line.", "\n".join),
    ("Joined by commas.", ", ".join),
    ("Put each in quotes.", lambda words: " ".join(f'"{word}"' for word in words)),
    ("Put each in brackets.", lambda words: " ".join(f"({word})" for word in words)),
    ("Number these.", lambda words: "\n".join(f"{i}. {w}" for i, w in enumerate(words, 1))),
)


def fill(rng: random.Random, progress: float) -> Parts:
    """Copying into patterns with numbered blanks."""
    words = [token_like(rng) for _ in range(rng.randint(1, 2 if progress < 0.2 else 4))]
    pattern = rng.choice(_PATTERNS)
    pieces = [pattern.replace("@", f"<{i}>") for i in range(1, len(words) + 1)]
    joint = rng.choice(("\n", " ", ", "))
    answer = joint.join(pattern.replace("@", word) for word in words)
    return _given(words), f"Fill in:\n{joint.join(pieces)}", answer


def _given(words: Sequence[str]) -> str:
    return "\n".join(f"<{i}> is {word}" for i, word in enumerate(words, 1))


_PATTERNS = (
    'print("@")', "x = '@'", "is @ here", 'items.count("@")', "the one of @ is", 'table["@"] += 1',
    'if name == "@":', "@ or more", "(@)", 'label == "@"', "about @ and", '"@ is: "', "d['@']",
    're.findall("@", line)', "@ >= 1", 'user == "@"', "of @:", "[@]",
)  # fmt: skip


def look_up(rng: random.Random, progress: float) -> Parts:
    """The value of one key among several."""
    most = 2 + int(14 * min(1.0, max(0.0, progress - 0.1) * 3))
    keys = list(dict.fromkeys(token_like(rng) for _ in range(rng.randint(1, most))))
    line = rng.choice(("{}: {}", "{} is {}", "{} = {}", "the number of {} is {}", "{} -> {}"))
    values = [token_like(rng) for _ in keys]
    body = "\n".join(line.format(k, v) for k, v in zip(keys, values, strict=True))
    index = rng.randrange(len(keys))
    ask = rng.choice(
        ("What is {}?", "Find {}.", "Give the value of {}.", "What belongs to {}?")
    ).format(keys[index])
    return body, ask, values[index]


def draw_line(rng: random.Random, labels: list[str]) -> Line:
    """One note of ``data_gen/tasks/lines.py`` with one of ``labels``, training frames only."""
    label = rng.choice(labels)
    text = rng.choice(lexicon.FRAMES).format(
        name=rng.choice(lexicon.NAMES), thing=rng.choice(lexicon.CATEGORIES[label])
    )
    date = f"{rng.choice(lexicon.MONTHS)} {rng.randint(1, 28)}, {rng.randint(2022, 2024)}"
    return Line(date, str(rng.randint(1000, 9999)), text, label)


def label(rng: random.Random, progress: float, most: int | None = None, least: int = 1) -> Parts:
    """One label for each line, by meaning; up to ``most`` lines (else by the curriculum)."""
    most = most or 1 + int(7 * min(1.0, max(0.0, progress - 0.5) * 2.5))
    labels = rng.sample(sorted(lexicon.CATEGORIES), rng.randint(3, 8))
    # Short ones always: they teach the meanings, long ones which line an answer line is for.
    few = rng.random() < 0.4
    count = max(least, rng.randint(1, min(most, 3) if few else most))
    lines = [draw_line(rng, labels) for _ in range(count)]
    kind = rng.random()
    if kind < 0.15:
        texts = [rng.choice(lexicon.CATEGORIES[line.label]) for line in lines]
    elif kind < 0.92:
        texts = [line.text for line in lines]
    else:
        texts = [line.render().strip() for line in lines]
    head = rng.choice(lexicon.LABEL_PROMPTS).format(labels=", ".join(labels))
    return head, "\n".join(texts), "\n".join(line.label for line in lines)


def extract(rng: random.Random, progress: float) -> Parts:
    """One field of one line among several."""
    most = 1 + int(7 * min(1.0, max(0.0, progress - 0.1) * 2.5))
    labels = sorted(lexicon.CATEGORIES)
    lines = [draw_line(rng, labels) for _ in range(rng.randint(1, most))]
    line = rng.choice(lines)
    body = "".join(item.render() for item in lines).rstrip("\n")
    ask, answer = rng.choice(
        (
            (f'Which user wrote "{line.text}"?', line.user),
            (f'What is the date of "{line.text}"?', line.date),
            (f"What did user {line.user} write?", line.text),
            (f"What is the instance of {line.date}?", line.text),
            (f"Which user wrote on {line.date}?", line.user),
            (f"Give the date of user {line.user}.", line.date),
        )
    )
    same = [item for item in lines if item.user == line.user or item.date == line.date]
    if len(same) > 1:
        ask, answer = "What is the first instance?", lines[0].text
    return body, ask, answer


def compare(rng: random.Random, progress: float) -> Parts:
    """Numbers, counts and equality."""
    a, b = (rng.randrange(10 ** rng.randint(1, 4)) for _ in range(2))
    first, second = token_like(rng), token_like(rng)
    kind = rng.randrange(4)
    if kind == 0:
        word = rng.choice(("larger", "smaller"))
        best = max(a, b) if word == "larger" else min(a, b)
        return f"{a}, {b}", f"Which is {word}?", str(best)
    if kind == 1:
        if a == b:
            a += 1
        answer = "more common" if a > b else "less common"
        ask = f"Is {first} more common or less common than {second}?"
        return f"{first}: {a}\n{second}: {b}", ask, answer
    if kind == 2:
        if rng.random() < 0.5:
            second = first
        return f"{first}, {second}", "Are they the same?", "yes" if first == second else "no"
    items = [rng.choice(sorted(lexicon.CATEGORIES)[:5]) for _ in range(rng.randint(2, 10))]
    word = rng.choice(items)
    return ", ".join(items), f"How many times {word}?", str(items.count(word))


def direct(rng: random.Random, longest: int) -> Sample:
    """A question of a family over a context of up to ``longest`` tokens of 4 bytes, no tools."""
    family = rng.choice(("niah", "oolong", "pairs"))
    length = rng.choice([n for n in (512, 640, 800, 1024, 1400, 2048) if n <= longest])
    window = make_window(family, length, rng.randrange(500_000, 600_000), 1)
    task = window.tasks[0]
    joint = "\n" if family == "pairs" else ", "
    answer = task.answer if isinstance(task.answer, str) else joint.join(task.answer)
    return [("user", f"{window.text()}\n\n{task.question}"), ("assistant", answer)]


class Skills:
    """The skills that need source code to draw from, and how the parts of all stand apart."""

    def __init__(self, source: Sequence[str]) -> None:
        self.source = source
        self._lines = [
            line for text in source for line in text.splitlines() if 8 < len(line.strip()) < 70
        ]

    def code(self, rng: random.Random, most: int) -> str:
        """Some lines of source that follow each other."""
        count = rng.randint(1, most)
        start = rng.randrange(len(self._lines) - count)
        return "\n".join(self._lines[start : start + count])

    def substitute(self, rng: random.Random, progress: float) -> Parts:
        """Source lines again, with one to four words replaced."""
        text = self.code(rng, 1 if progress < 0.2 else 6)
        words = sorted(set(_IDENTIFIER.findall(text)))
        if not words:
            return copy(rng, progress)
        olds = rng.sample(words, min(len(words), rng.randint(1, 1 if progress < 0.2 else 4)))
        news = {old: token_like(rng) for old in olds}
        if rng.random() < 0.5:
            blanks = {old: f"<{i}>" for i, old in enumerate(olds, 1)}
            given, pattern = _given(list(news.values())), _replace(text, blanks)
        else:
            form = rng.choice(("Write {new} in place of {old}.", "{new} for {old}."))
            given = "\n".join(form.format(new=new, old=old) for old, new in news.items())
            pattern = text
        return given, f"Fill in:\n{pattern}", _replace(text, news)

    def spread(self, rng: random.Random, parts: Parts, progress: float) -> Sample:
        """The conversation of ``parts``; as ``progress`` grows, they may stand far apart."""
        given, asked, answer = parts
        kind = rng.random() + max(0.0, 0.5 - progress)
        if kind < 0.25:
            between = self.filler(rng, progress)
            return [("user", f"{given}\n\n{between}\n\n{asked}"), ("assistant", answer)]
        if kind < 0.35:
            return [("system", given), ("user", asked), ("assistant", answer)]
        if kind < 0.5:
            first = rng.choice((copy, fill, compare))(rng, progress)
            before = given if rng.random() < 0.3 else f"{given}\n\n{self.filler(rng, progress)}"
            return [
                ("user", f"{before}\n\n{first[0]}\n\n{first[1]}"),
                ("assistant", first[2]),
                ("user", asked),
                ("assistant", answer),
            ]
        order = (given, asked) if rng.random() < 0.75 else (asked, given)
        return [("user", "\n\n".join(order)), ("assistant", answer)]

    def filler(self, rng: random.Random, progress: float) -> str:
        """Text that has nothing to do with what is asked."""
        size = rng.randint(40, 200 + int(1400 * progress))
        kind = rng.randrange(4)
        if kind == 0:
            return self.code(rng, 1 + size // 40)
        if kind == 1:
            return prose(rng, size)
        if kind == 2:
            labels = sorted(lexicon.CATEGORIES)
            return "\n".join(draw_line(rng, labels).text for _ in range(1 + size // 60))
        return ", ".join(token_like(rng) for _ in range(1 + size // 8))

    def text(self, rng: random.Random, size: int) -> Sample:
        """A piece of source code or of plain prose, of about ``size`` characters."""
        if rng.random() < 0.2:
            return [("text", prose(rng, size))]
        text = rng.choice(self.source)
        start = rng.randrange(max(1, len(text) - size))
        return [("text", text[start : start + size])]


def _replace(text: str, by: dict[str, str]) -> str:
    return _IDENTIFIER.sub(lambda match: by.get(match[0], match[0]), text)


def recall(
    rng: random.Random, vocabulary: Sequence[int], length: int
) -> tuple[list[int], list[bool]]:
    """``length`` random tokens in which pieces come again: ids, and which of them are learned.

    What copying and looking up are made of, in its densest form: a piece is known after its first
    tokens, wherever it stood before. Every token of the vocabulary is a target again and again, so
    that it can be copied later, however rare it is in text.
    """
    size = rng.randint(2, 8) if rng.random() < 0.7 else rng.randint(8, max(9, length // 3))
    lead = 1 if size < 4 else rng.randint(1, 2)  # tokens that tell which piece comes
    pieces = [
        [rng.choice(vocabulary) for _ in range(size)] for _ in range(max(1, length // (2 * size)))
    ]
    ids = [token for piece in pieces for token in piece]
    learned = [False] * len(ids)
    if rng.random() < 0.5:
        rng.shuffle(pieces)
    for piece in pieces:
        ids += piece
        learned += [False] * lead + [True] * (size - lead)
    return ids, learned


def encode(
    tokenizer: PreTrainedTokenizerBase, sample: Sample, prompts_too: bool
) -> tuple[list[int], list[bool]]:
    """Ids as the chat template renders them (thinking off), and which of them are learned."""
    ids: list[int] = []
    learned: list[bool] = []
    last = len(sample) - 1
    for index, (role, text) in enumerate(sample):
        if role == "text":
            head, tail = "", text
        elif role == "assistant":  # the template keeps the empty thinking of the last turn only
            start = ANSWER_START if index == last else "<|im_start|>assistant\n"
            head, tail = start, f"{text}<|im_end|>"
        else:
            head, tail = f"<|im_start|>{role}\n{text}<|im_end|>\n", ""
        for part, is_answer in ((head, False), (tail, True)):
            more = tokenizer(part, add_special_tokens=False)["input_ids"]
            ids += more
            learned += [is_answer or prompts_too] * len(more)
        if role == "assistant" and index < last:
            ids += (more := tokenizer("\n")["input_ids"])
            learned += [False] * len(more)
    return ids, learned
