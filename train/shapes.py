"""What a plan reckons with: the shape of a base and of a dataset, and what they cost to train.

    shape = find_shape("Qwen/Qwen3-8B")                # from the table, or a folder's config.json
    shape.parameters, shape.lora(64)                   # 8190735360, 174587904
    memory(shape, config, setup, tokens=16384)         # bytes on a GPU, by what they are for
    work = count(config, Path("runs/qwen3-8b"), [])    # rows and tokens, assumed if there are none

Reckoned from the shape alone, without a download. Weights, gradients and optimizer states are
exact; activations count what PyTorch keeps of a Qwen3 layer and are good to about a fifth (TRL's
own figure for this base, rank 16 and 8,192 tokens is 19.7 GiB without the CUDA context; here 20.9).
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlm_executor.errors import ConfigError
from train.config import SFTConfig
from train.inputs import REPOSITORY

if TYPE_CHECKING:  # it brings transformers along
    from train.rows import Rows

FIELDS = {  # of a config.json
    "hidden": "hidden_size",
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "kv_heads": "num_key_value_heads",
    "intermediate": "intermediate_size",
    "vocab": "vocab_size",
}

# Memory in GB and dense bf16 TFLOP/s with fp32 sums, of NVIDIA's data sheets (SXM where there is).
GPUS = {
    "H100 80GB": (80, 989),
    "H200 141GB": (141, 989),
    "A100 80GB": (80, 312),
    "RTX 4090 24GB": (24, 165),
}


@dataclass(frozen=True)
class Shape:
    """Sizes of a dense Qwen3."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    intermediate: int
    vocab: int = 151_936
    head_dim: int = 128
    tied: bool = False  # the vocabulary projection is the embedding

    @property
    def projections(self) -> list[tuple[int, int]]:
        """Inputs and outputs of the linear layers of one layer, which LoRA goes on."""
        queries, keys = self.heads * self.head_dim, self.kv_heads * self.head_dim
        return [
            (self.hidden, queries),
            (self.hidden, keys),
            (self.hidden, keys),
            (queries, self.hidden),
            (self.hidden, self.intermediate),
            (self.hidden, self.intermediate),
            (self.intermediate, self.hidden),
        ]

    @property
    def linear(self) -> int:
        """Parameters of all linear layers but the vocabulary projection."""
        return self.layers * sum(inputs * outputs for inputs, outputs in self.projections)

    @property
    def head(self) -> int:
        """Parameters of the vocabulary projection, which is multiplied with even if tied."""
        return self.vocab * self.hidden

    @property
    def parameters(self) -> int:
        """All of them."""
        norms = self.layers * (2 * self.hidden + 2 * self.head_dim) + self.hidden
        return self.linear + self.head * (1 if self.tied else 2) + norms

    def lora(self, rank: int) -> int:
        """Parameters of an adapter of this rank on every linear layer but the head."""
        return self.layers * rank * sum(sum(sizes) for sizes in self.projections)

    def trained(self, config: SFTConfig) -> int:
        """Parameters that a run trains."""
        return self.parameters if config.method == "full" else self.lora(config.lora_r)


# The config.json of each model on the Hub (huggingface.co/Qwen/Qwen3-*/blob/main/config.json).
SHAPES = {
    "Qwen/Qwen3-0.6B": Shape(1024, 28, 16, 8, 3072, tied=True),
    "Qwen/Qwen3-1.7B": Shape(2048, 28, 16, 8, 6144, tied=True),
    "Qwen/Qwen3-4B": Shape(2560, 36, 32, 8, 9728, tied=True),
    "Qwen/Qwen3-8B": Shape(4096, 36, 32, 8, 12288),
    "Qwen/Qwen3-14B": Shape(5120, 40, 40, 8, 17408),
    "Qwen/Qwen3-32B": Shape(5120, 64, 64, 8, 25600),
}


def find_shape(base: str) -> Shape:
    """The shape of a base: a folder's own, or that of a name in the table.

    Raises:
        ConfigError: it is neither, or the folder's config.json lacks a size.
    """
    path = REPOSITORY / base / "config.json"
    if path.is_file():
        settings = json.loads(path.read_text(encoding="utf-8"))
        missing = [name for name in FIELDS.values() if name not in settings]
        if missing:
            raise ConfigError(
                f"base: {base}", f"its config.json has no {missing[0]}", "use a Qwen3-like model"
            )
        sizes = {name: settings[field] for name, field in FIELDS.items()}
        head_dim = settings.get("head_dim") or sizes["hidden"] // sizes["heads"]
        tied = bool(settings.get("tie_word_embeddings", False))
        return Shape(**sizes, head_dim=head_dim, tied=tied)
    if base not in SHAPES:
        raise ConfigError(
            f"base: {base}",
            "has no shape that is known here",
            f"give a folder with a config.json, or one of {', '.join(SHAPES)}",
        )
    return SHAPES[base]


