"""A run's replies with what became of them, and edits of the code in them that keep all else."""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from typing import Any, NamedTuple

from rlm_executor import Dialect, RLMCard, Trajectory
from rlm_executor.parsing import Reply

_LINES = re.compile(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+")  # as `ast` counts them


class Unmendable(Exception):
    """A mistake that no edit mends; its text is the rule that drops the run."""


class Fix(NamedTuple):
    """One mended mistake: in which of the recorded turns, and which it was."""

    turn: int
    name: str


class Mended(NamedTuple):
    """A reply of the mended run, and the recorded turn that it comes from."""

    text: str
    turn: int


@dataclass(frozen=True)
class Said:
    """One reply of the root, taken apart, and the cells that it led to."""

    turn: int
    text: str
    finish_reason: str
    reply: Reply
    cells: list[dict[str, Any]]  # of its blocks, as the journal has them
    probes: list[dict[str, Any]]  # cells that looked for the variable that its text names


def said_in(trajectory: Trajectory) -> tuple[list[Said], Dialect]:
    """The replies of a run in order, and how it spoke."""
    dialect = RLMCard.model_validate(trajectory.run["card"]).dialect
    replies = []
    for index, row in enumerate(row for row in trajectory.turn_rows if "error" not in row):
        reply = dialect.parse(row["reply"], row["finish_reason"])
        cells = [cell for cell in trajectory.cells if cell["turn"] == row["turn"]]
        ran = 0 if row["landing"] and not dialect.lands_with_code else len(reply.blocks)
        replies.append(
            Said(index, row["reply"], row["finish_reason"], reply, cells[:ran], cells[ran:])
        )
    return replies, dialect


def swap_block(text: str, block: str, code: str) -> str:
    """``text`` with ``code`` in the place of ``block``; without its fence if there is no code.

    Raises:
        Unmendable: the block is not found behind a fence.
    """
    at = -1
    while (at := text.find(block, at + 1)) >= 0:
        before = text[:at].rstrip()
        if before.rpartition("\n")[2].lstrip().startswith("```"):
            break
    else:
        raise Unmendable("code_not_found")
    if code.strip():
        return text[:at] + code.strip("\n") + text[at + len(block) :]
    rest = text[at + len(block) :].lstrip().removeprefix("```")
    return before.rpartition("\n")[0] + rest


class Source:
    """A program's text and edits at the places of its nodes, which are made all at once."""

    def __init__(self, code: str) -> None:
        self._code = code
        self._lines = _LINES.findall(code)
        self._edits: dict[tuple[int, int], str] = {}

    def text(self, node: ast.AST) -> str:
        """What stands where ``node`` is."""
        start, end = self._span(node)
        return self._code[start:end]

    def swap(self, node: ast.AST, new: str) -> None:
        """Put ``new`` in its place."""
        self._edits[self._span(node)] = new

    def cut(self, node: ast.stmt) -> None:
        """Take a statement out, with its lines if nothing else is on them."""
        start, end = self._span(node)
        line_start = self._code.rfind("\n", 0, start) + 1
        line_end = self._code.find("\n", end) % (len(self._code) + 1)
        after = self._code[end:line_end].strip()
        if self._code[line_start:start].strip() or (after and not after.startswith("#")):
            self._edits[start, end] = "pass"
        else:
            self._edits[line_start, line_end + 1] = ""

    def edited(self) -> str:
        """The program with all edits."""
        code = self._code
        for (start, end), new in sorted(self._edits.items(), reverse=True):
            code = code[:start] + new + code[end:]
        return code

    def _span(self, node: Any) -> tuple[int, int]:
        return (
            self._place(node.lineno, node.col_offset),
            self._place(node.end_lineno, node.end_col_offset),
        )

    def _place(self, line: int, column: int) -> int:
        """Nodes count columns in bytes."""
        before = self._lines[line - 1].encode()[:column].decode()
        return sum(map(len, self._lines[: line - 1])) + len(before)
