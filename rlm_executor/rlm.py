"""The recursive loop: one question over one context, in as few lines as it can be said.

The context is a variable in a REPL, out of the root model's sight. The model writes code; code
looks at the context and calls language models on pieces of it (``llm_query``) or runs like this
one (``rlm_query``); what the code prints comes back as the next message; the run ends when the
code has set an answer. Every run ends in a result with a stop reason: at a limit the model gets
one landing turn, and what is known by then is returned. One budget covers the whole tree of calls.

    result = await RLM(root, sub, RLMCard()).run("How many birds are named?", Context.from_file(p))
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rlm_executor.budget import Budget, Limits, Price
from rlm_executor.card import RLMCard
from rlm_executor.context import Context
from rlm_executor.errors import ConfigError, InputError
from rlm_executor.journal import Event, Journal
from rlm_executor.lm import LM, Message
from rlm_executor.plain import Plain
from rlm_executor.result import RLMResult
from rlm_executor.run import Run
from rlm_executor.subcalls import Leaves

ROUTES = ("always_rlm", "auto", "plain")
Asked = Context | str | Path | list[Any] | dict[str, Any]


class RLM:
    """A root model, a model for sub-calls, and the card that says how they are spoken to.

    Args:
        root: writes the code.
        sub: answers ``llm_query``.
        card: dialect, sampling, limits, windows.
        limits: replace the card's.
        journal: the file of one run's events.
        prelude: a worked example, put after the system message.
        task: kept in the journal's first line.
        on_event: is told each event.
        isolation: what holds the code (``sandbox.tiers``).
        preload: what code may import beyond the standard library ("numpy").
        models: more models, which code may ask by name (``llm_query(prompt, model=...)``).
        deeper: root and sub of the runs that runs start, by depth; the last pair, or else
            ``root`` and ``sub``, serve all that are deeper.
        prices: by model name; ``limits.max_dollars`` needs them.
        route: "always_rlm"; "plain", one plain call of ``sub`` without the loop; "auto", that for
            what fits into its window, where it is better and cheaper: ``answer_source`` tells.
    """

    def __init__(
        self,
        root: LM,
        sub: LM,
        card: RLMCard,
        *,
        limits: Limits | None = None,
        journal: Path | None = None,
        prelude: list[Message] | None = None,
        task: dict[str, Any] | None = None,
        on_event: Callable[[Event], None] | None = None,
        isolation: str = "sealed",
        preload: tuple[str, ...] = (),
        models: Mapping[str, LM] | None = None,
        deeper: Sequence[tuple[LM, LM]] = (),
        prices: Mapping[str, Price] | None = None,
        route: str = "always_rlm",
    ) -> None:
        self.isolation, self.preload = isolation, preload
        self.root, self.sub = root, sub
        self.card = card.model_copy(update={"limits": limits}) if limits is not None else card
        self.journal, self.prelude = journal, list(prelude or ())
        self.task, self.on_event = task, on_event
        self.models, self.deeper = dict(models or {}), [(root, sub), *deeper]
        self.prices, self.route = prices, route
        if route not in ROUTES:
            raise ConfigError("route", f"is {route!r}", f"use one of {', '.join(ROUTES)}")
        if self.card.limits.max_dollars is not None:
            asked = {lm.model for pair in self.deeper for lm in pair}
            asked |= {lm.model for lm in self.models.values()}
            if unpriced := sorted(asked - set(prices or {})):
                raise ConfigError(
                    "limits.max_dollars",
                    f"needs the price of {', '.join(unpriced)}",
                    "give prices={name: Price(prompt=..., completion=...)}, in dollars a million",
                )

    async def run(self, question: str, context: Asked) -> RLMResult:
        """Answer ``question`` about ``context``.

        A failing model, a limit or wrong code ends in a result, not in an exception.

        Raises:
            InputError: the context is missing, empty or not text.
            SandboxError: no REPL process can be had.
        """
        return await self._run(question, context, self.on_event)

    def complete(self, question: str, context: Asked) -> RLMResult:
        """``run``, for code that is not async; gives the models' connections back."""

        async def run() -> RLMResult:
            try:
                return await self.run(question, context)
            finally:
                await self.aclose()

        return asyncio.run(run())

    async def aclose(self) -> None:
        """Give back the models' connections; they are made anew when they are needed."""
        for lm in {id(lm): lm for pair in self.deeper for lm in pair}.values():
            await lm.aclose()
        for lm in self.models.values():
            await lm.aclose()

    async def stream(
        self, question: str, context: Asked
    ) -> AsyncGenerator[Event | RLMResult, None]:
        """``run``, event by event; the last item is the result.

        Leaving it early ends the run: at once with ``contextlib.aclosing``, else when the
        generator is collected.
        """
        events: asyncio.Queue[Event | None] = asyncio.Queue()

        def tell(event: Event) -> None:
            if self.on_event is not None:
                self.on_event(event)
            events.put_nowait(event)

        task = asyncio.ensure_future(self._run(question, context, tell))
        task.add_done_callback(lambda _: events.put_nowait(None))
        try:
            while (event := await events.get()) is not None:
                yield event
            yield task.result()
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _run(
        self, question: str, context: Asked, on_event: Callable[[Event], None] | None
    ) -> RLMResult:
        context = Context.of(context)
        if not context.bytes:
            raise InputError(f"context {context.label} is empty; give what is to be asked about")
        journal = Journal(self.journal, on_event)
        try:
            if self.route != "always_rlm":
                plain = Plain(self, question, context, journal)
                if self.route == "plain" or await plain.fits():
                    result = await plain.answer()
                    if self.route == "plain" or result.stop_reason != "root_window":
                        return result
                    journal.restart()  # it did not fit after all
            return await Run(self, question, context, journal, self.budget()).whole()
        finally:
            journal.close()

    def budget(self) -> Budget:
        """The budget of one tree."""
        return Budget(self.card.limits, self.prices)

    def facts(self) -> dict[str, Any]:
        """What else a journal has to tell for a replay, where it is not as usual."""
        facts = {
            "named": {name: lm.model for name, lm in self.models.items()},
            "prices": {name: asdict(price) for name, price in (self.prices or {}).items()},
            "isolation": self.isolation if self.isolation != "sealed" else "",
            "preload": list(self.preload),
        }
        return {key: fact for key, fact in facts.items() if fact}

    def leaves(self, sub: LM) -> Leaves:
        """Who answers the plain calls of a run whose sub-model this is."""
        return Leaves(sub, self.models)

    def pair(
        self, depth: int, prompt: str, model: str = "", above: LM | None = None
    ) -> tuple[LM, LM]:
        """Root and sub of a run.

        Args:
            depth: its own.
            prompt: what it was started for, below the top.
            model: the root that was asked for by name, if any.
            above: root of the run that started it.
        """
        root, sub = self.deeper[min(depth, len(self.deeper) - 1)]
        return self.models.get(model, root), sub
