"""The language model protocol: messages in, one completion or one typed error out.

``LM`` is all that the loop knows of a model. ``ScriptedLM`` is the public test double (and the
scripted teacher's root); ``CachedLM`` sends identical greedy calls once. The client for real
servers is in ``openai_lm``.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass as checked_dataclass

from rlm_executor.errors import CallCancelled

Message = dict[str, str]  # {"role": ..., "content": ...}


@checked_dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Sampling:
    """How tokens are drawn; defaults are Qwen3's without thinking. Greedy: temperature 0."""

    temperature: float = Field(default=0.7, ge=0)
    top_p: float = Field(default=0.8, gt=0, le=1)
    top_k: int = Field(default=20, ge=0)  # 0 = off, and then not sent (plain OpenAI refuses it)
    min_p: float = Field(default=0.0, ge=0, le=1)
    seed: int | None = None
    chat_template_kwargs: dict[str, Any] | None = None  # e.g. {"enable_thinking": False}


@dataclass(frozen=True)
class Usage:
    """Tokens and calls. A cached call counts its tokens as if sent, and is told in cached_calls."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    calls: int = 0
    cached_calls: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
            self.calls + other.calls,
            self.cached_calls + other.cached_calls,
        )


@dataclass(frozen=True)
class Completion:
    """What the server said; token ids where it gives them."""

    text: str
    usage: Usage = Usage()
    finish_reason: str = "stop"  # "stop" | "length" | whatever else the server says
    prompt_token_ids: tuple[int, ...] | None = None
    token_ids: tuple[int, ...] | None = None


class LM(Protocol):
    """One model behind one method."""

    @property
    def model(self) -> str:
        """The model's name, for journals and reports."""
        ...

    async def chat(
        self, messages: list[Message], *, max_tokens: int, sampling: Sampling
    ) -> Completion:
        """One completion.

        A reply that max_tokens ended comes back with finish_reason "length": what that means is
        the caller's to say.

        Raises:
            LMError: any of its kinds; never a string that looks like an answer.
        """
        ...

    async def aclose(self) -> None:
        """Give back connections; calling it twice is fine."""
        ...


@runtime_checkable
class Counts(Protocol):
    """A model whose server says how long a prompt is."""

    async def count(self, messages: list[Message], sampling: Sampling) -> int | None:
        """Tokens of the prompt as the server makes it; None where it does not tell."""
        ...


class ScriptedLM:
    """A model that is a function of its messages: the test double, and the scripted expert.

    ``reply`` gives a text or a whole ``Completion``, or raises an ``LMError``. Usage not given is
    counted as bytes/4, the project's measure of length without a tokenizer.
    """

    def __init__(
        self, reply: Callable[[list[Message]], str | Completion], model: str = "scripted"
    ) -> None:
        self.model = model
        self._reply = reply

    async def chat(
        self, messages: list[Message], *, max_tokens: int, sampling: Sampling
    ) -> Completion:
        await asyncio.sleep(0)  # like a real client: other runs get their turn
        said = self._reply(messages)
        completion = said if isinstance(said, Completion) else Completion(said)
        if completion.usage.calls:
            return completion
        read = sum(_tokens(message["content"]) for message in messages)
        return replace(completion, usage=Usage(read, _tokens(completion.text), calls=1))

    async def aclose(self) -> None:
        return None


def _tokens(text: str) -> int:
    return (len(text.encode("utf-8", "replace")) + 3) // 4


class CachedLM:
    """Sends identical greedy calls once: concurrent ones share a flight, later ones the memory.

    Only temperature 0 is remembered; sampled calls pass through. Failures are not remembered.
    """

    def __init__(self, inner: LM) -> None:
        self.inner = inner
        self._memory: dict[str, Completion] = {}
        self._flights: dict[tuple[int, str], _Flight] = {}

    @property
    def model(self) -> str:
        return self.inner.model

    async def chat(
        self, messages: list[Message], *, max_tokens: int, sampling: Sampling
    ) -> Completion:
        if sampling.temperature > 0:
            return await self.inner.chat(messages, max_tokens=max_tokens, sampling=sampling)
        key = _key(messages, max_tokens, sampling)
        if key in self._memory:
            return _as_cached(self._memory[key])
        # A task belongs to its event loop, and one object may serve several sync calls in turn.
        flight_key = (id(asyncio.get_running_loop()), key)
        flight = self._flights.get(flight_key)
        first = flight is None
        if flight is None:
            call = self.inner.chat(messages, max_tokens=max_tokens, sampling=sampling)
            flight = _Flight(asyncio.ensure_future(call))
            self._flights[flight_key] = flight
        flight.passengers += 1
        try:
            # Shielded: one caller that is cancelled must not take the others' reply away.
            completion = await asyncio.shield(flight.task)
        except asyncio.CancelledError as error:
            used: Usage | None = Usage()  # the others' to count, if there are others
            if flight.passengers == 1:
                flight.task.cancel()
                ended = await asyncio.gather(_told(flight.task), return_exceptions=True)
                used = ended[0] if isinstance(ended[0], Usage) else None
            raise error from CallCancelled(used)
        finally:
            flight.passengers -= 1
            if flight.task.done() or not flight.passengers:
                flight.task.cancel()
                if self._flights.get(flight_key) is flight:
                    del self._flights[flight_key]
        self._memory[key] = completion
        return completion if first else _as_cached(completion)

    async def count(self, messages: list[Message], sampling: Sampling) -> int | None:
        if isinstance(self.inner, Counts):
            return await self.inner.count(messages, sampling)
        return None

    async def aclose(self) -> None:
        await self.inner.aclose()


async def _told(call: asyncio.Future[Completion]) -> Usage | None:
    """What a call had used that is being cancelled."""
    try:
        return (await call).usage
    except asyncio.CancelledError as error:
        told = CallCancelled.of(error)
        return told.usage if told is not None else None


@dataclass
class _Flight:
    task: asyncio.Future[Completion]
    passengers: int = 0


def _key(messages: list[Message], max_tokens: int, sampling: Sampling) -> str:
    what = json.dumps([messages, max_tokens, repr(sampling)], sort_keys=True)
    return hashlib.sha256(what.encode()).hexdigest()


def _as_cached(completion: Completion) -> Completion:
    usage = replace(completion.usage, cached_calls=completion.usage.calls)
    return replace(completion, usage=usage)
