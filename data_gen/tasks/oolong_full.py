"""``oolong_full``: all question groups of OOLONG-synth, over many label sets and layouts.

Counting, user and timeline questions as in arXiv 2511.02817 (tables 15-17), plus percentages and
rankings: a statistic of the labels over all lines, over some users', over a month, a range, or the
lines before or after a day; who or which day has most; how a label's share shifts; which months.
Its generator's flaws are not inherited: no tie is asked about, every gold has a margin, days are
counted over the whole window, subsets have one to five users, and a first month is really first.

    window = make_window(2**12, seed=17, n_questions=4)
    score(window.tasks[0], "amber")
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence

from data_gen.tasks import metrics
from data_gen.tasks.labelled import Crowd, Row, Sheet, draw_sheet
from data_gen.tasks.oolong_wordings import BODIES, ENDS, LABELS, SCOPES, TYPES
from data_gen.tasks.task import Task, Window, task_id

FAMILY = "oolong_full"
CROWD = Crowd(common=10, others=25, share=0.8, most=20_000, numeric=False)
SCOPED = ("most", "second", "least", "compare", "count", "percent", "ranking")
GROUPS: dict[str, tuple[str, ...]] = {
    "counting": tuple(f"all/{body}" for body in SCOPED),
    "user": (
        *(f"users/{body}" for body in SCOPED),
        *("all/user_most", "all/user_second", "all/user_label", "all/user_duel") * 2,
    ),
    "timeline": (
        *(f"{scope}/{body}" for scope in ("month", "range", "before", "after") for body in SCOPED),
        *("all/date_most", "all/date_second", "all/dates_n", "all/shift", "all/month_most") * 3,
        *("all/first_month", "all/months_more", "all/months_top") * 3,
    ),
}
Fields = dict[str, str]
_Answer = tuple[Fields, str]  # what fills the wording, and the gold


def make_window(length: int, seed: int, n_questions: int) -> Window:
    """A window of labelled lines and ``n_questions`` statistics of them."""
    held_out = seed >= 700_000
    name = f"{FAMILY}/{length}/{seed}"
    sheet = draw_sheet(name, length, held_out, CROWD)
    rng = random.Random(f"{name}/questions")
    tasks: list[Task] = []
    attempts = 0
    while len(tasks) < n_questions:
        attempts += 1
        if attempts > 200 * n_questions:
            raise RuntimeError(f"window {name} admits too few questions")
        group = rng.choice(list(GROUPS))
        kind = rng.choice(GROUPS[group])
        scope, body = kind.split("/")
        drawn = _drawn(rng, sheet, scope, body)
        if drawn is None:
            continue
        within, n_scoped, (fields, gold) = drawn
        told = rng.random() < 0.6  # the head of the context tells the labels in any case
        question = (
            (_worded(rng, LABELS, held_out, {"labels": ", ".join(sheet.labels)}) if told else "")
            + _worded(rng, SCOPES[scope], held_out, within)
            + _worded(rng, BODIES[body], held_out, fields)
            + f" {_worded(rng, ENDS[TYPES[body]], held_out, {})}"
        )
        if any(task.question == question for task in tasks):
            continue
        tasks.append(
            Task(
                id=task_id(FAMILY, length, seed, len(tasks)),
                family=FAMILY,
                question=question,
                answer=gold,
                metric="oolong",
                meta={
                    "length": length,
                    "seed": seed,
                    "window_id": f"{FAMILY}-{length}-{seed}",
                    "kind": kind,
                    "group": group,
                    "answer_type": TYPES[body],
                    "skin": sheet.skin.name,
                    "world": sheet.world.name,
                    "labels": list(sheet.labels),
                    "lines": len(sheet.rows),
                    "scoped": n_scoped,
                    "taste": sheet.taste,
                    "drift": sheet.drift,
                },
            )
        )
    return Window(
        id=f"{FAMILY}-{length}-{seed}",
        family=FAMILY,
        length=length,
        seed=seed,
        tasks=tasks,
        chunks=sheet.chunks,
        facts={"sheet": sheet},
    )


def _drawn(
    rng: random.Random, sheet: Sheet, scope: str, body: str
) -> tuple[Fields, int, _Answer] | None:
    """What fills a scope's wording, its number of lines, and a question about them.

    Several are tried: a kind that is seldom clear would else be seldom asked.
    """
    for _ in range(8):
        scoped = _SCOPES[scope](rng, sheet)
        if scoped is None:
            continue
        made = _BODIES[body](rng, sheet, scoped[1])
        if made is not None:
            return scoped[0], len(scoped[1]), made
    return None


def score(task: Task, answer: str) -> float:
    """OOLONG's rule for labels and numbers; users, dates and months are right or wrong."""
    if task.meta["answer_type"] in ("user", "date", "month"):
        return float(answer.strip().rstrip(".").lower() == str(task.answer).lower())
    return metrics.oolong(str(task.answer), answer)


