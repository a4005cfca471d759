"""The endpoint with scripted models: the loop and its sandbox are real, vLLM is not."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette

from rlm_executor import DIALECTS, LM, Completion, Limits, Message, RLMCard, ScriptedLM, Usage
from rlm_executor.errors import RLMError, ServerUnavailable
from rlm_executor.files import read_jsonl, sha256_text
from serve.config import GatewayConfig
from serve.gateway import build_app

Reply = Callable[[list[Message]], str | Completion]
CARD = RLMCard(dialect=DIALECTS["answer-compact"], limits=Limits(max_turns=3, cell_timeout_s=10))
LOOKUP = """```repl
parts = context.split()
answer["content"] = llm_query(f"Say {parts[-1]}") + "!"
answer["ready"] = True
```"""
BOOK = [{"role": "user", "content": "the number is 7"}, {"role": "user", "content": "which?"}]


def upstream(request: httpx.Request) -> httpx.Response:
    """A small vLLM."""
    if request.url.path == "/health":
        return httpx.Response(200)
    if request.url.path == "/v1/models":
        return httpx.Response(200, json={"data": [{"id": "base"}, {"id": "rlm"}]})
    body = json.loads(request.content)
    if body["model"] == "unknown":
        return httpx.Response(404, json={"error": {"message": "no such model"}})
    if body.get("stream"):
        events = "data: {}\n\ndata: [DONE]\n\n"
        return httpx.Response(200, text=events, headers={"content-type": "text/event-stream"})
    return httpx.Response(200, json={"said": body})


def make_app(
    root: Reply = lambda _: LOOKUP,
    sub: Reply = lambda messages: messages[-1]["content"].split()[-1],
    *,
    card: RLMCard | None = CARD,
    handler: Callable[[httpx.Request], httpx.Response] = upstream,
    kept: Path | None = None,
    **config: Any,
) -> Starlette:
    scripts = {"rlm": root, "base": sub}

    def make_lm(name: str) -> LM:
        return ScriptedLM(scripts[name], model=name)

    return build_app(
        GatewayConfig(**config),
        "http://vllm/v1",
        card=card,
        sub="base",
        make_lm=make_lm,
        kept=kept,
        say=lambda _: None,
        transport=httpx.MockTransport(handler),
    )


async def post(app: Starlette, body: Any) -> httpx.Response:
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        return await client.post("/v1/chat/completions", content=content)


async def get(app: Starlette, path: str) -> httpx.Response:
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
        return await client.get(path)


def ask(**more: Any) -> dict[str, Any]:
    return {"model": "rlm", "messages": BOOK, **more}


@pytest.mark.real_sandbox
async def test_the_loop_answers() -> None:
    seen: list[list[Message]] = []

    def root(messages: list[Message]) -> Completion:
        seen.append(messages)
        return Completion(LOOKUP, Usage(50, 9, calls=1))

    def sub(messages: list[Message]) -> Completion:
        return Completion(messages[-1]["content"].split()[-1], Usage(5, 1, calls=1))

    answer = await post(make_app(root, sub), ask())
    body = answer.json()
    assert answer.status_code == 200
    assert body["choices"][0]["message"]["content"] == "7!"
    assert body["usage"] == {"prompt_tokens": 55, "completion_tokens": 10, "total_tokens": 65}
    assert (body["rlm"]["stop_reason"], body["rlm"]["calls"]) == ("answered", 1)
    assert "which?" in seen[0][-1]["content"]
    assert "number is 7" not in str(seen)  # the context stays out of the root's window


@pytest.mark.real_sandbox
async def test_a_limit_of_the_request_holds() -> None:
    app = make_app(lambda _: "```repl\nx = 1\n```")
    body = (await post(app, ask(rlm={"limits": {"max_turns": 1}}))).json()
    assert body["choices"][0]["finish_reason"] == "length"
    assert (body["rlm"]["stop_reason"], body["rlm"]["turns"]) == ("max_turns", 2)


@pytest.mark.real_sandbox
async def test_a_failing_root_is_a_503() -> None:
    def down(_: list[Message]) -> str:
        raise ServerUnavailable("the model is gone")

    answer = await post(make_app(down), ask())
    assert answer.status_code == 503 and answer.headers["retry-after"]
    assert answer.json()["error"]["message"] == "the model is gone"


async def test_a_sandbox_that_fails_is_a_500(monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(*_: object) -> None:
        raise RLMError("no process can be had")

    monkeypatch.setattr("serve.gateway.RLM.run", broken)
    answer = await post(make_app(), ask())
    assert answer.status_code == 500
    assert answer.json()["error"]["message"] == "no process can be had"


async def test_streaming_the_loop_is_refused() -> None:
    answer = await post(make_app(), ask(stream=True))
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "stream"


async def test_without_an_adapter_there_is_no_loop() -> None:
    app = make_app(card=None)
    answer = await post(app, ask())
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_found")
    assert [model["id"] for model in (await get(app, "/v1/models")).json()["data"]] == ["base"]


async def test_other_models_go_to_vllm_as_they_are() -> None:
    sent = {"model": "base", "messages": [], "anything": [1]}
    assert (await post(make_app(), sent)).json() == {"said": sent}
    answer = await post(make_app(), {"model": "unknown"})
    assert (answer.status_code, answer.json()["error"]["message"]) == (404, "no such model")
    streamed = await post(make_app(), {"model": "base", "stream": True})
    assert streamed.headers["content-type"].startswith("text/event-stream")
    assert streamed.text.endswith("[DONE]\n\n")


async def test_models_and_health() -> None:
    listed = (await get(make_app(), "/v1/models")).json()["data"]
    assert [model["id"] for model in listed] == ["rlm", "base"]
    assert (listed[0]["owned_by"], listed[0]["sub"]) == ("rlm", "base")
    health = await get(make_app(), "/health")
    assert (health.status_code, health.json()) == (200, {"status": "ok", "loop": True})
    ill = make_app(handler=lambda _: httpx.Response(503))
    assert (await get(ill, "/health")).status_code == 503
    assert (await get(ill, "/v1/models")).status_code == 503


async def test_a_vllm_that_is_down_is_a_503() -> None:
    def refuse(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused")

    app = make_app(handler=refuse)
    for answer in (
        await post(app, {"model": "base"}),
        await get(app, "/health"),
        await get(app, "/v1/models"),
    ):
        assert answer.status_code == 503 and answer.headers["retry-after"]


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"{", 400, "invalid_json"),
        (b"[]", 400, "invalid_json"),
        (b"\xff", 400, "invalid_json"),
        (b"[" * 100_000, 400, "invalid_json"),
        (b" " * 3_000_000, 413, "request_too_large"),
        (b"{" * 1_500_000, 400, "invalid_json"),
    ],
    ids=["cut", "list", "not UTF-8", "deep", "large", "large and cut"],
)
async def test_a_bad_body_is_refused(body: bytes, status: int, code: str) -> None:
    answer = await post(make_app(max_body_mib=2), body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)


@pytest.mark.real_sandbox
async def test_more_than_can_wait_get_a_429() -> None:
    let_go = asyncio.Event()

    class Slow(ScriptedLM):
        async def chat(self, *args: Any, **kwargs: Any) -> Completion:
            await let_go.wait()
            return await super().chat(*args, **kwargs)

    app = build_app(
        GatewayConfig(max_running=1, max_waiting=1),
        "http://vllm/v1",
        card=CARD,
        sub="base",
        make_lm=lambda name: Slow(lambda _: LOOKUP, model=name),
        say=lambda _: None,
        transport=httpx.MockTransport(upstream),
    )
    first, second = (asyncio.ensure_future(post(app, ask())) for _ in range(2))
    await asyncio.sleep(0.2)
    refused = await post(app, ask())
    assert refused.status_code == 429 and int(refused.headers["retry-after"]) >= 1
    assert refused.json()["error"]["type"] == "rate_limit_error"
    assert (await post(app, {"model": "base"})).status_code == 200
    let_go.set()
    assert {(await first).status_code, (await second).status_code} == {200}
    assert (await post(app, ask())).status_code == 200


@pytest.mark.real_sandbox
async def test_a_client_that_goes_away_cancels_its_run(tmp_path: Path) -> None:
    asked, cancelled = asyncio.Event(), asyncio.Event()

    class Endless(ScriptedLM):
        async def chat(self, *args: Any, **kwargs: Any) -> Completion:
            asked.set()
            try:
                await asyncio.sleep(600)
            except asyncio.CancelledError:
                cancelled.set()
                raise
            raise AssertionError

    app = build_app(
        GatewayConfig(max_running=1, max_waiting=0),
        "http://vllm/v1",
        card=CARD,
        sub="base",
        make_lm=lambda name: Endless(lambda _: "", model=name),
        kept=tmp_path,
        say=lambda _: None,
        transport=httpx.MockTransport(upstream),
    )

    async def receive() -> dict[str, Any]:
        if asked.is_set():
            return {"type": "http.disconnect"}
        if not body:
            await asked.wait()
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": body.pop(), "more_body": False}

    body = [json.dumps(ask()).encode()]
    sent: list[Any] = []
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/v1/chat/completions",
        "headers": [],
        "query_string": b"",
    }

    async def send(message: Any) -> None:
        sent.append(message)

    await asyncio.wait_for(app(scope, receive, send), 20)
    assert cancelled.is_set()
    assert sent[0]["status"] == 499
    assert read_jsonl(tmp_path / "requests.jsonl")[0]["stop_reason"] == "cancelled or failed"
    asked.clear()  # the slot is free again: the next one gets as far as its root
    next_one = asyncio.ensure_future(post(app, ask()))
    await asyncio.wait_for(asked.wait(), 20)
    next_one.cancel()
    await asyncio.gather(next_one, return_exceptions=True)


@pytest.mark.real_sandbox
@pytest.mark.parametrize("store", ["hashes", "full"])
async def test_it_keeps_what_it_was_told_to(store: str, tmp_path: Path) -> None:
    app = make_app(kept=tmp_path, store=store)
    body = (await post(app, ask())).json()
    (row,) = read_jsonl(tmp_path / "requests.jsonl")
    assert row["id"] == body["id"] and row["turns"] == 1
    assert row["context_sha256"] == sha256_text("the number is 7")
    files = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.*")}
    if store == "hashes":
        assert files == {"requests.jsonl"}
        assert "which?" not in (tmp_path / "requests.jsonl").read_text()
    else:
        text = tmp_path / "contexts" / f"{row['context_sha256']}.txt"
        assert text.read_text() == "the number is 7"
        assert (row["question"], row["answer"]) == ("which?", "7!")
        assert f"journals/{body['id']}.jsonl" in files


@pytest.mark.real_sandbox
async def test_a_large_context_is_ordinary() -> None:
    code = '```repl\nanswer["content"] = str(len(context))\nanswer["ready"] = True\n```'
    app = make_app(lambda _: code)
    text = "x" * (20 << 20)
    body = (await post(app, ask(rlm={"context": text, "question": "how long?"}))).json()
    assert body["choices"][0]["message"]["content"] == str(len(text))
