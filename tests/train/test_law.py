"""The law: the token ids that are trained are the token ids that are served.

Qwen3's real tokenizer and stock template, over recorded runs of every family of the thousand:
what a training row holds is what the chat template gives for the messages in the run's journal,
then the reply as it was said, then the token that the server stops at. Where the tokenizer can't
be fetched, the same is tested with the tiny base's. (The ids that a real vLLM tells are compared
in ``test_sft_rows``.)
"""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from rlm_executor import Message, Trajectory
from rlm_executor.errors import EnvironmentFault
from rlm_executor.files import read_jsonl
from tests.standin import build_tokenizer
from tests.train.qwen3 import real_tokenizer
from train import rows

ROOT = Path(__file__).resolve().parents[2]
THOROUGH, QUICK = (260, 200), (60, 40)  # runs made, and kept at least
THINK = "<think>\nThe lines are short, so I look first.\n</think>\n\n"
pytestmark = [pytest.mark.slow, pytest.mark.real_sandbox]


@dataclass(frozen=True)
class Recorded:
    """A row of the dataset, and the turn of a journal that it was made from."""

    row: dict[str, Any]
    messages: list[Message]
    reply: str
    next_messages: list[Message] | None  # of the turn after it


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory, thorough: bool) -> list[Recorded]:
    """Every row of the dataset that the scripted experts make, as `make data` makes it."""
    run = tmp_path_factory.mktemp("law")
    attempts, runs = THOROUGH if thorough else QUICK
    config = ROOT / "configs" / "data" / "thousand.yaml"
    command = [sys.executable, "-m", "data_gen.generate", "--config", config, "--run", run]
    # Those with few sub-calls, and some with runs below.
    families = "families={ruler: 1, hops: 1, codeqa: 1, pro: 1, straddle: 1, deep: 0.3}"
    changes = ("keep=null", f"tasks={attempts}", "lengths=[1024]", "validation=0", "evaluation=[]")
    changes += (families,)
    overrides = [word for change in changes for word in ("--set", change)]
    subprocess.run([*command, *overrides], cwd=ROOT, check=True, timeout=900)
    folder = run / "data"
    journals = {row["task_id"]: row["journal"] for row in read_jsonl(folder / "attempts.jsonl")}
    found = []
    for row in rows_with_places(folder / "dataset" / "turns.parquet"):
        trajectory = Trajectory.read(folder / "journals" / journals[row["task_id"]])
        if "/" in row["run"]:  # of a run that this run started
            trajectory = trajectory.children[row["run"].partition("/")[2]]
        turns, index = trajectory.turns, row["turn"]
        later = turns[index + 1].messages if index + 1 < len(turns) else None
        found.append(Recorded(row, turns[index].messages, turns[index].reply, later))
    assert len({one.row["task_id"] for one in found}) >= runs
    return found


def rows_with_places(path: Path) -> list[dict[str, Any]]:
    import pyarrow.parquet

    return pyarrow.parquet.read_table(path).to_pylist()


@pytest.fixture(scope="module")
def real_qwen3() -> PreTrainedTokenizerBase:
    try:
        return real_tokenizer()
    except EnvironmentFault as fault:
        pytest.skip(str(fault))


@pytest.fixture(scope="module")
def tiny_qwen3() -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(ROOT / "assets" / "tiny-base")


@pytest.fixture(scope="module")
def stand_in(tmp_path_factory: pytest.TempPathFactory) -> PreTrainedTokenizerBase:
    folder = tmp_path_factory.mktemp("stand-in")
    build_tokenizer(folder)
    return AutoTokenizer.from_pretrained(folder)


@pytest.fixture(params=["real_qwen3", "tiny_qwen3"])
def student(request: pytest.FixtureRequest) -> PreTrainedTokenizerBase:
    return request.getfixturevalue(request.param)


