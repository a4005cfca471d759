"""All weights instead of an adapter, steps instead of epochs, 4 bits where they can't be had."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from rlm_executor import RLMCard
from rlm_executor.errors import EnvironmentFault
from tests.train import tiny
from train import machine, model, sft
from train.config import SFTConfig

STEPS = 8  # 6 are an epoch


def call(*arguments: str | Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    monkeypatch.setattr(sys, "argv", ["sft.py", *map(str, arguments)])
    sft.main()


@pytest.fixture(scope="module")
def finished(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The run's folder and what it printed."""
    run = tmp_path_factory.mktemp("full")
    config = tiny.write_run(run, tiny_base, method="full", max_steps=STEPS, learning_rate=0.002)
    with pytest.MonkeyPatch.context() as monkeypatch:
        lines: list[str] = []
        monkeypatch.setattr("builtins.print", lambda *text, **_: lines.append(" ".join(text)))
        call("--config", config, "--run", run, monkeypatch=monkeypatch)
    return run, "\n".join(lines)


@pytest.mark.real_trl
def test_a_full_run_leaves_a_model_that_loads_by_itself(finished, tiny_base: Path, tokenizer):
    folder = finished[0] / "sft"
    names = {path.name for path in folder.iterdir()}
    assert {"model.safetensors", "config.json", "tokenizer.json", "rlm.json", "done.json"} <= names
    assert {"sft.json", "metrics.json", "README.md"} <= names
    assert not any("adapter" in name for name in names)
    card = RLMCard.load(folder)
    assert card.chat_template_sha256 is not None
    assert card.model_copy(update={"chat_template_sha256": None}) == tiny.CARD
    settings = json.loads((folder / "config.json").read_text())
    assert settings["architectures"] == ["Qwen3ForCausalLM"] and settings["dtype"] == "bfloat16"
    assert json.loads((folder / "sft.json").read_text())["method"] == "full"

    trained = AutoModelForCausalLM.from_pretrained(folder)
    base = AutoModelForCausalLM.from_pretrained(tiny_base)
    assert trained.dtype == torch.bfloat16
    before, after = base.state_dict(), trained.state_dict()
    assert before.keys() == after.keys()
    moved = [name for name in before if not torch.equal(before[name], after[name])]
    # Embeddings, projections, norms and the head: nothing was left frozen.
    assert {name.rpartition(".")[0].rpartition(".")[2] for name in moved} >= {
        *"embed_tokens q_proj k_proj v_proj o_proj gate_proj up_proj down_proj lm_head".split()
    }
    stored = load_file(folder / "model.safetensors")
    assert all(weight.dtype == torch.bfloat16 for weight in stored.values())

    # The prompt of a row becomes the same ids, so what is served is what was trained.
    row = tiny.turns(1)[0]
    own = AutoTokenizer.from_pretrained(folder)
    ids = [
        one.apply_chat_template(row["prompt"], add_generation_prompt=True, enable_thinking=False)
        for one in (own, tokenizer)
    ]
    assert ids[0]["input_ids"] == ids[1]["input_ids"] and own.eos_token == tokenizer.eos_token


@pytest.mark.real_trl
def test_the_exported_weights_have_the_lower_loss(finished, tiny_base: Path, tokenizer):
    from train import rows

    turns = rows.read_turns(finished[0] / "data" / "dataset" / "turns.parquet")
    data = rows.encode(turns, tokenizer, 160)

    def loss(folder: Path) -> float:
        loaded = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        with torch.no_grad():
            losses = [
                loaded(torch.tensor([row.input_ids]), labels=torch.tensor([row.labels])).loss
                for row in data.kept
            ]
        return torch.stack(losses).mean().item()

    base, trained = loss(tiny_base), loss(finished[0] / "sft")
    metrics = json.loads((finished[0] / "sft" / "metrics.json").read_text())
    assert trained < 0.9 * base
    assert trained <= metrics["final_loss"]  # a mean over the last steps, before they were done
    assert metrics["lora_parameters"] == sum(
        weight.numel() for weight in AutoModelForCausalLM.from_pretrained(tiny_base).parameters()
    )


@pytest.mark.real_trl
def test_max_steps_are_the_steps(finished):
    run, printed = finished
    metrics = json.loads((run / "sft" / "metrics.json").read_text())
    assert metrics["steps"] == metrics["planned_steps"] == STEPS
    assert f"step={STEPS}/{STEPS} epoch=1.3" in printed
    assert "attention: SDPA row by row (the kernels need a GPU" in printed
    assert f"model in {run / 'sft'}" in printed


