"""Tokens a second that vLLM's CPU build writes with a LoRA adapter: `make bench-lora`.

Three servers one after another, the same requests to each: the base without any adapter (the
limit), vLLM's own LoRA (the peer), and ``serve/vllm_cpu.py``. The adapter has random weights: its
texts mean nothing, their cost is that of any other.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
import time
from pathlib import Path

import httpx
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from rlm_executor.cli import run_cli
from scripts.bench_record import ROOT, print_record
from serve import engine
from serve.config import EngineConfig

PROMPT_TOKENS, REPLY_TOKENS, ROUNDS = 350, 128, 3  # as a root turn of the demo
PLAIN = """import runpy
if __name__ == "__main__":
    runpy.run_module("vllm.entrypoints.openai.api_server", run_name="__main__")
"""


def main() -> None:
    """Measure the three and print them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--requests", type=int, default=16, help="at a time")
    parser.add_argument("--rank", type=int, default=32)
    arguments = parser.parse_args()
    base = ROOT / "assets" / "tiny-base"
    with tempfile.TemporaryDirectory() as folder:
        adapter = Path(folder) / "adapter"
        make_adapter(base, adapter, arguments.rank)
        plain = Path(folder) / "plain.py"
        plain.write_text(PLAIN, encoding="utf-8")
        cases = {
            "no_adapter": (engine.VLLM_CPU, {}),
            "vllm_lora": (plain, {"lora": adapter}),
            "ours": (engine.VLLM_CPU, {"lora": adapter}),
        }
        rates = {}
        for name, (script, adapters) in cases.items():
            engine.VLLM_CPU = script
            config = EngineConfig(model=str(base), adapters=adapters, kv_cache_gib=1)
            rates[name] = round(asyncio.run(measure(config, arguments.requests)), 1)
    print_record(f"tokens/s written for {arguments.requests} requests at once", rates)


def make_adapter(base: Path, folder: Path, rank: int) -> None:
    """A LoRA adapter of all linear layers, with weights that are not zero."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(base)
    tuned = get_peft_model(
        model,
        LoraConfig(r=rank, lora_alpha=rank, target_modules="all-linear", init_lora_weights=False),
    )
    tuned.save_pretrained(folder)


async def measure(config: EngineConfig, requests: int) -> float:
    """Median rate of a few rounds, after one to warm up."""
    async with engine.Engine(config) as server:
        url = f"{server.base_url}/completions"
        async with httpx.AsyncClient(timeout=600, trust_env=False) as client:
            rates = []
            for number in range(ROUNDS + 1):
                bodies = [
                    {
                        "model": server.models[-1],
                        # Another prompt each time: no prefix of one is a prefix of another.
                        "prompt": [1000 + number, *range(index, index + PROMPT_TOKENS)],
                        "max_tokens": REPLY_TOKENS,
                        "ignore_eos": True,
                        "temperature": 0,
                    }
                    for index in range(requests)
                ]
                started = time.perf_counter()
                replies = await asyncio.gather(*(client.post(url, json=body) for body in bodies))
                seconds = time.perf_counter() - started
                written = sum(reply.json()["usage"]["completion_tokens"] for reply in replies)
                rates.append(written / seconds)
    return statistics.median(rates[1:])


if __name__ == "__main__":
    run_cli(main)
