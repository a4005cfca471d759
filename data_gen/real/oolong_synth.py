"""OOLONG-synth (arXiv 2511.02817): label statistics over many lines, in real windows.

Hub: oolongbench/oolong-synth, Parquet shards, 24.2 GB: validation 1,300 rows (trec_coarse, spam),
test 5,200 (eight others); for each data set and length 2 windows x 25 questions. The RLM paper's
row is trec_coarse at 131,072 tokens, 50 rows. ``context_window_id`` is used again at other lengths,
so a window is (data set, length, id). Texts of the windows chosen are held in memory, once each.
The card names no licence; the sources' differ.

Two revisions were seen: 49898a421f4b (older; the one when the paper came out) and f0d59eaf0feb, a
re-upload of June 2026, which is the default. Unknown: what changed; scores may not compare.

Known flaws of its gold, from its generator, which no scorer mends: "first exceeds" questions
(MONTH_YEAR) gain one gold item for every month that exceeds, so later ones are wrong; dates seen
"exactly n times" are counted among the 50 most common dates only; a subset of users is always one
user; a tied LEAST_FREQ keeps several gold labels of which the scorer reads the first; a comparison
answered in fewer than 20 characters ("x is less common") is not recognised and scores 0.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from datetime import date, datetime
from typing import Any, Literal

from data_gen.real import source
from data_gen.real.rows import Files, Origin, Row, expect_count, rows, scan
from data_gen.real.scoring import Hooks, Score
from data_gen.tasks.task import Task, Window
from rlm_executor.errors import InputError

FAMILY = "oolong-synth"
REPO = "oolongbench/oolong-synth"
REVISION = "f0d59eaf0feb"
ROWS = {"validation": 1_300, "test": 5_200}
COLUMNS = {
    "id": "text or integer",
    "context_len": "integer",
    "dataset": "text",
    "context_window_text": "text",
    "context_window_text_with_labels": "text",
    "question": "text",
    "task_group": "text",
    "task": "text",
    "answer": "text",
    "answer_type": "text",
    "input_subset": "text",
    "num_labels": "integer",
    "context_window_id": "integer",
}
_KEY = ("dataset", "context_len", "context_window_id")
_QUESTION = ("id", *_KEY, "question", "task_group", "task", "answer", "answer_type")
# The official scorer's phrases, and those of the variant in the environments of `rlms`.
_STRICT_PHRASES = ("more common", "less common", "same frequency")
_LAX_PHRASES = ("more common than", "less common than", "same frequency as")
_SHORT = 20  # characters below which an answer is taken as it is
_DATE = re.compile(r"\[datetime\.date\((\d+), (\d+), (\d+)\)\]")


class OolongSynthConfig(source.RealConfig):
    """Which windows, and how many rows there must be."""

    revision: str = REVISION
    split: Literal["validation", "test"] = "validation"
    dataset: str | None = "trec_coarse"  # None: all of the split
    length: int | None = 131_072  # tokens, as context_len says; None: all
    rows: int | None = None  # None: as the pinned split has
    rows_per_length: int = 50  # of each data set and length


def origin(split: str) -> Origin:
    """The shards of one split."""
    return Origin(REPO, (f"data/{split}-*.parquet",), COLUMNS)


def load(config: OolongSynthConfig) -> source.RealSet:
    """Its windows, each with its questions.

    Raises:
        InputError: the files can't be had, or are not what the pinned revision holds.
    """
    files = source.find(origin(config.split), config.path, config.revision)
    counts: dict[tuple[str, int], int] = {}

    def keep(row: Row) -> bool:
        wanted = config.dataset in (None, row["dataset"])
        if not wanted or config.length not in (None, row["context_len"]):
            return False
        group = row["dataset"], row["context_len"]
        counts[group] = counts.get(group, 0) + 1
        return True

    found = scan(files, _QUESTION, keep, config.limit)
    expect_count(files, "rows", found.rows, config.rows or ROWS[config.split])
    if not counts:
        raise InputError(
            f"{REPO} {config.split} has no rows with dataset {config.dataset} and context_len "
            f"{config.length}; validation holds trec_coarse and spam, test eight others"
        )
    for (dataset, length), count in counts.items():
        what = f"rows of {dataset} at {length:,} tokens"
        expect_count(files, what, count, config.rows_per_length)
    groups: dict[tuple[Any, ...], list[Row]] = {}
    firsts: dict[int, tuple[Any, ...]] = {}
    for number, row in rows(files, _QUESTION, set(found.chosen)):
        key = tuple(row[name] for name in _KEY)
        if key not in groups:
            firsts[number] = key
        groups.setdefault(key, []).append(row)
    texts = _texts(files, firsts)
    digest = source.joined_hash(found.sha256, *texts.values())
    data = f"{files.source} sha256:{digest}"

    def windows() -> Iterator[Window]:
        for key, members in groups.items():
            yield _window(key, texts[key], members, data)

    return source.RealSet(FAMILY, files.source, found.rows, digest, windows)


def labelled_window(files: Files, dataset: str, length: int, window_id: int) -> tuple[str, str]:
    """Text of one window, without and with its labels.

    Raises:
        InputError: there is no such window.
    """
    wanted = (dataset, length, window_id)
    for number, row in rows(files, _KEY):
        if tuple(row[name] for name in _KEY) == wanted:
            texts = ("context_window_text", "context_window_text_with_labels")
            _, whole = next(rows(files, texts, {number}))
            return whole[texts[0]], whole[texts[1]]
    raise InputError(
        f"{REPO} has no window {window_id} of {dataset} at {length:,} tokens; give the split "
        f"validation of {files.expected}"
    )


def score(task: Task, answer: str, hooks: Hooks) -> Score:
    """The strict score, with the lax one beside it."""
    gold, kind = str(task.answer), task.meta["answer_type"]
    parts = {"oolong_strict": strict(gold, kind, answer), "oolong_lax": lax(gold, kind, answer)}
    return Score.of(task.metric, parts)


def strict(gold: str, answer_type: str, answer: str) -> float:
    """The official rule (abertsch72/oolong, src/eval/eval_helpers.py), in our own code.

    What follows the last colon, without * and brackets, must equal the gold; a number earns 0.75 to
    the power of its error; a date may be written in any form; a comparison in a longer answer is
    found by its phrase.
    """
    wanted, text = _gold(gold), _strict_answer(answer)
    if text == str(wanted):
        return 1.0
    if text in _STRICT_PHRASES:
        return float(text in str(wanted))
    return _near(wanted, answer_type, text)


def lax(gold: str, answer_type: str, answer: str) -> float:
    """The rule of the `rlms` environments: case is ignored, and a gold text counts that occurs
    anywhere in the answer, so that an answer naming every label is always right."""
    wanted, low = _gold(gold), answer.lower()
    said = [(low.rfind(phrase), phrase) for phrase in _LAX_PHRASES if phrase in low]
    text = max(said)[1] if said else _candidate(answer)
    target = str(wanted).lower()
    if text.lower() == target:
        return 1.0
    if answer_type in ("ANSWER_TYPE.NUMERIC", "ANSWER_TYPE.DATE"):
        return _near(wanted, answer_type, text)
    return float(bool(target) and target not in _LAX_PHRASES and target in low)


def _gold(text: str) -> Any:
    """The first item of a gold list; the text itself where it is no such list."""
    if match := _DATE.fullmatch(text):
        return datetime(*map(int, match.groups()))  # type: ignore[arg-type]
    try:
        return ast.literal_eval(text)[0]
    except (ValueError, SyntaxError, LookupError, TypeError):
        return text


def _candidate(answer: str) -> str:
    if ":" in answer:
        return answer.rpartition(":")[2].strip().translate(str.maketrans("", "", "*[]"))
    if len(answer) < _SHORT:
        return answer
    return (answer.split() or [""])[-1]


def _strict_answer(answer: str) -> str:
    text = _candidate(answer)
    if ":" in answer and len(text) >= _SHORT:
        return next((phrase for phrase in _STRICT_PHRASES if phrase in text), text)
    return text


def _near(wanted: Any, answer_type: str, text: str) -> float:
    """Partial credit of a number, equality of a date, else 0."""
    try:
        if answer_type == "ANSWER_TYPE.NUMERIC":
            return 0.75 ** abs(int(wanted) - int(text))
        if answer_type == "ANSWER_TYPE.DATE" and isinstance(wanted, date):
            from dateutil import parser

            return float(parser.parse(text) == wanted)
    except (ValueError, OverflowError, TypeError):  # no number, no date, or one of absurd size
        return 0.0
    return 0.0


def _texts(files: Files, firsts: dict[int, tuple[Any, ...]]) -> dict[tuple[Any, ...], str]:
    read = ("context_window_text",)
    return {firsts[number]: row[read[0]] for number, row in rows(files, read, set(firsts))}


def _window(key: tuple[Any, ...], text: str, members: list[Row], data: str) -> Window:
    dataset, length, window_id = key
    tasks = [
        Task(
            id=source.task_id(FAMILY, *key, row["id"]),
            family=FAMILY,
            question=row["question"],
            answer=row["answer"],
            metric="oolong_strict",
            meta={
                "kind": row["task"].removeprefix("TASK_TYPE."),
                "bucket": length,
                "answer_type": row["answer_type"],
                "task_group": row["task_group"],
                "row": row["id"],
                "data": data,
            },
        )
        for row in members
    ]
    return source.text_window(FAMILY, f"{dataset}-{length}-{window_id}", text, tasks)
