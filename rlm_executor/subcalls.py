"""Sub-calls of one run: what ``llm_query``, ``rlm_query`` and their batches do on this side.

Prompts of a batch go out together, identical ones once; room in the budget is reserved before
anything is sent; every failure becomes an error type that the code can see.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from rlm_executor.budget import Budget, Need, Tally
from rlm_executor.card import RLMCard
from rlm_executor.errors import (
    BudgetExhausted,
    CallCancelled,
    LMError,
    PromptTooLong,
    ReplyCutOff,
    ReplyEmpty,
    RequestRefused,
    RunFailed,
    SandboxError,
)
from rlm_executor.files import scrub, sha256_text
from rlm_executor.lm import LM, Completion, Counts, Message, Usage
from rlm_executor.parsing import strip_thinking
from rlm_executor.result import RLMResult
from rlm_executor.sandbox.host import Call, CallReply

_PROMPT_CHARS_KEPT = 4000  # in the journal; hash and length tell the rest
_MOST_CHARS_PER_TOKEN = 16  # no text is denser: beyond it a prompt is refused without sending
_LEAST_BYTES_PER_TOKEN = 2.5  # of nearly all text: below it the server need not be asked
_BYTES_PER_TOKEN = 3.0  # for what is reserved; settled by what the server counts


@dataclass(frozen=True)
class Leaves:
    """Who answers: the usual model, and others by name."""

    usual: LM
    named: Mapping[str, LM]

    def pick(self, name: str) -> LM:
        """The model that is asked for.

        Raises:
            RequestRefused: there is no such model.
        """
        if not name or name == self.usual.model:
            return self.usual
        if name not in self.named:
            known = ", ".join([self.usual.model, *self.named])
            raise RequestRefused(f"there is no model {name!r}; known: {known}")
        return self.named[name]


class SubCalls:
    """Answers prompts within the budget, and records each call.

    Args:
        leaves: who answers plain calls.
        card: how they are spoken to.
        budget: of the whole tree.
        tally: of everything below this run.
        record: takes an event.
        child: starts a run for one ``rlm_query``; None where runs may start none.
        node: of this run in its tree.
    """

    def __init__(
        self,
        leaves: Leaves,
        card: RLMCard,
        budget: Budget,
        tally: Tally,
        record: Callable[[dict[str, Any]], None],
        child: Callable[[Call, dict[str, Any]], Awaitable[RLMResult]] | None = None,
        node: str = "",
    ) -> None:
        self.cell = 0  # the cell that calls now, for the record
        self._leaves, self._card, self._budget, self._tally = leaves, card, budget, tally
        self._record, self._child, self._node = record, child, node
        self._asked: Counter[str] = Counter()  # the same batch may be asked again

    async def answer(self, call: Call) -> list[CallReply]:
        """One reply a prompt, in order; a failed one carries its error."""
        distinct = list(dict.fromkeys(call.prompts))
        try:
            lm = self._leaves.pick(call.model)
        except LMError as error:
            return [_failed(error)] * len(call.prompts)
        needs = {prompt: self._need(lm, call, prompt) for prompt in distinct}
        tokens, dollars = (sum(one) for one in zip(*map(_costs, needs.values()), strict=True))
        asked = sha256_text("\0".join([call.model, *distinct]))
        self._asked[asked] += 1
        what = f"{self._node} {asked} {self._asked[asked]}"
        try:
            self._budget.reserve(Need(len(needs), int(tokens), dollars), what)
        except BudgetExhausted as error:
            refused = {"type": "refused", "cell": self.cell, "what": what, "message": str(error)}
            self._record(refused)
            return [_failed(error)] * len(call.prompts)
        owed = dict(needs)
        calls = [asyncio.create_task(self._one(lm, call, prompt, owed)) for prompt in distinct]
        try:
            replies = dict(zip(distinct, await asyncio.gather(*calls), strict=True))
        finally:
            for one in calls:
                one.cancel()
            await asyncio.gather(*calls, return_exceptions=True)  # what they used is counted
            for need in owed.values():  # never begun
                self._budget.settle(need, lm.model, Usage())
        return [replies[prompt] for prompt in call.prompts]

    def close(self) -> None:
        """Start no more runs. Else a run and its calls would hold each other, and its context's
        process with them, until a collector comes by."""
        self._child = None

    def _deep(self, call: Call) -> bool:
        return call.recursive and self._child is not None

    def _need(self, lm: LM, call: Call, prompt: str) -> Need:
        if self._deep(call):  # the run that it starts takes its own room
            return Need(1)
        size = len(whole(call, prompt).encode("utf-8", "replace"))
        return self._budget.need(
            lm.model, 1, int(size / _BYTES_PER_TOKEN), self._card.limits.sub_max_tokens
        )

    async def _one(self, lm: LM, call: Call, prompt: str, owed: dict[str, Need]) -> CallReply:
        started, need = time.monotonic(), owed.pop(prompt)
        sent = whole(call, prompt)
        row: dict[str, Any] = {
            "type": "call",
            "cell": self.cell,
            "prompt": sent[:_PROMPT_CHARS_KEPT],
            "prompt_chars": len(sent),
            "prompt_sha256": sha256_text(sent),
        }
        if lm is not self._leaves.usual:
            row["model"] = lm.model
        used: Usage | None = Usage()
        try:
            if self._deep(call):
                used = Usage(calls=1)
                return await self._run(call, prompt, row)
            completion = await self._ask(lm, sent)
            used = completion.usage
            self._tally.add(used)
            row |= {
                "reply": completion.text,
                "finish_reason": completion.finish_reason,
                "usage": {**vars(completion.usage)},
            }
            return CallReply(self._judge(completion))
        except LMError as error:
            row |= {"error": type(error).__name__, "message": str(error)}
            if error.usage_unknown:
                used = None
                self._tally.add(None)
                row["usage"] = None
            return _failed(error)
        except asyncio.CancelledError as error:
            row |= {"error": "CallCancelled", "message": "its cell was stopped"}
            if not self._deep(call):
                told = CallCancelled.of(error)
                used = told.usage if told is not None else None
                self._tally.add(used)
                row["usage"] = None if used is None else {**vars(used)}
            raise
        finally:
            self._budget.settle(need, lm.model, used)
            row["seconds"] = round(time.monotonic() - started, 3)
            self._record(row)

    async def _run(self, call: Call, prompt: str, row: dict[str, Any]) -> CallReply:
        assert self._child is not None
        try:
            result = await self._child(replace(call, prompts=(prompt,)), row)
        except (SandboxError, OSError) as error:  # no process or descriptor left for it
            raise RunFailed(f"the recursive call could not start: {error}") from error
        row |= {"reply": result.answer, "stop_reason": result.stop_reason}
        if not result.answer:
            raise RunFailed(f"the recursive call ended without an answer ({result.stop_reason})")
        return CallReply(result.answer)

    async def _ask(self, lm: LM, prompt: str) -> Completion:
        window, limits = self._card.sub_window, self._card.limits
        messages: list[Message] = [{"role": "user", "content": prompt}]
        if len(prompt) > _MOST_CHARS_PER_TOKEN * window:
            detail = f"this one has {len(prompt)} characters"
            raise PromptTooLong(lm.model, None, window, detail)
        size = len(prompt.encode("utf-8", "replace"))
        room = window - limits.sub_max_tokens
        if size > _LEAST_BYTES_PER_TOKEN * room and isinstance(lm, Counts):
            tokens = await lm.count(messages, self._card.sub_sampling)
            if tokens is not None and tokens + limits.sub_max_tokens > window:
                detail = f"{tokens} of prompt and {limits.sub_max_tokens} for the reply"
                raise PromptTooLong(lm.model, tokens + limits.sub_max_tokens, window, detail)
        return await lm.chat(
            messages, max_tokens=limits.sub_max_tokens, sampling=self._card.sub_sampling
        )

    def _judge(self, completion: Completion) -> str:
        """The text that code may rely on, or the error that it must see instead."""
        text = strip_thinking(completion.text).strip()
        cut = completion.finish_reason == "length"
        if not text:
            why = "thinking used up its tokens" if cut else "the model said nothing"
            raise ReplyEmpty(f"the reply holds no text: {why}")
        if cut:
            raise ReplyCutOff(
                f"the reply was cut off at {self._card.limits.sub_max_tokens} tokens; ask for "
                f"less at once. It began: {text[:200]}"
            )
        return text


def _costs(need: Need) -> tuple[int, float]:
    return need.tokens, need.dollars


def whole(call: Call, prompt: str) -> str:
    """What a plain call is sent: a context of its own goes behind the prompt."""
    return prompt if call.context is None else f"{prompt}\n\n{call.context}"


def _failed(error: LMError) -> CallReply:
    """What the program is told: not where the model is served, for it may be trained on."""
    return CallReply(scrub(str(error)), type(error).__name__)
