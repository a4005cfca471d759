"""LongBench-Pro and LongBench-v2: rows become tasks, counts are kept, metrics of known answers."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_gen.real import Hooks, configure, load, longbench_v2, pro_metrics, score
from rlm_executor.errors import ConfigError, InputError

ITEM = st.text("abcXY 12中", min_size=1, max_size=6).filter(lambda text: text.strip())
ITEMS = st.lists(
    ITEM, min_size=2, max_size=6, unique_by=lambda text: " ".join(text.lower().split())
)
METRICS = st.sampled_from(list(pro_metrics.BY_NAME.values()))


def pro_row(number: int, **changes: Any) -> dict[str, Any]:
    return {
        "id": f"row-{number}",
        "context": f"context {number} ü",
        "language": "English",
        "token_length": "8k",
        "primary_task": "T3. Evidence-Grounded QA",
        "secondary_task": "T3.2 Single-Hop Fact QA",
        "contextual_requirement": "Full",
        "question_nonthinking": f"question {number}? [Answer]",
        "question_thinking": "think",
        "answer": ["Mara"],
        "difficulty": "Easy",
    } | changes


PRO_ROWS = [
    pro_row(0),
    pro_row(1, secondary_task="T4.2 Query-Focused Summary", answer=["a b c", "a b"]),
    pro_row(2, language="Chinese"),
    pro_row(3, secondary_task="T1.1 Global Cohesive Retrieval", answer=["x", "y"]),
]


def pro_config(path: Path, **changes: Any) -> Any:
    return configure("longbench-pro", {"path": path, "rows": 4, "english_rows": 3} | changes)


@pytest.fixture
def pro_file(tmp_path: Path) -> Path:
    path = tmp_path / "longbench_pro.json"
    path.write_text(json.dumps(PRO_ROWS, ensure_ascii=False, indent=1), encoding="utf-8")
    return path


def test_pro_english_rows_become_windows(pro_file: Path) -> None:
    found = load("longbench-pro", pro_config(pro_file))
    windows = list(found)
    assert found.rows == 4 and len(windows) == 3
    assert [window.tasks[0].metric for window in windows] == ["accuracy", "summary", "ndcg"]
    task = windows[0].tasks[0]
    assert task.question == "question 0? [Answer]" and task.answer == ["Mara"]
    assert windows[0].text() == "context 0 ü"
    assert windows[0].length == task.meta["length"] == len("context 0 ü".encode()) // 4
    assert found.sha256 in task.meta["data"] and "4996884deae5" in task.meta["data"]
    assert [w.tasks[0].id for w in found] == [w.tasks[0].id for w in windows], "ids are stable"
    assert len({window.tasks[0].id for window in windows}) == 3
    assert task.id == "longbench-pro-7ec222e46c47"


def test_pro_without_summaries_and_with_a_limit(pro_file: Path) -> None:
    found = load("longbench-pro", pro_config(pro_file, summaries=False))
    assert [w.tasks[0].meta["kind"][:2] for w in found] == ["T3", "T1"]
    limited = load("longbench-pro", pro_config(pro_file, limit=1))
    assert len(list(limited)) == 1 and limited.sha256 != found.sha256


@pytest.mark.parametrize("wrong", [{"rows": 5}, {"english_rows": 4}])
def test_pro_other_counts_are_refused(pro_file: Path, wrong: dict[str, int]) -> None:
    with pytest.raises(
        InputError, match=r"expected [45] of caskcsg/LongBench-Pro at revision 4996"
    ):
        load("longbench-pro", pro_config(pro_file, **wrong))


def test_pro_unknown_task_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    rows = [pro_row(0, secondary_task="T12.1 New"), *PRO_ROWS[1:]]
    path.write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(InputError, match="T12.1 New.*expected one of T1.1"):
        load("longbench-pro", pro_config(path))


def test_pro_scores_by_the_task_and_never_guesses_a_summary(pro_file: Path) -> None:
    fact, summary, ranking = (w.tasks[0] for w in load("longbench-pro", pro_config(pro_file)))
    assert score(fact, "I think so.\n[Answer]\n MARA ").value == 1.0
    assert score(ranking, "[Answer]\nx\ny").parts == {"ndcg": 1.0}
    unscored = score(summary, "a b c")
    assert unscored.value is None and "embedding" in unscored.why
    hooks = Hooks(embed=lambda texts: [[1.0, float(len(text))] for text in texts])
    assert score(summary, "a  B c", hooks).value == pytest.approx(1.0)


def test_pro_every_official_task_has_its_metric() -> None:
    names = {
        "ndcg": "T1.1 T1.2",
        "pairwise_accuracy": "T2.1 T2.2 T6.3",
        "accuracy": "T3.1 T3.2 T11.1 T11.2",
        "summary": "T4.1 T4.2",
        "set_f1": "T5.1 T5.2 T6.2 T7.1 T7.2 T7.3 T9.1 T9.2",
        "sub_em": "T6.1 T8.1 T8.2 T8.3 T10.1 T10.2",
    }
    assert sum(len(tasks.split()) for tasks in names.values()) == 25
    for metric, tasks in names.items():
        for task in tasks.split():
            assert pro_metrics.metric_name(f"{task} Some Name") == metric
    assert pro_metrics.metric_name("T6.4 New") is None
    assert pro_metrics.metric_name("summary") is None


def test_answer_lines() -> None:
    assert pro_metrics.answer_lines("x [Answer] old [Answer]\n A  b \nc") == ["a b", "c"]
    assert pro_metrics.answer_lines("第[答案]\n乙\n甲") == ["乙", "甲"]
    assert pro_metrics.answer_lines("[答案] a [Answer] b") == ["b"]
    assert pro_metrics.answer_lines("a\n\nb") == ["a", "", "b"]
    assert pro_metrics.answer_lines("") == [""]


def test_ndcg_of_known_rankings() -> None:
    gold = ["a", "b", "c"]
    best = 3 + 2 / math.log2(3) + 1 / 2
    assert pro_metrics.ndcg(gold, "c\nb\na") == pytest.approx((1 + 2 / math.log2(3) + 3 / 2) / best)
    assert pro_metrics.ndcg(gold, "x\nx\ny\na") == pytest.approx((3 / 2) / best), "x ranks once"
    assert pro_metrics.ndcg(gold, "x\ny\nz\na") == 0.0, "beyond the third place nothing counts"
    assert pro_metrics.ndcg([], "a") == 0.0


def test_pairwise_accuracy_of_known_orders() -> None:
    gold = ["a", "b", "c"]
    assert pro_metrics.pairwise_accuracy(gold, "a\nc\nb") == pytest.approx(2 / 3)
    assert pro_metrics.pairwise_accuracy(gold, "a\nb\nc\nx") == pytest.approx(3 / 6), "extras cost"
    assert pro_metrics.pairwise_accuracy(gold, "c\nb\na") == 0.0
    assert pro_metrics.pairwise_accuracy(["a"], "a") == 0.0
    assert pro_metrics.pairwise_accuracy(["a", "a", "b"], "a\nb") == 1.0, "capped"


def test_set_metrics_of_known_answers() -> None:
    assert pro_metrics.set_f1(["a", "b"], "b\nc\nd") == pytest.approx(2 / 5)
    assert pro_metrics.sub_em(["a", "b"], "b\nc\nd") == 0.5
    assert pro_metrics.sub_em(["a"], "ab") == 0.0, "whole lines, not parts of them"
    assert pro_metrics.accuracy(["yes"], "yes\nno") == 1.0
    assert pro_metrics.accuracy(["yes"], "no\nyes") == 0.0


def test_summary_of_known_texts() -> None:
    assert pro_metrics.rouge_l("a b c d", "b x d") == pytest.approx(2 * 2 / 7)
    assert pro_metrics.rouge_l("a", "") == 0.0

    def embed(texts: list[str]) -> list[list[float]]:
        return [{"up": [0.0, 1.0], "side": [1.0, 0.0]}.get(text, [0.0, -1.0]) for text in texts]

    assert pro_metrics.summary(["up", "side"], "side", embed) == 1.0, "the best reference counts"
    assert pro_metrics.summary(["up"], "down", embed) == 0.0, "an opposite vector costs no more"
    assert pro_metrics.summary(["up"], " ", embed) == 0.0


@settings(deadline=None)
@given(METRICS, ITEMS)
def test_gold_scores_one_in_any_case_and_spacing(metric: Any, gold: list[str]) -> None:
    answer = "Thus.\n[Answer]\n" + "\n".join(f"  {item.upper()} " for item in gold)
    assert metric(gold, answer) == pytest.approx(1.0)


@settings(deadline=None)
@given(METRICS, st.lists(ITEM, max_size=6), st.text("aX \n[]Answer12", max_size=60))
def test_metrics_stay_in_bounds(metric: Any, gold: list[str], answer: str) -> None:
    assert 0.0 <= metric(gold, answer) <= 1.0 + 1e-9


@settings(deadline=None)
@given(st.sampled_from([pro_metrics.set_f1, pro_metrics.sub_em]), ITEMS, ITEMS, st.randoms())
def test_sets_have_no_order(metric: Any, gold: list[str], said: list[str], rng: Any) -> None:
    shuffled = rng.sample(said, len(said))
    assert metric(gold, "\n".join(said)) == metric(gold, "\n".join(shuffled))


@settings(deadline=None)
@given(st.text("abc ", max_size=30), st.text("abc ", max_size=30))
def test_rouge_is_symmetric_and_bounded(one: str, other: str) -> None:
    assert 0.0 <= pro_metrics.rouge_l(one, other) == pro_metrics.rouge_l(other, one) <= 1.0


def v2_row(number: int, **changes: Any) -> dict[str, Any]:
    return {
        "_id": f"r{number}",
        "domain": longbench_v2.DOMAIN,
        "sub_domain": "Code repo QA",
        "difficulty": "hard",
        "length": "long",
        "question": "Which?",
        **{f"choice_{name}": f"choice {name}" for name in "ABCD"},
        "answer": "B",
        "context": "def f(): ...",
    } | changes


@pytest.fixture
def v2_file(tmp_path: Path) -> Path:
    path = tmp_path / "data.json"
    path.write_text(json.dumps([v2_row(0), v2_row(1, domain="Other"), v2_row(2)]))
    return path


def test_v2_code_rows_become_four_way_questions(v2_file: Path) -> None:
    config = configure("longbench-v2", {"path": v2_file, "rows": 3, "code_rows": 2})
    windows = list(load("longbench-v2", config))
    assert [window.id for window in windows] == ["longbench-v2-r0", "longbench-v2-r2"]
    assert windows[0].tasks[0].question == (
        "What is the correct answer to this question: Which?\nChoices:\n(A) choice A\n(B) choice B"
        "\n(C) choice C\n(D) choice D\n\n"
        'Format your response as follows: "The correct answer is (insert answer here)".'
    )
    right = score(windows[0].tasks[0], "The correct answer is (B).")
    assert right.value == 1.0 and right.metric == "letter"
    assert score(windows[0].tasks[0], "no idea").parts == {"letter": 0.0, "official_letter": 0.0}


def test_v2_fifty_code_rows_of_503_are_expected(v2_file: Path) -> None:
    with pytest.raises(InputError, match="3 rows, expected 503"):
        load("longbench-v2", configure("longbench-v2", {"path": v2_file}))
    with pytest.raises(InputError, match="2 rows of the domain Code .* expected 50"):
        load("longbench-v2", configure("longbench-v2", {"path": v2_file, "rows": 3}))


@pytest.mark.parametrize(
    ("answer", "ours", "official"),
    [
        ("The correct answer is (C)", "C", "C"),
        ("So: **The correct answer is (D).**", "D", "D"),
        ("The correct answer is B.", "B", "B"),
        ("The correct answer is A function of two", None, "A"),
        ("The correct answer is A\nsince", "A", "A"),
        ("The correct answer is: C", "C", None),
        ("B", "B", None),
        ("(b)", "B", None),
        ("I read it all.\nAnswer: (D).", "D", None),
        ("A", "A", None),
        ("A class holds it.", None, None),
        ("It is a", None, None),
        ("B is wrong and C too", None, None),
        ("", None, None),
    ],
)
def test_v2_letters(answer: str, ours: str | None, official: str | None) -> None:
    assert longbench_v2.letter(answer) == ours
    assert longbench_v2.official_letter(answer) == official


@settings(deadline=None)
@given(st.text("ABCD abc.()\n", max_size=40))
def test_v2_letter_never_comes_from_the_middle_of_prose(text: str) -> None:
    assert longbench_v2.letter(text + "\nA thing is there") is None
    assert longbench_v2.letter(text) in (None, "A", "B", "C", "D")


def test_unknown_fields_and_sets_are_refused() -> None:
    with pytest.raises(ConfigError, match="pth.*the fields are path"):
        configure("longbench-v2", {"pth": "x"})
    with pytest.raises(InputError, match="known: longbench-pro"):
        configure("longbench-v3", {})
