"""OOLONG-synth and OOLONG-Pairs: windows from shards, both scorers, the gold made again."""

from __future__ import annotations

import itertools
import json
import random
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_gen.real import configure, load, oolong_pairs, oolong_synth, pairs_gold, score
from rlm_executor.errors import ConfigError, InputError

NUMERIC, DATE, LABEL = "ANSWER_TYPE.NUMERIC", "ANSWER_TYPE.DATE", "ANSWER_TYPE.LABEL"
COMPARISON = "ANSWER_TYPE.COMPARISON"
NAMES = {letter: label for label, letter in pairs_gold.LABELS.items()}


def lines(count: int, seed: int, labelled: bool) -> str:
    """A window as the set lays it out: an introduction, then one dated line of a user each."""
    rng = random.Random(seed)
    text = "The following lines contain questions.\n\n"
    for number in range(count):
        day = date(2022, 11, 1) + timedelta(days=rng.randrange(250))
        told = f"{pairs_gold._MONTHS[day.month - 1]} {day.day:02}, {day.year}"
        user, label = rng.randrange(10_000, 10_012), rng.choice(list(pairs_gold.LABELS))
        text += f"Date: {told} || User: {user} || Instance: Who is || number {number} ?"
        text += f" || Label: {label}\n" if labelled else "\n"
    return text


def synth_rows() -> list[dict[str, Any]]:
    """Two data sets x two lengths x two windows x two questions; ids of windows recur."""
    rows = []
    groups = itertools.product(("spam", "trec_coarse"), (1024, 2048), (0, 3), range(2))
    for number, (dataset, length, window, question) in enumerate(groups):
        seed = length + window + len(dataset)
        rows.append(
            {
                "id": number,
                "context_len": length,
                "dataset": dataset,
                "context_window_text": lines(40, seed, labelled=False),
                "context_window_text_with_labels": lines(40, seed, labelled=True),
                "question": f"Which label, {question}?",
                "task_group": "counting",
                "task": "TASK_TYPE.MOST_FREQ" if question else "TASK_TYPE.NUMERIC_ONE_CLASS",
                "answer": "['entity']" if question else "[7]",
                "answer_type": LABEL if question else NUMERIC,
                "input_subset": "False",
                "num_labels": 6,
                "context_window_id": window,
            }
        )
    return rows


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("synth")
    (folder / "data").mkdir()
    rows = synth_rows()
    for shard in range(2):
        table = pyarrow.Table.from_pylist(rows[shard * 8 : shard * 8 + 8])
        path = folder / f"data/validation-0000{shard}-of-00002.parquet"
        pyarrow.parquet.write_table(table, path, row_group_size=3)
    pyarrow.parquet.write_table(table, folder / "data/test-00000-of-00001.parquet")
    return folder


def synth(shards: Path, **changes: Any) -> Any:
    fields = {"path": shards, "length": 1024, "rows": 16, "rows_per_length": 4}
    return load("oolong-synth", configure("oolong-synth", fields | changes))


def test_synth_windows_of_one_data_set_and_length(shards: Path) -> None:
    found = synth(shards)
    windows = list(found)
    assert [window.id for window in windows] == [
        "oolong-synth-trec_coarse-1024-0",
        "oolong-synth-trec_coarse-1024-3",
    ]
    assert [len(window.tasks) for window in windows] == [2, 2]
    assert windows[1].text() == lines(40, 1024 + 3 + 11, labelled=False)
    assert "Label:" not in windows[0].text()
    count, most = windows[0].tasks
    assert count.meta["kind"] == "NUMERIC_ONE_CLASS" and count.meta["bucket"] == 1024
    assert found.sha256 in count.meta["data"]
    both = score(count, "Answer: 8")
    assert both.metric == "oolong_strict"
    assert both.parts == {"oolong_strict": 0.75, "oolong_lax": 0.75}
    assert score(most, "Label: entity").value == 1.0
    assert score(most, "any of entity, location").parts == {"oolong_strict": 0, "oolong_lax": 1}


def test_synth_all_of_a_split_keeps_windows_apart(shards: Path) -> None:
    windows = list(synth(shards, dataset=None, length=None))
    assert len(windows) == len({window.id for window in windows}) == 8
    assert len({window.text() for window in windows}) == 8
    assert len({task.id for window in windows for task in window.tasks}) == 16


def test_synth_limit_counts_tasks_and_hash_follows_the_texts(shards: Path) -> None:
    assert [len(window.tasks) for window in synth(shards, limit=3)] == [2, 1]
    assert len({synth(shards, length=length).sha256 for length in (1024, 2048, None)}) == 3
    assert synth(shards).sha256 == synth(shards).sha256


