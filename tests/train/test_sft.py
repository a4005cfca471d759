"""The script through real TRL: a whole run, a killed one, a finished one, and wrong input."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from rlm_executor.card import RLMCard, chat_template
from rlm_executor.config import load_config
from rlm_executor.files import sha256_text
from tests.train import tiny
from train import plan, sft
from train.config import SFTConfig
from train.shapes import count

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = [sys.executable, "train/sft.py"]


def call(*arguments: str | Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``main`` in this process: importing torch and TRL anew takes longer than the training."""
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    monkeypatch.setattr(sys, "argv", ["sft.py", *map(str, arguments)])
    sft.main()


@pytest.fixture(scope="module")
def finished(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """An uninterrupted run and what it printed."""
    run = tmp_path_factory.mktemp("whole")
    config = tiny.write_run(run, tiny_base)
    with pytest.MonkeyPatch.context() as monkeypatch:
        lines: list[str] = []
        monkeypatch.setattr("builtins.print", lambda *text, **_: lines.append(" ".join(text)))
        call("--config", config, "--run", run, monkeypatch=monkeypatch)
    return run, "\n".join(lines)


@pytest.mark.real_trl
def test_a_run_leaves_an_adapter_that_can_be_served(finished, tiny_base: Path):
    run, _ = finished
    names = {path.name for path in (run / "sft").iterdir()}
    expected = {"adapter_model.safetensors", "adapter_config.json", "rlm.json", "metrics.json"}
    assert names == expected | {"config.json", "done.json", "README.md"}
    card = RLMCard.load(run / "sft")
    assert card.chat_template_sha256 == sha256_text(chat_template(tiny_base) or "")
    assert card.model_copy(update={"chat_template_sha256": None}) == RLMCard.load(run / "data")
    settings = json.loads((run / "sft" / "adapter_config.json").read_text())
    assert settings["base_model_name_or_path"] == tiny_base.name
    assert settings["lora_dropout"] == 0 and settings["r"] == 4
    adapted = {name.rpartition(".")[2] for name in settings["target_modules"]}
    projections = "down_proj gate_proj k_proj o_proj q_proj up_proj v_proj"
    assert adapted == set(projections.split())  # all linear layers but the head
    weights = load_file(run / "sft" / "adapter_model.safetensors")
    assert len(weights) == 2 * 2 * 7
    assert all(weight.isfinite().all() for weight in weights.values())
    assert any(weight.abs().max() > 0 for name, weight in weights.items() if "lora_B" in name)
    # Nothing is left of the work, and nothing names a place on this machine.
    assert {path.name for path in run.iterdir()} == {"data", "logs", "sft", "sft.yaml"}
    for path in (run / "sft").iterdir():
        assert str(tiny_base.parent).encode() not in path.read_bytes()
        assert str(run).encode() not in path.read_bytes()


@pytest.mark.real_trl
def test_numbers_of_a_run(finished):
    run, printed = finished
    metrics = json.loads((run / "sft" / "metrics.json").read_text())
    assert (metrics["rows"], metrics["dropped"]) == (22, 1)
    assert metrics["steps"] == metrics["planned_steps"] == 12  # 2 epochs of 6, 4 rows a step
    assert metrics["target_tokens"] < metrics["forwarded_tokens"] < 2 * metrics["tokens"]  # a tree
    assert 0 < metrics["target_tokens"] < metrics["tokens"]
    assert metrics["tokens_per_second"] > 0
    lines = printed.splitlines()
    assert f"rows=22 over_window=1 (max_length 160) tokens={metrics['tokens']}" in printed
    assert "  + ```<|im_end|>" in lines and "device=cpu" in printed
    steps = [line for line in lines if line.startswith("step=")]
    assert len(steps) == 12 and steps[-1].startswith("step=12/12 epoch=2.00 loss=")
    first, last = (float(line.split("loss=")[1].split()[0]) for line in (steps[0], steps[-1]))
    assert last < 0.95 * first
    assert all(" tok/s=" in line and " left=" in line for line in steps)


@pytest.mark.real_trl
def test_rows_end_to_end_are_trained_too(finished, tiny_base, tmp_path, monkeypatch):
    config = tiny.write_run(tmp_path, tiny_base)
    arguments = ["--config", config, "--run", tmp_path, "--set", "packing=turns"]
    call(*arguments, monkeypatch=monkeypatch)
    metrics, tree = (
        json.loads((run / "sft" / "metrics.json").read_text()) for run in (tmp_path, finished[0])
    )
    assert metrics["forwarded_tokens"] == 2 * metrics["tokens"]  # no padding, nothing twice
    assert metrics["target_tokens"] == tree["target_tokens"]
    assert metrics["final_loss"] == pytest.approx(tree["final_loss"], rel=0.02)


@pytest.mark.real_trl
def test_bins_of_runs_are_trained_as_many_runs_a_step(tiny_base, tmp_path, monkeypatch, capsys):
    config = tiny.write_run(tmp_path, tiny_base)
    arguments = ["--config", config, "--run", tmp_path, "--set", "forward_tokens=150"]
    call(*arguments, monkeypatch=monkeypatch)
    assert "bins of runs, 150 tokens at most, a step, 1 a forward" in capsys.readouterr().out
    metrics = json.loads((tmp_path / "sft" / "metrics.json").read_text())
    assert metrics["steps"] == metrics["planned_steps"]
    settings = load_config(SFTConfig, config, ["forward_tokens=150"])
    assert metrics["steps"] == plan.schedule(settings, count(settings, tmp_path, []), 1)[1]
    assert metrics["forwarded_tokens"] < 2 * metrics["tokens"]


@pytest.mark.real_trl
def test_bins_of_rows_learn_the_same_as_single_rows(tiny_base, tmp_path, monkeypatch, capsys):
    told = []
    for name, more in (("bins", "forward_tokens=300"), ("rows", "forward_size=1")):
        config = tiny.write_run(tmp_path / name, tiny_base)
        arguments = ["--config", config, "--run", tmp_path / name, "--set", "packing=turns"]
        # One step of all rows, in any order.
        arguments += ["--set", "epochs=1", "--set", "batch_size=22", "--set", more]
        call(*arguments, "--set", "forward_size=1", monkeypatch=monkeypatch)
        told.append(json.loads((tmp_path / name / "sft" / "metrics.json").read_text()))
    assert "rows, 300 tokens at most, a step, 1 a forward" in capsys.readouterr().out
    assert [one["steps"] for one in told] == [1, 1]
    assert told[0]["forwarded_tokens"] == told[1]["forwarded_tokens"] == told[0]["tokens"]
    assert told[0]["final_loss"] == pytest.approx(told[1]["final_loss"], abs=1.1e-4)


@pytest.mark.real_trl
def test_a_finished_run_returns_at_once(finished, monkeypatch, capsys):
    run, _ = finished
    before = (run / "sft" / "done.json").stat().st_mtime_ns
    monkeypatch.setattr(sft, "train", lambda *_: pytest.fail("trained again"))
    call("--config", run / "sft.yaml", "--run", run, monkeypatch=monkeypatch)
    assert "sft: done before" in capsys.readouterr().out
    assert (run / "sft" / "done.json").stat().st_mtime_ns == before


@pytest.mark.real_trl
def test_a_killed_run_ends_with_the_weights_of_a_whole_one(finished, tmp_path, monkeypatch, capsys):
    whole, _ = finished
    config = tiny.copy_data(whole, tmp_path)
    arguments = ["--config", config, "--run", tmp_path, "--set", "save_seconds=0.0001"]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true"}
    process = subprocess.Popen([*SCRIPT, *map(str, arguments)], cwd=ROOT, env=environment)
    work = tmp_path / ".sft.work"
    try:
        while not any(work.glob("checkpoint-*/complete.json")) and process.poll() is None:
            time.sleep(0.002)
    finally:
        process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL  # it was still at work
    assert not (tmp_path / "sft").exists()
    newest = max(work.glob("checkpoint-*/complete.json"), key=lambda path: path.stat().st_mtime)
    shutil.copytree(newest.parent, work / "checkpoint-999")
    (work / "checkpoint-999" / "optimizer.pt").write_bytes(b"torn")

    call(*arguments, monkeypatch=monkeypatch)

    printed = capsys.readouterr().out
    assert "goes on from step 999" not in printed and "goes on from step " in printed
    resumed = int(printed.split("goes on from step ")[1].split()[0])
    assert 1 <= resumed < 12
    assert f"step={resumed + 1}/12" in printed and "step=12/12" in printed
    # The saving time is part of the configuration, so only done.json and config.json differ.
    one, two = (load_file(run / "sft/adapter_model.safetensors") for run in (whole, tmp_path))
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)
    metrics = [json.loads((run / "sft/metrics.json").read_text()) for run in (whole, tmp_path)]
    assert metrics[0]["forwarded_tokens"] == metrics[1]["forwarded_tokens"]
    assert metrics[0]["final_loss"] == metrics[1]["final_loss"]


