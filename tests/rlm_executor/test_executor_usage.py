"""What the client says was used, against a server that counts what it wrote."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from rlm_executor import Completion, OpenAILM, Usage
from rlm_executor.errors import CallCancelled, RequestRefused, ServerUnavailable
from tests.rlm_executor.scripted import GREEDY

Make = Callable[..., OpenAILM]


@dataclass
class Attempt:
    """One request as the server saw it, and what it did for it."""

    ask: str
    body: dict[str, Any]
    fate: str
    prompt: int
    written: int = 0
    whole: bool = False
    gone: asyncio.Event = field(default_factory=asyncio.Event)  # the client closed the connection

    @property
    def usage(self) -> Usage:
        return Usage(self.prompt, self.written, calls=1)


class Server:
    """Speaks vLLM's chat completions and counts what it writes; each attempt has a fate.

    Fates: "ok"; a status; "drop" (the connection ends without a reply), "cut" (in its middle),
    "silent" (no reply ever), "hold" (five tokens, and no more).
    """

    def __init__(self) -> None:
        self.attempts: list[Attempt] = []
        self.fate: Callable[[str, int], str] = lambda ask, number: "ok"
        self.length: Callable[[str], int] = lambda ask: 7
        self.pause = 0.001  # a token
        self.counted: list[dict[str, Any]] = []
        self.count_status = 200

    async def start(self) -> None:
        self._http = await asyncio.start_server(self._connected, "127.0.0.1", 0, backlog=4096)
        self.url = f"http://127.0.0.1:{self._http.sockets[0].getsockname()[1]}/v1"

    def of(self, ask: str) -> list[Attempt]:
        return [attempt for attempt in self.attempts if attempt.ask == ask]

    async def written(self, ask: str, tokens: int) -> Attempt:
        """Wait until an attempt for ``ask`` has so many."""
        while True:
            for attempt in self.of(ask):
                if attempt.fate in ("ok", "hold", "silent") and attempt.written >= tokens:
                    return attempt
            await asyncio.sleep(0.001)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        over = (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError)
        with contextlib.suppress(*over):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                size = int(head.split(b"content-length: ")[1].split(b"\r\n")[0])
                body = json.loads(await reader.readexactly(size))
                if head.split()[1] == b"/tokenize":
                    self.counted.append(body)
                    count = len(body["messages"][-1]["content"])
                    _reply(writer, self.count_status, {"count": count})
                    continue
                ask = body["messages"][-1]["content"]
                fate = self.fate(ask, len(self.of(ask)))
                attempt = Attempt(ask, body, fate, prompt=len(ask))
                self.attempts.append(attempt)
                try:
                    await self._answer(attempt, reader, writer)
                finally:
                    if reader.at_eof() or writer.is_closing():
                        attempt.gone.set()
        writer.close()

    async def _answer(
        self, attempt: Attempt, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        if attempt.fate.isdigit():
            error = {"error": {"message": "no", "code": int(attempt.fate)}}
            return _reply(writer, int(attempt.fate), error)
        if attempt.fate == "drop":
            writer.transport.abort()
            raise ConnectionError
        if attempt.fate == "silent":
            await reader.read(1)
            raise ConnectionError
        streamed = attempt.body.get("stream")
        if streamed:
            writer.write(
                b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\n"
                b"Transfer-Encoding: chunked\r\n\r\n"
            )
            self._piece(attempt, writer, "", prompt_token_ids=[1] * attempt.prompt)
        length = self.length(attempt.ask)
        for number in range(length):
            if reader.at_eof() or writer.is_closing():
                raise ConnectionError  # like vLLM: what nobody reads is not written
            attempt.written += 1
            if streamed:
                finish = "stop" if number + 1 == length else None
                self._piece(attempt, writer, f"w{number} ", [number], finish)
            if attempt.fate == "cut" and number == length // 2:
                writer.transport.abort()
                raise ConnectionError
            if attempt.fate == "hold" and number == 4:
                await reader.read(1)
                raise ConnectionError
            await asyncio.sleep(self.pause)
        attempt.whole = True
        usage = _usage(attempt)
        if streamed:
            _chunk(writer, {"choices": [], "usage": usage})
            writer.write(b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n")
        else:
            choice = {
                "message": {"content": "".join(f"w{number} " for number in range(length))},
                "finish_reason": "stop",
                "token_ids": list(range(length)),
            }
            ids = [1] * attempt.prompt
            _reply(writer, 200, {"choices": [choice], "usage": usage, "prompt_token_ids": ids})

    def _piece(
        self,
        attempt: Attempt,
        writer: asyncio.StreamWriter,
        text: str,
        ids: list[int] | None = None,
        finish: str | None = None,
        **more: Any,
    ) -> None:
        choice = {"delta": {"content": text}, "finish_reason": finish, "token_ids": ids}
        _chunk(writer, {"choices": [choice], "usage": _usage(attempt), **more})


def _usage(attempt: Attempt) -> dict[str, int]:
    return {"prompt_tokens": attempt.prompt, "completion_tokens": attempt.written}


def _chunk(writer: asyncio.StreamWriter, piece: dict[str, Any]) -> None:
    data = f"data: {json.dumps(piece)}\n\n".encode()
    writer.write(b"%x\r\n%b\r\n" % (len(data), data))


def _reply(writer: asyncio.StreamWriter, status: int, body: dict[str, Any]) -> None:
    data = json.dumps(body).encode()
    later = "0" if status == 429 else "0.01"
    head = f"HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nRetry-After: {later}\r\n"
    writer.write(f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data)


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    server = Server()
    await server.start()
    yield server
    server._http.close()


@pytest.fixture
def make(server: Server) -> Make:
    return lambda **options: OpenAILM(server.url, "m", **options)


def asks(lm: OpenAILM, text: str) -> asyncio.Task[Completion]:
    messages = [{"role": "user", "content": text}]
    return asyncio.create_task(lm.chat(messages, max_tokens=99, sampling=GREEDY))


async def cancelled(call: asyncio.Task[Completion]) -> CallCancelled:
    call.cancel()
    with pytest.raises(asyncio.CancelledError) as caught:
        await call
    told = CallCancelled.of(caught.value)
    assert told is not None
    return told


# -- streaming --------------------------------------------------------------------------------


async def test_a_stream_says_what_the_whole_reply_says(server: Server, make: Make) -> None:
    whole, streamed = make(return_token_ids=True), make(return_token_ids=True, stream=True)
    first, second = await asks(whole, "hello"), await asks(streamed, "hello")
    assert first == second
    assert (second.usage, second.token_ids) == (Usage(5, 7, calls=1), tuple(range(7)))
    assert second.prompt_token_ids == (1,) * 5
    assert "stream" not in server.attempts[0].body
    assert server.attempts[1].body["stream_options"]["continuous_usage_stats"] is True
    assert whole.unknown_attempts == streamed.unknown_attempts == 0


async def test_a_stream_given_up_in_the_middle_is_known_to_its_last_piece(
    server: Server, make: Make
) -> None:
    server.fate = lambda ask, number: "hold"
    lm = make(stream=True)
    call = asks(lm, "hello")
    attempt = await server.written("hello", 5)
    await asyncio.sleep(0.1)  # what was written has arrived
    assert (await cancelled(call)).usage == Usage(5, 5, calls=1)
    assert lm.unknown_attempts == 0
    await asyncio.wait_for(attempt.gone.wait(), 5)  # so the server stops


@pytest.mark.parametrize("stream", [False, True])
async def test_nothing_is_known_before_the_server_said_anything(
    server: Server, make: Make, stream: bool
) -> None:
    server.fate = lambda ask, number: "silent"
    lm = make(stream=stream)
    call = asks(lm, "hello")
    attempt = await server.written("hello", 0)
    assert (await cancelled(call)).usage is None
    assert lm.unknown_attempts == 1
    await asyncio.wait_for(attempt.gone.wait(), 5)


async def test_a_whole_reply_that_is_cancelled_is_unknown(server: Server, make: Make) -> None:
    server.fate = lambda ask, number: "hold"
    lm = make()
    call = asks(lm, "hello")
    await server.written("hello", 5)
    assert (await cancelled(call)).usage is None
    assert lm.unknown_attempts == 1


async def test_what_waits_for_its_turn_has_used_nothing(server: Server, make: Make) -> None:
    server.fate = lambda ask, number: "hold" if ask == "first" else "ok"
    lm = make(stream=True, concurrency=1)
    first, second, third = asks(lm, "first"), asks(lm, "second"), asks(lm, "third")
    await server.written("first", 5)
    assert (await cancelled(second)).usage == Usage()
    await cancelled(first)
    assert (await third).usage == Usage(5, 7, calls=1)
    assert not server.of("second")
    assert lm.unknown_attempts == 0


async def test_asyncio_takes_the_cancellation_for_its_own(server: Server, make: Make) -> None:
    server.fate = lambda ask, number: "hold"
    lm = make(stream=True)
    for wait in (asyncio.timeout, None):
        call = lm.chat([{"role": "user", "content": "hello"}], max_tokens=9, sampling=GREEDY)
        with pytest.raises(TimeoutError) as caught:
            if wait is None:
                await asyncio.wait_for(call, 0.3)
            else:
                async with wait(0.3):
                    await call
        told = CallCancelled.of(caught.value)
        assert told is not None
        assert told.usage == Usage(5, 5, calls=1)
    task = asyncio.current_task()
    assert task is not None
    assert not task.cancelling()

    async def group() -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(asyncio.sleep(0))
            await asks(lm, "hello")

    grouped = asyncio.create_task(group())
    await asyncio.sleep(0.1)
    grouped.cancel()
    assert [type(one) for one in await asyncio.gather(grouped, return_exceptions=True)] == [
        asyncio.CancelledError
    ]


# -- what is not known is told ----------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("fate", ["500", "503", "drop", "cut", "silent"])
async def test_what_may_have_been_used_is_told_as_unknown(
    server: Server, make: Make, fate: str, stream: bool
) -> None:
    lm = make(stream=stream, retries=0, timeout_s=0.5)
    server.fate = lambda ask, number: fate
    with pytest.raises(ServerUnavailable) as caught:
        await asks(lm, "hello")
    assert caught.value.usage_unknown
    assert lm.unknown_attempts == 1


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("fate", ["cut", "drop", "silent"])
async def test_an_attempt_that_was_lost_is_counted_though_the_next_succeeds(
    server: Server, make: Make, fate: str, stream: bool
) -> None:
    lm = make(stream=stream, retries=1, timeout_s=0.5)
    server.fate = lambda ask, number: "ok" if number else fate
    assert (await asks(lm, "hello")).usage == Usage(5, 7, calls=1)
    assert lm.unknown_attempts == 1


async def test_a_stream_is_not_tried_more_often_than_told(server: Server, make: Make) -> None:
    lm = make(stream=True, retries=2)
    server.fate = lambda ask, number: ["500", "cut", "cut"][number]
    with pytest.raises(ServerUnavailable, match="after 3 attempts .the reply broke off"):
        await asks(lm, "hello")
    assert len(server.attempts) == lm.unknown_attempts == 3


@pytest.mark.parametrize("fate", ["429", "401"])
async def test_what_was_refused_has_used_nothing(server: Server, make: Make, fate: str) -> None:
    lm = make(retries=0)
    server.fate = lambda ask, number: fate
    with pytest.raises((ServerUnavailable, RequestRefused)) as caught:
        await asks(lm, "hello")
    assert not caught.value.usage_unknown
    assert lm.unknown_attempts == 0


async def test_where_nobody_listens_nothing_is_used(server: Server, make: Make) -> None:
    server._http.close()
    lm = make(retries=1)
    with pytest.raises(ServerUnavailable) as caught:
        await asks(lm, "hello")
    assert not caught.value.usage_unknown
    assert lm.unknown_attempts == 0
