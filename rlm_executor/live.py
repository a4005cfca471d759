"""What a run is doing, for whoever waits for it: a tree on a terminal, else one line an event.

    with view_of(quiet=False) as view:
        RLM(view.watch(root), view.watch(sub), card, on_event=view)

A view knows what the events tell; what is on its way, and has no event yet, it sees by watching
the models.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any, TextIO

from rlm_executor.journal import Event
from rlm_executor.lm import LM, Completion, Counts, Message, Sampling

if TYPE_CHECKING:
    from rich.console import Console
    from rich.tree import Tree

_TURNS_SHOWN = 6  # of each run, the last ones; a screen is not a journal
_RUNS_SHOWN = 8  # of the runs below a cell: those in progress before those that have ended
_MESSAGE_CHARS = 200


def view_of(*, quiet: bool) -> View:
    """The view that fits where stderr goes."""
    if quiet:
        return View()
    drawn = sys.stderr.isatty() and os.environ.get("TERM", "") not in ("", "dumb", "unknown")
    return TreeView() if drawn else Lines(sys.stderr)


class View:
    """Shows nothing; the base of those that do."""

    def __enter__(self) -> View:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        return None

    def __call__(self, event: Event) -> None:
        """An event has happened."""

    def watch(self, lm: LM) -> LM:
        """``lm``, of whose requests the view then hears."""
        return lm


class Lines(View):
    """One plain line an event."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __call__(self, event: Event) -> None:
        if line := line_of(event):
            where = f"[{event['node']}] " if "node" in event else ""
            print(where + line, file=self._stream)


def line_of(event: Event) -> str:
    """An event in one line; "" for those that say nothing new."""
    kind = event["type"]
    if kind == "turn":
        return f"turn {event['turn'] + 1}: {_said(event)}"
    if kind == "cell":
        line = f"  cell {event['cell']}: {event['status']}, {event['seconds']:.2f} s"
        return f"{line}, {event['output_chars']} characters printed"
    if kind == "call" and "error" in event:
        return f"  sub-call failed: {event['error']}: {_one_line(event['message'])}"
    if kind == "refused":
        return f"  sub-calls refused: {_one_line(event['message'])}"
    if kind == "run" and "node" in event:
        return "run begins"
    if kind == "end" and "node" in event:
        return f"run ends: {event['stop_reason']} after {event['turns']} turns"
    return ""


@dataclass
class _Cell:
    """One cell, from its first sub-call on."""

    number: int
    line: str = ""  # once it has ended
    calls: int = 0
    failed: int = 0
    tokens: int = 0  # of its plain calls
    runs: list[_Node] = field(default_factory=list)


@dataclass
class _Turn:
    """One root reply and its cells."""

    line: str
    cells: list[_Cell] = field(default_factory=list)


@dataclass
class _Node:
    """One run of the tree."""

    name: str
    started: float
    turns: list[_Turn] = field(default_factory=list)
    tokens: int = 0  # read and written: its turns and its plain calls
    seconds: float | None = None  # once it has ended
    stop: str = ""

    def cell(self, number: int) -> _Cell:
        """That cell; a new one of the last turn, if it is not known yet."""
        turn = self.turns[-1] if self.turns else _Turn("")
        if not self.turns:
            self.turns.append(turn)
        for cell in turn.cells:
            if cell.number == number:
                return cell
        turn.cells.append(_Cell(number))
        return turn.cells[-1]

    def running(self) -> _Cell:
        """The cell that has not ended yet."""
        cells = self.turns[-1].cells if self.turns else []
        if cells and not cells[-1].line:
            return cells[-1]
        return self.cell(1 + sum(len(turn.cells) for turn in self.turns))


