"""The client for any OpenAI-compatible server: vLLM, our own gateway, a teacher's endpoint.

What is left after the retries (``transport``) becomes one of the types in ``errors``, and says
whether what it used is known; so does a cancellation.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rlm_executor.errors import (
    CallCancelled,
    LMError,
    PromptTooLong,
    RequestRefused,
    ServerUnavailable,
    SpendingStopped,
)
from rlm_executor.lm import Completion, Message, Sampling, Usage
from rlm_executor.pacing import Attempts, Meter, Pace
from rlm_executor.streaming import STREAM_OPTIONS, StreamedReply
from rlm_executor.transport import NoAnswer, Refused, Transport

if TYPE_CHECKING:
    import aiohttp

_COUNTS_AT_ONCE = 8  # a count is cheap, but brings its prompt twice: as text, and back as ids
_COUNT_TIMEOUT_S = 60.0
_PER_MESSAGE = 16  # tokens that a chat template puts around one, at most


class OpenAILM:
    """A served model.

    Args:
        base_url: the server's address, ending in /v1.
        model: the name it serves.
        timeout_s: for one attempt, from sending to the whole reply.
        retries: attempts after the first one.
        concurrency: requests in flight at once; the others wait here. Fewer while the server
            answers 429 or 503.
        return_token_ids: ask vLLM for the ids it read and wrote (servers without it ignore it
            or refuse).
        stream: let replies come in pieces, so that a cancelled call knows what it had used and
            the server stops writing it. vLLM's; a server that does not know
            ``continuous_usage_stats`` may refuse, or tell the usage at the end only.
        meter: is asked before each attempt to send a request; several models may share it.

    Attributes:
        unknown_attempts: how many attempts the server may have worked on without our knowing
            how much: timeouts, broken connections, 5xx, replies without usage, cancelled calls.
            They are counted also where a later attempt succeeded; its usage is its own.
        faults: the attempts that failed, by what came instead of a reply: "HTTP 429", "timeout",
            "connection lost", "no connection", "not a completion".
    """

    def __init__(
        self,
        base_url: str,
        model: str,
        *,
        api_key: str = "EMPTY",
        timeout_s: float = 600,
        retries: int = 4,
        concurrency: int = 32,
        return_token_ids: bool = False,
        stream: bool = False,
        meter: Meter | None = None,
    ) -> None:
        self.base_url, self.model = base_url.rstrip("/"), model
        self._api_key, self._timeout_s, self._retries = api_key, timeout_s, retries
        self._concurrency, self._return_token_ids = concurrency, return_token_ids
        self._stream, self._meter = stream, meter
        self.unknown_attempts = 0
        self.faults: Counter[str] = Counter()
        self._counts = True  # until the server says that it cannot
        # Of an event loop each: every sync call (``complete``) has one of its own, and threads too.
        self._connections: dict[asyncio.AbstractEventLoop, _Connection] = {}

    async def chat(
        self, messages: list[Message], *, max_tokens: int, sampling: Sampling
    ) -> Completion:
        """One completion, as ``LM.chat`` says.

        Raises:
            LMError: any of its kinds; ``usage_unknown`` if any attempt's usage is.
            CancelledError: ``CallCancelled.of`` it tells what the call had used.
        """
        connection = self._connect()
        request: dict[str, Any] = {
            "model": self.model,
            "messages": messages,
            "max_tokens": max_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            **self._extra(sampling),
        }
        if sampling.seed is not None:
            request["seed"] = sampling.seed
        if self._stream:
            request |= {"stream": True, "stream_options": STREAM_OPTIONS}
        # No text has more tokens than bytes; a chat template adds a few to each message.
        size = sum(len(m["content"].encode("utf-8", "replace")) + _PER_MESSAGE for m in messages)
        attempts = Attempts(self._meter, Usage(size, max_tokens))

        async def read(response: aiohttp.ClientResponse) -> Completion:
            if self._stream:
                return await self._streamed(response, attempts)
            return self._completion(await response.read())

        try:
            async with connection.pace:
                url = f"{self.base_url}/chat/completions"
                completion = await connection.transport.post(url, request, read, attempts)
                attempts.usage = completion.usage
                attempts.ended(known=completion.usage.prompt_tokens > 0)
                connection.pace.succeeded()
                return completion
        except (Refused, NoAnswer) as fault:
            error = self._typed(fault)
            error.usage_unknown = attempts.unknown > 0
            raise error from fault
        except SpendingStopped as error:
            error.usage_unknown = attempts.unknown > 0
            raise
        except LMError as error:  # something came back, but no completion
            self.faults["not a completion"] += 1
            attempts.ended(known=False)
            error.usage_unknown = True
            raise
        except asyncio.CancelledError as error:
            raise error from CallCancelled(attempts.cancelled())
        finally:
            self.unknown_attempts += attempts.unknown

    async def count(self, messages: list[Message], sampling: Sampling) -> int | None:
        """Tokens of the prompt as the server makes it (vLLM's ``/tokenize``); None if it fails.

        A server without the route is not asked again.
        """
        connection = self._connect()
        body: dict[str, Any] = {
            "model": self.model,
            "messages": messages,
            "add_generation_prompt": True,
        }
        if sampling.chat_template_kwargs is not None:
            body["chat_template_kwargs"] = sampling.chat_template_kwargs

        async def read(response: aiohttp.ClientResponse) -> int:
            return int(json.loads(await response.read())["count"])

        url = self.base_url.removesuffix("/v1") + "/tokenize"
        try:
            async with connection.counting, asyncio.timeout(_COUNT_TIMEOUT_S):
                if not self._counts:
                    return None
                return await connection.transport.post(url, body, read, Attempts(), retries=1)
        except Refused as refused:
            if refused.status in (404, 405, 501):
                self._counts = False
        except (NoAnswer, TimeoutError, KeyError, TypeError, ValueError):
            pass  # the caller has an estimate of its own
        return None

    async def aclose(self) -> None:
        connection = self._connections.pop(asyncio.get_running_loop(), None)
        if connection is not None:
            await connection.transport.close()

    def _connect(self) -> _Connection:
        loop = asyncio.get_running_loop()
        connection = self._connections.get(loop)
        if connection is None:
            for over in [one for one in list(self._connections) if one.is_closed()]:
                self._connections.pop(over, None)
            pace = Pace(self._concurrency)
            transport = Transport(
                self.base_url, self._api_key, self._timeout_s, self._retries, pace, self.faults
            )
            counting = asyncio.Semaphore(_COUNTS_AT_ONCE)
            connection = self._connections[loop] = _Connection(transport, pace, counting)
        return connection

    async def _streamed(self, response: aiohttp.ClientResponse, attempts: Attempts) -> Completion:
        """The reply, piece by piece; leaving it in the middle tells the server to stop."""
        reply, kind = StreamedReply(), response.headers.get("content-type", "")
        try:
            if "event-stream" not in kind:
                raise ValueError(f"it has the type {kind!r}; does this server stream?")
            async for data in response.content.iter_any():
                reply.feed(data)
                attempts.usage = reply.usage
        except ValueError as error:
            raise ServerUnavailable(
                f"{self.model} at {self.base_url}: the reply is not a stream of completions "
                f"({error})"
            ) from error
        if reply.error is not None:
            code = reply.error.get("code")
            status = code if isinstance(code, int) else 500
            raise Refused(status, str(reply.error.get("message")))
        if not reply.done:
            raise NoAnswer("the stream broke off: it ended before the reply did")
        return reply.completion()

    def _extra(self, sampling: Sampling) -> dict[str, Any]:
        """Fields that vLLM knows and OpenAI does not, sent only when they say something."""
        extra: dict[str, Any] = {}
        if sampling.top_k and sampling.temperature > 0:
            extra["top_k"] = sampling.top_k
        if sampling.min_p and sampling.temperature > 0:
            extra["min_p"] = sampling.min_p
        if sampling.chat_template_kwargs is not None:
            extra["chat_template_kwargs"] = sampling.chat_template_kwargs
        if self._return_token_ids:
            extra["return_token_ids"] = True
        return extra

    def _completion(self, data: bytes) -> Completion:
        try:
            body = json.loads(data)
        except ValueError as error:
            raise ServerUnavailable(
                f"{self.model} at {self.base_url}: the reply is not JSON ({error})"
            ) from error
        try:
            choice, usage = body["choices"][0], body.get("usage") or {}
            prompt_ids, reply_ids = body.get("prompt_token_ids"), choice.get("token_ids")
            return Completion(
                text=choice["message"].get("content") or "",
                usage=Usage(
                    usage.get("prompt_tokens") or 0, usage.get("completion_tokens") or 0, calls=1
                ),
                finish_reason=choice.get("finish_reason") or "stop",
                prompt_token_ids=tuple(prompt_ids) if prompt_ids is not None else None,
                token_ids=tuple(reply_ids) if reply_ids is not None else None,
            )
        except (KeyError, IndexError, TypeError, AttributeError) as error:
            raise ServerUnavailable(
                f"{self.model} at {self.base_url}: the reply is not a chat completion "
                f"({json.dumps(body)[:200]})"
            ) from error

    def _typed(self, fault: Refused | NoAnswer) -> LMError:
        after = f"after {self._retries + 1} attempts"
        if isinstance(fault, NoAnswer):
            return ServerUnavailable(
                f"{self.model} at {self.base_url}: no answer {after} ({fault}); is the server up?"
            )
        status, detail = fault.status, fault.detail
        where = f"{self.model} at {self.base_url}: HTTP {status}: {detail}"
        if fault.passes:
            return ServerUnavailable(f"{where} ({after})")
        if status in (400, 413, 422) and _TOO_LONG.search(detail):
            window, asked = _WINDOW.search(detail), _ASKED.search(detail)
            return PromptTooLong(
                self.model,
                int(next(filter(None, asked.groups()))) if asked else None,
                int(window[1]) if window else None,
                "" if asked and window else detail[:300],
            )
        return RequestRefused(where)


@dataclass(frozen=True)
class _Connection:
    """What belongs to one event loop."""

    transport: Transport
    pace: Pace
    counting: asyncio.Semaphore


# Servers say in words only that a prompt does not fit; these are vLLM's (0.8 to 0.32) and OpenAI's.
_TOO_LONG = re.compile(r"context.length|maximum (?:model|input) length|too long", re.I)
_WINDOW = re.compile(r"(?:context|model|input) length (?:is |of )?\(?(\d+)")
_ASKED = re.compile(
    r"(\d+) (?:input )?tokens, which|length \(?(\d+)\)? (?:is longer|exceeds)"
    r"|requested (\d+) tokens|resulted in (\d+) tokens"
)
