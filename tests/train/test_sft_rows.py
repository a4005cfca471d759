"""Token ids and labels: what is trained is what vLLM serves, and nothing is cut or made up."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerBase

from rlm_executor.errors import InputError
from tests.train import tiny
from train import rows

THINKING_OFF = "<|im_start|>assistant\n<think>\n\n</think>\n\n"


def test_labels_are_the_completion_and_the_stop_token(tokenizer: PreTrainedTokenizerBase):
    turns = tiny.turns(9)
    data = rows.encode(turns, tokenizer, 4096)
    assert len(data.kept) == 9 and data.over_window == 0
    for turn, row in zip(turns, data.kept, strict=True):
        trained = [token for token in row.labels if token != rows.IGNORED]
        assert tokenizer.decode(trained) == turn["completion"][0]["content"] + "<|im_end|>"
        # One block at the end; the rest is the prompt, ids and all.
        assert row.labels == [rows.IGNORED] * (len(row.labels) - len(trained)) + trained
        assert row.input_ids[-len(trained) :] == trained
        assert row.target_tokens == len(trained)


def test_prompt_is_the_stock_template_with_generation_prompt(tokenizer: PreTrainedTokenizerBase):
    turn = tiny.later_turn("How many?", "```repl\nn = 1\n```")
    (row,) = rows.encode([turn], tokenizer, 4096).kept
    prompt = row.input_ids[: row.labels.count(rows.IGNORED)]
    served = tokenizer.apply_chat_template(
        turn["prompt"], add_generation_prompt=True, enable_thinking=False, return_dict=False
    )
    assert prompt == served
    text = tokenizer.decode(prompt)
    assert text.endswith("<|im_start|>user\nREPL output:\n4839201<|im_end|>\n" + THINKING_OFF)
    # The turn before it stands in the history as Qwen3 shows history: without a think block.
    assert "<|im_start|>assistant\n```repl\nn = 1\n```<|im_end|>\n" in text


def test_ids_survive_parquet(tokenizer: PreTrainedTokenizerBase, tmp_path: Path):
    turns = tiny.turns(4)
    turns[0]["prompt"][1]["name"] = "asker"  # parquet gives all other messages a name of None
    turns[0]["chat_template_kwargs"] = {"enable_thinking": False, "extra": 1}
    path = tiny.write_turns(tmp_path, turns)
    assert rows.encode(rows.read_turns(path), tokenizer, 4096) == rows.encode(
        turns, tokenizer, 4096
    )


def test_rows_over_the_window_are_counted_and_left_out(tokenizer: PreTrainedTokenizerBase):
    turns = tiny.turns(6)
    lengths = [len(row.input_ids) for row in rows.encode(turns, tokenizer, 4096).kept]
    limit = sorted(lengths)[2]
    data = rows.encode(turns, tokenizer, limit)
    fitting = [length for length in lengths if length <= limit]
    assert [len(row.input_ids) for row in data.kept] == fitting
    assert data.over_window == 6 - len(fitting) > 0
    assert (data.tokens, data.longest) == (sum(fitting), limit)
    with pytest.raises(InputError, match=r"none of the 6 rows fits max_length 5 \(the shortest"):
        rows.encode(turns, tokenizer, 5)


@pytest.mark.parametrize(
    "completion",
    [[], None, [{"role": "assistant", "content": " \n"}], [{"role": "assistant", "content": None}]],
)
def test_a_row_without_target_is_refused(completion, tokenizer: PreTrainedTokenizerBase):
    turns = [*tiny.turns(2), tiny.turn("q", "a") | {"completion": completion}]
    with pytest.raises(InputError, match="row 2 of the dataset has no target"):
        rows.encode(turns, tokenizer, 4096)


def test_a_dataset_that_is_none_is_named(tmp_path: Path):
    with pytest.raises(InputError, match="no dataset at .*turns.parquet"):
        rows.read_turns(tmp_path / "turns.parquet")
    path = tiny.write_turns(tmp_path, [{"prompt": "p", "text": "t"}])
    with pytest.raises(InputError, match="no column completion, chat_template_kwargs"):
        rows.read_turns(path)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(InputError, match="can't be read as parquet"):
        rows.read_turns(path)


def test_a_template_that_ends_turns_otherwise_is_refused(tokenizer: PreTrainedTokenizerBase):
    stop = tokenizer.eos_token
    tokenizer.eos_token = "<|endoftext|>"
    try:
        with pytest.raises(InputError, match="ends a turn with '<|im_end|>' and its eos token"):
            rows.stop_token(tokenizer)
    finally:
        tokenizer.eos_token = stop


def test_a_row_is_shown_with_its_trained_part_marked(tokenizer: PreTrainedTokenizerBase):
    data = rows.encode([tiny.turn("How many?", "```repl\nn = 1\n```")], tokenizer, 4096)
    shown = rows.show(data.kept[0], tokenizer).splitlines()
    assert shown[-3:] == ["  + ```repl", "  + n = 1", "  + ```<|im_end|>"]
    assert all(line.startswith("  |") for line in shown[:-3])


@pytest.mark.real_vllm
async def test_vllm_serves_the_ids_that_are_trained(vllm_base_url: str, base_folder: Path):
    import httpx
    from transformers import AutoTokenizer

    turns = tiny.turns(3)
    data = rows.encode(turns, AutoTokenizer.from_pretrained(base_folder), 4096)
    async with httpx.AsyncClient(timeout=600) as client:
        for turn, row in zip(turns, data.kept, strict=True):
            request = {
                "model": "base",
                "messages": turn["prompt"],
                "chat_template_kwargs": turn["chat_template_kwargs"],
                "return_token_ids": True,
                "max_tokens": 1,
            }
            reply = await client.post(f"{vllm_base_url}/chat/completions", json=request)
            served = reply.json()["prompt_token_ids"]
            assert served == row.input_ids[: row.labels.count(rows.IGNORED)]


def test_a_reply_that_the_loop_would_cut_is_refused(tokenizer: PreTrainedTokenizerBase):
    data = rows.encode(tiny.turns(4), tokenizer, 4096)
    longest = max(row.target_tokens for row in data.kept)
    rows.check_replies(data, longest)
    with pytest.raises(InputError, match=f"max_tokens_per_turn.* to {longest} or more"):
        rows.check_replies(data, longest - 1)
