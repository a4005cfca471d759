"""Token ids and labels: what is trained is what vLLM serves, and nothing is cut or made up."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from data_gen.tasks import make_window
from rlm_executor import RLM, OpenAILM, RLMCard, Trajectory
from rlm_executor.errors import InputError
from tests.standin import build_tokenizer
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


def test_a_template_that_ends_turns_otherwise_is_refused(tmp_path: Path):
    build_tokenizer(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert rows.stop_token(tokenizer) == tokenizer.convert_tokens_to_ids("<|im_end|>")
    tokenizer.eos_token = "<|endoftext|>"
    with pytest.raises(InputError, match=r"ends a turn with '<\|im_end\|>' and its eos token"):
        rows.stop_token(tokenizer)


def test_a_row_is_shown_with_its_trained_part_marked(tokenizer: PreTrainedTokenizerBase):
    data = rows.encode([tiny.turn("How many?", "```repl\nn = 1\n```")], tokenizer, 4096)
    shown = rows.show(data.kept[0], tokenizer).splitlines()
    assert shown[-3:] == ["  + ```repl", "  + n = 1", "  + ```<|im_end|>"]
    assert all(line.startswith("  |") for line in shown[:-3])


@pytest.mark.real_vllm
@pytest.mark.real_sandbox
@pytest.mark.parametrize("thinking", [False, True])
async def test_vllm_told_the_ids_that_are_trained(
    vllm_base_url: str, base_folder: Path, tmp_path: Path, thinking: bool
):
    """Runs of the served base, recorded with the ids that vLLM read and wrote."""
    options = {"enable_thinking": thinking}
    card = RLMCard.model_validate(
        {
            "dialect": "answer-compact",
            "sampling": {"temperature": 0, "chat_template_kwargs": options},
            "limits": {"max_turns": 4, "max_tokens_per_turn": 96, "observation_chars": 200},
        }
    )
    lm = OpenAILM(vllm_base_url, "base", return_token_ids=True)
    journals = [tmp_path / f"{number}.jsonl" for number in range(6)]
    async with asyncio.TaskGroup() as group:
        for seed, journal in enumerate(journals):
            window = make_window("niah", 1024, seed, 1)
            run = RLM(lm, lm, card, journal=journal).run(window.tasks[0].question, window.text())
            group.create_task(run)
    await lm.aclose()

    recorded = [Trajectory.read(journal) for journal in journals]
    turns = [turn for trajectory in recorded for turn in trajectory.turns]
    ends = [
        row["finish_reason"]
        for trajectory in recorded
        for row in trajectory.turn_rows
        if "error" not in row
    ]
    assert len(turns) >= 2 * len(journals)  # later turns, too
    student = AutoTokenizer.from_pretrained(base_folder)
    made = [
        {
            "prompt": turn.messages,
            "completion": [{"role": "assistant", "content": turn.reply}],
            "chat_template_kwargs": options,
        }
        for turn in turns
    ]
    # vLLM leaves control tokens out of the text; <think> is none of them.
    control = {number for number, token in student.added_tokens_decoder.items() if token.special}
    stopped = exact = 0
    for turn, end, row in zip(turns, ends, rows.encode(made, student, 10**6).kept, strict=True):
        told, said = list(turn.prompt_token_ids or ()), list(turn.token_ids or ())
        prompt, target = row.input_ids[: len(told)], row.input_ids[len(told) :]
        assert prompt == told and row.target_tokens == len(target)
        # A reply that was cut off at max_tokens has no stop token yet.
        reply = said[:-1] if end == "stop" else said
        assert end != "stop" or said[-1] == student.eos_token_id
        assert thinking or not control & {*reply}
        text = [token for token in reply if token not in control]
        # A base that babbles may write a word in other pieces than a tokenizer cuts it into; what
        # is trained is what the tokenizer gives, which later prompts have too.
        cut = student(student.decode(text), add_special_tokens=False)["input_ids"]
        exact += cut == text
        assert target == [*cut, target[-1]]
        assert target[-1] == student.eos_token_id
        stopped += end == "stop"
    assert stopped >= len(journals) and exact >= len(turns) // 2


def test_a_reply_that_the_loop_would_cut_is_refused(tokenizer: PreTrainedTokenizerBase):
    data = rows.encode(tiny.turns(4), tokenizer, 4096)
    longest = max(row.target_tokens for row in data.kept)
    rows.check_replies(data, longest)
    with pytest.raises(InputError, match=f"max_tokens_per_turn.* to {longest} or more"):
        rows.check_replies(data, longest - 1)
