"""Which samples, in rows of which length, at each point of the pretraining: the curriculum."""

from __future__ import annotations

import random
import re
import sysconfig
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from data_gen.direct import example
from data_gen.tasks import make_window
from rlm_executor.errors import InputError
from rlm_executor.files import sha256_text
from scripts.tiny_base.labels import KINDS, label
from scripts.tiny_base.skills import Sample, Size, Skills
from scripts.tiny_base.words import Words

About = tuple[tuple[tuple[str, str], ...], ...]
Pointer = tuple[int, int, int]
"""Head, place that predicts, place that it should look at."""
WINDOW = 4096
# Share of each kind in rows up to 512 tokens, and in longer ones.
SHARES: dict[str, tuple[float, float]] = {
    "copy": (7, 4), "fill": (4, 1), "substitute": (6, 3), "passage": (5, 14), "look_up": (13, 26),
    "extract": (12, 21), "compare": (14, 3), "things": (8, 4), "squares": (15, 9),
    "glossary": (11, 7), "renamed": (5, 4),
}  # fmt: skip
# What has to sit first.
AFTER = {"squares": ("things",), "renamed": ("squares", "glossary")}
ITEMS = {"copy": 19, "fill": 5, "substitute": 17, "passage": 23, "compare": 11}
# Until which share of the tokens rows of 256, 512, 1,024, 2,048 and 4,096 tokens are how frequent.
ROWS = (
    (0.25, (1, 0, 0, 0, 0)),
    (0.45, (6, 3, 1, 0, 0)),
    (0.6, (4, 3, 2, 0.5, 0.5)),
    (2.0, (3, 3, 2, 0.7, 1.2)),
)
UP_AT, STEP_UP = 0.5, 0.006
ANSWER_START = "<|im_start|>assistant\n<think>\n\n</think>\n\n"
CHARACTERS_PER_TOKEN = 2.0  # of the samples, somewhat below their mean: few samples are too long


def read_source(folder: Path | None = None) -> list[str]:
    """Texts of the Python files of ``folder`` (top level and one below), tests left out."""
    folder = folder or Path(sysconfig.get_paths()["stdlib"])
    files = sorted(
        path
        for pattern in ("*.py", "*/*.py")
        for path in folder.glob(pattern)
        if not {"test", "tests", "site-packages", "idlelib", "lib2to3", "encodings"}
        & set(path.parts)
    )
    texts = [path.read_text(encoding="utf-8", errors="ignore") for path in files]
    if not texts:
        raise InputError(f"no .py files in {folder.name}; give another --python-source")
    return texts


class Pace:
    """How far each kind of sample has come: the next step up is taken when the last one sits."""

    def __init__(self) -> None:
        self.levels = dict.fromkeys(SHARES, 0.0)  # 0: the shortest cases, 1: the longest
        self.exact = dict.fromkeys(SHARES, 0.0)  # running share of samples answered exactly

    def tell(self, results: Iterable[tuple[str, bool]]) -> None:
        """The samples of one step, and whether each was answered exactly."""
        seen = set[str]()
        for kind, exact in results:
            if kind in self.exact:
                self.exact[kind] += 0.03 * (exact - self.exact[kind])
                seen.add(kind)
        for kind in seen:
            if self.exact[kind] > UP_AT:
                self.levels[kind] = min(1.0, self.levels[kind] + STEP_UP)

    def is_open(self, kind: str) -> bool:
        """Whether what ``kind`` builds on has been taken up."""
        return all(self.levels[other] >= 0.03 for other in AFTER.get(kind, ()))

    def __str__(self) -> str:
        return " ".join(f"{k}={self.levels[k]:.2f}/{self.exact[k]:.2f}" for k in SHARES)


