"""Runs in runs: who answers at which depth, one budget for all of them, and their end together."""

from __future__ import annotations

import asyncio
import json
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rlm_executor import (
    RLM,
    Completion,
    Limits,
    Message,
    Price,
    Sampling,
    ScriptedLM,
    Trajectory,
    Usage,
)
from rlm_executor.errors import ConfigError, ServerUnavailable
from tests.rlm_executor.scripted import Recorder, block, card, counted, echoes, finish, says

pytestmark = pytest.mark.real_sandbox

Step = Callable[[int, str], str | Completion]  # turn from 0 and question -> reply


def by_level(*levels: Step | str, model: str = "root") -> ScriptedLM:
    """A root that decides by depth: prompts of runs below begin with "level N"."""

    def reply(messages: list[Message]) -> str | Completion:
        question = messages[1]["content"]
        found = re.search(r"level (\d+)", question)
        step = levels[int(found[1]) if found else 0]
        turn = sum(message["role"] == "assistant" for message in messages)
        return step if isinstance(step, str) else step(turn, question)

    return ScriptedLM(reply, model)


def down(level: int) -> str:
    """Hands the work to one run below."""
    return finish(f"'{level - 1}<' + rlm_query('level {level} go') + '>'")


class Hangs:
    """Never answers; knows how many wait for it."""

    def __init__(self, model: str = "leaf") -> None:
        self.model, self.asked, self.waiting = model, 0, 0

    async def chat(
        self, messages: list[Message], *, max_tokens: int, sampling: Sampling
    ) -> Completion:
        self.asked += 1
        self.waiting += 1
        try:
            await asyncio.sleep(1000)
        finally:
            self.waiting -= 1
        raise AssertionError

    async def aclose(self) -> None:
        pass


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def nodes(path: Path, kind: str = "run") -> list[str]:
    return [row.get("node", "") for row in rows(path) if row["type"] == kind]


# -- depth ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("max_depth", [1, 2, 3, 4])
async def test_at_the_last_depth_a_run_is_a_plain_call(tmp_path: Path, max_depth: int) -> None:
    root, leaf = by_level(*(down(level) for level in range(1, 5))), Recorder(echoes())
    path = tmp_path / "j.jsonl"
    rlm = RLM(root, leaf, card(max_depth=max_depth), journal=path)
    result = await rlm.run("level 0", "text")
    opened = "".join(f"{level}<" for level in range(max_depth))
    assert result.answer == f"{opened}LEVEL {max_depth} GO{'>' * max_depth}"
    assert nodes(path) == ["", "1", "1.1", "1.1.1"][:max_depth]
    assert nodes(path, "end") == nodes(path)[::-1]
    assert [asked[0]["content"] for asked in leaf.asked] == [f"level {max_depth} go"]
    # Its calls are those to the runs below and the last, plain one.
    assert result.sub.calls == max_depth


async def test_only_runs_that_may_start_runs_are_told_of_it() -> None:
    root = Recorder(by_level(down(1), down(2)))
    await RLM(root, echoes(), card(max_depth=2)).run("level 0", "text")
    told = ["rlm_query" in asked[0]["content"] for asked in root.asked]
    assert told == [True, False]


async def test_a_run_below_has_its_prompt_as_context_and_a_repl_of_its_own() -> None:
    top = block("x = 1\nlong = 'level 1 ' + 'y' * 5000\nr = rlm_query(long)") + "\n" + finish("r")
    below = finish("f\"{len(context)} {context[:7]} {'x' in globals()}\"")
    root = Recorder(by_level(top, below))
    result = await RLM(root, echoes(), card(max_depth=2)).run("level 0", "text")
    assert result.answer == "5008 level 1 False"
    assert "y" * 300 not in root.asked[1][1]["content"]  # of its prompt it is told the beginning


async def test_a_batch_of_runs_goes_on_at_once() -> None:
    together = asyncio.Barrier(4)

    class Meets(ScriptedLM):
        async def chat(self, *arguments: Any, **options: Any) -> Completion:
            async with asyncio.timeout(30):
                await together.wait()
            return await super().chat(*arguments, **options)

    top = finish("'+'.join(rlm_query_batched([f'level 1 {n}' for n in range(4)]))")
    root = by_level(top, finish("llm_query(context[-1])"))
    leaf = Meets(lambda messages: messages[0]["content"], "leaf")
    result = await RLM(root, leaf, card(max_depth=2)).run("level 0", "text")
    assert result.answer == "0+1+2+3"


async def test_identical_runs_of_a_batch_are_one_run() -> None:
    root = Recorder(by_level(finish("rlm_query_batched(['level 1'] * 3)"), finish("7")))
    result = await RLM(root, echoes(), card(max_depth=2)).run("level 0", "text")
    assert (result.answer, len(root.asked)) == ("7\n7\n7", 2)