def floor_answer(window: Window, task: Task) -> str:
    """A random valid choice; for a number what an even spread over the labels gives."""
    rng = random.Random(f"floor/{task.id}")
    sheet: Sheet = window.facts["sheet"]
    kind, k = task.meta["answer_type"], len(sheet.labels)
    if kind == "number":
        even = {"percent": 100 / k, "count": task.meta["scoped"] / k}
        months = len({_month(row) for row in sheet.rows})
        body = task.meta["kind"].split("/")[1]
        return str(round(even.get(body, months / (2 if body == "months_more" else k))))
    row = rng.choice(sheet.rows)
    return {
        "label": rng.choice(sheet.labels),
        "labels": ", ".join(rng.sample(sheet.labels, min(3, k))),
        "comparison": rng.choice(("more common", "less common")),
        "user": row.user,
        "date": sheet.skin.day(row.date),
        "month": _month(row),
    }[kind]


def _worded(
    rng: random.Random, wordings: Sequence[str], held_out: bool, fields: dict[str, str]
) -> str:
    return (wordings[-1] if held_out else rng.choice(wordings[:-1])).format(**fields)


def _month(row: Row) -> str:
    return row.date.strftime("%Y-%m")


# Scopes: what fills the wording, and the rows that are left. None where that is too little.
_Scoped = tuple[Fields, list[Row]]


def _users(rng: random.Random, sheet: Sheet) -> _Scoped | None:
    # A line's user, not a user: who writes much is asked about more often.
    users = dict.fromkeys(rng.choice(sheet.rows).user for _ in range(rng.randint(1, 5)))
    rows = [row for row in sheet.rows if row.user in users]
    return ({"users": ", ".join(users)}, rows) if len(rows) >= 3 else None


def _of_month(rng: random.Random, sheet: Sheet) -> _Scoped | None:
    month = rng.choice(sheet.rows).date
    rows = [row for row in sheet.rows if row.date.month == month.month]
    return ({"month": month.strftime("%B")}, rows) if len(rows) >= 3 else None


def _days(scope: str) -> Callable[[random.Random, Sheet], _Scoped | None]:
    def draw(rng: random.Random, sheet: Sheet) -> _Scoped | None:
        first, last = sorted(rng.choice(sheet.rows).date for _ in range(2))
        rows = [
            row
            for row in sheet.rows
            if (first <= row.date <= last if scope == "range" else
                row.date < first if scope == "before" else row.date > first)
        ]  # fmt: skip
        day = sheet.skin.day
        if not 3 <= len(rows) < len(sheet.rows):
            return None
        return {"first": day(first), "last": day(last), "day": day(first)}, rows

    return draw


_SCOPES: dict[str, Callable[[random.Random, Sheet], _Scoped | None]] = {
    "all": lambda rng, sheet: ({}, sheet.rows),
    "users": _users,
    "month": _of_month,
    **{scope: _days(scope) for scope in ("range", "before", "after")},
}


def _ranked(count: Counter[str], at: int, total: int) -> str | None:
    """What stands at the place ``at``, if it differs clearly from its neighbours."""
    ranked = count.most_common()
    if len(ranked) < 2 or not -len(ranked) <= at < len(ranked):
        return None
    at %= len(ranked)
    for one, other in ((at - 1, at), (at, at + 1)):
        if one >= 0 and other < len(ranked) and not _clear(ranked[one][1], ranked[other][1], total):
            return None
    return ranked[at][0]


def _clear(one: int, other: int, total: int) -> bool:
    """OOLONG's margin: the counts differ by at least 2 % of the lines, and by one."""
    return abs(one - other) >= max(1, 0.02 * total)


def _top(at: int, least_labels: int) -> Callable[[random.Random, Sheet, list[Row]], _Answer | None]:
    def ask(rng: random.Random, sheet: Sheet, rows: list[Row]) -> _Answer | None:
        count = Counter(row.label for row in rows)
        if len(sheet.labels) < least_labels or (at < 0 and len(count) < len(sheet.labels)):
            return None
        gold = _ranked(count, at, len(rows))
        return None if gold is None else ({}, gold)

    return ask


def _ranking(rng: random.Random, sheet: Sheet, rows: list[Row]) -> _Answer | None:
    count = Counter(row.label for row in rows)
    top = [_ranked(count, at, len(rows)) for at in range(3)]
    if len(sheet.labels) < 4 or None in top:
        return None
    return {}, ", ".join(map(str, top))


def _compare(rng: random.Random, sheet: Sheet, rows: list[Row]) -> _Answer | None:
    a, b = rng.sample(sheet.labels, 2)
    count = Counter(row.label for row in rows)
    if not _clear(count[a], count[b], len(rows)):
        return None
    return {"a": a, "b": b}, "more common" if count[a] > count[b] else "less common"