class Mixture:
    """Samples and row lengths at each point of the curriculum; the same seed gives the same."""

    def __init__(self, source: list[str], seed: int = 0) -> None:
        self.rng = random.Random(seed)
        self.pace = Pace()
        self.sha256 = sha256_text("".join(source))
        self.source = source
        self.words = Words()
        self.skills = Skills(source, self.words)
        self.vocabulary: Sequence[int] = ()

    def row_length(self, progress: float) -> int:
        """Tokens of the rows of one step: short first, then of every length."""
        shares = next(shares for until, shares in ROWS if progress < until)
        return self.rng.choices((256, 512, 1024, 2048, WINDOW), shares)[0]

    def encoded(
        self, tokenizer: PreTrainedTokenizerBase, progress: float, row: int
    ) -> tuple[str, list[int], list[bool], list[Pointer]]:
        """The kind of one sample, its ids, which of them are learned, and its pointers."""
        rng = self.rng
        if rng.random() < 0.05:
            return "", *recall(rng, self.vocabulary, rng.randint(24, min(row, 1024) - 8)), []
        kind, sample, about = self.sample(progress, row)
        # Some prompts are learned too: the model should know text, not only answers.
        prompts_too = rng.random() < 0.08
        ids, learned, answers = encode(tokenizer, sample, prompts_too)
        if prompts_too or not kind:
            return "", ids, learned, []
        pointed = subjects(tokenizer, ids, answers, about)
        known = {place for head, place, _ in pointed if head == 0}
        pointed += [p for p in sources(ids, learned) if p[1] not in known]
        return kind, ids, learned, pointed

    def sample(self, progress: float, row: int) -> tuple[str, Sample, About]:
        """The kind of one conversation or text that should fit ``row`` tokens, and its messages."""
        rng = self.rng
        if progress > 0.3 and rng.random() < 0.02:
            return "", self.text(rng, int(CHARACTERS_PER_TOKEN * row * rng.random())), ()
        if row >= 1024 and rng.random() < 0.06:
            return "", direct(rng, {1024: 640, 2048: 1400}.get(row, 2600)), ()
        kinds = [kind for kind in SHARES if progress > 0.12 or self.pace.is_open(kind)]
        kind = rng.choices(kinds, [SHARES[kind][row > 512] for kind in kinds])[0]
        # Whatever the pace, the last third of the way shows cases of every length.
        level = max(self.pace.levels[kind], min(1.0, (progress - 0.5) * 4))
        self.words.breadth = min(1.0, 3 * level)
        # Mostly near what can just be done; always some that are shorter.
        level *= 1 - rng.random() ** 2
        longest = CHARACTERS_PER_TOKEN * (row - 60)
        room = int(min(longest, 60 * (longest / 60) ** level)) if row > 512 else (
            int(min(longest, 60 * 15**level)))  # fmt: skip
        return kind, *self._conversation(kind, level, room)

    def _conversation(self, kind: str, level: float, room: int) -> tuple[Sample, About]:
        rng = self.rng
        if kind in KINDS:  # of labels
            room = max(room, 300)
            most = max(1, min(4 + int(16 * level), int(room / (CHARACTERS_PER_TOKEN * 22))))
            case = label(rng, self.words, kind, most)
            asked, answer = case.turns[0]
            text = f"{case.given}\n\n{asked}" if asked else case.given
            return [("user", text), ("assistant", answer)], case.about
        items = 2 + int(ITEMS.get(kind, 150) * level)
        turns = rng.randint(1, 1 + int(min(11, room / 250)))
        given = room if rng.random() < 0.6 else int(room * rng.uniform(0.2, 1.0))
        case = getattr(self.skills, kind)(rng, Size(given, items, turns))
        return self.skills.conversation(rng, case, room if level > 0.25 else 0), case.about

    def text(self, rng: random.Random, size: int) -> Sample:
        """A piece of source code, of about ``size`` characters."""
        text = rng.choice(self.source)
        start = rng.randrange(max(1, len(text) - size))
        return [("text", text[start : start + size])]


def direct(rng: random.Random, longest: int) -> Sample:
    """A question of a family over a context of up to ``longest`` tokens of 4 bytes, no tools."""
    family = rng.choice(("niah", "oolong", "pairs"))
    length = rng.choice([n for n in (512, 640, 800, 1024, 1400, 2048, 2600) if n <= longest])
    window = make_window(family, length, rng.randrange(500_000, 600_000), 1)
    row = example(window, window.text(), window.tasks[0])
    return [
        ("user", row["prompt"][0]["content"]),
        ("assistant", row["completion"][0]["content"]),
    ]


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
) -> tuple[list[int], list[bool], list[tuple[int, str]]]:
    """Ids as the chat template renders them (thinking off), which of them are learned, and where answers begin."""
    ids: list[int] = []
    learned: list[bool] = []
    answers: list[tuple[int, str]] = []
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
            if is_answer and role == "assistant":
                answers.append((len(ids), text))
            more = tokenizer(part, add_special_tokens=False)["input_ids"]
            ids += more
            learned += [is_answer or prompts_too] * len(more)
        if role == "assistant" and index < last:
            ids += (more := tokenizer("\n")["input_ids"])
            learned += [False] * len(more)
    return ids, learned, answers


