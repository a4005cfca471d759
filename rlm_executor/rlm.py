"""The recursive loop: one question over one context, in as few lines as it can be said.

The context is a variable in a REPL, out of the root model's sight. The model writes code; code
looks at the context and calls language models on pieces of it (``llm_query``); what the code
prints comes back as the next message; the run ends when the code has set an answer. Every run
ends in a result with a stop reason: at a limit the model gets one landing turn, and what is known
by then is returned. One budget covers the whole tree of calls.

    result = await RLM(root, sub, RLMCard()).run("How many birds are named?", Context.from_file(p))
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rlm_executor.budget import Budget, Limits
from rlm_executor.card import RLMCard
from rlm_executor.context import Context
from rlm_executor.errors import LMError, PromptTooLong
from rlm_executor.journal import Journal
from rlm_executor.lm import LM, Message, Usage
from rlm_executor.parsing import Reply, parse_reply
from rlm_executor.sandbox.host import Cell, Repl
from rlm_executor.subcalls import SubCalls
from rlm_executor.window import Window

LANDING_SECONDS = 120.0  # the landing turn's own time, after all limits
_STOPS = {PromptTooLong: "root_window", TimeoutError: "timeout"}  # else "root_error"


@dataclass(frozen=True)
class RLMResult:
    """How a run ended."""

    answer: str
    stop_reason: str  # answered | max_turns | max_calls | timeout | root_window | root_error
    answer_source: str  # answer (set ready) | variable (set, not ready) | landing | text | none
    turns: int  # root replies, the landing turn among them
    error_cells: int
    root: Usage
    sub: Usage
    seconds: float
    posture: str  # what held the code, as name=value words
    journal: Path | None


class RLM:
    """A root model, a model for sub-calls, and the card that says how they are spoken to.

    ``limits`` replace the card's; ``prelude`` is a worked example, put after the system message;
    ``journal`` is the file of one run's events, each of which ``on_event`` gets too; ``task`` is
    kept in its first line; ``isolation`` says what holds the code (``sandbox.tiers``),
    ``preload`` what it may import beyond the standard library ("numpy").
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
        on_event: Callable[[dict[str, Any]], None] | None = None,
        isolation: str = "sealed",
        preload: tuple[str, ...] = (),
    ) -> None:
        self.isolation, self.preload = isolation, preload
        self.root, self.sub = root, sub
        self.card = card.model_copy(update={"limits": limits}) if limits is not None else card
        self.journal, self.prelude = journal, list(prelude or ())
        self.task, self.on_event = task, on_event

    async def run(self, question: str, context: Context | str | Path) -> RLMResult:
        """Answer ``question`` about ``context``.

        A failing model, a limit or wrong code ends in a result, not in an exception.

        Raises:
            InputError: the context is missing or not text.
            SandboxError: no REPL process can be had.
        """
        run = Run(self, question, Context.of(context))
        try:
            async with run.repl:
                await run.open()
                while (stop := run.limit() or await run.turn()) is None:
                    pass
                await run.land(stop)
                return run.end(stop)
        except asyncio.CancelledError:
            run.end("cancelled")
            raise
        finally:
            run.journal.close()

    def complete(self, question: str, context: Context | str | Path) -> RLMResult:
        """``run``, for code that is not async."""
        return asyncio.run(self.run(question, context))

    def budget(self) -> Budget:
        """The budget of one run."""
        return Budget(self.card.limits.max_calls, self.card.limits.max_seconds)


