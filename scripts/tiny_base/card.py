"""The card of the tiny base: what it is, how it was made, what it can do, what was tried."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from transformers import Qwen3ForCausalLM

from rlm_executor.files import write_text_atomic
from scripts.bench_record import machine
from scripts.tiny_base.batches import Plan
from scripts.tiny_base.cases import ROWS
from scripts.tiny_base.pretrain import Progress

LAB_BOOK = Path(__file__).with_name("lab_book.md")


def write_training(
    folder: Path, model: Qwen3ForCausalLM, plan: Plan, done: Progress, corpus_sha256: str
) -> None:
    """``training.json``: what the pretraining read, how long it took, its curve."""
    device = model.device.type
    facts = {
        "command": f"python -m scripts.tiny_base --device {device} --workers {plan.workers} "
        f"--step-tokens {plan.step_tokens} --tokens {plan.tokens} --seed {plan.seed}",
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "device": _device(model),
        "minutes": round(done.seconds / 60, 1),
        "rarest_token": int(done.counts.min()),
        "corpus_sha256": corpus_sha256,
        "curve": [
            {"tokens": row["tokens"], "loss": round(row["loss"], 4)}
            for row in done.log[:: -max(1, len(done.log) // 20)][::-1]  # with the last
        ],
    }
    write_text_atomic(folder / "training.json", json.dumps(facts, indent=2) + "\n")


def _device(model: Qwen3ForCausalLM) -> str:
    """The GPU's name, or the processor's."""
    if model.device.type == "cuda":
        return torch.cuda.get_device_name(model.device)
    return machine()


def write_card(folder: Path) -> None:
    """``README.md`` from ``training.json``, ``skills.json`` and the lab book."""
    training = json.loads((folder / "training.json").read_text(encoding="utf-8"))
    columns = json.loads((folder / "skills.json").read_text(encoding="utf-8"))
    curve = "\n".join(
        f"| {row['tokens'] / 1e6:.2f} | {row['loss']:.3f} |" for row in training["curve"]
    )
    text = _CARD.format(
        **training,
        millions=training["parameters"] / 1e6,
        table=_table(columns),
        curve_rows=curve,
        lab_book=LAB_BOOK.read_text(encoding="utf-8").strip(),
    )
    write_text_atomic(folder / "README.md", text)


def _table(columns: dict[str, Any]) -> str:
    head = ["skill", "prompt tokens", "aim"]
    head += [f"{way} ({column['cases']})" for way, column in columns.items()]
    lines = [head, ["---"] * len(head)]
    for row in ROWS:
        tokens = f"{row.shortest:,} to {row.longest:,}" if row.shortest else f"to {row.longest:,}"
        kind = f"{row.kind}, a line of 16" if row.by_line else row.kind
        figures = [f"{column['figures'][row.name]:.3f}" for column in columns.values()]
        lines.append([kind, tokens, f"{row.aim:.2f}", *figures])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


_CARD = """---
license: apache-2.0
library_name: transformers
---
# tiny-base

A `Qwen3ForCausalLM` of {millions:.2f}M parameters that stands in for Qwen3-8B where no weights can
be had: same architecture (grouped queries, query-key norms; tied embeddings, as in Qwen3-4B and
smaller), same special tokens, the stock Qwen3 chat template (Qwen, Apache-2.0, as shipped in TRL),
its own byte-level BPE of 2,048 tokens, a window of 4,096 tokens, trained to its end.

It was trained from random weights on five leaf skills (copy, look up, label lines, extract a
field, compare), short direct answers to the questions of the task families, and Python source. It
has never seen the protocol of the loop (its code fences, `llm_query`) or an agent trace, and knows
nothing else.

- command: `{command}`: {minutes} minutes of training on {device}
- mixture and curriculum: `scripts/tiny_base/`; Python standard library, sha256 of the corpus
  `{corpus_sha256}`
- optimizer: Muon 0.02 on hidden matrices, AdamW 3e-3 on the rest, linear decay after a third
- the rarest of its tokens was read {rarest_token} times

## Measured skills
Fresh cases in held-out words, names, marks, layouts and wordings (frames of the lines included), as
many a row as the column says: share of answers that greedy decoding gives exactly; of the labels,
share of right lines among 16. `things`: a line names a thing, its label is the category. `squares`:
a line tells two facts, the label is their cell of a Latin square, so that no word gives it away.
`glossary`: the prompt says which new words stand for which label. In torch each token follows the
right ones, so that a wrong line spoils none after it; vLLM writes the whole answer. A share of n
cases is known to 0.98 / sqrt(n) or better (95 %): to 0.044 of 500, to 0.098 of 100.

{table}

`python -m scripts.tiny_base.measure --base assets/tiny-base [--served]` measures them again.

## Lab book
{lab_book}

## Loss on learned tokens
| million tokens | loss |
|---|---|
{curve_rows}
"""
