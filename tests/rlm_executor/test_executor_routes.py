"""The plain way and the loop, and runs told event by event."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from rlm_executor import RLM, Context, Message, RLMResult, Sampling, ScriptedLM
from rlm_executor.errors import ConfigError, InputError, PromptTooLong
from tests.rlm_executor.scripted import Recorder, block, card, echoes, finish, says
from tests.rlm_executor.test_executor_contexts import tree

pytestmark = pytest.mark.real_sandbox


# -- plain or loop --------------------------------------------------------------------------------


async def test_auto_takes_the_plain_way_for_what_fits() -> None:
    small, large = "a trout" * 10, "a trout" * 100_000
    for context, source, turns in ((small, "plain", 0), (large, "answer", 1)):
        sub = Recorder(echoes())
        rlm = RLM(says(finish("context[:7]")), sub, card(), route="auto")
        result = await rlm.run("Q?", context)
        assert (result.answer_source, result.turns, result.stop_reason) == (
            source,
            turns,
            "answered",
        )
        assert len(sub.asked) == (source == "plain")
    assert sub.asked == []


class Counting(Recorder):
    """Says how long prompts are: as many tokens as they have characters by ``chars``."""

    chars = 10

    async def count(self, messages: list[Message], sampling: Sampling) -> int | None:
        return sum(len(message["content"]) for message in messages) // self.chars


async def test_between_small_and_large_the_server_is_asked() -> None:
    for chars, source in ((4, "plain"), (3, "answer")):
        sub = Counting(echoes())
        sub.chars = chars
        rlm = RLM(says(finish("1")), sub, card(), route="auto")
        result = await rlm.run(
            "Q?", "x" * 100_000
        )  # 25 000 tokens of a window of 32 768, or 33 333
        assert result.answer_source == source


async def test_files_go_into_a_plain_prompt_under_their_names(tmp_path: Path) -> None:
    sub = Recorder(echoes())
    rlm = RLM(says(), sub, card(), route="plain")
    await rlm.run("Q?", Context.from_files([tree(tmp_path, a="A", b="B")]))
    assert sub.asked[0][0]["content"] == "# a.txt\nA\n\n# b.txt\nB\n\nQ?"
    await rlm.run("Q?", Context.named(one="1", two=[2]))
    assert sub.asked[1][0]["content"] == "# one\n1\n\n# two\n[2]\n\nQ?"


async def test_how_a_plain_call_can_end() -> None:
    def too_long(_: list[Message]) -> str:
        raise PromptTooLong("base", 5000, 4096)

    class Hangs(ScriptedLM):
        async def chat(self, *_: Any, **__: Any) -> Any:
            await asyncio.sleep(1000)

    hangs = Hangs(lambda _: "", "base")
    for sub, limits, stop in (
        (ScriptedLM(too_long), {}, "root_window"),
        (ScriptedLM(lambda _: ""), {}, "root_error"),
        (echoes(), {"max_calls": 0}, "max_calls"),
        (echoes(), {"max_tokens": 5}, "max_tokens"),
        (hangs, {"max_seconds": 0.1}, "timeout"),
    ):
        result = await RLM(says(), sub, card(**limits), route="plain").run("Q?", "text")
        assert (result.stop_reason, result.answer, result.answer_source) == (stop, "", "none")
    events: list[Any] = []
    rlm = RLM(says(), hangs, card(), route="plain", on_event=events.append)
    run = asyncio.ensure_future(rlm.run("Q?", "text"))
    await asyncio.sleep(0.05)
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run
    assert [event["type"] for event in events] == ["run", "call", "end"]
    assert (events[-1]["stop_reason"], events[-1]["unknown_calls"]) == ("cancelled", 1)


def test_a_route_that_is_none() -> None:
    with pytest.raises(ConfigError, match="use one of always_rlm, auto, plain"):
        RLM(says(), echoes(), card(), route="best")


# -- stream ---------------------------------------------------------------------------------------


async def test_a_stream_is_the_events_and_then_the_result() -> None:
    told: list[Any] = []
    root = says(block("r = llm_query('a')\nprint(r)"), finish("r"))
    rlm = RLM(root, echoes(), card(), on_event=told.append)
    items = [item async for item in rlm.stream("Q?", "text")]
    *events, result = items
    assert isinstance(result, RLMResult) and result.answer == "A"
    kinds = ["run", "turn", "call", "cell", "turn", "cell", "end"]
    assert [event["type"] for event in events if isinstance(event, dict)] == kinds
    assert told == events
    rlm.root = says(finish("2"))
    rlm.deeper = [(rlm.root, rlm.sub)]
    assert (await rlm.run("Q?", "text")).answer == "2"
    assert len(told) == len(events) + 4  # the listener is back in its place


async def test_events_come_while_the_run_goes_on() -> None:
    go = asyncio.Event()

    class Waits(ScriptedLM):
        async def chat(self, *arguments: Any, **options: Any) -> Any:
            await go.wait()
            return await super().chat(*arguments, **options)

    root = says(block("x = 1"), finish("llm_query('x')"))
    stream = RLM(root, Waits(lambda _: "y", "base"), card()).stream("Q?", "text")
    seen = []
    async for item in stream:
        seen.append(item["type"] if isinstance(item, dict) else item.answer)
        if len(seen) == 4:
            assert seen == ["run", "turn", "cell", "turn"]
            go.set()
    assert seen[4:] == ["call", "cell", "end", "y"]


async def test_leaving_a_stream_early_ends_the_run() -> None:
    started, ended = asyncio.Event(), asyncio.Event()

    class Hangs(ScriptedLM):
        async def chat(self, *_: Any, **__: Any) -> Any:
            started.set()
            try:
                await asyncio.sleep(1000)
            finally:
                ended.set()

    rlm = RLM(says(block("llm_query('x')")), Hangs(lambda _: "", "base"), card())
    async with aclosing(rlm.stream("Q?", "text")) as stream:
        async for event in stream:
            if isinstance(event, dict) and event["type"] == "turn":
                await started.wait()
                break
    assert ended.is_set()
    assert rlm.on_event is None
    assert len(asyncio.all_tasks()) == 1


async def test_a_stream_that_waits_can_be_cancelled() -> None:
    class Hangs(ScriptedLM):
        async def chat(self, *_: Any, **__: Any) -> Any:
            await asyncio.sleep(1000)

    rlm = RLM(Hangs(lambda _: "", "root"), echoes(), card())
    seen: list[Any] = []

    async def listen() -> None:
        async for item in rlm.stream("Q?", "text"):
            seen.append(item)

    task = asyncio.ensure_future(listen())
    while not seen:
        await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.sleep(0)
    assert len(asyncio.all_tasks()) == 1


async def test_a_stream_of_a_run_that_cannot_begin_raises() -> None:
    with pytest.raises(InputError, match="is empty"):
        async for _ in RLM(says(), echoes(), card()).stream("Q?", ""):
            pass


async def test_two_streams_of_one_object_at_once_have_their_own_events() -> None:
    def root(messages: list[Message]) -> str:
        return finish("context")

    rlm = RLM(ScriptedLM(root, "root"), echoes(), card())

    async def items(text: str) -> list[Any]:
        return [item async for item in rlm.stream("Q?", text)]

    for listed, text in zip(await asyncio.gather(items("a"), items("b")), "ab", strict=True):
        assert [item["type"] for item in listed[:-1]] == ["run", "turn", "cell", "end"]
        assert listed[-1].answer == text
        assert listed[0]["context"]["chars"] == 1
    assert rlm.on_event is None
