"""Grouped LoRA against the sum written out token by token."""

from __future__ import annotations

import subprocess
import sys

from serve.engine import VLLM_CPU

# In a process of its own: importing the file changes vLLM, and vLLM changes torch.
PROGRAM = """
import importlib.util, sys
import torch

spec = importlib.util.spec_from_file_location("vllm_cpu", sys.argv[1])
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
torch.manual_seed(0)
a, b = torch.randn(3, 1, 4, 8), torch.randn(3, 1, 6, 4)
x = torch.randn(5, 8)
for slots in ([0, 2, -1, 0, 1], [1] * 5, [-1] * 5, [-1, -1, 2, 2, 2]):
    lora = object.__new__(module.GroupedLoRA)
    lora.groups = module.rows_by_adapter(torch.tensor(slots))
    middle, y = torch.zeros(5, 4), torch.ones(5, 10)
    lora._shrink_prefill(middle, x, a, 0.5)
    lora._expand_slice_decode(y, middle, b, 3, 6, True)
    expected = torch.ones(5, 10)
    for token, slot in enumerate(slots):
        if slot >= 0:
            expected[token, 3:9] += b[slot, 0] @ (a[slot, 0] @ x[token] * 0.5)
    torch.testing.assert_close(y, expected)
    lora._expand_slice_prefill(y, middle, b, 3, 6, False)
    expected[:, 3:9] -= torch.tensor([[float(slot >= 0)] * 6 for slot in slots])
    torch.testing.assert_close(y, expected)
print("equal")
"""


def test_grouped_is_token_by_token() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(VLLM_CPU)], capture_output=True, text=True
    )
    assert ended.stdout.endswith("equal\n"), ended.stderr[-2000:]
