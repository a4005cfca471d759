"""Attention of rows that are laid end to end, or in a tree: each row sees itself and its ancestors.

    ROW_BY_ROW   one call of SDPA a row; on any device
    VARLEN       all rows in one FlashAttention kernel that torch brings along; CUDA only

Both compute exactly the pairs that are needed: the stock ``sdpa`` computes all pairs of positions
and masks those of other rows away.
"""

from __future__ import annotations

from inspect import signature
from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface

ROW_BY_ROW = "row_by_row"
VARLEN = "varlen"
CAUSAL = (-1, 0)  # any token before, none after; rows of queries and keys end together
TOLERANCE = 0.02  # between two bf16 computations of numbers around 1


def register() -> None:
    """Make both known to transformers, without the masks that they would not read."""
    for name, attend in ((ROW_BY_ROW, attend_rows), (VARLEN, attend_varlen)):
        AttentionInterface.register(name, attend)
        AttentionMaskInterface.register(name, no_mask)


def attend_rows(
    module: torch.nn.Module,
    query: torch.Tensor,  # (1, heads, tokens of all rows, head size)
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    cu_seq_lens_q: torch.Tensor | None = None,
    cu_seq_lens_k: torch.Tensor | None = None,
    paths: torch.Tensor | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention within each row of a batch laid end to end, or of a tree (``train.tree``).

    In a tree ``query`` holds the tokens that each row brought along, and ``paths`` says where all
    tokens of each row lie.
    """
    lengths = [query.shape[2]] if cu_seq_lens_q is None else cu_seq_lens_q.diff().tolist()
    seen_lengths = lengths
    if paths is not None and cu_seq_lens_k is not None:
        key, value = key.index_select(2, paths), value.index_select(2, paths)
        seen_lengths = cu_seq_lens_k.diff().tolist()
    rows = zip(
        query.split(lengths, 2),
        key.split(seen_lengths, 2),
        value.split(seen_lengths, 2),
        strict=True,
    )
    seen = [
        torch.nn.functional.scaled_dot_product_attention(
            *row, **causal(row[0], row[1]), dropout_p=dropout, scale=scaling, enable_gqa=True
        )
        for row in rows
    ]
    return torch.cat(seen, 2).transpose(1, 2).contiguous(), None


def causal(query: torch.Tensor, key: torch.Tensor) -> dict[str, Any]:
    """The mask for queries that are the last positions of the keys."""
    new, all_of_it = query.shape[2], key.shape[2]
    if new == all_of_it:
        return {"is_causal": True}
    mask = torch.ones(new, all_of_it, dtype=torch.bool, device=query.device)
    return {"attn_mask": mask.tril(all_of_it - new)}


def attend_varlen(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    cu_seq_lens_q: torch.Tensor | None = None,
    cu_seq_lens_k: torch.Tensor | None = None,
    max_length_q: int | None = None,
    max_length_k: int | None = None,
    paths: torch.Tensor | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """The same in one kernel; arguments as of ``attend_rows``, and the longest of the rows."""
    from torch.nn.attention.varlen import varlen_attn

    whole = value.dtype
    half = whole if whole in (torch.bfloat16, torch.float16) else torch.bfloat16
    # (1, heads, tokens, size) -> (tokens, heads, size), as the kernel reads them
    query, key, value = (part[0].transpose(0, 1).to(half) for part in (query, key, value))
    if cu_seq_lens_q is None:
        cu_seq_lens_q = torch.tensor([0, len(query)], dtype=torch.int32, device=query.device)
        max_length_q = len(query)
    if paths is not None and cu_seq_lens_k is not None:
        key, value = key.index_select(0, paths), value.index_select(0, paths)
    else:
        cu_seq_lens_k, max_length_k = cu_seq_lens_q, max_length_q
    if max_length_q is None or max_length_k is None:
        max_length_q, max_length_k = (
            int(ends.diff().max()) for ends in (cu_seq_lens_q, cu_seq_lens_k)
        )
    known = signature(varlen_attn).parameters
    grouped: dict[str, Any] = {"enable_gqa": query.shape[1] != key.shape[1]}
    if "enable_gqa" not in known:  # torch 2.11
        key, value = (
            part.repeat_interleave(query.shape[1] // part.shape[1], 1) for part in (key, value)
        )
        grouped = {}
    seen = varlen_attn(
        query.contiguous(),
        key.contiguous(),
        value.contiguous(),
        cu_seq_lens_q,
        cu_seq_lens_k,
        max_length_q,
        max_length_k,
        scale=scaling,
        window_size=CAUSAL,
        **grouped,
    )
    return seen[None].to(whole), None


def varlen_works(device: str = "cuda") -> bool:
    """Whether the kernel is there and gives what ``attend_rows`` gives, gradients too.

    Asked on the machine itself, in a few milliseconds: the kernel is of torch's newest parts.
    """
    try:
        torch.manual_seed(0)
        lengths, seen = (5, 3), (5, 7)  # the second row shares the first four tokens
        ends = [torch.tensor([0, *part]).cumsum(0).int().to(device) for part in (lengths, seen)]
        tree = {
            "cu_seq_lens_q": ends[0],
            "cu_seq_lens_k": ends[1],
            "paths": torch.tensor([0, 1, 2, 3, 4, 0, 1, 2, 3, 5, 6, 7], device=device),
        }
        parts = [
            torch.randn(1, heads, 8, 64, device=device, dtype=torch.bfloat16) for heads in (4, 2, 2)
        ]
        told = []
        for attend in (attend_rows, attend_varlen):
            own = [part.clone().requires_grad_() for part in parts]
            result = attend(torch.nn.Module(), *own, None, **tree)[0]
            result.float().square().sum().backward()
            told.append([result, *(part.grad for part in own)])
        return all(
            torch.allclose(one.float(), other.float(), atol=TOLERANCE, rtol=TOLERANCE)
            for one, other in zip(*told, strict=True)
        )
    except (ImportError, RuntimeError, TypeError, NotImplementedError):
        return False


def no_mask(*_: Any, **__: Any) -> None:
    """``attend_rows`` needs no mask; without this one of all positions by all would be made."""
