"""The way without the loop: one plain call, for what fits into a window."""

from __future__ import annotations

import asyncio
import time
from dataclasses import asdict
from typing import TYPE_CHECKING

from rlm_executor.budget import Tally
from rlm_executor.context import Context
from rlm_executor.journal import Journal
from rlm_executor.lm import Counts
from rlm_executor.result import RLMResult
from rlm_executor.sandbox.host import Call, CallReply
from rlm_executor.subcalls import SubCalls

if TYPE_CHECKING:
    from rlm_executor.rlm import RLM

_LEAST_BYTES_PER_TOKEN = 2.5  # of nearly all text: the measure where the server does not count
_MOST_BYTES_PER_TOKEN = 8  # beyond it counting is a waste
_SPARE = 64  # tokens that a chat template puts around a message
_STOPS = {"": "answered", "PromptTooLong": "root_window"}  # by the call's error; else "root_error"


class Plain:
    """One question and its whole context in one prompt to the sub-model."""

    def __init__(self, rlm: RLM, question: str, context: Context, journal: Journal) -> None:
        self._rlm, self._question, self._context = rlm, question, context
        self._journal = journal

    async def fits(self) -> bool:
        """Whether prompt and reply fit into its window."""
        card = self._rlm.card
        room = card.sub_window - card.limits.sub_max_tokens - _SPARE
        size = self._context.bytes + len(self._question.encode("utf-8", "replace"))
        if size <= room:  # no token is shorter than a byte
            return True
        if size > _MOST_BYTES_PER_TOKEN * room:
            return False
        if not isinstance(self._rlm.sub, Counts):
            return size <= _LEAST_BYTES_PER_TOKEN * room
        messages = [{"role": "user", "content": await self._prompt()}]
        tokens = await self._rlm.sub.count(messages, card.sub_sampling)
        if tokens is None:
            return size <= _LEAST_BYTES_PER_TOKEN * room
        return tokens <= room + _SPARE

    async def answer(self) -> RLMResult:
        """Ask.

        Raises:
            InputError: the context's files cannot be read.
        """
        rlm, started = self._rlm, time.monotonic()
        prompt, tally, budget = await self._prompt(), Tally(), self._rlm.budget()
        self._journal.run(
            route="plain",
            question=self._question,
            context={
                "type": "str",
                "chars": len(prompt),
                "sha256": await asyncio.to_thread(self._context.sha256),
            },
            task=rlm.task,
            models=[rlm.root.model, rlm.sub.model],
            prelude=[],
            card=rlm.card.model_dump(mode="json"),
            **rlm.facts(),
        )
        calls = SubCalls(rlm.leaves(rlm.sub), rlm.card, budget, tally, self._journal.record)
        reply, stop = CallReply("", "CallCancelled"), "cancelled"
        try:
            async with asyncio.timeout(budget.seconds_left()):
                (reply,) = await calls.answer(Call((prompt,)))
            stop = budget.refused or _STOPS.get(reply.error, "root_error")
        except TimeoutError:
            stop = "timeout"
        finally:
            result = RLMResult(
                "" if reply.error else reply.text,
                stop,
                "none" if reply.error else "plain",
                turns=0,
                error_cells=0,
                root=Tally().usage,
                sub=tally.usage,
                unknown_calls=tally.unknown,
                dollars=round(budget.used_dollars, 6) if budget.prices else None,
                seconds=round(time.monotonic() - started, 3),
                posture="",
                journal=self._journal.path,
            )
            self._journal.end(asdict(result))
        return result

    async def _prompt(self) -> str:
        text = await asyncio.to_thread(self._context.text)
        return f"{text}\n\n{self._question}"
