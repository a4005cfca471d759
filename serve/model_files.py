"""Checks on model and adapter folders that take milliseconds, before a start that takes a minute.

    check_model("assets/tiny-base")
    rank = check_adapter("rlm", Path("runs/demo/sft"), Path("assets/tiny-base"))

Only headers are read. What passes here can still be refused by vLLM (``engine_faults``).
"""

from __future__ import annotations

import json
import re
import struct
from pathlib import Path
from typing import Any

from rlm_executor.card import CARD_NAME, RLMCard, chat_template
from rlm_executor.errors import EnvironmentFault
from rlm_executor.files import sha256_text

WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin")
ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_LORA_KEY = re.compile(r"base_model\.model\.(.+)\.lora_([AB])\.weight\Z")
Shapes = dict[str, list[int]]


def check_model(folder: str) -> None:
    """Refuse what is not a complete model folder.

    Raises:
        EnvironmentFault: missing, incomplete or cut short.
    """
    path = Path(folder)
    if not path.is_dir():
        what = "is a file" if path.exists() else "does not exist"
        raise EnvironmentFault(
            f"the base model {folder} {what}; give a model folder as `engine.model`"
        )
    if not (path / "config.json").is_file():
        raise EnvironmentFault(
            f"{folder} is not a model folder: it has no config.json; check `engine.model`"
        )
    if "architectures" not in _read_json(path / "config.json", f"the base model {folder}"):
        raise EnvironmentFault(
            f"{folder}/config.json names no architecture; give a causal language model's folder"
        )
    for what, names in (
        ("weights", WEIGHTS),
        ("tokenizer", ("tokenizer.json", "tokenizer_config.json", "vocab.json")),
    ):
        if not any((path / name).is_file() for name in names):
            raise EnvironmentFault(
                f"the base model {folder} has no {what} (none of {', '.join(names)}); "
                "copy or make the folder again"
            )
    if (path / WEIGHTS[0]).is_file():
        safetensors_shapes(path / WEIGHTS[0])


def check_cached(hub_name: str) -> None:
    """Refuse a name on the Hub whose files are not on this machine already.

    Raises:
        EnvironmentFault: they are not.
    """
    import huggingface_hub  # half a second, and only for models that are not folders

    if not isinstance(huggingface_hub.try_to_load_from_cache(hub_name, "config.json"), str):
        raise EnvironmentFault(
            f"the base model {hub_name} does not exist: it is no folder here, and as a name on the "
            "Hub it was not downloaded before; correct `engine.model`, or set `engine.offline: "
            "false` to download it"
        )


def adapter_exists(folder: Path) -> bool:
    """Whether any of an adapter is there; ``check_adapter`` refuses half of one."""
    return (folder / ADAPTER_CONFIG).exists() or (folder / ADAPTER_WEIGHTS).exists()


def check_adapter(name: str, folder: Path, base: Path) -> int:
    """The rank of a LoRA adapter that is complete and fits the base.

    Raises:
        EnvironmentFault: it is not; says what is wrong.
    """
    adapter = f"adapter {name} in {folder}"
    again = "train it again, or take it out of `engine.adapters`"
    for file in (ADAPTER_CONFIG, ADAPTER_WEIGHTS):
        if not (folder / file).is_file():
            raise EnvironmentFault(f"the {adapter} has no {file}; {again}")
    config = _read_json(folder / ADAPTER_CONFIG, f"the {adapter}")
    rank = config.get("r")
    if config.get("peft_type") != "LORA" or not isinstance(rank, int):
        raise EnvironmentFault(
            f"the {adapter} is of type {config.get('peft_type')!r} with rank {rank!r}, and only "
            f"LoRA can be served beside its base; {again}"
        )
    shapes = safetensors_shapes(folder / ADAPTER_WEIGHTS)
    base_weights = base / WEIGHTS[0]
    base_shapes = safetensors_shapes(base_weights) if base_weights.is_file() else {}
    for key, shape in shapes.items():
        match = _LORA_KEY.match(key)
        if match is None or f"{match[1]}.weight" not in base_shapes:
            continue
        rows, columns = base_shapes[f"{match[1]}.weight"]
        expected = [rank, columns] if match[2] == "A" else [rows, rank]
        if shape != expected:
            raise EnvironmentFault(
                f"the {adapter} was made for another base or rank: {match[1]}.lora_{match[2]} has "
                f"the shape {shape} and this base needs {expected}; {again}"
            )
    if (folder / CARD_NAME).is_file():
        trained = RLMCard.load(folder).chat_template_sha256
        template = chat_template(base)
        if trained and template is not None and sha256_text(template) != trained:
            raise EnvironmentFault(
                f"the {adapter} was trained under another chat template than that of {base} "
                f"({trained[:12]} in its {CARD_NAME}, {sha256_text(template)[:12]} here): it would "
                f"be served other prompts than it knows; give `engine.model` its own base, or "
                f"{again}"
            )
    return rank


def safetensors_shapes(path: Path) -> Shapes:
    """Tensor shapes from the header of a safetensors file, whose length must agree with it.

    Raises:
        EnvironmentFault: damaged or cut short.
    """
    size = path.stat().st_size
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > size:
                raise ValueError("header past the end")
            header = json.loads(file.read(length))
        header.pop("__metadata__", None)
        end = 8 + length + max((entry["data_offsets"][1] for entry in header.values()), default=0)
        shapes = {key: entry["shape"] for key, entry in header.items()}
    except (struct.error, ValueError, KeyError, TypeError, AttributeError) as error:
        raise EnvironmentFault(
            f"{path} is not a safetensors file ({size} bytes); copy or make it again"
        ) from error
    if end != size:
        raise EnvironmentFault(
            f"{path} has {size} bytes and its header says {end}; copy or make it again"
        )
    return shapes


def _read_json(path: Path, owner: str) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise EnvironmentFault(f"{owner}: {path.name} is damaged ({error})") from error
    if not isinstance(value, dict):
        raise EnvironmentFault(f"{owner}: {path.name} holds no JSON object")
    return value
