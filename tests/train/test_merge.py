"""Merging: the number that makes it believable, the files, what is refused, and real vLLM on it."""

from __future__ import annotations

import json
import shutil
from collections import namedtuple
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
import torch
from peft import LoraModel, PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, PreTrainedModel

from rlm_executor import RLMCard
from rlm_executor.errors import ConfigError, EnvironmentFault, InputError
from serve.engine import Engine, EngineConfig
from tests.standin import build_adapter, build_base
from tests.train import tiny
from train import merge
from train.config import SFTConfig
from train.inputs import find_inputs

# Of the base when it has none of its own: the loaded model writes one.
FILES = {"model.safetensors", "config.json", "generation_config.json", "done.json", "README.md"}
FILES |= {"tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "rlm.json"}


@pytest.fixture(scope="module")
def adapter(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's folder of a random adapter, as training leaves it."""
    folder = build_adapter(tiny_base, tmp_path_factory.mktemp("adapter") / "sft")
    RLMCard().save(folder)
    (folder / "config.json").write_text('{"dataset": "data"}')
    return folder


@pytest.fixture
def run(adapter: Path, tmp_path: Path) -> Path:
    shutil.copytree(adapter, tmp_path / "run" / "sft")
    tiny.write_turns(tmp_path / "run" / "data", tiny.turns(22))
    return tmp_path / "run"


def call(run: Path, base: Path, *more: str) -> None:
    merge.main(["--run", str(run), "--base", str(base), *more])


def left(run: Path) -> set[str]:
    return {path.name for path in run.iterdir()} - {"data", "sft"}


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.inference_mode():
        return model(input_ids=torch.arange(40, 80)[None]).logits


def test_merged_weights_are_base_and_adapter(run: Path, tiny_base: Path, capsys):
    call(run, tiny_base, "--dtype", "float32")
    base = AutoModelForCausalLM.from_pretrained(tiny_base, dtype=torch.float32)
    alone = logits(base)
    together = logits(PeftModel.from_pretrained(base, str(run / "sft")))
    merged = logits(AutoModelForCausalLM.from_pretrained(run / "merged"))
    assert (merged - together).abs().max() < 1e-4
    assert (merged - alone).abs().max() > 0.1
    done = json.loads((run / "merged" / "done.json").read_text())
    check = done["check"]
    assert 0 < check["difference"] < 1e-4 and check["files"] == 0
    assert check["rounding"] == check["difference"]  # float32 costs nothing
    assert check["rows"] == 8 and check["positions"] > 8 * 20
    number = f"{check['difference']:.1e}"
    assert number in capsys.readouterr().out
    assert f"(refused at 0.001) | {number} |" in (run / "merged" / "README.md").read_text()


def test_files_of_a_merged_model(run: Path, tiny_base: Path):
    call(run, tiny_base)
    folder = run / "merged"
    assert {path.name for path in folder.iterdir()} == FILES and left(run) == {"merged"}
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        assert (folder / name).read_bytes() == (tiny_base / name).read_bytes()
    assert (folder / "rlm.json").read_text() == (run / "sft" / "rlm.json").read_text()
    weights, own = (
        load_file(folder / "model.safetensors"),
        load_file(tiny_base / "model.safetensors"),
    )
    assert weights.keys() == own.keys()
    assert {weight.dtype for weight in weights.values()} == {torch.bfloat16}  # the base's
    assert json.loads((folder / "config.json").read_text())["dtype"] == "bfloat16"
    card = (folder / "README.md").read_text()
    assert f"base_model: {tiny_base.name}\n" in card and "sub_model: base" in card
    rounding = json.loads((folder / "done.json").read_text())["check"]["rounding"]
    assert rounding > 1e-3 and f"what bfloat16 costs | {rounding:.1e} |" in card
    for path in folder.iterdir():
        assert str(tiny_base.parent).encode() not in path.read_bytes()
        assert str(run.parent).encode() not in path.read_bytes()


def test_the_same_again_is_done_and_another_is_refused(run: Path, tiny_base: Path, capsys):
    call(run, tiny_base)
    before = (run / "merged" / "model.safetensors").stat().st_mtime_ns
    call(run, tiny_base)
    assert "merged: done before" in capsys.readouterr().out
    with pytest.raises(InputError, match="made of something else .* --to"):
        call(run, tiny_base, "--dtype", "float32")
    assert (run / "merged" / "model.safetensors").stat().st_mtime_ns == before
    (run / "other").mkdir()
    with pytest.raises(InputError, match="made of something else"):
        call(run, tiny_base, "--to", "other")


def test_fixed_prompts_without_a_dataset_and_no_card(run: Path, tiny_base: Path):
    shutil.rmtree(run / "data")
    (run / "sft" / "rlm.json").unlink()
    call(run, tiny_base)
    assert json.loads((run / "merged" / "done.json").read_text())["check"]["rows"] == 2
    assert not (run / "merged" / "rlm.json").exists()
    assert "in one reply" in (run / "merged" / "README.md").read_text()


def test_weights_changed_by_the_merge_are_refused(run: Path, tiny_base: Path, monkeypatch):
    whole = LoraModel.merge_and_unload

    def changed(model: LoraModel) -> PreTrainedModel:
        merged = whole(model)
        merged.model.layers[1].mlp.down_proj.weight[3] += 0.05
        return merged

    monkeypatch.setattr(LoraModel, "merge_and_unload", changed)
    with pytest.raises(InputError, match=r"differ by up to 0\.\d+ .* \(limit 0.001\)"):
        call(run, tiny_base)
    assert left(run) == set()


def test_weights_that_are_no_numbers_are_refused(run: Path, tiny_base: Path, monkeypatch):
    whole = LoraModel.merge_and_unload

    def broken(model: LoraModel) -> PreTrainedModel:
        merged = whole(model)
        merged.model.layers[0].mlp.up_proj.weight[0, 0] = float("nan")
        return merged

    monkeypatch.setattr(LoraModel, "merge_and_unload", broken)
    with pytest.raises(InputError, match="differ by up to inf"):
        call(run, tiny_base)
    assert left(run) == set()


def test_files_that_hold_something_else_are_refused(run: Path, tiny_base: Path, monkeypatch):
    whole = PreTrainedModel.save_pretrained

    def damaged(model: PreTrainedModel, folder: Path, **options: str) -> None:
        whole(model, folder, **options)
        weights = load_file(folder / "model.safetensors")
        weights["model.norm.weight"] = weights["model.norm.weight"] * 1.5
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})

    monkeypatch.setattr(PreTrainedModel, "save_pretrained", damaged)
    with pytest.raises(InputError, match="in memory, read again from their files"):
        call(run, tiny_base)
    assert left(run) == set()


