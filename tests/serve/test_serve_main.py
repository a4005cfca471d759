"""``python -m serve`` as a person uses it, with the stand-in for vLLM."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from rlm_executor import DIALECTS, Limits, RLMCard
from tests.serve.test_serve_engine import FAKE, ROOT, alive, wait_for

Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start(tiny_model: Path, tiny_adapter: Path, tmp_path: Path) -> Iterator[Start]:
    """Starts it on the folder of ``tiny_adapter`` and cleans up after a test that failed."""
    RLMCard(dialect=DIALECTS["answer-compact"], limits=Limits(max_turns=1)).save(tiny_adapter)
    started = []

    def run(*settings: str) -> subprocess.Popen[str]:
        environment = {**os.environ, "PYTHONPATH": f"{FAKE}:{ROOT}"}
        environment["FAKE_VLLM_PIDS"] = str(tmp_path / "pids")
        config = ["--config", str(ROOT / "configs/serve/tiny.yaml"), "--run", str(tmp_path)]
        options = [f"engine.model={tiny_model}", "gateway.port=null", *settings]
        process = subprocess.Popen(
            [sys.executable, "-m", "serve", *config]
            + [part for option in options for part in ("--set", option)],
            env=environment,
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield run
    for process in started:
        process.kill()
        process.communicate()


def pids(folder: Path) -> list[int]:
    return [int(line) for line in (folder / "pids").read_text().split()]


def first_answer(url: str) -> httpx.Response:
    deadline = time.monotonic() + 20
    while True:
        try:
            return httpx.get(f"{url}/models", timeout=5)
        except httpx.ConnectError:  # the line is printed just before it listens
            assert time.monotonic() < deadline
            time.sleep(0.1)


@pytest.mark.real_sandbox
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_it_serves_until_it_is_asked_to_stop(
    start: Start, tmp_path: Path, how: signal.Signals
) -> None:
    process = start()
    assert process.stdout is not None
    ready, curl = process.stdout.readline(), process.stdout.readline()
    url = re.search(r"http://\S+/v1", ready)
    assert ready.startswith("serve: rlm is ready at http://127.0.0.1:") and url is not None
    listed = [model["id"] for model in first_answer(url[0]).json()["data"]]
    assert listed == ["rlm", "base"]  # no adapter direct-sft in this run
    # The line to try is one that works.
    asked = json.loads(curl[curl.index("-d '") + 4 : curl.rindex("'")])
    body = httpx.post(f"{url[0]}/chat/completions", json=asked, timeout=60).json()
    assert body["choices"][0]["message"]["content"] == "rlm was asked"
    assert body["rlm"]["stop_reason"] == "max_turns"
    process.send_signal(how)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "no adapter direct-sft yet" in said and "Traceback" not in said
    assert not any(map(alive, pids(tmp_path)))
    assert (tmp_path / "logs" / "vllm.log").exists()


def test_nothing_outlives_its_sudden_end(start: Start, tmp_path: Path) -> None:
    process = start()
    assert process.stdout is not None and process.stdout.readline()
    process.kill()
    wait_for(lambda: not any(map(alive, pids(tmp_path))))


def test_without_an_adapter_the_base_is_served(start: Start, tmp_path: Path) -> None:
    process = start("gateway.card=nowhere")
    assert process.stdout is not None
    assert process.stdout.readline().startswith("serve: base is ready at ")
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=30)
    assert "nowhere/rlm.json yet, so no model rlm; `make data train` makes it" in said


@pytest.mark.parametrize("group", ["gateway", "engine"])
def test_a_taken_port_is_one_line(start: Start, group: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        process = start(f"{group}.port={taken.getsockname()[1]}")
        out, said = process.communicate(timeout=30)
    assert (process.returncode, out) == (2, "")
    lines = [line for line in said.splitlines() if not line.startswith("vllm: no adapter")]
    assert len(lines) == 1
    assert re.match(rf"error: port \d+ on 127.0.0.1 can't be taken .*{group}.port", lines[0])


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("engine.model=no/such", "error: the base model no/such does not exist"),
        ("engine.modle=x", "error: .*engine.modle: is not a known field"),
        ("engine.start_timeout_s=0", "error: .*start_timeout_s"),
    ],
)
def test_a_wrong_setting_is_one_line(start: Start, setting: str, said: str) -> None:
    process = start(setting)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 2 and len(errors.splitlines()) == 1
    assert re.match(said, errors)
