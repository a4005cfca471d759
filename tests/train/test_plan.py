"""The plan: its arithmetic against real models and rows, and names that a package does not have."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM, Qwen3Config

from rlm_executor.config import load_config
from rlm_executor.errors import ConfigError
from tests.train import tiny
from train import plan, rows, shapes
from train.config import SFTConfig
from train.shapes import SHAPES, Assumption, Setup, find_shape, memory

ROOT = Path(__file__).resolve().parents[2]
RECIPES = sorted((ROOT / "configs" / "sft").glob("qwen3-8b-*.yaml"))
EIGHT = SHAPES["Qwen/Qwen3-8B"]


def settings(**changes: object) -> SFTConfig:
    fields = {"base": "Qwen/Qwen3-8B", "learning_rate": 1e-4, "max_length": 4096}
    return SFTConfig.model_validate(fields | changes)


def run_plan(*arguments: str | Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["plan", *map(str, arguments)])
    plan.main()


# -- Parameters


@pytest.mark.parametrize("name", SHAPES)
def test_parameters_of_the_table_are_those_of_the_model(name: str):
    shape = SHAPES[name]
    config = Qwen3Config(
        vocab_size=shape.vocab,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.head_dim,
        tie_word_embeddings=shape.tied,
    )
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    assert shape.parameters == sum(weight.numel() for weight in model.parameters())
    # The model cards say the same, in billions: with and without the embeddings.
    cards = {"0.6B": 0.44, "1.7B": 1.4, "4B": 3.6, "8B": 6.95, "14B": 13.2, "32B": 31.2}
    embeddings = shape.head * (1 if shape.tied else 2)
    said = cards[name.rpartition("-")[2]]
    assert (shape.parameters - embeddings) / 1e9 == pytest.approx(said, rel=0.02)


def test_a_folder_is_read_and_its_adapter_counted(tiny_base: Path):
    from peft import LoraConfig, get_peft_model

    shape = find_shape(str(tiny_base))
    model = AutoModelForCausalLM.from_pretrained(tiny_base)
    assert shape.parameters == sum(weight.numel() for weight in model.parameters())
    lora = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")
    trained = get_peft_model(model, lora).get_nb_trainable_parameters()[0]
    assert shape.lora(4) == trained == shape.trained(settings(lora_r=4))
    assert shape.trained(settings(method="full")) == shape.parameters


def test_a_base_of_unknown_shape_is_one_line(tmp_path: Path):
    with pytest.raises(ConfigError, match="no shape that is known here; give a folder"):
        find_shape("someone/else")
    (tmp_path / "config.json").write_text(json.dumps({"hidden_size": 8}))
    with pytest.raises(ConfigError, match="its config.json has no num_hidden_layers"):
        find_shape(str(tmp_path))


# -- Memory and operations


def test_memory_of_the_three_methods():
    lora, qlora, full = (
        memory(EIGHT, settings(method=method, lora_r=16), Setup(), 8192)
        for method in ("lora", "qlora", "full")
    )
    adapter = EIGHT.lora(16)
    assert lora["weights"] == 2 * EIGHT.parameters + 4 * adapter
    assert lora["gradients"] == 4 * adapter and lora["optimizer"] == 8 * adapter
    assert 6e9 < qlora["weights"] < 6.5e9
    states = full["weights"] + full["gradients"] + full["optimizer"]
    assert states == 16 * EIGHT.parameters
    # What TRL's maintainers measured for this run: 19.7 GiB, without the CUDA context.
    assert (sum(lora.values()) - lora["overhead"]) / 2**30 == pytest.approx(19.7, rel=0.1)


def test_what_changes_memory():
    full = settings(method="full")
    one, eight = (memory(EIGHT, full, Setup(gpus, gpus > 1), 4096) for gpus in (1, 8))
    assert eight["optimizer"] == one["optimizer"] / 8 and one["gathered"] == 0 < eight["gathered"]
    assert eight["activations"] == one["activations"]  # each process has its own rows
    stored = memory(EIGHT, full, Setup(), 4096, checkpointing=False)
    assert stored["activations"] > 10 * one["activations"]
    small = memory(EIGHT, settings(method="full", optimizer="adamw_8bit"), Setup(), 4096)
    assert small["optimizer"] == one["optimizer"] / 4
    copies = memory(EIGHT, settings(), Setup(2), 4096)
    assert copies["gradients"] == 2 * memory(EIGHT, settings(), Setup(), 4096)["gradients"]


def test_activations_are_about_what_a_layer_keeps(tiny_base: Path):
    """PyTorch's own count of what a forward pass saves, in fp32: twice the bytes of bf16."""
    tokens, layers = 96, {}
    for count in (1, 2):
        config = Qwen3Config.from_pretrained(tiny_base, num_hidden_layers=count)
        config.layer_types = ["full_attention"] * count
        config._attn_implementation = "sdpa"
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).model
        weights = {weight.data_ptr() for weight in model.parameters()}
        saved: dict[int, int] = {}

        def keep(tensor, weights=weights, saved=saved):
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in weights:
                saved[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            model(torch.arange(tokens)[None], use_cache=False)
        layers[count] = sum(saved.values())
    measured = (layers[2] - layers[1]) / tokens
    shape = find_shape(str(tiny_base))
    assert 2 * shapes.activations(shape) == pytest.approx(measured, rel=0.4)


def test_operations_of_a_token():
    lora, again = shapes.flops_a_token(EIGHT, "lora", 0)
    full, _ = shapes.flops_a_token(EIGHT, "full", 0)
    assert lora == 4 * (EIGHT.linear + EIGHT.head) and full == 1.5 * lora
    assert again == 2 * EIGHT.linear
    with_attention, _ = shapes.flops_a_token(EIGHT, "lora", 4096)
    assert with_attention - lora == 3 * 4 * 4096 * 4096 * 36  # 32 heads of 128, in 36 layers


def test_operations_are_those_that_torch_counts(tiny_base: Path):
    from torch.utils.flop_counter import FlopCounterMode

    model = AutoModelForCausalLM.from_pretrained(tiny_base, attn_implementation="eager")
    tokens, shape = 64, find_shape(str(tiny_base))
    with FlopCounterMode(display=False) as counter:
        model(torch.arange(tokens)[None]).logits.sum().backward()
    # Eager attention computes the masked half too, so a token sees all of them.
    expected = tokens * shapes.flops_a_token(shape, "full", tokens)[0]
    assert counter.get_total_flops() == pytest.approx(expected, rel=0.01)


# -- Amounts


@pytest.mark.parametrize("packing", ["turns", "tree"])
def test_a_dataset_is_counted_as_it_is_trained(packing, tiny_base, tokenizer, tmp_path):
    tiny.write_run(tmp_path, tiny_base)
    config = settings(base=str(tiny_base), max_length=160, packing=packing, batch_size=4, epochs=2)
    work = shapes.count(config, tmp_path, [])
    path = tmp_path / "data" / "dataset" / "turns.parquet"
    data = rows.encode(rows.read_turns(path), tokenizer, 160)
    assert (work.rows, work.left_out) == (len(data.kept), data.over_window)
    assert work.target_tokens == data.target_tokens
    assert plan.schedule(config, work, 1)[1] == 12
    if packing == "turns":
        assert (work.tokens, work.largest) == (data.tokens, data.longest)
        lengths = [len(row.input_ids) for row in data.kept]
        seen = sum(length * (length + 1) / 2 for length in lengths) / sum(lengths)
        assert work.seen == pytest.approx(seen)
    else:
        assert data.target_tokens < work.tokens <= data.tokens
    assert plan.schedule(config.model_copy(update={"max_steps": 7}), work, 1)[1] == 7
    unknown = shapes.count(config.model_copy(update={"base": "Qwen/Qwen3-8B"}), tmp_path, [])
    assert "4 bytes a token" in unknown.source and 0 < unknown.rows <= 23


def test_bins_are_shared_out_evenly_or_refused(tmp_path: Path):
    config = settings(max_length=32768, packing="tree", batch_size=24, forward_tokens=100_000)
    work = shapes.count(config, tmp_path, [])
    assert work.examples == 1000 and work.bins == 334
    for gpus in (1, 8):
        planned, steps = plan.schedule(config, work, gpus)
        assert planned.forward_size == 1 and planned.batch_size % gpus == 0
        assert planned.batch_size <= 1.5 * 24 * work.bins / 1000
        assert steps == -(-work.bins // planned.batch_size)
    few = config.model_copy(update={"batch_size": 4})
    assert plan.schedule(few, work, 1)[0].batch_size < 4
    with pytest.raises(ConfigError, match=r"8 processes take 8 a step; use at least (\d+)") as told:
        plan.schedule(few, work, 8)
    enough = int(re.findall(r"at least (\d+)", str(told.value))[0])
    assert plan.schedule(config.model_copy(update={"batch_size": enough}), work, 8)[1] > 0


def test_an_assumption_is_stated_and_can_be_changed(tmp_path: Path):
    assumed = shapes.count(settings(max_length=32768), tmp_path, [])
    assert assumed.rows == 10_000 and "there is no dataset yet" in assumed.source
    assert "runs=1000 turns=10" in assumed.source
    assert assumed.tokens < 10_000 * 12_700  # a tree holds what turns share once
    turns = shapes.count(settings(max_length=32768, packing="turns"), tmp_path, ["runs=10"])
    assert (turns.rows, turns.tokens) == (100, 100 * (12_000 + 700))
    assert shapes.count(settings(max_length=10_000), tmp_path, []).left_out > 0
    new = Assumption(runs=1, turns=3, first_prompt_tokens=10, prompt_tokens=20, reply_tokens=5)
    assert new.rows() == [[(15, 15), (25, 15), (35, 15)]]
    for wrong in ("rows=3", "runs=many", "runs"):
        with pytest.raises(ConfigError, match="give one of runs=N"):
            shapes.count(settings(), tmp_path, [wrong])
    with pytest.raises(ConfigError, match="less than any row has"):
        shapes.count(settings(max_length=100), tmp_path, [])


# -- The recipes, and what is installed


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_fits_the_gpus_that_it_is_for(recipe, tmp_path, monkeypatch, capsys):
    run_plan("--config", recipe, "--run", tmp_path, monkeypatch=monkeypatch)
    printed = capsys.readouterr().out
    hours = {line[2:17].strip(): line for line in printed.splitlines() if "TFLOP/s" in line}
    assert hours.keys() == plan.GPUS.keys()
    assert " h " in hours["H100 80GB"]
    assert (" h " in hours["RTX 4090 24GB"]) == ("qlora" in recipe.name)
    for package in ("trl", "transformers", "accelerate", "vllm"):
        assert f"flags: {package} " in printed and "knows" in printed
    if "paper" in recipe.name:
        assert "steps=300 " in printed and "64 rows a step" in printed
    if not torch.cuda.is_available():
        assert printed.splitlines()[-1] == "free memory: no GPU here"


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_every_field_of_a_recipe_has_its_reason(recipe: Path):
    load_config(SFTConfig, recipe)
    lines = [line for line in recipe.read_text().splitlines() if not line.startswith("#")]
    assert all(" # " in line for line in lines)


@pytest.mark.parametrize("name", ["one-gpu", "ddp", "fsdp2", "cpu"])
def test_accelerate_takes_its_configurations(name: str):
    gpus, sharded = plan.processes_of(ROOT / "configs" / "accelerate" / f"{name}.yaml")
    assert (gpus, sharded) == (8 if name in ("ddp", "fsdp2") else 1, name == "fsdp2")


def test_names_that_are_unknown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    launch = ROOT / "configs" / "accelerate" / "fsdp2.yaml"
    serve = ROOT / "configs" / "serve" / "qwen3-8b.yaml"
    keys = yaml.safe_load(launch.read_text())
    wrong = tmp_path / "launch.yaml"
    wrong.write_text(yaml.safe_dump({**keys, "num_procesess": 8}))
    with pytest.raises(ConfigError, match=r"refused by accelerate .*num_procesess"):
        plan.processes_of(wrong)
    nested = {**keys["fsdp_config"], "fsdp_reshard_after_foward": True}
    wrong.write_text(yaml.safe_dump({**keys, "fsdp_config": nested}))
    with pytest.raises(ConfigError, match="did you mean fsdp_reshard_after_forward"):
        plan.processes_of(wrong)
    with pytest.raises(ConfigError, match=r"adamw_troch.* not known to transformers 5"):
        plan.check_flags(settings(optimizer="adamw_troch"), launch, serve)
    served = yaml.safe_load(serve.read_text())
    served["engine"]["extra_args"] = ["--gpu_memory_utilization=0.9", "--no-enable-chunked-prefill"]
    wrong.write_text(yaml.safe_dump(served))
    assert "knows all" in plan.check_server(settings(), wrong)
    served["engine"]["extra_args"] = ["--gpu-memory-utilisation", "0.9"]
    wrong.write_text(yaml.safe_dump(served))
    with pytest.raises(ConfigError, match="did you mean --gpu-memory-utilization"):
        plan.check_server(settings(), wrong)
    # A trl without a field that the training script sets.
    found = plan.inspect.signature

    def older(target):
        signature = found(target)
        kept = [one for name, one in signature.parameters.items() if name != "padding_free"]
        return signature.replace(parameters=kept)

    monkeypatch.setattr(plan.inspect, "signature", older)
    with pytest.raises(ConfigError, match=r"TRLConfig\(padding_free=\): is not known to trl 1"):
        plan.check_flags(settings(), launch, serve)


def test_the_names_are_those_of_the_script():
    used = plan.keywords(ROOT / "train" / "sft.py", "TRLConfig")
    assert {"learning_rate", "num_train_epochs", "padding_free", "save_total_limit"} <= {*used}
    assert "target_modules" in plan.keywords(ROOT / "train" / "sft.py", "LoraConfig")
    assert "load_in_4bit" in plan.keywords(ROOT / "train" / "model.py", "BitsAndBytesConfig")


def test_an_unknown_name_is_one_line_and_exit_code_2(tmp_path: Path):
    wrong = tmp_path / "launch.yaml"
    wrong.write_text("distributed_type: 'NO'\nnum_gpus: 1\n")
    command = [sys.executable, "-m", "train.plan", "--config", RECIPES[1], "--accelerate", wrong]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert "num_gpus" in done.stderr
