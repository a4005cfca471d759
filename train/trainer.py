"""TRL's SFTTrainer with our schedule, and what happens beside its steps: log, save, keep the time.

The learning rate warms up, then falls linearly to 0 at the last step. Where all steps would not fit
``max_minutes``, the last step comes earlier and the schedule with it; a line says so.
"""

from __future__ import annotations

import time
from collections import deque
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from torch.distributed.fsdp import MixedPrecisionPolicy
from transformers import Trainer as TransformersTrainer
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from trl import SFTTrainer

from train import checkpoints

COLD_STEPS = 2  # the first ones are slower and say nothing about the rest
MEASURED_STEPS = 8  # before the first estimate
RECENT_STEPS = 24  # that the estimate rests on: what slowed the machine a minute ago is over
SAVING_SECONDS = 3  # kept of the time for writing the adapter
WORTH_SAYING = 0.03  # a plan that changed by less than this share is not announced again


class Schedule:
    """Factor of the learning rate at a step; ``total`` may change while it runs."""

    def __init__(self, warmup: float, total: int) -> None:
        self.warmup, self.total = warmup, total

    def __call__(self, step: int) -> float:
        rising = max(1, round(self.warmup * self.total))
        if step < rising:
            return (step + 1) / rising
        return max(0.0, (self.total - step) / max(1, self.total - rising))


class Trainer(SFTTrainer):
    """SFTTrainer whose schedule ends with the run, whenever that is."""

    def create_accelerator_and_postprocess(self) -> None:
        """Under FSDP2: products in bf16, but gradients are added up, and the loss told, in fp32.

        Accelerate's own policy adds gradients up in bf16, and without ``sync_each_batch`` each GPU
        keeps the gradient of all weights, whole, from one pass of a step to the next.
        """
        super().create_accelerator_and_postprocess()
        if self.accelerator.is_fsdp2:
            self.accelerator.gradient_state.plugin_kwargs["sync_each_batch"] = True
            if self.args.bf16:
                self.accelerator.state.fsdp_plugin.mixed_precision_policy = MixedPrecisionPolicy(
                    param_dtype=torch.bfloat16, reduce_dtype=torch.float32
                )

    def create_scheduler(
        self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None
    ) -> torch.optim.lr_scheduler.LRScheduler:
        """The schedule over all steps."""
        if self.lr_scheduler is None:
            schedule = Schedule(float(self.args.warmup_steps), num_training_steps)
            self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(
                optimizer or self.optimizer, schedule
            )
            self._created_lr_scheduler = True
        return self.lr_scheduler

    def log_beside(self, logs: dict[str, float]) -> None:
        """Log what is no step's: TRL's own log would take the step's averages along."""
        TransformersTrainer.log(self, logs)

    def whole_weights(self) -> dict[str, torch.Tensor]:
        """All weights, gathered if they are sharded; every process must ask, the first has them."""
        weights: dict[str, torch.Tensor] = self.accelerator.get_state_dict(self.model)
        return weights


