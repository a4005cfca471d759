"""The rows of one forward pass as a prefix tree: what they have in common is computed once.

    batch = collate(examples)      # an example: the rows of one run, laid end to end

Every root turn repeats the history before it, and every run the system prompt. In the tree a token
is one position however many rows hold it at that depth after the same tokens; its ``position_ids``
is the depth, it attends to its ancestors only (``train.attention``), and it carries the label
of one row at most: a row that would need a second one there goes its own way from there on. So
loss and gradient are those of the separate rows, up to the order of additions.

Exact as long as nothing in the model mixes neighbours outside of attention, and without dropout.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from train.rows import IGNORED, Row


@dataclass
class Tree:
    """A tree laid out in one line: position ``p`` holds a token, its depth and what follows it."""

    tokens: list[int] = field(default_factory=list)
    depths: list[int] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)  # of the next token: already shifted
    paths: list[list[int]] = field(default_factory=list)  # positions of each row, root to leaf
    own: list[int] = field(default_factory=list)  # how many of them, at its end, it brought along
    _children: list[dict[int, int]] = field(default_factory=lambda: [{}])  # of the root, then by p

    def add(self, row: Row) -> None:
        """Add a row; the tokens it brings along are laid behind all others, side by side."""
        before, path = len(self.tokens), []
        shared, at = True, self._children[0]
        for token, label in zip(row.input_ids, [*row.labels[1:], IGNORED], strict=True):
            position = at.get(token) if shared else None
            if position is not None and IGNORED not in (label, self.labels[position]):
                position = None
            if position is None:
                shared = False
                position = self._append(token, len(path), label)
                at.setdefault(token, position)
            elif label != IGNORED:
                self.labels[position] = label
            path.append(position)
            at = self._children[position + 1]
        self.paths.append(path)
        self.own.append(len(self.tokens) - before)

    def _append(self, token: int, depth: int, label: int) -> int:
        self.tokens.append(token)
        self.depths.append(depth)
        self.labels.append(label)
        self._children.append({})
        return len(self.tokens) - 1


def grow(rows: Sequence[Row]) -> Tree:
    """The tree of some rows."""
    tree = Tree()
    for row in rows:
        tree.add(row)
    return tree


def fill(sizes: Sequence[int], budget: int) -> list[list[int]]:
    """Bins of indices whose sizes add up to ``budget`` at most: the largest first, each where it
    first fits. What is larger alone has a bin of its own."""
    bins: list[list[int]] = []
    room: list[int] = []
    for index in sorted(range(len(sizes)), key=lambda index: -sizes[index]):
        place = next((at for at, free in enumerate(room) if sizes[index] <= free), None)
        if place is None:
            place = len(bins)
            bins.append([])
            room.append(budget)
        bins[place].append(index)
        room[place] -= sizes[index]
    return bins


def collate(examples: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One batch of the rows of some examples.

    Args:
        examples: ``input_ids`` and ``labels`` of rows laid end to end, and their ``seq_lengths``.

    Returns:
        ``input_ids``, ``position_ids``, ``shift_labels``: [1, tokens of the tree]; ``labels`` are
        these again: without them the trainer counts no tokens, and a step would be the mean of its
        passes, not of its tokens;
        ``cu_seq_lens_q``: where the own tokens of each row begin and end; ``paths``: the positions
        that they attend to, row after row; ``cu_seq_lens_k``: where each row's begin and end;
        ``max_length_q``, ``max_length_k``: the longest of both.
    """
    tree = grow([row for example in examples for row in rows_of(example)])
    # A row that brought nothing along has been computed with another one.
    paths = [path for path, own in zip(tree.paths, tree.own, strict=True) if own]
    labels = torch.tensor([tree.labels])
    return {
        "input_ids": torch.tensor([tree.tokens]),
        "position_ids": torch.tensor([tree.depths]),
        "shift_labels": labels,
        "labels": labels,
        "cu_seq_lens_q": _ends([own for own in tree.own if own]),
        "cu_seq_lens_k": _ends([len(path) for path in paths]),
        "max_length_q": max(tree.own),
        "max_length_k": max(map(len, paths)),
        "paths": torch.tensor([position for path in paths for position in path]),
    }


def rows_of(example: dict[str, Any]) -> list[Row]:
    """The rows of an example."""
    rows, start = [], 0
    for length in example["seq_lengths"]:
        end = start + length
        rows.append(Row(example["input_ids"][start:end], example["labels"][start:end]))
        start = end
    return rows


def _ends(lengths: list[int]) -> torch.Tensor:
    return torch.tensor([0, *lengths]).cumsum(0).to(torch.int32)
