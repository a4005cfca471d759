"""How trees of runs end: cancelled, late, replayed; what they leave behind."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rlm_executor import (
    RLM,
    Completion,
    Message,
    Price,
    RLMResult,
    ScriptedLM,
    Trajectory,
    replay,
)
from rlm_executor.errors import ReplayDiverged, ServerUnavailable
from tests.rlm_executor.scripted import block, card, echoes, finish, processes_below, says
from tests.rlm_executor.test_executor_tree import Hangs, by_level, down, nodes, rows, tree_of

pytestmark = pytest.mark.real_sandbox


# -- the end of all -------------------------------------------------------------------------------


def below_us() -> set[int]:
    """Every process that this one started, and what those started."""
    return {*processes_below(os.getpid())} - {os.getpid()}


async def test_a_cancelled_tree_is_gone_within_a_second(tmp_path: Path) -> None:
    await RLM(says(finish("1")), echoes(), card()).run("Q?", "text")  # the base zygote stays
    await asyncio.sleep(0.2)
    before = below_us()
    root = by_level(
        finish("rlm_query_batched([f'level 1 {n}' for n in range(4)])"),
        finish("rlm_query_batched([f'level 2 {context} {n}' for n in range(4)])"),
        finish("llm_query(context)"),
    )
    leaf, path = Hangs(), tmp_path / "j.jsonl"
    rlm = RLM(root, leaf, card(max_depth=3), journal=path)
    task = asyncio.ensure_future(rlm.run("level 0", "text"))
    while leaf.waiting < 16:
        await asyncio.sleep(0.02)
    during = below_us() - before
    assert len(during) >= 21 * 2  # of each run its session and its context's zygote
    started = time.monotonic()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert leaf.waiting == 0
    while below_us() & during and time.monotonic() - started < 5:
        await asyncio.sleep(0.01)
    assert time.monotonic() - started < 1, len(below_us() & during)
    ends = [row for row in rows(path) if row["type"] == "end"]
    assert Counter(row["stop_reason"] for row in ends) == {"cancelled": 21}
    assert ends[-1]["unknown_calls"] == 16
    assert len(asyncio.all_tasks()) == 1


async def test_a_run_below_that_has_ended_leaves_no_process() -> None:
    """Also one that has started runs, and although the run above goes on."""
    left: list[int] = []

    def top(turn: int, question: str) -> str:
        if not turn:
            left.append(len(below_us()))
            return block("r = [rlm_query(f'level 1 {n}') for n in range(5)]")
        end = time.monotonic() + 2
        while len(below_us()) > left[0] and time.monotonic() < end:
            time.sleep(0.01)
        left.append(len(below_us()))
        return finish("len(r)")

    root = by_level(top, down(2), finish("1"))
    result = await RLM(root, echoes(), card(max_depth=3)).run("level 0", "text")
    assert result.answer == "5"
    assert left[0] == left[1]


async def test_time_ends_a_whole_tree_and_the_top_lands(tmp_path: Path) -> None:
    path, leaf = tmp_path / "j.jsonl", Hangs()
    root = tree_of(3, block("answer['content'] = 'below'\nllm_query(context)"))
    rlm = RLM(root, leaf, card(max_depth=2, max_seconds=2), journal=path)
    result = await rlm.run("level 0", "text")
    assert (result.answer, result.stop_reason) == ("known", "timeout")
    assert (leaf.asked, leaf.waiting, result.unknown_calls) == (3, 0, 3)
    assert result.seconds < 6
    assert (await replay(path, "text")).answer == "known"


# -- journals and replay --------------------------------------------------------------------------


async def test_the_journal_tells_the_nodes_of_a_tree(tmp_path: Path) -> None:
    root = by_level(
        finish("''.join(rlm_query_batched(['level 1 a', 'level 1 b']))"),
        finish("rlm_query('level 2 of ' + context[-1])"),
        finish("context[-1]"),
    )
    path = tmp_path / "j.jsonl"
    result = await RLM(root, echoes(), card(max_depth=3), journal=path).run("level 0", "text")
    assert result.answer == "ab"
    top = Trajectory.read(path)
    assert sorted(top.children) == ["1", "2"]
    assert [sorted(child.children) for child in top.children.values()] == [["1"], ["1"]]
    assert [row["child"] for row in sorted(top.calls, key=lambda row: row["child"])] == ["1", "2"]
    for name, child in top.children.items():
        (call,) = child.calls
        assert call["child"] == f"{name}.1"
        grandchild = child.children["1"]
        assert grandchild.end is not None and grandchild.end["answer"] == call["reply"]
        assert grandchild.turns[0].messages[0]["role"] == "system"
    assert sorted(nodes(path)) == ["", "1", "1.1", "2", "2.1"]


def flaky() -> ScriptedLM:
    """Says something else each time it is asked."""
    asked = iter(range(1000))
    return ScriptedLM(lambda messages: f"{next(asked)}", "leaf")


TREES: dict[str, tuple[Callable[[], ScriptedLM], dict[str, float]]] = {
    "deep": (lambda: by_level(*(down(level) for level in range(1, 4))), {"max_depth": 3}),
    "wide": (
        lambda: by_level(
            finish("'+'.join(rlm_query_batched([f'level 1 {n}' for n in range(6)]))"),
            finish("'-'.join(llm_query_batched([context, 'same', 'x']))"),
        ),
        {"max_depth": 2},
    ),
    "named": (
        lambda: by_level(
            finish("rlm_query('level 1', model='big') + llm_query('x')"),
            block("try:\n    llm_query('x', model='none')\nexcept RuntimeError as e:\n    print(e)")
            + "\n"
            + finish("llm_query('x', model='other')"),
        ),
        {"max_depth": 2},
    ),
    "failing": (
        lambda: by_level(
            block("try:\n    rlm_query('level 1')\nexcept RuntimeError as e:\n    print(e)")
            + "\n"
            + finish("'caught'"),
            "",
        ),
        {"max_depth": 2, "max_turns": 2},
    ),
    "max_turns": (
        lambda: by_level(finish("rlm_query('level 1')"), block("answer['content'] = 'kept'")),
        {"max_depth": 2, "max_turns": 2},
    ),
    "max_calls": (
        lambda: tree_of(1, block("answer['content'] = 'b'\nllm_query_batched(list('abc'))")),
        {"max_depth": 2, "max_calls": 3},
    ),
    "max_calls_at_once": (
        lambda: tree_of(2, block("answer['content'] = 'b'\nllm_query_batched(list('abc'))")),
        {"max_depth": 2, "max_calls": 4},
    ),
    "max_tokens": (
        lambda: tree_of(1, block("answer['content'] = 'b'\nllm_query('x' * 30000)")),
        {"max_depth": 2, "max_tokens": 20_000},
    ),
    "max_dollars": (
        lambda: tree_of(1, block("answer['content'] = 'b'\nllm_query('x' * 30000)")),
        {"max_depth": 2, "max_dollars": 0.02},
    ),
}


@pytest.mark.parametrize("name", TREES)
async def test_a_tree_replayed_is_the_tree_recorded(tmp_path: Path, name: str) -> None:
    make, limits = TREES[name]
    path, price = tmp_path / "j.jsonl", Price(prompt=1, completion=1)
    prices = {"root": price, "leaf": price}
    models = (
        {"big": make(), "other": ScriptedLM(lambda _: "o", "another")} if name == "named" else {}
    )
    rlm = RLM(make(), flaky(), card(**limits), journal=path, prices=prices, models=models)
    result = await rlm.run("level 0", "text")
    stop = name.removesuffix("_at_once")
    assert result.stop_reason == (stop if stop in limits and stop != "max_turns" else "answered")
    for _ in range(3):
        assert told(await replay(path, "text")) == told(result)


def told(result: RLMResult) -> tuple[Any, ...]:
    fields = ("answer", "stop_reason", "answer_source", "turns", "error_cells", "root", "sub")
    return tuple(getattr(result, field) for field in fields)


async def test_a_run_below_that_goes_another_way_says_so(tmp_path: Path) -> None:
    def below(turn: int, question: str) -> str:
        return finish("1") if turn else block("import uuid\nprint(uuid.uuid4())")

    path = tmp_path / "j.jsonl"
    root = by_level(finish("rlm_query('level 1')"), below)
    await RLM(root, echoes(), card(max_depth=2), journal=path).run("level 0", "text")
    with pytest.raises(ReplayDiverged, match=r"turn 1: message 3 \(user\) is .*output"):
        await replay(path, "text")


@pytest.mark.parametrize("ask", ["llm_query", "rlm_query"])
async def test_a_call_that_was_not_made_says_so(tmp_path: Path, ask: str) -> None:
    path = tmp_path / "j.jsonl"
    root = by_level(finish(f"{ask}('level 1 ' + str(__import__('uuid').uuid4()))"), finish("1"))
    await RLM(root, echoes(), card(max_depth=2), journal=path).run("level 0", "text")
    with pytest.raises(ReplayDiverged, match="never (made|started): 'level 1 "):
        await replay(path, "text")


async def test_runs_of_one_prompt_by_two_parents_are_kept_apart(tmp_path: Path) -> None:
    """Each parent has one child of the same prompt; the children were told different things."""
    answers = iter("xyz")

    def level2(turn: int, question: str) -> str:
        return finish(f"'{next(answers)}'")

    root = by_level(
        finish("''.join(rlm_query_batched(['level 1 a', 'level 1 b', 'level 1 c']))"),
        lambda turn, question: finish("context[-1] + rlm_query('level 2')"),
        level2,
    )
    path = tmp_path / "j.jsonl"
    result = await RLM(root, echoes(), card(max_depth=3), journal=path).run("level 0", "text")
    for _ in range(5):
        assert (await replay(path, "text")).answer == result.answer


THREADS = (
    "import threading, time\n"
    "for n in range(8):\n"
    "    threading.Thread(target=rlm_query, args=(f'level 1 {n}',), daemon=True).start()\n"
    "time.sleep(SECONDS)\nanswer['content'] = 'left'\nanswer['ready'] = True"
)


@pytest.mark.parametrize("seconds", [0.0, 0.02, 0.3])
async def test_runs_that_their_cell_leaves_behind_can_be_replayed(
    tmp_path: Path, seconds: float
) -> None:
    """Stopped before they had begun, or with a request under way."""

    class Slow(ScriptedLM):
        async def chat(self, messages: list[Message], **more: Any) -> Completion:
            if "level 1" in messages[1]["content"]:
                await asyncio.sleep(60)
            return await super().chat(messages, **more)

    path = tmp_path / "j.jsonl"
    root = Slow(lambda _: block(THREADS.replace("SECONDS", str(seconds))), "root")
    result = await RLM(root, echoes(), card(max_depth=2), journal=path).run("level 0", "text")
    assert result.stop_reason == "answered"
    assert (await replay(path, "text")).answer == "left"


@pytest.mark.parametrize("asks", ["rlm_query", "llm_query"])
async def test_what_a_left_thread_had_not_asked_yet_is_no_divergence(
    tmp_path: Path, asks: str
) -> None:
    """Recorded, the cell ended before its thread had asked; in the replay the thread is faster."""
    path = tmp_path / "j.jsonl"
    code = block(THREADS.replace("rlm_query", asks).replace("SECONDS", "0.3"))
    root = by_level(lambda *_: code, finish("'x'"))
    await RLM(root, echoes(), card(max_depth=2), journal=path).run("level 0", "text")
    of_the_thread = ("node", "child", "prompt")  # runs below, and the calls that asked
    kept = [row for row in rows(path) if not any(key in row for key in of_the_thread)]
    path.write_text("".join(json.dumps(row) + "\n" for row in kept))
    assert (await replay(path, "text")).answer == "left"


async def test_more_runs_than_there_are_descriptors_fail_one_by_one(tmp_path: Path) -> None:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    root = by_level(
        block("try:\n    rlm_query_batched([f'level 1 {n}' for n in range(60)])\nexcept "
              "RuntimeError as e:\n    print(type(e).__name__)\nanswer['content'] = 'went on'\n"
              "answer['ready'] = True"),
        finish("'x'"),
    )  # fmt: skip
    open_now = len(os.listdir("/proc/self/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (open_now + 40, hard))
    try:
        result = await RLM(root, echoes(), card(max_depth=2)).run("level 0", "text")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert result.answer == "went on"


async def test_a_failed_call_counts_in_a_replay_as_it_counted(tmp_path: Path) -> None:
    def fails(messages: list[Message]) -> str:
        error = ServerUnavailable("it went away")
        error.usage_unknown = True
        raise error

    path = tmp_path / "j.jsonl"
    code = block("try:\n    llm_query('x')\nexcept RuntimeError as e:\n    print(e)")
    root = by_level(lambda turn, _: finish("'1'") if turn else code)
    result = await RLM(root, ScriptedLM(fails, "leaf"), card(), journal=path).run("level 0", "t")
    assert result.unknown_calls == 1
    assert told(await replay(path, "t")) == told(result)


async def test_a_landing_that_empties_the_answer_does_not_lose_it() -> None:
    root = by_level(
        lambda turn, _: block("answer['content'] = '42'" if not turn else "answer['content'] = ''")
    )
    result = await RLM(root, echoes(), card(max_turns=1)).run("level 0", "text")
    assert (result.answer, result.answer_source) == ("42", "variable")
