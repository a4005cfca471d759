"""A base of another family: a Llama with a template like Llama 3's, from a configuration alone."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from rlm_executor.errors import InputError
from tests.train import tiny
from train import rows

ROOT = Path(__file__).resolve().parents[2]
SPECIAL = "begin_of_text end_of_text start_header_id end_header_id eot_id".split()
BEGIN, END, START, STOP_HEADER, EOT = (f"<|{name}|>" for name in SPECIAL)
# As Llama 3's, history is stripped of spaces around each message; no role is left out.
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ '<|start_header_id|>' + message.role + '<|end_header_id|>\n\n' }}"
    "{{ message.content | trim }}{{ '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}"
    "{% endif %}"
)
STEPS = 50


def write_tokenizer(folder: Path, template: str = TEMPLATE) -> None:
    """Byte-level BPE over the rows of these tests; no padding token, as Llama 3 has none."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=500,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=[BEGIN, END, START, STOP_HEADER, EOT],
        show_progress=False,
    )
    tokenizer.train_from_iterator((json.dumps(row) for row in dataset(40)), trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=BEGIN, eos_token=END)
    fast.chat_template = template
    fast.save_pretrained(folder)


def write_base(folder: Path) -> Path:
    """Random weights; as with Llama 3's, only the generation config knows that <|eot_id|> ends."""
    write_tokenizer(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=512,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        initializer_range=0.4,  # an embedding that is frozen must be able to say something
        bos_token_id=0,
        eos_token_id=[1, 4],
    )
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    return folder


def dataset(count: int) -> list[dict[str, Any]]:
    """Rows of a model that has no thinking to switch off (parquet can't hold an empty struct).

    Eight again and again, so few that their numbers can be learned by heart.
    """
    turns = tiny.turns(8) * -(-count // 8)
    return [turn | {"chat_template_kwargs": None} for turn in turns[:count]]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_base(tmp_path_factory.mktemp("second") / "tiny-llama")


@pytest.fixture(scope="module")
def llama(base: Path) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(base)


def test_the_law_holds(llama: PreTrainedTokenizerBase):
    turns = dataset(30)
    for turn, row in zip(turns, rows.encode(turns, llama, 512).kept, strict=True):
        served = llama.apply_chat_template(
            turn["prompt"], add_generation_prompt=True, return_dict=False
        )
        reply = llama(turn["completion"][0]["content"] + EOT, add_special_tokens=False)["input_ids"]
        assert row.input_ids == [*served, *reply]
        assert row.labels == [rows.IGNORED] * len(served) + reply
        assert served.count(llama.bos_token_id) == 1
        whole = [*turn["prompt"], *turn["completion"]]
        assert row.input_ids == llama.apply_chat_template(whole, return_dict=False)


@pytest.fixture(scope="module")
def trained(base: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A run of the command over this base, and what it printed."""
    run = tmp_path_factory.mktemp("run")
    tiny.write_turns(run / "data", dataset(40))
    settings = {
        **{"base": base, "dataset": "data", "learning_rate": 0.01, "lora_r": 16},
        **{"batch_size": 4, "forward_size": 4, "epochs": STEPS / 10, "max_length": 512},
    }
    config = run / "sft.yaml"
    config.write_text("".join(f"{name}: {value}\n" for name, value in settings.items()))
    done = subprocess.run(
        [sys.executable, "train/sft.py", "--config", str(config), "--run", str(run)],
        cwd=ROOT,
        env={**os.environ, "ACCELERATE_USE_CPU": "true"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    return run, done.stdout


@pytest.mark.slow
@pytest.mark.real_trl
def test_it_is_trained_by_its_configuration_alone(trained: tuple[Path, str]):
    run, printed = trained
    metrics = json.loads((run / "sft" / "metrics.json").read_text())
    assert metrics["steps"] == metrics["planned_steps"] == STEPS
    assert f"  + ```{EOT}" in printed.splitlines()
    losses = [
        float(line.split("loss=")[1].split()[0])
        for line in printed.splitlines()
        if line.startswith("step=")
    ]
    assert losses[-1] < 0.5 * losses[0]
    assert metrics["final_accuracy"] > 0.5


@pytest.mark.slow
@pytest.mark.real_trl
def test_what_was_trained_stops_where_a_server_stops(
    trained: tuple[Path, str], base: Path, llama: PreTrainedTokenizerBase
):
    run, _ = trained
    turn = dataset(1)[0]
    prompt = llama.apply_chat_template(
        turn["prompt"], add_generation_prompt=True, return_tensors="pt", return_dict=False
    )
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    tuned = PeftModel.from_pretrained(model, run / "sft")
    replies = []
    for on in (False, True):
        with contextlib.nullcontext() if on else tuned.disable_adapter():
            said = tuned.generate(
                input_ids=prompt, max_new_tokens=40, do_sample=False, pad_token_id=1
            )
        replies.append(llama.decode(said[0, prompt.shape[1] :]))
    assert EOT not in replies[0]
    assert replies[1].startswith("```repl\nn = ") and replies[1].endswith(EOT)


def test_a_date_in_the_prompt_is_refused_until_it_is_fixed(tmp_path: Path):
    date = "{% if date_string is not defined %}{% set date_string = strftime_now('%d %b') %}"
    write_tokenizer(tmp_path, date + "{% endif %}{{ date_string }}" + TEMPLATE)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", "eos_token_id": [4]}))
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    with pytest.raises(InputError, match="writes the date of the day .*`date_string`"):
        rows.encode(dataset(3), tokenizer, 512)
    fixed = [turn | {"chat_template_kwargs": {"date_string": "1 May"}} for turn in dataset(3)]
    assert len(rows.encode(fixed, tokenizer, 512).kept) == 3


def test_a_turn_that_no_server_ends_is_refused(tmp_path: Path):
    write_tokenizer(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)  # nothing says that <|eot_id|> ends
    with pytest.raises(InputError, match=r"ends a turn with '<\|eot_id\|>' and its eos token is"):
        rows.encode(dataset(3), tokenizer, 512)


def test_a_template_that_refuses_the_system_prompt_is_named(base: Path):
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.chat_template = (
        "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
        + TEMPLATE
    )
    turns = dataset(3)
    turns[0]["prompt"] = turns[0]["prompt"][1:]
    with pytest.raises(InputError, match=r"^2 of 3 rows .*row 1 .*template \(no system role\)"):
        rows.encode(turns, tokenizer, 512)


def test_a_tokenizer_that_adds_spaces_is_refused(base: Path):
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    with pytest.raises(InputError, match="puts a space before a text that stands alone"):
        rows.encode(dataset(3), tokenizer, 512)
