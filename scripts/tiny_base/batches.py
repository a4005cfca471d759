"""The batches of the pretraining: samples in rows, made when they are needed or ahead by workers.

A step's batch is a function of the seed, its number and the pace at which the skills have come
(``mixture.Pace``), so workers can make batches ahead, and a killed run goes on with the same ones.
"""

from __future__ import annotations

import copy
import os
import random
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from itertools import groupby
from multiprocessing import get_context, parent_process
from multiprocessing.connection import wait
from typing import Any, NamedTuple

import torch
from transformers import PreTrainedTokenizerFast

from rlm_executor.errors import InputError
from scripts.tiny_base.mixture import SEVERAL, WINDOW, Mixture, Pace
from scripts.tiny_base.pointers import BINDS, HEADS, MOST_PLACES, Aims


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

    @property
    def steps(self) -> int:
        """How many there are."""
        return -(-self.tokens // self.step_tokens)

    def progress(self, step: int) -> float:
        """Share of the tokens that is read before ``step``."""
        return step * self.step_tokens / self.tokens


class Batch(NamedTuple):
    """One step: rows of ``WINDOW`` tokens end to end, of samples that each read themselves alone.

    A row's samples do not go on in the next row. As made, whole numbers are of 16 and 32 bits.
    """

    ids: torch.Tensor  # (tokens,)
    positions: torch.Tensor  # (tokens,), in the sample
    ends: torch.Tensor  # (samples + 1,), int32: 0, and where each sample or padding ends
    learned: torch.Tensor  # (learned,): the places before the learned tokens
    weights: torch.Tensor  # (learned,), of the loss
    aims: tuple[Aims, ...]  # of each head
    samples: list[tuple[str, int, int]]  # kind, its first learned token among all, their end

    def each(self, change: Callable[[Any], Any]) -> Batch:
        """The same with every tensor changed."""
        aims = tuple(Aims(*map(change, told)) for told in self.aims)
        return Batch(*map(change, self[:5]), aims, self.samples)

    def to(self, device: torch.device) -> Batch:
        """On ``device``, ready to index with; to a GPU without waiting for it."""

        def move(tensor: torch.Tensor) -> torch.Tensor:
            if device.type != "cpu":
                tensor = tensor.pin_memory().to(device, non_blocking=True)
            return tensor if tensor.is_floating_point() else tensor.long()

        return self.each(move)


class Row(NamedTuple):
    """Samples side by side."""

    ids: list[int]
    weights: list[float]
    samples: list[tuple[str, int]]  # kind, end
    pointers: list[dict[int, tuple[int, float, list[int]]]]  # of each head, as ``Aims.of`` reads


def make_batch(
    mixture: Mixture, tokenizer: PreTrainedTokenizerFast, plan: Plan, step: int, pace: Pace
) -> Batch:
    """The rows of ``step``."""
    mixture.rng, mixture.pace = random.Random(f"{plan.seed}/{step}"), pace
    ids, weights, ends, samples = list[int](), list[float](), [0], list[tuple[str, int, int]]()
    rows, learned = list[Row](), 0
    for first in range(0, plan.step_tokens, WINDOW):
        row = make_row(mixture, tokenizer, plan.progress(step))
        gap = WINDOW - len(row.ids)
        ids += row.ids + [tokenizer.pad_token_id] * gap
        weights += row.weights + [0.0] * gap
        start = 0
        for kind, end in row.samples:
            count = sum(weight > 0 for weight in row.weights[start:end])
            samples.append((kind, learned, learned + count))
            learned, start = learned + count, end
            ends.append(first + end)
        if gap:
            ends.append(len(ids))
        rows.append(row)
    weight = torch.tensor(weights)
    targets = weight.nonzero()[:, 0]
    return Batch(
        torch.tensor(ids, dtype=torch.int16),
        torch.cat([torch.arange(length) for length in torch.tensor(ends).diff()]).short(),
        torch.tensor(ends, dtype=torch.int32),
        (targets - 1).int(),
        weight[targets],
        tuple(Aims.of([row.pointers[head] for row in rows]) for head in range(HEADS)),
        samples,
    )


def make_row(mixture: Mixture, tokenizer: PreTrainedTokenizerFast, progress: float) -> Row:
    """As many samples as fit.

    The answer of one case weighs as the root of its length: were all tokens equal, a label of one
    token would be lost beside copies of a hundred.
    """
    longest = mixture.longest(progress)
    row = Row([], [], [], [{} for _ in range(HEADS)])
    failures = 0
    while failures < 12 and len(row.ids) < WINDOW - 16:
        kind, more, learned, pointed = mixture.encoded(tokenizer, progress, longest)
        if not any(learned[1:]):  # a text of no characters
            continue
        if len(more) > min(longest, WINDOW - len(row.ids)):
            failures += 1
            continue
        start = len(row.ids)
        row.ids.extend(more)
        row.samples.append((kind, len(row.ids)))
        # Before the first token there is nothing that could predict it.
        row.weights.extend([0.0, *weigh(learned, kind == SEVERAL)[1:]])
        for head, place, aim in pointed:
            # What is bound stands in the prompt, which is not learned.
            weight = 1.0 if head == BINDS else row.weights[start + place + 1]
            told = row.pointers[head].setdefault(start + place, (start, weight, []))
            if len(told[2]) < MOST_PLACES:
                told[2].append(start + aim)
    return row


def weigh(learned: list[bool], each: bool) -> list[float]:
    """What each token counts: the learned ones the root of their number, in all or ``each`` run."""
    if not each:
        share = max(1, sum(learned)) ** -0.5
        return [on * share for on in learned]
    weights: list[float] = []
    for on, run in groupby(learned):
        length = len(list(run))
        weights += [on * length**-0.5] * length
    return weights


class Batches:
    """The batches of the steps in order, made here or ahead by workers."""

    def __init__(self, mixture: Mixture, tokenizer: PreTrainedTokenizerFast, plan: Plan) -> None:
        self.plan = plan
        self._made: deque[Future[Any]] = deque()
        self._make = (mixture, tokenizer, plan)
        self._pool: ProcessPoolExecutor | None = None
        if plan.workers:
            os.environ["TOKENIZERS_PARALLELISM"] = "false"  # or each takes every core
            context = get_context("forkserver")
            context.set_forkserver_preload([__name__])  # imported once, not by each worker
            self._pool = ProcessPoolExecutor(
                plan.workers, context, _begin_worker, (mixture, tokenizer, plan)
            )

    def next(self, step: int, pace: Pace, ahead: deque[tuple[int, Pace]]) -> Batch:
        """The batch of ``step``; asks for those that come ``4 * workers`` steps later.

        ``ahead`` holds what was asked for and not yet read, with the pace at which it was.
        """
        if self._pool is None:
            return make_batch(*self._make, step, copy.deepcopy(pace))
        for asked in list(ahead)[len(self._made) :]:  # of a run that was killed
            self._made.append(self._pool.submit(_work, *asked))
        next_step = ahead[-1][0] + 1 if ahead else step
        last = min(self.plan.steps, step + 4 * self.plan.workers)
        for asked_step in range(next_step, last):
            ahead.append((asked_step, copy.deepcopy(pace)))
            self._made.append(self._pool.submit(_work, *ahead[-1]))
        batch: Batch = self._made.popleft().result()
        ahead.popleft()
        return batch.each(torch.from_numpy)

    def close(self) -> None:
        """End the workers."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)


_worker: list[Any] = []


def _begin_worker(*made: Any) -> None:
    def end_with_parent() -> None:
        parent = parent_process()
        if parent is not None:
            wait([parent.sentinel])
            os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()  # it may have been killed
    torch.set_num_threads(1)
    _worker[:] = made


def _work(step: int, pace: Pace) -> Batch:
    # As arrays: torch sends tensors between processes through files.
    return make_batch(*_worker, step, pace).each(torch.Tensor.numpy)  # type: ignore[call-arg]
