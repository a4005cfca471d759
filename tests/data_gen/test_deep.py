"""``deep``: gold by hand-written rules, its expert in trees of runs, depth 2 against depth 1."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_gen.experts import deep as expert
from data_gen.experts.style import Style
from data_gen.programs import diversity, normal_form
from data_gen.tasks import deep, hops
from data_gen.tasks.lexicon import CATEGORIES
from data_gen.tasks.task import Task, Window
from rlm_executor import DIALECTS, RLM, Limits, RLMCard, RLMResult, ScriptedLM
from rlm_executor.errors import InputError
from rlm_executor.lm import Message
from rlm_executor.parsing import parse_reply

LENGTHS = (2**10, 2**11, 2**12, 2**13)
Row = tuple[int, str, str, int]
# Every rule once more, by its first words: what entry j (from 0) of all counts.
BY_HAND: dict[str, Callable[[Sequence[Row], int, int], int]] = {}


def rule(begins: str) -> Callable[[Callable[..., int]], None]:
    def keep(worth: Callable[..., int]) -> None:
        BY_HAND[begins] = lambda rows, j, k: worth(rows, j, k, *rows[j])

    return keep


for begins, one in {
    "An entry on an odd page counts double": lambda r, j, k, p, w, t, v: v + v * (p % 2),
    "What stands on an even page": lambda r, j, k, p, w, t, v: v * (p % 2),
    "From page fifty on": lambda r, j, k, p, w, t, v: v - k * (p > 49),
    "Where three divides": lambda r, j, k, p, w, t, v: v if p % 3 else v + k,
    "Before page 30": lambda r, j, k, p, w, t, v: v if p >= 30 else (v - v % 2) // 2,
    "A page that ends in 5": lambda r, j, k, p, w, t, v: v if str(p)[-1] not in "05" else 0 - v,
    "Clerks whose name begins": lambda r, j, k, p, w, t, v: v + v * w.startswith(("B", "D", "F")),
    "Clerks with a last letter e": lambda r, j, k, p, w, t, v: v * (not w.endswith("e")),
    "If a clerk's name": lambda r, j, k, p, w, t, v: v + k * (len(w) >= 5),
    "Where a clerk follows": lambda r, j, k, p, w, t, v: v * (not j or r[j - 1][1] != w),
    "The first entry of each": lambda r, j, k, p, w, t, v: v + v * (w not in [x[1] for x in r[:j]]),
    "The last entry of each": lambda r, j, k, p, w, t, v: (
        v if w in [x[1] for x in r[j + 1 :]] else -v
    ),
    "The three entries at": lambda r, j, k, p, w, t, v: v * (j > 2),
    "The two entries at": lambda r, j, k, p, w, t, v: v + v * (len(r) - j <= 2),
    "Every third": lambda r, j, k, p, w, t, v: v * ((j + 1) % 3 > 0),
    "Every second": lambda r, j, k, p, w, t, v: v + k * (j % 2),
    "Things of more than 6": lambda r, j, k, p, w, t, v: v if len(t) < 7 else -v,
    "Things that begin with a vowel": lambda r, j, k, p, w, t, v: (
        v + v * bool(re.match("[aeiou]", t))
    ),
    "Things with an r": lambda r, j, k, p, w, t, v: v * (not t.count("r")),
    "Things that end in n": lambda r, j, k, p, w, t, v: v if t[-1] not in ("n", "r") else v // 2,
    "Whatever is over 90": lambda r, j, k, p, w, t, v: 90 if v > 90 else v,
    "Whatever is under 20": lambda r, j, k, p, w, t, v: v * (v >= 20),
    "Even amounts": lambda r, j, k, p, w, t, v: v if v % 2 else v // 2,
    "Odd amounts": lambda r, j, k, p, w, t, v: v + 1 if v % 2 else v,
    "All is rounded": lambda r, j, k, p, w, t, v: v - v % 10,
    "Of what is over 60": lambda r, j, k, p, w, t, v: int(str(v)[-1]) if v > 60 else v,
    "What is between 0": lambda r, j, k, p, w, t, v: v**2 if v in range(1, 15) else v,
    "Its page is added": lambda r, j, k, p, w, t, v: p + v,
    "The letters of": lambda r, j, k, p, w, t, v: v - sum(1 for _ in w),
    "The first entry gets 1": lambda r, j, k, p, w, t, v: v + j + 1,
    "Clerks with an m": lambda r, j, k, p, w, t, v: -v if re.search("[mM]", w) else v,
    "Things with the same": lambda r, j, k, p, w, t, v: v + v * bool(re.search(r"(.)\1", t)),
    "A page above that": lambda r, j, k, p, w, t, v: v + k * (j > 0 and r[j - 1][0] < p),
    "A page below that": lambda r, j, k, p, w, t, v: v * (not (j > 0 and r[j - 1][0] > p)),
    "The highest page": lambda r, j, k, p, w, t, v: v if any(x[0] > p for x in r) else 3 * v,
    "The lowest page": lambda r, j, k, p, w, t, v: v * any(x[0] < p for x in r),
    "Clerks with a single": lambda r, j, k, p, w, t, v: v * (sum(x[1] == w for x in r) > 1),
    "Clerks with three": lambda r, j, k, p, w, t, v: v + v * (sum(x[1] == w for x in r) > 2),
    "Pages with the same": lambda r, j, k, p, w, t, v: v + k * (str(p) == str(p)[0] * 2),
    "Pages of one digit": lambda r, j, k, p, w, t, v: v * (1 if p > 9 else 10),
    "An entry with the same page": lambda r, j, k, p, w, t, v: v * (not (j and r[j - 1][0] == p)),
    "Clerks with names of six": lambda r, j, k, p, w, t, v: v if len(w) != 6 else v // 2,
    "Things of four letters": lambda r, j, k, p, w, t, v: v * (3 if t[4:] == "" else 1),
    "Pages from 40": lambda r, j, k, p, w, t, v: v * (p not in range(40, 61)),
    "Pages whose digits": lambda r, j, k, p, w, t, v: v + k * (sum(map(int, str(p))) > 9),
    "Amounts that three": lambda r, j, k, p, w, t, v: v if v % 3 else -v,
    "Things that end in e": lambda r, j, k, p, w, t, v: v + k * t.endswith(("e", "t")),
    "Every fifth": lambda r, j, k, p, w, t, v: -v if j % 5 == 4 else v,
    "Clerks spelled with a d": lambda r, j, k, p, w, t, v: v - k * bool(re.search("[dfDF]", w)),
    "All but the last six": lambda r, j, k, p, w, t, v: v * (len(r) - j <= 6),
    "No entry may count less": lambda r, j, k, p, w, t, v: v if v > 30 else 30,
    "The second entry of each": lambda r, j, k, p, w, t, v: (
        v * ([x[1] for x in r[: j + 1]].count(w) != 2)
    ),
    "Wherever the page has 7": lambda r, j, k, p, w, t, v: v * (3 if str(p)[-1] in "789" else 1),
    "Ignore each clerk": lambda r, j, k, p, w, t, v: v * (not re.search("[oO]", w)),
    "Reduce by {k} the entries on": lambda r, j, k, p, w, t, v: v if p & 3 else v - k,
    "Numbers four": lambda r, j, k, p, w, t, v: v + v * (j % 4 == 3),
    "Ignore everything after": lambda r, j, k, p, w, t, v: v * (j < 5),
    "Reverse the sign of things with": lambda r, j, k, p, w, t, v: v if len(t) - 5 else -v,
    "Raise by {k} the things": lambda r, j, k, p, w, t, v: v + k * (t[0] in "abcdefgh"),
    "Should the digits": lambda r, j, k, p, w, t, v: (
        v // 2 if sum(int(x) for x in str(v)) > 10 else v
    ),
    "Bring all amounts up": lambda r, j, k, p, w, t, v: min(
        x for x in range(v, v + 5) if not x % 5
    ),
    "Ignore an entry if its clerk": lambda r, j, k, p, w, t, v: (
        v * (j + 1 == len(r) or r[j + 1][1] != w)
    ),
    "Multiply each entry": lambda r, j, k, p, w, t, v: v * int(str(p)[-1]),
    "Treble the very": lambda r, j, k, p, w, t, v: v * (1 if r[j + 1 :] else 3),
    "Raise by {k} all": lambda r, j, k, p, w, t, v: v + k * (sum(x[1] == w for x in r) == 2),
    "An entry on a later": lambda r, j, k, p, w, t, v: v + v * all(x[0] < p for x in r[:j]),
    "Ignore things with two": lambda r, j, k, p, w, t, v: v * (len(t.split("e")) < 3),
    "Reverse the sign of amounts": lambda r, j, k, p, w, t, v: v if v <= 70 else -v,
}.items():
    rule(begins)(one)
# How 137 is written, with 4 for the number that differs.
WRITTEN = {
    "Amounts are plain": "137", "Amounts are written from right": "731",
    "Amounts are numbers to the base eight": "211", "Amounts are numbers to the base sixteen": "89",
    "Amounts are numbers to the base two": "10001001", "In an amount dozens": "11d5",
    "In an amount scores": "6s17", "In an amount hours": "2h17", "In amounts the letters": "bdh",
    "Amounts are written {k} too high": "141", "Amounts are written {k} too low": "133",
    "Amounts are three times": "411", "Amounts are sums": "45+92", "Amounts are diff": "154-17",
    "Amounts are what is missing": "863", "The last digit": "1374", "The first digit": "3137",
    "In amounts each digit is written": "113377", "In amounts C": "CXXXIIIIIII",
    "Before the stroke": "34/1", "In amounts each digit is one": "248", "Values use": "254",
    "Values are days": "19w4", "Values have k": "lnr", "A quarter": "548", "True values": "363",
    "Values give how": "15+2", "Between any": "10307", "A star": "**37", "Values were": "278",
}  # fmt: skip


def by_part(part: str) -> dict[str, deep.Scheme]:
    """Every scheme of both splits, by its first wording."""
    every = [scheme for scheme in (*deep.BOTH, *deep.NEW) if scheme.part == part]
    return {scheme.wordings[0]: scheme for scheme in every}


@pytest.mark.parametrize("seed", range(4))
def test_rules_do_what_they_say(seed: int) -> None:
    rng = random.Random(seed)
    things = [t for words in CATEGORIES.values() for t in words]
    checked = 0
    for told, scheme in by_part("rule").items():
        fits = [by_hand for begins, by_hand in BY_HAND.items() if told.startswith(begins)]
        checked += 1
        rows = [
            (rng.randint(1, 99), rng.choice(("Ba", "Bame", "Lo", "Fodela")), rng.choice(things),
             rng.randint(1, 199))
            for _ in range(12)
        ]  # fmt: skip
        for k in (3, 9):
            by_hand = [fits[0](rows, j, k) for j in range(len(rows))]
            assert deep.worths(rows, [scheme], k) == by_hand, told
    assert checked == 68


def test_amounts_are_written_as_told_and_read_back() -> None:
    checked = 0
    for told, scheme in by_part("notation").items():
        written = [text for begins, text in WRITTEN.items() if told.startswith(begins)]
        assert not written or deep._written(scheme, 137, 4) == written[0], told
        checked += len(written)
        for value in range(10, 200):
            for k in range(3, 10):
                a = deep._written(scheme, value, k)
                assert re.fullmatch(r"\S+", a)
                assert eval(scheme.code.replace("{k}", str(k)), {"a": a}) == value, told
    assert checked == len(WRITTEN)


@given(st.integers(0, 10**6 - 1).map(lambda n: n if n < 700_000 else 800_000 + n % 100_000))
def test_every_head_can_be_read_and_no_line_is_taken_for_an_entry(seed: int) -> None:
    window = deep.make_window(2**11, seed, 1)
    heading = re.escape(window.tasks[0].meta["skin"]).replace(r"\{name\}", r"\w+")
    books = re.split(f"(?m)^(?={heading}$)", window.text())[1:]
    assert len(books) == len(window.facts["books"]) == 17
    for book in books:
        sentences = book.split("\n")[1].split(". ")
        told = [expert._scheme(sentence) for sentence in sentences[:-1]]
        assert sentences[-1] in deep.CLOSINGS and None not in told
        parts = [found[0].part for found in told if found]
        assert sorted(parts) in (
            ["layout", "notation", *["rule"] * 3], ["later", "layout", *["rule"] * 3]
        )  # fmt: skip
        layout = next(found[0] for found in told if found and found[0].part == "layout")
        pattern, _ = expert._row(layout)
        rows = re.findall(pattern, book, re.MULTILINE)
        later = "later" in parts
        body = book.strip().split("\n")[2 : -1 if later else None]
        filler = sum(bool(re.fullmatch(r"[A-Z][a-z]*( [a-z]+)+\.", line)) for line in body)
        assert 3 <= len(rows) <= 24
        assert len(body) == (layout.code.count("\\n") + 1) * len(rows) + filler


def test_same_seed_same_bytes_and_length_is_kept() -> None:
    for length in (*LENGTHS, 2**16):
        for seed in (1, 2, 700_001, 800_002):
            window = deep.make_window(length, seed, 3)
            assert window.text() == deep.make_window(length, seed, 3).text()
            assert 0.97 * 4 * length < len(window.text().encode()) <= 4 * length
            assert len({task.id for task in window.tasks}) == 3
    with pytest.raises(InputError, match="at least 1024"):
        deep.make_window(2**9, 1, 1)


def test_long_windows_are_streamed() -> None:
    sizes = [len(chunk) for chunk in deep.make_window(2**20, 5, 2).chunks()]
    assert 0.97 * 2**22 < sum(sizes) <= 2**22
    assert max(sizes) < 2**18


def test_answers_are_those_of_the_sums() -> None:
    kinds = set()
    for seed in (*range(6), *range(800_000, 800_006)):
        window = deep.make_window(2**11, seed, 12)
        for task in window.tasks:
            asked = expert._asked(task.question)
            assert asked is not None and asked[0] == task.meta["kind"]
            sums = {name: of[asked[1]["c"]] for name, of in window.facts["books"].items()}
            first = sorted(sums, key=sums.__getitem__, reverse=True)
            assert (
                task.answer
                == {
                    "sum": str(sum(sums.values())),
                    "most": first[0],
                    "top": ", ".join(first[:3]),
                    "over": str(sum(s > int(asked[1].get("x", 0)) for s in sums.values())),
                }[asked[0]]
            )
            kinds.add(asked[0])
            floor = deep.floor_answer(window, task)
            assert floor and floor == deep.floor_answer(window, task)
    assert kinds == {*deep.WORDINGS}


def test_splits_share_no_wordings_headings_names_or_things() -> None:
    told = [
        {w for s in split for w in s.wordings} for split in (deep.SCHEMES, deep.SCHEMES_HELD_OUT)
    ]
    assert not told[0] & told[1] and (len(told[0]), len(told[1])) == (176, 150)
    windows = [
        [deep.make_window(2**11, seed, 4) for seed in range(first, first + 30)]
        for first in (0, 800_000)
    ]
    words: list[set[str]] = []
    for split in windows:
        skins = {w.tasks[0].meta["skin"] for w in split}
        names = {name for w in split for name in w.facts["books"]}
        things = {word for w in split for word in re.findall(r"\w+", w.text())}
        things &= {thing for of in CATEGORIES.values() for thing in of}
        words.append(skins | names | things - {"ladder", "violin"})  # two of two kinds
        assert len(skins) == (4 if split is windows[0] else 2)
    assert not words[0] & words[1]


@dataclass
class Played:
    question: str
    replies: list[str] = field(default_factory=list)
    prompts: list[str] = field(default_factory=list)
    systems: set[str] = field(default_factory=set)
    score: float = 0.0
    result: RLMResult = field(init=False)


def play(window: Window, task: Task, style: Style, way: str = "deep") -> Played:
    """A run of the expert with runs below, or of the one without, in the same limits."""
    played = Played(task.question)
    heart = deep.SCHEMES if way == "heart" else ()

    def root(messages: list[Message]) -> str:
        question = messages[1]["content"].rpartition("\n\nContext:")[0]
        seen = [m["content"] for m in messages[2:] if m["role"] == "user"]
        if way == "deep":
            reply = expert.next_turn(question, seen, style)
        else:
            reply = expert.next_turn_flat(question, seen, style, heart)
        assert reply is not None, question
        played.replies.append(reply)
        played.systems.add(messages[0]["content"])
        return reply

    def sub(messages: list[Message]) -> str:
        played.prompts.append(messages[-1]["content"])
        reply = expert.leaf(played.prompts[-1])
        assert reply is not None, played.prompts[-1]
        return reply

    limits = Limits(
        max_turns=7,
        max_calls=500,
        max_tokens_per_turn=640,
        sub_max_tokens=64,
        observation_chars=400,
        max_depth=2 if way == "deep" else 1,
    )
    dialect = DIALECTS["answer-compact"].model_copy(update={"extras": ("rlm_query",)})
    card = RLMCard(dialect=dialect, limits=limits, root_window=4096, sub_window=4096)
    rlm = RLM(ScriptedLM(root), ScriptedLM(sub), card)
    played.result = rlm.complete(task.question, window.text())
    played.score = hops.exact_match(str(task.answer), played.result.answer)
    return played


@pytest.mark.real_sandbox
@pytest.mark.parametrize(("length", "first"), [(2**10, 0), (2**11, 800_000), (2**12, 40)])
def test_expert_is_right_in_every_style(length: int, first: int) -> None:
    for index in range(4):
        window = deep.make_window(length, first + index, 2)
        for task in window.tasks:
            played = play(window, task, Style(10 * index + window.tasks.index(task)))
            assert (played.score, played.result.stop_reason) == (1.0, "answered"), task.question
            assert played.result.turns <= 6 and not played.result.error_cells
            assert max(map(len, played.replies)) < 2_000
            assert max(map(len, played.prompts)) < 400
            assert sorted("rlm_query" in system for system in played.systems) == [False, True]


def shares(length: int, seeds: Sequence[int], ways: Sequence[str]) -> dict[str, float]:
    """Of each way, the share of windows that it answers right; every fourth asks the same."""
    right = dict.fromkeys(ways, 0.0)
    for index, seed in enumerate(seeds):
        window = deep.make_window(length, seed, 4)
        for way in ways:
            played = play(window, window.tasks[index % 4], Style(seed), way)
            assert played.result.stop_reason == "answered" and not played.result.error_cells
            assert max(map(len, played.prompts)) < 2.5 * 4096
            right[way] += played.score / len(seeds)
    return {way: round(share, 3) for way, share in right.items()}


@pytest.mark.real_sandbox
@pytest.mark.slow
@pytest.mark.parametrize("first", [0, 800_000])
def test_runs_below_beat_one_run(first: int, thorough: bool) -> None:
    right = shares(2**11, range(first, first + (20 if thorough else 8)), ("deep", "flat"))
    print(f"seeds from {first}: {right}")
    assert right["deep"] == 1.0
    assert right["flat"] <= 0.3


@pytest.mark.real_sandbox
def test_one_run_is_enough_where_it_can_read_all_or_knows_all_beforehand() -> None:
    assert shares(2**10, range(6), ("flat",))["flat"] >= 0.8
    assert shares(2**11, range(4), ("heart",))["heart"] == 1.0
    assert shares(2**11, range(800_000, 800_006), ("heart",))["heart"] <= 0.8


@pytest.mark.real_sandbox
def test_a_crash_is_mended_and_a_guess_fails() -> None:
    kinds = set()
    window = deep.make_window(2**10, 7, 1)
    for seed in range(9, 13):
        style = Style(seed, mistakes=1.0)
        played = play(window, window.tasks[0], style)
        kinds.add(kind := style.mistake(("crash", "guess", "forgets")))
        if kind == "crash":
            assert (played.score, played.result.error_cells) == (1.0, 1)
        if kind == "guess":
            assert played.score == 0.0
    assert {"crash", "guess"} <= kinds


def test_programs_differ() -> None:
    window = deep.make_window(2**11, 1, 1)
    book = re.split(r"(?m)^(?==== )", window.text())[2]
    for question, text in ((window.tasks[0].question, window.text()),
                           (expert._BELOW[0].format(c="food"), book)):  # fmt: skip
        forms = []
        for seed in range(100):
            seen: list[str] = []
            code: list[str] = []
            while not code or '"ready"' not in code[-1]:
                reply = expert.next_turn(question, seen, Style(seed))
                assert reply is not None and len(seen) < 7
                code.extend(parse_reply(reply, ("repl",)).blocks)
                look = re.fullmatch(r"print\(context\[(\d*):(\d+)\]\)", code[-1])
                seen.append(text[int(look[1] or 0) : int(look[2])] if look else "0")
            forms.append(("deep", normal_form(code)))
        told = diversity(forms)
        assert told["distinct"] > 40 and told["commonest_share"] < 0.1


def test_leaf_answers_from_the_prompt_alone() -> None:
    ask = expert._IS_KIND[1].format(c="food")
    assert expert.leaf(f"bread\notter\n\n{ask}") == "yes\nno"
    same = expert._SAME.format(s="Amounts are written 7 too high")
    lines = "0: Amounts are plain numbers\n1: Take 4 off each amount to get the true one"
    assert expert.leaf(f"{lines}\n\n{same}") == "1"
    assert expert.leaf(f"0: Amounts are plain numbers\n\n{same}") == "none"
    assert expert.leaf(f"All amounts are binary.\n\n{expert._TELLS}") == "yes"
    assert expert.leaf(f"A late storm was late.\n\n{expert._TELLS}") == "no"
    assert expert.leaf("Label each line.\n\nsoup") is None
    assert expert.next_turn("What is love?", [], Style(1)) is None
    assert expert.next_turn_flat("What is love?", [], Style(1)) is None
