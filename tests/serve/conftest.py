"""Folders that look like models: whole headers, almost no weights."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest

Shapes = dict[str, list[int]]
BASE: Shapes = {
    "model.layers.0.mlp.down_proj.weight": [8, 16],
    "model.layers.0.mlp.up_proj.weight": [16, 8],
}


def write_safetensors(path: Path, shapes: Shapes, cut: int = 0) -> None:
    """A file of float32 zeros with that header, ``cut`` bytes short."""
    header, end = {}, 0
    for name, shape in shapes.items():
        size = 4
        for length in shape:
            size *= length
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(end - cut))


def adapter_shapes(base: Shapes, rank: int) -> Shapes:
    shapes: Shapes = {}
    for name, (rows, columns) in base.items():
        stem = "base_model.model." + name.removesuffix(".weight")
        shapes |= {f"{stem}.lora_A.weight": [rank, columns], f"{stem}.lora_B.weight": [rows, rank]}
    return shapes


@pytest.fixture
def tiny_model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text('{"architectures": ["Qwen3ForCausalLM"]}')
    (folder / "tokenizer.json").write_text("{}")
    write_safetensors(folder / "model.safetensors", BASE)
    return folder


@pytest.fixture
def tiny_adapter(tmp_path: Path) -> Path:
    folder = tmp_path / "sft"
    folder.mkdir()
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 2}')
    write_safetensors(folder / "adapter_model.safetensors", adapter_shapes(BASE, 2))
    return folder
