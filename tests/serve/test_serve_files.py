"""Checks on model folders, and what a failed start's log says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rlm_executor import RLMCard
from rlm_executor.errors import EnvironmentFault
from rlm_executor.files import sha256_text
from serve.engine_faults import explain, last_said
from serve.model_files import adapter_exists, check_adapter, check_model
from tests.serve.conftest import BASE, adapter_shapes, write_safetensors


def test_a_whole_model_passes(tiny_model: Path) -> None:
    check_model(str(tiny_model))


def test_a_missing_or_wrong_path_is_named(tiny_model: Path) -> None:
    with pytest.raises(EnvironmentFault, match="no/such does not exist.*engine.model"):
        check_model("no/such")
    with pytest.raises(EnvironmentFault, match="is a file"):
        check_model(str(tiny_model / "config.json"))
    with pytest.raises(EnvironmentFault, match="no config.json"):
        check_model(str(tiny_model.parent))


@pytest.mark.parametrize(
    ("file", "said"),
    [("tokenizer.json", "no tokenizer"), ("model.safetensors", "no weights")],
)
def test_a_missing_part_is_named(tiny_model: Path, file: str, said: str) -> None:
    (tiny_model / file).unlink()
    with pytest.raises(EnvironmentFault, match=said):
        check_model(str(tiny_model))


@pytest.mark.parametrize("text", ["", "{", "[]", "{}"])
def test_a_damaged_config_is_named(tiny_model: Path, text: str) -> None:
    (tiny_model / "config.json").write_text(text)
    with pytest.raises(EnvironmentFault, match="config.json"):
        check_model(str(tiny_model))


def test_cut_or_foreign_weights_are_named(tiny_model: Path) -> None:
    weights = tiny_model / "model.safetensors"
    write_safetensors(weights, BASE, cut=4)
    with pytest.raises(EnvironmentFault, match="its header says"):
        check_model(str(tiny_model))
    for content in (b"", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", b"\0" * 9):
        weights.write_bytes(content)
        with pytest.raises(EnvironmentFault, match="model.safetensors"):
            check_model(str(tiny_model))


def test_a_whole_adapter_has_a_rank(tiny_model: Path, tiny_adapter: Path) -> None:
    assert check_adapter("rlm", tiny_adapter, tiny_model) == 2


def test_half_an_adapter_is_not_left_out(tiny_model: Path, tiny_adapter: Path) -> None:
    assert not adapter_exists(tiny_model)
    for file in ("adapter_config.json", "adapter_model.safetensors"):
        kept = (tiny_adapter / file).read_bytes()
        (tiny_adapter / file).unlink()
        assert adapter_exists(tiny_adapter)
        with pytest.raises(EnvironmentFault, match=f"adapter rlm .* has no {file}"):
            check_adapter("rlm", tiny_adapter, tiny_model)
        (tiny_adapter / file).write_bytes(kept)


def test_an_adapter_of_another_base_is_named(tiny_model: Path, tiny_adapter: Path) -> None:
    other = {"model.layers.0.mlp.down_proj.weight": [8, 24]}
    write_safetensors(tiny_adapter / "adapter_model.safetensors", adapter_shapes(other, 2))
    with pytest.raises(EnvironmentFault, match=r"another base or rank: .*\[2, 24\].*\[2, 16\]"):
        check_adapter("rlm", tiny_adapter, tiny_model)


def test_an_adapter_of_another_template_is_named(tiny_model: Path, tiny_adapter: Path) -> None:
    settings = tiny_model / "tokenizer_config.json"
    settings.write_text(json.dumps({"chat_template": "{{ messages }}"}))
    trained = RLMCard(chat_template_sha256=sha256_text("{{ messages }}"))
    trained.save(tiny_adapter)
    assert check_adapter("rlm", tiny_adapter, tiny_model) == 2
    (tiny_model / "chat_template.jinja").write_text("{{ messages }} ")  # it goes before the other
    with pytest.raises(EnvironmentFault, match="under another chat template than"):
        check_adapter("rlm", tiny_adapter, tiny_model)
    RLMCard().save(tiny_adapter)  # it does not say what it was trained under
    assert check_adapter("rlm", tiny_adapter, tiny_model) == 2


def test_only_lora_is_served(tiny_model: Path, tiny_adapter: Path) -> None:
    (tiny_adapter / "adapter_config.json").write_text(json.dumps({"peft_type": "IA3"}))
    with pytest.raises(EnvironmentFault, match="'IA3'"):
        check_adapter("rlm", tiny_adapter, tiny_model)


VALIDATION = """\
Traceback (most recent call last):
  File "api_server.py", line 1, in main
pydantic_core._pydantic_core.ValidationError: 1 validation error for ModelConfig
  Value error, User-specified max_model_len (9000) is greater than the derived max_model_len
"""
CHAINED = """\
(EngineCore pid=7) ERROR 11-22 17:05:09 [core.py:1] KeyError: 'x'
(EngineCore pid=7) ERROR 11-22 17:05:09 [core.py:1] During handling of the above exception, \
another exception occurred:
(EngineCore pid=7) ERROR 11-22 17:05:09 [core.py:1] ValueError: LoRA rank 16 is greater than 8
(APIServer pid=6) RuntimeError: Engine core initialization failed. See root cause above.
"""


@pytest.mark.parametrize(
    ("log", "line", "fix"),
    [
        (VALIDATION, "max_model_len (9000) is greater", "lower `engine.max_model_len`"),
        (CHAINED, "ValueError: LoRA rank 16", "rank is not one"),
        ("OSError: [Errno 98] Address already in use\n", "Address already", "engine.port"),
        ("x.py: No module named vllm.entrypoints\nModuleNotFoundError: No module named 'vllm'\n",)
        + ("No module named 'vllm'", "make setup"),
        ("RuntimeError: operator torchvision::nms does not exist\n", "nms", "pip uninstall"),
        ("api_server.py: error: unrecognized arguments: --nonsense\n", "--nonsense", ""),
        ("(Worker pid=1) INFO 11-22 17:06:23 [a.py:1] Loading\n", "Loading", ""),
        ("", "vLLM ended", ""),
    ],
)
def test_a_log_becomes_one_line(log: str, line: str, fix: str) -> None:
    said = explain(log, "ended with exit code 1")
    assert said.startswith("vLLM ended with exit code 1")
    assert line in said and fix in said and "\n" not in said


def test_progress_is_the_last_line_without_its_prefix() -> None:
    log = "(Worker pid=1) INFO 11-22 17:06:23 [a.py:1] Starting to load model\n\nINFO:  x\n"
    assert last_said(log) == "Starting to load model"
    assert last_said("") == ""
