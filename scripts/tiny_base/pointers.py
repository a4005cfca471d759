"""Where the tiny base is told to look, while it learns: pointers from an answer into its prompt.

What a look-up needs beyond copying is the choice of the item. From the loss of the answer alone a
head finds it after many millions of tokens; told the place, it is a choice among the tokens of the
prompt, with a gradient from the first step. Three heads are told (``Pointers``):

0. the place in the prompt that the next token is taken from;
1. what a line of the answer speaks of: the line to label, the key that was asked for;
2. from the place of head 0, what belongs to it: the key of the value.

The served model has none of this: they are heads like all others, only sooner of use.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase, Qwen3ForCausalLM

About = tuple[tuple[tuple[str, str], ...], ...]
"""Of each answer, of each of its lines: the line it speaks of, and the word there that decides."""
Pointer = tuple[int, int, int]
"""Head, place that predicts (or is bound), place that it should look at."""
MOST_PLACES = 8  # a piece that stands in more of them tells nothing
FARTHEST = 150  # tokens between a key and its value


def find_pointers(
    tokenizer: PreTrainedTokenizerBase,
    ids: list[int],
    learned: list[bool],
    answers: Sequence[tuple[int, str]],
    about: About,
) -> list[Pointer]:
    """The pointers of one sample; ``answers`` are first places in ``ids``, and texts."""
    found = subjects(tokenizer, ids, answers, about)
    known = {place for head, place, _ in found if head == 0}
    return found + [pointer for pointer in sources(ids, learned) if pointer[1] not in known]


def sources(ids: list[int], learned: list[bool]) -> list[Pointer]:
    """Where each learned token is taken from, for head 0.

    The answer is read as pieces of what stands before it, the longest first.
    """
    found: list[Pointer] = []
    places: dict[int, list[int]] = {}
    at = known = 0
    while at < len(ids):
        if not learned[at]:
            at += 1
            continue
        begin = at  # of this answer
        for place in range(known, begin):
            places.setdefault(ids[place], []).append(place)
        known = begin
        while at < len(ids) and learned[at]:
            held, size = places.get(ids[at], []), 1
            while held and at + size < len(ids) and learned[at + size]:
                longer = [p for p in held if p + size < begin and ids[p + size] == ids[at + size]]
                if not longer:
                    break
                held, size = longer, size + 1
            if 0 < len(held) <= MOST_PLACES:
                found += [(0, at + i - 1, p + i) for i in range(size) for p in held]
            at += size
    return found


def subjects(
    tokenizer: PreTrainedTokenizerBase,
    ids: list[int],
    answers: Sequence[tuple[int, str]],
    about: About,
) -> list[Pointer]:
    """What each line of the last answers speaks of, at its last token, for head 1.

    And how that is bound to what is answered, where both stand in the prompt: whichever of the two
    comes later can know the other. So its place is where head 0 should look, and from there head 2
    at the earlier one.
    """
    found: list[Pointer] = []
    for (start, text), lines in zip(answers[-len(about) :], about, strict=False):
        if not lines or len(lines) != text.count("\n") + 1:
            continue
        spans = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        begins = [0, *(i + 1 for i, char in enumerate(text) if char == "\n")]
        tokens = [bisect_right([a for a, _ in spans["offset_mapping"]], b) - 1 for b in begins]
        after = 0
        for (line, word), token, told in zip(lines, tokens, text.split("\n"), strict=True):
            whole, part = _core(tokenizer, line), _core(tokenizer, word)
            if line == word and (len(lines) == 1 or " " not in line):  # as the question writes it
                place = _last(ids, whole, 0, start)
            else:
                place = _first(ids, whole, after, start)
            if place < 0:
                continue
            after = place + len(whole)
            inner = _last(ids, part, place, after)
            if inner < 0:
                continue
            found.append((1, start + token - 1, inner + len(part) - 1))
            if line == word and told.isdigit():  # one of the numbers that are compared
                chosen = _first(ids, _core(tokenizer, told), place, after)
                if chosen >= 0:
                    found.append((0, start + token - 1, chosen))
                    continue
            bound = _bound(ids, part, _core(tokenizer, told), (place, after), start)
            if bound is not None:
                later, earlier = bound
                found += [(0, start + token - 1, later), (2, later, earlier)]
    return found


def _bound(
    ids: list[int], asked: list[int], told: list[int], without: tuple[int, int], end: int
) -> tuple[int, int] | None:
    """Places of the closest ``asked`` (its last token) and ``told`` (its first), later first."""
    keys = [p for p in _all(ids, asked, end) if not without[0] <= p < without[1]]
    values = _all(ids, told, end)
    pairs = [(abs(v - k), k + len(asked) - 1, v) for k in keys for v in values if k != v]
    if not pairs:
        return None
    distance, key, value = min(pairs)
    return (max(key, value), min(key, value)) if distance < FARTHEST else None


def _core(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Ids of ``text`` from its first letter or digit to its last, which stand so everywhere."""
    inner = re.sub(r"^\W+|\W+$", "", text)
    return tokenizer(inner, add_special_tokens=False)["input_ids"] if inner else [-1]


