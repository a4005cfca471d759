"""Settings of a fine-tuning run, one YAML file in configs/sft/ each."""

from __future__ import annotations

import math
from typing import Literal, Self

from pydantic import Field, model_validator

from rlm_executor.config import Config
from rlm_executor.errors import ConfigError


class SFTConfig(Config):
    """What is trained on which rows, and how. Folders are named inside the run's directory."""

    base: str  # model folder relative to the repository, or a model's name on the hub
    dataset: str = "data"  # folder with dataset/turns.parquet, and rlm.json if there is a card
    output: str = "sft"  # folder of the adapter, or of the whole model
    # lora: an adapter on the frozen base; qlora: the same on a base of 4 bits; full: all weights.
    # A new field at its default is no part of the run's stamp, or what was finished before it was
    # there would be owed again.
    method: Literal["lora", "qlora", "full"] = Field(
        default="lora", exclude_if=lambda method: method == "lora"
    )
    learning_rate: float = Field(gt=0)  # at its highest; falls linearly to 0
    warmup: float = Field(default=0.05, ge=0, lt=1)  # share of the steps
    lora_r: int = Field(default=16, ge=1, le=512)  # 512 is the highest rank that vLLM serves
    lora_alpha: int = Field(default=32, ge=1)
    epochs: float = Field(default=1, gt=0)
    max_steps: int | None = Field(  # in place of epochs: so many, over the rows again and again
        default=None, ge=1, exclude_if=lambda steps: steps is None
    )
    # tree: an example is a run with all its turns, what they repeat computed once; turns: a row.
    packing: Literal["tree", "turns"] = "tree"
    batch_size: int = Field(default=16, ge=1)  # examples an optimizer step, over all processes
    forward_size: int = Field(default=4, ge=1)  # of them in one forward pass of one process
    # In place of forward_size: bins of examples that are at most so many tokens together. A step is
    # then as many of these bins as hold batch_size examples on average.
    forward_tokens: int | None = Field(default=None, ge=1, exclude_if=lambda tokens: tokens is None)
    max_length: int = Field(gt=0)  # tokens; longer rows are counted and left out, never cut
    optimizer: str = "adamw_torch"  # a name that transformers knows
    max_minutes: float | None = Field(default=None, gt=0)  # None: as long as the epochs take
    save_seconds: float = Field(default=60, gt=0)  # between two checkpoints
    seed: int = 0
    # How often in a run the loss on the rows that the dataset puts aside is measured; 0: never.
    heldout_looks: int = Field(default=8, ge=0, exclude_if=lambda looks: looks == 8)
    # An evaluation of development seeds that the loop answers with the weights of the moment
    # (train/watch.py), by which server (null: one is started each time), and how often.
    dev: str | None = Field(default=None, exclude_if=lambda path: path is None)
    dev_server: str | None = Field(default=None, exclude_if=lambda server: server is None)
    dev_steps: int = Field(default=50, ge=1, exclude_if=lambda steps: steps == 50)
    report_to: Literal["tensorboard", "wandb", "none"] = Field(
        default="tensorboard", exclude_if=lambda where: where == "tensorboard"
    )

    @model_validator(mode="after")
    def _whole_forwards(self) -> Self:
        if self.batch_size % self.forward_size:
            raise ValueError(
                f"batch_size {self.batch_size} must be a multiple of forward_size "
                f"{self.forward_size}"
            )
        if self.dev is not None and self.method == "full":
            raise ValueError("dev needs an adapter: vLLM exchanges no whole model; leave it out")
        if self.dev_server is not None and self.dev is None:
            raise ValueError("dev_server has no use without dev")
        return self

    def counted_in_epochs(self, examples: int) -> SFTConfig:
        """The same run with ``max_steps`` said as epochs, for a dataset of so many examples."""
        if self.max_steps is None:
            return self
        steps_an_epoch = math.ceil(examples / self.batch_size)
        epochs = self.max_steps / steps_an_epoch
        if math.ceil(epochs * steps_an_epoch) > self.max_steps:  # rounding; steps are rounded up
            epochs = math.nextafter(epochs, 0)
        return self.model_copy(update={"epochs": epochs})

    def counted_in_bins(self, examples: int, bins: int, processes: int) -> SFTConfig:
        """The same run with a bin of examples as one, one in a forward pass.

        Raises:
            ConfigError: a bin for each process is far more than ``batch_size``.
        """
        asked = self.batch_size * bins / examples
        a_step = max(1, round(asked / processes)) * processes
        if processes > 1 and a_step > 1.5 * asked:
            raise ConfigError(
                "batch_size",
                f"{self.batch_size} examples are {asked:.1f} bins, and {processes} processes take "
                f"{a_step} a step",
                f"use at least {math.ceil(processes * examples / bins / 1.5)}, or fewer processes",
            )
        return self.model_copy(update={"batch_size": a_step, "forward_size": 1})

    def forwards_a_step(self, processes: int) -> int:
        """Forward passes of one process in an optimizer step.

        Raises:
            ConfigError: the examples of a step can't be shared out evenly.
        """
        at_once = self.forward_size * processes
        if self.batch_size % at_once:
            raise ConfigError(
                "batch_size",
                f"{self.batch_size} is no multiple of {self.forward_size} forward_size on "
                f"{processes} processes",
                f"use a multiple of {at_once}",
            )
        return self.batch_size // at_once
