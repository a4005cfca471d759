"""LoRA steps of Qwen3-8B's shape on one GPU: tokens a second, MFU, peak memory.

    python -m scripts.bench_train_gpu                # a GPU of 80 GB; random weights
    python -m scripts.bench_train_gpu --shape tiny   # the same path on a CPU, to see that it runs

Synthetic runs whose prompts grow evenly to the longest row, as ``train.shapes.Assumption`` has
them, so that the amounts are those of real runs. Two ways: ``tree`` (what rows repeat is computed
once) and ``turns`` (rows end to end). MFU counts 4N and causal attention for LoRA, nothing
recomputed, against the data sheet's dense bf16 peak; ``row_tokens`` are the tokens that the rows
have, ``tokens`` those that go through the model. It needs torch, transformers and peft, not TRL:
the loss is the token mean over labelled positions, as TRL computes it.
"""

from __future__ import annotations

import argparse
import random
import time
from typing import Any

import torch

from rlm_executor.cli import run_cli
from rlm_executor.errors import EnvironmentFault
from scripts.bench_record import print_record

MEASURED, COLD = 4, 2  # steps


def main() -> None:
    """Measure both ways, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--shape", choices=("8b", "tiny"), default="8b")
    parser.add_argument("--longest", type=int, default=16_384, help="tokens of the longest row")
    parser.add_argument("--turns", type=int, default=10, help="of a run")
    parser.add_argument("--way", choices=("tree", "turns"), action="append")
    args = parser.parse_args()
    if args.shape == "8b" and not torch.cuda.is_available():
        raise EnvironmentFault("torch sees no GPU here; --shape tiny runs the path on the CPU")
    bench = Bench(args.shape, args.longest, args.turns)
    for way in args.way or ("tree", "turns"):
        print_record(f"LoRA steps of Qwen3 {args.shape}, {way}", bench.measure(way))


class Bench:
    """The model and the rows."""

    def __init__(self, shape: str, longest: int, turns: int) -> None:
        from peft import LoraConfig, get_peft_model
        from transformers import Qwen3Config, Qwen3ForCausalLM
        from transformers.utils import logging

        from train.machine import find_machine
        from train.shapes import SHAPES, Shape

        logging.set_verbosity_error()
        self.machine = find_machine("tree")
        self.machine.prepare()
        if shape == "8b":
            self.shape, device = SHAPES["Qwen/Qwen3-8B"], "cuda"
        else:
            self.shape, device = Shape(64, 2, 4, 2, 128, vocab=512, head_dim=16), "cpu"
            longest = min(longest, 512)
        config = Qwen3Config(
            vocab_size=self.shape.vocab,
            hidden_size=self.shape.hidden,
            intermediate_size=self.shape.intermediate,
            num_hidden_layers=self.shape.layers,
            num_attention_heads=self.shape.heads,
            num_key_value_heads=self.shape.kv_heads,
            head_dim=self.shape.head_dim,
            max_position_embeddings=40_960,
            rope_parameters={"rope_type": "default", "rope_theta": 1e6},
            tie_word_embeddings=self.shape.tied,
            attn_implementation=self.machine.attention,
        )
        self.rank = 64 if shape == "8b" else 4
        torch.manual_seed(0)
        with torch.device(device):
            before = torch.get_default_dtype()
            torch.set_default_dtype(torch.bfloat16 if device == "cuda" else torch.float32)
            base = Qwen3ForCausalLM(config)
            torch.set_default_dtype(before)
        lora = LoraConfig(r=self.rank, lora_alpha=self.rank, target_modules="all-linear")
        self.model = get_peft_model(base, lora)
        for weight in self.model.parameters():
            if weight.requires_grad:
                weight.data = weight.data.float()
        self.model.gradient_checkpointing_enable({"use_reentrant": False})
        self.model.enable_input_require_grads()
        self.device = device
        self.rows = rows_of_a_run(self.shape.vocab, longest, turns)

    def measure(self, way: str) -> dict[str, Any]:
        """Figures of some steps, the first ones left out."""
        batches = self.batches(way)
        trained = [weight for weight in self.model.parameters() if weight.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=1e-5, fused=self.device == "cuda")
        if self.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        for step in range(COLD + MEASURED):
            if step == COLD:
                self.wait()
                started = time.perf_counter()
            loss = 0.0
            for batch in batches:
                part = self.loss(batch)
                part.backward()
                loss += part.item()
            optimizer.step()
            optimizer.zero_grad()
        self.wait()
        seconds = (time.perf_counter() - started) / MEASURED
        return self.figures(batches, seconds, loss)

    def figures(self, batches: list[dict], seconds: float, loss: float) -> dict[str, Any]:
        """What goes into the record."""
        from train.shapes import flops_a_token

        tokens = sum(batch["input_ids"].shape[1] for batch in batches)
        depths = torch.cat([batch["position_ids"][0] for batch in batches]).float() + 1
        need, again = flops_a_token(self.shape, "lora", float(depths.mean()))
        peak = self.machine.peak
        return {
            "tokens": tokens,
            "row_tokens": sum(len(row.input_ids) for row in self.rows),
            "seconds_a_step": round(seconds, 3),
            "tokens_per_second": round(tokens / seconds),
            "row_tokens_per_second": round(sum(len(row.input_ids) for row in self.rows) / seconds),
            "mfu": peak and round(need * tokens / seconds / peak, 4),
            "with_recomputed": peak and round((need + again) * tokens / seconds / peak, 4),
            "peak_gb": round(torch.cuda.max_memory_allocated() / 1e9, 1)
            if self.device == "cuda"
            else None,
            "loss": round(loss, 4),
            "attention": self.machine.attention,
            "device": torch.cuda.get_device_name() if self.device == "cuda" else "cpu",
        }

    def batches(self, way: str) -> list[dict[str, torch.Tensor]]:
        """The forward passes of a step: the run's tree, or its rows end to end in bins."""
        from train.tree import collate, fill

        groups = [self.rows]
        if way == "turns":
            longest = max(len(row.input_ids) for row in self.rows)
            bins = fill([len(row.input_ids) for row in self.rows], longest)
            groups = [[self.rows[index] for index in own] for own in bins]
        made = []
        for group in groups:
            example = {
                "input_ids": [token for row in group for token in row.input_ids],
                "labels": [label for row in group for label in row.labels],
                "seq_lengths": [len(row.input_ids) for row in group],
            }
            batch = collate([example]) if way == "tree" else end_to_end(example)
            made.append(
                {
                    name: part.to(self.device) if isinstance(part, torch.Tensor) else part
                    for name, part in batch.items()
                }
            )
        self.labelled = sum(int((batch["shift_labels"] != -100).sum()) for batch in made)
        return made

    def loss(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """The part of the step's token mean that one forward pass has."""
        labels = batch["shift_labels"]
        rest = {name: part for name, part in batch.items() if not name.endswith("labels")}
        with torch.autocast(self.device, torch.bfloat16, enabled=self.device == "cuda"):
            base = self.model.get_base_model()
            hidden = base.model(**rest, use_cache=False).last_hidden_state
            scores = base.lm_head(hidden[labels != -100])
        total = torch.nn.functional.cross_entropy(
            scores.float(), labels[labels != -100], reduction="sum"
        )
        return total / self.labelled

    def wait(self) -> None:
        """For all that was asked of the GPU."""
        if self.device == "cuda":
            torch.cuda.synchronize()


def rows_of_a_run(vocabulary: int, longest: int, turns: int) -> list[Any]:
    """Rows of random tokens: each prompt is the one before, its reply, and what was seen."""
    from train.rows import IGNORED, Row

    rng = random.Random(0)
    reply = max(1, longest // 23)  # 700 of 16,384 tokens, as ``Assumption`` has it
    first = longest // 7
    grown = (longest - reply - first) // max(1, turns - 1) - reply

    def tokens(count: int) -> list[int]:
        return [rng.randrange(vocabulary) for _ in range(count)]

    prompt, rows = tokens(first), []
    for _ in range(turns):
        said = tokens(reply)
        rows.append(Row([*prompt, *said], [IGNORED] * len(prompt) + said))
        prompt = [*prompt, *said, *tokens(grown)]
    return rows


def end_to_end(example: dict[str, list[int]]) -> dict[str, Any]:
    """Rows as TRL's padding-free collator lays them, the labels shifted already."""
    from train.rows import IGNORED

    labels, depths, ends = [], [], [0]
    for length in example["seq_lengths"]:
        own = example["labels"][ends[-1] : ends[-1] + length]
        labels += [*own[1:], IGNORED]
        depths += range(length)
        ends.append(ends[-1] + length)
    return {
        "input_ids": torch.tensor([example["input_ids"]]),
        "position_ids": torch.tensor([depths]),
        "shift_labels": torch.tensor([labels]),
        "cu_seq_lens_q": torch.tensor(ends, dtype=torch.int32),
        "cu_seq_lens_k": torch.tensor(ends, dtype=torch.int32),
        "max_length_q": max(example["seq_lengths"]),
        "max_length_k": max(example["seq_lengths"]),
    }


if __name__ == "__main__":
    run_cli(main)
