"""What must not be trained on is refused at the start, with the number of rows and the fix."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from transformers import PreTrainedTokenizerBase

from rlm_executor import RLMCard
from rlm_executor.card import chat_template
from rlm_executor.config import load_config
from rlm_executor.errors import InputError
from rlm_executor.files import append_jsonl, sha256_text
from tests.train import tiny
from train import rows, sft
from train.config import SFTConfig
from train.inputs import Inputs, find_inputs
from train.model import load_tokenizer

LAST_TRAINING_SEED = 699_999


def write_run(folder: Path, base: Path, made: list[dict[str, Any]], card: RLMCard | None) -> Path:
    """A run with these rows; the path of its config."""
    config = tiny.write_run(folder, base)
    tiny.write_turns(folder / "data", made)
    (folder / "data" / "rlm.json").unlink()
    if card is not None:
        card.save(folder / "data")
    return config


def find(folder: Path) -> Inputs:
    return find_inputs(load_config(SFTConfig, folder / "sft.yaml"), folder)


def named(count: int) -> list[dict[str, Any]]:
    """Rows of two turns each, with task ids."""
    return [
        turn | {"run": f"niah-{number // 2}", "task_id": f"niah-{number // 2}"}
        for number, turn in enumerate(tiny.turns(count))
    ]


def write_trajectories(folder: Path, seeds: dict[str, int], name: str = "trajectories") -> None:
    table = pyarrow.table({"task_id": [*seeds], "seed": [*seeds.values()]})
    pyarrow.parquet.write_table(table, folder / "data" / "dataset" / f"{name}.parquet")


def test_rows_for_another_template_switch_are_refused(tiny_base: Path, tmp_path: Path):
    made = tiny.turns(6)
    made[4]["chat_template_kwargs"] = {"enable_thinking": True}
    write_run(tmp_path, tiny_base, made, tiny.CARD)
    with pytest.raises(InputError, match=r"^1 of 6 rows .*'enable_thinking': True.*make the data"):
        find(tmp_path)
    on = {"chat_template_kwargs": {"enable_thinking": True}}
    RLMCard.model_validate(tiny.CARD.model_dump() | {"sampling": on}).save(tmp_path / "data")
    with pytest.raises(InputError, match=r"^5 of 6 rows .*serves with {'enable_thinking': True}"):
        find(tmp_path)
    tiny.write_turns(tmp_path / "data", [turn | on for turn in made])
    assert find(tmp_path).card is not None


def test_rows_of_another_dialect_are_refused(tiny_base: Path, tmp_path: Path):
    write_run(tmp_path, tiny_base, tiny.turns(6), RLMCard())
    with pytest.raises(InputError, match=r"^6 of 6 rows do not begin with the system prompt of"):
        find(tmp_path)
    (tmp_path / "data" / "rlm.json").unlink()  # the control has no card, and no loop
    assert find(tmp_path).card is None


def test_rows_of_another_template_are_refused(tiny_base: Path, tmp_path: Path):
    template = chat_template(tiny_base)
    assert template is not None
    told = {"chat_template_sha256": sha256_text(template)}
    write_run(tmp_path, tiny_base, tiny.turns(6), tiny.CARD.model_copy(update=told))
    assert load_tokenizer(find(tmp_path)).chat_template == template
    other = {"chat_template_sha256": sha256_text(template + "\n")}
    tiny.CARD.model_copy(update=other).save(tmp_path / "data")
    with pytest.raises(InputError, match=r"^all 6 rows of .* is not that of the base random-base"):
        load_tokenizer(find(tmp_path))


@pytest.mark.parametrize("seed", [LAST_TRAINING_SEED + 1, 800_000])
def test_rows_of_evaluation_seeds_are_refused(tiny_base: Path, tmp_path: Path, seed: int):
    write_run(tmp_path, tiny_base, named(6), tiny.CARD)
    write_trajectories(tmp_path, {"niah-0": 0, "niah-1": LAST_TRAINING_SEED, "niah-2": 3})
    write_trajectories(tmp_path, {"niah-9": seed}, "trajectories-validation")  # none of its rows
    assert find(tmp_path).turns.is_file()
    write_trajectories(tmp_path, {"niah-0": 0, "niah-1": seed, "niah-2": 3})
    with pytest.raises(InputError, match=rf"^2 of 6 rows .*\(niah-1: seed {seed}.*training seeds"):
        find(tmp_path)


def test_rows_of_evaluated_tasks_are_refused(tiny_base: Path, tmp_path: Path):
    write_run(tmp_path, tiny_base, named(6), tiny.CARD)
    results = tmp_path / "eval" / "results.jsonl"
    results.parent.mkdir()
    append_jsonl(results, {"arm": "base", "task_id": "niah-7"})
    assert find(tmp_path).turns.is_file()
    append_jsonl(results, {"arm": "base", "task_id": "niah-2"})
    with pytest.raises(InputError, match=r"^2 of 6 rows are of evaluation .*eval/results.jsonl"):
        find(tmp_path)


def test_rows_that_the_data_stage_found_in_an_evaluation_are_refused(
    tiny_base: Path, tmp_path: Path
):
    write_run(tmp_path, tiny_base, named(6), tiny.CARD)
    sets = {"demo-test": {"shared_ids": ["niah-0"]}, "other": {"shared_ids": []}}
    funnel = tmp_path / "data" / "funnel.json"
    funnel.write_text(json.dumps({"contamination": {}}))
    assert find(tmp_path).turns.is_file()
    funnel.write_text(json.dumps({"contamination": {"sets": sets}}))
    with pytest.raises(InputError, match=r"^2 of 6 rows .*found it in demo-test"):
        find(tmp_path)


def test_the_command_refuses_before_it_loads_anything(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    config = write_run(tmp_path, tiny_base, tiny.turns(6), RLMCard())
    monkeypatch.setattr(sys, "argv", ["sft.py", "--config", str(config), "--run", str(tmp_path)])
    monkeypatch.setattr(sft, "train", lambda *_: pytest.fail("trained"))
    with pytest.raises(InputError, match="do not begin with the system prompt"):
        sft.main()


@pytest.mark.parametrize("name", ["chat_template.jinja", "generation_config.json"])
def test_a_base_with_another_template_is_another_base(tiny_base: Path, tmp_path: Path, name: str):
    """So a finished stage is not taken for done, and no checkpoint is gone on from."""
    base = shutil.copytree(tiny_base, tmp_path / "base")
    write_run(tmp_path, base, tiny.turns(6), tiny.CARD)
    before = find(tmp_path).fingerprint
    assert find(tmp_path).fingerprint == before
    (base / name).write_text((base / name).read_text() + "\n")
    assert find(tmp_path).fingerprint != before


def test_other_columns_are_refused(tmp_path: Path):
    strings = [{"prompt": "p", "completion": "c", "chat_template_kwargs": None}] * 3
    path = tiny.write_turns(tmp_path, strings)
    with pytest.raises(InputError, match="`prompt` of its 3 rows is string, not a list of messag"):
        rows.read_turns(path)
    tiny.write_turns(tmp_path, [{"messages": [tiny.SYSTEM]}] * 3)
    with pytest.raises(InputError, match="has 3 rows and no column prompt, completion, chat_tem"):
        rows.read_turns(path)


def test_rows_without_a_target_are_counted(tokenizer: PreTrainedTokenizerBase):
    made = tiny.turns(5)
    made[1] |= {"completion": []}
    made[3] |= {"completion": [{"role": "assistant", "content": "  "}]}
    with pytest.raises(InputError, match="^2 of 5 rows .*row 1 of the dataset has no target; its"):
        rows.encode(made, tokenizer, 4096)


def test_reasoning_beside_the_text_is_refused_not_lost(tokenizer: PreTrainedTokenizerBase):
    made = tiny.turns(3)
    made[2]["completion"][0]["reasoning_content"] = "I look first."
    with pytest.raises(InputError, match=r"^1 of 3 rows .*row 2 .*with reasoning_content, which"):
        rows.encode(made, tokenizer, 4096)


def test_replies_with_control_tokens_are_refused(tokenizer: PreTrainedTokenizerBase):
    made = tiny.turns(4)
    made[0]["prompt"][-1] = {"role": "user", "content": "What is <|im_end|>?"}  # as it is served
    assert len(rows.encode(made, tokenizer, 4096).kept) == 4
    made[3]["completion"][0]["content"] += "<|im_end|>"
    with pytest.raises(InputError, match=r"^1 of 4 rows .*row 3 .*the text '<\|im_end\|>' in it"):
        rows.encode(made, tokenizer, 4096)
