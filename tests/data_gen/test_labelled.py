"""``oolong_full`` and ``pairs_full``: golds found again from the text, splits, leaks, streams."""

from __future__ import annotations

import itertools
import math
import random
import re
from collections import Counter
from collections.abc import Callable
from datetime import date
from types import ModuleType

import pytest

from data_gen.experts.labelled_reading import Asked, asked_of, read_date, read_label
from data_gen.tasks import oolong_full, oolong_wordings, pairs_full
from data_gen.tasks.labelled import Row, Sheet
from data_gen.tasks.skins import SKINS, SKINS_HELD_OUT
from data_gen.tasks.squares import SETS
from data_gen.tasks.task import Window
from data_gen.tasks.worlds import World, draw_world

FAMILIES = (oolong_full, pairs_full)
SEEDS = (*range(40), *range(700_000, 700_010), *range(800_000, 800_030))


def rows_of(window: Window) -> list[Row]:
    """The lines as the text tells them: split by the skin's form, labelled by their meaning."""
    sheet: Sheet = window.facts["sheet"]
    text = window.text()
    assert f" {len(sheet.rows)} " in text[:60]  # the head counts the lines
    form = re.sub(r"\\\{(\w+)\\\}", r"(?P<\1>.+?)", re.escape(sheet.skin.line.format(
        date="{date}", user="{user}", text="{text}")))  # fmt: skip
    found = [match.groupdict() for line in text.splitlines() if (match := re.fullmatch(form, line))]
    return [
        Row(read_date(told["date"]), told["user"], label)
        for told in found
        if re.search(r"\d{4}", told["date"])  # not the names of columns
        and (label := read_label(told["text"], sheet.labels, sheet.world.glossary))
    ]


@pytest.mark.parametrize("length", [1024, 4096])
def test_statistics_found_again_from_the_text(length: int) -> None:
    groups = Counter[str]()
    for seed in SEEDS:
        window = oolong_full.make_window(length, seed, 4)
        sheet: Sheet = window.facts["sheet"]
        rows = rows_of(window)
        assert rows == sheet.rows
        for task in window.tasks:
            asked = asked_of(task.question)
            assert asked is not None and f"{asked.scope}/{asked.body}" == task.meta["kind"]
            day = sheet.skin.day
            assert statistic(asked, rows, sheet.labels, day) == task.answer, task.question
            assert oolong_full.score(task, str(task.answer)) == 1.0
            assert oolong_full.score(task, "no idea") == 0.0
            assert 0.0 <= oolong_full.score(task, oolong_full.floor_answer(window, task)) <= 1.0
            groups[task.meta["group"]] += 1
    assert min(groups[group] for group in oolong_full.GROUPS) > 60


