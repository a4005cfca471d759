"""``niah``: needles in a haystack, after RULER (arXiv 2404.06654), made without downloads.

Needle, question wording and value types are RULER's (``niah.py`` @c3f5e3b4); the haystack is
plain generated prose instead of essays, the names are our own adjective-noun lists (three in
four training keys are other words or no words at all, so that a key must be copied, not chosen).
Every window holds four asked keys and four distractors; a quarter of the keys carry several values.
A window of 2^24 tokens (64 MiB) is streamed in blocks and never held twice.
"""

from __future__ import annotations

import random
import string
from collections.abc import Iterator

from data_gen.tasks import lexicon
from data_gen.tasks.task import BYTES_PER_TOKEN, Task, Window, task_id

_BLOCK_SENTENCES = 4_000
_SUBJECTS = (
    "the old bridge,a quiet street,the morning market,a narrow path,the northern wind,"
    "an empty station,the garden wall,a distant bell,the river bank,a wooden table,"
    "the evening train,a small window,the lower field,a broken clock,the village square"
).split(",")
_VERBS = (
    "lay still in,stood close to,changed slowly with,was hidden by,looked strange in,"
    "seemed smaller than,was older than,could be seen from,led away from,belonged to"
).split(",")
_OBJECTS = (
    "the pale light,the first snow,the long shadow of the hill,the noise of the harbour,"
    "the smell of rain,the summer heat,the edge of the forest,the season before,"
    "the road to the coast,the house on the corner,the silence after the storm"
).split(",")


def make_window(length: int, seed: int, n_questions: int) -> Window:
    """A haystack of ``length`` tokens with ``n_questions`` asked keys and as many distractors."""
    rng = random.Random(f"niah/{length}/{seed}")
    test = seed >= 700_000
    adjectives = lexicon.NEEDLE_ADJECTIVES_TEST if test else lexicon.NEEDLE_ADJECTIVES_TRAIN
    nouns = lexicon.NEEDLE_NOUNS_TEST if test else lexicon.NEEDLE_NOUNS_TRAIN
    keys = _distinct_keys(rng, adjectives, nouns, 2 * n_questions, 0.0 if test else 0.75)
    needles: list[str] = []
    tasks: list[Task] = []
    for index, key in enumerate(keys):
        kind = rng.choice(("numbers", "numbers", "words"))
        n_values = rng.choice((1, 1, 1, 3))
        values = [_value(rng, kind, adjectives, nouns) for _ in range(n_values)]
        needles += [f"One of the special magic {kind} for {key} is: {value}." for value in values]
        if index < n_questions:
            tasks.append(
                Task(
                    id=task_id("niah", length, seed, index),
                    family="niah",
                    question=_question(kind, key, n_values),
                    answer=values,
                    metric="string_match_all",
                    meta={
                        "length": length,
                        "seed": seed,
                        "window_id": f"niah-{length}-{seed}",
                        "kind": "single" if n_values == 1 else "multivalue",
                        "value_type": kind,
                    },
                )
            )
    rng.shuffle(needles)
    n_bytes = length * BYTES_PER_TOKEN
    depths = sorted(rng.random() for _ in needles)
    haystack_seed = rng.random()

    def chunks() -> Iterator[str]:
        yield from _haystack(random.Random(haystack_seed), n_bytes, needles, depths)

    return Window(
        id=f"niah-{length}-{seed}",
        family="niah",
        length=length,
        seed=seed,
        tasks=tasks,
        chunks=chunks,
    )


def _question(kind: str, key: str, n_values: int) -> str:
    if n_values == 1:
        return f"What is the special magic {kind[:-1]} for {key} mentioned in the provided text?"
    return f"What are all the special magic {kind} for {key} mentioned in the provided text?"


def _distinct_keys(
    rng: random.Random,
    adjectives: tuple[str, ...],
    nouns: tuple[str, ...],
    count: int,
    made_up: float,
) -> list[str]:
    """Adjective-noun keys; a share of ``made_up`` ones, so that training keys are no list."""
    keys: dict[str, None] = {}
    while len(keys) < count:
        if rng.random() < made_up:
            keys[f"{_any_word(rng)}-{_any_word(rng)}"] = None
        else:
            keys[f"{rng.choice(adjectives)}-{rng.choice(nouns)}"] = None
    return list(keys)


_THINGS = sorted(
    {thing for things in lexicon.CATEGORIES.values() for thing in things}
    - {*lexicon.NEEDLE_ADJECTIVES_TEST, *lexicon.NEEDLE_NOUNS_TEST}
)


def _any_word(rng: random.Random) -> str:
    """Syllables, the name of a thing, or letters in any order: every token gets copied."""
    kind = rng.randrange(4)
    if kind < 2:
        return lexicon.nonce(rng)
    if kind == 2:
        return rng.choice(_THINGS)
    letters = "".join(rng.choices(string.ascii_lowercase, k=rng.randint(2, 6)))
    doubled = rng.randrange(len(letters))
    return letters[: doubled + 1] + letters[doubled:]


def _value(
    rng: random.Random, kind: str, adjectives: tuple[str, ...], nouns: tuple[str, ...]
) -> str:
    if kind == "numbers":
        return str(rng.randrange(10**6, 10**7))
    return f"{rng.choice(adjectives)}-{rng.choice(nouns)}"


def _sentence(rng: random.Random) -> str:
    text = f"{rng.choice(_SUBJECTS)} {rng.choice(_VERBS)} {rng.choice(_OBJECTS)}."
    return text[0].upper() + text[1:]


def prose(rng: random.Random, n_bytes: int) -> str:
    """About ``n_bytes`` of the haystack's sentences, one a line."""
    lines: list[str] = []
    while n_bytes > 0:
        lines.append(_sentence(rng))
        n_bytes -= len(lines[-1]) + 1
    return "\n".join(lines)


def _haystack(
    rng: random.Random, n_bytes: int, needles: list[str], depths: list[float]
) -> Iterator[str]:
    """Prose of at most ``n_bytes`` with each needle after about ``depth`` of it."""
    pool = [_sentence(rng) for _ in range(2_000)]
    room = n_bytes - sum(len(needle) + 1 for needle in needles)
    pending = [(int(depth * room), needle) for depth, needle in zip(depths, needles, strict=True)]
    written = 0
    while written < room:
        block: list[str] = []
        for sentence in rng.choices(pool, k=_BLOCK_SENTENCES):
            while pending and written >= pending[0][0]:
                block.append(pending.pop(0)[1])
            if written + len(sentence) + 1 > room:
                written = room
                break
            block.append(sentence)
            written += len(sentence) + 1
        if written >= room:
            block += [needle for _, needle in pending]
            pending = []
        if block:
            yield "\n".join(block) + "\n"


def floor_answer(window: Window, task: Task) -> str:
    """A random number of the length that numbers here have."""
    return str(random.Random(f"floor/{task.id}").randrange(10**6, 10**7))
