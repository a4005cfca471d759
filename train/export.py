"""The finished stage as a folder: adapter or model, RLM card, metrics, README, the note of done.

All of it is written beside its place and renamed into it at the end, so a folder that is there is
whole. No path of the machine that trained goes in: the base is named, by its folder or on the hub.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, set_peft_model_state_dict
from safetensors.torch import load_file
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rlm_executor import RLMCard
from rlm_executor.card import CARD_NAME
from rlm_executor.files import sha256_text, write_json_atomic, write_text_atomic
from train.config import SFTConfig
from train.inputs import Inputs, license_line

SERVED_DTYPE = torch.bfloat16  # what Qwen3 is published in and vLLM loads


def export(
    folder: Path,
    model: PeftModel | PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    weights: dict[str, torch.Tensor] | None,
    config: SFTConfig,
    inputs: Inputs,
    metrics: dict[str, Any],
) -> None:
    """Write the finished stage into ``folder``, which is replaced as a whole.

    ``weights`` are those of a whole model; with None the adapter of ``model`` is written.
    """
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    settings_name = "config.json"
    if weights is None:
        save_adapter(partial, model, inputs, tokenizer)
    else:
        settings_name = "sft.json"  # config.json is the model's own
        _save_whole(partial, model, tokenizer, weights)
        _save_card(partial, inputs, tokenizer)
    write_json_atomic(partial / "metrics.json", metrics)
    write_json_atomic(partial / settings_name, portable(config, inputs))
    write_text_atomic(partial / "README.md", model_card(config, inputs, metrics))
    done = {"stage": config.output, "seconds": metrics["seconds"], **inputs.stamp}
    write_json_atomic(partial / "done.json", done)
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(partial, folder)


def save_adapter(
    folder: Path, model: PeftModel, inputs: Inputs, tokenizer: PreTrainedTokenizerBase
) -> None:
    """Adapter and RLM card: what a server needs."""
    # Looking for resized embeddings would ask the hub; adapters on linear layers have none.
    model.save_pretrained(str(folder), save_embedding_layers=False)
    _name_the_base(folder / "adapter_config.json", inputs.base_name)
    _save_card(folder, inputs, tokenizer)


def _save_card(folder: Path, inputs: Inputs, tokenizer: PreTrainedTokenizerBase) -> None:
    """The dataset's card, and the template that the prompts were rendered with."""
    if inputs.card is not None:
        template = sha256_text(tokenizer.chat_template or "")
        card = RLMCard.load(inputs.card).model_copy(update={"chat_template_sha256": template})
        card.save(folder)


def load_adapter(folder: Path, model: PeftModel) -> None:
    """The weights of an adapter that ``save_adapter`` wrote, into the model it was of."""
    set_peft_model_state_dict(model, load_file(folder / "adapter_model.safetensors"))


def _name_the_base(path: Path, base_name: str) -> None:
    settings = json.loads(path.read_text(encoding="utf-8"))
    settings["base_model_name_or_path"] = base_name
    settings["target_modules"] = sorted(settings["target_modules"])  # a set, in any order
    write_json_atomic(path, settings)


def _save_whole(
    folder: Path,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    weights: dict[str, torch.Tensor],
) -> None:
    """A model folder that transformers and vLLM load by itself."""
    served = {name: weight.to(SERVED_DTYPE) for name, weight in weights.items()}
    model.save_pretrained(str(folder), state_dict=served)
    path = folder / "config.json"
    settings = json.loads(path.read_text(encoding="utf-8"))
    settings["dtype"] = str(SERVED_DTYPE).removeprefix("torch.")  # it was trained in fp32
    write_json_atomic(path, settings)
    tokenizer.save_pretrained(str(folder))


def portable(config: SFTConfig, inputs: Inputs) -> dict[str, Any]:
    """The configuration without the place of the base on this machine."""
    return {**config.model_dump(mode="json"), "base": inputs.base_name}


def model_card(config: SFTConfig, inputs: Inputs, metrics: dict[str, Any]) -> str:
    """The README of the adapter or model, from the numbers of its run."""
    what = (
        "It drives the loop of a recursive language model (arXiv 2512.24601): load it with the "
        f"`{CARD_NAME}` beside it, which holds the prompt and limits that it was trained with."
        if inputs.card is not None
        else "It answers a question about a text directly, in one reply: the control for an "
        "adapter that works in a loop."
    )
    settings = "\n".join(
        f"| {name} | {value} |" for name, value in portable(config, inputs).items()
    )
    read = inputs.stamp["inputs"]
    library, tags, title, trained = "peft", "lora, sft, trl", "LoRA adapter for", "LoRA"
    if config.method == "full":
        library, tags, title, trained = "transformers", "sft, trl", "Fine-tune of", "trained"
    return f"""---
base_model: {inputs.base_name}
library_name: {library}
{license_line(inputs.base_name, Path(inputs.base))}pipeline_tag: text-generation
tags: [{tags}]
---
# {title} {inputs.base_name}

{what}
One row a turn; the loss is on the model's own turn and its stop token, over the token ids that a
server renders from the base's chat template.

| measure | value |
|---|---|
| rows (left out: over the window) | {metrics["rows"]} ({metrics["dropped"]}) |
| tokens an epoch, of them trained | {metrics["tokens"]} / {metrics["target_tokens"]} |
| steps | {metrics["steps"]} of {metrics["planned_steps"]} planned |
| {trained} parameters | {metrics["lora_parameters"]} |
| loss at the end | {metrics["final_loss"]} |
| tokens right at the end | {metrics["final_accuracy"]:.1%} |
| tokens a second ({metrics["machine"]}) | {metrics["tokens_per_second"]} |
{_results(metrics)}{_funnel(inputs)}
| setting | value |
|---|---|
{settings}

Dataset sha256 `{read["dataset"]}`, base sha256 `{read["base"]}`.
"""


def _results(metrics: dict[str, Any]) -> str:
    """What was measured beside the training, where it was."""
    rows = []
    if "heldout_loss" in metrics:
        rows.append(("loss on runs put aside, at the end", metrics["heldout_loss"]))
    if "mfu" in metrics:
        rows.append(("share of the GPU's peak (MFU), nothing recomputed counted", metrics["mfu"]))
    if metrics.get("dev_scores"):
        best = metrics["best_step"]
        rows.append(("development score of these weights", metrics["dev_scores"][best]))
        rows.append(("these weights are of step", best))
    return "".join(f"| {name} | {value} |\n" for name, value in rows)


def _funnel(inputs: Inputs) -> str:
    """What became of the attempts that the rows are of, by ``data_gen``."""
    if inputs.funnel is None:
        return ""
    told = json.loads(inputs.funnel.read_text(encoding="utf-8"))
    families = {name: one["kept"] for name, one in told["by_family"].items()}
    dropped = ", ".join(f"{rule} {count}" for rule, count in told["dropped"].items())
    kept = ", ".join(f"{name} {count}" for name, count in families.items())
    return (
        f"| attempts, of them kept | {told['attempts']} / {told['kept']} |\n"
        f"| dropped by rule | {dropped or 'none'} |\n| kept by family | {kept} |\n"
    )
