"""Journals: what a run leaves, read back as training turns, and replayed without any model."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from rlm_executor import (
    RLM,
    Completion,
    Message,
    RLMCard,
    RLMResult,
    Sampling,
    ScriptedLM,
    Trajectory,
    Usage,
    replay,
    replay_sync,
    resume,
)
from rlm_executor.errors import InputError, ReplayDiverged, ServerUnavailable
from tests.rlm_executor.scripted import Recorder, block, card, counted, echoes, finish, says

pytestmark = pytest.mark.real_sandbox


async def record(
    path: Path, *replies: str | Completion | Exception, sub: Any = None, harness: Any = None
) -> tuple[RLMResult, Recorder]:
    root = Recorder(says(*replies))
    rlm = RLM(root, sub or echoes(), harness or card(), journal=path)
    return await rlm.run("Q?", "some text\n"), root


async def test_turns_are_what_the_root_was_sent_and_said(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    replies = [block("print(1)"), block("1 / 0"), "no code", finish("2")]
    _, root = await record(path, *replies)
    turns = Trajectory.read(path).turns
    assert [turn.messages for turn in turns] == root.asked
    assert [turn.reply for turn in turns] == replies
    assert [turn.error for turn in turns] == [False, True, True, False]


async def test_token_ids_are_kept_as_the_server_gave_them(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    ids = [((1, 2, 3), (4, 5)), ((1, 2, 3, 4, 5, 6), (7,)), ((1, 2, 9), None)]
    codes = [block("x = 1"), block("y = 1"), finish("1")]
    replies = [
        Completion(code, Usage(1, 1, calls=1), prompt_token_ids=prompt, token_ids=reply)
        for code, (prompt, reply) in zip(codes, ids, strict=True)
    ]
    await record(path, *replies)
    turns = Trajectory.read(path).turns
    assert [(turn.prompt_token_ids, turn.token_ids) for turn in turns] == ids
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    deltas = [row["prompt_token_ids"] for row in rows if row["type"] == "turn"]
    assert deltas[1] == {"keep": 5, "add": [6]}


async def test_a_journal_grows_with_the_turns_and_not_with_their_square(tmp_path: Path) -> None:
    sizes = []
    for turns in (10, 20):
        path = tmp_path / f"{turns}.jsonl"
        loops = [block(f"print('{'y' * 500}', {n})") for n in range(turns)]
        await record(path, *loops, finish("1"), harness=card(max_turns=30))
        sizes.append(path.stat().st_size)
    first = (tmp_path / "10.jsonl").read_text().splitlines()[0]
    assert sizes[1] - len(first) < 2.2 * (sizes[0] - len(first))


async def test_the_context_and_long_prompts_are_not_in_it(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    sub = ScriptedLM(lambda messages: str(len(messages[0]["content"])))
    rlm = RLM(says(block("r = llm_query(context)"), finish("r")), sub, card(), journal=path)
    result = await rlm.run("Q?", "z" * 300_000)
    assert result.answer == "300000"
    assert path.stat().st_size < 20_000
    [call] = Trajectory.read(path).calls
    assert (call["prompt_chars"], len(call["prompt"]), call["reply"]) == (300_000, 4000, "300000")


async def test_a_torn_journal_is_read_to_its_last_whole_line(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    await record(path, block("x = 1"), finish("x"))
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])
    trajectory = Trajectory.read(path)
    assert trajectory.end is None
    assert len(trajectory.turns) == 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is not a journal"),
        ('{"type":"turn"}\n', "is not a journal"),
        ('{"type":"run"}\nxx\n{"type":"end"}\n', "damaged"),
        ('{"type":"run"}\n[]\n', "damaged"),
    ],
)
def test_what_is_no_journal_is_one_clear_error(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "j.jsonl"
    path.write_text(content)
    with pytest.raises(InputError, match=message):
        Trajectory.read(path)
    with pytest.raises(InputError, match="no journal at"):
        Trajectory.read(tmp_path / "nowhere")


async def test_a_new_run_replaces_what_an_interrupted_one_left(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    await record(path, block("x = 1"), finish("x"))
    await record(path, finish("2"))
    assert len(Trajectory.read(path).turns) == 1


# -- replay -----------------------------------------------------------------------------------


def leaf(messages: list[Message]) -> str | Completion:
    prompt = messages[0]["content"]
    if prompt == "away":
        raise ServerUnavailable("base: HTTP 503: overloaded")
    if prompt == "cut":
        return Completion("half", finish_reason="length")
    return "" if prompt == "mute" else prompt.upper()


class Leaf(ScriptedLM):
    async def chat(
        self, messages: list[Message], *, max_tokens: int, sampling: Sampling
    ) -> Completion:
        if messages[0]["content"] == "hang":
            await asyncio.sleep(1000)
        return await super().chat(messages, max_tokens=max_tokens, sampling=sampling)


RUNS: dict[str, tuple[list[str | Completion | Exception], RLMCard]] = {
    "answered": (
        [
            block("import random\nn = random.random()\nprint(n, {'x', 'y', 'z'})"),
            block("r = llm_query_batched(['a', 'b', 'a'])\nprint(r, llm_query('a'))"),
            finish("r"),
        ],
        card(),
    ),
    "errors": (
        [
            *(block(f"llm_query({prompt!r})") for prompt in ("away", "cut", "mute")),
            block("llm_query_batched(['a', 'mute'])"),
            "no code",
            finish("1"),
        ],
        card(),
    ),
    "max_turns": ([block("answer['content'] = 'kept'"), "text"], card(max_turns=1)),
    "max_calls": ([block("x = 1\nllm_query_batched(['a', 'b'])"), "text"], card(max_calls=1)),
    "root_error": ([block("x = 1"), ServerUnavailable("m: HTTP 503")], card()),
    "root_window": (
        [counted(block("print('x' * 4000)"), 700, 20), "text"],
        card(max_tokens_per_turn=300).model_copy(update={"root_window": 1500}),
    ),
    "timeout": ([block("x = 5\nimport time\ntime.sleep(1)"), finish("x")], card(max_seconds=0.8)),
    "waiting": ([block("llm_query('hang')"), "text"], card(max_seconds=1)),
    "died": ([block("import os\nos._exit(1)"), finish("1")], card()),
}


@pytest.mark.parametrize("name", RUNS)
async def test_a_replay_goes_the_same_way_without_a_model(tmp_path: Path, name: str) -> None:
    replies, harness = RUNS[name]
    path = tmp_path / "j.jsonl"
    result, _ = await record(path, *replies, sub=Leaf(leaf, "base"), harness=harness)
    assert result.stop_reason == name or name in ("errors", "died", "waiting")
    again = await replay(path, "some text\n")
    assert again.answer == result.answer
    assert (again.root, again.sub) == (result.root, result.sub)


async def test_a_run_that_now_goes_another_way_says_so(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    await record(path, block("import uuid\nprint(uuid.uuid4())"), finish("1"))
    with pytest.raises(ReplayDiverged, match=r"turn 1: message 3 \(user\) is .*output"):
        await replay(path, "some text\n")
    await record(path, finish("__import__('time').time()"))
    with pytest.raises(ReplayDiverged, match="answer is '"):
        await replay(path, "some text\n")
    await record(path, block("import uuid\nr = llm_query(str(uuid.uuid4()))"), finish("1"))
    with pytest.raises(ReplayDiverged, match="a sub-call that the recorded run never made"):
        await replay(path, "some text\n")


def test_what_cannot_be_replayed_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    RLM(says(finish("1")), echoes(), card(), journal=path).complete("Q?", "text")
    with pytest.raises(InputError, match="another context"):
        replay_sync(path, "other text")
    with pytest.raises(InputError, match="no journal"):
        replay_sync(tmp_path / "none.jsonl", "text")


STATE = (
    "print(sorted(vars()), list(names), list(table.items()), found(), Bird().n, random.random())"
)
STEPS = [
    block(
        "import random\n"
        "names = {'wren', 'heron', 'sparrow', 'crane'}\n"
        "table = {n: 1 for n in names}"
    ),
    block("def found():\n    return llm_query_batched(['a', 'b'])\nx = found()"),
    block("class Bird:\n    n = len(table)\nrandom.random()\ny = rlm_query('who?')"),
    block(STATE),
]


async def test_a_run_killed_at_any_moment_has_the_same_state_at_no_cost(tmp_path: Path) -> None:
    """Every prefix of its journal: replayed without a call, and resumed with the missing ones."""
    deep, path = card(max_turns=9, max_depth=2), tmp_path / "j.jsonl"

    def decide(messages: list[Message]) -> str:
        if "who?" in messages[1]["content"]:
            return finish("'child ' + llm_query('c')")
        return [*STEPS, finish("str(x) + y")][sum(m["role"] == "assistant" for m in messages)]

    root, sub = Recorder(ScriptedLM(decide, "root")), Recorder(echoes())
    whole = await RLM(root, sub, deep, journal=path).run("Q?", "some text\n")
    assert whole.answer == "['A', 'B']child C"
    calls = len(root.asked) + len(sub.asked)
    seen = [m["content"] for m in root.asked[-1] if "sparrow" in m["content"]]
    lines = path.read_bytes().splitlines(keepends=True)
    for cut in range(1, len(lines)):
        part = tmp_path / "part.jsonl"
        part.write_bytes(b"".join(lines[:cut]) + lines[cut][: len(lines[cut]) // 2])
        ended = await replay(part, "some text\n")
        rows = [json.loads(line) for line in lines[:cut]]
        turns = sum(row["type"] == "turn" and "node" not in row for row in rows)
        assert ended.stop_reason == ("answered" if turns > len(STEPS) else "unfinished")
        root.asked.clear(), sub.asked.clear()
        out = tmp_path / "whole.jsonl"
        resumed = await resume(part, "some text\n", root, sub, out=out)
        assert resumed.answer == whole.answer
        known = sum(row["type"] in ("turn", "call") and "child" not in row for row in rows)
        assert len(root.asked) + len(sub.asked) == calls - known
        last = Trajectory.read(out).turns[-1].messages
        assert [m["content"] for m in last if "sparrow" in m["content"]] == seen
        assert (await replay(out, "some text\n")).answer == whole.answer


async def test_resuming_does_not_write_over_what_it_reads(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    await record(path, finish("1"))
    with pytest.raises(InputError, match="write the new one elsewhere"):
        await resume(path, "some text\n", says(finish("1")), echoes(), out=path)


async def test_a_resumed_run_asks_other_models_by_their_names(tmp_path: Path) -> None:
    path, code = tmp_path / "j.jsonl", block("a = llm_query('p', model='other')")
    other = ScriptedLM(lambda _: "the other", "other-1")
    rlm = RLM(says(code, finish("a")), echoes(), card(), journal=path, models={"other": other})
    whole = await rlm.run("Q?", "some text\n")
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:2]))  # before the call
    resumed = await resume(
        path, "some text\n", says(finish("a")), echoes(), models={"other": other}
    )
    assert resumed.answer == whole.answer == "the other"


async def test_a_replay_may_import_what_its_run_might(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    code = finish("str(len(__import__('xml.sax').sax.__name__))")
    rlm = RLM(says(code), echoes(), card(), journal=path, preload=("xml.sax",))
    result = await rlm.run("Q?", "text")
    assert (await replay(path, "text")).answer == result.answer == "7"


async def test_a_loop_of_failing_calls_is_told_why_it_ends(tmp_path: Path) -> None:
    def fails(messages: list[Message]) -> str:
        raise ServerUnavailable("away")

    code = block(
        "for n in range(300):\n    try: llm_query(str(n))\n"
        "    except RuntimeError as e: last = str(e)\nprint(last)"
    )
    root = Recorder(says(code, finish("'x'")))
    await RLM(root, ScriptedLM(fails, "leaf"), card(max_calls=5)).run("Q?", "text")
    assert "more than 110 sub-calls were asked for" in root.asked[1][-1]["content"]
