"""One step of the real trainer: rows in a tree move the weights as separate rows do, however the
step is cut up: into several forward passes, and over two processes (gloo).

The optimizer is plain SGD of rate 1, so that the weights tell the gradient. Products are fp32 also
where the CPU multiplies bf16: what is rounded to bf16 hangs on how a step is cut up.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from tests.train import tiny
from train import sft

ROOT = Path(__file__).resolve().parents[2]
FSDP2 = ROOT / "configs" / "accelerate" / "fsdp2.yaml"
pytestmark = [pytest.mark.real_trl, pytest.mark.slow]


@pytest.fixture(autouse=True)
def exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is rounded: neither products nor the saved weights."""
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    monkeypatch.setattr("train.machine.has_fast_bf16", lambda: False)
    monkeypatch.setattr("train.export.SERVED_DTYPE", torch.float32)


def settings(run: Path, base: Path, method: str, packing: str, forward_size: int) -> list[str]:
    """Eight runs of two turns; all of them are one step, or two where an adapter begins at 0."""
    rows = []
    for number in range(8):
        words = "otter " * (number % 3)
        pair = f"How many {words}are there in {number}?", f"```repl\nn = {number}\n```"
        rows += [{**turn(*pair), "run": str(number)} for turn in (tiny.turn, tiny.later_turn)]
    config = tiny.write_run(run, base)
    tiny.write_turns(run / "data", rows)
    changes = {
        "method": method, "packing": packing, "forward_size": forward_size, "optimizer": "sgd",
        "batch_size": 8 if packing == "tree" else 16, "learning_rate": 1.0, "warmup": 0,
        "epochs": 1 if method == "full" else 2,
    }  # fmt: skip
    sets = [f"--set={name}={value}" for name, value in changes.items()]
    return ["--config", str(config), "--run", str(run), *sets]


def end(run: Path, method: str) -> tuple[float, dict[str, torch.Tensor]]:
    name = "model.safetensors" if method == "full" else "adapter_model.safetensors"
    metrics = json.loads((run / "sft" / "metrics.json").read_text())
    return metrics["final_loss"], load_file(run / "sft" / name)


@pytest.mark.parametrize("method", ["lora", "full"])
def test_a_step_is_the_same_however_it_is_cut_up(
    method: str, tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    ways = {"rows": ("turns", 1), "whole": ("tree", 8), "parts": ("tree", 2)}
    ends = {}
    for name, (packing, forward_size) in ways.items():
        monkeypatch.setattr(
            sys, "argv",
            ["sft.py", *settings(tmp_path / name, tiny_base, method, packing, forward_size)],
        )  # fmt: skip
        sft.main()
        ends[name] = end(tmp_path / name, method)
    told, expected = ends.pop("rows")
    if method == "full":
        start = load_file(tiny_base / "model.safetensors")
    else:  # A moves from the second step on: while B is zero it has no gradient
        one = [*settings(tmp_path / "start", tiny_base, method, "tree", 8), "--set=epochs=1"]
        monkeypatch.setattr(sys, "argv", ["sft.py", *one])
        sft.main()
        after = end(tmp_path / "start", method)[1]
        start = {name: weight for name, weight in after.items() if "lora_A" in name}
    for loss, found in ends.values():
        assert loss == pytest.approx(told, abs=1.1e-4)  # as metrics.json rounds it
        compare(found, expected, start)


def compare(found: dict, expected: dict, start: dict) -> None:
    """The ways that the weights went, from ``start`` or zero, are equal within 1e-5, beside what
    fp32 loses of a way where it adds it to a weight."""
    for name, weight in expected.items():
        begin = start[name].float() if name in start else torch.zeros(())
        moved, other = weight - begin, found[name] - begin
        assert moved.norm() > 0, name
        difference, lost = (moved - other).norm(), 2**-24 * weight.norm()
        assert difference < 1e-5 * moved.norm() + lost, (name, difference / moved.norm())


@pytest.mark.parametrize("method", ["lora", "full"])
def test_two_processes_end_with_the_weights_of_one(
    method: str, tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """An adapter on a copy of the base each (DDP), all weights in shards (FSDP2)."""
    one = settings(tmp_path / "one", tiny_base, method, "tree", 2)
    monkeypatch.setattr(sys, "argv", ["sft.py", *one])
    sft.main()
    two = settings(tmp_path / "two", tiny_base, method, "tree", 2)
    script, sharding = "tests/train/processes_on_cpu.py", dict[str, str]()
    if method == "full":
        told = yaml.safe_load(FSDP2.read_text())
        sharding = {key.upper(): str(value) for key, value in told["fsdp_config"].items()}
        sharding |= {"ACCELERATE_USE_FSDP": "true"}
    launch = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node=2",
        "--",
    ]
    done = subprocess.run(
        [*launch, script, *two],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", **sharding},
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "processes=2" in done.stdout
    loss, expected = end(tmp_path / "one", method)
    found_loss, found = end(tmp_path / "two", method)
    assert found_loss == pytest.approx(loss, abs=1.1e-4)
    start = load_file(tiny_base / "model.safetensors") if method == "full" else {}
    compare(found, expected, start)