def test_synth_refuses_other_counts(shards: Path) -> None:
    with pytest.raises(InputError, match="16 rows, expected 1,300 of oolongbench/oolong-synth at"):
        synth(shards, rows=None)
    with pytest.raises(InputError, match="4 rows of trec_coarse at 1,024 tokens, expected 50"):
        synth(shards, rows_per_length=50)
    with pytest.raises(InputError, match="no rows with dataset imdb .* test eight others"):
        synth(shards, dataset="imdb")
    with pytest.raises(InputError, match="8 rows, expected 5,200"):
        synth(shards, split="test", rows=None)


@pytest.mark.parametrize(
    ("gold", "kind", "answer", "strict", "lax"),
    [
        ("['entity']", LABEL, "entity", 1, 1),
        ("['entity']", LABEL, "Label: **[entity]**", 1, 1),
        ("['entity']", LABEL, "Label: Entity", 0, 1),
        ("['entity']", LABEL, "After a long look I say entity", 1, 1),
        ("['entity']", LABEL, "I am sure that entity it is", 0, 1),
        ("['human being']", LABEL, "After a long look: human being", 1, 1),
        ("['human being']", LABEL, "After a long look I say human being", 0, 1),
        ("['entity', 'location']", LABEL, "location", 0, 0),
        ("['more common than']", COMPARISON, "Answer: spam is more common than ham here", 1, 1),
        ("['less common than']", COMPARISON, "Answer: spam is more common than ham here", 0, 0),
        ("['less common than']", COMPARISON, "x is less common", 0, 0),
        ("['less common than']", COMPARISON, "Answer: less common than", 1, 1),
        ("['same frequency as']", COMPARISON, "Answer: ham is same frequency as spam", 1, 1),
        ("[7]", NUMERIC, "Answer: 7", 1, 1),
        ("[7]", NUMERIC, "Answer: 9", 0.75**2, 0.75**2),
        ("['7']", NUMERIC, "5", 0.75**2, 0.75**2),
        ("[7]", NUMERIC, "there are about 9 of these", 0, 0),
        ("[7]", NUMERIC, "Answer: 7.0", 0, 0),
        ("[7]", NUMERIC, "9" * 400, 0, 0),
        ("[datetime.date(2023, 1, 6)]", DATE, "Date: 01/06/2023", 1, 1),
        ("[datetime.date(2023, 1, 6)]", DATE, "Date: January 6, 2023", 1, 1),
        ("[datetime.date(2023, 1, 6)]", DATE, "Date: 01/07/2023", 0, 0),
        ("[datetime.date(2023, 1, 6)]", DATE, "Date: some day", 0, 0),
        ("[76063]", "ANSWER_TYPE.USER", "User: [76063]", 1, 1),
        ("[True]", LABEL, "Label: True", 1, 1),
        ("March 2023", "ANSWER_TYPE.MONTH_YEAR", "Answer: March 2023", 1, 1),
        ("['entity']", LABEL, "", 0, 0),
        ("['entity']", LABEL, " " * 30, 0, 0),
    ],
)
def test_synth_both_scorers(gold: str, kind: str, answer: str, strict: float, lax: float) -> None:
    assert oolong_synth.strict(gold, kind, answer) == pytest.approx(strict)
    assert oolong_synth.lax(gold, kind, answer) == pytest.approx(lax)


KINDS = st.sampled_from([NUMERIC, DATE, LABEL, COMPARISON])
SAID = st.text("ab 12:*[]/\n", max_size=40) | st.text(max_size=40)


@settings(deadline=None)
@given(SAID | st.sampled_from(["[1]", "['a']", "[datetime.date(2023, 1, 6)]"]), KINDS, SAID)
def test_synth_scores_stay_in_bounds(gold: str, kind: str, answer: str) -> None:
    assert 0.0 <= oolong_synth.strict(gold, kind, answer) <= 1.0
    assert 0.0 <= oolong_synth.lax(gold, kind, answer) <= 1.0


@settings(deadline=None)
@given(st.integers(0, 10**6), st.text("abcdef ", min_size=1, max_size=15).map(str.strip))
def test_synth_gold_scores_one_by_both(number: int, label: str) -> None:
    for rule in (oolong_synth.strict, oolong_synth.lax):
        assert rule(str([number]), NUMERIC, f"Answer: {number}") == 1.0
        assert rule(str([label]), LABEL, f"Label: {label}") == 1.0


