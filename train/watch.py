"""What is looked at while a run trains: a development set, answered by the loop.

    dev: configs/eval/dev-tiny.yaml        # in the training's config; development seeds only
    dev_server: http://127.0.0.1:8001/v1   # a vLLM that may load adapters while it runs

Every ``dev_steps`` steps, and at the end, the adapter of that moment is written and `python -m
eval.run` answers the set with it, in a process of its own. With ``dev_server`` that vLLM loads the
adapter anew each time (start it with --enable-lora and VLLM_ALLOW_RUNTIME_LORA_UPDATING=1, on
another GPU); without one a vLLM is started for each look, which needs room beside the training. The
adapter of the best score is the one that the run leaves.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
from accelerate.utils import broadcast_object_list
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.integrations import TensorBoardCallback

from data_gen.tasks import check_seed
from eval.grid import EvalConfig
from eval.results import read_rows
from rlm_executor.config import load_config
from rlm_executor.errors import ConfigError, EnvironmentFault, RLMError
from rlm_executor.files import write_json_atomic
from train.inputs import REPOSITORY

ADAPTER = "rlm"  # as the arms of the set call it
LOOK = "look-"
NOT_ALLOWED = (
    "dev_server: {} may not load adapters; start vLLM with --enable-lora and "
    "VLLM_ALLOW_RUNTIME_LORA_UPDATING=1"
)
# What a launcher sets for its own processes; the evaluation is none of them.
OF_THE_LAUNCHER = ("RANK", "WORLD_SIZE", "LOCAL_", "GROUP_", "ROLE_", "MASTER_", "TORCHELASTIC_")
OF_THE_LAUNCHER += ("ACCELERATE_", "FSDP_", "OMP_NUM_THREADS")


class Development(TrainerCallback):
    """Scores the weights of a moment on a development set, and keeps the best.

    Args:
        set_path: an evaluation's config, of development seeds.
        server: address of a vLLM, ending in /v1; None: one is started for each look.
        steps: optimizer steps between two looks.
        folder: where adapters, answers and scores are kept; it outlives a kill.
        save: writes the adapter of this moment into a folder, ready to be served.
    """

    def __init__(
        self,
        set_path: Path,
        server: str | None,
        steps: int,
        folder: Path,
        save: Callable[[Path], None],
    ) -> None:
        self.set_path, self.server, self.steps = set_path, server, steps
        self.folder, self.save = folder, save
        self.log: Callable[[dict[str, float]], None] = lambda _: None
        self.scores: dict[int, float] = {}

    @property
    def best(self) -> int | None:
        """The step of the best score, of equal ones the last; None before the first look."""
        return max(self.scores, key=lambda step: (self.scores[step], step), default=None)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Take up the scores of a killed command, where the weights of the best are there too."""
        if not state.is_world_process_zero:
            return
        path = self.folder / "scores.json"
        if path.exists() and (self.folder / "best").is_dir():
            told = json.loads(path.read_text(encoding="utf-8"))
            self.scores = {int(step): float(score) for step, score in told.items()}
        for left in self.folder.glob(f"{LOOK}*"):
            shutil.rmtree(left)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Look, if it is time."""
        last = state.global_step >= state.max_steps or control.should_training_stop
        if state.global_step % self.steps and not last:
            return
        failed = None
        due = control.should_log
        if state.is_world_process_zero and state.global_step not in self.scores:
            try:
                self.look(state.global_step)
            except RLMError as error:
                failed = error
                if self.scores:  # it has worked before: hours of training are worth more
                    print(f"step={state.global_step} no dev_score: {error}", flush=True)
                    failed = None
        # Logging the score has crossed the step's own log off, in this process only.
        control.should_log = due
        # The others wait here; and where the first look failed, all of them end.
        [told] = broadcast_object_list([failed and str(failed)])
        if told:
            raise failed or EnvironmentFault(told)

    def look(self, step: int) -> None:
        """Answer the set with the weights of now; keep them if they are the best so far."""
        # Never the same place twice: vLLM keeps what it computed by an adapter's name and path.
        now = self.folder / f"{LOOK}{step}-{secrets.token_hex(4)}"
        self.save(now / "sft")
        score, count = self.answer(now)
        self.scores[step] = score
        print(f"step={step} dev_score={score:.3f} of {count} tasks", flush=True)
        self.log({"dev_score": score})
        if self.best == step:
            shutil.rmtree(self.folder / "best", ignore_errors=True)
            (now / "sft").replace(self.folder / "best")
        write_json_atomic(self.folder / "scores.json", self.scores)
        shutil.rmtree(now, ignore_errors=True)

    def answer(self, run: Path) -> tuple[float, int]:
        """Mean score of the set, and its tasks; the adapter is in ``run``/sft.

        Raises:
            EnvironmentFault: the server does not load it, or the evaluation failed.
        """
        command = [sys.executable, "-m", "eval.run", "--config", self.set_path]
        command += ["--run", run.resolve()]  # it runs in the repository
        if self.server is not None:
            exchange(self.server, run / "sft")
            command += ["--endpoint", self.server]
        environment = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(OF_THE_LAUNCHER)
        }
        done = subprocess.run(
            command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False
        )
        if done.returncode:
            told = (done.stderr.strip() or done.stdout.strip()).splitlines()
            raise EnvironmentFault(
                f"dev: the evaluation failed: {told[-1] if told else 'silently'}"
            )
        rows = read_rows(run / "eval" / "results.jsonl")
        return sum(row["score"] for row in rows) / len(rows), len(rows)


def tensorboard(folder: Path) -> TensorBoardCallback:
    """What transformers logs for TensorBoard, into this folder."""
    from torch.utils.tensorboard import SummaryWriter

    return TensorBoardCallback(SummaryWriter(str(folder)))


def check_set(path: Path, server: str | None, has_card: bool) -> EvalConfig:
    """The set, refused early where it is none to develop on, or can't be answered.

    Raises:
        ConfigError: it is of test seeds, its arms do not ask the adapter in the loop, or there is
            no loop to put it in.
        EnvironmentFault: the server can't be reached, or may not load adapters.
    """
    config = load_config(EvalConfig, path)
    if config.purpose != "smoke":
        raise ConfigError(
            f"dev: {path.name}", "is a recorded evaluation", "give one with `purpose: smoke`"
        )
    if any(arm.kind != "rlm" or arm.model != ADAPTER for arm in config.arms):
        raise ConfigError(
            f"dev: {path.name}", "has other arms", f"leave only arms of kind rlm, model {ADAPTER}"
        )
    check_seed(config.seed, "dev")
    check_seed(config.seed + max(cell.windows for cell in config.cells) - 1, "dev")
    if not has_card:
        raise ConfigError(
            "dev", "needs the loop's rlm.json beside the dataset", "leave it out, or make the data"
        )
    if server is not None:
        check_server(server)
    elif config.serve is None:
        raise ConfigError("dev_server", f"is not given, and {path.name} has no `serve`", "give one")
    return config


def check_server(server: str) -> None:
    """Raises EnvironmentFault if there is no vLLM that may load adapters while it runs."""
    try:
        with httpx.Client(timeout=10) as client:
            client.get(f"{server.rstrip('/')}/models").raise_for_status()
            told = client.get(f"{server.rstrip('/').removesuffix('/v1')}/openapi.json")
        known = told.json()["paths"] if told.is_success else {"/v1/load_lora_adapter": {}}
    except (httpx.HTTPError, ValueError, KeyError) as error:
        raise EnvironmentFault(f"dev_server: {server} does not answer as vLLM: {error}") from None
    if "/v1/load_lora_adapter" not in known:
        raise EnvironmentFault(NOT_ALLOWED.format(server))


def exchange(server: str, adapter: Path) -> None:
    """Have the vLLM at ``server`` serve ``adapter`` in the place of the one before.

    Raises:
        EnvironmentFault: it can't be reached, or may not load adapters.
    """
    try:
        with httpx.Client(base_url=server.rstrip("/"), timeout=120) as client:
            served = {model["id"] for model in client.get("models").json()["data"]}
            if ADAPTER in served:
                client.post("unload_lora_adapter", json={"lora_name": ADAPTER}).raise_for_status()
            body = {"lora_name": ADAPTER, "lora_path": str(adapter.resolve())}
            told = client.post("load_lora_adapter", json=body)
            if told.status_code == 404:
                raise EnvironmentFault(NOT_ALLOWED.format(server))
            told.raise_for_status()
    except (httpx.HTTPError, json.JSONDecodeError, KeyError) as error:
        raise EnvironmentFault(f"dev_server: {server} does not load the adapter: {error}") from None
