"""What is measured: arms x cells (family, length), as typed configuration, windows and jobs.

    grid = Grid.build(config)      # windows with their questions; the texts are made when needed
    grid.jobs(fingerprints)        # one Job an (arm, task), arms interleaved within each window

Recorded runs draw their windows from the test seeds, smoke runs from the development seeds; the
windows of a cell are shared among its questions. Nothing here runs a model or reads a result.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from data_gen.tasks import Task, Window, check_seed, make_window
from rlm_executor.config import Config
from rlm_executor.errors import ConfigError
from rlm_executor.files import sha256_file, sha256_text
from rlm_executor.sandbox.tiers import Isolation

REPOSITORY = Path(__file__).resolve().parent.parent
WindowMaker = Callable[[str, int, int, int], Window]


class CellConfig(Config):
    """One family at one length."""

    family: str
    length: int = Field(ge=512, description="tokens of 4 bytes; may be written 2^15")
    windows: int = Field(default=5, ge=1, description="contexts of this cell")
    questions: int = Field(default=4, ge=1, description="questions asked about each context")
    concurrency: int | None = Field(
        default=None, ge=1, description="runs of this cell at a time; null: no less than others"
    )

    @field_validator("length", mode="before")
    @classmethod
    def _power(cls, value: Any) -> Any:
        if isinstance(value, str) and value.startswith("2^") and value[2:].isdigit():
            return 2 ** int(value[2:])
        return value


class ArmConfig(Config):
    """One way of answering."""

    name: str
    kind: Literal["direct", "rlm", "expert", "floor"]
    model: str = Field(default="base", description="served name of the root or of the answerer")
    example: bool = Field(default=False, description="put one worked example before the question")
    total: int | None = Field(
        default=None, ge=1, description="runs in all, spread over the cells; null: every task"
    )
    limits: dict[str, float] = Field(
        default={}, description="limits that replace those of the card, by name"
    )


class CostConfig(Config):
    """Measured rates from which the grid's cost is told beforehand (``eval/cost.py``)."""

    prompt_tokens_per_second: float = Field(gt=0)
    completion_tokens_per_second: float = Field(gt=0)
    cached_prompt_share: float = Field(
        default=0.0, ge=0, lt=1, description="share of prompt tokens the server has in its cache"
    )
    run_overhead_seconds: float = Field(ge=0, description="CPU seconds of one loop (its REPL)")
    scan_seconds_per_mebibyte: float = Field(ge=0, description="CPU seconds of one look at 1 MiB")
    write_seconds_per_mebibyte: float = Field(ge=0, description="CPU seconds to make 1 MiB")
    bytes_per_token: float = Field(gt=0, description="of the base's own tokenizer on these texts")
    turns: dict[str, float] = Field(description="mean root turns of a run, by arm kind or name")
    root_prompt_tokens: float = Field(description="mean prompt of a root turn")
    root_completion_tokens: float = Field(description="mean reply of a root turn")
    answer_tokens: float = Field(description="mean reply of a direct arm")
    line_bytes: float = Field(default=100, gt=0, description="of one line of oolong and pairs")
    lines_per_call: float = Field(default=10, gt=0, description="lines a leaf call labels")
    leaf_prompt_tokens: float = Field(default=240, description="mean prompt of a leaf call")
    leaf_reply_tokens: float = Field(default=25, description="mean reply of a leaf call")
    leaf_cached_share: float = Field(
        default=0.0, ge=0, lt=1, description="share of leaf calls that an earlier one has answered"
    )


class EvalConfig(Config):
    """One evaluation, ``configs/eval/*.yaml``."""

    title: str
    purpose: Literal["recorded", "smoke"] = Field(
        description="recorded: test seeds; smoke: development seeds, numbers never quoted"
    )
    base: Path = Field(description="folder of the base model, relative to the repository")
    serve: Path | None = Field(
        default=None, description="serving config used when no --endpoint is given"
    )
    adapters: dict[str, str] = Field(
        default={}, description="served name -> folder in the run directory"
    )
    card: str = Field(default="sft", description="folder in the run whose rlm.json every loop uses")
    leaf: str = Field(default="base", description="served name that answers the sub-calls")
    expert_seed: int = Field(default=33, ge=0, description="draws the style of the expert arm")
    window: int = Field(gt=0, description="the base's window, in its own tokens")
    answer_max_tokens: int = Field(default=384, gt=0, description="reply of a direct arm")
    seed: int = Field(description="first window seed of every cell")
    concurrency: int = Field(default=32, ge=1, description="runs at a time, all cells together")
    isolation: Isolation = Field(default="sealed", description="what holds the loop's code")
    progress_seconds: float = Field(default=10, gt=0, description="between two progress lines")
    cells: list[CellConfig] = Field(min_length=1)
    arms: list[ArmConfig] = Field(min_length=1)
    cost: CostConfig

    @model_validator(mode="after")
    def _consistent(self) -> EvalConfig:
        names = [arm.name for arm in self.arms]
        if len(set(names)) != len(names):
            raise ValueError("two arms have the same name")
        cells = [(cell.family, cell.length) for cell in self.cells]
        if len(set(cells)) != len(cells):
            raise ValueError("two cells have the same family and length")
        for cell in self.cells:
            if cell.concurrency is not None and cell.concurrency > self.concurrency:
                raise ValueError(
                    f"{cell.family} {cell.length}: its concurrency {cell.concurrency} is above "
                    f"the {self.concurrency} of the whole run"
                )
        return self


