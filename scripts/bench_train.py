"""Seconds of an epoch: rows as a tree, as TRL packs them, unpacked, by length: `make bench-train`.

Real runs of six turns and more (``configs/data/long-runs.yaml``, made if they are not there), LoRA
on the tiny base, as many optimizer steps for every way, one epoch each. The opponents get all that
makes our own training fast on a CPU but the tree: attention row by row where rows lie end to end,
scores of labelled positions only.

What is learned is compared between the tree and the fastest bins on more runs: each at its own best
learning rate, the loss on runs held out as training goes on, and the seconds of training until both
are where the worse one ends. Writes ``benchmarks/train.json`` and prints it as one line.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from rlm_executor.cli import run_cli
from scripts.bench_record import ROOT, record

DATA = ROOT / "configs" / "data" / "long-runs.yaml"
BASE = ROOT / "assets" / "tiny-base"
BINS = (4096, 8192, 16384)
GROUPED = (4, 8)  # rows in a forward pass; one by one is unpacked
RUNS_A_STEP, RUNS_A_FORWARD = 4, 4
HELD_OUT = 6  # runs
LOSS_RUNS = 48  # so many that a step of whole runs is a small part of them, as in a real set
RATES = (2e-3, 4e-3, 8e-3)  # of these the tree and the bins are given their best
LOOKS = 3  # at the loss held out, in the epoch


@dataclass(frozen=True)
class Way:
    """One way to lay the rows, and what TRL is told for it."""

    name: str
    attention: str
    settings: dict[str, Any]
    tree: bool = False
    bin: int = 0
    rows_a_forward: int = field(default=1)


def main() -> None:
    """Make the data, time each way, write and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--run", type=Path, default=ROOT / "runs" / "long-runs")
    parser.add_argument("--runs", type=int, default=16, help="to time an epoch of")
    parser.add_argument("--loss-runs", type=int, default=LOSS_RUNS, help="to learn from")
    parser.add_argument("--only", help="one way, by its name: nothing is written")
    args = parser.parse_args()
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ["ACCELERATE_USE_CPU"] = "true"
    command = [sys.executable, "-m", "data_gen.generate", "--config", str(DATA), "--run", args.run]
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    turns = args.run / "data" / "dataset" / "turns.parquet"
    bench, told = Bench(turns, args.runs), dict[str, dict[str, Any]]()
    for way in ways():
        if args.only in (None, way.name):
            told[way.name] = bench.time(way)
            print(f"{way.name}: {told[way.name]}", file=sys.stderr, flush=True)
    if args.only:
        return
    fastest = min((n for n in told if n.startswith("packed")), key=lambda n: told[n]["seconds"])
    learning = Bench(turns, args.loss_runs)
    curves = {}
    for kind, way in (("tree", "tree"), ("turns", fastest)):
        found = [learning.time(next(w for w in ways() if w.name == way), r, LOOKS) for r in RATES]
        curves[kind] = min(found, key=lambda one: one["heldout"][-1][1])
        for rate, one in zip(RATES, found, strict=True):
            print(f"{way}, rate {rate:g}: {one['heldout']}", file=sys.stderr, flush=True)
        curves[kind]["at_every_rate"] = {
            f"{rate:g}": one["heldout"][-1][1] for rate, one in zip(RATES, found, strict=True)
        }
    summary = bench.summary(told) | compared(learning, curves)
    entry = record("seconds of an epoch, runs of six turns and more", summary)
    (ROOT / "benchmarks" / "train.json").write_text(json.dumps(entry, indent=2) + "\n")
    print(json.dumps(entry))


def ways() -> list[Way]:
    """All of them; ours first."""
    from train.machine import ROW_BY_ROW

    end_to_end = {"padding_free": True, "packing": True, "packing_strategy": "bfd"}
    lengthwise = {"train_sampling_strategy": "group_by_length"}
    return [
        Way("tree", ROW_BY_ROW, {}, tree=True),
        *(Way(f"packed_{size}", ROW_BY_ROW, end_to_end, bin=size) for size in BINS),
        Way("unpacked", "sdpa", {}),
        *(Way(f"grouped_{n}", "sdpa", lengthwise, rows_a_forward=n) for n in GROUPED),
    ]


