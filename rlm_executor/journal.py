"""Writing a run's journal: append-only JSON lines, from which everything else is made.

    {"type": "run", ...}    question, context (size and hash), card, models, seed, versions
    {"type": "turn", ...}   what the root was sent and said; messages as a delta to the turn before
    {"type": "call", ...}   one sub-call
    {"type": "refused", ...}   sub-calls that the budget had no room for
    {"type": "cell", ...}   code, output, error; its calls stand before it
    {"type": "end", ...}    the result

T turns cost O(T): no message is written twice, and the context's text is not in it. Reading it:
``trajectory``.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, TypeVar

from rlm_executor.lm import Completion, Message, Usage
from rlm_executor.sandbox.host import SEED, Cell

VERSION = 2  # 2: refused calls are recorded
Event = dict[str, Any]
_ANSWER_CHARS_KEPT = 2000  # of a cell's answer; the `end` line has all of it
ItemT = TypeVar("ItemT")


class Journal:
    """Writes events to a file (or nowhere) and tells them to a listener."""

    def __init__(
        self,
        path: Path | None,
        on_event: Callable[[Event], None] | None,
        parent: Journal | None = None,
    ) -> None:
        self.path, self._on_event = path, on_event
        self.node, self._children = "", 0
        self._descriptor: int | None = None
        self._messages, self._ids = Delta(), Delta()
        if parent is not None:
            parent._children += 1
            self.node = f"{parent.node}.{parent._children}".lstrip(".")
            self._descriptor = parent._descriptor
        elif path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            # A journal is one run's: what an interrupted attempt has left is replaced.
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC
            self._descriptor = os.open(path, flags, 0o644)

    def child(self) -> Journal:
        """The part of a run that this run starts: its events carry the node's number."""
        return Journal(self.path, self._on_event, self)

    def record(self, event: Event) -> None:
        """Append one event, in one write."""
        if self.node:
            event = {"node": self.node, **event}
        if self._descriptor is not None:
            line = json.dumps(event, ensure_ascii=False, separators=(",", ":")) + "\n"
            data = memoryview(line.encode("utf-8", "replace"))
            while data:
                data = data[os.write(self._descriptor, data) :]
        if self._on_event is not None:
            self._on_event(event)

    def restart(self) -> None:
        """Forget what was recorded: the run goes another way."""
        self._messages, self._ids = Delta(), Delta()
        if self._descriptor is not None:
            os.ftruncate(self._descriptor, 0)

    def run(self, **facts: Any) -> None:
        """The first event: what was asked of whom, and what a replay needs to know."""
        made_by = {"python": sys.version.split()[0], "seed": SEED}
        self.record({"type": "run", "version": VERSION, **facts, **made_by})

    def end(self, result: Event) -> None:
        """The last event. The journal's own path is left out: it is not the same elsewhere."""
        self.record({"type": "end", **{key: result[key] for key in result if key != "journal"}})

    def asked(self, turn: int, messages: Sequence[Message], landing: str) -> Event:
        """The beginning of a turn's event; ``replied`` or ``failed`` completes and records it."""
        delta = self._messages.to(messages)
        return {"type": "turn", "turn": turn, "landing": landing, "messages": delta}

    def replied(self, event: Event, completion: Completion, blocks: int, seconds: float) -> None:
        """The root's reply to what was asked."""
        self._messages.then([{"role": "assistant", "content": completion.text}])
        event |= {
            "reply": completion.text,
            "finish_reason": completion.finish_reason,
            "blocks": blocks,
            "usage": asdict(completion.usage),
            "seconds": round(seconds, 3),
        }
        if completion.prompt_token_ids is not None:
            event["prompt_token_ids"] = self._ids.to(completion.prompt_token_ids)
        if completion.token_ids is not None:
            event["token_ids"] = list(completion.token_ids)
            self._ids.then(completion.token_ids)
        self.record(event)

    def failed(self, event: Event, error: Exception, used: Usage | None) -> None:
        """No reply: the error stands in its place, and what is known of its use."""
        what = {"error": type(error).__name__, "message": str(error)}
        self.record(event | what | {"usage": None if used is None else asdict(used)})

    def cell(self, turn: int, number: int, code: str, cell: Cell) -> None:
        """One cell, after its calls."""
        facts = asdict(replace(cell, raised="", names=()))
        event = {"type": "cell", "turn": turn, "cell": number, "code": code, **facts}
        event["answer"] = cell.answer[:_ANSWER_CHARS_KEPT]
        event["answer_chars"] = len(cell.answer)
        del event["raised"], event["names"]  # both can be had from the rest, by a replay
        event["seconds"] = round(cell.seconds, 4)
        self.record(event)

    def close(self) -> None:
        """Close the file. Calling it twice is fine."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


class Delta:
    """A growing sequence, told as ``{"keep": n, "add": [...]}`` against what was before."""

    def __init__(self) -> None:
        self._before: list[Any] = []

    def to(self, now: Sequence[Any]) -> dict[str, Any]:
        """The step to ``now``, which the next one is then told against."""
        keep = 0
        for old, new in zip(self._before, now, strict=False):
            if old != new:
                break
            keep += 1
        self._before = [*now]
        return {"keep": keep, "add": self._before[keep:]}

    def then(self, reply: Sequence[Any]) -> None:
        """What came after it, known to the reader from elsewhere."""
        self._before += reply


def apply_delta(before: Sequence[ItemT], delta: dict[str, Any]) -> list[ItemT]:
    """``before``, changed as ``delta`` says."""
    return [*before[: delta["keep"]], *delta["add"]]
