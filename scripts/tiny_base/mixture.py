"""Which samples, of which lengths, at each point of the pretraining: the curriculum."""

from __future__ import annotations

import random
import sysconfig
from collections.abc import Iterable, Sequence
from pathlib import Path

from transformers import PreTrainedTokenizerFast

from data_gen.direct import example
from data_gen.tasks import make_window
from rlm_executor.errors import InputError
from rlm_executor.files import sha256_text
from scripts.tiny_base.labels import KINDS, label
from scripts.tiny_base.pointers import About, Pointer, find_pointers
from scripts.tiny_base.skills import Sample, Size, Skills
from scripts.tiny_base.words import Words, corpus_words

WINDOW = 4096
# Share of each kind where samples may have up to 512 tokens, and where they may have more.
SHARES: dict[str, tuple[float, float]] = {
    "copy": (8, 4), "fill": (4, 1), "passage": (6, 14), "look_up": (15, 26),
    "extract": (14, 21), "compare": (12, 3), "things": (9, 5), "squares": (18, 12),
    "glossary": (12, 9),
}  # fmt: skip
# What has to sit first.
AFTER = {"squares": ("things",)}
ITEMS = {"copy": 19, "fill": 5, "passage": 23, "compare": 11}
# Until which share of the tokens a row's samples have up to 256, 512, 1,024, 2,048 and 4,096
# tokens, how often each.
LENGTHS = (
    (0.04, (1, 0, 0, 0, 0)),
    (0.1, (6, 3, 1, 0, 0)),
    (0.2, (4, 3, 2, 0.7, 0.7)),
    (2.0, (2, 3, 2.5, 2, 3)),
)
SEVERAL = "several"  # cases in one conversation
UP_AT, STEP_UP = 0.5, 0.006
ANSWER_START = "<|im_start|>assistant\n<think>\n\n</think>\n\n"
CHARACTERS_PER_TOKEN = 1.8  # of the samples, somewhat below their mean: few samples are too long


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
    """Samples and their lengths at each point of the curriculum; the same seed gives the same."""

    def __init__(self, source: list[str], seed: int = 0) -> None:
        self.rng = random.Random(seed)
        self.pace = Pace()
        self.sha256 = sha256_text("".join(source))
        self.source = source
        self.words = Words(corpus=corpus_words(source))
        self.skills = Skills(source, self.words)
        self.vocabulary: Sequence[int] = ()

    def longest(self, progress: float) -> int:
        """Tokens of the longest samples of one row: short first, then of every length."""
        shares = next(shares for until, shares in LENGTHS if progress < until)
        return self.rng.choices((256, 512, 1024, 2048, WINDOW), shares)[0]

    def encoded(
        self, tokenizer: PreTrainedTokenizerFast, progress: float, longest: int
    ) -> tuple[str, list[int], list[bool], list[Pointer]]:
        """The kind of one sample, its ids, which of them are learned, and its pointers."""
        rng = self.rng
        if rng.random() < 0.05:
            return "", *recall(rng, self.vocabulary, rng.randint(24, min(longest, 1024) - 8)), []
        kind, sample, about = self.sample(progress, longest)
        # Some prompts are learned too: the model should know text, not only answers.
        prompts_too = rng.random() < 0.08
        ids, learned, answers = encode(tokenizer, sample, prompts_too)
        if prompts_too or not kind:
            return "", ids, learned, []
        return kind, ids, learned, find_pointers(tokenizer, ids, learned, answers, about)

    def sample(self, progress: float, longest: int) -> tuple[str, Sample, About]:
        """The kind of one conversation or text of up to ``longest`` tokens, and its messages."""
        rng = self.rng
        if progress > 0.1 and rng.random() < 0.03:
            return "", self.text(rng, int(CHARACTERS_PER_TOKEN * longest * rng.random())), ()
        if longest >= 1024 and rng.random() < 0.06:
            return "", direct(rng, {1024: 640, 2048: 1400}.get(longest, 2600)), ()
        if longest >= 1024 and rng.random() < 0.4:
            return SEVERAL, *self._several(progress, int(CHARACTERS_PER_TOKEN * (longest - 60)))
        kind = self._kind(progress, longest > 512)
        level = self._level(kind, progress)
        characters = CHARACTERS_PER_TOKEN * (longest - 60)
        room = int(min(characters, 60 * (characters / 60) ** level**0.5)) if longest > 512 else (
            int(min(characters, 60 * 15**level)))  # fmt: skip
        return kind, *self._conversation(kind, level, room)

    def _kind(self, progress: float, is_long: bool) -> str:
        kinds = [kind for kind in SHARES if progress > 0.1 or self.pace.is_open(kind)]
        return self.rng.choices(kinds, [SHARES[kind][is_long] for kind in kinds])[0]

    def _level(self, kind: str, progress: float) -> float:
        """How hard the next case is; sets the breadth of the words."""
        # Whatever the pace, the second half of the way shows cases of every length.
        level = max(self.pace.levels[kind], min(1.0, (progress - 0.25) * 4))
        self.words.breadth = min(1.0, 3 * level)
        # Mostly near what can just be done; always some that are shorter.
        return level * (1 - self.rng.random() ** 2)

    def _several(self, progress: float, room: int) -> tuple[Sample, About]:
        """Short cases in one conversation: each is asked among the others, up to its end.

        A row of 4,096 tokens with one question teaches long distances too seldom.
        """
        rng = self.rng
        sample: Sample = []
        about: list[tuple[tuple[str, ...], ...]] = []
        room = int(room * rng.uniform(0.4, 1.0))
        while room > 150:
            kind = self._kind(progress, False)
            size = min(room, rng.randint(60, 900))
            more, told = self._conversation(kind, self._level(kind, progress), size)
            if more[0][0] == "system":  # only the first message can be one
                more = [("user", f"{more[0][1]}\n\n{more[1][1]}"), *more[2:]]
            sample += more
            answers = sum(role == "assistant" for role, _ in more)
            about += [*[()] * (answers - len(told)), *told]
            room -= sum(len(text) + 30 for _, text in more)
        return sample, tuple(about)

    def _conversation(self, kind: str, level: float, room: int) -> tuple[Sample, About]:
        rng = self.rng
        if kind in KINDS:  # of labels
            room = max(room, 150)
            if kind == "squares":  # a line is as hard as many
                room, level = max(room, 300), max(level, 0.2)
            most = max(1, min(2 + int(18 * level), int(room / (CHARACTERS_PER_TOKEN * 22))))
            case = label(rng, self.words, kind, most)
            asked, answer = case.turns[0]
            text = f"{case.given}\n\n{asked}" if asked else case.given
            return [("user", text), ("assistant", answer)], case.about
        items = 2 + int(ITEMS.get(kind, 150) * level)
        turns = rng.randint(1, 1 + int(min(11, room / 250)))
        given = room if rng.random() < 0.6 else int(room * rng.uniform(0.2, 1.0))
        case = getattr(self.skills, kind)(rng, Size(given, items, turns))
        if level <= 0.25:
            return self.skills.conversation(rng, case, 0), case.about
        sample = self.skills.conversation(rng, case, room)
        if len(case.given) < room - 500 and rng.random() < 0.5:
            sample = self.skills.lengthen(rng, sample, case, rng.randint(len(case.given), room))
        return sample, case.about

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
    tokenizer: PreTrainedTokenizerFast, sample: Sample, prompts_too: bool
) -> tuple[list[int], list[bool], list[tuple[int, str]]]:
    """Ids as the chat template renders them (thinking off), which of them are learned, answers.

    An answer is its first place, and its text.
    """
    parts: list[tuple[str, bool, str]] = []  # text, whether it is learned, of which answer
    last = len(sample) - 1
    for index, (role, text) in enumerate(sample):
        if role == "text":
            parts.append((text, True, ""))
        elif role == "assistant":  # the template keeps the empty thinking of the last turn only
            start = ANSWER_START if index == last else "<|im_start|>assistant\n"
            parts += [(start, prompts_too, ""), (f"{text}<|im_end|>", True, text)]
            if index < last:
                parts.append(("\n", False, ""))
        else:
            parts.append((f"<|im_start|>{role}\n{text}<|im_end|>\n", prompts_too, ""))
    ids: list[int] = []
    learned: list[bool] = []
    answers: list[tuple[int, str]] = []
    encoded = tokenizer.backend_tokenizer.encode_batch_fast([text for text, _, _ in parts])
    for (_, on, answer), more in zip(parts, encoded, strict=True):
        if answer:
            answers.append((len(ids), answer))
        ids += more.ids
        learned += [on] * len(more.ids)
    return ids, learned, answers
