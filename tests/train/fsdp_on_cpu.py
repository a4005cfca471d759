"""``train/sft.py`` as FSDP2 runs it, over gloo: accelerate offers it to processes with GPUs only.

What is patched is accelerate's question for a GPU, and that weights are saved unrounded; sharding,
gathering, clipping and the state dict are those of a GPU run.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from accelerate import state
from accelerate.utils import DistributedType

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from train import export, sft

REAL = state.AcceleratorState.__init__


def begin(self: state.AcceleratorState, *args: Any, fsdp_plugin: Any = None, **more: Any) -> None:
    REAL(self, *args, fsdp_plugin=fsdp_plugin, **more)
    if fsdp_plugin is not None:
        state.AcceleratorState._shared_state["fsdp_plugin"] = fsdp_plugin
        for shared in (state.AcceleratorState._shared_state, state.PartialState._shared_state):
            shared["distributed_type"] = DistributedType.FSDP


if __name__ == "__main__":
    state.AcceleratorState.__init__ = begin  # type: ignore[method-assign]
    export.SERVED_DTYPE = torch.float32
    sft.main()