class Bench:
    """The rows, and the model anew for each way.

    Args:
        turns: turns.parquet of the runs.
        n_runs: how many of them are trained on; others are held out.
    """

    def __init__(self, turns: Path, n_runs: int) -> None:
        from transformers import AutoTokenizer

        from train import rows
        from train.machine import find_machine

        self._machine = find_machine("tree")
        self._machine.prepare()
        self._tokenizer = AutoTokenizer.from_pretrained(BASE)
        runs = rows.encode(rows.read_turns(turns), self._tokenizer, max_length=4096).runs
        long = [run for run in runs if len(run) >= 5]  # of six turns, one may be no target
        self._held_out, self.runs = long[:HELD_OUT], long[HELD_OUT : HELD_OUT + n_runs]
        self._rows = [row for run in self.runs for row in run]
        self._steps = -(-len(self.runs) // RUNS_A_STEP)

    def time(self, way: Way, rate: float = RATES[0], looks: int = 0) -> dict[str, Any]:
        """Seconds of an epoch, forwarded tokens, steps; the loss held out by seconds of training.

        What is needed to look is not counted.
        """
        from transformers import TrainerCallback

        torch.manual_seed(0)
        at = {max(1, round(self._steps * (n + 1) / looks)) for n in range(looks)}
        curve: list[tuple[float, float]] = []
        looking = 0.0

        class Look(TrainerCallback):
            def on_step_end(_, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
                nonlocal looking
                if state.global_step in at:
                    now = time.perf_counter()
                    loss = self._loss(trainer.model)
                    trainer.model.train()
                    curve.append((round(now - started - looking, 1), round(loss, 4)))
                    looking += time.perf_counter() - now

        with tempfile.TemporaryDirectory() as folder:
            trainer = self._trainer(way, folder, rate)
            trainer.add_callback(Look())
            started = time.perf_counter()
            trainer.train()
            seconds = time.perf_counter() - started - looking
        told = {
            "seconds": round(seconds, 1),
            "tokens": int(trainer.state.num_input_tokens_seen),
            "steps": trainer.state.global_step,
        }
        return told | ({"rate": rate, "heldout": curve} if looks else {})

    def summary(self, told: dict[str, dict[str, Any]]) -> dict[str, Any]:
        """The figures by their names; of each kind of opponent the fastest."""

        def fastest(kind: str) -> tuple[str, dict[str, Any]]:
            own = {name: one for name, one in told.items() if name.startswith(kind)}
            return min(own.items(), key=lambda one: float(one[1]["seconds"]))

        tree, (packed, turns) = told["tree"], fastest("packed")
        unpacked, grouped = told["unpacked"], fastest("grouped")[1]
        opponents = [one["seconds"] for one in (turns, unpacked, grouped)]
        return {
            "runs": len(self.runs),
            "rows": len(self._rows),
            "forwarded_tokens_turns": sum(len(row.input_ids) for row in self._rows),
            "forwarded_tokens_tree": tree["tokens"],
            "epoch_seconds_tree": tree["seconds"],
            "epoch_seconds_turns": turns["seconds"],
            "turns_bin": int(packed.rpartition("_")[2]),
            "epoch_seconds_unpacked": unpacked["seconds"],
            "epoch_seconds_grouped": grouped["seconds"],
            "faster_than_the_fastest": round(min(opponents) / tree["seconds"], 2),
            "device": self._machine.device,
            "ways": told,
        }

    def _trainer(self, way: Way, folder: str, rate: float) -> Any:
        from datasets import Dataset
        from peft import LoraConfig
        from transformers import AutoModelForCausalLM
        from trl import SFTConfig, SFTTrainer

        from train.tree import collate

        examples = self.runs if way.tree else [[row] for row in self._rows]
        columns = {
            "input_ids": [[token for row in run for token in row.input_ids] for run in examples],
            "labels": [[label for row in run for label in row.labels] for run in examples],
        }
        if way.tree:
            columns["seq_lengths"] = [[len(row.input_ids) for row in run] for run in examples]
        model = AutoModelForCausalLM.from_pretrained(
            BASE, dtype=torch.float32, attn_implementation=way.attention
        )
        at_once = RUNS_A_FORWARD if way.tree else way.rows_a_forward
        forwards = self._forwards(way)
        return SFTTrainer(
            model=model,
            processing_class=self._tokenizer,
            train_dataset=Dataset.from_dict(columns),
            data_collator=collate if way.tree else None,
            peft_config=LoraConfig(
                r=32, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"
            ),
            args=SFTConfig(
                output_dir=folder,
                learning_rate=rate,
                lr_scheduler_type="linear",
                weight_decay=0.0,
                num_train_epochs=1,
                per_device_train_batch_size=at_once,
                gradient_accumulation_steps=-(-forwards // self._steps),
                max_length=way.bin or None,
                dataset_kwargs={"skip_prepare_dataset": True} if way.tree else None,
                bf16=self._machine.bf16,
                use_cpu=True,
                gradient_checkpointing=False,
                include_num_input_tokens_seen="all",
                save_strategy="no",
                disable_tqdm=True,
                report_to="none",
                logging_strategy="no",
                **way.settings,
            ),
        )

    def _forwards(self, way: Way) -> int:
        """Forward passes of an epoch."""
        if way.tree:
            return -(-len(self.runs) // RUNS_A_FORWARD)
        if way.bin:
            return -(-sum(len(row.input_ids) for row in self._rows) // way.bin)
        return -(-len(self._rows) // way.rows_a_forward)

    @torch.no_grad()
    def _loss(self, model: Any) -> float:
        """Mean over the labelled tokens of the runs held out, row by row."""
        model.eval()
        total, count = 0.0, 0
        for row in (row for run in self._held_out for row in run):
            ids, labels = torch.tensor([row.input_ids]), torch.tensor(row.labels)
            logits = model(input_ids=ids).logits[0, :-1].float()
            total += float(
                torch.nn.functional.cross_entropy(
                    logits, labels[1:], ignore_index=-100, reduction="sum"
                )
            )
            count += row.target_tokens
        return total / count


def compared(learning: Bench, curves: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """What was learned, and how long each took to the loss that the worse one ends at."""
    ends = {kind: one["heldout"][-1][1] for kind, one in curves.items()}
    seconds = {kind: seconds_to(max(ends.values()), one["heldout"]) for kind, one in curves.items()}
    return {
        "heldout_loss_tree": ends["tree"],
        "heldout_loss_turns": ends["turns"],
        "loss_runs": len(learning.runs),
        "seconds_to_the_worse_loss_tree": seconds["tree"],
        "seconds_to_the_worse_loss_turns": seconds["turns"],
        "faster_to_the_same_loss": round(seconds["turns"] / seconds["tree"], 2),
        "curves": curves,
    }


def seconds_to(loss: float, curve: list[tuple[float, float]]) -> float:
    """When a curve of (seconds, loss) comes to ``loss``, on a straight line between two looks."""
    before, high = 0.0, float("inf")
    for after, low in curve:
        if low <= loss:
            share = (high - loss) / (high - low) if high != float("inf") else 1.0
            return round(before + share * (after - before), 1)
        before, high = after, low
    raise ValueError(f"the curve ends above {loss}")


if __name__ == "__main__":
    run_cli(main)
