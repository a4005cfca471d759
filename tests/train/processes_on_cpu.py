"""``train/sft.py`` in one of several processes, over gloo, exact enough to compare weights.

Products are fp32 and weights are saved unrounded, on every CPU. Accelerate offers FSDP2 to
processes with GPUs only: its question for one is patched; sharding, gathering, clipping and the
state dict are those of a GPU run.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from accelerate import state
from accelerate.utils import DistributedType

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from train import export, machine, sft

REAL = state.AcceleratorState.__init__


def begin(self: state.AcceleratorState, *args: Any, fsdp_plugin: Any = None, **more: Any) -> None:
    REAL(self, *args, fsdp_plugin=fsdp_plugin, **more)
    if fsdp_plugin is not None:
        state.AcceleratorState._shared_state["fsdp_plugin"] = fsdp_plugin
        for shared in (state.AcceleratorState._shared_state, state.PartialState._shared_state):
            shared["distributed_type"] = DistributedType.FSDP


if __name__ == "__main__":
    state.AcceleratorState.__init__ = begin  # type: ignore[method-assign]
    machine.has_fast_bf16 = lambda: False
    export.SERVED_DTYPE = torch.float32
    sft.main()
