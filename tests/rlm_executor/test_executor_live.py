"""The live view: what it draws of the events of a run, and of what is on its way."""

from __future__ import annotations

import asyncio
import io
from pathlib import Path

import pytest
from rich.console import Console

from rlm_executor import RLM, Message, ScriptedLM
from rlm_executor.errors import ServerUnavailable
from rlm_executor.live import Lines, TreeView, View, view_of
from rlm_executor.lm import Counts, Sampling
from rlm_executor.openai_lm import OpenAILM
from tests.rlm_executor.scripted import block, card, echoes, finish


def screen(view: TreeView) -> str:
    console = Console(file=io.StringIO(), width=100, force_terminal=False)
    with console.capture() as capture:
        console.print(view.tree())
    return capture.get()


def root(messages: list[Message]) -> str:
    turns = sum(message["role"] == "assistant" for message in messages)
    if "inner" in messages[1]["content"]:
        return finish("llm_query('x')")
    if turns < 9:
        return block(f"llm_query_batched(['a', 'b'])\nprint({turns})")
    return [block("rlm_query_batched(['inner 1', 'inner 2'])"), finish("1")][turns - 9]


@pytest.mark.real_sandbox
async def test_a_run_as_a_tree() -> None:
    view = TreeView(Console(file=io.StringIO(), force_terminal=True))
    assert "starting" in screen(view)
    drawn: list[str] = []

    def told(event: dict[str, object]) -> None:
        view(event)
        if event["type"] == "cell":
            drawn.append(screen(view))

    rlm = RLM(ScriptedLM(root, "root"), echoes(), card(max_depth=2), on_event=told)
    result = await rlm.run("Q?", "text")
    assert result.stop_reason == "answered"
    last = screen(view)
    lines = [line.strip("│├└─ \n") for line in last.splitlines()]
    assert lines[0].startswith("run: answered, ")
    assert lines[1] == "... 5 turns before"
    assert lines[2].startswith("turn 6: 1 block, ")
    assert lines[3].startswith("cell 6: ok, ") and lines[3].endswith(" s, 2 printed")
    assert lines[4].startswith("2 sub-calls, ")
    assert any(line.startswith("run 1: answered, ") for line in lines)
    assert any(line.startswith("run 2: answered, ") for line in lines)
    # Runs in progress are drawn with their own turns, below the cell that waits for them.
    running = next(text for text in drawn if "run 1: 0." in text or "run 2: 0." in text)
    assert "cell 10: running" in running and "turn 1: 1 block" in running


async def test_requests_on_their_way_are_counted_and_timed() -> None:
    view = TreeView(Console(file=io.StringIO()))
    view({"type": "run"})
    go = asyncio.Event()

    class Slow(ScriptedLM):
        async def chat(self, messages: list[Message], **options: object) -> object:  # type: ignore[override]
            await go.wait()
            raise ServerUnavailable("away")

    lm = view.watch(Slow(lambda _: "", "base"))
    ask = [{"role": "user", "content": "x"}]
    calls = [
        asyncio.ensure_future(lm.chat(ask, max_tokens=1, sampling=Sampling())) for _ in range(3)
    ]
    await asyncio.sleep(0.01)
    assert "in flight: 3 to base, longest 0.0 s" in screen(view)
    calls[0].cancel()
    await asyncio.sleep(0.01)
    assert "in flight: 2 to base" in screen(view)
    go.set()
    done = await asyncio.gather(*calls, return_exceptions=True)
    assert isinstance(done[1], ServerUnavailable)
    assert "in flight" not in screen(view)


async def test_a_watched_model_counts_if_it_did() -> None:
    view = TreeView(Console(file=io.StringIO()))
    assert not isinstance(view.watch(echoes()), Counts)
    watched = view.watch(OpenAILM("http://127.0.0.1:1/v1", "m", retries=0))
    assert isinstance(watched, Counts) and watched.model == "m"
    assert await watched.count([{"role": "user", "content": "x"}], Sampling()) is None
    await watched.aclose()


def test_one_line_an_event_without_control_characters() -> None:
    stream = io.StringIO()
    view = Lines(stream)
    view({"type": "turn", "turn": 0, "error": "LMError", "message": "no\x1b[2J\n" + "y" * 300})
    view({"type": "call", "cell": 1, "error": "LMError", "message": "away", "node": "1.2"})
    view({"type": "end", "stop_reason": "answered", "turns": 3})
    assert stream.getvalue() == (
        f"turn 1: LMError: no [2J {'y' * 193}...\n[1.2]   sub-call failed: LMError: away\n"
    )


def test_the_view_fits_where_it_is_shown(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert type(view_of(quiet=True)) is View
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert type(view_of(quiet=False)) is TreeView
    monkeypatch.setenv("TERM", "dumb")
    assert type(view_of(quiet=False)) is Lines
