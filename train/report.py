"""What a run says: its plan before the work, its numbers after it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from peft.tuners.tuners_utils import BaseTunerLayer
from transformers import PreTrainedTokenizerBase

from rlm_executor.errors import RLMError
from train import rows
from train.checkpoints import step_of
from train.config import SFTConfig
from train.inputs import Inputs
from train.machine import Machine
from train.rows import Rows
from train.trainer import Progress, Trainer
from train.watch import Development

LAST_LOGS = 4  # the final loss is the mean of so many logged values; one alone is noisy


def print_plan(
    config: SFTConfig,
    steps: int,
    inputs: Inputs,
    data: Rows,
    tokenizer: PreTrainedTokenizerBase,
    machine: Machine,
    trainer: Trainer,
    checkpoint: Path | None,
) -> None:
    """Everything inherited or derived, and one row with its trained part marked."""
    trained, total = parameters(trainer)
    layers = sum(isinstance(module, BaseTunerLayer) for module in trainer.model.modules())
    lora = f"lora r={config.lora_r} alpha={config.lora_alpha} on {layers} linear layers"
    share = data.target_tokens / data.tokens
    card = inputs.card.name if inputs.card else "none"
    unit = "runs" if config.packing == "tree" else "rows"
    if config.forward_tokens is not None:
        unit = f"bins of {unit}, {config.forward_tokens} tokens at most,"
    limit = f"{config.max_minutes:g} minutes at most" if config.max_minutes else "no time limit"
    print(
        f"{config.output}: base={inputs.base_name} dataset={config.dataset} card={card}\n"
        f"rows={len(data.kept)} over_window={data.over_window} (max_length {config.max_length}) "
        f"tokens={data.tokens} target_tokens={data.target_tokens} ({share:.0%}) "
        f"longest={data.longest}\n"
        f"steps={steps} ({config.epochs:g} epochs, {config.batch_size} {unit} a step, "
        f"{config.forward_size} a forward) {limit}\n"
        f"{'all weights' if config.method == 'full' else lora}, "
        f"{trained} of {total} parameters ({trained / total:.1%})\n"
        f"learning_rate={config.learning_rate:g} warmup={config.warmup:g} then linear to 0, "
        f"optimizer={config.optimizer} seed={config.seed}\n"
        f"{machine}\n"
        f"first row, | prompt (its end), + trained:\n{rows.show(data.kept[0], tokenizer)}"
    )
    if checkpoint:
        print(f"goes on from step {step_of(checkpoint)}")
    print(end="", flush=True)


def measure(
    planned_steps: int,
    data: Rows,
    machine: Machine,
    trainer: Trainer,
    progress: Progress,
    dev: Development | None,
) -> dict[str, Any]:
    """The contents of metrics.json.

    Raises:
        RLMError: the training diverged.
    """
    logs = [entry for entry in trainer.state.log_history if "loss" in entry][-LAST_LOGS:]
    loss = sum(entry["loss"] for entry in logs) / len(logs)
    accuracy = sum(entry["mean_token_accuracy"] for entry in logs) / len(logs)
    if not math.isfinite(loss):
        raise RLMError("the loss is no number any more; lower learning_rate and run again")
    heldout = [entry["eval_loss"] for entry in trainer.state.log_history if "eval_loss" in entry]
    more = {
        "heldout_loss": round(heldout[-1], 4) if heldout else None,
        "mfu": progress.mfu and round(progress.mfu, 4),
        "dev_scores": dev and dev.scores,
        "best_step": dev and dev.best,
    }
    return {
        "rows": len(data.kept),
        "dropped": data.over_window,
        "tokens": data.tokens,
        "target_tokens": data.target_tokens,
        "steps": trainer.state.global_step,
        "planned_steps": planned_steps,
        "epochs": round(trainer.state.epoch or 0.0, 3),
        "forwarded_tokens": trainer.state.num_input_tokens_seen,
        "seconds": round(progress.seconds, 1),
        "tokens_per_second": round(progress.forwarded_tokens / max(progress.trained_seconds, 1e-9)),
        "final_loss": round(loss, 4),
        "final_accuracy": round(accuracy, 4),
        "lora_parameters": parameters(trainer)[0],
        "machine": str(machine),
        **{name: value for name, value in more.items() if value is not None},
    }


def parameters(trainer: Trainer) -> tuple[int, int]:
    """Trained parameters, and all."""
    sizes = [(weight.numel(), weight.requires_grad) for weight in trainer.model.parameters()]
    return sum(size for size, trained in sizes if trained), sum(size for size, _ in sizes)
