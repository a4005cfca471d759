"""What a generation is told: which tasks, by whom, what is kept, at what cost."""

from __future__ import annotations

import os
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from data_gen.rules import PRESETS, RULES_VERSION, FilterConfig
from data_gen.tasks import FAMILIES
from rlm_executor import Price, RLMCard, Sampling
from rlm_executor.config import Config
from rlm_executor.errors import ConfigError
from rlm_executor.files import sha256_text
from rlm_executor.sandbox.tiers import Isolation

# What may change without making the attempts others than they are: with another filter or share
# they are judged again, not made again.
_NOT_OF_ATTEMPTS = {"keep", "tasks", "filter", "tokenizer", "concurrency", "max_attempts_factor"}
_NOT_OF_ATTEMPTS |= {"max_dollars", "expect", "validation", "evaluation"}
# The same model at another address, or asked more patiently, says the same.
_WAY_TO_A_MODEL = {"base_url", "api_key_env", "timeout_s", "retries"}


class ModelConfig(Config):
    """Who answers: ``scripted``, or an OpenAI-compatible ``endpoint`` with a model name."""

    kind: Literal["scripted", "endpoint"] = "scripted"
    base_url: str = ""
    model: str = ""
    api_key_env: str = ""  # the environment variable that holds the key
    sampling: Sampling | None = None  # instead of the card's
    price: Price | None = None  # dollars for a million tokens
    timeout_s: float = Field(default=600, gt=0)
    retries: int = Field(default=4, ge=0)

    @model_validator(mode="after")
    def _complete(self) -> ModelConfig:
        if self.kind == "endpoint" and not (self.base_url and self.model):
            raise ValueError("an endpoint needs base_url and model")
        return self

    def api_key(self) -> str:
        """The key, or the word that servers without keys take.

        Raises:
            ConfigError: the variable is not set.
        """
        if not self.api_key_env:
            return "EMPTY"
        key = os.environ.get(self.api_key_env, "")
        if not key:
            raise ConfigError(
                f"api_key_env: {self.api_key_env}",
                "is not set in the environment",
                f"run `export {self.api_key_env}=...`",
            )
        return key


class Expected(Config):
    """An attempt as the dry run reckons it; measured ones are in ``funnel.json``."""

    turns: float = Field(gt=0)
    prompt_tokens: float = Field(gt=0)  # of a root turn, on average
    reply_tokens: float = Field(gt=0)
    calls: float = Field(ge=0)  # sub-calls
    call_prompt_tokens: float = Field(ge=0)
    call_reply_tokens: float = Field(ge=0)
    kept: float = Field(gt=0, le=1)  # share of the attempts


class Evaluation(Config):
    """A set that the dataset is compared with: real (its loader's fields) or synthetic tasks."""

    name: str  # of a real set, that of its loader
    real: dict[str, Any] = {}
    families: list[str] = []
    lengths: list[int] = []
    first_seed: int = 800_000
    windows: int = 5
    questions: int = 4


class GenerateConfig(Config):
    """What to make, by whom, and what to keep."""

    keep: int | None = Field(default=None, gt=0)  # trajectories of the dataset; None: all good ones
    tasks: int | None = Field(default=None, gt=0)  # at most
    attempts: int = Field(default=1, gt=0)  # at each task
    families: dict[str, float] = {}  # synthetic ones, with their shares
    lengths: list[int] = []  # of their contexts, in tokens (bytes/4)
    real: dict[str, Any] | None = None  # instead: {name: longbench-pro, path: ...}
    first_seed: int = 0  # tasks use the seeds from here on; below 700000
    teacher: ModelConfig = ModelConfig()
    leaf: ModelConfig = ModelConfig()
    hints: list[str] = [""]  # told to the teacher, one an attempt, and not recorded
    mistakes: float = Field(default=0.0, ge=0, le=1)  # share of careless runs of the expert
    variety: float = Field(default=1.0, ge=0, le=1)  # of the expert's programs
    filter: FilterConfig  # or the name of a preset
    tokenizer: str = ""  # of the student, to count a turn's tokens; "": bytes/4
    validation: float = Field(default=0.0, ge=0, lt=1)  # share of the tasks that is put aside
    max_attempts_factor: float = Field(default=3.0, ge=1)  # give up beyond keep times this
    max_dollars: float | None = Field(default=None, gt=0)  # of all attempts together
    concurrency: int = Field(default=8, gt=0)
    isolation: Isolation = "sealed"  # what holds the code of the runs
    evaluation: list[Evaluation] = []  # sets that the dataset is compared with
    expect: Expected | None = None  # for the dry run
    card: RLMCard

    @field_validator("filter", mode="before")
    @classmethod
    def _preset(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        if value not in PRESETS:
            raise ValueError(f"give rules, or one of the presets {', '.join(PRESETS)}")
        return PRESETS[value]

    @field_validator("families")
    @classmethod
    def _known(cls, value: dict[str, float]) -> dict[str, float]:
        unknown = set(value) - set(FAMILIES)
        if unknown or (value and min(value.values()) <= 0):
            raise ValueError(f"give a positive share for some of: {', '.join(FAMILIES)}")
        return value

    @model_validator(mode="after")
    def _whole(self) -> GenerateConfig:
        if bool(self.families) == bool(self.real):
            raise ValueError("give either `families` with `lengths`, or `real`")
        if self.families and not self.lengths:
            raise ValueError("`families` need `lengths`")
        if self.families and self.keep is None and self.tasks is None:
            raise ValueError("give `keep` or `tasks`: synthetic tasks have no end")
        if self.real and self.teacher.kind == "scripted":
            raise ValueError("the scripted expert knows synthetic families only; give a `teacher`")
        paid = [one for one in (self.teacher, self.leaf) if one.kind == "endpoint"]
        if self.max_dollars is not None and not all(one.price for one in paid):
            raise ValueError("`max_dollars` needs the `price` of teacher and leaf")
        share, cap = max((self.quota() or {"": 0}).values()), self.filter.family_cap
        if cap is not None and share > cap:
            raise ValueError(
                f"`keep` asks for {share} runs of a family, and filter.family_cap ends at {cap}; "
                "raise one or lower the other"
            )
        return self

    def quota(self) -> dict[str, int] | None:
        """Trajectories to keep of each family, together ``keep``; None: no such number."""
        if self.keep is None:
            return None
        if self.real:
            return {str(self.real.get("name")): self.keep}
        total = sum(self.families.values())
        counts = {name: int(self.keep * share / total) for name, share in self.families.items()}
        first = next(iter(counts))
        counts[first] += self.keep - sum(counts.values())
        return counts

    def attempts_sha256(self) -> str:
        """Of all that decides what an attempt is."""
        left_out: dict[str, Any] = dict.fromkeys(_NOT_OF_ATTEMPTS, True)
        left_out |= {"teacher": _WAY_TO_A_MODEL, "leaf": _WAY_TO_A_MODEL}
        return sha256_text(self.model_dump_json(exclude=left_out))

    def filter_sha256(self) -> str:
        """Of all that decides how an attempt is judged, ``RULES_VERSION`` included."""
        told = self.model_dump_json(include={"filter", "tokenizer"})
        return sha256_text(RULES_VERSION + told)

    def sha256(self) -> str:
        """Of all that decides what the dataset is."""
        return sha256_text(self.model_dump_json(exclude={"concurrency", "expect", "max_dollars"}))
