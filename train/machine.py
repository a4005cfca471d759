"""What this machine trains with: device, threads, number format, attention.

    machine = find_machine("tree")     # decided from the hardware, printed by the caller
    machine.prepare()                  # before the model is loaded

On a CPU most of the time of a stock run goes to what is exact to leave out: padding (rows are laid
end to end), what rows repeat of each other (they are a tree), attention between rows that then lie
side by side (``attend_rows`` goes row by row), and the vocabulary projection of positions that
carry no loss.
"""

from __future__ import annotations

import importlib.util
import os
from dataclasses import dataclass
from typing import Any

import torch
import trl.trainer.utils
from transformers import AttentionInterface, AttentionMaskInterface

from train.shapes import GPUS

ROW_BY_ROW = "row_by_row"


@dataclass(frozen=True)
class Machine:
    """The choices; ``dtype`` is what the weights are held in, ``bf16`` whether products are."""

    device: str
    processes: int
    threads: int
    dtype: torch.dtype
    bf16: bool
    attention: str

    def prepare(self) -> None:
        """Set the threads and make the attention and the short projection known."""
        torch.set_num_threads(self.threads)
        AttentionInterface.register(ROW_BY_ROW, attend_rows)
        AttentionMaskInterface.register(ROW_BY_ROW, no_mask)
        if self.device == "cpu":
            project_labelled_only()

    @property
    def peak(self) -> float | None:
        """Dense bf16 operations a second of its GPU by the data sheet; None if not known."""
        if self.device != "cuda":
            return None
        name = torch.cuda.get_device_name()
        found = [tflops for known, (_, tflops) in GPUS.items() if known.split()[-2] in name]
        return found[0] * 1e12 if found else None

    @property
    def attention_in_words(self) -> str:
        """Which of the ways to compute attention is taken, and why not another."""
        if self.attention == "flash_attention_2":
            return "attention: flash-attn, rows end to end"
        if self.device == "cpu":
            why = "flash-attn needs a GPU"
        elif importlib.util.find_spec("flash_attn") is None:
            why = "flash-attn is not installed"
        else:
            why = "flash-attn can't follow a tree; it is used with packing: turns"
        return f"attention: SDPA row by row ({why}; FlexAttention compiles anew for every shape)"

    def __str__(self) -> str:
        products = "bf16" if self.bf16 else "fp32"
        weights = str(self.dtype).removeprefix("torch.")
        return (
            f"device={self.device} processes={self.processes} threads={self.threads} "
            f"weights={weights} products={products} attention={self.attention}"
        )


def find_machine(packing: str) -> Machine:
    """Decide from the hardware, the launcher's environment and how rows are laid."""
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    on_cpu = os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true", "yes")
    if torch.cuda.is_available() and not on_cpu:
        flash = packing == "turns" and importlib.util.find_spec("flash_attn") is not None
        attention = "flash_attention_2" if flash else ROW_BY_ROW
        threads = torch.get_num_threads()
        return Machine("cuda", processes, threads, torch.bfloat16, True, attention)
    threads = cpu_threads(processes)
    return Machine("cpu", processes, threads, torch.float32, has_fast_bf16(), ROW_BY_ROW)


def cpu_threads(processes: int) -> int:
    """Cores of this process's share.

    A plain ``accelerate launch`` sets OMP_NUM_THREADS=1, which halves the speed of two cores; so a
    1 is taken for the launcher's word and only a higher number for the user's.
    """
    asked = int(os.environ.get("OMP_NUM_THREADS") or 1)
    return asked if asked > 1 else max(1, len(os.sched_getaffinity(0)) // processes)


def has_fast_bf16() -> bool:
    """Whether the CPU multiplies bf16 itself; without that, torch does it thirty times slower."""
    probes = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
    return any(getattr(torch.cpu, probe, lambda: False)() for probe in probes)


def attend_rows(
    module: torch.nn.Module,
    query: torch.Tensor,  # (1, heads, tokens of all rows, head size)
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    cu_seq_lens_q: torch.Tensor | None = None,
    cu_seq_lens_k: torch.Tensor | None = None,
    paths: torch.Tensor | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention within each row of a batch laid end to end, or of a tree (``train.tree``).

    In a tree ``query`` holds the tokens that each row brought along, and ``paths`` says where all
    tokens of each row lie. The stock ``sdpa`` computes all pairs of positions and masks those of
    other rows away.
    """
    lengths = [query.shape[2]] if cu_seq_lens_q is None else cu_seq_lens_q.diff().tolist()
    seen_lengths = lengths
    if paths is not None and cu_seq_lens_k is not None:
        key, value = key.index_select(2, paths), value.index_select(2, paths)
        seen_lengths = cu_seq_lens_k.diff().tolist()
    rows = zip(
        query.split(lengths, 2),
        key.split(seen_lengths, 2),
        value.split(seen_lengths, 2),
        strict=True,
    )
    seen = [
        torch.nn.functional.scaled_dot_product_attention(
            *row, **causal(row[0], row[1]), dropout_p=dropout, scale=scaling, enable_gqa=True
        )
        for row in rows
    ]
    return torch.cat(seen, 2).transpose(1, 2).contiguous(), None


def causal(query: torch.Tensor, key: torch.Tensor) -> dict[str, Any]:
    """The mask for queries that are the last positions of the keys."""
    new, all_of_it = query.shape[2], key.shape[2]
    if new == all_of_it:
        return {"is_causal": True}
    mask = torch.ones(new, all_of_it, dtype=torch.bool, device=query.device)
    return {"attn_mask": mask.tril(all_of_it - new)}


def no_mask(*_: Any, **__: Any) -> None:
    """``attend_rows`` needs no mask; without this one of all positions by all would be made."""


def project_labelled_only() -> None:
    """Have TRL's fused head score only positions with a label, as it does where Triton runs.

    Elsewhere it scores all, for the sake of accelerators that compile anew for every shape; a CPU
    does not. Only the choice is changed; the arithmetic stays TRL's own path without Triton.
    """
    if not hasattr(trl.trainer.utils, "_use_triton"):
        raise ImportError("this TRL is not the pinned one: trl.trainer.utils has no _use_triton")
    trl.trainer.utils._use_triton = lambda device: True
