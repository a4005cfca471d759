"""vLLM's server, with LoRA at the speed of the model it is added to: what the CPU build runs as.

    python -P serve/vllm_cpu.py --model DIR --enable-lora ...      # vLLM's own arguments

vLLM 0.32 on the CPU copies an adapter's weights once for every token of a batch: a 4M-parameter
model with a rank-32 adapter wrote 158 tokens/s for 16 requests, and 2,150 without the adapter.
Here the tokens of a step are grouped by adapter, and each group is one matrix product. Tokens of
the base (index -1) are left alone; vLLM takes the last slot's adapter for them.

vLLM's engine is a spawned process, which imports its parent's main file first: so this file, not
a function of it, makes the change.
"""

from __future__ import annotations

import runpy
from typing import Any

import torch
from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU
from vllm.platforms.cpu import CpuPlatform

Rows = torch.Tensor | slice


def rows_by_adapter(slots: torch.Tensor) -> list[tuple[int, Rows]]:
    """The tokens of each adapter in a step.

    Args:
        slots: adapter slot of each token, -1 for none; shape [tokens].
    """
    present = slots.unique().tolist()
    if len(present) == 1:
        return [(slot, slice(None)) for slot in present if slot >= 0]
    return [(slot, (slots == slot).nonzero().squeeze(1)) for slot in present if slot >= 0]


class GroupedLoRA(PunicaWrapperCPU):  # type: ignore[misc]
    """vLLM's CPU wrapper with the linear layers done a group of tokens at a time."""

    def update_metadata(self, *args: Any, **kwargs: Any) -> None:
        """Once a step, before its layers."""
        super().update_metadata(*args, **kwargs)
        self.groups = rows_by_adapter(self.token_lora_indices)

    def _shrink(
        self, y: torch.Tensor, x: torch.Tensor, weights: torch.Tensor, scale: float
    ) -> None:
        """``y = scale * x @ A.T`` for x [tokens, in] and weights [slots, 1, rank, in]."""
        for slot, rows in self.groups:
            y[rows] = (x[rows].to(y.dtype) @ matrix(weights, slot).to(y.dtype).T) * scale

    def _expand_slice(
        self,
        y: torch.Tensor,
        x: torch.Tensor,
        weights: torch.Tensor,
        offset: int,
        size: int,
        add_inputs: bool,
    ) -> None:
        """``y[:, offset:offset + size] (+)= x @ B.T``; weights [slots, 1, size, rank]."""
        part = y[:, offset : offset + size]
        for slot, rows in self.groups:
            product = x[rows].to(y.dtype) @ matrix(weights, slot).to(y.dtype).T
            part[rows] = part[rows] + product if add_inputs else product

    _shrink_prefill = _shrink_decode = _shrink
    _expand_slice_prefill = _expand_slice_decode = _expand_slice


def matrix(weights: torch.Tensor, slot: int) -> torch.Tensor:
    """One adapter's matrix of the stacked ones."""
    return weights[slot].reshape(weights.shape[-2:])


CpuPlatform.get_punica_wrapper = classmethod(lambda cls: f"{__name__}.GroupedLoRA")

if __name__ == "__main__":
    runpy.run_module("vllm.entrypoints.openai.api_server", run_name="__main__")
