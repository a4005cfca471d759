"""A journal run again: its code is executed anew, its models' replies are the recorded ones.

No language model is called. What the root is sent must be what it was sent then, so any change in
an output, an error or the answer shows as ``ReplayDiverged``.
"""

from __future__ import annotations

import asyncio
import copy
import dataclasses
import sys
import time
from collections import defaultdict, deque
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rlm_executor import errors
from rlm_executor.budget import Budget, Limits, Need, Price
from rlm_executor.card import RLMCard
from rlm_executor.context import Context
from rlm_executor.errors import (
    BudgetExhausted,
    CallCancelled,
    InputError,
    LMError,
    RecordEnds,
    ReplayDiverged,
    RLMError,
)
from rlm_executor.files import sha256_text
from rlm_executor.journal import Event, Journal, apply_delta
from rlm_executor.lm import LM, Completion, Message, Sampling, Usage
from rlm_executor.result import RLMResult
from rlm_executor.rlm import RLM, Asked
from rlm_executor.run import Run
from rlm_executor.subcalls import Leaves
from rlm_executor.trajectory import Trajectory


async def replay(journal: Path, context: Asked) -> RLMResult:
    """Run the journal at ``journal`` again over its context, at no model's cost.

    Of a run that was killed, as far as it is recorded: its ``stop_reason`` is then "unfinished".

    Raises:
        InputError: not a journal, or another context.
        ReplayDiverged: it went another way than recorded.
    """
    trajectory, context = await _read(journal, context)
    end = trajectory.end
    result = await _Recorded(trajectory).run(trajectory.run["question"], context)
    if end is None or end["stop_reason"] == "cancelled":
        return result
    for field in ("answer", "stop_reason", "answer_source", "turns", "error_cells"):
        if getattr(result, field) != end[field]:
            raise ReplayDiverged(
                f"{journal.name}: {field} is {str(getattr(result, field))[:80]!r}, "
                f"recorded was {str(end[field])[:80]!r}"
            )
    return result


def replay_sync(journal: Path, context: Asked) -> RLMResult:
    """``replay``, for code that is not async."""
    return asyncio.run(replay(journal, context))


async def resume(
    journal: Path,
    context: Asked,
    root: LM,
    sub: LM,
    *,
    models: Mapping[str, LM] | None = None,
    out: Path | None = None,
) -> RLMResult:
    """Go on with a run that was killed: what is recorded at no cost, the rest with these models.

    Args:
        journal: of the killed run.
        context: of that run.
        root: writes the code from now on.
        sub: answers the sub-calls that are not recorded.
        models: those that code asks by name; ``sub`` stands in for one that is not there.
        out: the journal of the whole run; another file than ``journal``.

    Raises:
        InputError: not a journal, or another context.
        ReplayDiverged: it went another way than recorded.
    """
    if out is not None and out.resolve() == journal.resolve():
        raise InputError(f"{out} is the journal that is resumed; write the new one elsewhere")
    trajectory, context = await _read(journal, context)
    recorded = _Recorded(trajectory, (root, sub), models, out)
    return await recorded.run(trajectory.run["question"], context)


async def _read(journal: Path, context: Asked) -> tuple[Trajectory, Context]:
    trajectory, context = Trajectory.read(journal), Context.of(context)
    sha256 = await asyncio.to_thread(context.sha256)
    if sha256 != trajectory.run["context"]["sha256"]:
        raise InputError(f"journal {journal} was recorded over another context (other sha256)")
    return trajectory, context


_REFUSALS_SINCE = 2  # version of the journal
_REFUSALS = ("max_calls", "max_tokens", "max_dollars")
# Threads that a cell leaves behind when it ends may get further than they did in the recording:
# what they ask then is no divergence, and the cell's end cancels it.
_LEFT_BEHIND_SECONDS = 2.0