# The predicates once more, written out from the paper's table, one user at a time.
def reference(number: int, lines_of: list[tuple[str, date]], side: int) -> bool:
    n = {letter: sum(label == letter for label, _ in lines_of) for letter in NAMES}

    def dated(letter: str, test: Any) -> bool:
        return all(test(day) for label, day in lines_of if label == letter)

    d, e, h, u, lo, a = (n[letter] for letter in "DEHNLA")
    checks = {
        1: u + lo > 0,
        2: e + h > 0,
        3: d + a > 0,
        4: h + lo > 0 and dated("H", lambda day: day > date(2023, 1, 6)),
        5: e + u > 0 and dated("E", lambda day: day < date(2023, 3, 15)),
        6: lo + a > 0,
        7: d + u > 0 and dated("N", lambda day: day > date(2023, 2, 1)),
        8: h + d > 0,
        9: e + lo > 0 and dated("L", lambda day: day > date(2023, 4, 10)),
        10: u + a > 0 and dated("A", lambda day: day < date(2023, 5, 20)),
        11: (e >= 1 and a >= 1, e == 1),
        12: (u >= 2, lo >= 1 and h >= 1),
        13: (d == 1, a >= 1 and e >= 1),
        14: (h >= 1 and u >= 1, lo == 2),
        15: (e >= 1 and lo >= 1 and a >= 1, u == 1),
        16: (d >= 1 and h >= 1, e >= 2 and a == 1),
        17: (u == 1, lo >= 1 and d >= 1),
        18: (a >= 1 and h == 1, e >= 1 and u >= 1),
        19: (lo >= 2 and e >= 1, d == 1 and a == 1),
        20: (u >= 1 and h >= 1, lo >= 1 and e >= 1 and a == 1),
    }
    check = checks[number]
    return check[side] if isinstance(check, tuple) else check


def reference_pairs(number: int, text: str) -> set[tuple[int, int]]:
    users: dict[int, list[tuple[str, date]]] = {}
    for line in text.splitlines()[2:]:
        when, user, *_, label = line.split(" || ")
        month, day, year = when.removeprefix("Date: ").replace(",", "").split()
        there = date(int(year), pairs_gold._MONTHS.index(month) + 1, int(day))
        letter = pairs_gold.LABELS[label.removeprefix("Label: ")]
        users.setdefault(int(user.removeprefix("User: ")), []).append((letter, there))
    first, second = ({u for u in users if reference(number, users[u], s)} for s in (0, 1))
    return {
        (a, b)
        for a, b in itertools.combinations(sorted(users), 2)
        if (a in first and b in second) or (b in first and a in second)
    }


@pytest.mark.parametrize("number", range(1, 21))
def test_pairs_predicates_agree_with_pairs_written_out(number: int) -> None:
    sizes = set()
    for seed in range(10):
        text = lines(20 + 8 * seed, seed, labelled=True)
        wanted = pairs_gold.sides(number, pairs_gold.labelled_users(text))
        pairs = reference_pairs(number, text)
        assert wanted.count() == len(pairs)
        users = sorted(pairs_gold.users_in(text))
        assert {pair for pair in itertools.combinations(users, 2) if wanted.holds(pair)} == pairs
        assert pairs_gold.disagreements(pairs, wanted) == 0
        assert pairs_gold.disagreements([*pairs, (1, 2)], wanted) == 1
        assert pairs_gold.disagreements(list(pairs)[1:], wanted) == min(1, len(pairs))
        sizes.add(len(pairs))
    assert max(sizes) > 0


def test_pairs_nobody_is_paired_with_himself() -> None:
    wanted = pairs_gold.Sides(frozenset({1, 2, 3}), frozenset({2, 3, 4}))
    met = {(a, b) for a, b in itertools.combinations((1, 2, 3, 4), 2) if wanted.holds((a, b))}
    assert met == {(1, 2), (1, 3), (1, 4), (2, 3), (2, 4), (3, 4)} and wanted.count() == 6
    assert not wanted.holds((2, 2))


def pairs_rows(text: str) -> list[dict[str, Any]]:
    return [
        {
            "id": str(number),
            "question": f"In the above data, list all pairs of user IDs, {number}",
            "answer": [f"({a}, {b})" for a, b in sorted(reference_pairs(number, text))],
            "type": "symmetric",
        }
        for number in range(1, 21)
    ]


@pytest.fixture
def pairs_file(tmp_path: Path) -> Path:
    path = tmp_path / "data/oolong-pairs-1024.json"
    path.parent.mkdir()
    path.write_text(json.dumps(pairs_rows(lines(40, 1024 + 0 + 11, labelled=True))))
    return path


def pairs(pairs_file: Path, shards: Path, **changes: Any) -> Any:
    fields = {"path": pairs_file.parent.parent, "windows_path": shards, "length": 1024}
    return load("oolong-pairs", configure("oolong-pairs", fields | changes))


