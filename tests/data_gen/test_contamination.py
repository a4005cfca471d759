"""Contamination: a shared 13-gram is found wherever it stands, and nothing that is not one."""

from __future__ import annotations

import gc
import json
import string
import weakref
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data_gen.contamination import EXAMPLES, GRAM, SetReport, TrainingRow, check, grams, row_of
from data_gen.tasks import make_window
from rlm_executor import RLM, Limits, RLMCard, ScriptedLM, Trajectory
from rlm_executor.errors import InputError
from tests.data_gen.erring_teacher import block

SECRET = "seven grey herons crossed the frozen lake before anyone in town had woken up".split()
GRAM_OF_SECRET = " ".join(SECRET[:GRAM])

PATIENT = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)  # the machine may be training something at the same time


def words(letters: str, most: int = 40) -> st.SearchStrategy[list[str]]:
    return st.lists(st.text(letters, min_size=1, max_size=3), max_size=most)


FIELDS = st.sampled_from(["question", "code", "prompts", "context"])
BEFORE, BEHIND = words("abc"), words("abc")  # the two sides have no word in common
BEFORE_THERE, BEHIND_THERE = words("xyz"), words("xyz")


def row(field: str, text: str) -> TrainingRow:
    """A training row that has ``text`` in this field and nothing elsewhere."""
    own = {"question": "", "context": "", field: [text] if field in ("code", "prompts") else text}
    return TrainingRow("train-1", **own)  # type: ignore[arg-type]


def look(text: str, *rows: TrainingRow, allowed: tuple[str, ...] = ()) -> SetReport:
    return check(rows, {"own": [("task-1", text)]}, contexts=True, allowed=allowed).sets["own"]


def disguised(data: st.DataObject, tokens: list[str]) -> str:
    """The same words with other case, punctuation, spaces, and pieces that are punctuation only."""
    text = ""
    for token in tokens:
        marks = st.text(string.punctuation + "“”—。", max_size=2)
        token = data.draw(st.sampled_from([token, token.upper(), token.title()]))
        gap = data.draw(st.sampled_from([" ", "\n", "\t\n ", " -- ", "\u00a0"]))
        text += data.draw(marks) + token + data.draw(marks) + gap
    return text


@given(BEFORE, BEHIND, BEFORE_THERE, BEHIND_THERE, FIELDS, st.data())
@PATIENT
def test_a_planted_gram_is_found_wherever_it_stands(
    before: list[str],
    behind: list[str],
    before_there: list[str],
    behind_there: list[str],
    field: str,
    data: st.DataObject,
) -> None:
    planted = SECRET[:GRAM]
    there = disguised(data, [*before_there, *planted, *behind_there])
    found = look(disguised(data, [*before, *planted, *behind]), row(field, there))
    assert (found.texts, found.short, found.overlaps, found.share) == (1, 0, 1, 1.0)
    assert [tuple(example) for example in found.examples] == [("task-1", GRAM_OF_SECRET)]
    assert not found.clean


@given(BEFORE, BEHIND, BEFORE_THERE, BEHIND_THERE, FIELDS)
@PATIENT
def test_twelve_common_words_are_no_overlap(
    before: list[str],
    behind: list[str],
    before_there: list[str],
    behind_there: list[str],
    field: str,
) -> None:
    planted = SECRET[: GRAM - 1]
    there = " ".join([*before_there, *planted, *behind_there])
    found = look(" ".join([*before, *planted, *behind]), row(field, there))
    assert (found.overlaps, found.examples, found.clean) == (0, (), True)
    assert found.short == (len(before) + len(behind) == 0)


@given(*[st.lists(st.sampled_from("ab"), min_size=GRAM - 1, max_size=400) for _ in range(3)])
@PATIENT
def test_by_an_independent_reading(text: list[str], there: list[str], free: list[str]) -> None:
    def read(tokens: list[str]) -> set[tuple[str, ...]]:
        return {(*tokens[i : i + GRAM],) for i in range(len(tokens) - GRAM + 1)}

    found = look(" ".join(text), row("code", " ".join(there)), allowed=(" ".join(free),))
    shared = read(text) & read(there)
    assert found.overlaps == bool(shared - read(free))
    assert found.allowed_overlaps == bool(shared & read(free))
    assert found.short == (len(text) < GRAM)
    for example in found.examples:
        assert (*example.gram.split(),) in shared - read(free)


def test_grams_do_not_reach_over_two_texts() -> None:
    halves = [" ".join(SECRET[:7]), " ".join(SECRET[7:])]
    secret = " ".join(SECRET)
    assert look(secret, TrainingRow("a", halves[0], halves[1:], context="")).clean
    parts = [("1", half) for half in halves]
    assert check([row("code", secret)], {"own": parts}).clean


def test_the_letters_of_other_scripts_stay_and_their_marks_go() -> None:
    assert [
        *grams(" ".join(["Größe", "«हिन्दी»", "“don’t”", "_x_=1", "鳥。", "—"] + ["b"] * 8))
    ] == ["größe हिन्दी dont x1 鳥 b b b b b b b b"]


def test_contexts_count_only_where_they_are_asked_for() -> None:
    rows = [row("context", " ".join(SECRET))]
    texts = {"own": [("task-1", " ".join(SECRET))]}
    assert check(rows, texts).clean and not check(rows, texts).contexts
    assert not check(rows, texts, contexts=True).clean
    with pytest.raises(InputError, match="a has no context"):
        check([*rows, TrainingRow("a", "")], texts, contexts=True)


