"""Fine-tune a base on the root turns of a dataset: TRL's SFTTrainer, exact ids, LoRA or all of it.

    accelerate launch train/sft.py --config configs/sft/tiny.yaml --run runs/demo
    accelerate launch train/sft.py --config configs/sft/qwen3-8b-lora.yaml --run runs/qwen3-8b

The first takes minutes on two cores without a GPU, the second a GPU and hours.

Reads RUN/data/dataset/turns.parquet, one row a root turn, and writes RUN/sft: adapter (or, with
`method: full`, the whole model), rlm.json, metrics, model card. `python -m train.plan` says before
what it needs. Killed at any moment, the same command goes on from the last checkpoint and ends with
the same weights; a finished run returns at once. It filters nothing (data_gen does), and
merges and pushes nothing.
"""

from __future__ import annotations

import argparse
import importlib.util
import math
import os
import shutil
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

STARTED = time.monotonic()
if __name__ == "__main__":
    # A script's own folder comes first on the path; the packages of the repository lie above it.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from rlm_executor.cli import run_cli  # noqa: E402
from rlm_executor.config import load_config  # noqa: E402
from rlm_executor.errors import EnvironmentFault  # noqa: E402
from train.config import SFTConfig  # noqa: E402
from train.inputs import REPOSITORY, Inputs, find_inputs, is_done  # noqa: E402

if TYPE_CHECKING:
    from datasets import Dataset

    from train.rows import Row


def main() -> None:
    """Check what is there, then train what is owed."""
    parser = argparse.ArgumentParser(
        prog="sft.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--run", type=Path, default=Path("runs/demo"))
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides")
    args = parser.parse_args()
    config = load_config(SFTConfig, args.config, args.overrides)
    inputs = find_inputs(config, args.run)
    folder, work = args.run / config.output, args.run / f".{config.output}.work"
    if is_done(folder, inputs.stamp):
        shutil.rmtree(work, ignore_errors=True)  # left by a kill between the last two steps
        print(f"{config.output}: done before, the {what_is_made(config)} is in {folder}")
        return
    if inputs.local:
        os.environ.setdefault("HF_HUB_OFFLINE", "1")  # all that is needed is here
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    train(config, inputs, folder, work)


