"""Clients: a real HTTP server that fails in every way, the scripted model, the cache."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from rlm_executor import CachedLM, Completion, Message, OpenAILM, Sampling, ScriptedLM, Usage
from rlm_executor.errors import LMError, PromptTooLong, RequestRefused, ServerUnavailable
from tests.rlm_executor.scripted import GREEDY, counted

ASK: list[Message] = [{"role": "user", "content": "hello"}]


class Server:
    """An HTTP server that gives the planned answers in turn and keeps the requests."""

    def __init__(self) -> None:
        self.planned: list[tuple[int, dict[str, str], Any]] = []
        self.requests: list[dict[str, Any]] = []
        self.times: list[float] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                server.requests.append(json.loads(body))
                server.times.append(time.monotonic())
                status, headers, reply = server.planned.pop(0)
                data = reply if isinstance(reply, bytes) else json.dumps(reply).encode()
                self.send_response(status)
                length = int(headers.pop("Length", len(data)))
                for name, value in {"Content-Length": str(length), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: object) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._http.server_port}/v1"
        threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True).start()

    def plan(self, status: int, reply: Any, **headers: str) -> None:
        self.planned.append((status, headers, reply))

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


def said(text: str | None, finish: str = "stop", **extra: Any) -> dict[str, Any]:
    choice = {"index": 0, "message": {"role": "assistant", "content": text}}
    usage = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
    choice |= {"finish_reason": finish} | extra.pop("choice", {})
    return {"id": "1", "object": "chat.completion", "choices": [choice], "usage": usage} | extra


def complains(message: str) -> dict[str, Any]:
    return {"error": {"message": message, "type": "BadRequestError", "code": 400}}


async def ask(lm: OpenAILM, sampling: Sampling | None = None, max_tokens: int = 50) -> Completion:
    try:
        return await lm.chat(ASK, max_tokens=max_tokens, sampling=sampling or Sampling())
    finally:
        await lm.aclose()


async def test_a_reply_with_usage_and_finish_reason(server: Server) -> None:
    server.plan(200, said("hi", "length"))
    got = await ask(OpenAILM(server.url, "m"))
    assert got == Completion("hi", Usage(7, 3, calls=1), "length")
    assert server.requests == [
        {
            "model": "m",
            "messages": ASK,
            "max_tokens": 50,
            "temperature": 0.7,
            "top_p": 0.8,
            "top_k": 20,
        }
    ]


async def test_what_is_off_is_not_sent(server: Server) -> None:
    server.plan(200, said("hi"))
    server.plan(200, said("hi"))
    plain = Sampling(temperature=1, top_p=1, top_k=0)
    await ask(OpenAILM(server.url, "m"), plain)
    full = Sampling(min_p=0.1, seed=3, chat_template_kwargs={"enable_thinking": False})
    await ask(OpenAILM(server.url, "m"), full)
    assert set(server.requests[0]) == {"model", "messages", "max_tokens", "temperature", "top_p"}
    assert server.requests[1]["min_p"] == 0.1
    assert server.requests[1]["seed"] == 3
    assert server.requests[1]["chat_template_kwargs"] == {"enable_thinking": False}


async def test_token_ids_are_asked_for_and_read(server: Server) -> None:
    server.plan(200, said("hi", prompt_token_ids=[1, 2], choice={"token_ids": [3]}))
    got = await ask(OpenAILM(server.url, "m", return_token_ids=True))
    assert server.requests[0]["return_token_ids"] is True
    assert (got.prompt_token_ids, got.token_ids) == ((1, 2), (3,))


async def test_429_waits_as_long_as_it_is_told(server: Server) -> None:
    server.plan(429, complains("slow down"), **{"Retry-After": "0.4"})
    server.plan(200, said("hi"))
    got = await ask(OpenAILM(server.url, "m"))
    assert got.text == "hi"
    assert server.times[1] - server.times[0] >= 0.4


async def test_500_and_a_cut_connection_are_tried_again(server: Server) -> None:
    server.plan(500, complains("oops"), **{"Retry-After": "0.01"})
    server.plan(200, b'{"choices": [', Length="1000")  # the connection ends before the body does
    server.plan(200, said("hi"))
    got = await ask(OpenAILM(server.url, "m"))
    assert got.text == "hi"
    assert len(server.requests) == 3


async def test_what_fails_to_the_end_says_how_often_it_was_tried(server: Server) -> None:
    for _ in range(2):
        server.plan(503, complains("overloaded"), **{"Retry-After": "0.01"})
    with pytest.raises(ServerUnavailable, match="HTTP 503: overloaded .after 2 attempts"):
        await ask(OpenAILM(server.url, "m", retries=1))


async def test_a_refused_connection_is_unavailable(server: Server) -> None:
    server.close()
    with pytest.raises(ServerUnavailable, match="no answer after 1 attempts .*is the server up"):
        await ask(OpenAILM(server.url, "m", retries=0))


async def test_silence_is_unavailable() -> None:
    held = await asyncio.start_server(lambda reader, writer: asyncio.sleep(60), "127.0.0.1", 0)
    port = held.sockets[0].getsockname()[1]
    with pytest.raises(ServerUnavailable, match="no answer"):
        await ask(OpenAILM(f"http://127.0.0.1:{port}/v1", "m", retries=0, timeout_s=0.3))
    held.close()


@pytest.mark.parametrize("status", [400, 401, 404])
async def test_a_refusal_is_not_tried_again(server: Server, status: int) -> None:
    server.plan(status, complains("The model `m` does not exist."))
    with pytest.raises(RequestRefused, match=f"HTTP {status}: The model `m` does not exist"):
        await ask(OpenAILM(server.url, "m"))
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("message", "tokens", "window"),
    [
        (
            "This model's maximum context length is 4096 tokens. However, your prompt contains "
            "at least 4097 input tokens, which exceeds this limit even without any output tokens. "
            "Please reduce the length of the input prompt.",
            4097,
            4096,
        ),
        (
            "The decoder prompt (length 5000) is longer than the maximum model length of 4096. "
            "Make sure that `max_model_len` is no smaller than the number of text tokens.",
            5000,
            4096,
        ),
        (
            "This model's maximum context length is 4096 tokens. However, you requested 4200 "
            "tokens (4100 in the messages, 100 in the completion).",
            4200,
            4096,
        ),
        ("Input length (5000) exceeds model's maximum context length (4096).", 5000, 4096),
        ("prompt too long", None, None),
    ],
)
async def test_a_prompt_that_does_not_fit(
    server: Server, message: str, tokens: int | None, window: int | None
) -> None:
    server.plan(400, complains(message))
    with pytest.raises(PromptTooLong) as caught:
        await ask(OpenAILM(server.url, "m"))
    assert (caught.value.tokens, caught.value.window) == (tokens, window)


@pytest.mark.parametrize(
    "reply", [b"<html>", b"[]", b'{"choices": []}', b'{"choices": [{"message": null}]}']
)
async def test_what_is_no_completion_is_unavailable(server: Server, reply: bytes) -> None:
    server.plan(200, reply)
    with pytest.raises(ServerUnavailable, match="the reply is not"):
        await ask(OpenAILM(server.url, "m"))


async def test_no_content_is_an_empty_text(server: Server) -> None:
    server.plan(200, said(None))
    assert (await ask(OpenAILM(server.url, "m"))).text == ""


def test_one_client_serves_several_event_loops(server: Server) -> None:
    lm = OpenAILM(server.url, "m")
    for _ in range(2):
        server.plan(200, said("hi"))
        assert asyncio.run(lm.chat(ASK, max_tokens=5, sampling=GREEDY)).text == "hi"


async def test_concurrency_is_bounded() -> None:
    now = most = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal now, most
        while head := await reader.readuntil(b"\r\n\r\n"):
            size = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
            await reader.readexactly(size)
            now += 1
            most = max(most, now)
            await asyncio.sleep(0.02)
            now -= 1
            body = json.dumps(said("hi")).encode()
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)

    held = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = held.sockets[0].getsockname()[1]
    lm = OpenAILM(f"http://127.0.0.1:{port}/v1", "m", concurrency=3)
    calls = [lm.chat(ASK, max_tokens=5, sampling=GREEDY) for _ in range(12)]
    assert {done.text for done in await asyncio.gather(*calls)} == {"hi"}
    await lm.aclose()
    held.close()
    assert most == 3


# -- the other clients ------------------------------------------------------------------------


async def test_a_scripted_model_counts_bytes_as_tokens() -> None:
    lm = ScriptedLM(lambda messages: "x" * 8)
    got = await lm.chat(ASK, max_tokens=1, sampling=GREEDY)
    assert got.usage == Usage(prompt_tokens=2, completion_tokens=2, calls=1)


class Slow:
    """Counts calls; fails while told to."""

    model = "slow"

    def __init__(self) -> None:
        self.calls, self.failing, self.cancelled = 0, False, 0

    async def chat(
        self, messages: list[Message], *, max_tokens: int, sampling: Sampling
    ) -> Completion:
        self.calls += 1
        try:
            await asyncio.sleep(0.05)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if self.failing:
            raise LMError("no")
        return counted(messages[0]["content"].upper(), 5, 1)

    async def aclose(self) -> None:
        pass


async def test_identical_greedy_calls_are_sent_once_and_all_counted() -> None:
    inner = Slow()
    lm = CachedLM(inner)
    calls = [lm.chat(ASK, max_tokens=1, sampling=GREEDY) for _ in range(3)]
    replies = await asyncio.gather(*calls)
    replies.append(await lm.chat(ASK, max_tokens=1, sampling=GREEDY))
    assert inner.calls == 1
    assert {reply.text for reply in replies} == {"HELLO"}
    total = sum((reply.usage for reply in replies), Usage())
    assert total == Usage(20, 4, calls=4, cached_calls=3)


async def test_other_calls_are_not_shared() -> None:
    inner = Slow()
    lm = CachedLM(inner)
    await lm.chat(ASK, max_tokens=1, sampling=GREEDY)
    await lm.chat(ASK, max_tokens=2, sampling=GREEDY)
    await lm.chat(ASK, max_tokens=1, sampling=Sampling())
    await lm.chat(ASK, max_tokens=1, sampling=Sampling())
    assert inner.calls == 4


async def test_failures_are_not_remembered() -> None:
    inner = Slow()
    lm = CachedLM(inner)
    inner.failing = True
    calls = [lm.chat(ASK, max_tokens=1, sampling=GREEDY) for _ in range(2)]
    failed = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(error) for error in failed] == [LMError, LMError]
    inner.failing = False
    assert (await lm.chat(ASK, max_tokens=1, sampling=GREEDY)).text == "HELLO"
    assert inner.calls == 2


async def test_a_cancelled_caller_does_not_take_the_others_reply() -> None:
    inner = Slow()
    lm = CachedLM(inner)
    one, two = (asyncio.create_task(lm.chat(ASK, max_tokens=1, sampling=GREEDY)) for _ in range(2))
    await asyncio.sleep(0.01)
    one.cancel()
    assert (await two).text == "HELLO"
    three = asyncio.create_task(lm.chat(ASK, max_tokens=9, sampling=GREEDY))
    await asyncio.sleep(0.01)
    three.cancel()
    await asyncio.gather(one, three, return_exceptions=True)
    assert inner.cancelled == 1
