"""Pretraining of the tiny base: Muon and AdamW, checkpoints; on a CPU or one GPU.

On a GPU no step waits for the one before: what a step tells is read ``DELAY`` steps later.
"""

from __future__ import annotations

import copy
import os
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from transformers import PreTrainedTokenizerFast, Qwen3ForCausalLM
from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm

from rlm_executor.errors import InputError
from rlm_executor.files import sha256_text
from scripts.tiny_base.batches import Batch, Batches, Plan
from scripts.tiny_base.mixture import Mixture, Pace
from scripts.tiny_base.muon import Muon
from scripts.tiny_base.pointers import Pointers
from train.attention import VARLEN, varlen_works
from train.machine import has_fast_bf16

SAVE_SECONDS = 300
MUON_RATE, ADAM_RATE = 0.02, 3e-3
DECAY_FROM = 0.35  # share of the steps, from where the rate falls linearly
POINTER_WEIGHTS = (0.5, 0.15, 0.1)  # of the three heads of ``pointers.Pointers``
DELAY = 8
TELLING = {Path(__file__).with_name(name) for name in ("card.py", "measure.py", "served.py")}


class Told(NamedTuple):
    """What a step told, perhaps still on its way from the GPU."""

    samples: list[tuple[str, int, int]]  # as in ``Batch``
    wrong: torch.Tensor  # (learned,), which of them were not the likeliest
    losses: torch.Tensor  # (1 + heads,): the weighted mean over the learned tokens; the pointers'
    arrived: torch.cuda.Event | None


@dataclass
class Progress:
    """Where a pretraining is: steps done, the curve so far, how often each token was read."""

    counts: torch.Tensor  # (vocabulary,)
    step: int = 0
    seconds: float = 0.0
    log: list[dict[str, float]] = field(default_factory=list)
    pace: Pace = field(default_factory=Pace)
    ahead: deque[tuple[int, Pace]] = field(default_factory=deque)  # batches asked for, not read
    told: deque[Told] = field(default_factory=deque)  # not yet read
    losses: list[list[float]] = field(default_factory=list)  # since the last line of the log

    def hear(self, told: Told, delay: int) -> None:
        """Read what the step before ``delay`` others told."""
        self.told.append(told)
        if len(self.told) <= delay:
            return
        samples, wrong, losses, arrived = self.told.popleft()
        if arrived is not None:
            arrived.synchronize()
        so_far = [0, *wrong.long().cumsum(0).tolist()]
        self.pace.tell((kind, so_far[start] == so_far[end]) for kind, start, end in samples)
        self.losses.append(losses.tolist())


def is_gpu(device: torch.device) -> bool:
    """Whether a copy in bf16 computes there, and steps do not wait for what they tell."""
    return device.type == "cuda"


def code_sha256() -> str:
    """Of the modules here that decide what is read and asked, and how; not of those that tell."""
    modules = sorted(set(Path(__file__).parent.glob("*.py")) - TELLING)
    return sha256_text("".join(path.read_text(encoding="utf-8") for path in modules))


def prepare_gpu() -> str:
    """Make the same seed give the same weights there too; call it before anything runs.

    Returns:
        The attention to build the model with.

    Raises:
        InputError: this torch has no kernel for it.
    """
    if not torch.cuda.is_available():
        raise InputError("--device cuda: torch sees no GPU here; leave it out to use the CPU")
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    if not varlen_works():
        raise InputError(
            "--device cuda: torch.nn.attention.varlen does not work here; take a newer torch, or "
            "leave it out to use the CPU"
        )
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    return VARLEN