@pytest.mark.real_trl
def test_nothing_of_this_machine_is_in_the_model(finished, tiny_base: Path):
    run = finished[0]
    assert {path.name for path in run.iterdir()} == {"data", "logs", "sft", "sft.yaml"}
    for path in (run / "sft").iterdir():
        assert str(tiny_base.parent).encode() not in path.read_bytes(), path.name
        assert str(run).encode() not in path.read_bytes(), path.name


@pytest.mark.real_trl
def test_a_finished_full_run_returns_at_once(finished, monkeypatch, capsys):
    run = finished[0]
    monkeypatch.setattr(sft, "train", lambda *_: pytest.fail("trained again"))
    call("--config", run / "sft.yaml", "--run", run, monkeypatch=monkeypatch)
    assert f"sft: done before, the model is in {run / 'sft'}" in capsys.readouterr().out
    called = []
    monkeypatch.setattr(sft, "train", lambda *_: called.append("again"))
    settings = ["--set", "max_steps=9"]
    call("--config", run / "sft.yaml", "--run", run, *settings, monkeypatch=monkeypatch)
    assert called == ["again"]


@pytest.mark.real_trl
def test_a_killed_full_run_goes_on(finished, tmp_path, monkeypatch, capsys):
    """The checkpoint is the trainer's own: weights and optimizer, not an adapter."""
    whole, _ = finished
    config = tiny.copy_data(whole, tmp_path)
    settings = ["--set", "save_seconds=0.0001"]

    class Killed(Exception):
        pass

    def die(*_):
        raise Killed

    with monkeypatch.context() as patched, pytest.raises(Killed):
        # Not at the end: the last checkpoint but one is gone on from.
        patched.setattr("train.export.export", die)
        call("--config", config, "--run", tmp_path, *settings, monkeypatch=patched)
    shutil.rmtree(tmp_path / ".sft.work" / f"checkpoint-{STEPS}")
    call("--config", config, "--run", tmp_path, *settings, monkeypatch=monkeypatch)
    assert f"goes on from step {STEPS - 1}" in capsys.readouterr().out
    one, two = (load_file(run / "sft" / "model.safetensors") for run in (whole, tmp_path))
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize("examples", [1, 3, 47, 22, 1072, 6191])
def test_steps_said_as_epochs_are_the_same_steps(examples: int):
    import math

    for steps in (1, 2, 7, 300, 301, 12345):
        config = SFTConfig(base="b", learning_rate=1, max_length=1, batch_size=4, forward_size=2)
        config = config.model_copy(update={"max_steps": steps})
        epochs = config.counted_in_epochs(examples).epochs
        assert math.ceil(epochs * math.ceil(examples / 4)) == steps


def test_new_fields_at_their_defaults_leave_the_stamp_of_older_runs():
    config = SFTConfig(base="b", learning_rate=1, max_length=1)
    assert not {"method", "max_steps"} & config.model_dump().keys()
    changed = SFTConfig(base="b", learning_rate=1, max_length=1, method="full", max_steps=3)
    assert changed.model_dump()["method"] == "full" and changed.model_dump()["max_steps"] == 3


def test_qlora_says_what_it_lacks(tiny_base, tmp_path, monkeypatch):
    config = tiny.write_run(tmp_path, tiny_base, method="qlora")
    with pytest.raises(EnvironmentFault, match="qlora needs a CUDA GPU"):
        call("--config", config, "--run", tmp_path, monkeypatch=monkeypatch)
    gpu = machine.Machine("cuda", 1, 1, torch.bfloat16, True, machine.ROW_BY_ROW)
    monkeypatch.setattr(model.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(EnvironmentFault, match="qlora needs bitsandbytes"):
        model.check_method("qlora", gpu)
    model.check_method("lora", gpu)


def test_four_bits_are_nf4_on_the_gpu_of_the_process(monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "3")
    gpu = machine.Machine("cuda", 8, 1, torch.bfloat16, True, machine.ROW_BY_ROW)
    options = model.four_bit(gpu)
    assert options["device_map"] == {"": 3}
    quantization = options["quantization_config"]
    assert quantization.load_in_4bit and quantization.bnb_4bit_quant_type == "nf4"
    assert quantization.bnb_4bit_compute_dtype == torch.bfloat16
