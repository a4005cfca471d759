"""One vLLM server with the base and its LoRA adapters side by side, for as long as a block lasts.

    config = load_config(ServeConfig, Path("configs/serve/tiny.yaml")).in_run(Path("runs/demo"))
    async with Engine(config.engine) as engine:      # or `with`, in code that is not async
        engine.base_url, engine.models               # "http://127.0.0.1:40123/v1", ["base", "rlm"]

Leaving the block stops every process of it, on every path: normal end, exception, Ctrl-C,
SIGTERM, and by way of ``keeper`` also when this process is killed. A server that dies by itself
is started again on the same port; calls in between meet a refused connection, which ``OpenAILM``
retries. What goes wrong before it serves is an ``EnvironmentFault`` of one line. All of vLLM's
own output goes to the log file.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx

from rlm_executor.errors import EnvironmentFault
from serve.config import EngineConfig, ServeConfig
from serve.engine_faults import explain, last_said
from serve.model_files import adapter_exists, check_adapter, check_cached, check_model

__all__ = ["Engine", "EngineConfig", "ServeConfig", "command", "environment"]

KEEPER = Path(__file__).with_name("keeper.py")
VLLM_CPU = Path(__file__).with_name("vllm_cpu.py")
GRACE_S = 10.0  # vLLM ends about a second after it is asked
POLL_S = 0.25
PROGRESS_S = 10.0
HEALTH_S = 10.0  # between two looks at a server that runs
SICK_LOOKS = 3  # so many failed looks in a row (not timeouts: it may be busy) mean a restart
_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # the ones vLLM can be told of


class Engine:
    """A vLLM server; ``start`` and ``stop``, or a context manager of either kind.

    Args:
        config: with paths that exist (``EngineConfig.in_run``).
        say: where progress lines go; the default prints them to stderr.
    """

    def __init__(self, config: EngineConfig, say: Callable[[str], None] | None = None) -> None:
        self.config = config
        self.models: list[str] = []
        self.port = config.port or 0
        self.restarts = 0
        self.start_seconds = 0.0
        self.fault: EnvironmentFault | None = None  # why it is down for good
        self.log = config.log or Path(tempfile.gettempdir()) / f"vllm-{os.getpid()}-{id(self)}.log"
        self._say = say or (lambda line: print(line, file=sys.stderr, flush=True))
        self._process: subprocess.Popen[bytes] | None = None
        self._log_start = 0  # where this start's part of the log begins
        self._stopping = threading.Event()
        self._watcher: threading.Thread | None = None

    @property
    def base_url(self) -> str:
        """Where OpenAI clients are pointed to."""
        return f"http://{self.config.host}:{self.port}/v1"

    def start(self) -> None:
        """Start vLLM and wait until it serves.

        Raises:
            EnvironmentFault: it can't; nothing of it is left running.
        """
        self._stopping.clear()
        adapters, max_rank = self._check()
        self.models = [self.config.base_name, *adapters]
        started = time.monotonic()
        try:
            self._launch(adapters, max_rank)
            self._wait_until_ready()
        except BaseException:
            self.stop()
            raise
        self.start_seconds = time.monotonic() - started
        self._say(
            f"vllm: serves {', '.join(self.models)} at {self.base_url} after "
            f"{self.start_seconds:.0f} s"
        )
        self._watcher = threading.Thread(
            target=self._watch, args=(adapters, max_rank), name="vllm-watcher", daemon=True
        )
        self._watcher.start()

    def stop(self) -> None:
        """Stop all of its processes. Calling it twice is fine."""
        self._stopping.set()
        if self._watcher is not None and self._watcher is not threading.current_thread():
            self._watcher.join()
            self._watcher = None
        self._end_process()
        if self.config.log is None and self.fault is None and sys.exc_info()[0] is None:
            self.log.unlink(missing_ok=True)

    def healthy(self) -> bool:
        """Whether it answers now."""
        return self._look() == 200

    def __enter__(self) -> Engine:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    async def __aenter__(self) -> Engine:
        starting = asyncio.ensure_future(asyncio.to_thread(self.start))
        try:
            await asyncio.shield(starting)
        except asyncio.CancelledError:
            self._stopping.set()  # the thread looks at it a few times a second
            await asyncio.gather(starting, return_exceptions=True)
            await asyncio.to_thread(self.stop)
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.shield(asyncio.ensure_future(asyncio.to_thread(self.stop)))

    def _check(self) -> tuple[dict[str, Path], int]:
        """Everything that can be known in milliseconds; the adapters that are there."""
        config = self.config
        if importlib.util.find_spec("vllm") is None:
            raise EnvironmentFault(
                f"vLLM is not installed for {sys.executable}; run `make setup` and use .venv"
            )
        if not config.is_hub_name:
            check_model(config.model)
        elif config.offline:
            check_cached(config.model)
        adapters, max_rank = {}, 0
        for name, folder in config.adapters.items():
            if adapter_exists(folder):
                max_rank = max(max_rank, check_adapter(name, folder, Path(config.model)))
                adapters[name] = folder
            else:
                self._say(f"vllm: no adapter {name} yet (nothing in {folder}); serving without it")
        if config.port is not None:
            check_port(config.host, config.port)
        self.port = config.port or free_port(config.host)
        return adapters, max_rank

    def _launch(self, adapters: dict[str, Path], max_rank: int) -> None:
        self.log.parent.mkdir(parents=True, exist_ok=True)
        arguments = command(self.config, self.port, adapters, max_rank)
        with self.log.open("ab") as log:
            self._log_start = log.tell()
            self._process = subprocess.Popen(
                [sys.executable, str(KEEPER), str(os.getpid()), str(GRACE_S), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment(self.config, dict(os.environ)),
                start_new_session=True,
            )

    def _wait_until_ready(self) -> None:
        started = said = time.monotonic()
        while (status := self._look()) != 200:
            now = time.monotonic()
            if self._stopping.is_set():
                raise EnvironmentFault("vLLM was stopped while it started")
            if (code := self._poll()) is not None:
                raise self._explained(f"ended with exit code {code} while it started")
            if now - started > self.config.start_timeout_s:
                raise self._explained(
                    f"did not serve within {self.config.start_timeout_s:g} s (engine."
                    f"start_timeout_s; /health says {status or 'nothing'})"
                )
            if now - said >= PROGRESS_S:
                said = now
                line = last_said(self._log_text())
                self._say(f"vllm: starting, {now - started:.0f} s; {line}")
            self._stopping.wait(POLL_S)

    def _watch(self, adapters: dict[str, Path], max_rank: int) -> None:
        """Start it again when it has died, up to ``max_restarts`` times."""
        sick, looked = 0, time.monotonic()
        while not self._stopping.wait(POLL_S):
            code = self._poll()
            if code is None:
                if time.monotonic() - looked < HEALTH_S:
                    continue
                looked, status = time.monotonic(), self._look()
                sick = 0 if status in (200, None) else sick + 1
                if sick < SICK_LOOKS:
                    continue
            reason = f"exit code {code}" if code is not None else "its health check fails"
            self._end_process()
            if self.restarts >= self.config.max_restarts:
                self.fault = self._explained(
                    f"died again ({reason}), after {self.restarts} restarts"
                )
                self._say(f"error: {self.fault}")
                return
            self.restarts, sick = self.restarts + 1, 0
            self._say(
                f"vllm: died ({reason}); restart {self.restarts} of {self.config.max_restarts}"
            )
            try:
                self._launch(adapters, max_rank)
                self._wait_until_ready()
            except EnvironmentFault as fault:
                self._end_process()
                if self._stopping.is_set():
                    return
                self._say(f"vllm: {fault}")  # the next round finds it dead and decides

    def _poll(self) -> int | None:
        return self._process.poll() if self._process is not None else -1

    def _look(self) -> int | None:
        """The status of /health; None if nothing answers in time."""
        try:
            url = f"{self.base_url.removesuffix('/v1')}/health"
            # A proxy of the environment is for the world outside, not for this machine.
            with httpx.Client(trust_env=False, timeout=5) as client:
                return client.get(url).status_code
        except httpx.HTTPError:
            return None

    def _end_process(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()  # the keeper, which ends the session
        try:
            process.wait(GRACE_S + 5)
        except subprocess.TimeoutExpired:
            pass
        try:  # vLLM is in the keeper's process group: this finds it even without a keeper
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        process.wait()

    def _log_text(self) -> str:
        try:
            with self.log.open("rb") as file:
                file.seek(self._log_start)
                return file.read().decode("utf-8", "replace")
        except OSError:
            return ""

    def _explained(self, what_happened: str) -> EnvironmentFault:
        return EnvironmentFault(f"{explain(self._log_text(), what_happened)} (log: {self.log})")


def command(config: EngineConfig, port: int, adapters: dict[str, Path], max_rank: int) -> list[str]:
    """vLLM's command line."""
    arguments: dict[str, Any] = {
        "--model": config.model,
        "--served-model-name": config.base_name,
        "--host": config.host,
        "--port": port,
        "--dtype": native_dtype() if config.dtype == "native" else config.dtype,
        "--max-model-len": config.max_model_len,
        "--max-num-seqs": config.max_num_seqs,
        # Sampling is what the request says; a model's generation_config.json stays out of it.
        "--generation-config": "vllm",
        "--default-chat-template-kwargs": json.dumps({"enable_thinking": config.thinking}),
    }
    if config.kv_cache_gib is not None:
        arguments["--kv-cache-memory-bytes"] = int(config.kv_cache_gib * 2**30)
    flat = [str(part) for pair in arguments.items() for part in pair]
    flat += ["--enable-prefix-caching", "--disable-uvicorn-access-log"]
    if config.enforce_eager:
        flat.append("--enforce-eager")
    if adapters:
        rank = next((rank for rank in _RANKS if rank >= max_rank), max_rank)
        slots = str(len(adapters))
        flat += ["--enable-lora", "--max-loras", slots, "--max-lora-rank", str(rank)]
        flat += ["--lora-modules", *(f"{name}={folder}" for name, folder in adapters.items())]
    # The `vllm` command of the CPU build does not start; the module does in both builds.
    server = ["-m", "vllm.entrypoints.openai.api_server"]
    if adapters and is_cpu_build():
        server = ["-P", str(VLLM_CPU)]
    return [sys.executable, *server, *flat, *config.extra_args]


