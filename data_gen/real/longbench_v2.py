"""LongBench-v2 CodeQA: 50 four-way questions about code repositories of 23K to 4.2M tokens.

Hub: THUDM/LongBench-v2, apache-2.0, split train, data.json, an array of 503 rows in 465 MB. The 50
rows are those with the domain "Code Repository Understanding" (their sub_domain is spelled in two
ways by different loaders, so it is not used). Unknown: how the 50 divide by difficulty and length.

The question is the official zero-shot text after the document. A letter is read in two ways, both
in the score: ``official_letter`` as the official code does, whose second rule takes the "A" of "The
correct answer is A function ..." for a choice; ``letter``, the default, does not, and also takes a
last line that is nothing but a letter. No letter is wrong (the official "compensated" 0.25 is not
given). The official runs allow 128 tokens for the answer and cut the document's middle at 120,000.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from data_gen.real import source
from data_gen.real.rows import Origin, Row, expect_count, rows, scan
from data_gen.real.scoring import Hooks, Score
from data_gen.tasks.task import Task, Window

FAMILY = "longbench-v2"
DOMAIN = "Code Repository Understanding"
CHOICES = "ABCD"
ORIGIN = Origin(
    repo="THUDM/LongBench-v2",
    files=("data.json",),
    columns={
        "_id": "text or integer",
        "domain": "text",
        "sub_domain": "text",
        "difficulty": "text",
        "length": "text",
        "question": "text",
        **{f"choice_{letter}": "text" for letter in CHOICES},
        "answer": "text",
        "context": "text",
    },
)
_OFFICIAL = (
    re.compile(r"The correct answer is \(([A-D])\)"),
    re.compile(r"The correct answer is ([A-D])"),
)
# A bare letter counts if its sentence ends there, so an article does not.
_STATED = re.compile(r"The correct answer is:? (?:\(([A-D])\)|([A-D])(?=[ \t]*(?:[.,;:)\n]|\Z)))")
_ALONE = re.compile(r"(?:Answer\s*[:=]\s*)?\(?([A-D])\)?\.?", re.IGNORECASE)


class LongBenchV2Config(source.RealConfig):
    """How many rows there must be."""

    revision: str = "2b48e494f2c7a2f0af81aae178e05c7e1dde0fe9"
    rows: int = 503
    code_rows: int = 50


def load(config: LongBenchV2Config) -> source.RealSet:
    """Its code questions, one window each.

    Raises:
        InputError: the file can't be had, or is not what the pinned revision holds.
    """
    files = source.find(ORIGIN, config.path, config.revision)
    read = tuple(ORIGIN.columns)
    found = scan(files, read, lambda row: row["domain"] == DOMAIN, config.limit)
    expect_count(files, "rows", found.rows, config.rows)
    expect_count(files, f"rows of the domain {DOMAIN}", found.matched, config.code_rows)
    data = f"{files.source} sha256:{found.sha256}"

    def windows() -> Iterator[Window]:
        for _, row in rows(files, read, set(found.chosen)):
            yield _window(row, data)

    return source.RealSet(FAMILY, files.source, found.rows, found.sha256, windows)


def score(task: Task, answer: str, hooks: Hooks) -> Score:
    """1 for the right letter."""
    readings = {"letter": letter(answer), "official_letter": official_letter(answer)}
    parts = {name: float(found == task.answer) for name, found in readings.items()}
    return Score.of(task.metric, parts)


def official_letter(answer: str) -> str | None:
    """The letter by the official rule, None if it finds none."""
    text = answer.replace("*", "")
    for pattern in _OFFICIAL:
        if match := pattern.search(text):
            return match[1]
    return None


def letter(answer: str) -> str | None:
    """The letter that is stated as the answer, or stands alone in the last line."""
    text = answer.replace("*", "").strip()
    if match := _STATED.search(text):
        return match[1] or match[2]
    match = _ALONE.fullmatch(text.rpartition("\n")[2].strip())
    return match[1].upper() if match else None


def question_of(row: Row) -> str:
    """The official wording, from the question to the answer's format."""
    choices = "\n".join(f"({name}) {row[f'choice_{name}']}" for name in CHOICES)
    return (
        f"What is the correct answer to this question: {row['question']}\nChoices:\n{choices}\n\n"
        'Format your response as follows: "The correct answer is (insert answer here)".'
    )


def _window(row: Row, data: str) -> Window:
    task = Task(
        id=source.task_id(FAMILY, row["_id"]),
        family=FAMILY,
        question=question_of(row),
        answer=row["answer"].strip(),
        metric="letter",
        meta={
            "kind": row["difficulty"],
            "bucket": row["length"],
            "row": row["_id"],
            "data": data,
        },
    )
    return source.text_window(FAMILY, str(row["_id"]), row["context"], [task])
