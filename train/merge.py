"""Merge a run's adapter into its base: one model for servers that know no adapters.

    python -m train.merge --run runs/demo              # RUN/sft and its base -> RUN/merged
    python -m train.merge --run runs/demo --output direct-sft --to direct-merged

Computed in float32 on the CPU (4 bytes a parameter), beside a server that holds the GPU; kept in
the base's number format, or in --dtype. The merged weights are believed only if their
log-probabilities are those of base and adapter, on rows of the run's dataset and in float32, and
if the files, read again, give what was in memory; else nothing stays. The number is printed and
written into the model card.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlm_executor.card import CARD_NAME, RLMCard
from rlm_executor.cli import run_cli
from rlm_executor.errors import ConfigError, EnvironmentFault, InputError
from rlm_executor.files import sha256_file, write_json_atomic, write_text_atomic
from train.inputs import BASE_FILES, MORE_BASE_FILES, REPOSITORY, hash_together, license_line

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

DTYPES = {"float32": 4, "bfloat16": 2, "float16": 2}  # bytes a weight
LIMIT = 1e-3  # of a log-probability; float32 sums in another order stay far below
ROWS, TOKENS = 8, 256  # compared: the ends of so many rows,
POSITIONS = 64  # at the last of them, each with the whole vocabulary
SHARD = "5GB"  # so that a cut upload has less to send again
COPIED = (  # of the base, byte for byte
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.json", "merges.txt", "chat_template.jinja", "generation_config.json"),
)
# What is compared where the run's dataset is gone.
FIXED = ("Write Python that counts the lines of `context` with an otter.", "What is the capital?")


@dataclass(frozen=True)
class Plan:
    """What is merged into what, and the stamp of all of it."""

    adapter: Path
    target: Path
    base: Path
    base_name: str  # as artefacts call it
    dtype: str
    turns: Path  # of the run's dataset, which may be gone
    stamp: dict[str, Any]


@dataclass(frozen=True)
class Check:
    """The largest differences of log-probabilities, all computed in float32."""

    difference: float  # merged weights against base and adapter
    files: float  # the files, read again, against what was in memory
    rounding: float  # the files against base and adapter: what the number format costs
    adapter: float  # base and adapter against the base alone, on one row
    rows: int
    positions: int


def main(arguments: Sequence[str] | None = None) -> None:
    """Check what is there, then merge unless it was done before."""
    parser = argparse.ArgumentParser(
        prog="merge.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--run", type=Path, default=Path("runs/demo"))
    parser.add_argument("--output", default="sft", help="folder of the adapter in the run")
    parser.add_argument("--to", default="merged", help="folder of the merged model in the run")
    parser.add_argument("--base", help="where the base is, if not where the adapter says")
    parser.add_argument("--dtype", choices=DTYPES, help="of the files; default: the base's")
    args = parser.parse_args(arguments)
    plan = make_plan(args.run, args.output, args.to, args.base, args.dtype)
    if plan.target.exists():
        if not is_done(plan):
            raise InputError(
                f"{plan.target} is there and was made of something else (another adapter, base or "
                "number format); delete it, or give another folder with --to"
            )
        print(f"{plan.target.name}: done before, the model is in {plan.target}")
        return
    check_space(plan)
    merge(plan)


def make_plan(run: Path, output: str, to: str, base: str | None, dtype: str | None) -> Plan:
    """Look up and hash what will be merged.

    Raises:
        InputError: there is no adapter, or it was trained on another base.
        ConfigError: the base is not there, or ``to`` is no name of a new folder.
    """
    adapter = run / output
    if not (adapter / "adapter_model.safetensors").is_file():
        whole = any(adapter.glob("model*.safetensors"))
        fix = "it is a whole model already" if whole else "train it first (`make train`)"
        raise InputError(f"no adapter in {adapter}; {fix}, or give --run and --output")
    if Path(to).name != to or to in ("", ".", "..", output):
        raise ConfigError(f"--to {to}", "is no name of a new folder in the run", "give another")
    settings, stage = _read(adapter / "adapter_config.json"), _read(adapter / "done.json")
    folder, name, version = find_base(base or settings.get("base_model_name_or_path") or "")
    trained_on = stage.get("inputs", {}).get("base")
    if version is None:
        named = [folder / each for each in (*BASE_FILES, *MORE_BASE_FILES)]
        found = [path for path in named if path.is_file()]  # in this order, as `find_inputs` does
        version = hash_together([*found, *sorted(folder.glob("*.safetensors"))])
        if trained_on not in (None, version, "named on the hub"):
            raise InputError(
                f"the base in {folder} is not the one that the adapter was trained on (their "
                "hashes differ); restore it, or give the right one with --base"
            )
    dtype = dtype or own_dtype(folder)
    card = adapter / CARD_NAME
    return Plan(
        adapter=adapter,
        target=run / to,
        base=folder,
        base_name=name,
        dtype=dtype,
        turns=run / _read(adapter / "config.json").get("dataset", "data") / "dataset/turns.parquet",
        stamp={
            "dtype": dtype,
            "inputs": {
                "adapter": sha256_file(adapter / "adapter_model.safetensors"),
                "settings": sha256_file(adapter / "adapter_config.json"),
                "base": version,
                "card": sha256_file(card) if card.is_file() else None,
            },
        },
    )


def find_base(named: str) -> tuple[Path, str, str | None]:
    """The base's folder, its name for artefacts and, if it is on the Hub, its version there.

    Raises:
        ConfigError: it is no whole model folder, and not on the Hub either.
    """
    for folder in (Path(named), REPOSITORY / named, REPOSITORY / "assets" / named):
        if named and folder.is_dir():
            _check_whole(folder)
            return folder, folder.resolve().name, None
    owner, slash, name = named.partition("/")
    if not slash or "/" in name or not owner or owner in (".", ".."):
        raise ConfigError(
            f"base {named or '(the adapter names none)'}",
            "is neither a folder here nor in assets/, nor a name on the Hub",
            "give the folder of the adapter's base with --base",
        )
    from huggingface_hub import snapshot_download

    kinds = ["*.json", "*.safetensors", "*.txt", "*.jinja"]
    try:
        folder = Path(snapshot_download(named, allow_patterns=kinds))
    except Exception as error:  # network, name, token, offline: each layer has errors of its own
        raise ConfigError(
            f"base {named}",
            f"is not on this machine and the Hub does not give it ({type(error).__name__})",
            "check the name and the connection, or give its folder with --base",
        ) from error
    _check_whole(folder)
    return folder, named, f"{named}@{folder.name}"


def _check_whole(folder: Path) -> None:
    missing = [name for name in BASE_FILES if not (folder / name).is_file()]
    if not any(folder.glob("*.safetensors")):
        missing.append("*.safetensors")
    if missing:
        raise ConfigError(f"base {folder}", f"lacks {', '.join(missing)}", "give a whole one")


def own_dtype(base: Path) -> str:
    """The number format of the base's files, under its old name or its new one."""
    config = _read(base / "config.json")
    own = config.get("dtype") or config.get("torch_dtype")
    return own if own in DTYPES else "float32"


