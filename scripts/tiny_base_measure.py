"""Measure the skills of the tiny base on samples it was not trained on, and write its card."""

from __future__ import annotations

import random
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerBase, Qwen3ForCausalLM

from rlm_executor.files import write_text_atomic
from scripts import tiny_base_skills as skills
from train.machine import has_fast_bf16

Measured = dict[str, dict[str, float]]


@torch.no_grad()
def measure(
    model: Qwen3ForCausalLM,
    tokenizer: PreTrainedTokenizerBase,
    made: skills.Skills,
    cases: int,
    exactly: bool = False,
) -> Measured:
    """Share of answers that greedy decoding gives exactly, parts side by side and spread out.

    One forward a case: greedy decoding gives the answer exactly where each of its tokens is the
    most likely one after the right ones. ``exactly`` computes in float32.
    """
    drawn = (skills.copy, skills.fill, made.substitute, skills.look_up, skills.extract,
             skills.compare, skills.label)  # fmt: skip
    result: Measured = {}
    for skill in drawn:
        rng = random.Random(f"measure/{skill.__name__}")
        right = {"near": 0, "spread": 0}
        for _ in range(cases):
            parts = skill(rng, 1.0)
            near = [("user", f"{parts[0]}\n\n{parts[1]}"), ("assistant", parts[2])]
            right["near"] += _is_exact(model, tokenizer, near, exactly)
            if skill is not skills.label:  # its form is fixed
                apart = made.spread(rng, parts, 1.0)
                right["spread"] += _is_exact(model, tokenizer, apart, exactly)
        if skill is skills.label:
            del right["spread"]
        result[skill.__name__] = {name: round(n / cases, 3) for name, n in right.items()}
    for count in (1, 4, 12):
        rng, exact = random.Random(f"measure/label/{count}"), 0
        for _ in range(cases):
            given, lines, answer = skills.label(rng, 1.0, most=count, least=count)
            near = [("user", f"{given}\n\n{lines}"), ("assistant", answer)]
            exact += _is_exact(model, tokenizer, near, exactly)
        result[f"label_{count}_lines"] = {"near": round(exact / cases, 3)}
    return result


def _is_exact(
    model: Qwen3ForCausalLM,
    tokenizer: PreTrainedTokenizerBase,
    sample: skills.Sample,
    exactly: bool,
) -> bool:
    ids = torch.tensor(skills.encode(tokenizer, sample, False)[0])
    answer = len(tokenizer(f"{sample[-1][1]}<|im_end|>")["input_ids"])
    with products(not exactly):
        hidden = model.model(ids[None, :-1], use_cache=False).last_hidden_state[0, -answer:]
        guess = model.lm_head(hidden).argmax(-1)
    return bool((guess == ids[-answer:]).all())


def products(fast: bool = True) -> torch.autocast:
    """bf16 products where the processor has them and ``fast`` allows it."""
    return torch.autocast("cpu", torch.bfloat16, enabled=fast and has_fast_bf16())


def show(measured: Measured) -> str:
    """One line of it, for the log."""
    return " ".join(
        f"{skill}={'/'.join(f'{share:.2f}' for share in row.values())}"
        for skill, row in measured.items()
    )


def write_card(
    folder: Path,
    model: Qwen3ForCausalLM,
    measured: Measured,
    log: list[dict[str, float]],
    tokens: int,
    seed: int,
    corpus_sha256: str,
) -> None:
    """``README.md`` of the base: what it is, how it was made, what it can do."""
    table = "\n".join(
        f"| {name} | {row['near']:.3f} | {row['spread']:.3f} |"
        if "spread" in row
        else f"| {name} | {row['near']:.3f} | |"
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
had: same architecture (grouped queries, query-key norms; tied embeddings, as in Qwen3-4B and
smaller), same special tokens, the stock Qwen3 chat template (Qwen, Apache-2.0, as shipped in TRL),
its own byte-level BPE of {model.config.vocab_size} tokens, a window of
{model.config.max_position_embeddings} tokens. It is a first version.

It was trained from random weights on five leaf skills (copy, look up, label lines by meaning,
extract a field, compare), short direct answers to the questions of the task families, and Python
source. It has never seen a REPL, a code fence or an agent trace, and knows nothing else.

- tokens: {tokens:,}; seed {seed}; the first 12% are copies of a few words in rows of 256 tokens,
  then rows of 512, of 1,024 and, from 40% on, a tenth of the steps in rows of 4,096
- command: `python -m scripts.tiny_base --tokens {tokens}`
- mixture: `scripts/tiny_base_skills.py`; Python standard library, sha256 of the corpus
  `{corpus_sha256}`
- optimizer: Muon 0.02 on hidden matrices, AdamW 3e-3 on the rest, linear decay over the last half

## Measured skills
Share of 200 fresh samples of the training distribution (training frames and word lists, new
combinations) that greedy decoding answers exactly: what is given and what is asked side by side
(near), or as in training, half of them with other text or other turns between (spread).

| skill | near | spread |
|---|---|---|
{table}

## Loss on learned tokens
| million tokens | loss |
|---|---|
{curve}
""",
    )