def _count(rng: random.Random, sheet: Sheet, rows: list[Row]) -> _Answer | None:
    a = rng.choice(sheet.labels)
    return {"a": a}, str(sum(row.label == a for row in rows))


def _percent(rng: random.Random, sheet: Sheet, rows: list[Row]) -> _Answer | None:
    a = rng.choice(sheet.labels)
    share = 100 * sum(row.label == a for row in rows) / len(rows)
    if abs(share % 1 - 0.5) < 0.02:  # rounded up by some and down by others
        return None
    return {"a": a}, str(round(share))


def _user(at: int, labelled: bool) -> Callable[[random.Random, Sheet, list[Row]], _Answer | None]:
    def ask(rng: random.Random, sheet: Sheet, rows: list[Row]) -> _Answer | None:
        a = rng.choice(sheet.labels)
        own = Counter(row.user for row in rows if not labelled or row.label == a)
        gold = _ranked(own, at, 0)
        return None if gold is None else ({"a": a}, gold)

    return ask


def _user_duel(rng: random.Random, sheet: Sheet, rows: list[Row]) -> _Answer | None:
    a, (u, v) = rng.choice(sheet.labels), (rng.choice(rows).user for _ in range(2))
    own = Counter(row.user for row in rows if row.label == a)
    if not _clear(own[u], own[v], own[u] + own[v]):
        return None
    return {"a": a, "u": u, "v": v}, u if own[u] > own[v] else v


def _date(at: int) -> Callable[[random.Random, Sheet, list[Row]], _Answer | None]:
    def ask(rng: random.Random, sheet: Sheet, rows: list[Row]) -> _Answer | None:
        gold = _ranked(Counter(sheet.skin.day(row.date) for row in rows), at, 0)
        return None if gold is None else ({}, gold)

    return ask


def _dates_n(rng: random.Random, sheet: Sheet, rows: list[Row]) -> _Answer | None:
    held = Counter(row.date for row in rows)
    n = rng.choice(list(held.values()))
    return {"n": str(n)}, str(sum(count == n for count in held.values()))


def _shift(rng: random.Random, sheet: Sheet, rows: list[Row]) -> _Answer | None:
    a, day = rng.choice(sheet.labels), rng.choice(rows).date
    shares = []
    for side in ([r for r in rows if r.date < day], [r for r in rows if r.date > day]):
        if len(side) < 0.15 * len(rows):
            return None
        shares.append(sum(row.label == a for row in side) / len(side))
    if abs(shares[0] - shares[1]) < 0.02:
        return None
    gold = "more common" if shares[0] > shares[1] else "less common"
    return {"a": a, "day": sheet.skin.day(day)}, gold


def _month_most(rng: random.Random, sheet: Sheet, rows: list[Row]) -> _Answer | None:
    a = rng.choice(sheet.labels)
    gold = _ranked(Counter(_month(row) for row in rows if row.label == a), 0, 0)
    return None if gold is None else ({"a": a}, gold)


def _months(first: bool) -> Callable[[random.Random, Sheet, list[Row]], _Answer | None]:
    def ask(rng: random.Random, sheet: Sheet, rows: list[Row]) -> _Answer | None:
        a, b = rng.sample(sheet.labels, 2)
        one, two = (Counter(_month(r) for r in rows if r.label == label) for label in (a, b))
        more = sorted(month for month in one if one[month] > two[month])
        # The very first month would be a good guess.
        if not more or (first and more[0] == min(map(_month, rows)) and rng.random() < 0.7):
            return None
        return {"a": a, "b": b}, more[0] if first else str(len(more))

    return ask


def _months_top(rng: random.Random, sheet: Sheet, rows: list[Row]) -> _Answer | None:
    held: dict[str, Counter[str]] = {}
    for row in rows:
        held.setdefault(_month(row), Counter())[row.label] += 1
    led = [_ranked(count, 0, 0) if len(count) > 1 else next(iter(count)) for count in held.values()]
    a = rng.choice([label for label in led if label] or [""])
    return ({"a": a}, str(led.count(a))) if a else None


_BODIES: dict[str, Callable[[random.Random, Sheet, list[Row]], _Answer | None]] = {
    "most": _top(0, 2),
    "second": _top(1, 3),
    "least": _top(-1, 2),
    "compare": _compare,
    "count": _count,
    "percent": _percent,
    "ranking": _ranking,
    "user_most": _user(0, False),
    "user_second": _user(1, False),
    "user_label": _user(0, True),
    "user_duel": _user_duel,
    "date_most": _date(0),
    "date_second": _date(1),
    "dates_n": _dates_n,
    "shift": _shift,
    "month_most": _month_most,
    "first_month": _months(True),
    "months_more": _months(False),
    "months_top": _months_top,
}
