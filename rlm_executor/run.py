"""One run in progress: ``open``, ``turn`` after ``turn``, ``land`` if it must, ``end``."""

from __future__ import annotations

import asyncio
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rlm_executor.budget import Budget, Need, Tally
from rlm_executor.context import Context
from rlm_executor.errors import BudgetExhausted, CallCancelled, LMError, PromptTooLong
from rlm_executor.files import sha256_text
from rlm_executor.journal import Journal
from rlm_executor.lm import LM, Message, Usage
from rlm_executor.parsing import Reply
from rlm_executor.result import RLMResult
from rlm_executor.sandbox.host import Call, Cell, Repl
from rlm_executor.subcalls import SubCalls, whole
from rlm_executor.window import Window

if TYPE_CHECKING:
    from rlm_executor.rlm import RLM

LANDING_SECONDS = 120.0  # the landing turn's own time, after all limits
_STOPS = {PromptTooLong: "root_window", TimeoutError: "timeout"}  # else "root_error"


class Run:
    """One question over one context, at one depth of the tree.

    Args:
        rlm: models, card, limits.
        question: "" if it is in the context itself.
        context: what the code works on.
        journal: this run's, or its part of its parent's.
        budget: of the whole tree.
        depth: 0 at the top.
        above: the parent's tally.
        prompt: what started it, below the top.
        model: the root that was asked for by name, if any.
        parent: root of the run that started it.
    """

    def __init__(
        self,
        rlm: RLM,
        question: str,
        context: Context,
        journal: Journal,
        budget: Budget,
        *,
        depth: int = 0,
        above: Tally | None = None,
        prompt: str = "",
        model: str = "",
        parent: LM | None = None,
    ) -> None:
        self.rlm, self.limits, self.dialect = rlm, rlm.card.limits, rlm.card.dialect
        self.question, self.context = question, context
        self.journal, self.budget, self.depth = journal, budget, depth
        self.prompt = prompt
        self.root, self.sub = rlm.pair(depth, prompt, model, parent)
        self.used, self.below = Tally(above), Tally(above)
        self.deep = depth + 1 < self.limits.max_depth
        self.subcalls = SubCalls(
            rlm.leaves(self.sub),
            rlm.card,
            budget,
            self.below,
            journal.record,
            self.child if self.deep else None,
            journal.node,
        )
        self.repl = Repl(
            context,
            self.subcalls.answer,
            cell_timeout_s=self.limits.cell_timeout_s,
            keep_chars=self.dialect.kept_chars(self.limits),
            isolation=rlm.isolation,
            preload=rlm.preload,
            finish=self.dialect.finish,
            numbered=self.dialect.numbered,
            extras=self.dialect.extras,
        )
        self.window = Window(self.root.model, rlm.card.root_window, self.limits.max_tokens_per_turn)
        self.opening: list[Message] = []
        self.messages: list[Message] = []
        self.answer, self.source = "", "none"
        self.doubted = False  # an answer beside unread output was turned down once
        self.turns = self.cells = self.error_cells = 0
        self.started = time.monotonic()

    async def whole(self) -> RLMResult:
        """From its first message to its result."""
        # Beside the start of the REPL: of a long text both take a while.
        hashed = asyncio.ensure_future(asyncio.to_thread(self.context.sha256))
        try:
            async with self.repl:
                await self.open(await hashed)
                while (stop := self.limit() or await self.turn()) is None:
                    pass
                await self.land(stop)
                return self.end(stop)
        except asyncio.CancelledError:
            if self.opening:  # else nothing is recorded that could have an end
                self.end("cancelled")
            raise
        finally:
            hashed.cancel()
            self.subcalls.close()

    async def open(self, sha256: str) -> None:
        """The first messages: the question, and of the context only what it is and how large."""
        metadata = self.repl.metadata
        opening = self.dialect.opening(
            self.question, metadata, [] if self.depth else self.rlm.prelude, deep=self.deep
        )
        self.journal.run(
            question=self.question,
            context={**asdict(metadata), "sha256": sha256},
            task=self.rlm.task,
            models=[self.root.model, self.sub.model],
            prelude=self.rlm.prelude,
            card=self.rlm.card.model_dump(mode="json"),
            **({"started_by": sha256_text(self.prompt)} if self.depth else self.rlm.facts()),
        )
        self.opening, self.messages = opening, list(opening)

    def limit(self) -> str | None:
        """The limit that is reached, if any."""
        if refused := self.budget.stop(self.root):
            return refused
        if not self.budget.seconds_left(self.depth):
            return "timeout"
        return "max_turns" if self.turns >= self.limits.max_turns else None

    async def turn(self) -> str | None:
        """Ask, run, observe; a stop reason if this ends the run."""
        try:
            reply = await self.ask(
                *self.dialect.ask(self.messages, self.question, self.turns, self.limits)
            )
        except BudgetExhausted:
            return self.budget.refused
        except (LMError, TimeoutError) as error:
            return _STOPS.get(type(error), "root_error")
        cells = await self.execute(reply)
        if cells and cells[-1].final:
            self.source = "answer" if self.dialect.finish == "answer" else "final"
            return "answered"
        doubted = False
        if reply.final and not reply.unclosed:
            if await self.conclude(reply, cells):
                return "answered"
            doubted = True
        told = None
        if not self.depth:  # below, what is left may change while it is told
            told = {
                "turn": self.turns,
                "max_turns": self.limits.max_turns,
                "calls_left": self.limits.max_calls - self.budget.used_calls,
            }
        self.messages += self.dialect.observe(reply, cells, self.limits, told)
        if doubted:
            self.messages = self.dialect.doubt(self.messages, reply)
        return None

    async def conclude(self, reply: Reply, cells: list[Cell]) -> bool:
        """Whether what the reply's text gives as the answer ends the run.

        A variable counts if it is there; a text not beside code whose output its writer has not
        seen, unless it is given a second time.
        """
        if reply.final_name:
            name = reply.final_name
            give = f"FINAL_VAR({name!r})" if name.isidentifier() else f"FINAL({name})"
            cell = await self.one(f"print({give})")
            if cell.final:
                self.source = "final"
                return True
            if reply.final_name == reply.final:  # FINAL(word): a text, if no variable
                return self.believe(reply, cells)
            cells.append(cell)
            return False
        return self.believe(reply, cells)

    def believe(self, reply: Reply, cells: list[Cell]) -> bool:
        """Take the text for the answer, or doubt it once."""
        if cells and not self.doubted:
            self.doubted = True
            return False
        self.answer, self.source = reply.final, "final"
        return True

    async def land(self, stop: str) -> None:
        """At a limit: one last turn that shows the REPL's state; then the best that is known."""
        if stop == "answered":
            return
        known = self.answer
        self.source = "variable" if known else "none"
        if stop == "root_error" or (self.depth and not self.budget.seconds_left(self.depth)):
            return
        state = (await self.repl.state())[: self.limits.observation_chars]
        # A window that is full has room again without the turns: the state is what they led to.
        before = self.opening if stop == "root_window" else self.messages
        messages = self.dialect.land(before, stop, state)
        if not self.depth:
            self.budget.extend(LANDING_SECONDS)
        try:
            reply = await self.ask(messages, messages, landing=stop)
        except (LMError, TimeoutError):
            return
        cells = await self.execute(reply) if self.dialect.lands_with_code else []
        if self.answer and self.answer != known:
            self.source = "landing"
        elif reply.final and not known:
            self.doubted = True  # there is no second time
            if await self.conclude(reply, cells):
                self.source = "landing"
        if not self.answer and reply.prose:
            self.answer, self.source = reply.prose, "text"
        if not self.answer:  # the landing has lost what was known
            self.answer, self.source = known, "variable" if known else "none"

    async def ask(
        self, messages: list[Message], kept: list[Message], *, landing: str = ""
    ) -> Reply:
        """One root reply to ``messages``; once sent, it is recorded whatever becomes of it."""
        room = self.window.room(messages)
        model = self.root.model
        need = Need()  # the landing turn has room of its own
        if not landing:
            need = self.budget.need(model, 0, self.window.estimate(messages), room)
            self.budget.reserve(need)
        event, asked = self.journal.asked(self.turns, messages, landing), time.monotonic()
        used: Usage | None = Usage()
        try:
            async with asyncio.timeout(self.budget.seconds_left(self.depth)):
                completion = await self.root.chat(
                    messages, max_tokens=room, sampling=self.rlm.card.sampling
                )
            used = completion.usage
        except (LMError, TimeoutError) as error:
            used = _used(error)
            self.journal.failed(event, error, used)
            raise
        except asyncio.CancelledError as error:
            used = _used(error)
            raise
        finally:
            if used is None or used.calls:
                self.used.add(used)
            self.budget.settle(need, model, used)
        reply = self.dialect.parse(completion.text, completion.finish_reason)
        self.journal.replied(event, completion, len(reply.blocks), time.monotonic() - asked)
        self.messages = [*kept, {"role": "assistant", "content": completion.text}]
        self.window.saw(messages, completion.text, completion.usage)
        self.turns += 1
        return reply

    async def execute(self, reply: Reply) -> list[Cell]:
        """Run the reply's blocks in order, up to the first error or answer."""
        cells: list[Cell] = []
        for code in reply.blocks:
            cell = await self.one(code)
            cells.append(cell)
            if (cell.status != "ok" or cell.final) and not self.dialect.runs_all:
                break
        for cell in cells:
            if cell.final:  # of several, the first
                self.answer = cell.answer
                return [*(one for one in cells if one is not cell), cell]
        return cells

    async def one(self, code: str) -> Cell:
        """Run a cell."""
        self.cells += 1
        self.subcalls.cell = self.cells
        cell = await self.repl.execute(code, deadline=self.budget.deadline(self.depth))
        self.journal.cell(self.turns - 1, self.cells, code, cell)
        if cell.status != "died" and (cell.final or self.dialect.finish == "answer"):
            self.answer = cell.answer  # what was answered before one that died is not lost
        self.error_cells += cell.status != "ok"
        return cell

    async def child(self, call: Call, row: dict[str, Any]) -> RLMResult:
        """A run for an ``rlm_query``; ``row`` is its call's event."""
        prompt = call.prompts[0]
        question = "" if call.context is None else prompt
        text = prompt if call.context is None else call.context
        journal = self.journal.child()
        row["child"] = journal.node
        async with self.budget.running[self.depth + 1]:
            run = Run(
                self.rlm,
                question,
                Context.from_text(text),
                journal,
                self.budget,
                depth=self.depth + 1,
                above=self.below,
                prompt=whole(call, prompt),
                model=call.model,
                parent=self.root,
            )
            return await run.whole()

    def end(self, stop: str) -> RLMResult:
        """The result, recorded."""
        seconds = time.monotonic() - self.started
        result = RLMResult(
            self.answer,
            stop,
            self.source,
            turns=self.turns,
            error_cells=self.error_cells,
            root=self.used.usage,
            sub=self.below.usage,
            unknown_calls=self.used.unknown + self.below.unknown,
            dollars=round(self.budget.used_dollars, 6) if self.budget.prices else None,
            seconds=round(seconds, 3),
            posture=self.repl.posture,
            journal=self.journal.path,
        )
        self.journal.end(asdict(result))
        return result


def _used(error: BaseException) -> Usage | None:
    """What a root request had used that failed; None if nobody knows."""
    if isinstance(error, LMError):
        return None if error.usage_unknown else Usage()
    told = CallCancelled.of(error)
    return told.usage if told is not None else None
