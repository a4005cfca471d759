"""What this machine trains with: device, threads, number format, attention.

    machine = find_machine("tree")     # decided from the hardware, printed by the caller
    machine.prepare()                  # before the model is loaded

On a CPU most of the time of a stock run goes to what is exact to leave out: padding (rows are laid
end to end), what rows repeat of each other (they are a tree), attention between rows that then lie
side by side (``train.attention``), and the vocabulary projection of positions that
carry no loss.
"""

from __future__ import annotations

import importlib.util
import os
from dataclasses import dataclass

import torch

from train import attention
from train.attention import ROW_BY_ROW, VARLEN
from train.shapes import GPUS


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
        attention.register()
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
        if self.attention == VARLEN:
            return "attention: torch's own FlashAttention kernel, all rows at once"
        why = "the kernels need a GPU"
        if self.device != "cpu":
            why = "torch's own FlashAttention kernel does not give the same here"
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
        # Each process has a GPU of its own; whatever is asked of "cuda" goes there from now on.
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        flash = packing == "turns" and importlib.util.find_spec("flash_attn") is not None
        way = "flash_attention_2" if flash else VARLEN if attention.varlen_works() else ROW_BY_ROW
        return Machine("cuda", processes, torch.get_num_threads(), torch.bfloat16, True, way)
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


def project_labelled_only() -> None:
    """Have TRL's fused head score only positions with a label, as it does where Triton runs.

    Elsewhere it scores all, for the sake of accelerators that compile anew for every shape; a CPU
    does not. Only the choice is changed; the arithmetic stays TRL's own path without Triton.
    """
    import trl.trainer.utils

    if not hasattr(trl.trainer.utils, "_use_triton"):
        raise ImportError("this TRL is not the pinned one: trl.trainer.utils has no _use_triton")
    trl.trainer.utils._use_triton = lambda device: True
