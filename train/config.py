"""Settings of a fine-tuning run, one YAML file in configs/sft/ each."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from rlm_executor.config import Config
from rlm_executor.errors import ConfigError


class SFTConfig(Config):
    """What is trained on which rows, and how. Folders are named inside the run's directory."""

    base: str  # model folder relative to the repository, or a model's name on the hub
    dataset: str = "data"  # folder with dataset/turns.parquet, and rlm.json if there is a card
    output: str = "sft"  # folder of the adapter
    learning_rate: float = Field(gt=0)  # at its highest; falls linearly to 0
    warmup: float = Field(default=0.05, ge=0, lt=1)  # share of the steps
    lora_r: int = Field(default=16, ge=1, le=512)  # 512 is the highest rank that vLLM serves
    lora_alpha: int = Field(default=32, ge=1)
    epochs: float = Field(default=1, gt=0)
    # tree: an example is a run with all its turns, what they repeat computed once; turns: a row.
    packing: Literal["tree", "turns"] = "tree"
    batch_size: int = Field(default=16, ge=1)  # examples an optimizer step, over all processes
    forward_size: int = Field(default=4, ge=1)  # of them in one forward pass of one process
    max_length: int = Field(gt=0)  # tokens; longer rows are counted and left out, never cut
    optimizer: str = "adamw_torch"  # a name that transformers knows
    max_minutes: float | None = Field(default=None, gt=0)  # None: as long as the epochs take
    save_seconds: float = Field(default=60, gt=0)  # between two checkpoints
    seed: int = 0

    @model_validator(mode="after")
    def _whole_forwards(self) -> Self:
        if self.batch_size % self.forward_size:
            raise ValueError(
                f"batch_size {self.batch_size} must be a multiple of forward_size "
                f"{self.forward_size}"
            )
        return self

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
