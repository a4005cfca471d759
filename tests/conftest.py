"""One real vLLM for the whole test session, shared by all files that ask for it.

    vllm_engine     the running ``Engine``: base and a random adapter, windows of 4,096 tokens
    vllm_base_url   its address, ending in /v1; the base is served as "base"
    vllm_lora       the name its adapter is served under
    base_folder     the model it serves: the tiny base, or a random stand-in of its shape

A start takes a minute (several on a busy machine), so tests that use it carry the marker
``real_vllm`` and never stop or break it.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from serve.engine import Engine, EngineConfig
from tests.standin import build_adapter, build_base

THE_DEMO = "test_demo_small.py"  # five minutes, for half of which it leaves a core free
TINY_BASE = Path(__file__).resolve().parent.parent / "assets" / "tiny-base"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The long ones first, so that no worker of pytest-xdist ends long after the others."""
    rank: dict[Path, int] = {}
    for item in items:
        slow = item.get_closest_marker("slow") is not None
        mine = 1 if _asks_for_vllm(item.path) else 2 if slow else 3
        mine = 0 if item.path.name == THE_DEMO else mine
        rank[item.path] = min(mine, rank.get(item.path, mine))
    items.sort(key=lambda item: rank[item.path])


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """A file goes to one worker, and all files that share the vLLM to the same one.

    (``--dist loadgroup`` would do it, but pytest-xdist 3.8 loses its groups under pytest 9.2.)
    """
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.split("::")[0]
            return "vllm" if _asks_for_vllm(Path(config.rootpath, file)) else file

    return ByFile(config, log)


@pytest.fixture(scope="session")
def thorough(request: pytest.FixtureRequest) -> bool:
    """Whether everything was asked for, `make test ARGS="-m ''"`: sizes are the stated ones then.

    Without it the same tests run smaller, so that `make test` stays within its time.
    """
    return request.config.getoption("-m") != "not by_hand"


@functools.cache
def _asks_for_vllm(path: Path) -> bool:
    text = path.read_text(encoding="utf-8")
    return "vllm_engine" in text or "vllm_base_url" in text


@pytest.fixture(scope="session")
def base_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if (TINY_BASE / "model.safetensors").exists():
        return TINY_BASE
    return build_base(tmp_path_factory.mktemp("standin") / "tiny-base")


@pytest.fixture(scope="session")
def adapter_folder(base_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_adapter(base_folder, tmp_path_factory.mktemp("adapter") / "sft")


@pytest.fixture(scope="session")
def vllm_engine(
    base_folder: Path, adapter_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Engine]:
    config = EngineConfig(
        model=str(base_folder),
        adapters={"rlm": adapter_folder},
        dtype="float32",  # so that its figures can be compared with torch's on every machine
        max_num_seqs=32,
        kv_cache_gib=0.5,
        start_timeout_s=900,  # the machine may be training something at the same time
        log=tmp_path_factory.mktemp("logs") / "vllm.log",
    )
    # pytest shows captured output only of failures; a start that fails says why by itself.
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLLM_ALLOW_RUNTIME_LORA_UPDATING", "1")  # for test_serve_exchange
        with Engine(config, say=lambda line: print(line, file=sys.stderr)) as engine:
            yield engine


@pytest.fixture(scope="session")
def vllm_base_url(vllm_engine: Engine) -> str:
    return vllm_engine.base_url


@pytest.fixture(scope="session")
def vllm_lora(vllm_engine: Engine) -> str:
    return "rlm"
