"""LongBench-Pro (arXiv 2601.02872): the 750 English tasks that RLM-Qwen3-8B was trained on.

Hub: caskcsg/LongBench-Pro, apache-2.0, split test, one file longbench_pro.json of 513 MB, 1,500
rows: 25 secondary tasks x 60, 250 a length (8k to 256k by Qwen's tokenizer), 750 English and 750
Chinese. The paper says 750 English tasks; its author says that summaries (T4) were left out, which
would be 690: both can be had (``summaries``). A benchmark's test split is used as training data
here, so a model made from it can't be evaluated on it.

The context is the column ``context``, the question ``question_nonthinking``, which asks for
"[Answer]" and one item a line. Metrics: ``pro_metrics.py``. Only English rows are loaded: the
official ROUGE-L of Chinese needs a word splitter that we don't have.

Unknown: the full commit (its first 12 characters are known), the type of ``id``. No sample row was
seen: that ``language`` says English or Chinese is from the official evaluation code.
"""

from __future__ import annotations

from collections.abc import Iterator

from data_gen.real import pro_metrics, source
from data_gen.real.rows import Origin, Row, expect_count, rows, scan
from data_gen.real.scoring import Hooks, Score
from data_gen.tasks.task import Task, Window
from rlm_executor.errors import InputError

FAMILY = "longbench-pro"
ORIGIN = Origin(
    repo="caskcsg/LongBench-Pro",
    files=("longbench_pro.json",),
    columns={
        "id": "text or integer",
        "context": "text",
        "language": "text",
        "token_length": "text",
        "primary_task": "text",
        "secondary_task": "text",
        "contextual_requirement": "text",
        "question_nonthinking": "text",
        "question_thinking": "text",
        "answer": "list of texts",
        "difficulty": "text",
    },
)
_READ = tuple(name for name in ORIGIN.columns if name != "question_thinking")


class LongBenchProConfig(source.RealConfig):
    """Which of its rows, and how many there must be."""

    revision: str = "4996884deae5"
    summaries: bool = True  # False: without T4, whose metric needs an embedding model
    rows: int = 1_500
    english_rows: int = 750


def load(config: LongBenchProConfig) -> source.RealSet:
    """Its English tasks, one window each.

    Raises:
        InputError: the file can't be had, or is not what the pinned revision holds.
    """
    files = source.find(ORIGIN, config.path, config.revision)
    english = 0

    def keep(row: Row) -> bool:
        nonlocal english
        if row["language"] != "English":
            return False
        english += 1
        return _metric(row) != "summary" or config.summaries

    found = scan(files, _READ, keep, config.limit)
    expect_count(files, "rows", found.rows, config.rows)
    expect_count(files, "rows in English", english, config.english_rows)
    data = f"{files.source} sha256:{found.sha256}"

    def windows() -> Iterator[Window]:
        for _, row in rows(files, _READ, set(found.chosen)):
            yield _window(row, data)

    return source.RealSet(FAMILY, files.source, found.rows, found.sha256, windows)


def score(task: Task, answer: str, hooks: Hooks) -> Score:
    """By the metric of the task's kind; a summary only with ``hooks.embed``."""
    gold = list(task.answer)
    if task.metric == "summary":
        if hooks.embed is None:
            return Score(None, "summary", why="a T4 summary needs an embedding model")
        return Score.of("summary", {"summary": pro_metrics.summary(gold, answer, hooks.embed)})
    return Score.of(task.metric, {task.metric: pro_metrics.BY_NAME[task.metric](gold, answer)})


def _metric(row: Row) -> str:
    name = pro_metrics.metric_name(row["secondary_task"])
    if name is None:
        raise InputError(
            f"row {row['id']} of {ORIGIN.repo} has the secondary task {row['secondary_task']!r}, "
            "expected one of T1.1 to T11.2; get the pinned revision"
        )
    return name


def _window(row: Row, data: str) -> Window:
    task = Task(
        id=source.task_id(FAMILY, row["id"]),
        family=FAMILY,
        question=row["question_nonthinking"],
        answer=row["answer"],
        metric=_metric(row),
        meta={
            "kind": row["secondary_task"],
            "bucket": row["token_length"],
            "difficulty": row["difficulty"],
            "contextual_requirement": row["contextual_requirement"],
            "row": row["id"],
            "data": data,
        },
    )
    return source.text_window(FAMILY, str(row["id"]), row["context"], [task])