def train(
    model: Qwen3ForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    mixture: Mixture,
    plan: Plan,
    checkpoint: Path,
    look: Callable[[], str],
) -> Progress:
    """Warm-up, full rate, linear decay; a checkpoint every five minutes.

    ``look`` says in a line what the model can do by now, five times on the way.
    """
    weights = Weights(model)
    adam, muon = weights.adam, weights.muon
    done = Progress(torch.zeros(model.config.vocab_size, dtype=torch.long))
    delay = DELAY if is_gpu(model.device) else 0
    of = {
        "plan": plan, "device": model.device.type, "corpus": mixture.sha256, "code": code_sha256(),
        "tokenizer": sha256_text(tokenizer.backend_tokenizer.to_str()),
    }  # fmt: skip
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=False, map_location="cpu")
        found = state.get("of", {})  # one of an older version tells nothing
        if found != of:
            other = [f"{k} {found.get(k)}, not {v}" for k, v in of.items() if found.get(k) != v]
            raise InputError(
                f"{checkpoint} is of other settings ({'; '.join(other)}): go on with the same, or "
                "give another --work"
            )
        model.load_state_dict(state["model"])
        adam.load_state_dict(state["adam"])
        with torch.no_grad():
            torch._foreach_copy_(muon.momenta, state["muon"])
        done = state["done"]
        weights.copy()
        print(f"goes on from step {done.step}", flush=True)

    def save() -> None:
        if model.device.type == "cuda":
            torch.cuda.synchronize()
        done.told = deque(told._replace(arrived=None) for told in done.told)
        partial = checkpoint.with_suffix(".partial")
        state = {"model": model.state_dict(), "adam": adam.state_dict(), "muon": muon.momenta}
        torch.save({**state, "done": done, "of": of}, partial)
        partial.replace(checkpoint)

    begun = saved = time.monotonic()
    first, before, waited = done.step, done.seconds, 0.0
    steps = plan.steps
    lines = 25 * max(1, steps // 5000)
    batches = Batches(mixture, tokenizer, plan)
    try:
        while done.step < steps:
            asked = time.monotonic()
            batch = batches.next(done.step, done.pace, done.ahead)
            waited += time.monotonic() - asked
            progress = plan.progress(done.step)
            scale = min(1.0, (done.step + 1) / 40)
            scale *= min(1.0, (1 - progress) / (1 - DECAY_FROM) + 0.02)
            done.hear(optimize(weights, batch, scale), delay)
            done.counts += torch.bincount(batch.ids, minlength=len(done.counts))
            done.step += 1
            done.seconds = before + time.monotonic() - begun
            if done.step % lines == 0:
                loss, *pointed = (sum(x) / len(x) for x in zip(*done.losses, strict=True))
                done.losses = []
                done.log.append({"tokens": done.step * plan.step_tokens, "loss": loss})
                rate = (done.step - first) * plan.step_tokens / (done.seconds - before)
                print(
                    f"step={done.step} done={progress:.1%} loss={loss:.3f} "
                    f"pointers={[round(x, 2) for x in pointed]} tok/s={rate:.0f} "
                    f"seconds={done.seconds:.0f} for_batches={waited:.0f} {done.pace}",
                    flush=True,
                )
            if done.step % max(1, steps // 5) == 0:
                print(f"step={done.step} {look()}", flush=True)
            if time.monotonic() - saved > SAVE_SECONDS:
                saved = time.monotonic()
                save()
    finally:
        batches.close()
    save()
    return done


class Weights:
    """The weights in float32 with their optimizers, and what computes with them.

    On a CPU the model itself computes, with bf16 products where the CPU has them. On a GPU a copy
    in bf16 does: casting each weight and what it reads took most of a step.
    """

    def __init__(self, model: Qwen3ForCausalLM) -> None:
        named = list(model.named_parameters())
        self.own = [p for _, p in named]
        self.muon = Muon([p for n, p in named if p.ndim == 2 and "layers" in n])
        self.adam = torch.optim.AdamW(
            [p for n, p in named if not (p.ndim == 2 and "layers" in n)],
            lr=ADAM_RATE, betas=(0.9, 0.95), weight_decay=0.0,
        )  # fmt: skip
        self.computing = in_bf16(model) if is_gpu(model.device) else model
        self.computed = list(self.computing.parameters())

    def step(self, scale: float) -> None:
        """One update from the gradients."""
        if self.computed[0] is not self.own[0]:
            for mine, theirs in zip(self.own, self.computed, strict=True):
                mine.grad = theirs.grad.float()
        torch.nn.utils.clip_grad_norm_(self.own, 1.0)
        self.adam.param_groups[0]["lr"] = ADAM_RATE * scale
        self.adam.step()
        self.muon.step(MUON_RATE * scale)
        self.copy()
        for parameter in (*self.own, *self.computed):
            parameter.grad = None

    @torch.no_grad()
    def copy(self) -> None:
        """Bring the copy up to date."""
        if self.computed[0] is not self.own[0]:
            torch._foreach_copy_(self.computed, self.own)


def in_bf16(model: Qwen3ForCausalLM) -> Qwen3ForCausalLM:
    """A copy in bf16, the frequencies of its positions as they were, each norm in one kernel."""
    half = copy.deepcopy(model).to(torch.bfloat16)
    for theirs, whole in zip(half.buffers(), model.buffers(), strict=True):
        theirs.data = whole.data.clone()
    for module in half.modules():
        if isinstance(module, Qwen3RMSNorm):
            module.forward = partial(
                torch.nn.functional.rms_norm,
                normalized_shape=module.weight.shape,
                weight=module.weight,
                eps=module.variance_epsilon,
            )
    return half


def optimize(weights: Weights, batch: Batch, scale: float) -> Told:
    """One step."""
    model = weights.computing
    longest = int(batch.ends.diff().max())
    rounded = not is_gpu(model.device) and has_fast_bf16()
    there = batch.to(model.device)
    targets = there.ids[there.learned + 1]
    pointers = Pointers(model)
    with torch.autocast(model.device.type, torch.bfloat16, enabled=rounded), pointers:
        output = model.model(
            input_ids=there.ids[None],
            position_ids=there.positions[None],
            use_cache=False,
            attention_mask={"full_attention": None},  # none is needed, and none looked for
            cu_seq_lens_q=there.ends.int(),
            max_length_q=longest,
        ).last_hidden_state[0]
        # The head runs on learned positions only: three in four tokens are prompt.
        logits = model.lm_head(output.index_select(0, there.learned))
        aimed = pointers.loss(there.aims)
    losses = torch.nn.functional.cross_entropy(logits.float(), targets, reduction="none")
    loss = (losses * there.weights).sum() / there.weights.sum()
    sum((share * aim for share, aim in zip(POINTER_WEIGHTS, aimed, strict=True)), loss).backward()
    weights.step(scale)
    wrong, told = logits.argmax(-1) != targets, torch.cat([loss[None], aimed]).detach()
    arrived = None
    if model.device.type == "cuda":
        wrong, told = (x.to("cpu", non_blocking=True) for x in (wrong, told))
        arrived = torch.cuda.Event()
        arrived.record()
    return Told(batch.samples, wrong, told, arrived)
