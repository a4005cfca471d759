"""What must be right before a demo starts, checked in seconds: disk, packages, configs, base model.

Everything here would otherwise come up after minutes, inside some stage. Each fault is one line:
what was found, what is needed, what to do.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import shutil
from collections.abc import Sequence
from pathlib import Path

from rlm_executor.config import Config, load_config
from rlm_executor.errors import ConfigError, EnvironmentFault
from serve.model_files import check_model

# Contexts (the longest are 64 MiB each), journals, checkpoints, caches of vLLM; with room to spare.
NEED_GB = 3
# Kind of config -> module and class that read it.
READERS = {
    "data": ("data_gen.generate", "GenerateConfig"),
    "direct-data": ("data_gen.direct", "DirectConfig"),
    "sft": ("train.config", "SFTConfig"),
    "eval": ("eval.grid", "EvalConfig"),
    "serve": ("serve.config", "ServeConfig"),
}


def preflight(run: Path, configs: Sequence[Path]) -> None:
    """Raise an ``RLMError`` for the first thing that would stop a stage of this demo."""
    check_disk(run)
    check_packages()
    for path in configs:
        config = read_config(path)
        if base := getattr(config, "base", None):
            try:
                check_model(str(base))
            except EnvironmentFault as error:
                raise ConfigError(f"{path}: base", str(error), "or restore it from git") from error
        if serve := getattr(config, "serve", None):
            read_config(serve)


def check_disk(run: Path) -> None:
    """Room for a whole demo where its run directory will be."""
    place = run.absolute()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    held = sum(path.lstat().st_size for path in run.rglob("*")) if run.exists() else 0
    if free + held < NEED_GB * 1e9:
        raise EnvironmentFault(
            f"the disk of {run} has {free / 1e9:.1f} GB free and a demo needs {NEED_GB} GB; free"
            " some space, or give a directory on another disk with RUN="
        )


def check_packages() -> None:
    """The one mix of packages that can't be imported: a CUDA torchvision beside a CPU torch."""
    if not importlib.metadata.version("torch").endswith("+cpu"):
        return
    for name in ("torchvision", "torchaudio", "torchcodec"):
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        raise EnvironmentFault(
            f"{name} {version} does not fit the CPU build of torch and breaks transformers; "
            f"run `pip uninstall {name}`, nothing here needs it"
        )


def read_config(path: Path) -> Config:
    """A file of configs/ in its own type; the folder and the name say which that is."""
    kind = path.parent.name
    if kind == "data" and path.stem.endswith("-direct"):
        kind = "direct-data"
    module, reader = READERS[kind]
    return load_config(getattr(importlib.import_module(module), reader), path)
