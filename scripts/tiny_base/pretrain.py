"""Pretraining of the tiny base: packed rows, Muon and AdamW, checkpoints; on a CPU or one GPU.

A step's batch is a function of the seed, its number and the pace at which the skills have come
(``mixture.Pace``), so workers can make batches ahead, and a killed run goes on with the same ones.
"""

from __future__ import annotations

import copy
import random
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import PreTrainedTokenizerFast, Qwen3ForCausalLM

from rlm_executor.errors import InputError
from scripts.tiny_base.mixture import WINDOW, Mixture, Pace
from scripts.tiny_base.pointers import Pointers
from train.machine import has_fast_bf16

SAVE_SECONDS = 300
MUON_RATE, ADAM_RATE = 0.02, 3e-3
POINTER_WEIGHTS = (0.5, 0.15, 0.1)  # of the three heads of ``pointers.Pointers``


@dataclass(frozen=True)
class Plan:
    """How much is read, and how: all of it decides the weights."""

    tokens: int
    seed: int = 0
    step_tokens: int = 4096
    workers: int = 0  # processes that make batches ahead; 0: made when they are needed

    def __post_init__(self) -> None:
        if self.step_tokens % WINDOW or self.step_tokens <= 0:
            raise InputError(f"--step-tokens {self.step_tokens}: give a multiple of {WINDOW}")

    def progress(self, step: int) -> float:
        """Share of the tokens that is read before ``step``."""
        return step * self.step_tokens / self.tokens


@dataclass
class Progress:
    """Where a pretraining is: steps done, the curve so far, how often each token was read."""

    counts: torch.Tensor  # (vocabulary,)
    step: int = 0
    seconds: float = 0.0
    log: list[dict[str, float]] = field(default_factory=list)
    pace: Pace = field(default_factory=Pace)
    ahead: deque[tuple[int, Pace]] = field(default_factory=deque)  # batches asked for, not read


class Batch(NamedTuple):
    """One step's rows: ids and loss weights of shape (rows, row length), and where samples lie."""

    ids: torch.Tensor
    weights: torch.Tensor
    spans: list[tuple[str, int, int, int]]  # kind, row, first token, end
    pointers: torch.Tensor  # (pointers, 4): head, row, place that predicts, place where it stands


