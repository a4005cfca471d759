"""One real vLLM for the whole test session, shared by all files that ask for it.

    vllm_engine     the running ``Engine``: base and a random adapter, windows of 4,096 tokens
    vllm_base_url   its address, ending in /v1; the base is served as "base"
    vllm_lora       the name its adapter is served under
    base_folder     the model it serves: the tiny base, or a random stand-in of its shape

A start takes a minute (several on a busy machine), so tests that use it carry the marker
``real_vllm`` and never stop or break it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from serve.engine import Engine, EngineConfig
from tests.standin import build_adapter, build_base

TINY_BASE = Path(__file__).resolve().parent.parent / "assets" / "tiny-base"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What goes to one worker of pytest-xdist: all that shares the vLLM, else a file.

    The long ones come first, so that no worker ends long after the others.
    """
    place: dict[str, int] = {}
    groups: dict[pytest.Item, str] = {}
    for item in items:
        vllm = item.get_closest_marker("real_vllm") is not None
        groups[item] = group = "vllm" if vllm else item.nodeid.split("::")[0]
        item.add_marker(pytest.mark.xdist_group(group))
        rank = 0 if vllm else 1 if item.get_closest_marker("slow") else 2
        place[group] = min(rank, place.get(group, rank))
    items.sort(key=lambda item: place[groups[item]])


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
        max_num_seqs=32,
        kv_cache_gib=0.5,
        start_timeout_s=900,  # the machine may be training something at the same time
        log=tmp_path_factory.mktemp("logs") / "vllm.log",
    )
    # pytest shows captured output only of failures; a start that fails says why by itself.
    with Engine(config, say=lambda line: print(line, file=sys.stderr)) as engine:
        yield engine


@pytest.fixture(scope="session")
def vllm_base_url(vllm_engine: Engine) -> str:
    return vllm_engine.base_url


@pytest.fixture(scope="session")
def vllm_lora(vllm_engine: Engine) -> str:
    return "rlm"
