"""The client for any OpenAI-compatible server: vLLM, our own gateway, a teacher's endpoint.

Retries (429 with Retry-After, 5xx, refused or broken connections) are the ``openai`` client's;
what is left after them becomes one of the types in ``errors``.
"""

from __future__ import annotations

import asyncio
import json
import re
from typing import TYPE_CHECKING, Any

from rlm_executor.errors import LMError, PromptTooLong, RequestRefused, ServerUnavailable
from rlm_executor.lm import Completion, Message, Sampling, Usage

if TYPE_CHECKING:
    import openai


class OpenAILM:
    """A served model.

    Args:
        base_url: the server's address, ending in /v1.
        model: the name it serves.
        timeout_s: for one attempt, from sending to the whole reply.
        retries: attempts after the first one.
        concurrency: requests in flight at once; the others wait here.
        return_token_ids: ask vLLM for the ids it read and wrote (servers without it ignore it
            or refuse).
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
    ) -> None:
        self.base_url, self.model = base_url.rstrip("/"), model
        self._api_key, self._timeout_s, self._retries = api_key, timeout_s, retries
        self._concurrency, self._return_token_ids = concurrency, return_token_ids
        self._loop: asyncio.AbstractEventLoop | None = None

    async def chat(
        self, messages: list[Message], *, max_tokens: int, sampling: Sampling
    ) -> Completion:
        import openai

        client, slots = self._connection()
        request: dict[str, Any] = {
            "model": self.model,
            "messages": messages,
            "max_tokens": max_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "extra_body": self._extra(sampling),
        }
        if sampling.seed is not None:
            request["seed"] = sampling.seed
        async with slots:
            try:
                # Raw: building pydantic models of a reply costs more than the rest of the call.
                raw = await client.chat.completions.with_raw_response.create(**request)
                body = json.loads(raw.http_response.content)
            except openai.APIStatusError as error:
                raise self._typed(error) from error
            except openai.APIConnectionError as error:  # its subclass is the timeout
                cause = error.__cause__ or error
                raise ServerUnavailable(
                    f"{self.model} at {self.base_url}: no answer after {self._retries + 1} "
                    f"attempts ({type(cause).__name__}: {cause}); is the server up?"
                ) from error
            except (ValueError, openai.OpenAIError) as error:
                raise ServerUnavailable(
                    f"{self.model} at {self.base_url}: the reply is not JSON ({error})"
                ) from error
        return self._completion(body)

    async def aclose(self) -> None:
        if self._loop is not None and self._loop is asyncio.get_running_loop():
            await self._client.close()
        self._loop = None

    def _connection(self) -> tuple[openai.AsyncOpenAI, asyncio.Semaphore]:
        # Connections belong to an event loop; each sync call (``complete``) runs a loop of its own.
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            import openai

            self._client = openai.AsyncOpenAI(
                base_url=self.base_url,
                api_key=self._api_key,
                timeout=self._timeout_s,
                max_retries=self._retries,
            )
            self._slots = asyncio.Semaphore(self._concurrency)
            self._loop = loop
        return self._client, self._slots

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

    def _completion(self, body: Any) -> Completion:
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

    def _typed(self, error: openai.APIStatusError) -> LMError:
        detail = _message_of(error)
        where = f"{self.model} at {self.base_url}: HTTP {error.status_code}: {detail}"
        if error.status_code in (408, 409, 429) or error.status_code >= 500:
            return ServerUnavailable(f"{where} (after {self._retries + 1} attempts)")
        if error.status_code in (400, 413, 422) and _TOO_LONG.search(detail):
            window, asked = _WINDOW.search(detail), _ASKED.search(detail)
            return PromptTooLong(
                self.model,
                int(next(filter(None, asked.groups()))) if asked else None,
                int(window[1]) if window else None,
                "" if asked and window else detail[:300],
            )
        return RequestRefused(where)


# Servers say in words only that a prompt does not fit; these are vLLM's (0.8 to 0.32) and OpenAI's.
_TOO_LONG = re.compile(r"context.length|maximum (?:model|input) length|too long", re.I)
_WINDOW = re.compile(r"(?:context|model|input) length (?:is |of )?\(?(\d+)")
_ASKED = re.compile(
    r"(\d+) (?:input )?tokens, which|length \(?(\d+)\)? (?:is longer|exceeds)"
    r"|requested (\d+) tokens|resulted in (\d+) tokens"
)


def _message_of(error: openai.APIStatusError) -> str:
    body = error.body
    if isinstance(body, dict):
        inner = body.get("error", body)
        if isinstance(inner, dict):
            return str(inner.get("message", inner))[:1000]
        return str(inner)[:1000]
    return (error.response.text or error.message)[:1000]
