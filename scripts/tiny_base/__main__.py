"""Pretrain the tiny base, the stand-in for Qwen3-8B: from random weights.

    python -m scripts.tiny_base --device cuda --workers 14 --step-tokens 32768 --tokens 230000000
    python -m scripts.tiny_base --out runs/cpu-base --work runs/cpu-work   # on a CPU

The first made the committed weights, in nine minutes on an H200 with sixteen cores. The second
(10 million tokens) shows the skills begin, at 2,700 tokens a second on two cores with bf16 units,
and ends far below.

Writes a ``Qwen3ForCausalLM`` in bf16 with its tokenizer (own byte-level BPE, Qwen3's special
tokens, the stock Qwen3 chat template) and ``training.json``; ``scripts.tiny_base.measure`` measures
it and writes the card. The samples come from ``mixture.py``. Killed at any moment, the same command
goes on from the last checkpoint (every five minutes).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from rlm_executor.cli import run_cli
from rlm_executor.files import sha256_text
from scripts.tiny_base.batches import Plan
from scripts.tiny_base.card import write_training
from scripts.tiny_base.measure import column, measure, show
from scripts.tiny_base.mixture import Mixture, read_source
from scripts.tiny_base.model import SHORT_ROWS, build_model, build_tokenizer
from scripts.tiny_base.pretrain import code_sha256, prepare_gpu, train


def main() -> None:
    """Pretrain and write the folder."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("assets/tiny-base"))
    parser.add_argument("--tokens", type=int, default=10_000_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--step-tokens", type=int, default=4096, help="a multiple of 4,096")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--workers", type=int, default=0, help="processes that make batches ahead")
    parser.add_argument("--python-source", type=Path, help="folder of .py files (default: stdlib)")
    parser.add_argument("--work", type=Path, default=Path("runs/tiny-base"), help="checkpoints")
    args = parser.parse_args()

    plan = Plan(args.tokens, args.seed, args.step_tokens, args.workers)
    attention = prepare_gpu() if args.device == "cuda" else SHORT_ROWS
    torch.manual_seed(args.seed)
    source = read_source(args.python_source)
    mixture = Mixture(source)
    args.work.mkdir(parents=True, exist_ok=True)
    recipe = sha256_text(mixture.sha256 + code_sha256())
    tokenizer = build_tokenizer(mixture, args.work / f"tokenizer-{recipe[:12]}.json")
    model = build_model(tokenizer, attention).to(args.device)
    mixture.vocabulary = range(3, len(tokenizer))

    def look() -> str:
        return show(column(measure(model, tokenizer, source, 8, longest=1024), 8)["figures"])

    done = train(model, tokenizer, mixture, plan, args.work / "checkpoint.pt", look)
    args.out.mkdir(parents=True, exist_ok=True)
    model.to(torch.bfloat16).save_pretrained(args.out)
    tokenizer.save_pretrained(args.out)
    (args.out / "skills.json").unlink(missing_ok=True)  # figures of other weights
    write_training(args.out, model, plan, done, mixture.sha256)
    print(f"now: python -m scripts.tiny_base.measure --base {args.out}")


if __name__ == "__main__":
    run_cli(main)