def test_the_tokenizer_has_the_published_ids(real_qwen3: PreTrainedTokenizerBase):
    assert len(real_qwen3) == 151669
    published = {
        **{"assistant": 77091, "\n\n": 271, "Hello": 9707, " world": 1879},
        **{"<|endoftext|>": 151643, "<|im_start|>": 151644, "<|im_end|>": 151645},
        **{"<tool_call>": 151657, "<think>": 151667, "</think>": 151668},
    }
    for text, token in published.items():
        assert real_qwen3(text)["input_ids"] == [token], text


@pytest.mark.parametrize("thinking", [False, True])
def test_trained_ids_are_served_ids(
    recorded: list[Recorded], student: PreTrainedTokenizerBase, thinking: bool
):
    options = {"enable_thinking": thinking}
    made = [one.row | {"chat_template_kwargs": options} for one in recorded]
    data = rows.encode(made, student, 10**6)
    assert len(data.kept) == len(recorded)
    stop, line_end, start = (
        ids_of(text, student)[0] for text in ("<|im_end|>", "\n", "<|im_start|>")
    )
    followed = 0
    for one, row in zip(recorded, data.kept, strict=True):
        reply = [*ids_of(one.reply, student), stop]
        served = student.apply_chat_template(
            one.messages, add_generation_prompt=True, return_dict=False, **options
        )
        assert row.input_ids == [*served, *reply]
        assert row.labels == [rows.IGNORED] * len(served) + reply
        if one.next_messages is None:
            continue
        # What was sampled is read again as it is in the next turn; the line end is new there.
        after = student.apply_chat_template(
            one.next_messages, add_generation_prompt=True, return_dict=False, **options
        )
        before = student.apply_chat_template(one.messages, return_dict=False)
        place = len(before) + len(ids_of("<|im_start|>assistant\n", student))
        assert after[: len(before)] == before
        assert after[place : place + len(reply) + 2] == [*reply, line_end, start]
        followed += 1
    assert followed >= QUICK[1]  # next turns that were compared


def test_a_row_is_the_end_of_a_conversation_as_the_template_writes_it(
    recorded: list[Recorded], student: PreTrainedTokenizerBase
):
    """Without thinking; Qwen3 shows the last turn with an empty block, which is prompt then."""
    data = rows.encode([one.row for one in recorded], student, 10**6)
    for one, row in zip(recorded, data.kept, strict=True):
        whole = [*one.messages, {"role": "assistant", "content": one.reply}]
        ids = student.apply_chat_template(whole, return_dict=False)
        assert [*row.input_ids, *ids_of("\n", student)] == ids


# For the tiny base <think> is a control token, which a server leaves out of its text.
@pytest.mark.parametrize("student", ["real_qwen3", "stand_in"], indirect=True)
def test_thinking_is_trained_where_it_was_said_and_gone_from_history(
    recorded: list[Recorded], student: PreTrainedTokenizerBase
):
    """A model with thinking on: each reply holds its block, as vLLM sends it without a parser."""
    options = {"enable_thinking": True}
    plain = [one.row | {"chat_template_kwargs": options} for one in recorded]
    thoughtful = [
        row
        | {"prompt": with_thoughts(row["prompt"]), "completion": with_thoughts(row["completion"])}
        for row in plain
    ]
    opens = ids_of("<think>", student)[0]
    pairs = zip(
        rows.encode(plain, student, 10**6).kept,
        rows.encode(thoughtful, student, 10**6).kept,
        thoughtful,
        strict=True,
    )
    for without, row, turn in pairs:
        prompt = row.input_ids[: row.labels.count(rows.IGNORED)]
        served = student.apply_chat_template(
            turn["prompt"], add_generation_prompt=True, return_dict=False, **options
        )
        assert prompt == served == without.input_ids[: without.labels.count(rows.IGNORED)]
        assert opens not in prompt
        text = turn["completion"][0]["content"]
        assert row.labels[len(prompt) :] == ids_of(text + "<|im_end|>", student)
        assert row.labels[len(prompt)] == opens


def with_thoughts(messages: list[Message]) -> list[Message]:
    """The messages, in which every reply begins with a think block."""
    return [
        message | {"content": THINK + message["content"]}
        if message["role"] == "assistant"
        else message
        for message in messages
    ]


def ids_of(text: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    return tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids
