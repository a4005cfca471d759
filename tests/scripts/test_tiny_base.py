"""What the tiny base is pretrained on: its samples, their ids, and what they must never hold."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast

from scripts import tiny_base
from scripts import tiny_base_skills as skills

SOURCE = ["import os\n\ndef first(path, count):\n    return os.listdir(path)[:count]\n" * 40]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> PreTrainedTokenizerFast:
    folder: Path = tmp_path_factory.mktemp("tokenizer")
    return tiny_base.build_tokenizer(tiny_base.Mixture(SOURCE, 0), folder / "tokenizer.json")


@pytest.mark.parametrize("progress", [0.0, 0.3, 0.9])
def test_the_protocol_of_the_loop_is_never_shown(progress: float):
    mixture = tiny_base.Mixture(SOURCE, 0)
    for _ in range(300):
        text = "\n".join(part for _, part in mixture.sample(progress, 1024))
        assert not any(word in text for word in ("```", "llm_query", "REPL", 'answer["'))


def test_the_same_seed_gives_the_same_samples():
    first, second = (tiny_base.Mixture(SOURCE, 5) for _ in range(2))
    assert [first.sample(0.5, 1024) for _ in range(50)] == [
        second.sample(0.5, 1024) for _ in range(50)
    ]


def test_a_conversation_has_the_ids_of_the_chat_template(tokenizer):
    sample = [("system", "<1> is a"), ("user", "say b"), ("assistant", "b"), ("user", "and c")]
    answered = [*sample, ("assistant", "c")]
    ids, learned = skills.encode(tokenizer, answered, prompts_too=False)
    prompt = tokenizer.apply_chat_template(
        [{"role": role, "content": text} for role, text in sample],
        add_generation_prompt=True,
        enable_thinking=False,
        tokenize=False,
    )
    assert tokenizer.decode(ids) == f"{prompt}c<|im_end|>"
    assert tokenizer.decode([i for i, on in zip(ids, learned, strict=True) if on]) == (
        "b<|im_end|>c<|im_end|>"
    )


@pytest.mark.parametrize("progress", [0.01, 0.1, 0.9])
def test_rows_are_whole_samples_within_the_row_length(tokenizer, progress: float):
    mixture = tiny_base.Mixture(SOURCE, 0)
    mixture.vocabulary = range(len(tiny_base.SPECIAL_TOKENS), len(tokenizer))
    total = 100 * tiny_base.STEP_TOKENS
    ids, weights = next(tiny_base.rows(tokenizer, mixture, total, int(total * progress)))
    assert ids.shape == weights.shape
    assert ids.numel() == tiny_base.STEP_TOKENS
    assert 0.1 < (weights > 0).float().mean() < 0.6
    assert not weights[ids == tokenizer.pad_token_id].any()


def test_recalled_pieces_have_stood_before():
    rng = random.Random(1)
    for _ in range(100):
        ids, learned = skills.recall(rng, range(26, 2048), 200)
        assert len(ids) == len(learned) and any(learned)
        for place, on in enumerate(learned):
            if on:  # the token before and this one, side by side, further up
                pair = ids[place - 1 : place + 1]
                assert any(ids[i : i + 2] == pair for i in range(place - 1))


def test_replacing_a_name_leaves_longer_names_and_numbers():
    assert skills._replace("x1 = 0x10 + tab + table", {"tab": "new"}) == "x1 = 0x10 + new + table"
