"""pro: same seed, same bytes; the gold found again from the text; the expert in the executor."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from data_gen.experts import pro as expert
from data_gen.experts.style import Style
from data_gen.programs import diversity, normal_form
from data_gen.real.pro_metrics import BY_NAME
from data_gen.tasks import lexicon, real_text
from data_gen.tasks.pro import make_window
from data_gen.tasks.pro_entries import FRAMES, MONTHS, read
from data_gen.tasks.pro_kinds import KINDS
from data_gen.tasks.task import Task, Window
from rlm_executor import RLM, Limits, Message, RLMCard, RLMResult, ScriptedLM

BLOCK = re.compile(r"```repl\n(.*?)\n```", re.DOTALL)
CATEGORY = {thing: name for name, things in lexicon.CATEGORIES.items() for thing in things}


def run(window: Window, task: Task, style: Style) -> tuple[float, RLMResult]:
    said: list[str] = []

    def root(messages: list[Message]) -> str:
        seen = [m["content"] for m in messages if m["role"] == "user"][1:]
        reply = expert.next_turn(task.question, seen[-len(said) :] if said else [], style)
        assert reply is not None
        said.append(reply)
        return reply

    def leaf(messages: list[Message]) -> str:
        assert len(messages[-1]["content"]) < 2_500
        reply = expert.leaf(messages[-1]["content"])
        assert reply is not None
        return reply

    card = RLMCard(limits=Limits(max_turns=8, observation_chars=400))
    result = RLM(ScriptedLM(root), ScriptedLM(leaf), card).complete(task.question, window.text())
    return BY_NAME[task.metric](list(task.answer), result.answer), result


def windows(length: int, first: int) -> dict[str, Window]:
    """One window of every kind, from seeds that begin with ``first``."""
    found: dict[str, Window] = {}
    for seed in range(first, first + 60):
        window = make_window(length, seed, 3)
        found.setdefault(window.tasks[0].meta["kind"], window)
    assert set(found) == set(KINDS)
    return found


@pytest.mark.parametrize("length", [1024, 4096, 65_536])
def test_same_seed_same_bytes_and_the_length_is_kept(length: int) -> None:
    for seed in (1, 2, 800_001):
        first, second = make_window(length, seed, 3), make_window(length, seed, 3)
        assert (first.text(), first.tasks) == (second.text(), second.tasks)
        assert 0.9 * 4 * length < len(first.text().encode()) <= 4 * length


@pytest.mark.parametrize("first", [0, 800_000])
def test_gold_found_again_from_the_text(first: int) -> None:
    for kind, window in windows(2048, first).items():
        rows = re.findall(r"\[entry (\d+)\]\n(.*)\n\[end\]", window.text())
        assert [int(number) for number, _ in rows] == sorted(int(number) for number, _ in rows)
        for task in window.tasks:
            span = re.search(r"entries (\d+) to (\d+)", task.question)
            assert span is not None
            low, high = map(int, span.groups())
            texts = {int(n): text for n, text in rows if low <= int(n) <= high}
            assert len(texts) == high - low + 1
            assert _gold(kind, task, texts) == task.answer, task.question


def _gold(kind: str, task: Task, texts: dict[int, str]) -> list[str]:
    source = {"sequence": "date", "cite": "lives", "contradict": "pages", "sums": "paid",
              "wish": "wants"}.get(kind, "thing")  # fmt: skip
    told = {n: found for n, text in texts.items() if (found := read(source, text))}
    names = [word for word in re.findall(r"\w+", task.question)]
    if kind == "sequence":
        key = {
            n: (int(t["year"]), MONTHS.index(t["month"]), int(t["day"])) for n, t in told.items()
        }
        return [str(n) for n in sorted(key, key=key.__getitem__)]
    if kind == "cite":
        return [str(n) for n, t in told.items() if t["name"] in names and t["place"] in names]
    if kind == "rank":
        return [k for k, _ in Counter(CATEGORY[t["thing"]] for t in told.values()).most_common()]
    if kind == "contradict":
        odd = {a["name"] for a in told.values() for b in told.values()
               if a["name"] == b["name"] and a["number"] != b["number"]}  # fmt: skip
        return [str(n) for n, t in told.items() if t["name"] in odd]
    if kind == "sums":
        paid = sorted((int(t["number"]), n) for n, t in told.items() if t["name"] in names)
        total = sum(amount for amount, _ in paid)
        return [f"total: {total}", f"largest: {paid[-1][0]}", f"entry: {paid[-1][1]}"]
    if kind == "wish":
        return [[t["thing"] for t in told.values() if t["name"] in names][-1]]
    trays = {n: text.split("Tray: ")[1].split(".")[0] for n, text in texts.items()}
    rule = {CATEGORY[told[n]["thing"]]: t for n, t in trays.items() if t != "unknown"}
    return [f"{n}: {rule[CATEGORY[told[n]['thing']]]}" for n in trays if trays[n] == "unknown"]


def test_gold_scores_one_and_others_less() -> None:
    for kind, window in windows(1024, 100).items():
        for task in window.tasks:
            metric = BY_NAME[task.metric]
            assert metric(list(task.answer), "\n".join(task.answer)) == 1.0, kind
            assert metric(list(task.answer), "no idea") == 0.0
    assert {kind.family for kind in KINDS.values()} == {
        "T2",
        "T5",
        "T6.3",
        "T7",
        "T8",
        "T10",
        "T11",
    }


def test_splits_share_no_topic_no_frame_and_no_wording() -> None:
    train, test = ({t for t, _ in real_text.paragraphs(s)} for s in ("train", "test"))
    assert not train & test
    for window in [*windows(1024, 0).values(), *windows(1024, 800_000).values()]:
        held_out = window.seed >= 700_000
        split = "test" if held_out else "train"
        for name in window.facts["sources"]:
            if name.startswith("topic/"):
                assert real_text.in_split(name, split)
        for task in window.tasks:
            last = KINDS[task.meta["kind"]].wordings[-1]
            rule = re.sub(r"\\\{\w+\\\}", ".+", re.escape(last))
            assert bool(re.match(rule, task.question)) == held_out
        for sentence in window.facts["planted"]:
            own = [
                at
                for frames in FRAMES.values()
                for at, f in enumerate(frames, -len(frames))
                if re.match(re.sub(r"\\\{\w+\\\}", r"\\w+", re.escape(f)), sentence)
            ]
            assert own and all((at >= -2) == held_out for at in own), sentence


@pytest.mark.real_sandbox
@pytest.mark.parametrize(("length", "first"), [(1024, 0), (4096, 200), (8192, 800_000)])
def test_the_expert_is_right_in_every_style(length: int, first: int) -> None:
    for kind, window in windows(length, first).items():
        for at, task in enumerate(window.tasks):
            points, result = run(window, task, Style(seed=10 * window.seed + at))
            assert (points, result.stop_reason) == (1.0, "answered"), (kind, window.seed, at)
            assert 1 <= result.turns <= 6
            assert not result.error_cells


@pytest.mark.real_sandbox
def test_mistakes_crash_and_are_mended_or_fail() -> None:
    window = windows(1024, 0)["sequence"]
    outcomes = set()
    for seed in range(12):
        style = Style(seed=seed, mistakes=1.0)
        points, result = run(window, window.tasks[0], style)
        mistake = style.mistake(("crash", "guess", "forgets"))
        outcomes.add(mistake)
        if mistake == "crash":
            assert (points, result.error_cells) == (1.0, 1)
        else:
            assert points < 1.0 or result.stop_reason != "answered"
    assert outcomes == {"crash", "guess", "forgets"}


def test_programs_are_many() -> None:
    forms = []
    for kind, window in windows(1024, 0).items():
        for seed in range(60):
            seen: list[str] = []
            cells: list[str] = []
            while "ready" not in "".join(cells[-1:]) and len(cells) < 6:
                reply = expert.next_turn(window.tasks[0].question, seen, Style(seed=seed))
                assert reply is not None and len(reply) < 2_600
                cells += BLOCK.findall(reply)
                seen.append("")
            forms.append((kind, normal_form(cells)))
    for family in diversity(forms)["by_family"].values():
        assert family["distinct"] >= 30 and family["commonest_share"] < 0.2


def test_other_questions_are_left_to_other_experts() -> None:
    assert expert.next_turn("What is love?", [], Style(seed=1)) is None
    assert expert.leaf("soup\n\nIs it warm?") is None