def environment(config: EngineConfig, inherited: dict[str, str]) -> dict[str, str]:
    """The environment that vLLM runs in."""
    changed = {**inherited, "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}
    if config.offline:
        changed["HF_HUB_OFFLINE"] = "1"
    changed.pop("VLLM_CPU_KVCACHE_SPACE", None)  # it would override kv_cache_gib
    if is_cpu_build():
        cores = len(os.sched_getaffinity(0))
        changed |= {
            # One process instead of two that wait for each other by spinning.
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
            # Bound threads stand still whenever another program runs on their core, and threads
            # that spin while they wait take the core from those they wait for.
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "OMP_NUM_THREADS": str(config.cpu_threads or min(max(cores - 1, 1), 4)),
            "OMP_WAIT_POLICY": "passive",
        }
    return changed


def is_cpu_build() -> bool:
    """Whether the vLLM installed here is made for CPUs."""
    for name in ("vllm-cpu", "vllm"):
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        return name == "vllm-cpu" or "+cpu" in version
    return False


def native_dtype(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """bfloat16 where the hardware multiplies it; without that it is several times slower."""
    if not is_cpu_build():
        return "bfloat16"
    try:
        flags = set(cpuinfo.read_text(encoding="utf-8", errors="replace").split())
    except OSError:
        return "float32"
    return "bfloat16" if flags & {"avx512_bf16", "amx_bf16", "bf16"} else "float32"


def free_port(host: str) -> int:
    """A port that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        port: int = probe.getsockname()[1]
        return port


def check_port(host: str, port: int, field: str = "engine.port") -> None:
    """Refuse a port that can't be listened on.

    Raises:
        EnvironmentFault: it is taken or not allowed.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise EnvironmentFault(
                f"port {port} on {host} can't be taken ({(error.strerror or '').lower()}); stop "
                f"what listens there, or set another `{field}` (null: any free one)"
            ) from error