@dataclass(frozen=True)
class Cell:
    """A cell with its windows made (their texts are still streams)."""

    config: CellConfig
    windows: list[Window]

    @property
    def tasks(self) -> list[tuple[Window, Task]]:
        """All questions, first one of each window, then the second of each, and so on."""
        return [
            (window, window.tasks[index])
            for index in range(self.config.questions)
            for window in self.windows
        ]


@dataclass(frozen=True)
class Job:
    """One (arm, task); ``key`` changes with anything that could change its result."""

    arm: ArmConfig
    cell: CellConfig
    window: Window = field(repr=False)
    task: Task = field(repr=False)
    key: str

    @property
    def name(self) -> str:
        """Arm and task, unique in a grid and fit for a file name."""
        return f"{self.arm.name}/{self.task.id}"


@dataclass(frozen=True)
class Grid:
    """All cells of an evaluation."""

    config: EvalConfig
    cells: list[Cell]

    @classmethod
    def build(cls, config: EvalConfig, maker: WindowMaker = make_window) -> Grid:
        """Make the windows of every cell.

        Raises:
            InputError: a seed is outside the split of the purpose.
            ConfigError: a window has fewer questions than the cell states.
        """
        split = "test" if config.purpose == "recorded" else "dev"
        cells = []
        for cell in config.cells:
            windows = []
            for index in range(cell.windows):
                check_seed(config.seed + index, split)
                window = maker(cell.family, cell.length, config.seed + index, cell.questions)
                if len(window.tasks) != cell.questions:
                    raise ConfigError(
                        f"cells: {cell.family} {cell.length}",
                        f"a window has {len(window.tasks)} questions, not {cell.questions}",
                        "ask for fewer questions and more windows",
                    )
                windows.append(window)
            cells.append(Cell(cell, windows))
        return cls(config, cells)

    def stated_n(self, arm: ArmConfig) -> list[int]:
        """How many tasks ``arm`` owes in each cell; a total is spread as evenly as it goes."""
        sizes = [len(cell.tasks) for cell in self.cells]
        if arm.total is None:
            return sizes
        counts, left = [0] * len(sizes), min(arm.total, sum(sizes))
        while left:
            for index, size in enumerate(sizes):
                if left and counts[index] < size:
                    counts[index] += 1
                    left -= 1
        return counts

    def jobs(self, fingerprints: dict[str, str]) -> Iterator[Job]:
        """Every job, cell by cell and window by window, the arms of a task side by side."""
        stated = {arm.name: self.stated_n(arm) for arm in self.config.arms}
        for position, cell in enumerate(self.cells):
            rank = {task.id: index for index, (_, task) in enumerate(cell.tasks)}
            for window in cell.windows:
                for task in window.tasks:
                    for arm in self.config.arms:
                        if rank[task.id] < stated[arm.name][position]:
                            parts = [fingerprints[arm.name], task.id, task.question, task.answer]
                            key = _digest(parts)
                            yield Job(arm, cell.config, window, task, key)


def fingerprints(config: EvalConfig, repository: Path, run: Path) -> dict[str, str]:
    """For each arm a digest of all that its results depend on, weights and card included.

    A retrained adapter or another limit thus makes the old rows stale; a changed concurrency or
    cost rate does not.
    """
    base = _file_digest(repository / config.base / "model.safetensors")
    card = _file_digest(card_path(config, run)) if _needs_card(config) else ""
    digests = {}
    for arm in config.arms:
        parts: dict[str, Any] = {"arm": arm.model_dump(exclude={"total"})}
        if arm.kind != "floor":
            parts |= {"base": base, "window": config.window}
        if arm.kind == "direct":
            parts["answer_max_tokens"] = config.answer_max_tokens
        if arm.kind in ("rlm", "expert"):
            parts |= {"card": card, "leaf": _weights(config, run, config.leaf)}
        if arm.kind == "expert" or arm.example:
            parts["expert_seed"] = config.expert_seed
        if arm.kind in ("rlm", "direct"):
            parts["weights"] = _weights(config, run, arm.model)
        digests[arm.name] = _digest(parts)
    return digests


def card_path(config: EvalConfig, run: Path) -> Path:
    """The harness of every loop here: ``rlm.json`` beside the tuned weights.

    Raises:
        ConfigError: there is none yet.
    """
    path = run / config.card / "rlm.json"
    if not path.exists():
        raise ConfigError(
            "card", f"the run has no {config.card}/rlm.json", "train first, or name its folder"
        )
    return path


def _needs_card(config: EvalConfig) -> bool:
    return any(arm.kind in ("rlm", "expert") for arm in config.arms)


def _weights(config: EvalConfig, run: Path, model: str) -> str:
    if model not in config.adapters:
        return model
    return _file_digest(run / config.adapters[model] / "adapter_model.safetensors")


def _file_digest(path: Path) -> str:
    # A model behind a foreign endpoint has no file here; its name must then do.
    return sha256_file(path) if path.exists() else f"no file {path.name}"


def _digest(value: Any) -> str:
    return sha256_text(json.dumps(value, sort_keys=True, ensure_ascii=False, default=str))[:16]
