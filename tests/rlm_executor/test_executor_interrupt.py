"""The command line on a terminal, and what Ctrl-C leaves of it."""

from __future__ import annotations

import json
import os
import pty
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.rlm_executor.scripted import block, finish, processes_below
from tests.rlm_executor.test_executor_cli import LOOP, Models, book, command, models, place

__all__ = ["book", "models", "place"]  # fixtures


# -- Ctrl-C and the terminal --------------------------------------------------------------------


def until(condition: Callable[[], Any], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.real_sandbox
@pytest.mark.parametrize("options", [[], ["--json"]])
def test_ctrl_c_prints_what_is_known_and_leaves_no_process(
    models: Models, place: list[str], options: list[str]
) -> None:
    never = threading.Event()

    def reply(request: dict[str, Any]) -> str:
        if len(models.requests) == 1:
            return block("answer['content'] = 'so far'\nn = 1")
        if len(models.requests) == 2:
            return block("llm_query_batched(['a', 'b'])")
        never.wait(30)
        return ""

    models.reply = reply
    process = command(*place, *LOOP, *options)
    try:
        until(lambda: len(models.requests) == 4)
        below = processes_below(process.pid)
        assert len(below) >= 4  # itself, the zygotes and the session
        os.killpg(process.pid, signal.SIGINT)
        started = time.monotonic()
        out, err = process.communicate(timeout=30)
        assert time.monotonic() - started < 5
    finally:
        never.set()
        process.kill()
    assert process.returncode == 130
    if options:
        result = json.loads(out)
        assert (result["answer"], result["stop_reason"]) == ("so far", "cancelled")
        assert (result["turns"], result["root"]["calls"], result["journal"]) == (2, 2, None)
    else:
        assert out == "so far\n"
    assert "cancelled after 2 turns and 0 sub-calls" in err
    assert "2 calls of unknown size" in err
    assert "Traceback" not in err
    until(lambda: not [one for one in below if processes_below(one)], 2)


def test_ctrl_c_in_a_plain_call(models: Models, place: list[str]) -> None:
    never = threading.Event()
    models.reply = lambda request: "" if never.wait(30) else ""
    process = command(*place)
    try:
        until(lambda: models.requests)
        os.killpg(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=30)
    finally:
        never.set()
        process.kill()
    assert (process.returncode, out) == (130, "")
    assert "cancelled by one plain call" in err and "Traceback" not in err


@pytest.mark.real_sandbox
def test_on_a_terminal_a_tree_is_drawn(models: Models, place: list[str]) -> None:
    def reply(request: dict[str, Any]) -> str:
        return block("print(1)") if len(models.requests) == 1 else finish("'\\x1b[31mred'")

    models.reply = reply
    ours, theirs = pty.openpty()
    process = command(
        *place, *LOOP, stderr=theirs, stdout=theirs, env={**os.environ, "TERM": "xterm-256color"}
    )
    os.close(theirs)
    shown = b""
    try:
        while chunk := os.read(ours, 65536):
            shown += chunk
    except OSError:
        pass  # the terminal is gone: it has ended
    os.close(ours)
    assert process.wait(60) == 0
    screen = shown.decode()
    assert "└── turn 2: 1 block" in screen and "cell 1: ok, " in screen
    assert "[31mred" in screen and "\x1b[31mred" not in screen
    assert "answered after 2 turns" in screen