def statistic(
    asked: Asked, rows: list[Row], labels: tuple[str, ...], day: Callable[[date], str]
) -> str:
    """The answer by another way than the generator's: of every choice, the one that fits alone."""
    f = asked.fields
    tests: dict[str, Callable[[Row], bool]] = {
        "all": lambda r: True,
        "users": lambda r: r.user in f["users"].split(", "),
        "month": lambda r: r.date.strftime("%B") == f["month"],
        "range": lambda r: asked.day("first") <= r.date <= asked.day("last"),
        "before": lambda r: r.date < asked.day("day"),
        "after": lambda r: r.date > asked.day("day"),
    }
    rows = [row for row in rows if tests[asked.scope](row)]

    def place(values: list[str], at: int) -> str:
        counts = sorted(((values.count(value), value) for value in {*values}), reverse=True)
        assert sum(count == counts[at][0] for count, _ in counts) == 1, "a tie was asked about"
        return counts[at][1]

    def many(label: str, some: list[Row] = rows) -> int:
        return sum(row.label == label for row in some)

    def more(one: float, two: float) -> str:
        assert one != two
        return "more common" if one > two else "less common"

    told = [row.label for row in rows]
    months = sorted({row.date.replace(day=1) for row in rows})
    by_month = {month: [r for r in rows if r.date.replace(day=1) == month] for month in months}
    a, b = f.get("a", ""), f.get("b", "")
    own = [row for row in rows if row.label == a]
    leads = [month for month, some in by_month.items() if many(a, some) > many(b, some)]
    if asked.body == "shift":
        sides = (
            [r for r in rows if r.date < asked.day("day")],
            [r for r in rows if r.date > asked.day("day")],
        )
        return more(*(many(a, side) / len(side) for side in sides))
    if asked.body == "user_duel":
        u, v = (sum(row.user == f[name] for row in own) for name in "uv")
        assert u != v
        return f["u"] if u > v else f["v"]
    if asked.body == "compare":
        return more(many(a), many(b))
    if asked.body == "months_top":
        return str(sum(all(many(a, some) > many(x, some) for x in labels if x != a)
                       for some in by_month.values()))  # fmt: skip
    days = [day(row.date) for row in rows]
    return {
        "most": lambda: place(told, 0),
        "second": lambda: place(told, 1),
        "least": lambda: min(labels, key=many),
        "ranking": lambda: ", ".join(place(told, at) for at in range(3)),
        "count": lambda: str(many(a)),
        "percent": lambda: str(math.floor(100 * many(a) / len(rows) + 0.5)),
        "user_most": lambda: place([row.user for row in rows], 0),
        "user_second": lambda: place([row.user for row in rows], 1),
        "user_label": lambda: place([row.user for row in own], 0),
        "date_most": lambda: place(days, 0),
        "date_second": lambda: place(days, 1),
        "dates_n": lambda: str(sum(days.count(one) == int(f["n"]) for one in {*days})),
        "month_most": lambda: place([f"{row.date:%Y-%m}" for row in own], 0),
        "first_month": lambda: f"{leads[0]:%Y-%m}",
        "months_more": lambda: str(len(leads)),
    }[asked.body]()


@pytest.mark.parametrize("length", [1024, 4096])
def test_pairs_found_again_from_the_text(length: int) -> None:
    kinds = Counter[str]()
    for seed in SEEDS:
        window = pairs_full.make_window(length, seed, 3)
        rows = rows_of(window)
        users: dict[str, list[Row]] = {}
        for row in rows:
            users.setdefault(row.user, []).append(row)
        labels = window.facts["sheet"].labels
        for task in window.tasks:
            asked = asked_of(task.question)
            assert asked is not None and asked.body == task.meta["kind"]
            pairs = list(itertools.combinations(sorted(users, key=int), 2))
            gold = [f"({a}, {b})" for a, b in pairs if fits(asked, users[a], users[b], labels)]
            assert gold == task.answer, task.question
            assert 0.05 <= len(gold) / len(pairs) <= 0.5
            assert pairs_full.score(task, "\n".join(gold)) == 1.0
            floor = pairs_full.score(task, pairs_full.floor_answer(window, task))
            share = len(gold) / len(pairs)
            assert floor == pytest.approx(2 * share / (1 + share))
            kinds[asked.body] += 1
    assert set(kinds) == set(pairs_full.KINDS) and min(kinds.values()) >= 2


def fits(asked: Asked, one: list[Row], two: list[Row], labels: tuple[str, ...]) -> bool:
    """Whether two users' lines satisfy the predicate, from the words of the question."""
    f = asked.fields
    x, n = f.get("x", ""), int(f.get("n", 0))
    sides = [[row.date for row in side if row.label == x] for side in (one, two)]
    p, q = map(len, sides)
    has = [{row.label for row in side} for side in (one, two)]

    def meets(side: list[Row], parts: tuple[pairs_full.Part, ...]) -> bool:
        for part in parts:
            dates = [row.date for row in side if row.label in part.labels]
            fine = {
                "least": len(dates) >= part.n,
                "exactly": len(dates) == part.n,
                "most": len(dates) <= part.n,
                "after": not [day for day in dates if day <= part.day],
                "before": not [day for day in dates if day >= part.day],
            }
            if not fine[part.kind]:
                return False
        return True

    def top(side: list[Row]) -> list[str]:
        told = [row.label for row in side]
        return [label for label in labels if told.count(label) == max(map(told.count, labels))]

    if asked.body == "cross":
        y = [sum(row.label == f["y"] for row in side) for side in (one, two)]
        return (p > q and y[0] < y[1]) or (p < q and y[0] > y[1])
    if asked.body in ("both", "sides"):
        if asked.body == "both":
            return meets(one, asked.one) and meets(two, asked.one)
        return any(meets(s, asked.one) and meets(t, asked.two) for s, t in [(one, two), (two, one)])
    return {
        "same_top": lambda: top(one) == top(two) and len(top(one)) == 1,
        "together": lambda: p + q >= n,
        "share_none": lambda: not has[0] & has[1],
        "share_least": lambda: len(has[0] & has[1]) >= n,
        "cover": lambda: has[0] | has[1] == {*labels},
        "order": lambda: (
            p * q > 0 and (max(sides[0]) < min(sides[1]) or max(sides[1]) < min(sides[0]))
        ),
        "near": lambda: any(abs((d - e).days) <= n for d in sides[0] for e in sides[1]),
        "same_count": lambda: p == q != 0,
        "differ": lambda: abs(p - q) >= n,
    }[asked.body]()


