"""Sub-calls of one run: what ``llm_query`` and ``llm_query_batched`` do on this side.

Prompts of a batch go out together, identical ones once; room in the budget is reserved before
anything is sent; every failure becomes an error type that the code can see.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from rlm_executor.budget import Budget
from rlm_executor.card import RLMCard
from rlm_executor.errors import BudgetExhausted, LMError, PromptTooLong, ReplyCutOff, ReplyEmpty
from rlm_executor.files import sha256_text
from rlm_executor.lm import LM, Completion, Usage
from rlm_executor.parsing import strip_thinking
from rlm_executor.sandbox.host import CallReply

_PROMPT_CHARS_KEPT = 4000  # in the journal; hash and length tell the rest
_MOST_CHARS_PER_TOKEN = 16  # no text is denser: beyond it a prompt is refused without sending


class SubCalls:
    """Answers prompts with the sub-model, within the budget, and records each call."""

    def __init__(
        self, lm: LM, card: RLMCard, budget: Budget, record: Callable[[dict[str, Any]], None]
    ) -> None:
        self.usage = Usage()
        self.cell = 0  # the cell that calls now, for the record
        self._lm, self._card, self._budget, self._record = lm, card, budget, record

    async def answer(self, prompts: list[str]) -> list[CallReply]:
        """One reply a prompt, in order; a failed one carries its error."""
        distinct = list(dict.fromkeys(prompts))
        try:
            self._budget.reserve(len(distinct))
        except BudgetExhausted as error:
            return [_failed(error)] * len(prompts)
        calls = [asyncio.create_task(self._one(prompt)) for prompt in distinct]
        try:
            replies = dict(zip(distinct, await asyncio.gather(*calls), strict=True))
        finally:
            for call in calls:
                call.cancel()
        return [replies[prompt] for prompt in prompts]

    async def _one(self, prompt: str) -> CallReply:
        started = time.monotonic()
        row: dict[str, Any] = {
            "type": "call",
            "cell": self.cell,
            "prompt": prompt[:_PROMPT_CHARS_KEPT],
            "prompt_chars": len(prompt),
            "prompt_sha256": sha256_text(prompt),
        }
        try:
            completion = await self._ask(prompt)
            self.usage += completion.usage
            row |= {
                "reply": completion.text,
                "finish_reason": completion.finish_reason,
                "usage": asdict(completion.usage),
            }
            return CallReply(self._judge(completion))
        except LMError as error:
            if "usage" not in row:  # nothing came back, nothing is owed
                self._budget.give_back(1)
            row |= {"error": type(error).__name__, "message": str(error)}
            return _failed(error)
        except asyncio.CancelledError:
            self._budget.give_back(1)
            row |= {"error": "CallCancelled", "message": "what it used is not known"}
            raise
        finally:
            row["seconds"] = round(time.monotonic() - started, 3)
            self._record(row)

    async def _ask(self, prompt: str) -> Completion:
        window = self._card.sub_window
        if len(prompt) > _MOST_CHARS_PER_TOKEN * window:
            detail = f"this one has {len(prompt)} characters"
            raise PromptTooLong(self._lm.model, None, window, detail)
        return await self._lm.chat(
            [{"role": "user", "content": prompt}],
            max_tokens=self._card.limits.sub_max_tokens,
            sampling=self._card.sub_sampling,
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


def _failed(error: LMError) -> CallReply:
    return CallReply(str(error), type(error).__name__)