class Progress(TrainerCallback):
    """One line a log, a checkpoint every ``save_seconds``, an end before ``max_seconds``.

    Args:
        started: ``time.monotonic()`` at the start of the command, start-up included in its time.
        before: seconds that earlier, interrupted commands spent on the same run.
        flops_a_token: floating-point operations that training needs for a token, none recomputed.
        peak: operations a second that all processes could do at most; None: no MFU is told.
    """

    def __init__(
        self,
        fingerprint: str,
        *,
        started: float,
        before: float,
        save_seconds: float,
        max_seconds: float | None,
        flops_a_token: float = 0.0,
        peak: float | None = None,
    ) -> None:
        self.fingerprint = fingerprint
        self.started, self.before = started, before
        self.save_seconds, self.max_seconds = save_seconds, max_seconds
        self.flops_a_token, self.peak = flops_a_token, peak
        self.planned_steps = 0
        self.forwarded_tokens = 0  # in this process, for its speed
        self.trained_seconds = 0.0
        self._ends: deque[float] = deque(maxlen=RECENT_STEPS + 1)  # when the last steps ended
        self._said_steps = 0

    @property
    def seconds(self) -> float:
        """Spent on this run so far, over all its commands."""
        return self.before + time.monotonic() - self.started

    @property
    def mfu(self) -> float | None:
        """Share of the peak that this command reached; None where the peak is not known."""
        if not self.peak or not self.trained_seconds:
            return None
        return self.forwarded_tokens / self.trained_seconds * self.flops_a_token / self.peak

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Note where this command begins."""
        # A checkpoint brings the schedule of its time along, perhaps a shortened one.
        kwargs["lr_scheduler"].lr_lambdas[0].total = state.max_steps
        self.planned_steps = self._said_steps = state.max_steps
        self._first_step, self._first_tokens = state.global_step, state.num_input_tokens_seen
        self._begin = self._last_save = self._step_end = time.monotonic()
        self._rested = 0.0
        self._last_log = 0.0  # in seconds of training
        self._last_tokens = state.num_input_tokens_seen

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Ask for a checkpoint when it is time, and keep the plan within the time."""
        now = time.monotonic()
        steps = state.global_step - self._first_step
        self.trained_seconds = now - self._begin - self._rested
        self._step_end = now
        self.forwarded_tokens = state.num_input_tokens_seen - self._first_tokens
        last_step = state.max_steps
        if steps >= COLD_STEPS:
            self._ends.append(now)
        if steps >= MEASURED_STEPS:
            a_step = (now - self._ends[0]) / (len(self._ends) - 1)
            if steps == MEASURED_STEPS and state.is_world_process_zero:
                left = a_step * (self.planned_steps - state.global_step)
                print(f"estimate: {left:.0f} s of training left", flush=True)
            last_step = self._last_step_in_time(state.global_step, a_step)
        save = now - self._last_save > self.save_seconds
        # Clocks differ between processes, and all must save and stop at the same step.
        last_step, save = broadcast_object_list([last_step, save])
        if last_step != state.max_steps:
            self._replan(state, last_step, kwargs["lr_scheduler"])
        if state.global_step >= state.max_steps:
            control.should_training_stop = control.should_log = save = True
        control.should_save = save

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """All files of the checkpoint are written, by all processes: mark it."""
        self._rest()
        PartialState().wait_for_everyone()
        self._last_save = time.monotonic()
        if state.is_world_process_zero:
            folder = Path(str(args.output_dir)) / f"checkpoint-{state.global_step}"
            checkpoints.mark_complete(folder, self.fingerprint, self.seconds)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Print the fields of one log in a fixed order."""
        if logs is None or not state.is_world_process_zero:
            return
        if "eval_loss" in logs:
            print(f"step={state.global_step} heldout_loss={logs['eval_loss']:.4f}", flush=True)
        if "loss" not in logs:
            self._rest()
            return
        tokens = state.num_input_tokens_seen
        speed = (tokens - self._last_tokens) / max(self.trained_seconds - self._last_log, 1e-9)
        self._last_log, self._last_tokens = self.trained_seconds, tokens
        # All forwarded tokens are real ones: there is no padding.
        mfu = f"mfu={speed * self.flops_a_token / self.peak:.1%} " if self.peak else ""
        mean = self.trained_seconds / max(1, state.global_step - self._first_step)
        print(
            f"step={state.global_step}/{state.max_steps} epoch={logs['epoch']:.2f} "
            f"loss={logs['loss']:.4f} accuracy={logs['mean_token_accuracy']:.4f} "
            f"lr={logs['learning_rate']:.2e} tok/s={speed:.0f} {mfu}seconds={self.seconds:.0f} "
            f"left={mean * (state.max_steps - state.global_step):.0f}",
            flush=True,
        )

    def _rest(self) -> None:
        """What has gone on since the last step's end was no training: a look, or a checkpoint."""
        now = time.monotonic()
        self._rested += now - self._step_end
        self._step_end = now

    def _last_step_in_time(self, step: int, a_step: float) -> int:
        if self.max_seconds is None:
            return self.planned_steps
        fitting = (self.max_seconds - self.seconds - SAVING_SECONDS) / a_step
        return min(self.planned_steps, step + max(0, int(fitting)))

    def _replan(self, state: TrainerState, last_step: int, scheduler: Any) -> None:
        """End at ``last_step``, and the schedule too."""
        state.max_steps = scheduler.lr_lambdas[0].total = last_step
        if abs(self._said_steps - last_step) > WORTH_SAYING * self.planned_steps:
            self._said_steps = last_step
            if state.is_world_process_zero and self.max_seconds is not None:
                print(
                    f"plan: {last_step} of {self.planned_steps} steps fit max_minutes "
                    f"{self.max_seconds / 60:g}; the learning rate reaches 0 there",
                    flush=True,
                )
