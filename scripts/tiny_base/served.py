"""The figures of ``measure`` through a real vLLM in bf16, some requests at a time."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx
from tqdm.asyncio import tqdm
from transformers import PreTrainedTokenizerBase

from scripts.tiny_base.cases import ROWS, cases
from scripts.tiny_base.measure import Finished, Scores, share_of_lines
from scripts.tiny_base.mixture import WINDOW
from scripts.tiny_base.skills import Sample
from serve.config import EngineConfig
from serve.engine import Engine


async def measure_served(
    base: Path,
    tokenizer: PreTrainedTokenizerBase,
    source: list[str],
    count: int,
    batch: int,
    finished: Finished,
) -> Scores:
    """Through vLLM, ``batch`` requests at a time: how right each case of each row is, 0 to 1."""
    left = [row for row in ROWS if row.name not in finished.rows]
    if not left:
        return finished.rows
    config = EngineConfig(model=str(base), dtype="bfloat16", max_model_len=WINDOW, kv_cache_gib=1)
    room = asyncio.Semaphore(batch)
    async with (
        Engine(config) as server,
        httpx.AsyncClient(base_url=server.base_url, timeout=600, trust_env=False) as client,
    ):

        async def ask(sample: Sample) -> str:
            async with room:
                reply = await client.post(
                    "chat/completions",
                    json={
                        "model": server.models[0],
                        "messages": [{"role": r, "content": text} for r, text in sample[:-1]],
                        "temperature": 0,
                        "max_tokens": len(tokenizer(sample[-1][1])["input_ids"]) + 8,
                        "chat_template_kwargs": {"enable_thinking": False},
                    },
                )
            reply.raise_for_status()
            return reply.json()["choices"][0]["message"]["content"] or ""

        for row in left:
            samples = [sample for sample, _ in cases(row, tokenizer, source, count)]
            replies = await tqdm.gather(*map(ask, samples), desc=row.name, leave=False)
            pairs = [(reply, sample[-1][1]) for reply, sample in zip(replies, samples, strict=True)]
            finished.add(
                row.name,
                [
                    share_of_lines(*pair) if row.by_line else float(pair[0] == pair[1])
                    for pair in pairs
                ],
            )
    return finished.rows
