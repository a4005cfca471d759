"""Pretrain the tiny base, the stand-in for Qwen3-8B: from random weights.

    python -m scripts.tiny_base --out assets/tiny-base
    python -m scripts.tiny_base --device cuda --workers 14 --step-tokens 32768 --tokens 300000000

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
from rlm_executor.errors import InputError
from scripts.tiny_base.card import write_training
from scripts.tiny_base.measure import column, measure, show
from scripts.tiny_base.mixture import Mixture, read_source
from scripts.tiny_base.model import build_model, build_tokenizer
from scripts.tiny_base.pretrain import Plan, train


def main() -> None:
    """Pretrain and write the folder."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("assets/tiny-base"))
    parser.add_argument("--tokens", type=int, default=9_000_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--step-tokens", type=int, default=4096, help="a multiple of 4,096")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--workers", type=int, default=0, help="processes that make batches ahead")
    parser.add_argument("--python-source", type=Path, help="folder of .py files (default: stdlib)")
    parser.add_argument("--work", type=Path, default=Path("runs/tiny-base"), help="checkpoints")
    args = parser.parse_args()

    plan = Plan(args.tokens, args.seed, args.step_tokens, args.workers)
    if args.device == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda: torch sees no GPU here; leave it out to use the CPU")
    torch.manual_seed(args.seed)
    source = read_source(args.python_source)
    mixture = Mixture(source)
    args.work.mkdir(parents=True, exist_ok=True)
    tokenizer = build_tokenizer(mixture, args.work / "tokenizer.json")
    model = build_model(tokenizer).to(args.device)
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