def train(config: SFTConfig, inputs: Inputs, folder: Path, work: Path) -> None:
    """Data, model, trainer, training, export: top to bottom."""
    # torch, transformers and TRL take many seconds to import; a done run or a wrong setting
    # should not wait for them.
    from peft import LoraConfig
    from transformers.trainer_callback import PrinterCallback
    from trl import SFTConfig as TRLConfig

    from train import checkpoints, rows
    from train.export import export, load_adapter, save_adapter
    from train.machine import find_machine
    from train.model import WAITING, check_method, load_base, load_tokenizer
    from train.report import measure, print_plan
    from train.shapes import flops_of
    from train.trainer import Progress, Trainer
    from train.tree import collate, fill, grow
    from train.watch import Development, check_set, tensorboard

    # Machine: what the numbers will be computed with.
    machine = find_machine(config.packing)
    machine.prepare()
    check_method(config.method, machine)
    if config.report_to == "wandb" and importlib.util.find_spec("wandb") is None:
        raise EnvironmentFault(
            "report_to: wandb is not installed; `.venv/bin/pip install wandb`, or tensorboard"
        )
    if config.dev is not None:
        check_set(REPOSITORY / config.dev, config.dev_server, inputs.card is not None)

    # Data: token ids and labels, made here, so that TRL changes nothing about them.
    tokenizer = load_tokenizer(inputs)
    data = rows.encode(rows.read_turns(inputs.turns), tokenizer, config.max_length)
    heldout = None
    if config.heldout_looks and inputs.heldout is not None:
        heldout = rows.encode(rows.read_turns(inputs.heldout), tokenizer, config.max_length)
    if limit := inputs.reply_limit():
        rows.check_replies(data, limit)
    tree = config.packing == "tree"
    examples = data.runs if tree else [[row] for row in data.kept]
    planned = config
    if config.forward_tokens is not None:
        sizes = [len(grow(one).tokens) for one in examples]  # one row alone is as long as it is
        bins = fill(sizes, config.forward_tokens)
        planned = config.counted_in_bins(len(examples), len(bins), machine.processes)
        examples = [[row for index in own for row in examples[index]] for own in bins]
    dataset = as_dataset(examples)

    # Model: the base frozen, LoRA on every linear layer but the vocabulary projection; or all.
    model = load_base(inputs, machine, config)
    lora = LoraConfig(
        r=config.lora_r,
        lora_alpha=config.lora_alpha,
        lora_dropout=0.0,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )

    # Trainer: rows in a prefix tree, or end to end, in an order that depends on the seed alone.
    planned = planned.counted_in_epochs(len(examples))
    steps_an_epoch = -(-len(examples) // planned.batch_size)
    # Checkpoints count steps; how many bins are one hangs on the number of processes.
    fingerprint = inputs.fingerprint + (f"-{planned.batch_size}" if config.forward_tokens else "")
    found = checkpoints.latest(work, fingerprint)
    looks = config.heldout_looks if heldout is not None else 0
    total = math.ceil(steps_an_epoch * planned.epochs)
    progress = Progress(
        fingerprint,
        started=STARTED,
        before=found[1] if found else 0.0,
        save_seconds=config.save_seconds,
        max_seconds=config.max_minutes and config.max_minutes * 60,
        flops_a_token=flops_of(config, data) if machine.peak else 0.0,
        peak=machine.peak and machine.peak * machine.processes,
    )
    trainer = Trainer(
        model=model,
        processing_class=tokenizer,
        train_dataset=dataset,
        eval_dataset=heldout and as_dataset(heldout.runs if tree else [[r] for r in heldout.kept]),
        data_collator=collate if tree else None,
        peft_config=None if config.method == "full" else lora,
        callbacks=[progress],
        args=TRLConfig(
            output_dir=str(work),
            learning_rate=config.learning_rate,
            warmup_steps=config.warmup,
            optim=config.optimizer,
            weight_decay=0.0,
            num_train_epochs=planned.epochs,
            per_device_train_batch_size=planned.forward_size,
            gradient_accumulation_steps=planned.forwards_a_step(machine.processes),
            seed=config.seed,
            padding_free=not tree,
            max_length=None,
            dataset_kwargs={"skip_prepare_dataset": True},
            bf16=machine.bf16,
            use_cpu=machine.device == "cpu",
            gradient_checkpointing=machine.device != "cpu",
            logging_steps=max(1, round(steps_an_epoch * planned.epochs / 40)),
            logging_nan_inf_filter=False,  # a loss that is no number must be seen
            include_num_input_tokens_seen="all",  # there is no padding: all are real
            eval_strategy="steps" if looks else "no",
            eval_steps=max(1, total // looks) if looks else None,
            per_device_eval_batch_size=planned.forward_size,
            prediction_loss_only=True,
            save_strategy="no",  # the callback says when
            save_total_limit=2,
            disable_tqdm=True,
            report_to="wandb" if config.report_to == "wandb" else "none",
            run_name=config.output,
            ddp_timeout=round(WAITING.total_seconds()),
        ),
    )
    trainer.remove_callback(PrinterCallback)  # Progress prints the same in one line
    if config.report_to == "tensorboard" and trainer.is_world_process_zero():
        trainer.add_callback(tensorboard(work.parent / "logs" / config.output))
    dev = None
    if config.dev is not None:
        dev = Development(
            REPOSITORY / config.dev,
            config.dev_server,
            config.dev_steps,
            work / checkpoints.WATCHED,
            lambda place: save_adapter(place, trainer.model, inputs, tokenizer),
        )
        dev.log = trainer.log_beside
        trainer.add_callback(dev)

    # Train: from the last whole checkpoint, if there is one.
    if trainer.is_world_process_zero():
        print(machine.attention_in_words)
        print_plan(planned, total, inputs, data, tokenizer, machine, trainer, found and found[0])
        work.mkdir(parents=True, exist_ok=True)
        checkpoints.keep_only(work, found and found[0])
    trainer.accelerator.wait_for_everyone()
    with checkpoints.naming_full_disk(work.parent):
        trainer.train(resume_from_checkpoint=str(found[0]) if found else None)

    # Save: the best weights, where they are told; the whole folder at once, then checkpoints go.
    weights = trainer.whole_weights() if config.method == "full" else None
    if trainer.is_world_process_zero():
        if dev is not None and dev.best not in (None, trainer.state.global_step):
            load_adapter(dev.folder / "best", trainer.model)
            print(f"the weights of step {dev.best} are kept, of the best dev_score", flush=True)
        metrics = measure(total, data, machine, trainer, progress, dev)
        with checkpoints.naming_full_disk(work.parent):
            export(folder, trainer.model, tokenizer, weights, config, inputs, metrics)
        shutil.rmtree(work, ignore_errors=True)
        print(
            f"{config.output}: {metrics['steps']} steps in {metrics['seconds']:.0f} s, "
            f"{metrics['tokens_per_second']} tokens/s, final loss {metrics['final_loss']}, "
            f"accuracy {metrics['final_accuracy']}; {what_is_made(config)} in {folder}",
            flush=True,
        )
    # Freeing a gloo group whose thread still drops the tensors of the last gather can stand still
    # for ever (torch 2.13: one waits for the GIL, one for the lock); a barrier has no tensors.
    trainer.accelerator.wait_for_everyone()
    trainer.end()


def as_dataset(examples: list[list[Row]]) -> Dataset:
    """The rows of each example laid end to end, and their lengths."""
    from datasets import Dataset

    return Dataset.from_dict(
        {
            "input_ids": [[token for row in rows for token in row.input_ids] for rows in examples],
            "labels": [[label for row in rows for label in row.labels] for rows in examples],
            "seq_lengths": [[len(row.input_ids) for row in rows] for rows in examples],
        }
    )


def what_is_made(config: SFTConfig) -> str:
    """A word for the lines that say where it is."""
    return "model" if config.method == "full" else "adapter"


if __name__ == "__main__":
    run_cli(main)
