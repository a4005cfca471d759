"""The copying circuit that the tiny base begins with, and keeps.

Copying and looking up stand on one circuit (Olsson et al. 2022, arXiv 2209.11895): heads that tell
each token what stood before it, and one that finds where the same stood before and reads what
followed. From random weights it takes millions of tokens to form and then knows one or two tokens
of context; weights can be set to it beforehand (as in mimetic initialization, Trockman and Kolter
2023, arXiv 2305.09828). Here it knows four.

The residual stream has three parts (``CODES``, ``PAST``, the rest). Each token has a random code.
The heads of the first layer look one, two, three and four tokens back and sum what they find, each
turned by another power of one rotation R:

    past(t) = sum over j = 1..4 of DECAY^(j-1) R^j code(t - j)

What would follow the text up to t has the past R code(t) + DECAY R past(t): the first head of the
last layer looks for it and adds the code of the token it finds, which the tied head reads.

Muon undoes all that within fifty steps, and where only these weights are kept, what other layers
write into the same directions drowns them. So the circuit's weights are frozen, and no layer but
the last writes into ``CODES`` and ``PAST``; every layer may read them.
"""

from __future__ import annotations

import torch
from torch import nn
from transformers import Qwen3ForCausalLM

SIZE = 48
CONSTANT = 0  # the same for every token: what a head does whatever it reads hangs on it
CODES = slice(1, 1 + SIZE)
PAST = slice(1 + SIZE, 1 + 2 * SIZE)
# Where the heads that are told where to look (``pointers``) begin to write what they find.
BOUND = slice(1 + 2 * SIZE, 1 + 3 * SIZE)
ASKED = slice(1 + 3 * SIZE, 1 + 4 * SIZE)
DECAY = 0.7
# Of the codes' elements: what other layers write grows to ten and must not drown them.
LENGTH = 2.0
VOTE = 24.0  # of the last layer for the token that it found