@dataclass(frozen=True)
class Setup:
    """The processes: one a GPU; ``sharded`` over all of them (FSDP), or a copy on each (DDP)."""

    gpus: int = 1
    sharded: bool = False


NF4_BYTES = 0.5 + 0.127 / 8  # 4 bits, and scales in blocks of 64, quantized too (arXiv 2305.14314)
TILE = 4096 * 32768  # tokens by vocabulary of TRL's fused projection, at a time
CONTEXT = 2e9  # bytes of the CUDA context, cuBLAS, NCCL
FRAGMENTED = 0.05  # share of the rest that the allocator can't use


def memory(
    shape: Shape, config: SFTConfig, setup: Setup, tokens: int, *, checkpointing: bool = True
) -> dict[str, float]:
    """Bytes on one GPU, by what they are for, with ``tokens`` in one forward pass."""
    trained, parts = shape.trained(config), setup.gpus if setup.sharded else 1
    width = 2 if config.method == "qlora" else 4  # TRL holds a 4-bit base's adapter in bf16
    if config.method == "full":
        weights = 4.0 * shape.parameters  # fp32: what the optimizer changes
    elif config.method == "qlora":
        rest = shape.parameters - shape.linear
        weights = NF4_BYTES * shape.linear + 2 * rest + width * trained
    else:
        weights = 2.0 * shape.parameters + width * trained
    copies = 2 if setup.gpus > 1 and not setup.sharded else 1  # DDP's buckets
    states = 2.0 if "8bit" in config.optimizer else 2.0 * width
    gathered = 0.0
    if setup.sharded:  # bf16: embedding and head, the layer at work and the next, a gradient
        gathered = 2.0 * (shape.parameters - shape.linear + 3 * shape.linear / shape.layers)
    layer = activations(shape)
    kept, at_work = 2 * shape.hidden, layer + 4 * shape.intermediate  # and two gradients in the MLP
    one_pass = kept * shape.layers + at_work if checkpointing else layer * shape.layers
    projection = 2 * 2.0 * min(TILE, 4096 * shape.vocab) + 4.0 * shape.hidden * tokens
    if config.method == "full":
        projection += 4.0 * shape.head  # its gradient, in fp32
    needs = {
        "weights": weights / parts,
        "gradients": copies * width * trained / parts,
        "optimizer": states * trained / parts,
        "gathered": gathered,
        "activations": float(one_pass * tokens),
        "logits": projection,
    }
    return needs | {"overhead": CONTEXT + FRAGMENTED * sum(needs.values())}


def activations(shape: Shape) -> int:
    """Bytes that one layer keeps of a token for its backward pass, in bf16."""
    queries, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    # Both norms keep their input in fp32 beside the bf16 one, and their output.
    norms = 2 * (1 + 2 + 1) * shape.hidden
    # Projected; q and k in fp32 for their norms, normed, and turned by their position.
    attention = queries + 2 * keys + (2 + 1 + 1) * (queries + keys) + queries
    mlp = 4 * shape.intermediate  # gate, up, the activated gate, their product
    return 2 * (norms + attention + mlp)


def flops_a_token(shape: Shape, method: str, seen: float) -> tuple[float, float]:
    """Floating-point operations of a token: what training needs, and what recomputing adds.

    Args:
        method: of the configuration.
        seen: tokens that it attends to, on average.

    Forward is 2 a parameter, the gradient of the activations 2, that of the weights 2, which a
    frozen base does without. Attention has no weights; its backward is twice its forward. With
    gradient checkpointing every layer, but not the head, runs forward once more.
    """
    attention = 4.0 * seen * shape.heads * shape.head_dim * shape.layers
    factor = 6 if method == "full" else 4
    return factor * (shape.linear + shape.head) + 3 * attention, 2 * shape.linear + attention


@dataclass(frozen=True)
class Assumption:
    """A dataset that is not there yet; ``--assume name=value`` changes a number.

    The runs are as many as the paper kept (arXiv 2512.24601 App. A), turns and tokens those that
    configs/data/paper.yaml reckons with. Prompts grow evenly from the first to the last turn.
    """

    runs: int = 1000
    turns: int = 10
    first_prompt_tokens: int = 2500
    prompt_tokens: int = 12000  # of a turn, on average
    reply_tokens: int = 700

    def rows(self) -> list[list[tuple[int, int]]]:
        """For every run and turn: its tokens, and those that the turn before has not computed."""
        last = max(2 * self.prompt_tokens - self.first_prompt_tokens, self.first_prompt_tokens)
        growth = (last - self.first_prompt_tokens) / max(1, self.turns - 1)
        turns, before = [], 0
        for turn in range(self.turns):
            prompt = round(self.first_prompt_tokens + growth * turn)
            turns.append((prompt + self.reply_tokens, prompt - before + self.reply_tokens))
            before = prompt
        return [turns] * self.runs


@dataclass(frozen=True)
class Work:
    """The amounts of one epoch; a token of a tree is counted once."""

    source: str
    rows: int
    left_out: int
    examples: int
    tokens: int  # that go through the model
    target_tokens: int
    seen: float  # tokens that one attends to, on average
    largest: int  # tokens of the largest example
    bins: int = 0  # that the examples fill, where forward_tokens is given


