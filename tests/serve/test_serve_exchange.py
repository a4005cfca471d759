"""A real vLLM exchanges the adapter that a training looks at, and forgets the last one."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from safetensors.torch import load_file, save_file

from serve.engine import Engine
from train.watch import ADAPTER, check_server, exchange

pytestmark = [pytest.mark.real_vllm, pytest.mark.slow]
PROMPT = "One of the special magic numbers for otter is: 4839201. " * 8  # whole blocks of cache


@pytest.fixture
def server(vllm_engine: Engine, adapter_folder: Path) -> Iterator[str]:
    """Its address; the adapter of the other tests is there again afterwards."""
    yield vllm_engine.base_url
    exchange(vllm_engine.base_url, adapter_folder)


def scores(server: str) -> list[float]:
    """Log-probabilities of the prompt's likeliest next tokens."""
    body = {"model": ADAPTER, "prompt": PROMPT, "max_tokens": 1, "temperature": 0, "logprobs": 5}
    with httpx.Client(timeout=120, trust_env=False) as client:
        told = client.post(f"{server}/completions", json=body).raise_for_status().json()
    return sorted(told["choices"][0]["logprobs"]["top_logprobs"][0].values())


def test_each_adapter_answers_for_itself(server: str, adapter_folder: Path, tmp_path: Path):
    check_server(server)
    first, other = (shutil.copytree(adapter_folder, tmp_path / name) for name in ("a", "b"))
    weights = load_file(adapter_folder / "adapter_model.safetensors")
    save_file({name: -weight if "lora_B" in name else weight for name, weight in weights.items()},
              other / "adapter_model.safetensors")  # fmt: skip
    told = []
    for adapter in (first, other, shutil.copytree(first, tmp_path / "c")):
        exchange(server, adapter)
        told.append([scores(server), scores(server)])
    assert told[0][0] != pytest.approx(told[1][0], abs=1e-2)
    for one in told:
        assert one[0] == pytest.approx(one[1], abs=2e-2)  # the second from the cache
    assert told[0][0] == pytest.approx(told[2][0], abs=2e-2)
