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
from typing import Any, NamedTuple

import torch
from transformers import PreTrainedTokenizerBase, Qwen3ForCausalLM

About = tuple[tuple[tuple[str, ...], ...], ...]
"""Of each answer, of each of its lines: the line it speaks of, and the word there that decides.

Where two decide together, the later and the earlier one."""
Pointer = tuple[int, int, int]
"""Head, place that predicts (or is bound), place that it should look at."""
MOST_PLACES = 8  # a piece that stands in more of them tells nothing
FARTHEST = 150  # tokens between a key and its value
HEADS, BINDS = 3, 2  # how many, and the one that is told at a place of the prompt


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
    given = as_text(ids)
    for (start, text), lines in zip(answers[-len(about) :], about, strict=False):
        if not lines or len(lines) != text.count("\n") + 1:
            continue
        spans = tokenizer.backend_tokenizer.encode(text).offsets
        begins = [0, *(i + 1 for i, char in enumerate(text) if char == "\n")]
        tokens = [bisect_right([a for a, _ in spans], b) - 1 for b in begins]
        after = 0
        for (line, word, *more), token, told in zip(lines, tokens, text.split("\n"), strict=True):
            whole, part = _core(tokenizer, line), _core(tokenizer, word)
            if line == word and (len(lines) == 1 or " " not in line):  # as the question writes it
                place = given.rfind(whole, 0, start)
            else:
                place = given.find(whole, after, start)
            if place < 0:
                continue
            after = place + len(whole)
            inner = given.rfind(part, place, after)
            if inner < 0:
                continue
            found.append((1, start + token - 1, inner + len(part) - 1))
            if more:
                other = _core(tokenizer, more[0])
                if (earlier := given.find(other, place, inner)) >= 0:
                    found.append((2, inner + len(part) - 1, earlier + len(other) - 1))
                continue
            if line == word and told.isdigit():  # one of the numbers that are compared
                chosen = given.find(_core(tokenizer, told), place, after)
                if chosen >= 0:
                    found.append((0, start + token - 1, chosen))
                    continue
            bound = _bound(given, part, _core(tokenizer, told), (place, after), start)
            if bound is not None:
                later, earlier = bound
                found += [(0, start + token - 1, later), (2, later, earlier)]
    return found


def _bound(
    ids: str, asked: str, told: str, without: tuple[int, int], end: int
) -> tuple[int, int] | None:
    """Places of the closest ``asked`` (its last token) and ``told`` (its first), later first."""
    keys = [p for p in _all(ids, asked, end) if not without[0] <= p < without[1]]
    values = _all(ids, told, end)
    pairs = [(abs(v - k), k + len(asked) - 1, v) for k in keys for v in values if k != v]
    if not pairs:
        return None
    distance, key, value = min(pairs)
    return (max(key, value), min(key, value)) if distance < FARTHEST else None


def _core(tokenizer: PreTrainedTokenizerBase, text: str) -> str:
    """``text`` from its first letter or digit to its last, which stands so everywhere, as ids."""
    inner = re.sub(r"^\W+|\W+$", "", text)
    return as_text(tokenizer.backend_tokenizer.encode(inner).ids) if inner else "\uffff"


def as_text(ids: Sequence[int]) -> str:
    """One character an id: strings are searched many times faster than lists."""
    return "".join(map(chr, ids))


def _all(ids: str, part: str, end: int) -> list[int]:
    places, at = list[int](), -1
    while (at := ids.find(part, at + 1, end)) >= 0:
        places.append(at)
    return places


class Aims(NamedTuple):
    """The pointers of one head in rows of equal length, as many places a row."""

    places: torch.Tensor  # (rows, places), in the row
    begins: torch.Tensor  # (rows, places), where the sample of each begins
    right: torch.Tensor  # (rows, places, MOST_PLACES): where to look; -1: nowhere
    weights: torch.Tensor  # (rows, places), of the loss; 0 for what fills a row up

    @classmethod
    def of(cls, rows: Sequence[dict[int, tuple[int, float, list[int]]]]) -> Aims:
        """From each row's places, their samples' begins, their weights and where to look."""
        most = max(1, *map(len, rows))
        # What fills up looks at itself.
        places = torch.arange(most).repeat(len(rows), 1)
        begins, weights = places.clone(), torch.zeros(len(rows), most)
        right = torch.full((len(rows), most, MOST_PLACES), -1)
        right[:, :, 0] = places
        for index, row in enumerate(rows):
            if not row:
                continue
            count = len(row)
            places[index, :count] = torch.tensor(list(row))
            begins[index, :count] = torch.tensor([begin for begin, _, _ in row.values()])
            weights[index, :count] = torch.tensor([weight for _, weight, _ in row.values()])
            right[index, :count] = torch.tensor(
                [[*aims, *[-1] * (MOST_PLACES - len(aims))] for _, _, aims in row.values()]
            )
        return cls(places.short(), begins.short(), right.short(), weights)


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

    def loss(self, aims: Sequence[Aims]) -> torch.Tensor:
        """Of each head the mean of -log of the attention on the right places."""
        return torch.stack([self._loss(head, told) for head, told in enumerate(aims)])

    def _loss(self, head: int, told: Aims) -> torch.Tensor:
        attention, (hidden, (cos, sin)) = self.attentions[head], self._seen[head]
        size, rows = attention.head_dim, len(told.places)
        query, group = self.HEADS[head] * size, self.HEADS[head] // 2 * size
        length = hidden.shape[1] // rows
        at = torch.arange(length, device=hidden.device)
        flat = (told.places + length * torch.arange(rows, device=hidden.device)[:, None]).flatten()
        keys = turn(
            attention.k_norm(hidden[0] @ attention.k_proj.weight[group : group + size].T),
            cos[0], sin[0],
        )  # fmt: skip
        asked = hidden[0].index_select(0, flat)
        queries = turn(
            attention.q_norm(asked @ attention.q_proj.weight[query : query + size].T),
            cos[0].index_select(0, flat), sin[0].index_select(0, flat),
        )  # fmt: skip
        scores = queries.view(rows, -1, size) @ keys.view(rows, length, size).mT
        scores = scores.float() * size**-0.5
        own = (at >= told.begins[..., None]) & (at <= told.places[..., None])
        right = torch.zeros(*scores.shape[:2], length + 1, dtype=torch.bool, device=at.device)
        right.scatter_(2, told.right.where(told.right >= 0, length), True)
        everywhere = scores.masked_fill(~own, float("-inf")).logsumexp(2)
        there = scores.masked_fill(~right[..., :length], float("-inf")).logsumexp(2)
        return (told.weights * (everywhere - there)).sum() / told.weights.sum().clamp(min=1e-6)


def turn(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotary positions on (tokens, head size)."""
    half = x.shape[-1] // 2
    return x * cos + torch.cat((-x[..., half:], x[..., :half]), -1) * sin