def count(config: SFTConfig, run: Path, assumed: list[str]) -> Work:
    """The dataset of the run, or the assumption where there is none.

    Raises:
        ConfigError: an assumption is unknown or no whole number, or no row fits the window.
    """
    turns = run / config.dataset / "dataset" / "turns.parquet"
    if turns.is_file() and not assumed:
        return counted(config, turns)
    numbers = {}
    for text in assumed:
        name, _, value = text.partition("=")
        if name not in {field.name for field in fields(Assumption)} or not value.isdecimal():
            known = ", ".join(f"{field.name}=N" for field in fields(Assumption))
            raise ConfigError(f"--assume {text}", "is not known", f"give one of {known}")
        numbers[name] = int(value)
    assumption = Assumption(**numbers)
    told = " ".join(
        f"{field.name}={getattr(assumption, field.name)}" for field in fields(assumption)
    )
    why = "--assume" if assumed else "there is no dataset yet"
    runs = assumption.rows()
    fitting = [[row for row in turns if row[0] <= config.max_length] for turns in runs]
    kept = sum(map(len, fitting))
    targets = kept * assumption.reply_tokens
    left_out = sum(map(len, runs)) - kept
    return amounts(config, f"assumed ({why}): {told}", fitting, targets, left_out)


def counted(config: SFTConfig, turns: Path) -> Work:
    """The dataset's own numbers, with the base's tokenizer or, without it here, by bytes."""
    from transformers import AutoTokenizer

    from train import rows

    table = rows.read_turns(turns)
    folder = REPOSITORY / config.base
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            folder if folder.is_dir() else config.base, local_files_only=True
        )
    except (OSError, ValueError):
        return by_bytes(config, table)
    data = rows.encode(table, tokenizer, config.max_length)
    return amounts_of(config, data, "dataset, with the base's tokenizer")


def amounts_of(config: SFTConfig, data: Rows, source: str) -> Work:
    """The amounts of encoded rows."""
    from train.tree import grow

    runs = []
    for run in data.runs:
        tree = grow(run)
        runs.append(
            [(len(path), own) for path, own in zip(tree.paths, tree.own, strict=True) if own]
            if config.packing == "tree"
            else [(len(row.input_ids), 0) for row in run]
        )
    return amounts(config, source, runs, data.target_tokens, data.over_window, len(data.kept))


def flops_of(config: SFTConfig, data: Rows) -> float:
    """Operations that training needs for a token of these rows; 0 for a base of unknown shape."""
    try:
        shape = find_shape(config.base)
    except ConfigError:
        return 0.0
    return flops_a_token(shape, config.method, amounts_of(config, data, "").seen)[0]


def by_bytes(config: SFTConfig, table: list[dict[str, Any]]) -> Work:
    """The same for a base whose tokenizer is not on this machine: four bytes a token."""
    runs: dict[Any, list[tuple[int, int]]] = {}
    targets = left_out = 0
    ends: dict[Any, int] = {}
    for index, turn in enumerate(table):
        name = turn.get("run") or index
        prompt, reply = (
            math.ceil(sum(len(str(one.get("content") or "").encode()) for one in turn[part]) / 4)
            for part in ("prompt", "completion")
        )
        if prompt + reply > config.max_length:
            left_out += 1
            continue
        new = max(0, prompt - ends.get(name, 0)) + reply
        runs.setdefault(name, []).append((prompt + reply, new))
        targets, ends[name] = targets + reply, prompt
    source = f"dataset, at 4 bytes a token (no tokenizer of {config.base} here)"
    return amounts(config, source, list(runs.values()), targets, left_out)


def amounts(
    config: SFTConfig,
    source: str,
    runs: list[list[tuple[int, int]]],
    target_tokens: int,
    left_out: int,
    kept: int | None = None,
) -> Work:
    """The sums over rows of (tokens, new ones in the run's tree).

    Raises:
        ConfigError: no row fits.
    """
    from train.tree import fill

    tree = config.packing == "tree"
    runs = [run for run in runs if run]
    rows = [row if tree else (row[0], row[0]) for run in runs for row in run]
    if not rows:
        raise ConfigError("max_length", f"{config.max_length} is less than any row has", "raise it")
    tokens = sum(new for _, new in rows)
    # The new tokens are the last of their row: each sees all before it.
    seen = sum(new * (length - (new - 1) / 2) for length, new in rows) / tokens
    sizes = [sum(new for _, new in run) for run in runs] if tree else [new for _, new in rows]
    return Work(
        source,
        rows=len(rows) if kept is None else kept,
        left_out=left_out,
        examples=len(sizes),
        tokens=tokens,
        target_tokens=target_tokens,
        seen=seen,
        largest=max(sizes),
        bins=len(fill(sizes, config.forward_tokens)) if config.forward_tokens else 0,
    )
