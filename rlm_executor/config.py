"""Typed configuration: a YAML file into a pydantic model, or one clear error.

    config = load_config(SFTConfig, Path("configs/sft/tiny.yaml"), ["learning_rate=0.001"])

Overrides are ``dotted.key=value`` with the value read as YAML. Unknown keys are errors, so a
misspelt field can't be ignored silently.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from rlm_executor.errors import ConfigError

ModelT = TypeVar("ModelT", bound=BaseModel)


class Config(BaseModel):
    """Base of all configuration models: frozen, and unknown fields are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def load_config(model: type[ModelT], path: Path, overrides: Sequence[str] = ()) -> ModelT:
    """Read ``path`` (YAML) into ``model`` after applying ``dotted.key=value`` overrides.

    Raises:
        ConfigError: the file is missing or damaged, or a field is unknown or has a bad value.
    """
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            str(path), f"cannot be read ({error.strerror})", "give an existing YAML file"
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        line = getattr(getattr(error, "problem_mark", None), "line", None)
        where = f"{path}:{line + 1}" if line is not None else str(path)
        raise ConfigError(
            where, "is not valid YAML", "correct that line or restore the file from git"
        ) from error
    if not isinstance(data, dict):
        raise ConfigError(
            str(path),
            f"holds {type(data).__name__}, not a mapping of fields",
            "write one `field: value` a line",
        )
    for override in overrides:
        _apply_override(data, override)
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise _explain(model, path, error) from error


def _apply_override(data: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    if not separator or not key:
        raise ConfigError(f"--set {override}", "is not of the form key=value", "write key=value")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {key}", f"cannot read the value {text!r}", "quote it") from error
    *parents, leaf = key.split(".")
    for parent in parents:
        data = data.setdefault(parent, {})
        if not isinstance(data, dict):
            raise ConfigError(
                f"--set {key}", f"{parent} is not a group of fields", "check the name"
            )
    data[leaf] = value


def _explain(model: type[BaseModel], path: Path, error: ValidationError) -> ConfigError:
    # A misspelt field is both unknown and missing: the unknown one says what to mend.
    first = min(error.errors(), key=lambda one: one["type"] != "extra_forbidden")
    field = ".".join(str(part) for part in first["loc"]) or "(whole file)"
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    if first["type"] == "extra_forbidden":
        close = difflib.get_close_matches(field, list(model.model_fields), n=1)
        fix = f"did you mean {close[0]}?" if close else f"known: {', '.join(model.model_fields)}"
        return ConfigError(f"{path}: {field}", "is not a known field" + more, fix)
    if first["type"] == "missing":
        return ConfigError(f"{path}: {field}", "is missing" + more, f"add `{field}: ...`")
    if not first["loc"]:  # fields that do not go together
        return ConfigError(str(path), first["msg"].removeprefix("Value error, "), "change one")
    return ConfigError(
        f"{path}: {field}", f"has the value {first['input']!r}{more}", first["msg"].lower()
    )