def test_every_kind_of_statistic_is_asked() -> None:
    kinds = {
        task.meta["kind"]
        for seed in range(60)
        for task in oolong_full.make_window(8192, seed, 8).tasks
    }
    assert kinds == {kind for group in oolong_full.GROUPS.values() for kind in group}


@pytest.mark.parametrize("family", FAMILIES)
def test_same_seed_same_bytes_and_the_length_is_kept(family: ModuleType) -> None:
    for length in (512, 1024, 4096, 2**14):
        for seed in (1, 2, 700_001, 800_001):
            first, second = (family.make_window(length, seed, 2) for _ in range(2))
            text = first.text()
            assert (text, first.tasks) == (second.text(), second.tasks)
            assert text == first.text()  # read once more
            size = len(text.encode())
            assert 4 * length * (0.97 if length > 512 else 0.93) <= size <= 4 * length


@pytest.mark.parametrize("family", FAMILIES)
def test_long_windows_are_streamed(family: ModuleType) -> None:
    window = family.make_window(2**18, 5, 2)
    sizes = [len(chunk) for chunk in window.chunks()]
    assert len(sizes) > 8 and max(sizes) < 250_000 and 4 * 2**18 - sum(sizes) < 400


def word_grams(text: str, size: int) -> set[tuple[str, ...]]:
    words = re.findall(r"[a-z]+", text.lower())
    return {tuple(words[at : at + size]) for at in range(len(words) - size + 1)}


def test_splits_share_nothing_but_the_closed_list() -> None:
    train, held = (
        [family.make_window(2048, seed, 3) for family in FAMILIES for seed in seeds]
        for seeds in (range(25), range(800_000, 800_025))
    )
    sheets = [[window.facts["sheet"] for window in windows] for windows in (train, held)]
    users = [{row.user for sheet in some for row in sheet.rows} for some in sheets]
    dates = [{row.date for sheet in some for row in sheet.rows} for some in sheets]
    skins = [{sheet.skin.name for sheet in some} for some in sheets]
    terms = [{w for sheet in some for own in sheet.world.terms for w in own} for some in sheets]
    for one, two in (users, dates, skins, terms):
        assert one and two and not one & two
    assert skins == [{skin.name for skin in SKINS}, {skin.name for skin in SKINS_HELD_OUT}]
    texts = [
        set().union(*(word_grams(e.text, 8) for sheet in some for e in sheet.entries()))
        for some in sheets
    ]
    assert not texts[0] & texts[1]
    unseen = [not sheet.world.seen for sheet in sheets[1]]
    assert sum(unseen) >= len(unseen) / 3 and all(sheet.world.seen for sheet in sheets[0])
    heads = [{sheet.head.split("\n")[0][:12] for sheet in some} for some in sheets]
    assert not heads[0] & heads[1]


def test_held_out_questions_have_their_own_wordings() -> None:
    tables = (
        oolong_wordings.SCOPES, oolong_wordings.BODIES, oolong_wordings.ENDS,
        pairs_full.PARTS, pairs_full.FRAMES,
    )  # fmt: skip
    lists = [wordings for table in tables for wordings in table.values()]
    lists += [oolong_wordings.LABELS, pairs_full.LABELS, pairs_full.STARTS, pairs_full.ENDS]
    for wordings in lists:
        assert len({*wordings}) == len(wordings) or wordings == ("", "")
    for family in FAMILIES:
        for seed in (*range(20), *range(800_000, 800_020)):
            for task in family.make_window(1024, seed, 3).tasks:
                last = (*oolong_wordings.ENDS.values(), pairs_full.ENDS)
                held = any(task.question.endswith(ends[-1]) for ends in last)
                assert held == (seed >= 700_000), task.question