class Run:
    """One run in progress: ``open``, ``turn`` after ``turn``, ``land`` if it must, ``end``."""

    def __init__(self, rlm: RLM, question: str, context: Context) -> None:
        self.rlm, self.limits, self.dialect = rlm, rlm.card.limits, rlm.card.dialect
        self.question, self.context = question, context
        self.journal = Journal(rlm.journal, rlm.on_event)
        self.budget = rlm.budget()
        self.subcalls = SubCalls(rlm.sub, rlm.card, self.budget, self.journal.record)
        self.repl = Repl(
            context,
            self.subcalls.answer,
            cell_timeout_s=self.limits.cell_timeout_s,
            keep_chars=self.limits.observation_chars,
            isolation=rlm.isolation,
            preload=rlm.preload,
        )
        self.window = Window(rlm.root.model, rlm.card.root_window, self.limits.max_tokens_per_turn)
        self.opening: list[Message] = []
        self.messages: list[Message] = []
        self.answer, self.source = "", "none"
        self.turns = self.cells = self.error_cells = 0
        self.usage = Usage()
        self.started = time.monotonic()

    async def open(self) -> None:
        """The first messages: the question, and of the context only its type and size."""
        metadata = self.repl.metadata
        self.opening = self.dialect.opening(self.question, metadata, self.rlm.prelude)
        self.messages = list(self.opening)
        sha256 = await asyncio.to_thread(self.context.sha256)
        self.journal.run(
            question=self.question,
            context={**asdict(metadata), "sha256": sha256},
            task=self.rlm.task,
            models=[self.rlm.root.model, self.rlm.sub.model],
            prelude=self.rlm.prelude,
            card=self.rlm.card.model_dump(mode="json"),
        )

    def limit(self) -> str | None:
        """The limit that is reached, if any."""
        if self.budget.refused:
            return "max_calls"
        if not self.budget.seconds_left():
            return "timeout"
        return "max_turns" if self.turns >= self.limits.max_turns else None

    async def turn(self) -> str | None:
        """Ask, run, observe; a stop reason if this ends the run."""
        try:
            reply = await self.ask(self.messages)
        except (LMError, TimeoutError) as error:
            return _STOPS.get(type(error), "root_error")
        cells = await self.execute(reply)
        if cells and cells[-1].final:
            self.source = "answer"
            return "answered"
        self.messages.append(self.dialect.observe(reply, cells, self.limits))
        return None

    async def land(self, stop: str) -> None:
        """At a limit: one last turn that shows the REPL's state; then the best that is known."""
        if stop == "answered":
            return
        known = self.answer
        self.source = "variable" if known else "none"
        if stop == "root_error":
            return
        state = (await self.repl.state())[: self.limits.observation_chars]
        # A window that is full has room again without the turns: the state is what they led to.
        before = self.opening if stop == "root_window" else self.messages
        messages = self.dialect.land(before, stop, state)
        self.budget.extend(LANDING_SECONDS)
        try:
            reply = await self.ask(messages, landing=stop)
        except (LMError, TimeoutError):
            return
        await self.execute(reply)
        if self.answer and self.answer != known:
            self.source = "landing"
        elif not self.answer and reply.prose:
            self.answer, self.source = reply.prose, "text"

    async def ask(self, messages: list[Message], *, landing: str = "") -> Reply:
        """One root reply to ``messages``; once sent, it is recorded whatever becomes of it."""
        room = self.window.room(messages)
        event, asked = self.journal.asked(self.turns, messages, landing), time.monotonic()
        try:
            async with asyncio.timeout(self.budget.seconds_left()):
                completion = await self.rlm.root.chat(
                    messages, max_tokens=room, sampling=self.rlm.card.sampling
                )
        except (LMError, TimeoutError) as error:
            self.journal.failed(event, error)
            raise
        reply = parse_reply(
            completion.text,
            self.dialect.fences,
            finish_reason=completion.finish_reason,
            observation_mark=self.dialect.observation_mark,
        )
        self.journal.replied(event, completion, len(reply.blocks), time.monotonic() - asked)
        self.messages = [*messages, {"role": "assistant", "content": completion.text}]
        self.window.saw(messages, completion.text, completion.usage)
        self.usage += completion.usage
        self.turns += 1
        return reply

    async def execute(self, reply: Reply) -> list[Cell]:
        """Run the reply's blocks in order, up to the first error or answer."""
        cells: list[Cell] = []
        for code in reply.blocks:
            self.cells += 1
            self.subcalls.cell = self.cells
            cell = await self.repl.execute(code, deadline=self.budget.deadline())
            self.journal.cell(self.turns - 1, self.cells, code, cell)
            cells.append(cell)
            if cell.status != "died":  # what was answered before is not lost
                self.answer = cell.answer
            self.error_cells += cell.status != "ok"
            if cell.status != "ok" or cell.final:
                break
        return cells

    def end(self, stop: str) -> RLMResult:
        """The result, recorded."""
        seconds = time.monotonic() - self.started
        result = RLMResult(
            self.answer,
            stop,
            self.source,
            turns=self.turns,
            error_cells=self.error_cells,
            root=self.usage,
            sub=self.subcalls.usage,
            seconds=round(seconds, 3),
            posture=self.repl.posture,
            journal=self.journal.path,
        )
        self.journal.end(asdict(result))
        return result