@pytest.mark.real_trl
def test_bf16_products_train_too(tiny_base, tmp_path, monkeypatch, capsys):
    config = tiny.write_run(tmp_path, tiny_base, epochs=0.3)
    monkeypatch.setattr("train.machine.has_fast_bf16", lambda: True)  # slow here, but right
    call("--config", config, "--run", tmp_path, monkeypatch=monkeypatch)
    assert "products=bf16" in capsys.readouterr().out
    assert (tmp_path / "sft" / "adapter_model.safetensors").exists()


def script(*arguments: str | Path) -> tuple[int, str]:
    done = subprocess.run(
        [*SCRIPT, *map(str, arguments)], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    return done.returncode, done.stderr


def test_wrong_input_is_one_line_and_exit_code_2(tiny_base: Path, tmp_path: Path):
    config = tiny.write_run(tmp_path, tiny_base)
    wrong = {
        ("--set", "base=assets/nothing"): "base: assets/nothing: is no folder of the repository",
        ("--set", "base=configs"): "base: configs: lacks config.json",
        ("--set", "dataset=missing"): "no dataset at ",
        ("--set", "learning_rat=1"): "learning_rat: is not a known field; did you mean",
        ("--set", "forward_size=3"): "must be a multiple of forward_size 3",
        ("--config", tmp_path / "none.yaml"): "none.yaml: cannot be read",
    }
    for change, message in wrong.items():
        code, error = script("--config", config, "--run", tmp_path, *change)
        assert code == 2 and error.count("\n") == 1, error
        assert error.startswith("error: ") and message in error
    config.write_text("base: [unclosed\n")
    code, error = script("--config", config, "--run", tmp_path)
    assert code == 2 and "is not valid YAML" in error


def test_a_damaged_base_is_one_line(tiny_base, tmp_path, monkeypatch):
    from rlm_executor.errors import InputError

    base = shutil.copytree(tiny_base, tmp_path / "damaged-base")
    weights = base / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    config = tiny.write_run(tmp_path, base)
    with pytest.raises(InputError, match=r"base damaged-base can't be loaded \(.*restore it"):
        call("--config", config, "--run", tmp_path, monkeypatch=monkeypatch)
