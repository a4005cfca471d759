"""The client under load and failures of every kind, its pace, its counts; and a real vLLM."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncIterator

import httpx
import pytest

from rlm_executor import Completion, Message, OpenAILM, Sampling, Usage
from rlm_executor.errors import CallCancelled, LMError
from tests.rlm_executor.scripted import GREEDY
from tests.rlm_executor.test_executor_usage import Attempt, Server, asks

CALLS = 200


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    server = Server()
    await server.start()
    yield server
    server._http.close()


def _fate(ask: str, number: int) -> str:
    """Of each attempt, drawn the same each time; "9 dead" never gets a reply."""
    if ask.endswith("dead"):
        return "500"
    draw = random.Random(f"{ask} {number}").random()
    if number > 1 or draw < 0.7:
        return "ok"
    return random.Random(f"{number} {ask}").choice(["429", "429", "500", "drop", "cut", "silent"])


@pytest.mark.parametrize("stream", [False, True])
async def test_usage_is_exact_or_told_as_unknown_under_load(server: Server, stream: bool) -> None:
    """Calls of four kinds: most end, some are cancelled in the middle or before, some get none."""
    kinds = {0: "stop", 1: "dead"}
    names = [f"{number} {kinds.get(number % 10, 'go')}" for number in range(CALLS)]
    late = [f"{number} late" for number in range(10)]
    server.fate = _fate
    server.length = lambda ask: 10_000 if ask.endswith("stop") else 5 + len(ask) % 3
    lm = OpenAILM(server.url, "m", stream=stream, timeout_s=2, retries=2, concurrency=48)

    async def cut_off(call: asyncio.Task[Completion], ask: str) -> None:
        await server.written(ask, 10)
        call.cancel()

    calls = {name: asks(lm, name) for name in names}
    stops = [
        asyncio.create_task(cut_off(call, name))
        for name, call in calls.items()
        if name.endswith("stop")
    ]
    calls |= {name: asks(lm, name) for name in late}
    await asyncio.sleep(0.02)
    for name in late:
        calls[name].cancel()
    results = await asyncio.gather(*(_outcome(call) for call in calls.values()))
    await asyncio.gather(*stops)
    outcomes = dict(zip(calls, results, strict=True))

    known = served = Usage()
    unknown = 0
    for name, outcome in outcomes.items():
        attempts = server.of(name)
        lost = sum(attempt.fate != "429" for attempt in attempts[:-1])  # nobody knows what it used
        if isinstance(outcome, Completion):
            assert attempts[-1].whole
            assert attempts[-1].usage == outcome.usage
            known += outcome.usage
            served += attempts[-1].usage
        elif isinstance(outcome, CallCancelled):
            last = attempts[-1] if attempts else None
            if name.endswith("late"):
                assert last is None
                assert outcome.usage == Usage()
            else:
                lost += _check_stopped(last, outcome.usage, stream=stream)
        else:
            assert name.endswith("dead")
            assert outcome.usage_unknown
            assert len(attempts) == 3
            lost += 1
        unknown += lost
    counted = Counter(type(outcome).__name__ for outcome in outcomes.values())
    assert counted == {"Completion": 160, "CallCancelled": 30, "ServerUnavailable": 20}
    assert known == served
    assert lm.unknown_attempts == unknown
    await lm.aclose()


async def _outcome(call: asyncio.Task[Completion]) -> Completion | CallCancelled | LMError:
    try:
        return await call
    except LMError as error:
        return error
    except asyncio.CancelledError as error:
        told = CallCancelled.of(error)
        assert told is not None
        return told


def _check_stopped(last: Attempt | None, usage: Usage | None, *, stream: bool) -> int:
    """A call stopped in its middle; whether its last attempt's usage is unknown."""
    assert last is not None
    assert last.fate == "ok"
    assert not last.whole
    if not stream:
        assert usage is None
        return 1
    assert usage is not None
    assert usage.prompt_tokens == last.prompt
    assert 0 <= last.written - usage.completion_tokens < 50  # was on its way
    return 0


# -- pace -------------------------------------------------------------------------------------


async def test_refusals_slow_the_client_down_and_replies_bring_it_back(server: Server) -> None:
    lm = OpenAILM(server.url, "m", concurrency=16)
    server.fate = lambda ask, number: "429" if ask == "much" and number < 1 else "ok"
    await asks(lm, "much")
    assert lm._connect().pace.limit == 8
    await asyncio.gather(*(asks(lm, "fine") for _ in range(150)))
    assert lm._connect().pace.limit == 16
    await lm.aclose()


