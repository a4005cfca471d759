"""The OpenAI-compatible endpoint: the recursive loop behind one model name, vLLM behind the others.

    POST /v1/chat/completions   model "rlm" runs the loop, root = the adapter, sub-calls = the
                                card's sub_model; any other model goes to vLLM as it is
    GET  /v1/models, /health

What of a request is context and what is question: ``wire``. The loop's answers are not streamed
(400); those of other models are, if asked for. ``usage`` counts the whole tree of calls. A client
that goes away cancels its run with all its calls. ``max_running`` loops run, ``max_waiting`` wait,
more get a 429 with Retry-After. It keeps hashes of what it was asked, or all of it (``store``).

Not here: the loop itself, authentication, TLS. It listens on the loopback address unless told
otherwise; put a proxy in front of it before anyone else can reach it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
import uuid
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import httpx
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from rlm_executor import LM, RLM, CachedLM, Context, RLMCard, RLMResult
from rlm_executor.errors import RLMError
from rlm_executor.files import append_jsonl, sha256_text, write_text_atomic
from serve.admission import Admission, while_connected
from serve.config import GatewayConfig
from serve.wire import Json, Refusal, RunRequest, failure, to_refusal, to_response, to_run

GONE = 499  # nginx's status for a client that went away; nobody reads it
_IN_THREAD = 1 << 20  # bytes of JSON from which on parsing would hold up everybody else


class Loop:
    """What the loop's model name stands for: two models and a card."""

    def __init__(self, root: LM, sub: LM, card: RLMCard) -> None:
        self.root, self.sub, self.card = root, sub, card


class Gateway:
    """The handlers. ``loop`` is None where no trained adapter is served yet."""

    def __init__(
        self,
        config: GatewayConfig,
        loop: Loop | None,
        upstream: httpx.AsyncClient,
        kept: Path | None,
        say: Callable[[str], None],
    ) -> None:
        self.config, self.loop, self.upstream = config, loop, upstream
        self.kept, self.say = kept, say
        self.admission = Admission(config.max_running, config.max_waiting)

    async def chat(self, request: Request) -> Response:
        """``POST /v1/chat/completions``."""
        raw, body = await self.read(request)
        if body.get("model") != self.config.model:
            return await self.pass_through(request, raw, streamed=bool(body.get("stream")))
        if self.loop is None:
            raise Refusal(
                404,
                f"{self.config.model} is not served: its adapter or rlm.json is not there yet; "
                "`make data train` makes them",
                param="model",
                code="model_not_found",
            )
        run = to_run(body, max_question_chars=self.config.max_question_chars)
        done = await while_connected(request, self.complete(self.loop, run))
        return JSONResponse(done) if done is not None else Response(status_code=GONE)

    async def complete(self, loop: Loop, request: RunRequest) -> Json:
        """Run the loop for one request; its chat completion."""
        async with self.admission.slot():
            request_id, created = f"chatcmpl-{uuid.uuid4().hex}", int(time.time())
            last_error: tuple[str, str] | None = None

            def listen(event: Json) -> None:
                nonlocal last_error
                if event["type"] == "turn" and "error" in event:
                    last_error = event["error"], event["message"]

            journal = None
            if self.kept is not None and self.config.store == "full":
                journal = self.kept / "journals" / f"{request_id}.jsonl"
            # Identical greedy sub-calls are sent once per run; longer memory would only grow.
            rlm = RLM(
                loop.root,
                CachedLM(loop.sub),
                request.card(loop.card),
                journal=journal,
                on_event=listen,
                isolation=self.config.isolation,
            )
            result = None
            try:
                context = await asyncio.to_thread(Context.from_text, request.context)
                result = await rlm.run(request.question, context)
            finally:
                self.keep(request_id, created, request, result)
        if (refusal := failure(result, last_error)) is not None:
            raise refusal
        return to_response(
            result, request, model=self.config.model, request_id=request_id, created=created
        )

    def keep(
        self, request_id: str, created: int, request: RunRequest, result: RLMResult | None
    ) -> None:
        """One line of what was asked and what became of it, as ``store`` allows."""
        sha256 = sha256_text(request.context)
        row: Json = {
            "id": request_id,
            "created": created,
            "question_sha256": sha256_text(request.question),
            "context_sha256": sha256,
            "context_chars": len(request.context),
            "stop_reason": result.stop_reason if result else "cancelled or failed",
        }
        if result is not None:
            total = result.root + result.sub
            row |= {"turns": result.turns, "calls": result.sub.calls, "seconds": result.seconds}
            row |= {"tokens": total.prompt_tokens + total.completion_tokens}
        self.say("loop " + " ".join(f"{key}={row[key]}" for key in row if "sha256" not in key))
        if self.kept is None:
            return
        if self.config.store == "full":
            row |= {"question": request.question, "answer": result.answer if result else None}
            file = self.kept / "contexts" / f"{sha256}.txt"
            if not file.exists():
                write_text_atomic(file, request.context)
        append_jsonl(self.kept / "requests.jsonl", row)

    async def models(self, request: Request) -> Response:
        """``GET /v1/models``: vLLM's, and the loop in the place of its adapter."""
        answer = await self.upstream.get("models")
        if answer.status_code != 200:
            return Response(answer.content, answer.status_code, media_type="application/json")
        listed = [model for model in answer.json()["data"] if model["id"] != self.config.model]
        if self.loop is not None:
            own = {"id": self.config.model, "object": "model", "created": 0, "owned_by": "rlm"}
            listed.insert(0, {**own, "root": self.loop.root.model, "sub": self.loop.sub.model})
        return JSONResponse({"object": "list", "data": listed})

    async def health(self, request: Request) -> Response:
        """``GET /health``: 200 when vLLM is well too."""
        answer = await self.upstream.get(self.upstream.base_url.join("/health"))
        well = answer.status_code == 200
        body = {"status": "ok" if well else "vllm is not well", "loop": self.loop is not None}
        return JSONResponse(body, 200 if well else 503)

    async def pass_through(self, request: Request, raw: bytes, *, streamed: bool) -> Response:
        """The same request to vLLM, and its answer as it is."""
        sent = self.upstream.build_request(
            "POST", "chat/completions", content=raw, headers={"Content-Type": "application/json"}
        )
        answer = await while_connected(request, self.upstream.send(sent, stream=streamed))
        if answer is None:
            return Response(status_code=GONE)
        kind = answer.headers.get("content-type")
        if not streamed:
            return Response(answer.content, answer.status_code, media_type=kind)
        return StreamingResponse(_relay(answer), answer.status_code, media_type=kind)

    async def read(self, request: Request) -> tuple[bytes, Json]:
        """The body, and the JSON object that it is.

        Raises:
            Refusal: 413 too large, 400 not a JSON object.
        """
        most = int(self.config.max_body_mib * 2**20)
        raw = bytearray()
        async for chunk in request.stream():
            raw += chunk
            if len(raw) > most:
                raise Refusal(
                    413,
                    f"the request is larger than {self.config.max_body_mib:g} MiB",
                    code="request_too_large",
                )
        try:
            parse = asyncio.to_thread(json.loads, raw) if len(raw) > _IN_THREAD else None
            body = await parse if parse is not None else json.loads(raw)
        except (ValueError, RecursionError) as error:
            raise Refusal(400, f"the request is not JSON: {error}", code="invalid_json") from None
        if not isinstance(body, dict):
            raise Refusal(400, "the request must be a JSON object", code="invalid_json")
        return bytes(raw), body


