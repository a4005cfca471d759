"""`python -m eval.run` as a command: real loops, a stand-in server, kills at any moment."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from data_gen.expert import Style, program
from data_gen.teacher import label_lines
from eval.results import read_rows
from eval.run import main
from rlm_executor import DIALECTS, RLMCard
from rlm_executor.errors import RLMError
from tests.eval.fakes import server, write_config

REPOSITORY = Path(__file__).parents[2]
STYLE = Style.draw(random.Random("a style"))


def reply(model: str, messages: list[dict[str, str]]) -> str:
    """``rlm`` writes the expert's programs, ``base`` labels lines and is no good as a root."""
    last = messages[-1]["content"]
    if model == "rlm":
        question = messages[1]["content"].rsplit("\n\nContext:", 1)[0]
        said = sum(message["role"] == "assistant" for message in messages)
        turns = program(question, STYLE)
        return turns[min(said, len(turns) - 1)]
    if last.startswith(("Label", "For every", "Which of the labels")):
        return label_lines(last)
    return "I do not know."


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run directory with a trained adapter's card."""
    folder = tmp_path / "run"
    (folder / "sft").mkdir(parents=True)
    (folder / "sft" / "adapter_model.safetensors").write_bytes(b"weights")
    card = RLMCard(dialect=DIALECTS["answer-compact"], root_window=4096, sub_window=4096)
    card.save(folder / "sft")
    return folder


@pytest.fixture
def endpoint() -> Iterator[str]:
    with server(reply, models=("base", "rlm"), delay_s=0.01) as url:
        yield url


def command(run: Path, endpoint: str, **changes: Any) -> list[str]:
    arms = [
        {"name": "direct", "kind": "direct"},
        {
            "name": "rlm-base-1shot",
            "kind": "rlm",
            "example": True,
            "total": 2,
            "limits": {"max_turns": 1},
        },
        {"name": "rlm-sft", "kind": "rlm", "model": "rlm"},
        {"name": "expert", "kind": "expert"},
        {"name": "floor", "kind": "floor"},
    ]
    cells = [
        {"family": "niah", "length": 4096, "windows": 2, "questions": 2},
        {"family": "oolong", "length": 1024, "windows": 2, "questions": 2},
    ]
    settings: dict[str, Any] = {"arms": arms, "cells": cells, "adapters": {"rlm": "sft"}}
    config = write_config(run.parent / "eval.yaml", **(settings | changes))
    return [
        sys.executable, "-m", "eval.run", "--config", str(config), "--run", str(run),
        "--endpoint", endpoint,
    ]  # fmt: skip


def start(arguments: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        arguments,
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
    )


def finish(arguments: list[str]) -> tuple[int, str, str]:
    process = start(arguments)
    out, err = process.communicate(timeout=240)
    return process.returncode, out, err


def rows_of(run: Path) -> list[dict[str, Any]]:
    return read_rows(run / "eval" / "results.jsonl")


def wait_for_rows(run: Path, count: int, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while len(rows_of(run)) < count and process.poll() is None:
        assert time.monotonic() < deadline, "no rows"
        time.sleep(0.01)


@pytest.mark.real_sandbox
def test_killed_at_any_moment_it_goes_on_and_ends_complete(run: Path, endpoint: str) -> None:
    arguments = command(run, endpoint)
    rng = random.Random()
    kept: list[bytes] = []
    for count in (1, rng.randint(2, 20)):
        process = start(arguments)
        wait_for_rows(run, count, process)
        time.sleep(rng.random() * 0.2)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        kept = (run / "eval" / "results.jsonl").read_bytes().splitlines(keepends=True)
    code, out, err = finish(arguments)
    assert code == 0, err
    rows = rows_of(run)
    names = [(row["arm"], row["task_id"]) for row in rows]
    assert len(names) == len(set(names)) == 4 * 8 + 2
    whole = [line for line in kept if line.endswith(b"\n")]
    assert (run / "eval" / "results.jsonl").read_bytes().startswith(b"".join(whole))
    assert not (run / "contexts").exists()
    # What it costs comes first, what it took last.
    assert out.index("minutes") < out.index("eval done=") < out.index("34 of 34 runs done")
    means = {arm: _mean(rows, arm) for arm in ("direct", "rlm-sft", "expert", "rlm-base-1shot")}
    assert means["rlm-sft"] == means["expert"] == 1 and means["direct"] < 0.5
    assert means["rlm-base-1shot"] <= 0.5
    leaves = [row for row in rows if row["family"] == "oolong" and row["arm"] == "expert"]
    assert all(row["tokens_sub"] > 0 for row in leaves)
    assert sum(row["cached_calls"] for row in rows) > 0
    example = json.loads(next((run / "eval" / "examples").glob("niah-*.json")).read_text())
    assert [message["role"] for message in example["messages"]][::2] == ["user", "user"]
    assert all((run / "eval" / "journals" / row["journal"]).exists() for row in leaves)
    for path in (run / "eval").rglob("*.json*"):
        text = path.read_text()
        assert str(run.parent) not in text and "127.0.0.1" not in text, path.name
    # All is done: a second run starts no work and needs no server.
    code, out, err = finish([*arguments[:-1], "http://127.0.0.1:9/v1"])
    assert code == 0 and "all 34 runs are done" in out


def _mean(rows: list[dict[str, Any]], arm: str) -> float:
    scores = [row["score"] for row in rows if row["arm"] == arm]
    return sum(scores) / len(scores)


@pytest.mark.parametrize("signal_number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_keeps_what_is_done(
    run: Path, endpoint: str, signal_number: signal.Signals
) -> None:
    arguments = command(
        run,
        endpoint,
        arms=[{"name": "direct", "kind": "direct"}],
        cells=[{"family": "niah", "length": 1024, "windows": 100, "questions": 4}],
    )
    process = start(arguments)
    wait_for_rows(run, 3, process)
    process.send_signal(signal_number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "run the same command to go on" in err and "Traceback" not in err
    assert not (run / "contexts").exists()
    done = len(rows_of(run))
    assert 3 <= done < 400
    assert len({row["task_id"] for row in rows_of(run)}) == done


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"leaf": "other"}, r"serves base, rlm; the grid also needs other"),
        ({"window": 8192}, r"window: is 8192, but base is served with 4096"),
        ({"seed": 800_000}, r"seed 800000 is not a dev seed"),
        ({"card": "nowhere"}, r"card: the run has no nowhere/rlm\.json; train first"),
        ({"arms": [{"name": "x", "kind": "rlm", "limits": {"max_turn": 1}}]}, r"known limits: max"),
    ],
)
def test_what_cannot_work_is_refused_in_one_line(
    run: Path, endpoint: str, change: dict[str, Any], problem: str
) -> None:
    with pytest.raises(RLMError, match=problem) as refused:
        main(command(run, endpoint, **change)[3:])
    assert "\n" not in str(refused.value)
    assert rows_of(run) == []


def test_no_server_is_one_line_and_exit_2(run: Path) -> None:
    code, _, err = finish(command(run, "http://127.0.0.1:9/v1"))
    assert code == 2 and err.startswith("error: no usable server") and err.count("\n") == 1
