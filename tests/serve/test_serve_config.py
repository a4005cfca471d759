"""Every serving config loads; paths are resolved where they should be."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlm_executor.config import load_config
from rlm_executor.errors import ConfigError
from serve.config import REPOSITORY, EngineConfig, ServeConfig
from serve.engine import Engine

CONFIGS = sorted((REPOSITORY / "configs" / "serve").glob("*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_it_loads(path: Path) -> None:
    config = load_config(ServeConfig, path).in_run(Path("runs/x"))
    assert config.engine.adapters["rlm"] == Path("runs/x/sft")
    assert config.gateway.card == Path("runs/x/sft")
    assert config.engine.log == Path("runs/x/logs/vllm.log")
    assert config.port is None
    assert Engine(config.engine).log == config.engine.log


def test_there_are_three() -> None:
    assert [path.stem for path in CONFIGS] == ["ci", "qwen3-8b", "tiny"]


def test_a_model_is_a_folder_of_the_repository_or_a_name_on_the_hub(tmp_path: Path) -> None:
    inside = EngineConfig(model="configs/serve").in_run(tmp_path)
    assert inside.model == str(REPOSITORY / "configs/serve") and not inside.is_hub_name
    hub = EngineConfig(model="Qwen/Qwen3-8B").in_run(tmp_path)
    assert hub.model == "Qwen/Qwen3-8B" and hub.is_hub_name
    assert not EngineConfig(model="/no/such").is_hub_name
    assert not EngineConfig(model="runs/demo/merged").is_hub_name


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("engine.prot=1", "did you mean|known"),
        ("engine.port=99999", "engine.port"),
        ("engine.adapters={base: x}", "both named 'base'"),
        ("engine.adapters={'a b': x}", "served name"),
        ("gateway.store=everything", "gateway.store"),
    ],
)
def test_a_wrong_value_is_named(setting: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load_config(ServeConfig, REPOSITORY / "configs/serve/tiny.yaml", [setting])