class _Recorded(RLM):
    """The loop with recorded replies; time passes as it passed then.

    Args:
        trajectory: what is recorded.
        live: root and sub for what is not; None: the run ends there.
        others: of the live ones, those that are asked by name.
        out: a new journal.
    """

    def __init__(
        self,
        trajectory: Trajectory,
        live: tuple[LM, LM] | None = None,
        others: Mapping[str, LM] | None = None,
        out: Path | None = None,
    ) -> None:
        run = trajectory.run
        isolation = run.get("isolation", "sealed")
        self._live, self._others, self._trajectory = live, dict(others or {}), trajectory
        missing: type[RLMError] = RecordEnds if _was_stopped(trajectory) else ReplayDiverged
        self._missing = missing
        self._named: dict[str, str] = run.get("named", {})
        self._stopped: set[str] = set()  # what runs were started for that may not have begun
        self._turns, sub = self._models(trajectory)
        super().__init__(
            self._turns,
            sub,
            RLMCard.model_validate(run["card"]),
            journal=out,
            prelude=run["prelude"],
            task=run["task"],
            # Who runs code that nothing holds has to spell it out: a journal's word is not enough.
            isolation="sealed" if isolation == "none" else isolation,
            preload=(*run.get("preload", ()),),
            models=sub.named(self._named, self._others),
            prices={name: Price(**price) for name, price in run.get("prices", {}).items()},
            route=run.get("route", "always_rlm"),
        )

    async def run(self, question: str, context: Asked) -> RLMResult:
        if self.route == "plain":
            return await super().run(question, context)
        journal = Journal(self.journal, None)
        run = Run(self, question, Context.of(context), journal, self.budget())
        try:
            return await run.whole()
        except RecordEnds:
            return run.end("unfinished")
        finally:
            journal.close()

    def _models(self, trajectory: Trajectory) -> tuple[_RecordedRoot, _RecordedSub]:
        root, sub = self._live or (None, None)
        names = trajectory.run["models"]
        recorded = _RecordedRoot(names[0], trajectory.turn_rows, root, self._missing)
        # Of a run that was killed, all that was under way has no end: there its record ends.
        recorded.stopped = self._missing is ReplayDiverged and _was_stopped(trajectory)
        self._stopped |= {
            row["prompt_sha256"]
            for row in trajectory.calls
            if "child" in row and row.get("error") == "CallCancelled"
        }
        for child in trajectory.children.values():
            recorded.below[child.run["started_by"]].append(self._models(child))
        return recorded, _RecordedSub(names[1], trajectory.calls, sub, self._missing)

    def leaves(self, sub: LM) -> Leaves:
        named = (
            sub.named(self._named, self._others) if isinstance(sub, _RecordedSub) else self.models
        )
        return Leaves(sub, named)

    def pair(
        self, depth: int, prompt: str, model: str = "", above: LM | None = None
    ) -> tuple[LM, LM]:
        if not depth:
            return super().pair(depth, prompt)
        if isinstance(above, _RecordedRoot) and (known := above.below[sha256_text(prompt)]):
            return known.popleft()
        if self._live is not None:
            return self._live
        root = _RecordedRoot("", [], None, self._missing)
        root.stopped = sha256_text(prompt) in self._stopped
        if not root.stopped:
            root.unknown = f"a run that the recorded one never started: {prompt[:80]!r}"
        return root, _RecordedSub("", [], None, self._missing)

    def budget(self) -> Budget:
        if self._live is not None:
            return super().budget()
        return _RecordedBudget(self.card.limits, self.prices, self._turns, self._trajectory)