def test_an_adapter_that_does_nothing_is_refused(run: Path, tiny_base: Path):
    file = run / "sft" / "adapter_model.safetensors"
    weights = load_file(file)
    save_file({name: torch.zeros_like(weight) for name, weight in weights.items()}, file)
    with pytest.raises(InputError, match="changes nothing"):
        call(run, tiny_base)
    assert left(run) == set()


def test_a_torn_adapter_and_one_of_another_base_are_named(run: Path, tiny_base: Path):
    file = run / "sft" / "adapter_model.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[:1000])
    with pytest.raises(InputError, match="does not load onto random-base"):
        call(run, tiny_base)
    file.write_bytes(whole)
    (run / "sft" / "done.json").write_text('{"inputs": {"base": "0123"}}')
    with pytest.raises(InputError, match="not the one that the adapter was trained on"):
        call(run, tiny_base)
    assert left(run) == set()


def test_the_base_is_known_by_the_hash_that_training_notes(run: Path, tiny_base: Path):
    config = SFTConfig(base=str(tiny_base), learning_rate=1, max_length=100)
    stamp = find_inputs(config, run).stamp
    (run / "sft" / "done.json").write_text(json.dumps(stamp))
    plan = merge.make_plan(run, "sft", "merged", str(tiny_base), None)
    assert plan.stamp["inputs"]["base"] == stamp["inputs"]["base"]