def sources(ids: list[int], learned: list[bool]) -> list[Pointer]:
    """Where each learned token is taken from, for head 0.

    The answer is read as pieces of what stands before it, the longest first. A piece that stands in
    more than 8 places tells nothing.
    """
    found: list[Pointer] = []
    places: dict[int, list[int]] = {}
    at = known = 0
    while at < len(ids):
        if not learned[at]:
            at += 1
            continue
        begin = at  # of this answer
        for place in range(known, begin):
            places.setdefault(ids[place], []).append(place)
        known = begin
        while at < len(ids) and learned[at]:
            held, size = places.get(ids[at], []), 1
            while held and at + size < len(ids) and learned[at + size]:
                longer = [p for p in held if p + size < begin and ids[p + size] == ids[at + size]]
                if not longer:
                    break
                held, size = longer, size + 1
            if 0 < len(held) <= 8:
                found += [(0, at + i - 1, p + i) for i in range(size) for p in held]
            at += size
    return found


def subjects(
    tokenizer: PreTrainedTokenizerBase,
    ids: list[int],
    answers: Sequence[tuple[int, str]],
    about: About,
) -> list[Pointer]:
    """What each line of the last answers speaks of, at its last token, for head 1.

    And how that is bound to what is answered, where both stand in the prompt: whichever of the two
    comes later can know the other. So its place is where head 0 should look, and from there head 2
    at the earlier one.
    """
    found: list[Pointer] = []
    for (start, text), lines in zip(answers[-len(about) :], about, strict=False):
        if not lines or len(lines) != text.count("\n") + 1:
            continue
        spans = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        begins = [0, *(i + 1 for i, char in enumerate(text) if char == "\n")]
        tokens = [bisect_right([a for a, _ in spans["offset_mapping"]], b) - 1 for b in begins]
        after = 0
        for (line, word), token, told in zip(lines, tokens, text.split("\n"), strict=True):
            whole, part = _core(tokenizer, line), _core(tokenizer, word)
            if line == word and (len(lines) == 1 or " " not in line):  # as the question writes it
                place = _last(ids, whole, 0, start)
            else:
                place = _first(ids, whole, after, start)
            if place < 0:
                continue
            after = place + len(whole)
            inner = _last(ids, part, place, after)
            if inner < 0:
                continue
            found.append((1, start + token - 1, inner + len(part) - 1))
            if line == word and told.isdigit():  # one of the numbers that are compared
                chosen = _first(ids, _core(tokenizer, told), place, after)
                if chosen >= 0:
                    found.append((0, start + token - 1, chosen))
                    continue
            bound = _bound(ids, part, _core(tokenizer, told), (place, after), start)
            if bound is not None:
                later, earlier = bound
                found += [(0, start + token - 1, later), (2, later, earlier)]
    return found


def _bound(
    ids: list[int], asked: list[int], told: list[int], without: tuple[int, int], end: int
) -> tuple[int, int] | None:
    """Places of the closest ``asked`` (its last token) and ``told`` (its first), later first."""
    keys = [p for p in _all(ids, asked, end) if not without[0] <= p < without[1]]
    values = _all(ids, told, end)
    pairs = [(abs(v - k), k + len(asked) - 1, v) for k in keys for v in values if k != v]
    if not pairs:
        return None
    distance, key, value = min(pairs)
    return (max(key, value), min(key, value)) if distance < 150 else None


def _core(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Ids of ``text`` from its first letter or digit to its last, which stand so everywhere."""
    inner = re.sub(r"^\W+|\W+$", "", text)
    return tokenizer(inner, add_special_tokens=False)["input_ids"] if inner else [-1]


def _all(ids: list[int], part: list[int], end: int) -> list[int]:
    size = len(part)
    return [
        place
        for place in range(end - size + 1)
        if ids[place] == part[0] and ids[place : place + size] == part
    ]


def _first(ids: list[int], part: list[int], after: int, end: int) -> int:
    return next((place for place in _all(ids, part, end) if place >= after), -1)


def _last(ids: list[int], part: list[int], after: int, end: int) -> int:
    return next((place for place in reversed(_all(ids, part, end)) if place >= after), -1)
