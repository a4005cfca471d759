"""A prefix tree holds every row whole, and trains exactly what the separate rows train."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, PreTrainedTokenizerBase
from trl.trainer.utils import add_fused_lm_head

from tests.train import tiny
from train import machine, rows
from train.rows import IGNORED, Row
from train.tree import collate, fill, grow, rows_of

# Two tokens and few of them: rows that share much, diverge in targets, repeat or contain another.
ROWS = st.lists(
    st.lists(st.tuples(st.integers(1, 2), st.booleans()), min_size=1, max_size=9), min_size=1
).map(
    lambda made: [
        Row([token for token, _ in row], [token if kept else IGNORED for token, kept in row])
        for row in made
    ]
)


@given(ROWS)
def test_every_row_is_whole_and_every_label_is_there_once(made: list[Row]):
    tree = grow(made)
    parents: dict[int, int] = {}
    owed = 0
    for row, path in zip(made, tree.paths, strict=True):
        assert [tree.tokens[position] for position in path] == row.input_ids
        assert [tree.depths[position] for position in path] == [*range(len(path))]
        for parent, position in zip([-1, *path], path, strict=False):
            assert parents.setdefault(position, parent) == parent  # one past, whoever looks
        for position, label in zip(path, row.labels[1:], strict=False):
            assert label in (IGNORED, tree.labels[position])
            owed += label != IGNORED
    assert len(tree.labels) - tree.labels.count(IGNORED) == owed
    assert len(tree.tokens) == sum(tree.own) <= sum(len(row.input_ids) for row in made)
    ends = [
        position
        for path, own in zip(tree.paths, tree.own, strict=True)
        for position in path[len(path) - own :]
    ]
    assert ends == [*range(len(tree.tokens))]  # what a row brought along lies side by side


@given(st.lists(st.integers(1, 30)), st.integers(1, 40))
def test_bins_hold_every_run_once_and_no_two_that_are_too_much(sizes: list[int], budget: int):
    bins = fill(sizes, budget)
    assert sorted(index for own in bins for index in own) == [*range(len(sizes))]
    assert all(len(own) == 1 or sum(sizes[i] for i in own) <= budget for own in bins)
    totals = [sum(sizes[i] for i in own) for own in bins]
    # No two bins could have been one: the first fit would have found it.
    assert all(a + b > budget for i, a in enumerate(totals) for b in totals[i + 1 :])


def test_a_prompt_is_computed_once_and_two_targets_after_it_are_two_ways():
    prompt, first, second = [1, 2, 3], [7, 8], [7, 9]
    made = [Row([*prompt, *target], [IGNORED] * 3 + target) for target in (first, second)]
    tree = grow(made)
    # The last token of the prompt has two labels, so it is there twice.
    assert tree.tokens == [1, 2, 3, 7, 8, 3, 7, 9]
    assert tree.labels == [IGNORED, IGNORED, 7, 8, IGNORED, 7, 9, IGNORED]


def test_a_target_that_is_history_later_is_one_way():
    turn = Row([1, 2, 7, 8], [IGNORED, IGNORED, 7, 8])
    later = Row([1, 2, 7, 8, 5, 9], [IGNORED] * 5 + [9])
    for made in ([turn, later], [later, turn]):
        tree = grow(made)
        assert tree.tokens == [1, 2, 7, 8, 5, 9]
        assert tree.labels == [IGNORED, 7, 8, IGNORED, 9, IGNORED]


def run_of(tokenizer: PreTrainedTokenizerBase, number: int) -> list[Row]:
    """Two turns of a run, as the template renders them."""
    question, code = f"How many otters are there in {number}?", f"```repl\nn = {number}\n```"
    turns = [tiny.turn(question, code), tiny.later_turn(question, code)]
    return rows.encode(turns, tokenizer, 4096).kept


def example_of(made: list[Row]) -> dict[str, list[int]]:
    return {
        "input_ids": [token for row in made for token in row.input_ids],
        "labels": [label for row in made for label in row.labels],
        "seq_lengths": [len(row.input_ids) for row in made],
    }


def test_an_example_is_taken_apart_as_it_was_put_together(tokenizer: PreTrainedTokenizerBase):
    made = run_of(tokenizer, 3)
    assert rows_of(example_of(made)) == made


@pytest.mark.parametrize("runs", [1, 3])
def test_loss_and_gradient_are_those_of_the_separate_rows(
    runs: int, tiny_base: Path, tokenizer: PreTrainedTokenizerBase
):
    machine.find_machine("tree").prepare()
    examples = [example_of(run_of(tokenizer, number)) for number in range(runs)]
    alone = [row for example in examples for row in rows_of(example)]
    count = sum(row.target_tokens for row in alone)

    def gradients(batches: list[dict[str, torch.Tensor]], attention: str):
        model = AutoModelForCausalLM.from_pretrained(
            tiny_base, dtype=torch.float32, attn_implementation=attention
        )
        add_fused_lm_head(model)
        loss = 0.0
        for batch in batches:
            part = model(**batch, fused_lm_head=True, num_items_in_batch=count).loss
            part.backward()
            loss += part.item()
        return loss, {name: weight.grad for name, weight in model.named_parameters()}

    batch = collate(examples)
    assert batch["input_ids"].shape[1] < 0.75 * sum(len(row.input_ids) for row in alone)
    assert (batch["shift_labels"] != IGNORED).sum() == count
    separate = [
        {"input_ids": torch.tensor([row.input_ids]), "labels": torch.tensor([row.labels])}
        for row in alone
    ]
    loss, expected = gradients(separate, "eager")
    tree_loss, found = gradients([batch], machine.ROW_BY_ROW)
    assert tree_loss == pytest.approx(loss, abs=1e-6)
    for name, gradient in expected.items():
        difference = (found[name] - gradient).norm() / gradient.norm().clamp(min=1e-12)
        assert difference < 1e-5, name
