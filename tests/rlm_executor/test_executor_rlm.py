"""The loop, with scripted models and the real REPL: every way that a run can go and end."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path
from typing import Any

import pytest

from rlm_executor import (
    RLM,
    Completion,
    Limits,
    Message,
    RLMCard,
    Sampling,
    ScriptedLM,
    Trajectory,
    Usage,
)
from rlm_executor.errors import (
    InputError,
    LMError,
    PromptTooLong,
    RequestRefused,
    SandboxError,
    ServerUnavailable,
)
from rlm_executor.sandbox import pool
from tests.rlm_executor.scripted import Recorder, block, card, counted, echoes, finish, says

pytestmark = pytest.mark.real_sandbox


class Hangs:
    """Never answers; says how often it was cancelled."""

    model = "hangs"

    def __init__(self) -> None:
        self.asked = self.cancelled = 0

    async def chat(
        self, messages: list[Message], *, max_tokens: int, sampling: Sampling
    ) -> Completion:
        self.asked += 1
        try:
            await asyncio.sleep(1000)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        raise AssertionError

    async def aclose(self) -> None:
        pass


# -- answers ----------------------------------------------------------------------------------


async def test_an_answer_ends_the_run_with_its_costs() -> None:
    root = says(block("r = llm_query_batched(['a', 'b', 'a'])"), finish("r"))
    result = await RLM(root, echoes(), card()).run("Q?", "text")
    assert (result.answer, result.stop_reason, result.answer_source) == (
        "A\nB\nA",
        "answered",
        "answer",
    )
    assert (result.turns, result.error_cells, result.root.calls) == (2, 0, 2)
    assert result.sub == Usage(2, 2, calls=2)  # identical prompts of a batch are sent once
    assert result.journal is None


def test_the_sync_wrapper_takes_text_or_a_path(tmp_path: Path) -> None:
    path = tmp_path / "book.txt"
    path.write_text("in the file")
    for context, text in (("as text", "as text"), (path, "in the file")):
        result = RLM(says(finish("context")), echoes(), card()).complete("Q?", context)
        assert result.answer == text


async def test_a_huge_answer_comes_back_whole(tmp_path: Path) -> None:
    rlm = RLM(says(finish("context * 3")), echoes(), card(), journal=tmp_path / "j.jsonl")
    result = await rlm.run("Q?", "x" * 1_000_000)
    assert len(result.answer) == 3_000_000
    end = Trajectory.read(tmp_path / "j.jsonl").end
    assert end is not None and len(end["answer"]) == 3_000_000


async def test_blocks_after_an_error_or_the_answer_are_not_run(tmp_path: Path) -> None:
    last = block("answer['content'] = 'late'")
    root = says(block("1 / 0") + "\n" + finish("'early'"), finish("'right'") + "\n" + last)
    result = await RLM(root, echoes(), card(), journal=tmp_path / "j.jsonl").run("Q?", "text")
    assert (result.answer, result.error_cells) == ("right", 1)
    assert len(Trajectory.read(tmp_path / "j.jsonl").cells) == 2


async def test_a_ready_answer_of_a_failed_cell_is_not_taken() -> None:
    root = says(block("answer = {'content': 'x', 'ready': True}\n1 / 0"), finish("'y'"))
    result = await RLM(root, echoes(), card()).run("Q?", "text")
    assert result.answer == "y"


async def test_the_prelude_stands_between_the_system_message_and_the_question() -> None:
    prelude: list[Message] = [
        {"role": "user", "content": "example"},
        {"role": "assistant", "content": "done so"},
    ]
    root = Recorder(says(finish("1")))
    await RLM(root, echoes(), card(), prelude=prelude).run("Q?", "text")
    assert [m["role"] for m in root.asked[0]] == ["system", "user", "assistant", "user"]
    assert root.asked[0][1:3] == prelude


# -- limits -----------------------------------------------------------------------------------


async def test_what_is_known_at_a_limit_is_kept() -> None:
    root = says(block("answer['content'] = 'so far'"), "I would say: more.")
    result = await RLM(root, echoes(), card(), limits=Limits(max_turns=1)).run("Q?", "text")
    assert (result.answer, result.stop_reason, result.answer_source) == (
        "so far",
        "max_turns",
        "variable",
    )
    assert result.turns == 2


async def test_a_landing_that_says_nothing_gives_nothing() -> None:
    root = says(block("x = 1"), block("y = 2"))
    result = await RLM(root, echoes(), card(max_turns=1)).run("Q?", "text")
    assert (result.answer, result.answer_source) == ("", "none")


async def test_a_landing_that_fails_keeps_the_first_reason() -> None:
    root = says(block("answer['content'] = 'so far'"), RequestRefused("no"))
    result = await RLM(root, echoes(), card(max_turns=1)).run("Q?", "text")
    assert (result.answer, result.stop_reason, result.answer_source) == (
        "so far",
        "max_turns",
        "variable",
    )


async def test_a_batch_beyond_the_budget_is_refused_whole() -> None:
    sub = Recorder(echoes())
    root = says(block("llm_query_batched(list('abcd'))"), "nothing")
    result = await RLM(root, sub, card(max_calls=3)).run("Q?", "text")
    assert (result.stop_reason, result.sub.calls, len(sub.asked)) == ("max_calls", 0, 0)


async def test_an_answer_counts_though_the_calls_ran_out() -> None:
    code = "try:\n    llm_query('a')\nexcept RuntimeError as e:\n    " + (
        "answer.update(content=type(e).__name__, ready=True)"
    )
    result = await RLM(says(block(code)), echoes(), card(max_calls=0)).run("Q?", "text")
    assert (result.answer, result.stop_reason) == ("BudgetExhausted", "answered")


async def test_failed_calls_are_given_back_to_the_budget() -> None:
    tries: list[str] = []

    def leaf(messages: list[Message]) -> str:
        tries.append(messages[0]["content"])
        if len(tries) < 3:
            raise ServerUnavailable("away")
        return "here"

    code = "for _ in range(3):\n    try:\n        r = llm_query('a')\n    except Exception: pass"
    root = says(block(code), finish("r"))
    result = await RLM(root, ScriptedLM(leaf), card(max_calls=1)).run("Q?", "text")
    assert (result.answer, result.stop_reason) == ("here", "answered")


async def test_time_ends_a_root_that_does_not_answer() -> None:
    root, started = Hangs(), time.monotonic()
    rlm = RLM(root, echoes(), card(max_seconds=0.5))
    landing = asyncio.create_task(rlm.run("Q?", "text"))
    while root.asked < 2:  # the second one is the landing turn, which has its own time
        await asyncio.sleep(0.02)
    assert time.monotonic() - started < 60
    landing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await landing


async def test_time_ends_a_cell_that_waits_for_sub_calls() -> None:
    sub = Hangs()
    root = says(block("n = 4\nllm_query_batched(['a', 'b'])"), finish("n"))
    result = await RLM(root, sub, card(max_seconds=2)).run("Q?", "text")
    assert (result.answer, result.stop_reason, result.answer_source) == ("4", "timeout", "landing")
    assert (sub.asked, sub.cancelled) == (2, 2)


async def test_a_full_window_lands_without_the_turns() -> None:
    root = Recorder(says(counted(block("print('y' * 3000)"), 800, 10), "five"))
    harness = card(max_tokens_per_turn=300).model_copy(update={"root_window": 1500})
    result = await RLM(root, echoes(), harness).run("Q?", "text")
    assert (result.answer, result.stop_reason) == ("five", "root_window")
    assert len(root.asked[1]) == 2  # system and question; the outputs are gone
    assert root.max_tokens == [300, 300]


async def test_a_server_that_finds_the_prompt_too_long_is_a_full_window() -> None:
    root = says(block("x = 1"), PromptTooLong("m", 5000, 4096), "five")
    result = await RLM(root, echoes(), card()).run("Q?", "text")
    assert (result.answer, result.stop_reason) == ("five", "root_window")


async def test_a_reply_never_asks_for_more_than_the_window_has() -> None:
    root = Recorder(says(counted(block("x = 1"), 3500, 50), finish("x")))
    harness = card(max_tokens_per_turn=2000).model_copy(update={"root_window": 4096})
    await RLM(root, echoes(), harness).run("Q?", "text")
    assert root.max_tokens[0] == 2000
    assert 256 <= root.max_tokens[1] < 4096 - 3550


# -- faults -----------------------------------------------------------------------------------


async def test_a_root_that_fails_ends_the_run_with_what_is_known(tmp_path: Path) -> None:
    root = says(block("answer['content'] = 'so far'"), ServerUnavailable("m: HTTP 503"))
    path = tmp_path / "j.jsonl"
    result = await RLM(root, echoes(), card(), journal=path).run("Q?", "text")
    assert (result.answer, result.stop_reason, result.answer_source) == (
        "so far",
        "root_error",
        "variable",
    )
    failed = Trajectory.read(path).turn_rows[-1]
    assert (failed["error"], failed["message"]) == ("ServerUnavailable", "m: HTTP 503")


async def test_a_fault_of_ours_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(*_: Any, **__: Any) -> Completion:
        raise ZeroDivisionError("ours")

    root, sub = says(block("llm_query('x')")), echoes()
    monkeypatch.setattr(sub, "chat", broken)
    with pytest.raises(ZeroDivisionError, match="ours"):
        await RLM(root, sub, card()).run("Q?", "text")


async def test_a_repl_that_cannot_start_is_one_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool.Pool, "_pools", {})
    monkeypatch.setattr(pool, "PYTHON", "/bin/false")
    with pytest.raises(SandboxError, match="no REPL process can be started"):
        await RLM(says(), echoes(), card()).run("Q?", "text")


async def test_cancelling_ends_the_worker_and_the_calls(tmp_path: Path) -> None:
    sub, path = Hangs(), tmp_path / "j.jsonl"
    root = says(block("llm_query('x')"))
    run = asyncio.create_task(RLM(root, sub, card(), journal=path).run("Q?", "text"))
    while not sub.asked:
        await asyncio.sleep(0.01)
    watched = pool.watch
    assert len(watched.taken()) == 1
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run
    assert sub.cancelled == 1
    assert not watched.taken()
    end = Trajectory.read(path).end
    assert end is not None and end["stop_reason"] == "cancelled"


async def test_a_killed_cell_costs_neither_variables_nor_calls() -> None:
    sub = echoes()
    root = says(
        block("answer['content'] = 'known'\nn = llm_query('once')"),
        block("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)"),
        block("print(n)"),
        "no more",
    )
    result = await RLM(root, sub, card(max_turns=3)).run("Q?", "text")
    assert (result.error_cells, result.stop_reason) == (1, "max_turns")
    assert (result.answer, result.answer_source) == ("known", "variable")
    assert result.sub.calls == 1


async def test_many_runs_at_once_do_not_leak(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))

    async def one(index: int) -> str:
        root = says(block(f"x = context * {index}"), finish("len(x)"))
        journal = tmp_path / f"{index}.jsonl"
        return (await RLM(root, echoes(), card(), journal=journal).run("Q?", "ab")).answer

    answers = await asyncio.gather(*(one(index) for index in range(30)))
    assert answers == [str(2 * index) for index in range(30)]
    await asyncio.sleep(0)
    assert len(os.listdir("/proc/self/fd")) <= before + 4  # the zygote's socket among them


# -- events and the card ----------------------------------------------------------------------


async def test_events_are_told_as_they_are_recorded() -> None:
    events: list[dict[str, Any]] = []
    root = says(block("llm_query('a')"), finish("1"))
    rlm = RLM(root, echoes(), card(), task={"id": "t1"}, on_event=events.append)
    await rlm.run("Q?", "text")
    kinds = [event["type"] for event in events]
    assert kinds == ["run", "turn", "call", "cell", "turn", "cell", "end"]
    assert events[0]["task"] == {"id": "t1"}
    assert events[0]["context"]["chars"] == 4


async def test_the_cards_sampling_and_limits_reach_the_models() -> None:
    seen: list[tuple[int, Sampling]] = []

    class Watched(ScriptedLM):
        async def chat(
            self, messages: list[Message], *, max_tokens: int, sampling: Sampling
        ) -> Completion:
            seen.append((max_tokens, sampling))
            return await super().chat(messages, max_tokens=max_tokens, sampling=sampling)

    harness = RLMCard(
        sampling=Sampling(temperature=0.3),
        sub_sampling=Sampling(temperature=0),
        limits=Limits(max_tokens_per_turn=111, sub_max_tokens=222),
    )
    replies = iter([block("llm_query('a')"), finish("1")])
    rlm = RLM(Watched(lambda _: next(replies)), Watched(lambda _: "x"), harness)
    await rlm.run("Q?", "text")
    assert seen[0] == (111, Sampling(temperature=0.3))
    assert seen[1] == (222, Sampling(temperature=0))


def test_a_card_survives_its_file(tmp_path: Path) -> None:
    saved = RLMCard(dialect="answer-compact", limits=Limits(max_turns=7), sub_model="self")
    assert saved.save(tmp_path) == tmp_path / "rlm.json"
    assert RLMCard.load(tmp_path) == RLMCard.load(tmp_path / "rlm.json") == saved
    assert saved.dialect.system in (tmp_path / "rlm.json").read_text().encode().decode(
        "unicode_escape"
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}x", "is not an RLM card"),
        ('{"dialect": "nope"}', "unknown dialect 'nope'; known: answer, answer-compact"),
        ('{"limits": {"max_turn": 3}}', "limits.max_turn"),
        ('{"limits": {"max_turns": 0}}', "limits.max_turns"),
    ],
)
def test_a_bad_card_is_one_clear_error(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "rlm.json").write_text(text)
    with pytest.raises(InputError, match=message):
        RLMCard.load(tmp_path)
    with pytest.raises(InputError, match="no RLM card at"):
        RLMCard.load(tmp_path / "nowhere")


def test_every_kind_of_lm_error_is_one() -> None:
    assert issubclass(PromptTooLong, LMError)