async def _relay(answer: httpx.Response) -> AsyncIterator[bytes]:
    try:
        async for chunk in answer.aiter_bytes():
            yield chunk
    finally:  # also when our client has gone away: vLLM then stops generating
        await answer.aclose()


async def _refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, Refusal)
    return JSONResponse(error.body, error.status, error.headers)


async def _failed(request: Request, error: Exception) -> Response:
    assert isinstance(error, RLMError)
    return await _refused(request, to_refusal(error))


async def _upstream_down(request: Request, error: Exception) -> Response:
    kind = type(error).__name__
    refusal = Refusal(
        503,
        f"vLLM does not answer ({kind}); it may be starting again",
        kind="upstream_error",
        code="model_unavailable",
        retry_after_s=10,
    )
    return await _refused(request, refusal)


async def _went_away(_: Request, __: Exception) -> Response:
    return Response(status_code=GONE)


def build_app(
    config: GatewayConfig,
    upstream_url: str,
    *,
    card: RLMCard | None,
    sub: str,
    make_lm: Callable[[str], LM],
    kept: Path | None = None,
    say: Callable[[str], None] = print,
    transport: httpx.AsyncBaseTransport | None = None,
) -> Starlette:
    """The whole endpoint.

    Args:
        upstream_url: vLLM's, ending in /v1.
        card: the root's; None: the loop is not offered.
        sub: served name of the model for sub-calls.
        make_lm: served name -> client; called once for the root and once for sub-calls.
        kept: folder for what ``store`` keeps; None: nothing.
        transport: another way to vLLM, for tests.
    """

    loop = None if card is None else Loop(make_lm(config.root), make_lm(sub), card)
    client = httpx.AsyncClient(
        base_url=upstream_url + "/", transport=transport, timeout=600, trust_env=False
    )
    gateway = Gateway(config, loop, client, kept, say)

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        async with client:
            yield
        if loop is not None:
            await loop.root.aclose()
            await loop.sub.aclose()

    return Starlette(
        routes=[
            Route("/v1/chat/completions", gateway.chat, methods=["POST"]),
            Route("/v1/models", gateway.models),
            Route("/health", gateway.health),
        ],
        exception_handlers={
            Refusal: _refused,
            RLMError: _failed,
            httpx.TransportError: _upstream_down,
            ClientDisconnect: _went_away,
        },
        lifespan=lifespan,
    )