def make_batch(
    mixture: Mixture, tokenizer: PreTrainedTokenizerFast, plan: Plan, step: int, pace: Pace
) -> Batch:
    """The packed rows of ``step``.

    The answer of one sample weighs as the root of its length: were all tokens equal, a label of
    one token would be lost beside copies of a hundred.
    """
    mixture.rng, mixture.pace = random.Random(f"{plan.seed}/{step}"), pace
    progress = plan.progress(step)
    length = mixture.row_length(progress)
    ids: list[list[int]] = [[] for _ in range(plan.step_tokens // length)]
    weights: list[list[float]] = [[] for _ in ids]
    spans: list[tuple[str, int, int, int]] = []
    pointers: list[tuple[int, int, int, int]] = []
    failures = 0
    while failures < 12 and min(map(len, ids)) < length - 16:
        kind, more, learned, pointed = mixture.encoded(tokenizer, progress, length)
        more, learned = [*more, tokenizer.pad_token_id], [*learned, False]
        fitting = [row for row in range(len(ids)) if len(ids[row]) + len(more) <= length]
        if not fitting:
            failures += 1
            continue
        best = max(fitting, key=lambda row: len(ids[row]))
        weight = max(1, sum(learned)) ** -0.5
        start = len(ids[best])
        pointers += [(head, best, start + a, start + b) for head, a, b in pointed]
        spans.append((kind, best, len(ids[best]), len(ids[best]) + len(more)))
        ids[best] += more
        weights[best] += [weight * on for on in learned]
    for row, weighed in zip(ids, weights, strict=True):
        gap = length - len(row)
        row += [tokenizer.pad_token_id] * gap
        weighed += [0.0] * gap
    return Batch(
        torch.tensor(ids),
        torch.tensor(weights),
        spans,
        torch.tensor(pointers, dtype=torch.long).view(-1, 4),
    )


class Batches:
    """The batches of the steps in order, made here or ahead by workers."""

    def __init__(self, mixture: Mixture, tokenizer: PreTrainedTokenizerFast, plan: Plan) -> None:
        self.plan = plan
        self._made: deque[Future[Any]] = deque()
        self._make = (mixture, tokenizer, plan)
        self._pool: ProcessPoolExecutor | None = None
        if plan.workers:
            self._pool = ProcessPoolExecutor(
                plan.workers, get_context("spawn"), _begin_worker, (mixture, tokenizer, plan)
            )

    def next(self, done: Progress) -> Batch:
        """The batch of ``done.step``; asks for those that come ``4 * workers`` steps later."""
        if self._pool is None:
            return make_batch(*self._make, done.step, copy.deepcopy(done.pace))
        for step, pace in list(done.ahead)[len(self._made) :]:  # of a run that was killed
            self._made.append(self._pool.submit(_work, step, pace))
        while len(done.ahead) < 4 * self.plan.workers:
            step = done.ahead[-1][0] + 1 if done.ahead else done.step
            done.ahead.append((step, copy.deepcopy(done.pace)))
            self._made.append(self._pool.submit(_work, *done.ahead[-1]))
        ids, weights, spans, pointers = self._made.popleft().result()
        done.ahead.popleft()
        return Batch(
            torch.from_numpy(ids).long(),
            torch.from_numpy(weights),
            spans,
            torch.from_numpy(pointers).long(),
        )

    def close(self) -> None:
        """End the workers."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)


_worker: list[Any] = []


def _begin_worker(*made: Any) -> None:
    torch.set_num_threads(1)
    _worker[:] = made


def _work(step: int, pace: Pace) -> tuple[Any, ...]:
    batch = make_batch(*_worker, step, pace)  # type: ignore[call-arg]
    pointers = batch.pointers.short().numpy()
    return batch.ids.short().numpy(), batch.weights.numpy(), batch.spans, pointers


def train(
    model: Qwen3ForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    mixture: Mixture,
    plan: Plan,
    checkpoint: Path,
    look: Callable[[], str],
) -> Progress:
    """Warm-up, full rate, linear decay over the second half; a checkpoint every five minutes.

    ``look`` says in a line what the model can do by now, ten times on the way.
    """
    hidden = [p for n, p in model.named_parameters() if p.ndim == 2 and "layers" in n]
    others = [p for n, p in model.named_parameters() if not (p.ndim == 2 and "layers" in n)]
    muon = Muon(hidden)
    adam = torch.optim.AdamW(others, lr=ADAM_RATE, betas=(0.9, 0.95), weight_decay=0.0)
    done = Progress(torch.zeros(model.config.vocab_size, dtype=torch.long))
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=False, map_location=model.device)
        if state["plan"] != plan:
            raise InputError(
                f"{checkpoint} is of {state['plan']}, asked for is {plan}; go on with the same "
                "settings, or give another --work"
            )
        model.load_state_dict(state["model"])
        adam.load_state_dict(state["adam"])
        muon.momenta, done = state["muon"], state["done"]
        print(f"goes on from step {done.step}", flush=True)

    def save() -> None:
        partial = checkpoint.with_suffix(".partial")
        state = {"model": model.state_dict(), "adam": adam.state_dict(), "muon": muon.momenta}
        torch.save({**state, "done": done, "plan": plan}, partial)
        partial.replace(checkpoint)

    begun = saved = time.monotonic()
    first, before, losses = done.step, done.seconds, list[float]()
    aims = list[list[float]]()
    steps = -(-plan.tokens // plan.step_tokens)
    told = 25 * max(1, steps // 5000)
    batches = Batches(mixture, tokenizer, plan)
    try:
        while done.step < steps:
            batch = batches.next(done)
            progress = plan.progress(done.step)
            scale = min(1.0, (done.step + 1) / 40) * min(1.0, (1 - progress) / 0.5 + 0.02)
            loss, wrong = optimize(model, muon, adam, batch, scale)
            losses.append(loss[0])
            aims.append(loss[1])
            done.pace.tell(
                (kind, not wrong[row, start:end].any()) for kind, row, start, end in batch.spans
            )
            done.counts += torch.bincount(batch.ids.flatten(), minlength=len(done.counts))
            done.step += 1
            done.seconds = before + time.monotonic() - begun
            if done.step % told == 0:
                tokens = done.step * plan.step_tokens
                done.log.append({"tokens": tokens, "loss": sum(losses) / len(losses)})
                aim = [round(sum(a) / len(a), 2) for a in zip(*aims, strict=True)]
                losses, aims = [], []
                rate = (done.step - first) * plan.step_tokens / (done.seconds - before)
                print(
                    f"step={done.step} done={progress:.1%} loss={done.log[-1]['loss']:.3f} "
                    f"pointers={aim} tok/s={rate:.0f} seconds={done.seconds:.0f} {done.pace}",
                    flush=True,
                )
            if done.step % max(1, steps // 10) == 0:
                print(f"step={done.step} {look()}", flush=True)
            if time.monotonic() - saved > SAVE_SECONDS:
                saved = time.monotonic()
                save()
    finally:
        batches.close()
    save()
    return done


def optimize(
    model: Qwen3ForCausalLM, muon: Muon, adam: torch.optim.AdamW, batch: Batch, scale: float
) -> tuple[tuple[float, list[float]], torch.Tensor]:
    """One step.

    Returns:
        The weighted mean loss over the learned tokens, and which of them were not the likeliest
        (rows, row length).
    """
    device = model.device
    ids, weights = batch.ids.to(device), batch.weights.to(device)
    learned = weights[:, 1:] > 0
    targets, weight = ids[:, 1:][learned], weights[:, 1:][learned]
    fast = device.type == "cuda" or has_fast_bf16()
    pointer = Pointers(model)
    with torch.autocast(device.type, torch.bfloat16, enabled=fast), pointer:
        output = model.model(input_ids=ids, use_cache=False).last_hidden_state
        # The head runs on learned positions only: three in four tokens are prompt.
        logits = model.lm_head(output[:, :-1][learned])
    losses = torch.nn.functional.cross_entropy(logits.float(), targets, reduction="none")
    loss = (losses * weight).sum() / weight.sum()
    aimed = torch.stack(pointer.loss(weights, batch.pointers.to(device)))
    (loss + (aimed * aimed.new_tensor(POINTER_WEIGHTS)).sum()).backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    adam.param_groups[0]["lr"] = ADAM_RATE * scale
    adam.step()
    muon.step(MUON_RATE * scale)
    model.zero_grad(set_to_none=True)
    wrong = torch.zeros(ids.shape, dtype=torch.bool)
    wrong[:, 1:][learned.cpu()] = (logits.argmax(-1) != targets).cpu()
    return (loss.item(), aimed.tolist()), wrong


class Muon:
    """Muon: momentum 0.95, Nesterov, five Newton-Schulz steps, in float32, equal shapes at once.

    ``torch.optim.Muon`` orthogonalizes in bfloat16, which a CPU without bf16 units only emulates.
    """

    def __init__(self, parameters: list[torch.nn.Parameter]) -> None:
        self.parameters = parameters
        self.momenta = [torch.zeros_like(p) for p in parameters]
        shapes = dict.fromkeys(p.shape for p in parameters)
        self._groups = [[i for i, p in enumerate(parameters) if p.shape == s] for s in shapes]

    @torch.no_grad()
    def step(self, learning_rate: float) -> None:
        """One update of every matrix from its gradient."""
        for group in self._groups:
            parameters = [self.parameters[i] for i in group]
            gradients = torch.stack([p.grad for p in parameters])  # type: ignore[misc]
            momenta = [self.momenta[i] for i in group]
            momentum = torch.stack(momenta).lerp_(gradients, 0.05)
            torch._foreach_copy_(momenta, list(momentum))
            updates = _orthogonal(gradients.lerp_(momentum, 0.95))
            updates *= max(1.0, updates.shape[1] / updates.shape[2]) ** 0.5
            torch._foreach_mul_(parameters, 1 - learning_rate * 0.01)
            torch._foreach_add_(parameters, list(updates), alpha=-learning_rate)


def _orthogonal(matrices: torch.Tensor) -> torch.Tensor:
    """The nearest orthogonal matrices, roughly: quintic Newton-Schulz (Jordan et al. 2024)."""
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(5):
        gram = x @ x.mT
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return x.mT if tall else x
