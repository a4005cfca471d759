"""``codeqa``: questions with four choices about real Python source, after LongBench-v2's CodeQA.

The context is files, or whole statements of them, each after a line ``=== its/path.py``; some are
of the package that is asked about, the others stand between them. The gold is from the syntax tree
or from running a pure function. A question is of the kind ``grep`` if its identifiers alone find
the answer, else ``behaviour``. Test seeds use held-out packages and held-out wordings.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

from data_gen.tasks import real_text
from data_gen.tasks.code_facts import FINDERS, Fact
from data_gen.tasks.code_pieces import Piece, excerpt, parse
from data_gen.tasks.code_values import is_pure
from data_gen.tasks.real_text import HEADER, Package
from data_gen.tasks.task import BYTES_PER_TOKEN, Task, Window, task_id
from rlm_executor.errors import InputError
from rlm_executor.files import sha256_text

# The last wording of each kind is held out for development and test seeds.
WORDINGS: dict[str, tuple[str, ...]] = {
    "default": (
        "What is the default of the parameter `{parameter}` of `{name}` in {path}?",
        "In {path}, which default does `{name}` give its parameter `{parameter}`?",
        "If `{name}` from {path} is called without `{parameter}`, which value does it take?",
    ),
    "raises": (
        "Which exception does `{name}` in {path} raise?",
        "In {path}, what does `{name}` raise when it refuses something?",
        "Of which type is the exception that the body of `{name}` ({path}) raises?",
    ),
    "calls": (
        "Which of these functions calls `{called}`?",
        "In the body of which of these functions stands a call of `{called}`?",
        "One of these functions makes use of `{called}` by calling it. Which one?",
    ),
    "imports": (
        "Which of these files imports the module `{module}`?",
        "In which of these files is there an import of `{module}`?",
        "Only one of these files depends on `{module}` by an import. Which one?",
    ),
    "snippet": (
        "In which of these files does this line stand: `{line}`",
        "Which of these files has the line `{line}`",
        "From which of these files was this line taken: `{line}`",
    ),
    "overrides": (
        "Which of these classes overrides the method `{method}` of its base class `{base}`?",
        "The class `{base}` has a method `{method}`. Which class replaces it by its own?",
        "Which subclass of `{base}` brings its own version of `{method}`?",
    ),
    "value": (
        "What does `{call}` give, with the function of {path}?",
        "Take the function from {path}. What is the value of `{call}`?",
        "Which value comes back from `{call}`, as {path} defines it?",
    ),
}
LETTERS = "ABCD"
_MAX_HOME = 600_000  # bytes of the package that is asked about; parsing it takes a second
_N_TRIES = 60


def make_window(length: int, seed: int, n_questions: int, folders: tuple[Path, ...] = ()) -> Window:
    """Real code of ``length`` tokens and questions about one of its packages.

    Args:
        folders: where packages are taken from; the standard library if none.

    Raises:
        InputError: the folders have no package with enough to ask, or too little text.
    """
    rng = random.Random(f"codeqa/{length}/{seed}")
    split = real_text.split_of(seed)
    n_bytes = length * BYTES_PER_TOKEN
    sources = [p for f in folders or (real_text.STDLIB,) for p in real_text.packages(split, f)]
    pieces, facts = _home(rng, sources, n_bytes, n_questions)
    parts = _filled(rng, split, pieces, n_bytes)
    tasks = [_task(rng, length, seed, at, fact, split) for at, fact in enumerate(facts)]

    def chunks() -> Iterator[str]:
        yield from parts

    return Window(
        id=f"codeqa-{length}-{seed}",
        family="codeqa",
        length=length,
        seed=seed,
        tasks=tasks,
        chunks=chunks,
        facts={"sources": {p.path: sha256_text(p.text) for p in pieces}},
    )


def _home(
    rng: random.Random, sources: list[Package], n_bytes: int, n_questions: int
) -> tuple[list[Piece], list[Fact]]:
    """Excerpts of one package, and facts of as many kinds as it has."""
    large = [package for package in sources if len(package.paths) >= 4]
    room = min(int(0.8 * n_bytes), _MAX_HOME)
    wants_value = rng.random() < 0.5  # few packages have pure functions: they are looked for
    for tried in range(_N_TRIES):
        prefer = _is_pure if wants_value and tried < _N_TRIES // 2 else _anything
        package = rng.choice(large if large and rng.random() < 0.6 else sources)
        paths = rng.sample(package.paths, min(len(package.paths), max(4, room // 15_000)))
        each = room // len(paths) - max(map(len, paths)) - 8
        found = [piece for path in paths if (piece := excerpt(rng, package, path, each, prefer))]
        if prefer is _is_pure and not any(is_pure(n) for p in found for n in p.tree.body):
            continue
        facts: list[Fact] = []
        kinds = list(FINDERS)
        rng.shuffle(kinds)
        kinds.sort(key=lambda kind: kind != "value")  # few packages have them: they go first
        by_kind = {kind: FINDERS[kind](rng, found) for kind in kinds}
        while any(by_kind.values()) and len(facts) < n_questions:
            facts += [by_kind[kind].pop() for kind in kinds if by_kind[kind]]
        if len(facts) >= n_questions:
            return found, facts[:n_questions]
    raise InputError(f"no package has {n_questions} questions in {n_bytes} bytes; ask fewer")


def _is_pure(statement: str) -> bool:
    tree = parse(statement) if statement.startswith("def ") else None
    return tree is not None and is_pure(tree.body[0])


def _anything(statement: str) -> bool:
    return False


def _filled(rng: random.Random, split: str, pieces: list[Piece], n_bytes: int) -> list[str]:
    """The excerpts among other files, in any order, cut to ``n_bytes``."""
    parts = [f"{HEADER}{piece.path}\n{piece.text}" for piece in pieces]
    taken = {piece.path for piece in pieces}
    room = n_bytes - sum(len(part.encode()) for part in parts)
    for path, text in real_text.files(rng, split):
        if path in taken:
            continue
        part = f"{HEADER}{path}\n{text}"
        size = len(part.encode())
        if size > room:
            part = part.encode()[:room].decode("utf-8", "ignore")
            # A last line that is cut off would be no line of the file.
            part = part.rpartition("\n")[0] + "\n" if len(part) > 80 else ""
        parts.append(part)
        room -= size
        if room <= 0:
            break
    else:
        raise InputError(f"the text of split {split!r} is {room} bytes short of the window")
    rng.shuffle(parts)
    return parts


def _task(rng: random.Random, length: int, seed: int, index: int, fact: Fact, split: str) -> Task:
    wordings = WORDINGS[fact.kind]
    wording = wordings[-1] if split == "test" else rng.choice(wordings[:-1])
    choices = [fact.gold, *fact.wrong]
    rng.shuffle(choices)
    listed = "\n".join(f"{a}. {b}" for a, b in zip(LETTERS, choices, strict=True))
    return Task(
        id=task_id("codeqa", length, seed, index),
        family="codeqa",
        question=f"{wording.format(**fact.fields)}\n{listed}\nAnswer with one letter.",
        answer=[LETTERS[choices.index(fact.gold)]],
        metric="accuracy",
        meta={
            "length": length,
            "seed": seed,
            "window_id": f"codeqa-{length}-{seed}",
            "kind": "behaviour" if fact.kind == "value" else "grep",
            "asks": fact.kind,
            "choices": choices,
        },
    )


def floor_answer(window: Window, task: Task) -> str:
    """A random letter."""
    return random.Random(f"floor/{task.id}").choice(LETTERS)