def test_wrong_arguments_are_named_before_anything_is_loaded(run: Path, tiny_base: Path):
    with pytest.raises(InputError, match="no adapter in .*; train it first"):
        call(run, tiny_base, "--output", "nothing")
    (run / "whole").mkdir()
    shutil.copy(tiny_base / "model.safetensors", run / "whole")
    with pytest.raises(InputError, match="it is a whole model already"):
        call(run, tiny_base, "--output", "whole")
    shutil.rmtree(run / "whole")
    for base in ("no-such-base", "a/b/c"):
        with pytest.raises(ConfigError, match=f"base {base}: .* --base"):
            merge.main(["--run", str(run), "--base", base])
    with pytest.raises(ConfigError, match="lacks config.json, .*safetensors"):
        call(run, run / "data")
    for to in ("sft", "..", "a/b"):
        with pytest.raises(ConfigError, match="no name of a new folder"):
            call(run, tiny_base, "--to", to)
    assert left(run) == set()


def test_a_base_that_the_hub_does_not_give(run: Path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ConfigError, match="base someone/no-such-model: .* Hub does not give it"):
        merge.main(["--run", str(run), "--base", "someone/no-such-model"])


def test_a_disk_without_room_is_named(run: Path, tiny_base: Path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage(10**9, 10**9, 50_000_000))
    with pytest.raises(EnvironmentFault, match="takes 0.1 GB and .* has 0.1 GB left; free some"):
        call(run, tiny_base)
    assert left(run) == set()


def test_what_a_kill_left_is_swept(run: Path, tiny_base: Path):
    (run / ".merged.partial").mkdir()
    (run / ".merged.partial" / "model.safetensors").write_text("half")
    call(run, tiny_base)
    assert left(run) == {"merged"}


def greedy(engine: Engine, model: str, prompts: list[str]) -> list[list[int]]:
    """Token ids of each prompt's most probable answer."""

    def ask(prompt: str) -> list[int]:
        with httpx.Client(trust_env=False, timeout=300) as client:
            request = {"model": model, "temperature": 0, "max_tokens": 12, "return_token_ids": True}
            message = {"role": "user", "content": prompt}
            answer = client.post(
                f"{engine.base_url}/chat/completions", json={**request, "messages": [message]}
            )
        return answer.raise_for_status().json()["choices"][0]["token_ids"]

    with ThreadPoolExecutor(8) as pool:
        return list(pool.map(ask, prompts))


@pytest.mark.by_hand
@pytest.mark.real_vllm
def test_vllm_answers_the_same_with_merged_weights_and_with_the_adapter(tmp_path: Path):
    base = build_base(tmp_path / "tiny")
    build_adapter(base, tmp_path / "run" / "sft")
    call(tmp_path / "run", base, "--dtype", "float32")
    prompts = [f"How many otters are in line {number * 37}?" for number in range(50)]
    settings = {"dtype": "float32", "max_model_len": 256, "max_num_seqs": 8, "kv_cache_gib": 0.25}
    # No start takes this long, unless the machine trains something at the same time.
    settings |= {"start_timeout_s": 900}
    with Engine(
        EngineConfig(model=str(base), adapters={"rlm": tmp_path / "run" / "sft"}, **settings)
    ) as engine:
        adapted, alone = greedy(engine, "rlm", prompts), greedy(engine, "base", prompts)
    with Engine(EngineConfig(model=str(tmp_path / "run" / "merged"), **settings)) as engine:
        merged = greedy(engine, "base", prompts)
    assert merged == adapted
    assert sum(one == other for one, other in zip(merged, alone, strict=True)) < 5
    assert len({tuple(answer) for answer in merged}) > 10  # it says more than one thing