def test_pairs_one_window_with_twenty_questions(pairs_file: Path, shards: Path) -> None:
    found = pairs(pairs_file, shards)
    (window,) = found
    assert window.text() == lines(40, 1024 + 0 + 11, labelled=False)
    assert len({task.id for task in window.tasks}) == len(window.tasks) == 20
    assert found.notes == {"pairs in which gold and labels disagree": 0}
    users = sorted(pairs_gold.users_in(window.text()))
    every = "\n".join(f"({a}, {b})" for a, b in itertools.combinations(users, 2))
    for task in window.tasks:
        assert task.meta["users"] == len(users) and task.meta["gold_disagreements"] == 0
        assert score(task, "\n".join(task.answer)).value == 1.0
        told = score(task, every)
        assert told.value == pytest.approx(told.parts["floor_every_pair"])
    assert "d1e1522b86ac" in found.source and "oolong-synth@f0d59eaf0feb" in found.source


def test_pairs_gold_of_another_window_is_counted(pairs_file: Path, shards: Path) -> None:
    made = json.loads(pairs_file.read_text())
    made[0]["answer"] = [*made[0]["answer"][2:], "(1, 2)"]
    pairs_file.write_text(json.dumps(made))
    found = pairs(pairs_file, shards)
    assert found.notes == {"pairs in which gold and labels disagree": 3}
    assert next(iter(found)).tasks[0].meta["gold_disagreements"] == 3


def test_pairs_refusals(pairs_file: Path, shards: Path) -> None:
    made = json.loads(pairs_file.read_text())
    pairs_file.write_text(json.dumps(made[:19]))
    with pytest.raises(InputError, match="19 rows at 1,024 tokens, expected 20"):
        pairs(pairs_file, shards)
    made[3]["id"] = "21"
    pairs_file.write_text(json.dumps(made))
    with pytest.raises(InputError, match="question '21' of OOLONG-Pairs is unknown"):
        pairs(pairs_file, shards)
    with pytest.raises(InputError, match="set `windows_path: FOLDER`"):
        pairs(pairs_file, shards / "nowhere")
    with pytest.raises(ConfigError, match="length: .*give one of 1024, 2048"):
        configure("oolong-pairs", {"length": 1000})
    other = pairs_file.with_name("oolong-pairs-4096.json")
    other.write_text(json.dumps(made))
    with pytest.raises(InputError, match="no window 8 of trec_coarse at 4,096 tokens"):
        pairs(pairs_file, shards, length=4096)


def test_pairs_window_without_labels_is_refused() -> None:
    with pytest.raises(InputError, match="no line `Date"):
        oolong_pairs.check_gold([], "The following lines contain questions.\n")
    strange = "Date: Dec 28, 2022 || User: 76063 || Instance: Who? || Label: weather\n"
    with pytest.raises(InputError, match="user 76063 .*'weather'"):
        oolong_pairs.check_gold([], strange)


def test_pairs_in_answers() -> None:
    assert oolong_pairs.pairs_in("(2, 1)\n( 1,2)\n(3,1) 4, 5") == {(1, 2), (1, 3)}
    assert oolong_pairs.pairs_in("2, 1\n3,4") == {(1, 2), (3, 4)}
    assert oolong_pairs.pairs_in("[]") == set()
    assert oolong_pairs.f1(set(), set()) == 1.0
    assert oolong_pairs.f1(set(), {(1, 2)}) == oolong_pairs.f1({(1, 2)}, set()) == 0.0
    assert oolong_pairs.f1({(1, 2), (1, 3)}, {(1, 2)}) == pytest.approx(2 / 3)


PAIRS = st.sets(
    st.tuples(st.integers(0, 9), st.integers(0, 9)).map(lambda pair: (min(pair), max(pair)))
)


@settings(deadline=None)
@given(PAIRS, PAIRS, st.randoms())
def test_pairs_f1_in_bounds_and_without_order(one: Any, other: Any, rng: random.Random) -> None:
    value = oolong_pairs.f1(one, other)
    assert 0.0 <= value == oolong_pairs.f1(other, one) <= 1.0
    assert oolong_pairs.f1(one, one) == 1.0
    mixed = [f"({b}, {a})" if rng.random() < 0.5 else f"({a},{b})" for a, b in other]
    rng.shuffle(mixed)
    assert oolong_pairs.f1(one, oolong_pairs.pairs_in(" ".join(mixed))) == value


@settings(deadline=None)
@given(st.integers(2, 60), st.data())
def test_pairs_floor_is_what_every_pair_scores(users: int, data: st.DataObject) -> None:
    every = set(itertools.combinations(range(users), 2))
    gold = set(sorted(every)[: data.draw(st.integers(0, len(every)))])
    assert oolong_pairs.floor(len(gold), users) == pytest.approx(oolong_pairs.f1(gold, every))