class _RecordedBudget(Budget):
    """No clock and no limits: they are met where they were met in the recording."""

    def __init__(
        self,
        limits: Limits,
        prices: Mapping[str, Price] | None,
        root: _RecordedRoot,
        trajectory: Trajectory,
    ) -> None:
        self._tells = trajectory.run["version"] >= _REFUSALS_SINCE
        free = {"max_calls": sys.maxsize // 4, "max_tokens": None, "max_dollars": None}
        more: dict[str, Any] = {"max_seconds": 86400.0, **(free if self._tells else {})}
        super().__init__(dataclasses.replace(limits, **more), prices)
        self._root, self._cells = root, iter(trajectory.cells)
        self._refusals = {row["what"]: row["message"] for row in trajectory.refused}

    def stop(self, root: LM) -> str:
        if not self._tells or not isinstance(root, _RecordedRoot):
            return super().stop(root)
        reason = root.lands_next()
        return reason if reason in _REFUSALS else ""

    def reserve(self, need: Need, what: str = "") -> None:
        if what in self._refusals:
            raise BudgetExhausted(self._refusals[what])
        super().reserve(need, what)

    def seconds_left(self, depth: int = 0) -> float:
        late = not depth and self._root.lands_next() == "timeout"
        return 0.0 if late else super().seconds_left()

    def deadline(self, depth: int = 0) -> float:
        cell = None if depth else next(self._cells, None)
        if cell is None or cell["status"] != "timeout" or self._root.lands_next() != "timeout":
            return super().deadline()
        # The run's end stopped this cell, at a moment that only a clock can find again.
        return time.monotonic() + float(cell["seconds"])

    def extend(self, seconds: float) -> None:
        self._root.landing = True


class _RecordedRoot:
    def __init__(
        self, model: str, rows: list[Event], live: LM | None, missing: type[RLMError]
    ) -> None:
        self.model, self._rows, self._live, self._missing = model, rows, live, missing
        self._at = 0
        self._messages: list[Message] = []
        self.landing = False
        self.stopped = False  # its last request was cancelled, and is not recorded
        self.unknown = ""  # what it is, if it is not recorded at all
        # The runs that this one had started, by what started them, in their order.
        self.below: defaultdict[str, deque[tuple[LM, LM]]] = defaultdict(deque)

    def lands_next(self) -> str:
        """The reason for the landing turn, if that is the next one and has not begun."""
        if self.landing or self._at >= len(self._rows):
            return ""
        return str(self._rows[self._at]["landing"])

    async def chat(
        self, messages: list[Message], *, max_tokens: int, sampling: Sampling
    ) -> Completion:
        if self._at >= len(self._rows):
            if self._live is None and self.stopped:
                await asyncio.Event().wait()
            if self.unknown:
                await asyncio.sleep(_LEFT_BEHIND_SECONDS)
                raise self._missing(self.unknown)
            if self._live is None:
                raise self._missing(f"turn {self._at}: the recorded run had ended here")
            return await self._live.chat(messages, max_tokens=max_tokens, sampling=sampling)
        row = self._rows[self._at]
        self._at += 1
        expected = apply_delta(self._messages, row["messages"])
        self._messages = expected
        if messages != expected:
            raise ReplayDiverged(f"turn {row['turn']}: {_difference(expected, messages)}")
        if "error" in row:
            raise _error(row)
        said: Message = {"role": "assistant", "content": row["reply"]}
        self._messages = [*expected, said]
        return Completion(row["reply"], Usage(**row["usage"]), row["finish_reason"])

    async def aclose(self) -> None:
        return None


class _RecordedSub:
    def __init__(
        self, model: str, rows: list[Event], live: LM | None, missing: type[RLMError]
    ) -> None:
        self.model, self._live, self._missing = model, live, missing
        self._replies: defaultdict[tuple[str, str], deque[Event]] = defaultdict(deque)
        for row in rows:
            if "child" not in row:
                self._replies[row.get("model", model), row["prompt_sha256"]].append(row)

    def named(self, models: Mapping[str, str], live: Mapping[str, LM]) -> dict[str, _RecordedSub]:
        """The other models that this run's code had asked, by the names that they have there."""
        others = {name: copy.copy(self) for name in models}
        for name, other in others.items():
            other.model, other._live = models[name], live.get(name, self._live)
        return others

    async def chat(
        self, messages: list[Message], *, max_tokens: int, sampling: Sampling
    ) -> Completion:
        prompt = messages[0]["content"]
        replies = self._replies[self.model, sha256_text(prompt)]
        if not replies:
            if self._live is None:
                await asyncio.sleep(_LEFT_BEHIND_SECONDS)
                raise self._missing(f"a sub-call that the recorded run never made: {prompt[:80]!r}")
            return await self._live.chat(messages, max_tokens=max_tokens, sampling=sampling)
        row = replies.popleft()
        if row.get("error") == "CallCancelled":  # the cell was stopped while it waited for it
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError as error:
                raise error from CallCancelled(_usage(row))
        if "error" in row and "reply" not in row:
            raise _error(row)
        return Completion(row["reply"], Usage(**row["usage"]), row["finish_reason"])

    async def aclose(self) -> None:
        return None


def _error(row: Event) -> Exception:
    """The recorded error again, with its type and message, and what is known of its use."""
    if row["error"] == "TimeoutError":
        timeout = TimeoutError(row["message"])
        timeout.__cause__ = CallCancelled(_usage(row))
        return timeout
    kind = getattr(errors, row["error"], LMError)
    error: LMError = kind.__new__(kind)
    error.args = (row["message"],)
    error.usage_unknown = "usage" in row and row["usage"] is None
    return error


def _usage(row: Event) -> Usage | None:
    """What a request had used that got no reply; None if nobody knows."""
    told = row.get("usage")
    return None if told is None else Usage(**told)


def _was_stopped(trajectory: Trajectory) -> bool:
    """Whether a run below was cancelled, or had no end when the whole one had."""
    return trajectory.end is None or trajectory.end["stop_reason"] == "cancelled"


def _difference(expected: list[Message], got: list[Message]) -> str:
    pairs: Iterator[tuple[Message, Message]] = zip(expected, got, strict=False)
    for index, (old, new) in enumerate(pairs):
        if old != new:
            at = next(
                (
                    i
                    for i, (a, b) in enumerate(zip(old["content"], new["content"], strict=False))
                    if a != b
                ),
                min(len(old["content"]), len(new["content"])),
            )
            start = max(0, at - 20)
            return (
                f"message {index} ({new['role']}) is ...{new['content'][start : at + 40]!r}, "
                f"recorded was ...{old['content'][start : at + 40]!r}"
            )
    return f"{len(got)} messages, recorded were {len(expected)}"