@torch.no_grad()
def begin(model: Qwen3ForCausalLM) -> None:
    """Set the circuit up; all else that writes begins at zero, all else that reads at random."""
    config = model.config
    size, half = config.head_dim, config.head_dim // 2
    layers = [layer.self_attn for layer in model.model.layers]
    for layer in model.model.layers:
        layer.self_attn.o_proj.weight.zero_()
        layer.mlp.down_proj.weight.zero_()
    codes = torch.nn.functional.normalize(torch.randn(config.vocab_size, SIZE)) * LENGTH * SIZE**0.5
    embeddings = model.model.embed_tokens.weight
    embeddings[:, CODES], embeddings[:, PAST], embeddings[:, CONSTANT] = codes, 0.0, LENGTH
    model.model.norm.weight.fill_(
        0.15 / LENGTH
    )  # codes are long: the tied head begins with small numbers
    turn = torch.linalg.qr(torch.randn(SIZE, SIZE))[0]
    once = torch.eye(SIZE)

    # The first layer: key and query turn against each other by j steps, in the fast rotary pairs.
    first, fast = layers[0], torch.arange(6)
    angles = config.rope_parameters["rope_theta"] ** (-fast / half)
    for projection in (first.q_proj, first.k_proj, first.v_proj):
        projection.weight.zero_()
    for group in range(config.num_key_value_heads):
        first.k_proj.weight[group * size + fast, CONSTANT] = 1.0
        first.v_proj.weight[group * size : group * size + SIZE, CODES] = once
    scale = embeddings.square().mean(-1).sqrt().median()
    for head in range(config.num_attention_heads):
        back = (head + 1) * angles
        first.q_proj.weight[head * size + fast, CONSTANT] = back.cos()
        first.q_proj.weight[head * size + half + fast, CONSTANT] = -back.sin()
        power = torch.linalg.matrix_power(turn, head + 1)
        columns = slice(head * size, head * size + SIZE)
        first.o_proj.weight[PAST, columns] = scale * DECAY**head * power
    first.q_norm.weight.fill_(5.0)
    first.k_norm.weight.fill_(5.0)

    # The last: in the slow pairs, which hardly turn within the window. The second group of heads
    # begins as a copy of the first that also knows what the pointers found, and is trained.
    last = layers[-1]
    slow = torch.cat([torch.arange(half - SIZE // 2, half), torch.arange(size - SIZE // 2, size)])
    for projection in (last.q_proj, last.k_proj):
        projection.weight.mul_(0.15)
    last.q_proj.weight[:size] = 0
    last.k_proj.weight[:size] = 0
    for head, key in ((0, 0), (2, 1)):
        last.q_proj.weight[head * size + slow, CODES] = turn
        last.q_proj.weight[head * size + slow, PAST] = DECAY * turn
        last.k_proj.weight[key * size + slow, PAST] = once
        last.v_proj.weight[key * size : key * size + SIZE] = 0
        last.v_proj.weight[key * size : key * size + SIZE, CODES] = once
        last.o_proj.weight[CODES, head * size : head * size + SIZE] = VOTE * once
    last.q_proj.weight[2 * size + slow, ASKED] = once
    last.k_proj.weight[size + slow, BOUND] = once
    last.q_norm.weight.fill_(2.0)
    last.k_norm.weight.fill_(2.0)

    # What pointers look at is told on as the past that would follow it.
    for layer, head, into in ((layers[1], 2, BOUND), (layers[3], 0, ASKED)):
        key = head // 2
        layer.v_proj.weight[key * size : key * size + SIZE] = 0
        layer.v_proj.weight[key * size : key * size + SIZE, CODES] = turn
        layer.v_proj.weight[key * size : key * size + SIZE, PAST] = DECAY * turn
        layer.o_proj.weight[into, head * size : head * size + SIZE] = 2.0 * once
        layer.q_norm.weight.fill_(1.4)
        layer.k_norm.weight.fill_(1.4)


class Kept:
    """The parts of the weights that training leaves as they are."""

    def __init__(self, model: Qwen3ForCausalLM) -> None:
        size = model.config.head_dim
        self.parts: list[tuple[nn.Parameter, torch.Tensor, torch.Tensor]] = []
        *others, last = model.model.layers
        mine = slice(0, size)
        self._keep(model.model.embed_tokens.weight, columns=slice(0, PAST.stop))
        for layer in others:
            self._keep(layer.self_attn.o_proj.weight, rows=slice(0, PAST.stop))
            self._keep(layer.mlp.down_proj.weight, rows=slice(0, PAST.stop))
        first = others[0]
        self._keep(first.input_layernorm.weight)
        self._keep(last.input_layernorm.weight)
        for attention in (first.self_attn, last.self_attn):
            self._keep(attention.q_norm.weight)
            self._keep(attention.k_norm.weight)
        for projection in (first.self_attn.q_proj, first.self_attn.k_proj, first.self_attn.v_proj):
            self._keep(projection.weight)
        self._keep(first.self_attn.o_proj.weight)
        for projection in (last.self_attn.q_proj, last.self_attn.k_proj, last.self_attn.v_proj):
            self._keep(projection.weight, rows=mine)
        self._keep(last.self_attn.o_proj.weight, columns=mine)

    def _keep(self, weight: nn.Parameter, rows: slice | None = None,
              columns: slice | None = None) -> None:  # fmt: skip
        part = torch.zeros_like(weight, dtype=torch.bool)
        where = (rows or slice(None), columns or slice(None))
        part[where[: weight.ndim]] = True
        self.parts.append((weight, part, weight.detach().clone()))

    @torch.no_grad()
    def hold(self) -> None:
        """Before the optimizers' step: no gradient for what is kept."""
        for weight, part, _ in self.parts:
            if weight.grad is not None:
                weight.grad.masked_fill_(part, 0.0)

    @torch.no_grad()
    def put_back(self) -> None:
        """After it: undo their weight decay there."""
        for weight, part, value in self.parts:
            weight.copy_(torch.where(part, value, weight))
