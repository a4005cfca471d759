"""The kinds of LongBench-Pro-like questions: what is planted, and the gold by construction.

Each kind has ``plant(rng, split, n) -> (sentences, truth)`` for n entries and ``ask(rng, truth,
low, high)`` for a question about the entries ``low`` to ``high``: its fields and gold lines, or
None where that span has no good question.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from data_gen.tasks import lexicon
from data_gen.tasks.pro_entries import MONTHS, frame

Asked = tuple[dict[str, str], list[str]]
Truth = list[dict[str, Any]]  # of entry 1, 2, ...
_CATEGORIES = sorted(lexicon.CATEGORIES)


@dataclass(frozen=True)
class Kind:
    """One kind; the last of its wordings is for development and test seeds."""

    family: str  # LongBench-Pro's secondary task, which names the metric
    wordings: tuple[str, ...]
    ends: str  # how to answer
    plant: Callable[[random.Random, str, int], tuple[list[str], Truth]]
    ask: Callable[[random.Random, Truth, int, int], Asked | None]


def _name(rng: random.Random, split: str) -> str:
    return (lexicon.nonce_held_out(rng) if split == "test" else lexicon.nonce(rng)).capitalize()


def _names(rng: random.Random, split: str, count: int) -> list[str]:
    names: dict[str, None] = {}
    while len(names) < count:
        names[_name(rng, split)] = None
    return list(names)


def _plant_dates(rng: random.Random, split: str, n: int) -> tuple[list[str], Truth]:
    days = rng.sample(range(12 * 28 * 40), n)
    truth = [{"day": d % 28 + 1, "month": d // 28 % 12, "year": 1950 + d // 336} for d in days]
    return [frame(rng, "date", split, **t | {"month": MONTHS[t["month"]]}) for t in truth], truth


def _ask_dates(rng: random.Random, truth: Truth, low: int, high: int) -> Asked | None:
    ids = list(range(low, high + 1))
    ids.sort(key=lambda i: (truth[i - 1]["year"], truth[i - 1]["month"], truth[i - 1]["day"]))
    return {}, [str(i) for i in ids]


def _plant_homes(rng: random.Random, split: str, n: int) -> tuple[list[str], Truth]:
    people, places = _names(rng, split, 3), _names(rng, split, 6)[3:]
    truth = [
        {"name": rng.choice(people), "place": rng.choice(places), "yes": rng.random() < 0.6}
        for _ in range(n)
    ]
    kinds = {True: "lives", False: "lives not"}
    return [
        frame(rng, kinds[t["yes"]], split, name=t["name"], place=t["place"]) for t in truth
    ], truth


def _ask_homes(rng: random.Random, truth: Truth, low: int, high: int) -> Asked | None:
    sure = [t for t in truth[low - 1 : high] if t["yes"]]
    if not sure:
        return None
    asked = rng.choice(sure)
    fields = {"name": asked["name"], "place": asked["place"]}
    same = [i for i in range(low, high + 1) if truth[i - 1] == asked]
    return fields, [str(i) for i in same]


def _plant_things(rng: random.Random, split: str, n: int) -> tuple[list[str], Truth]:
    kinds = rng.sample(_CATEGORIES, 4)
    truth = []
    for kind in rng.choices(kinds, (6, 4, 2, 1), k=n):
        truth.append({"kind": kind, "thing": rng.choice(lexicon.CATEGORIES[kind])})
    return [
        frame(rng, "thing", split, name=_name(rng, split), thing=t["thing"]) for t in truth
    ], truth


def _ask_ranks(rng: random.Random, truth: Truth, low: int, high: int) -> Asked | None:
    counts = Counter(t["kind"] for t in truth[low - 1 : high])
    if len(counts) < 2 or len(set(counts.values())) < len(counts):
        return None
    kinds = sorted({t["kind"] for t in truth})
    return {"kinds": ", ".join(kinds)}, [kind for kind, _ in counts.most_common()]


def _plant_pages(rng: random.Random, split: str, n: int) -> tuple[list[str], Truth]:
    truth = []
    for name in _names(rng, split, (n + 1) // 2):
        number = rng.randrange(12, 400)
        other = number + rng.choice((-10, -2, 1, 3, 20)) if rng.random() < 0.4 else number
        truth += [{"name": name, "number": number}, {"name": name, "number": other}]
    rng.shuffle(truth)
    return [frame(rng, "pages", split, **t) for t in truth[:n]], truth[:n]


def _ask_pages(rng: random.Random, truth: Truth, low: int, high: int) -> Asked | None:
    numbers: dict[str, set[int]] = {}
    for told in truth[low - 1 : high]:
        numbers.setdefault(told["name"], set()).add(told["number"])
    ids = [i for i in range(low, high + 1) if len(numbers[truth[i - 1]["name"]]) > 1]
    return ({}, [str(i) for i in ids]) if ids else None


def _plant_sums(rng: random.Random, split: str, n: int) -> tuple[list[str], Truth]:
    people, amounts = _names(rng, split, 3), rng.sample(range(20, 900), n)
    truth = [{"name": rng.choice(people), "number": a, "other": rng.randrange(2, 20)}
             for a in amounts]  # fmt: skip
    return [frame(rng, "paid", split, **t) for t in truth], truth


def _ask_sums(rng: random.Random, truth: Truth, low: int, high: int) -> Asked | None:
    name = rng.choice(truth[low - 1 : high])["name"]
    paid = {
        i: t["number"] for i, t in enumerate(truth, 1) if low <= i <= high and t["name"] == name
    }
    largest = max(paid, key=paid.__getitem__)
    return {"name": name}, [f"total: {sum(paid.values())}", f"largest: {paid[largest]}",
                            f"entry: {largest}"]  # fmt: skip


def _plant_trays(rng: random.Random, split: str, n: int) -> tuple[list[str], Truth]:
    sentences, truth = _plant_things(rng, split, n)
    kinds = sorted({t["kind"] for t in truth})
    trays = dict(zip(kinds, _names(rng, split, len(kinds)), strict=True))
    first: set[str] = set()
    for at, told in enumerate(truth):
        # Some of those whose kind was seen before are left to be told by the rule.
        told["tray"] = trays[told["kind"]]
        told["hidden"] = told["kind"] in first and rng.random() < 0.4
        first.add(told["kind"])
        sentences[at] += " Tray: unknown." if told["hidden"] else f" Tray: {told['tray']}."
    return sentences, truth


def _ask_trays(rng: random.Random, truth: Truth, low: int, high: int) -> Asked | None:
    span = truth[low - 1 : high]
    shown = {t["kind"] for t in span if not t["hidden"]}
    ids = [i for i in range(low, high + 1) if truth[i - 1]["hidden"]]
    if not ids or not {truth[i - 1]["kind"] for i in ids} <= shown:
        return None
    kinds = sorted({t["kind"] for t in truth})
    return {"kinds": ", ".join(kinds)}, [f"{i}: {truth[i - 1]['tray']}" for i in ids]


def _plant_wishes(rng: random.Random, split: str, n: int) -> tuple[list[str], Truth]:
    people = _names(rng, split, 2)
    things = sorted(thing for group in lexicon.CATEGORIES.values() for thing in group)
    truth = [{"name": rng.choice(people), "thing": rng.choice(things), "yes": rng.random() < 0.5}
             for _ in range(n)]  # fmt: skip
    return [
        frame(rng, "wants" if t["yes"] else "tells", split, name=t["name"], thing=t["thing"])
        for t in truth
    ], truth


def _ask_wishes(rng: random.Random, truth: Truth, low: int, high: int) -> Asked | None:
    wishes = [t for t in truth[low - 1 : high] if t["yes"]]
    if not wishes:
        return None
    name = rng.choice(wishes)["name"]
    return {"name": name}, [[t["thing"] for t in wishes if t["name"] == name][-1]]


KINDS = {
    "sequence": Kind(
        "T2",
        ("Put {span} in the order of their dates.", "Sort {span} from the earliest to the latest.",
         "In which order did {span} come into the archive?"),
        "Answer with one entry number a line, the earliest first.", _plant_dates, _ask_dates),
    "cite": Kind(
        "T5",
        ("Which of {span} support that {name} lives in {place}?",
         "Among {span}, find those that say that {name} lives in {place}.",
         "{name} lives in {place}: which of {span} bear this out?"),
        "Answer with one entry number a line.", _plant_homes, _ask_homes),
    "rank": Kind(
        "T6.3",
        ("In {span}, each thing is one of: {kinds}. Rank these by their frequency.",
         "Each of {span} names a thing, which is one of: {kinds}. Which kinds are commonest?",
         "Order the kinds {kinds} by the number of their things in {span}."),
        "Answer with one kind a line, the most frequent first, without kinds that do not occur.",
        _plant_things, _ask_ranks),
    "contradict": Kind(
        "T7",
        ("Which of {span} contradict another one of them?",
         "Among {span}, find those that disagree about the pages of a file.",
         "Not all of {span} can be true. Which do not fit together?"),
        "Answer with one entry number a line.", _plant_pages, _ask_pages),
    "sums": Kind(
        "T8",
        ("From {span}, work out what {name} paid.", "Sum up the crowns of {name} in {span}.",
         "How much did {name} spend, by {span}?"),
        "Answer with three lines: total: N, largest: N (of one payment), entry: N (where it is).",
        _plant_sums, _ask_sums),
    "rule": Kind(
        "T10",
        ("In {span}, the tray depends on the kind of the thing: {kinds}. Find the unknown trays.",
         "A rule leads from the kind of thing ({kinds}) to the tray. In {span}, apply it.",
         "Each of {kinds} has a tray of its own. Which trays are missing in {span}?"),
        "Answer with one line for each unknown tray: the entry number, a colon, the tray.",
        _plant_trays, _ask_trays),
    "wish": Kind(
        "T11",
        ("After {span}, what does {name} want?", "Which thing did {name} last ask for in {span}?",
         "By {span}, with what would one please {name} now?"),
        "Answer with the thing alone; a later wish replaces an earlier one.",
        _plant_wishes, _ask_wishes),
}  # fmt: skip
