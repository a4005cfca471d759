"""A journal run again: its code is executed anew, its models' replies are the recorded ones.

No language model is called. What the root is sent must be what it was sent then, so any change in
an output, an error or the answer shows as ``ReplayDiverged``.
"""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections import defaultdict, deque
from collections.abc import Iterator
from pathlib import Path

from rlm_executor import errors
from rlm_executor.budget import Budget, Limits
from rlm_executor.card import RLMCard
from rlm_executor.context import Context
from rlm_executor.errors import InputError, LMError, ReplayDiverged
from rlm_executor.files import sha256_text
from rlm_executor.journal import Event, apply_delta
from rlm_executor.lm import LM, Completion, Message, Sampling, Usage
from rlm_executor.result import RLMResult
from rlm_executor.rlm import RLM
from rlm_executor.trajectory import Trajectory


async def replay(journal: Path, context: Context | str | Path) -> RLMResult:
    """Run the journal at ``journal`` again over its context, at no model's cost.

    Raises:
        InputError: not a journal, an unfinished one, or another context.
        ReplayDiverged: it went another way than recorded.
    """
    trajectory = Trajectory.read(journal)
    end, context = trajectory.end, Context.of(context)
    if end is None or end["stop_reason"] == "cancelled":
        raise InputError(f"journal {journal} has no end: only finished runs can be replayed")
    if context.sha256() != trajectory.run["context"]["sha256"]:
        raise InputError(f"journal {journal} was recorded over another context (other sha256)")
    result = await _Recorded(trajectory).run(trajectory.run["question"], context)
    for field in ("answer", "stop_reason", "answer_source", "turns", "error_cells"):
        if getattr(result, field) != end[field]:
            raise ReplayDiverged(
                f"{journal.name}: {field} is {str(getattr(result, field))[:80]!r}, "
                f"recorded was {str(end[field])[:80]!r}"
            )
    return result


def replay_sync(journal: Path, context: Context | str | Path) -> RLMResult:
    """``replay``, for code that is not async."""
    return asyncio.run(replay(journal, context))


class _Recorded(RLM):
    """The loop with recorded replies; time passes as it passed then."""

    def __init__(self, trajectory: Trajectory) -> None:
        run = trajectory.run
        self._turns = _RecordedRoot(run["models"][0], trajectory.turn_rows)
        self._cells = trajectory.cells
        self._below: defaultdict[tuple[int, str], deque[tuple[LM, LM]]] = defaultdict(deque)
        sub = _RecordedSub(run["models"][1], trajectory.calls)
        self._collect(trajectory, 1)
        super().__init__(
            self._turns,
            sub,
            RLMCard.model_validate(run["card"]),
            prelude=run["prelude"],
            models={name: sub for name in sub.names},
            route=run.get("route", "always_rlm"),
        )

    def _collect(self, trajectory: Trajectory, depth: int) -> None:
        """The runs below, by depth and by what started them, in their order."""
        started = {row["child"]: row for row in trajectory.calls if "child" in row}
        for node, child in trajectory.children.items():
            full = next((row for name, row in started.items() if name.split(".")[-1] == node), None)
            if full is None:  # it was stopped before it had ended
                continue
            root = _RecordedRoot(child.run["models"][0], child.turn_rows)
            sub = _RecordedSub(child.run["models"][1], child.calls)
            self._below[depth, full["prompt_sha256"]].append((root, sub))
            self._collect(child, depth + 1)

    def pair(self, depth: int, prompt: str) -> tuple[LM, LM]:
        if not depth:
            return super().pair(depth, prompt)
        known = self._below[depth, sha256_text(prompt)]
        if not known:
            raise ReplayDiverged(f"a run that the recorded one never started: {prompt[:80]!r}")
        return known.popleft()

    def budget(self) -> Budget:
        return _RecordedBudget(self.card.limits, self._turns, self._cells)


class _RecordedBudget(Budget):
    """No clock: the time is up where it was up in the recording."""

    def __init__(self, limits: Limits, root: _RecordedRoot, cells: list[Event]) -> None:
        super().__init__(dataclasses.replace(limits, max_seconds=86400.0, max_dollars=None))
        self._root, self._cells = root, iter(cells)

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
    def __init__(self, model: str, rows: list[Event]) -> None:
        self.model, self._rows = model, rows
        self._at = 0
        self._messages: list[Message] = []
        self.landing = False

    def lands_next(self) -> str:
        """The reason for the landing turn, if that is the next one and has not begun."""
        if self.landing or self._at >= len(self._rows):
            return ""
        return str(self._rows[self._at]["landing"])

    async def chat(
        self, messages: list[Message], *, max_tokens: int, sampling: Sampling
    ) -> Completion:
        if self._at >= len(self._rows):
            raise ReplayDiverged(f"turn {self._at}: the recorded run had ended here")
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
    def __init__(self, model: str, rows: list[Event]) -> None:
        self.model = model
        self._replies: defaultdict[str, deque[Event]] = defaultdict(deque)
        self.names = {row["model"] for row in rows if "model" in row}  # asked by name
        for row in rows:
            if "child" not in row:
                self._replies[row["prompt_sha256"]].append(row)

    async def chat(
        self, messages: list[Message], *, max_tokens: int, sampling: Sampling
    ) -> Completion:
        prompt = messages[0]["content"]
        replies = self._replies[sha256_text(prompt)]
        if not replies:
            raise ReplayDiverged(f"a sub-call that the recorded run never made: {prompt[:80]!r}")
        row = replies.popleft()
        if row.get("error") == "CallCancelled":  # the cell was stopped while it waited for it
            await asyncio.Event().wait()
        if "error" in row and "reply" not in row:
            raise _error(row)
        return Completion(row["reply"], Usage(**row["usage"]), row["finish_reason"])

    async def aclose(self) -> None:
        return None


def _error(row: Event) -> Exception:
    """The recorded error again, with its type and message."""
    if row["error"] == "TimeoutError":
        return TimeoutError(row["message"])
    kind = getattr(errors, row["error"], LMError)
    error: Exception = kind.__new__(kind)
    error.args = (row["message"],)
    return error


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