def _all(ids: list[int], part: list[int], end: int) -> list[int]:
    size = len(part)
    return [
        place
        for place in range(end - size + 1)
        if ids[place] == part[0] and ids[place : place + size] == part
    ]


def _first(ids: list[int], part: list[int], after: int, end: int) -> int:
    return next((place for place in _all(ids, part, end) if place >= after), -1)


def _last(ids: list[int], part: list[int], after: int, end: int) -> int:
    return next((place for place in reversed(_all(ids, part, end)) if place >= after), -1)


class Pointers:
    """Adds to the loss how far three heads look elsewhere than they are told."""

    LAYERS = (3, 2, 1)  # and which query head of each
    HEADS = (0, 0, 2)

    def __init__(self, model: Qwen3ForCausalLM) -> None:
        self.attentions = [model.model.layers[layer].self_attn for layer in self.LAYERS]

    def __enter__(self) -> Pointers:
        self._seen: dict[int, Any] = {}
        self._hooks = [
            attention.register_forward_pre_hook(partial(self._keep, head), with_kwargs=True)
            for head, attention in enumerate(self.attentions)
        ]
        return self

    def __exit__(self, *_: object) -> None:
        for hook in self._hooks:
            hook.remove()

    def _keep(self, head: int, _module: object, _args: object, kwargs: dict[str, Any]) -> None:
        self._seen[head] = kwargs["hidden_states"], kwargs["position_embeddings"]

    def loss(self, weights: torch.Tensor, pointers: torch.Tensor) -> list[torch.Tensor]:
        """Of each head the mean of -log of the attention on the right places."""
        return [
            self._loss(head, weights, pointers[pointers[:, 0] == head, 1:])
            for head in range(len(self.LAYERS))
        ]

    def _loss(self, head: int, weights: torch.Tensor, pointers: torch.Tensor) -> torch.Tensor:
        attention, (hidden, (cos, sin)) = self.attentions[head], self._seen[head]
        size = attention.head_dim
        query, group = self.HEADS[head] * size, self.HEADS[head] // 2 * size
        queries = attention.q_proj.weight[query : query + size]
        keys = attention.k_proj.weight[group : group + size]
        total, share = hidden.new_zeros(()), hidden.new_zeros(())
        for row in pointers[:, 0].unique().tolist():
            mine = pointers[pointers[:, 0] == row]
            places, which = mine[:, 1].unique(return_inverse=True)
            k = turn(attention.k_norm(hidden[row] @ keys.T), cos[0], sin[0])
            q = turn(
                attention.q_norm(hidden[row, places] @ queries.T), cos[0, places], sin[0, places]
            )
            scores = (q @ k.T).float() * size**-0.5
            ahead = torch.arange(k.shape[0], device=k.device) > places[:, None]
            scores = scores.masked_fill(ahead, float("-inf"))
            right = torch.full_like(scores, float("-inf"))
            right[which, mine[:, 2]] = scores[which, mine[:, 2]]
            # What is bound stands in the prompt, which is not learned.
            weight = weights[row, places + 1] if head != 2 else torch.ones_like(scores[:, 0])
            total = total + (weight * (scores.logsumexp(1) - right.logsumexp(1))).sum()
            share = share + weight.sum()
        return total / share.clamp(min=1e-6)


def turn(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotary positions on (tokens, head size)."""
    half = x.shape[-1] // 2
    return x * cos + torch.cat((-x[..., half:], x[..., :half]), -1) * sin