async def test_a_run_below_that_fails_is_an_error_that_code_sees() -> None:
    def away(turn: int, question: str) -> str:
        raise ServerUnavailable("root: HTTP 503")

    code = (
        "try:\n    rlm_query('level 1')\n"
        "except RuntimeError as error:\n    e = f'{type(error).__name__}: {error}'"
    )
    root = by_level(block(code) + "\n" + finish("e"), away)
    result = await RLM(root, echoes(), card(max_depth=2)).run("level 0", "text")
    assert result.answer == "RunFailed: the recursive call ended without an answer (root_error)"


async def test_one_of_a_batch_that_fails_leaves_the_others() -> None:
    def some(turn: int, question: str) -> str:
        if "bad" in question:
            raise ServerUnavailable("away")
        return finish("context[8:]")

    code = (
        "try:\n    rlm_query_batched(['level 1 a', 'level 1 bad', 'level 1 c'])\n"
        "except RuntimeError as error:\n    r = error.results"
    )
    root = by_level(block(code) + "\n" + finish("str(r)"), some)
    result = await RLM(root, echoes(), card(max_depth=2)).run("level 0", "text")
    assert result.answer == "['a', None, 'c']"


# -- who answers ----------------------------------------------------------------------------------


async def test_models_by_name_and_a_name_that_is_none() -> None:
    other = ScriptedLM(lambda messages: "other said", "other")
    code = (
        "r = [llm_query('a'), llm_query('a', model='other'), llm_query('a', model='leaf')]\n"
        "for ask in (llm_query, rlm_query):\n"
        "    try:\n        ask('a', model='nope')\n"
        "    except RuntimeError as error:\n"
        "        r.append(f'{type(error).__name__}: {error}')"
    )
    for depth in (1, 2):
        root = says(block(code) + "\n" + finish("'|'.join(r)"))
        rlm = RLM(root, echoes(), card(max_depth=depth), models={"other": other})
        result = await rlm.run("Q?", "text")
        error = "RequestRefused: there is no model 'nope'; known: leaf, other"
        assert result.answer == f"A|other said|A|{error}|{error}"
        assert result.sub.calls == 3


async def test_a_run_below_may_be_asked_of_a_model_by_name() -> None:
    other = by_level("", finish("'by the other root'"), model="other")
    root = by_level(finish("rlm_query('level 1', model='other')"), finish("'by the usual'"))
    events: list[Any] = []
    rlm = RLM(root, echoes(), card(max_depth=2), models={"other": other}, on_event=events.append)
    result = await rlm.run("level 0", "text")
    assert result.answer == "by the other root"
    begun = [event["models"] for event in events if event["type"] == "run"]
    assert begun == [["root", "leaf"], ["other", "leaf"]]


async def test_models_by_depth(tmp_path: Path) -> None:
    def lms(name: str) -> tuple[ScriptedLM, ScriptedLM]:
        step = finish(f"'{name}:' + llm_query('x') + rlm_query('level 0 go')")
        leaf = ScriptedLM(lambda messages: f"({name})", f"leaf-{name}")
        return by_level(step, model=f"root-{name}"), leaf

    (top, leaf), *deeper = (lms(name) for name in ("a", "b", "c"))
    rlm = RLM(top, leaf, card(max_depth=4), deeper=deeper, journal=tmp_path / "j.jsonl")
    result = await rlm.run("level 0", "text")
    assert result.answer == "a:(a)b:(b)c:(c)c:(c)(c)"  # the last pair serves all that are deeper
    begun = [row["models"] for row in rows(tmp_path / "j.jsonl") if row["type"] == "run"]
    assert begun == [[f"root-{name}", f"leaf-{name}"] for name in "abcc"]


# -- one budget -----------------------------------------------------------------------------------


def tree_of(width: int, leaf: str) -> ScriptedLM:
    """Keeps what came back, and answers with it in the next turn; runs below do ``leaf``."""

    def top(turn: int, question: str) -> str:
        code = (
            f"answer['content'] = 'known'\n"
            f"r = rlm_query_batched([f'level 1 {{n}}' for n in range({width})])"
        )
        return block(code) if not turn else finish("str(r)")

    return by_level(top, leaf)