async def test_as_many_connections_as_calls(server: Server) -> None:
    """The HTTP client's own limit is 1,000, and would keep 100 of them."""
    server.fate = lambda ask, number: "hold"
    lm = OpenAILM(server.url, "m", concurrency=1100, retries=0)
    calls = [asks(lm, "hello") for _ in range(1100)]
    started = time.monotonic()
    while len(server.attempts) < 1100:
        assert time.monotonic() - started < 60
        await asyncio.sleep(0.05)
    for call in calls:
        call.cancel()
    await asyncio.gather(*calls, return_exceptions=True)
    await lm.aclose()


# -- counting ---------------------------------------------------------------------------------


async def test_the_server_counts(server: Server) -> None:
    lm = OpenAILM(server.url, "m")
    hello: list[Message] = [{"role": "user", "content": "hello"}]
    assert await lm.count(hello, Sampling(chat_template_kwargs={"enable_thinking": False})) == 5
    assert server.counted == [
        {
            "model": "m",
            "messages": hello,
            "add_generation_prompt": True,
            "chat_template_kwargs": {"enable_thinking": False},
        }
    ]
    await lm.aclose()


@pytest.mark.parametrize(("status", "asked"), [(404, 1), (405, 1), (501, 2), (400, 2)])
async def test_a_server_that_cannot_count_is_asked_once(
    server: Server, status: int, asked: int
) -> None:
    """A 501 is tried again by the openai client, once; a 400 was about that prompt."""
    server.count_status = status
    lm = OpenAILM(server.url, "m")
    for _ in range(2):
        assert await lm.count([{"role": "user", "content": "hello"}], GREEDY) is None
    assert len(server.counted) == asked
    await lm.aclose()
    assert lm.unknown_attempts == 0


async def test_no_server_no_count(server: Server) -> None:
    server._http.close()
    lm = OpenAILM(server.url, "m")
    assert await lm.count([{"role": "user", "content": "hello"}], GREEDY) is None
    await lm.aclose()


# -- a real vLLM ------------------------------------------------------------------------------


@pytest.mark.real_vllm
@pytest.mark.slow
async def test_on_vllm_streams_are_the_same_counts_agree_and_what_is_cancelled_is_known(
    vllm_base_url: str, vllm_lora: str
) -> None:
    sampling = Sampling(temperature=0, chat_template_kwargs={"enable_thinking": False})
    messages: list[Message] = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Where is Zürich? 今日は"},
    ]
    for model in ("base", vllm_lora):
        whole = OpenAILM(vllm_base_url, model, return_token_ids=True)
        streamed = OpenAILM(vllm_base_url, model, return_token_ids=True, stream=True)
        first = await whole.chat(messages, max_tokens=40, sampling=sampling)
        second = await streamed.chat(messages, max_tokens=40, sampling=sampling)
        assert first == second
        assert len(second.token_ids or ()) == second.usage.completion_tokens > 0
        assert await streamed.count(messages, sampling) == first.usage.prompt_tokens

        free = Sampling(temperature=2, top_p=1, top_k=0)  # nearly any token: few ends
        for seconds in (
            0.3,
            0.1,
            0.5,
            0.2,
            1,
            0.3,
            3,
            0.1,
            9,
        ):  # it must have begun, and must not have ended
            call = asyncio.create_task(streamed.chat(messages, max_tokens=3000, sampling=free))
            usage = await _so_far(call, seconds)
            if usage is not None and usage.completion_tokens:
                break
        assert usage is not None
        assert usage.completion_tokens > 0
        assert usage.prompt_tokens > 10
        assert usage.calls == 1
        await whole.aclose()
        await streamed.aclose()
    root = vllm_base_url.removesuffix("/v1")
    async with httpx.AsyncClient(timeout=60) as client:
        for _ in range(100):
            text = (await client.get(f"{root}/metrics")).text
            lines = [line for line in text.splitlines() if "num_requests_running{" in line]
            if lines and not sum(float(line.rpartition(" ")[2]) for line in lines):
                break
            await asyncio.sleep(0.1)
        else:
            pytest.fail("vLLM goes on with what nobody waits for")


async def _so_far(call: asyncio.Task[Completion], seconds: float) -> Usage | None:
    """What a call knew when it was cancelled; None if nothing, or it had ended."""
    await asyncio.sleep(seconds)
    call.cancel()
    try:
        await call
    except asyncio.CancelledError as error:
        told = CallCancelled.of(error)
        return told.usage if told else None
    return None
