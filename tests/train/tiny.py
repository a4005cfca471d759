"""A run directory small enough to train in seconds: 2 layers, 22 rows."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import AutoTokenizer, Qwen3Config, Qwen3ForCausalLM

from rlm_executor import RLMCard
from tests.standin import VOCAB_SIZE, build_tokenizer

SYSTEM = {"role": "system", "content": "Write code in ```repl blocks."}
NO_THINKING = {"enable_thinking": False}
CARD = RLMCard.model_validate(
    {"dialect": {"like": "answer", "name": "tiny", "system": SYSTEM["content"]}}
)


def turn(question: str, answer: str) -> dict[str, Any]:
    return {
        "prompt": [SYSTEM, {"role": "user", "content": question}],
        "completion": [{"role": "assistant", "content": answer}],
        "chat_template_kwargs": NO_THINKING,
    }


def later_turn(question: str, answer: str) -> dict[str, Any]:
    """A second root turn: what was said and seen before it is in its prompt."""
    first = turn(question, answer)
    seen = {"role": "user", "content": "REPL output:\n4839201"}
    return turn("", answer) | {"prompt": [*first["prompt"], *first["completion"], seen]}


def turns(count: int) -> list[dict[str, Any]]:
    """``count`` rows of different lengths."""
    made = []
    for number in range(count):
        kind = later_turn if number % 3 == 2 else turn
        words = "otter " * (number % 5)
        made.append(kind(f"How many {words}are there in {number}?", f"```repl\nn = {number}\n```"))
    return made


def write_turns(folder: Path, rows: list[dict[str, Any]]) -> Path:
    path = folder / "dataset" / "turns.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    Dataset.from_list(rows).to_parquet(str(path))
    return path


def write_base(folder: Path) -> Path:
    """A random two-layer Qwen3 with the stock chat template."""
    build_tokenizer(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=VOCAB_SIZE,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        max_position_embeddings=512,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
    )
    Qwen3ForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    return folder


def write_run(folder: Path, base: Path, **changes: Any) -> Path:
    """Dataset, card and a config that trains ``base`` on them; the config's path."""
    # One row is longer than max_length allows.
    rows = [*turns(22), turn("What is here? " + "tawny otter " * 120, "nothing")]
    write_turns(folder / "data", rows)
    CARD.save(folder / "data")
    settings = {
        "base": str(base),
        "learning_rate": 0.01,
        "lora_r": 4,
        "lora_alpha": 8,
        "epochs": 2,
        "batch_size": 4,
        "forward_size": 2,
        "max_length": 160,
        **changes,
    }
    config = folder / "sft.yaml"
    config.write_text("".join(f"{name}: {value}\n" for name, value in settings.items()))
    return config


def copy_data(source: Path, target: Path) -> Path:
    """The same dataset and config in another run directory; the config's path."""
    shutil.copytree(source / "data", target / "data")
    return Path(shutil.copy(source / "sft.yaml", target / "sft.yaml"))