def is_done(plan: Plan) -> bool:
    """Whether the target was made of exactly these inputs."""
    done = _read(plan.target / "done.json")
    return {name: done.get(name) for name in plan.stamp} == plan.stamp


def check_space(plan: Plan) -> None:
    """Refuse to start where the files won't fit.

    Raises:
        EnvironmentFault: the disk has too little room.
    """
    held = sum(path.stat().st_size for path in plan.base.glob("*.safetensors"))
    needed = held * DTYPES[plan.dtype] // DTYPES[own_dtype(plan.base)] + 100_000_000
    free = shutil.disk_usage(plan.adapter).free
    if free < needed:
        raise EnvironmentFault(
            f"the merged model takes {needed / 1e9:.1f} GB and {plan.target.parent} has "
            f"{free / 1e9:.1f} GB left; free some space, or give a run on another disk"
        )


def merge(plan: Plan) -> None:
    """Merge, write, check, and only then give the folder its name.

    Raises InputError where an input is damaged, or the merged weights are not base and adapter.
    """
    import torch  # takes seconds: a wrong argument should not wait for it

    from train.checkpoints import naming_full_disk

    partial = plan.target.with_name(f".{plan.target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        with naming_full_disk(plan.target.parent), torch.inference_mode():
            check = write_checked(plan, partial)
            for name in COPIED:
                if (plan.base / name).is_file():
                    shutil.copyfile(plan.base / name, partial / name)
            if (plan.adapter / CARD_NAME).is_file():
                RLMCard.load(plan.adapter).save(partial)
            write_text_atomic(partial / "README.md", model_card(plan, check))
            done = {"stage": plan.target.name, "check": vars(check), **plan.stamp}
            write_json_atomic(partial / "done.json", done)
        os.replace(partial, plan.target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    print(
        f"{plan.target.name}: log-probabilities differ by {check.difference:.1e} at most (limit "
        f"{LIMIT:g}, {check.positions} positions), by {check.rounding:.1e} in {plan.dtype}; the "
        f"adapter moves them by {check.adapter:.1e}; model in {plan.target}"
    )


def write_checked(plan: Plan, partial: Path) -> Check:
    """Write the merged weights into ``partial`` and compare them, in memory and as read again."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    rows = rows_to_compare(plan)
    try:
        base = AutoModelForCausalLM.from_pretrained(plan.base, dtype=torch.float32)
        tuned = PeftModel.from_pretrained(base, str(plan.adapter)).eval()
    except Exception as error:  # a damaged file raises many types
        said = str(error).strip().partition("\n")[0] or type(error).__name__
        raise InputError(
            f"{plan.adapter} does not load onto {plan.base_name} ({said}); train it again, or "
            "give the right base with --base"
        ) from error
    size = sum(weight.numel() for weight in base.parameters())
    print(
        f"merge: {size / 1e6:.1f}M parameters of {plan.base_name} and {plan.adapter.name}, "
        f"{size * 4 / 1e9:.1f} GB of memory, kept in {plan.dtype}",
        flush=True,
    )
    expected = log_probabilities(tuned, rows)
    with tuned.disable_adapter():
        moved = largest_difference(expected[:1], log_probabilities(tuned, rows[:1]))
    if moved == 0:
        raise InputError(
            f"the adapter in {plan.adapter} changes nothing: it is untrained, or its weights fit "
            "no layer of the base; train it again"
        )
    merged = tuned.merge_and_unload()
    difference = largest_difference(expected, log_probabilities(merged, rows))
    _believe(difference, "base and adapter, after merging")

    _convert(merged, getattr(torch, plan.dtype))
    merged.save_pretrained(partial, max_shard_size=SHARD)
    _convert(merged, torch.float32)
    in_memory = log_probabilities(merged, rows)
    del base, tuned, merged
    gc.collect()  # one model in memory at a time
    again = AutoModelForCausalLM.from_pretrained(partial, dtype=torch.float32).eval()
    found = log_probabilities(again, rows)
    files = largest_difference(in_memory, found)
    _believe(files, "the merged weights in memory, read again from their files")
    return Check(
        difference=difference,
        files=files,
        rounding=largest_difference(expected, found),
        adapter=moved,
        rows=len(rows),
        positions=sum(len(each) for each in expected),
    )


def rows_to_compare(plan: Plan) -> list[list[int]]:
    """Token ids of the ends of some rows, spread over the dataset, or of fixed ones."""
    from transformers import AutoTokenizer

    from train.rows import encode, read_turns

    if plan.turns.is_file():
        turns = read_turns(plan.turns)
        turns = turns[:: max(1, len(turns) // ROWS)][:ROWS]
    else:
        turns = [
            {
                "prompt": [{"role": "user", "content": text}],
                "completion": [{"role": "assistant", "content": f"```repl\nprint({text!r})\n```"}],
                "chat_template_kwargs": {"enable_thinking": False},
            }
            for text in FIXED
        ]
    rows = encode(turns, AutoTokenizer.from_pretrained(plan.base), max_length=10**9)
    return [row.input_ids[-TOKENS:] for row in rows.kept]


def log_probabilities(model: PreTrainedModel, rows: list[list[int]]) -> list[torch.Tensor]:
    """Of the whole vocabulary at the last positions of each row: [positions, vocabulary]."""
    import torch

    return [
        model(input_ids=torch.tensor([row]), logits_to_keep=POSITIONS).logits[0].log_softmax(-1)
        for row in rows
    ]


def largest_difference(one: Sequence[torch.Tensor], other: Sequence[torch.Tensor]) -> float:
    """Of two sets of log-probabilities; infinite where a number is none."""
    found = [float((a - b).abs().max()) for a, b in zip(one, other, strict=True)]
    return max(each if each < float("inf") else float("inf") for each in found)


def _believe(difference: float, what: str) -> None:
    if difference >= LIMIT:
        raise InputError(
            f"the merged model is not the trained one: its log-probabilities differ by up to "
            f"{difference:.3g} from those of {what} (limit {LIMIT:g}); nothing was kept, serve "
            "base and adapter side by side instead"
        )


def _convert(model: PreTrainedModel, dtype: torch.dtype) -> None:
    # Rotary frequencies are buffers, not weights: they stay in float32, as in every server.
    for weight in model.parameters():
        weight.data = weight.data.to(dtype)


def _read(path: Path) -> dict[str, Any]:
    """A JSON file of settings; nothing where there is none."""
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"{path} can't be read as JSON; make its folder again") from error


def model_card(plan: Plan, check: Check) -> str:
    """The README of the merged model."""
    what = (
        "It drives the loop of a recursive language model (arXiv 2512.24601): load it with the "
        f"`{CARD_NAME}` beside it, which holds the prompt and limits that it was trained with. "
        "Where that card says `sub_model: base`, sub-calls go to the base, so serve the base "
        "beside this model: weights tuned on the loop's code were not trained to answer them."
        if (plan.adapter / CARD_NAME).is_file()
        else "It answers a question about a text directly, in one reply."
    )
    inputs = plan.stamp["inputs"]
    return f"""---
base_model: {plan.base_name}
base_model_relation: finetune
library_name: transformers
{license_line(plan.base_name, plan.base)}pipeline_tag: text-generation
tags: [sft, trl]
---
# {plan.base_name}, fine-tuned

A LoRA adapter merged into {plan.base_name}, kept in {plan.dtype}. {what}

| largest difference of a log-probability, computed in float32 | value |
|---|---|
| merged weights against base and adapter (refused at {LIMIT:g}) | {check.difference:.1e} |
| the files read again against the merged weights (refused at {LIMIT:g}) | {check.files:.1e} |
| the files against base and adapter: what {plan.dtype} costs | {check.rounding:.1e} |
| for comparison: base and adapter against the base alone | {check.adapter:.1e} |

Compared over the whole vocabulary at {check.positions} positions of {check.rows} rows. Tokenizer
and chat template are the base's. Adapter sha256 `{inputs["adapter"]}`, base `{inputs["base"]}`.
"""


if __name__ == "__main__":
    run_cli(main)
