"""Loading the base and its tokenizer, with one clear line when they can't be loaded."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging

from rlm_executor.errors import InputError
from train.inputs import Inputs
from train.machine import Machine


def load_tokenizer(inputs: Inputs) -> PreTrainedTokenizerBase:
    """The base's tokenizer, with its own chat template."""
    with _one_line(inputs):
        return AutoTokenizer.from_pretrained(inputs.base)


def load_base(inputs: Inputs, machine: Machine) -> PreTrainedModel:
    """The base with frozen weights in the machine's number format."""
    logging.disable_progress_bar()
    with _one_line(inputs):
        model = AutoModelForCausalLM.from_pretrained(
            inputs.base, dtype=machine.dtype, attn_implementation=machine.attention
        )
    model.requires_grad_(False)
    return model


@contextlib.contextmanager
def _one_line(inputs: Inputs) -> Iterator[None]:
    """A damaged or unreachable base raises many types; whoever reads it needs its name."""
    try:
        yield
    except Exception as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        fix = "restore it from git" if inputs.local else "check the name and the connection"
        raise InputError(f"base {inputs.base_name} can't be loaded ({first}); {fix}") from error