@pytest.mark.parametrize(
    ("limits", "stop"),
    [
        ({"max_calls": 7}, "max_calls"),
        ({"max_tokens": 40_000}, "max_tokens"),
        ({"max_dollars": 0.4}, "max_dollars"),
    ],
)
async def test_each_limit_is_the_whole_trees(
    tmp_path: Path, limits: dict[str, float], stop: str
) -> None:
    """Four runs want to ask ten calls each; there is room for some of them."""

    def leaf(messages: list[Message]) -> Completion:
        return counted("yes", 1000, 500)

    code = "answer['content'] = 'below'\nfor n in range(10):\n    llm_query(context + str(n))"
    prices = {"root": Price(prompt=1, completion=1), "leaf": Price(prompt=10, completion=100)}
    path = tmp_path / "j.jsonl"
    rlm = RLM(
        tree_of(4, block(code)),
        ScriptedLM(leaf, "leaf"),
        card(max_depth=2, **limits),
        prices=prices,
        journal=path,
    )
    result = await rlm.run("level 0", "text")
    assert result.stop_reason == stop
    assert (result.answer, result.answer_source) == (str(["below"] * 4), "landing")
    ends = [row for row in rows(path) if row["type"] == "end"]
    assert {row["stop_reason"] for row in ends} == {stop}
    assert {row["answer"] for row in ends[:-1]} == {"below"}
    refused = [row["error"] for row in rows(path) if row["type"] == "cell" and row["error"]]
    assert refused and all("BudgetExhausted" in error for error in refused)
    # What was used is below the limit, but for the landing turns: they have room of their own.
    landed = [row["usage"] for row in rows(path) if row["type"] == "turn" and row["landing"]]
    assert len(landed) == 5
    extra = sum((Usage(**usage) for usage in landed), Usage())
    used = result.root + result.sub
    tokens = used.prompt_tokens + used.completion_tokens
    made = [row for row in rows(path) if row["type"] == "call" and row.get("usage")]
    if stop == "max_calls":
        assert len(made) == 7 - 4
    elif stop == "max_tokens":
        assert 20_000 < tokens - extra.prompt_tokens - extra.completion_tokens <= 40_000
    else:
        assert result.dollars is not None
        assert 0.2 < result.dollars - prices["root"].of(extra) <= 0.4


async def test_dollars_need_the_price_of_every_model() -> None:
    prices = {"root": Price(prompt=1, completion=1), "leaf": Price(prompt=1, completion=1)}
    limits = Limits(max_dollars=1)
    other = {"by any name": ScriptedLM(lambda _: "", "other")}
    deeper = [(says(model="deep"), echoes())]
    for options, missing in (({"models": other}, "other"), ({"deeper": deeper}, "deep")):
        with pytest.raises(ConfigError, match=f"needs the price of {missing}"):
            RLM(says(), echoes(), card(), limits=limits, prices=prices, **options)


async def test_dollars_are_those_of_all_models_of_the_tree() -> None:
    def priced(text: str) -> Callable[[int, str], Completion]:
        return lambda turn, question: counted(text, 100, 10)

    root = by_level(priced(down(1)), priced(finish("llm_query('x', model='other')")))
    other = ScriptedLM(lambda messages: counted("o", 1000, 100), "other")
    prices = {
        "root": Price(prompt=1, completion=10),
        "leaf": Price(prompt=0, completion=0),
        "other": Price(prompt=3, completion=30),
    }
    rlm = RLM(root, echoes(), card(max_depth=2), models={"other": other}, prices=prices)
    result = await rlm.run("level 0", "text")
    assert result.dollars == pytest.approx((2 * (100 + 100) + 3000 + 3000) / 1e6)


async def test_what_each_run_used_is_what_the_top_tells(tmp_path: Path) -> None:
    def level1(turn: int, question: str) -> str:
        return finish("llm_query(context) + ''.join(rlm_query_batched(['level 2 a', 'level 2 b']))")

    top = finish("''.join(rlm_query_batched([f'level 1 {n}' for n in range(3)])) + llm_query('x')")
    root = by_level(top, level1, finish("''.join(llm_query_batched(['p', 'q', context]))"))
    path = tmp_path / "j.jsonl"
    result = await RLM(root, echoes(), card(max_depth=3), journal=path).run("level 0", "text")
    assert result.stop_reason == "answered"

    def check(run: Trajectory) -> Usage:
        """What a run and all below it used, by its turns and calls; its end must say the same."""
        own = sum((Usage(**row["usage"]) for row in run.turn_rows), Usage())
        below = sum((Usage(**row["usage"]) for row in run.calls if "child" not in row), Usage())
        below = sum((check(child) for child in run.children.values()), below)
        assert run.end is not None
        assert (Usage(**run.end["root"]), Usage(**run.end["sub"])) == (own, below)
        return own + below

    assert check(Trajectory.read(path)) == result.root + result.sub
    assert Counter(node.count(".") + bool(node) for node in nodes(path)) == {0: 1, 1: 3, 2: 6}
    assert (result.root.calls, result.sub.calls) == (1, 9 + 1 + 3 + 18)