class TreeView(View):
    """The tree of turns, cells and runs in runs, drawn anew several times a second.

    Args:
        console: where to; stderr if not given.
    """

    def __init__(self, console: Console | None = None) -> None:
        from rich.console import Console
        from rich.live import Live

        self._nodes: dict[str, _Node] = {}
        self._flights: dict[int, tuple[str, float]] = {}
        self._flown = 0
        self._live = Live(
            get_renderable=self.tree,
            console=console or Console(stderr=True),
            refresh_per_second=8,
        )

    def __enter__(self) -> View:
        self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._live.stop()

    def __call__(self, event: Event) -> None:
        name = event.get("node", "")
        kind = event["type"]
        node = self._nodes.get(name)
        if node is None:
            node = self._nodes[name] = _Node(name, time.monotonic())
            if name and (above := self._nodes.get(name.rpartition(".")[0])):
                above.running().runs.append(node)
        if kind == "turn":
            node.tokens += _tokens(event)
            node.turns.append(_Turn(_turn_line(event)))
        elif kind == "call":
            cell = node.cell(event["cell"])
            cell.calls += "child" not in event
            cell.failed += "error" in event
            cell.tokens += _tokens(event)
            node.tokens += _tokens(event)
        elif kind == "cell":
            told = f"{event['status']}, {event['seconds']:.1f} s, {event['output_chars']} printed"
            node.cell(event["cell"]).line = f"cell {event['cell']}: {told}"
        elif kind == "end":
            node.seconds, node.stop = event["seconds"], event["stop_reason"]

    def watch(self, lm: LM) -> LM:
        watched = _CountingWatched if isinstance(lm, Counts) else _Watched
        return watched(lm, self)

    @contextmanager
    def flight(self, model: str) -> Iterator[None]:
        """A request to ``model`` is on its way."""
        self._flown += 1
        number = self._flown
        self._flights[number] = (model, time.monotonic())
        try:
            yield
        finally:
            del self._flights[number]

    def tree(self) -> Tree:
        """All of it as it is now. Called from the drawing thread: it looks at copies."""
        from rich.tree import Tree

        top = self._nodes.get("")
        if top is None:
            return Tree(_text("starting"))
        drawn = Tree(_text(_head(top, "run")))
        self._draw(top, drawn)
        now = time.monotonic()
        flights = list(self._flights.values())
        for model in sorted({model for model, _ in flights}):
            since = [began for name, began in flights if name == model]
            longest = f"longest {now - min(since):.1f} s"
            drawn.add(_text(f"in flight: {len(since)} to {model}, {longest}"))
        return drawn

    def _draw(self, node: _Node, into: Tree) -> None:
        turns = list(node.turns)
        if len(turns) > _TURNS_SHOWN:
            into.add(_text(f"... {len(turns) - _TURNS_SHOWN} turns before"))
        for turn in turns[-_TURNS_SHOWN:]:
            branch = into.add(_text(turn.line)) if turn.line else into
            for cell in list(turn.cells):
                self._draw_cell(cell, branch)

    def _draw_cell(self, cell: _Cell, into: Tree) -> None:
        running = f"cell {cell.number}: running" if cell.number else "no code is run"
        branch = into.add(_text(cell.line or running))
        if cell.calls:
            failed = f", {cell.failed} failed" if cell.failed else ""
            calls = f"{cell.calls} sub-call{'s' * (cell.calls != 1)}"
            branch.add(_text(f"{calls}{failed}, {cell.tokens:,} tokens"))
        runs = sorted(list(cell.runs), key=lambda run: run.seconds is not None)
        for run in runs[:_RUNS_SHOWN]:
            below = branch.add(_text(_head(run, f"run {run.name}")))
            if run.seconds is None:
                self._draw(run, below)
        if len(runs) > _RUNS_SHOWN:
            branch.add(_text(f"... {len(runs) - _RUNS_SHOWN} runs more"))


class _Watched:
    """A model whose requests a view sees."""

    def __init__(self, inner: LM, view: TreeView) -> None:
        self._inner, self._view = inner, view

    @property
    def model(self) -> str:
        return self._inner.model

    async def chat(
        self, messages: list[Message], *, max_tokens: int, sampling: Sampling
    ) -> Completion:
        with self._view.flight(self.model):
            return await self._inner.chat(messages, max_tokens=max_tokens, sampling=sampling)

    async def aclose(self) -> None:
        await self._inner.aclose()


class _CountingWatched(_Watched):
    """One whose server counts."""

    async def count(self, messages: list[Message], sampling: Sampling) -> int | None:
        assert isinstance(self._inner, Counts)
        return await self._inner.count(messages, sampling)


def _head(node: _Node, what: str) -> str:
    ended = node.seconds is not None
    seconds = node.seconds if node.seconds is not None else time.monotonic() - node.started
    stop = f"{node.stop}, " if ended else ""
    return f"{what}: {stop}{seconds:.1f} s, {node.tokens:,} tokens"


def _turn_line(event: Event) -> str:
    landing = f" (landing: {event['landing']})" if event.get("landing") else ""
    told = f"turn {event['turn'] + 1}{landing}: {_said(event)}"
    if "seconds" in event:
        told += f", {event['seconds']:.1f} s, {_tokens(event):,} tokens"
    return told


def _said(event: Event) -> str:
    if "error" in event:
        return f"{event['error']}: {_one_line(event['message'])}"
    return f"{event['blocks']} block{'s' * (event['blocks'] != 1)}"


def _tokens(event: Event) -> int:
    usage: dict[str, Any] = event.get("usage") or {}
    return int(usage.get("prompt_tokens", 0) + usage.get("completion_tokens", 0))


def _one_line(text: str) -> str:
    """Others' words, so that no control character of theirs gets to a terminal."""
    line = "".join(char if char.isprintable() else " " for char in text)
    return line if len(line) <= _MESSAGE_CHARS else line[:_MESSAGE_CHARS] + "..."


def _text(line: str) -> Any:
    from rich.text import Text

    return Text(line, no_wrap=True, overflow="ellipsis")