def test_what_is_allowed_does_not_mark_and_is_told() -> None:
    wording = "In the text above there are many lines and each of them names one key"
    training = row("question", f"{wording} {' '.join(SECRET)}")
    asked = look(f"{wording} or two.", training, allowed=(wording,))
    assert (asked.overlaps, asked.allowed_overlaps, asked.clean) == (0, 1, True)
    assert not look(f"{wording} or two.", training).clean
    # What stands beside it marks, and so does the step from one to the other.
    both = look(f"{' '.join(SECRET)}. {wording}", training, allowed=(wording,))
    assert (both.overlaps, both.allowed_overlaps) == (1, 1)
    step = look(f"{wording} {SECRET[0]}", training, allowed=(wording,))
    assert (step.overlaps, step.allowed_overlaps) == (1, 1)
    unused = look("nothing of it", training, allowed=(wording,))
    assert (unused.allowed_overlaps, unused.short) == (0, 1)


def test_shared_tasks_are_told_and_not_clean() -> None:
    rows = [TrainingRow(f"task-{n}", "Which?") for n in range(5)]
    texts = {"a": [("task-4", "one"), ("task-3", "two"), ("task-3", "three")], "b": [("5", "six")]}
    report = check(rows, texts)
    assert report.sets["a"].shared_ids == ("task-3", "task-4")
    assert (report.sets["a"].overlaps, report.sets["a"].clean) == (0, False)
    assert report.sets["b"].clean and not report.clean
    assert check(rows, {"b": texts["b"]}).clean


def test_what_is_told_is_json_with_a_few_examples() -> None:
    secret = " ".join(SECRET)
    texts = [(f"task-{n}", secret if n < 5 else "a short text") for n in range(8)]
    unused = " ".join(string.ascii_lowercase[:GRAM])
    told = check([row("code", secret)], {"own": texts}, allowed=(unused,)).told()
    assert json.loads(json.dumps(told)) == told
    own = told["sets"]["own"]
    examples = [{"task_id": f"task-{n}", "gram": GRAM_OF_SECRET} for n in range(EXAMPLES)]
    assert own["examples"] == examples
    counts = (own["texts"], own["short"], own["overlaps"], own["share"], own["shared_ids"])
    assert counts == (8, 3, 5, 0.625, [])
    assert (told["rows"], told["grams"], told["allowed_grams"]) == (1, len(SECRET) - GRAM + 1, 1)
    assert (told["clean"], own["clean"], told["contexts"]) == (False, False, False)


class Text(str):
    """A text that can be watched."""


def test_one_evaluation_text_is_held_at_a_time() -> None:
    held: list[weakref.ref[Text]] = []

    def texts() -> Iterator[tuple[str, str]]:
        for number in range(20):
            gc.collect()
            assert sum(ref() is not None for ref in held) <= 1
            text = Text(f"{number} {' '.join(SECRET)}")
            held.append(weakref.ref(text))
            yield f"task-{number}", text
            del text

    report = check((row("code", " ".join(SECRET)) for _ in range(2)), {"own": texts()})
    assert (report.rows, report.sets["own"].texts, report.sets["own"].overlaps) == (2, 20, 20)


def test_nothing_to_compare_is_no_clean_report() -> None:
    texts = iter([("task-1", "a text")])
    rows = [row("code", "")]
    assert check(rows, {"own": texts}).clean
    with pytest.raises(InputError, match="own has no texts"):
        check(rows, {"own": texts})
    with pytest.raises(InputError, match="no rows"):
        check(iter(()), {"own": [("task-1", "a text")]})


def test_windows_of_two_splits() -> None:
    train, test = (make_window("niah", 1024, seed, 1) for seed in (3, 800_003))
    rows = [TrainingRow(train.tasks[0].id, train.tasks[0].question, context=train.text())]
    tasks = [(test.tasks[0].id, test.tasks[0].question), (test.tasks[0].id, test.text())]
    assert check(rows, {"test": tasks}).sets["test"].shared_ids == ()
    again = [(train.tasks[0].id, train.text())]
    own = check(rows, {"train": again}, contexts=True).sets["train"]
    assert (own.shared_ids, own.overlaps) == ((train.tasks[0].id,), 1)


@pytest.mark.real_sandbox
def test_a_run_and_those_it_started_are_read(tmp_path: Path) -> None:
    ended = 'answer["content"] = "x"\nanswer["ready"] = True'
    said = [
        block("print(rlm_query('Is there a bird? ' + context))", "I ask a run."),
        block(f"part = llm_query('Which bird is it?')\n{ended}", "Below."),
        block(ended, "Done."),
    ]
    path, left, secret = tmp_path / "run.jsonl", [*said], " ".join(SECRET)
    root = ScriptedLM(lambda _: left.pop(0))
    deep = RLMCard(limits=Limits(max_depth=2))
    RLM(root, ScriptedLM(lambda _: "a heron"), deep, journal=path).complete("Which?", secret)
    read = row_of("task-1", Trajectory.read(path), secret)
    assert not left
    assert (read.task_id, read.question, read.context) == ("task-1", "Which?", secret)
    assert sorted(read.code) == sorted(said)
    assert sorted(read.prompts) == [f"Is there a bird? {secret}", "Which bird is it?"]
    assert check([read], {"own": [("task-2", secret)]}).sets["own"].overlaps == 1  # by a prompt
