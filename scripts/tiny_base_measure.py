"""Measure the skills of the tiny base on samples it was not trained on, and write its card."""

from __future__ import annotations

import functools
import random
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerFast, Qwen3ForCausalLM

from rlm_executor.files import write_text_atomic
from scripts import tiny_base_skills as skills

_SKILLS = {
    "copy": skills.copy,
    "fill": skills.fill,
    "look_up": skills.look_up,
    "label": skills.label,
    "label_one_line": functools.partial(skills.label, most=1),
    "extract": skills.extract,
    "compare": skills.compare,
}


@torch.no_grad()
def measure(
    model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, cases: int = 100
) -> dict[str, dict[str, float]]:
    """Share of cases answered exactly, and of right lines, by greedy decoding."""
    model.eval()
    result = {}
    for name, skill in _SKILLS.items():
        rng = random.Random(f"measure/{name}")
        exact, lines_right, lines_all = 0, 0, 0
        for _ in range(cases):
            prompt, answer = skill(rng, 1.0)
            room = len(tokenizer(answer)["input_ids"]) + 8
            reply = generate(model, tokenizer, str(prompt), room)
            exact += reply == answer
            wanted, got = answer.split("\n"), reply.split("\n")
            lines_all += len(wanted)
            lines_right += sum(a == b for a, b in zip(wanted, got, strict=False))
        result[name] = {
            "cases": cases,
            "exact": round(exact / cases, 4),
            "lines": round(lines_right / lines_all, 4),
        }
        print(f"{name}: exact={exact / cases:.3f} lines={lines_right / lines_all:.3f}", flush=True)
    return result


def generate(
    model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, prompt: str, limit: int
) -> str:
    """The greedy answer to one user message, thinking off."""
    ids = tokenizer.apply_chat_template(
        [{"role": "user", "content": prompt}],
        add_generation_prompt=True,
        enable_thinking=False,
        return_tensors="pt",
        return_dict=False,
    )
    output = model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=limit, do_sample=False
    )
    return str(tokenizer.decode(output[0, ids.shape[1] :], skip_special_tokens=True))


def write_card(
    folder: Path,
    model: Qwen3ForCausalLM,
    measured: dict[str, dict[str, float]],
    log: list[dict[str, float]],
    tokens: Sequence[int],
    seed: int,
    corpus_sha256: str,
) -> None:
    """``README.md`` of the base: what it is, how it was made, what it can do."""
    table = "\n".join(
        f"| {name} | {row['cases']:.0f} | {row['exact']:.3f} | {row['lines']:.3f} |"
        for name, row in measured.items()
    )
    curve = "\n".join(
        f"| {row['tokens'] / 1e6:.2f} | {row['loss']:.3f} |"
        for row in log[:: max(1, len(log) // 10)]
    )
    size = sum(p.numel() for p in model.parameters()) / 1e6
    write_text_atomic(
        folder / "README.md",
        f"""---
license: apache-2.0
library_name: transformers
---
# tiny-base

A `Qwen3ForCausalLM` of {size:.2f}M parameters that stands in for Qwen3-8B where no weights can be
had: same architecture (grouped queries, query-key norms, untied embeddings), same special tokens,
the stock Qwen3 chat template (Qwen, Apache-2.0, as shipped in TRL), its own byte-level BPE of
{model.config.vocab_size} tokens, a nominal window of {model.config.max_position_embeddings}.
It is a first version: rows of 256 tokens for most of its training, of 1,024 at the end.

It was trained from random weights on five leaf skills (copy, look up, label lines by meaning,
extract a field, compare), short direct answers to the questions of the task families, and Python
source. It has never seen a REPL, a code fence or an agent trace, and knows nothing else.

- tokens: {tokens[0]:,} of all skills, then {tokens[1]:,} of mostly labelling, then
  {tokens[2]:,} with loss on prompts too (the others: on answers only); seed {seed}
- command: `python -m scripts.tiny_base --tokens {tokens[0]} {tokens[1]} {tokens[2]}`
- mixture: `scripts/tiny_base_skills.py`; Python standard library, sha256 of the corpus
  `{corpus_sha256}`
- the committed weights were trained while the mixture was being written (the first phase with an
  earlier form of the labelling samples), so the command gives a like model, not the same bytes
- optimizer: Muon 0.02 on hidden matrices, AdamW 3e-3 on the rest, linear decay over the last half
  of each phase

## Measured skills
Greedy decoding in float32, fresh samples of the training distribution (training frames and word
lists, new combinations), share of exactly right answers and of right lines:

| skill | cases | exact | lines |
|---|---|---|---|
{table}

## Loss on learned tokens
| million tokens | loss |
|---|---|
{curve}
""",
    )
