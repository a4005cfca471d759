"""Loading the base and its tokenizer, with one clear line when they can't be loaded."""

from __future__ import annotations

import contextlib
import importlib.util
import os
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pyarrow.parquet
import torch
from accelerate import PartialState
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging

from rlm_executor.card import RLMCard
from rlm_executor.errors import EnvironmentFault, InputError
from rlm_executor.files import sha256_text
from train.attention import ROW_BY_ROW, VARLEN
from train.config import SFTConfig
from train.inputs import Inputs
from train.machine import Machine

# For the one process that writes the model, or answers a development set, while the others wait.
WAITING = timedelta(hours=2)


def load_tokenizer(inputs: Inputs) -> PreTrainedTokenizerBase:
    """The base's tokenizer, with its own chat template.

    Raises:
        InputError: it can't be loaded, or the dataset's card was made under another template.
    """
    with _one_line(inputs):
        tokenizer = AutoTokenizer.from_pretrained(inputs.base)
    told = RLMCard.load(inputs.card).chat_template_sha256 if inputs.card else None
    own = sha256_text(tokenizer.chat_template or "")
    if told not in (None, own):
        raise InputError(
            f"all {pyarrow.parquet.read_metadata(inputs.turns).num_rows} rows of "
            f"{inputs.turns.name} belong to a card whose chat template (chat_template_sha256 "
            f"{told[:12]}) is not that of the base {inputs.base_name} ({own[:12]}); train the base "
            "that the card is of, or remove the field from the dataset's rlm.json"
        )
    return tokenizer


def load_base(inputs: Inputs, machine: Machine, config: SFTConfig) -> PreTrainedModel:
    """The base: frozen in the machine's number format or 4 bits, or all of it to be trained.

    Raises:
        InputError: it can't be loaded, or its attention is more than ``train.attention`` computes.
    """
    method = config.method
    logging.disable_progress_bar()
    if machine.attention in (ROW_BY_ROW, VARLEN):
        with _one_line(inputs):
            shape = AutoConfig.from_pretrained(inputs.base).get_text_config()
        check_attention(shape, config.max_length, inputs.base_name)
    options: dict[str, Any] = {"dtype": machine.dtype}
    if method == "full":
        # Steps are smaller than bf16 can hold, so fp32 is trained; the products stay the machine's.
        options["dtype"] = torch.float32
        if machine.processes > 1:
            # Before the files are read: FSDP takes the first process's weights for all.
            PartialState(cpu=machine.device == "cpu", timeout=WAITING)
    if method == "qlora":
        options |= four_bit(machine)
    with _one_line(inputs):
        model = AutoModelForCausalLM.from_pretrained(
            inputs.base, attn_implementation=machine.attention, **options
        )
    model.requires_grad_(method == "full")
    return model


def check_attention(shape: PreTrainedConfig, max_length: int, name: str) -> None:
    """Raises InputError if a layer is no full causal attention over rows of ``max_length``."""
    told: set[str] = set(getattr(shape, "layer_types", None) or [])
    window = getattr(shape, "sliding_window", None)
    if window is not None and not told and getattr(shape, "use_sliding_window", True):
        told = {"sliding_attention"}  # of bases whose layers are all alike
    if window is not None and window >= max_length:
        told.discard("sliding_attention")
    others = sorted(told - {"full_attention"})
    if getattr(shape, "attn_logit_softcapping", None) is not None:
        others.append("soft-capped scores")
    if shape.model_type.startswith("gpt_oss"):
        others.append("attention sinks")
    if others:
        raise InputError(
            f"base {name} has {', '.join(others)} (window {window}), and rows laid end to end are "
            "trained with plain causal attention only; take a base of full attention, or a "
            "max_length that its window holds"
        )


def check_method(method: str, machine: Machine) -> None:
    """Say at the start what the method lacks here.

    Raises:
        EnvironmentFault: qlora without a GPU or without bitsandbytes; an adapter under FSDP; one
            process that sees several GPUs.
    """
    if method != "full" and os.environ.get("ACCELERATE_USE_FSDP", "").lower() == "true":
        raise EnvironmentFault(
            f"method {method} is not trained sharded: a frozen 8B fits one GPU; launch with "
            "configs/accelerate/one-gpu.yaml or ddp.yaml"
        )
    if machine.device == "cuda" and machine.processes == 1 and torch.cuda.device_count() > 1:
        raise EnvironmentFault(
            f"one process sees {torch.cuda.device_count()} GPUs; launch with `accelerate launch "
            "--config_file configs/accelerate/one-gpu.yaml` (or ddp.yaml, to use them all), or set "
            "CUDA_VISIBLE_DEVICES=0"
        )
    if method != "qlora":
        return
    if machine.device != "cuda":
        raise EnvironmentFault(
            "method qlora needs a CUDA GPU, and none is used here; take method: lora"
        )
    if importlib.util.find_spec("bitsandbytes") is None:
        raise EnvironmentFault(
            "method qlora needs bitsandbytes, which is not installed; "
            "`.venv/bin/pip install bitsandbytes`, or set method: lora"
        )


def four_bit(machine: Machine) -> dict[str, Any]:
    """QLoRA's form of the frozen weights (arXiv 2305.14314): NF4, its scales quantized too."""
    return {
        "quantization_config": BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=machine.dtype,
        ),
        # Weights are made 4-bit on the GPU, and every process has one of its own.
        "device_map": {"": int(os.environ.get("LOCAL_RANK", "0"))},
    }


@contextlib.contextmanager
def _one_line(inputs: Inputs) -> Iterator[None]:
    """A damaged or unreachable base raises many types; whoever reads it needs its name."""
    try:
        yield
    except Exception as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        fix = "restore it from git" if inputs.local else "check the name and the connection"
        raise InputError(f"base {inputs.base_name} can't be loaded ({first}); {fix}") from error
