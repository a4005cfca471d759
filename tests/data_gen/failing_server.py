"""A model server on loopback whose models are the scripted expert and leaf, and which often fails.

    async with FailingServer(faults=0.3) as server:
        server.base_url, server.told["429"], server.tokens

``faults``: share of the requests that fail, in one of ``KINDS``, which take turns.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import itertools
import random
from collections import Counter
from collections.abc import Callable
from typing import Any

from aiohttp import web

from data_gen.teacher import ExpertLM, leaf_reply

KINDS = (
    "429 and when",
    "429",
    "500",
    "cut",
    "empty",
    "endless",
    "not JSON",
    "other JSON",
    "silence",
)
SILENCE_S = 30.0


class FailingServer:
    """Serves ``teacher`` and ``leaf``.

    Args:
        faults: share of the requests that fail.
        seed: draws which.
        teacher: what the teacher says to its messages, instead of the scripted expert.

    Attributes:
        told: requests by what became of them, "ok" among them.
        tokens: (read, written) of all that was worked on, also where no whole reply came.
    """

    def __init__(
        self,
        faults: float,
        seed: int = 0,
        teacher: Callable[[list[dict[str, str]]], str] | None = None,
    ) -> None:
        self._faults, self._rng, self._teacher = faults, random.Random(seed), teacher
        self._kinds = itertools.cycle(KINDS)
        self.told: Counter[str] = Counter()
        self.tokens = [0, 0]

    async def __aenter__(self) -> FailingServer:
        app = web.Application()
        app.router.add_post("/v1/chat/completions", self._answer)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        port = self._runner.addresses[0][1]
        self.base_url = f"http://127.0.0.1:{port}/v1"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        fails = self._rng.random() < self._faults
        kind = next(self._kinds) if fails else "ok"
        self.told[kind] += 1
        text = self._reply(body)
        if kind.startswith("429"):
            headers = {"Retry-After": "0.2"} if kind == "429 and when" else {}
            return web.json_response(
                {"error": {"message": "slow down"}}, status=429, headers=headers
            )
        self.tokens[0] += sum(len(one["content"]) for one in body["messages"]) // 4
        self.tokens[1] += max(1, len(text) // 4)
        if kind == "500":
            return web.json_response({"error": {"message": "oops"}}, status=500)
        if kind == "cut":
            return await self._cut(request)
        if kind == "endless":
            return await self._endless(request)
        if kind == "not JSON":
            return web.Response(text="<html>bad gateway</html>", content_type="text/html")
        if kind == "other JSON":
            return web.json_response({"choices": []})
        if kind == "silence":
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(SILENCE_S)
        return web.json_response(completion(body, "" if kind == "empty" else text))

    def _reply(self, body: dict[str, Any]) -> str:
        messages = body["messages"]
        if body["model"] == "leaf":
            return leaf_reply(messages[-1]["content"])
        if self._teacher is not None:
            return self._teacher(messages)
        question = next(one["content"] for one in messages if one["role"] == "user")
        seed = int(hashlib.sha256(question.encode()).hexdigest()[:6], 16)
        return ExpertLM(seed)._turn(messages)

    async def _cut(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-length": "5000"})
        await response.prepare(request)
        await response.write(b'{"choices": [{"mess')
        assert request.transport is not None
        request.transport.close()
        return response

    async def _endless(self, request: web.Request) -> web.StreamResponse:
        """Text that goes on for ever, whatever the client allowed."""
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b'{"choices": [{"message": {"content": "')
        with contextlib.suppress(ConnectionError, asyncio.CancelledError):
            while True:
                await response.write(b"and so on, " * 100)
                await asyncio.sleep(0.02)
        return response


def completion(body: dict[str, Any], text: str) -> dict[str, Any]:
    """As OpenAI's API has it; tokens are counted as characters/4."""
    read = sum(len(one["content"]) for one in body["messages"]) // 4
    return {
        "object": "chat.completion",
        "model": body["model"],
        "choices": [
            {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
        ],
        "usage": {"prompt_tokens": read, "completion_tokens": max(1, len(text) // 4)},
    }
