"""The engine's life with a stand-in for vLLM: starts, faults, deaths; nothing stays behind."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

import serve.engine
from rlm_executor.errors import EnvironmentFault
from serve.engine import (
    VLLM_CPU,
    Engine,
    EngineConfig,
    check_port,
    command,
    environment,
    free_port,
    is_cpu_build,
    native_dtype,
)

FAKE = Path(__file__).with_name("fake_vllm")
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def pids(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[int]]:
    """Puts the stand-in in vLLM's place; gives the process ids it had."""
    monkeypatch.setenv("PYTHONPATH", str(FAKE))
    monkeypatch.setenv("FAKE_VLLM_PIDS", str(tmp_path / "pids"))
    return lambda: [int(line) for line in (tmp_path / "pids").read_text().split()]


@pytest.fixture
def config(tiny_model: Path, tmp_path: Path) -> EngineConfig:
    return EngineConfig(model=str(tiny_model), start_timeout_s=30, log=tmp_path / "vllm.log")


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def wait_for(condition: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def test_it_serves_and_stops(config: EngineConfig, pids: Callable[[], list[int]]) -> None:
    said: list[str] = []
    with Engine(config, say=said.append) as engine:
        assert engine.models == ["base"]
        assert engine.healthy()
        listed = httpx.get(f"{engine.base_url}/models").json()["data"]
        assert [model["id"] for model in listed] == ["base"]
    assert not engine.healthy()
    assert not any(map(alive, pids()))
    assert said == [f"vllm: serves base at {engine.base_url} after {engine.start_seconds:.0f} s"]


async def test_it_serves_async_code(config: EngineConfig, pids: Callable[[], list[int]]) -> None:
    async with Engine(config, say=lambda _: None) as engine:
        assert engine.healthy()
    assert not any(map(alive, pids()))


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_exception_in_the_block_stops_it(
    config: EngineConfig, pids: Callable[[], list[int]], error: type[BaseException]
) -> None:
    with pytest.raises(error), Engine(config, say=lambda _: None):
        raise error
    assert not any(map(alive, pids()))


async def test_cancelling_a_start_stops_it(
    config: EngineConfig,
    pids: Callable[[], list[int]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FAKE_VLLM", "silent")
    starting = asyncio.ensure_future(Engine(config, say=lambda _: None).__aenter__())
    await asyncio.to_thread(wait_for, (tmp_path / "pids").exists)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert not any(map(alive, pids()))


def test_processes_that_ignore_sigterm_are_killed(
    config: EngineConfig, pids: Callable[[], list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_VLLM", "stubborn")
    monkeypatch.setattr(serve.engine, "GRACE_S", 0.5)
    with Engine(config, say=lambda _: None):
        assert len(pids()) == 2
    assert not any(map(alive, pids()))


def test_nothing_outlives_a_killed_owner(
    config: EngineConfig, pids: Callable[[], list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_VLLM", "stubborn")
    monkeypatch.setenv("PYTHONPATH", f"{FAKE}:{ROOT}")
    script = (
        "import sys, time, serve.engine as e; e.GRACE_S = 0.5\n"
        "with e.Engine(e.EngineConfig.model_validate_json(sys.argv[1])): print('up', flush=True);"
        " time.sleep(60)"
    )
    owner = subprocess.Popen(
        [sys.executable, "-c", script, config.model_dump_json()], stdout=subprocess.PIPE
    )
    assert owner.stdout is not None and owner.stdout.readline() == b"up\n"
    assert all(map(alive, pids()))
    owner.kill()
    owner.communicate()
    wait_for(lambda: not any(map(alive, pids())))


def test_nothing_outlives_a_killed_keeper(
    config: EngineConfig, pids: Callable[[], list[int]]
) -> None:
    with Engine(config.model_copy(update={"max_restarts": 0}), say=lambda _: None) as engine:
        assert engine._process is not None
        engine._process.kill()
        wait_for(lambda: engine.fault is not None)
    assert not any(map(alive, pids()))


def test_it_starts_again_at_the_same_address(
    config: EngineConfig, pids: Callable[[], list[int]]
) -> None:
    said: list[str] = []
    with Engine(config, say=said.append) as engine:
        address = engine.base_url
        os.kill(pids()[-1], signal.SIGKILL)
        wait_for(lambda: len(pids()) == 2 and engine.healthy())
        assert (engine.base_url, engine.restarts) == (address, 1)
    assert not any(map(alive, pids()))
    assert "vllm: died (exit code 137); restart 1 of 3" in said


def test_it_gives_up_after_the_last_restart(
    config: EngineConfig, pids: Callable[[], list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    with Engine(config.model_copy(update={"max_restarts": 1}), say=said.append) as engine:
        monkeypatch.setenv("FAKE_VLLM", "fails")
        os.kill(pids()[-1], signal.SIGKILL)
        wait_for(lambda: engine.fault is not None)
    assert "after 1 restarts" in str(engine.fault)
    assert any("no room for the KV cache" in line for line in said)


def test_a_sick_server_is_started_again(
    config: EngineConfig, pids: Callable[[], list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_VLLM", "sick")
    monkeypatch.setattr(serve.engine, "HEALTH_S", 0.1)
    said: list[str] = []
    with Engine(config, say=said.append) as engine:
        wait_for(lambda: engine.restarts >= 1)
    assert "vllm: died (its health check fails); restart 1 of 3" in said
    assert not any(map(alive, pids()))


def test_a_failed_start_says_why(
    config: EngineConfig, pids: Callable[[], list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_VLLM", "fails")
    with pytest.raises(EnvironmentFault, match="ValueError: no room for the KV cache") as caught:
        Engine(config, say=lambda _: None).start()
    assert "exit code 1" in str(caught.value) and "engine.kv_cache_gib" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_start_that_takes_too_long_says_what_it_did(
    config: EngineConfig, pids: Callable[[], list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_VLLM", "silent")
    monkeypatch.setattr(serve.engine, "PROGRESS_S", 0.5)
    said: list[str] = []
    engine = Engine(config.model_copy(update={"start_timeout_s": 2}), say=said.append)
    with pytest.raises(EnvironmentFault, match="within 2 s .*Starting to load model"):
        engine.start()
    assert not any(map(alive, pids()))
    assert any(line.startswith("vllm: starting, ") for line in said)


def test_a_second_log_is_not_taken_for_the_first(
    config: EngineConfig, pids: Callable[[], list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert config.log is not None
    config.log.write_text("ValueError: of yesterday\n")
    monkeypatch.setenv("FAKE_VLLM", "fails")
    with pytest.raises(EnvironmentFault) as caught:
        Engine(config, say=lambda _: None).start()
    assert "yesterday" not in str(caught.value)


def test_a_taken_port_is_a_clear_fault(config: EngineConfig) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(EnvironmentFault, match=f"port {port} .*engine.port"):
            Engine(config.model_copy(update={"port": port})).start()
    check_port("127.0.0.1", port)
    check_port("127.0.0.1", free_port("127.0.0.1"))


def test_without_vllm_it_says_so(config: EngineConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(EnvironmentFault, match="vLLM is not installed .*make setup"):
        Engine(config).start()


def test_missing_adapters_are_left_out_aloud(
    config: EngineConfig, pids: Callable[[], list[int]], tiny_adapter: Path, tmp_path: Path
) -> None:
    said: list[str] = []
    adapters = {"rlm": tiny_adapter, "direct-sft": tmp_path / "nothing"}
    with Engine(config.model_copy(update={"adapters": adapters}), say=said.append) as engine:
        assert engine.models == ["base", "rlm"]
        listed = httpx.get(f"{engine.base_url}/models").json()["data"]
        assert [model["id"] for model in listed] == ["base", "rlm"]
    assert any("no adapter direct-sft yet" in line for line in said)


def test_the_temporary_log_goes_away(config: EngineConfig, pids: Callable[[], list[int]]) -> None:
    with Engine(config.model_copy(update={"log": None}), say=lambda _: None) as engine:
        assert engine.log.exists()
    assert not engine.log.exists()


def test_the_command_holds_what_the_config_says(tiny_adapter: Path) -> None:
    config = EngineConfig(model="m", kv_cache_gib=0.5, dtype="float32", extra_args=["--seed", "1"])
    line = " ".join(command(config, 8001, {"rlm": tiny_adapter}, 12))
    assert "--model m --served-model-name base --host 127.0.0.1 --port 8001" in line
    assert "--kv-cache-memory-bytes 536870912" in line and "--dtype float32" in line
    assert f"--max-lora-rank 16 --lora-modules rlm={tiny_adapter} --seed 1" in line
    assert json.dumps({"enable_thinking": False}) in line and "--enforce-eager" in line
    assert "--max-loras 1 " in line and (str(VLLM_CPU) in line) == is_cpu_build()
    bare = command(config.model_copy(update={"enforce_eager": False}), 8001, {}, 0)
    assert not {"--enable-lora", "--enforce-eager"} & set(bare)


def test_the_environment_is_ours_where_it_matters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve.engine, "is_cpu_build", lambda: True)
    inherited = {"PATH": "/bin", "VLLM_CPU_KVCACHE_SPACE": "40"}
    made = environment(EngineConfig(model="m", cpu_threads=3), inherited)
    assert made["PATH"] == "/bin" and made["OMP_NUM_THREADS"] == "3"
    assert made["HF_HUB_OFFLINE"] == "1" and "VLLM_CPU_KVCACHE_SPACE" not in made
    monkeypatch.setattr(serve.engine, "is_cpu_build", lambda: False)
    made = environment(EngineConfig(model="m", offline=False), {})
    assert "OMP_NUM_THREADS" not in made and "HF_HUB_OFFLINE" not in made


@pytest.mark.parametrize(
    ("flags", "dtype"),
    [("fpu avx2", "float32"), ("fpu amx_bf16", "bfloat16"), ("avx512_bf16", "bfloat16")],
)
def test_the_number_type_is_the_cpus(
    flags: str, dtype: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serve.engine, "is_cpu_build", lambda: True)
    (tmp_path / "cpuinfo").write_text(f"flags\t: {flags}\n")
    assert native_dtype(tmp_path / "cpuinfo") == dtype


def test_a_second_ctrl_c_leaves_nothing_either(
    config: EngineConfig, pids: Callable[[], list[int]]
) -> None:
    engine = Engine(config, say=lambda _: None)
    engine.start()
    with contextlib.suppress(KeyboardInterrupt):
        try:
            raise KeyboardInterrupt
        finally:
            engine.stop()
            engine.stop()
    assert not any(map(alive, pids()))
