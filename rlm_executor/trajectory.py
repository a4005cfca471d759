"""Reading a run's journal: its rows by type, and the root turns with their full messages.

trajectory = Trajectory.read(path)
for messages, reply, prompt_token_ids, token_ids, error in trajectory.turns: ...
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from rlm_executor.errors import InputError
from rlm_executor.files import read_jsonl
from rlm_executor.journal import Event, apply_delta
from rlm_executor.lm import Message


class Turn(NamedTuple):
    """One root turn as the server saw it; error: a cell of it failed, or it had nothing to run."""

    messages: list[Message]
    reply: str
    prompt_token_ids: tuple[int, ...] | None
    token_ids: tuple[int, ...] | None
    error: bool


class Trajectory:
    """A journal, read: the rows by type, and the root turns with their full messages."""

    def __init__(self, rows: Sequence[Event], name: str = "journal") -> None:
        if not rows or rows[0].get("type") != "run":
            raise InputError(f"{name} is not a journal of a run: no `run` line at its start")
        self.run = rows[0]
        own = [row for row in rows if "node" not in row]
        self.turn_rows = [row for row in own if row["type"] == "turn"]
        self.cells = [row for row in own if row["type"] == "cell"]
        self.calls = [row for row in own if row["type"] == "call"]
        self.refused = [row for row in rows if row["type"] == "refused"]  # of those below, too
        self.end: Event | None = own[-1] if own[-1]["type"] == "end" else None
        self.children = self._children(rows, name)  # by the number of their node

    @staticmethod
    def _children(rows: Sequence[Event], name: str) -> dict[str, Trajectory]:
        """The runs that this run has started, each with those that it has started."""
        below: dict[str, list[Event]] = {}
        for row in rows:
            if "node" in row:
                first, _, rest = row["node"].partition(".")
                row = {key: value for key, value in row.items() if key != "node"}
                below.setdefault(first, []).append({"node": rest, **row} if rest else row)
        return {
            node: Trajectory(its, f"{name}: {node}")
            for node, its in below.items()
            if its[0]["type"] == "run"  # else it was stopped before it had begun
        }

    @classmethod
    def read(cls, path: Path) -> Trajectory:
        """Read a journal; ``end`` is None if its run was killed.

        Raises:
            InputError: missing, damaged, or not a journal.
        """
        if not path.is_file():
            raise InputError(f"no journal at {path}")
        try:
            return cls(read_jsonl(path), path.name)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(f"journal {path} is damaged: {error}") from error

    @property
    def turns(self) -> list[Turn]:
        """Root turns that got a reply, in order."""
        failed = {cell["turn"] for cell in self.cells if cell["status"] != "ok"}
        turns: list[Turn] = []
        messages: list[Message] = []
        ids: list[int] = []
        for row in self.turn_rows:
            messages = apply_delta(messages, row["messages"])
            if "error" in row:
                continue
            prompt_ids = token_ids = None
            if row.get("prompt_token_ids") is not None:
                ids = apply_delta(ids, row["prompt_token_ids"])
                prompt_ids = tuple(ids)
            if row.get("token_ids") is not None:
                token_ids = tuple(row["token_ids"])
                ids = [*ids, *token_ids]
            bad = row["turn"] in failed or not (row["blocks"] or row["landing"])
            turns.append(Turn(list(messages), row["reply"], prompt_ids, token_ids, bad))
            messages = [*messages, {"role": "assistant", "content": row["reply"]}]
        return turns