class Bayes:
    """Naive Bayes on words and pairs of words."""

    def __init__(self, lines: list[tuple[str, str]]) -> None:
        self.labels = sorted({label for _, label in lines})
        self.counts = {label: Counter[str]() for label in self.labels}
        for text, label in lines:
            self.counts[label].update(self.features(text))
        self.known = set().union(*self.counts.values())

    def features(self, text: str) -> list[str]:
        words = re.findall(r"\w+", text)
        return [*words, *map(" ".join, itertools.pairwise(words))]

    def guess(self, text: str) -> str:
        found = [feature for feature in self.features(text) if feature in self.known]

        def weight(label: str) -> float:
            count, total = self.counts[label], self.counts[label].total() + len(self.known)
            return sum(math.log((count[feature] + 1) / total) for feature in found)

        return max(self.labels, key=weight)


def above_chance(lines: list[tuple[str, str]], tested: list[tuple[str, str]]) -> float:
    """Standard errors by which a classifier of n-grams beats chance."""
    bayes = Bayes(lines)
    chance = 1 / len(bayes.labels)
    right = sum(bayes.guess(text) == label for text, label in tested) / len(tested)
    return (right - chance) / math.sqrt(chance * (1 - chance) / len(tested))


@pytest.mark.parametrize("name", sorted(SETS))
def test_no_words_give_a_label_of_fixed_meaning_away(name: str) -> None:
    rng = random.Random(name)
    world = World(name, SETS[name].labels, "", True, held_out=False)
    k = len(world.labels)
    lines = [(world.text(rng, label), label) for label in world.labels * (3200 // k)]
    rng.shuffle(lines)
    assert above_chance(lines[:2000], lines[2000:]) < 2.5


def test_no_words_give_a_label_away_across_glossaries() -> None:
    rng = random.Random(2)
    worlds = [w for seed in range(400) if (w := draw_world(random.Random(seed), False)).glossary]
    parts = [
        [(world.text(rng, label), label) for world in some for _ in range(20)
         for label in [rng.choice(world.labels)]]
        for some in (worlds[:100], worlds[100:])
    ]  # fmt: skip
    assert len(parts[0]) == 2000 and len(parts[1]) > 800
    assert above_chance(*parts) < 2.5


def test_the_classifier_finds_a_word_that_gives_a_label_away() -> None:
    rng = random.Random(3)
    world = next(w for s in range(99) if (w := draw_world(random.Random(s), False)).glossary)
    lines = [(world.text(rng, label), label) for label in world.labels * 100]
    rng.shuffle(lines)
    assert above_chance(lines[: len(lines) // 2], lines[len(lines) // 2 :]) > 10


def test_tastes_and_drifts_change_the_mix_but_windows_without_have_none() -> None:
    spread: dict[tuple[float, float], list[float]] = {}
    for seed in range(60):
        sheet: Sheet = oolong_full.make_window(2**13, seed, 1).facts["sheet"]
        first = min(row.date for row in sheet.rows)
        middle = first + (max(row.date for row in sheet.rows) - first) / 2
        sides = [Counter(r.label for r in sheet.rows if (r.date < middle) == early)
                 for early in (True, False)]  # fmt: skip
        gaps = (abs(sides[0][x] / sides[0].total() - sides[1][x] / sides[1].total())
                for x in sheet.labels)  # fmt: skip
        spread.setdefault((sheet.drift, 0.0), []).append(max(gaps))
    mean = {drift: sum(gaps) / len(gaps) for (drift, _), gaps in spread.items()}
    assert mean[0.0] < mean[1.0] / 1.5


def test_dates_are_read_in_every_form() -> None:
    for skin in (*SKINS, *SKINS_HELD_OUT):
        assert read_date(skin.day(date(2021, 11, 3))) == date(2021, 11, 3)
