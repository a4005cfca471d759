"""eval/solvers.py: cutting to the window, and who is to blame for a failure."""

from __future__ import annotations

from pathlib import Path

import pytest

from data_gen.tasks import Window, make_window
from eval.solvers import (
    GAP,
    Direct,
    Floor,
    Metered,
    TokenCounter,
    Watched,
    changed,
    greedy,
    head_and_tail,
)
from rlm_executor import CachedLM, Limits, Sampling, ScriptedLM
from rlm_executor.errors import ConfigError, PromptTooLong, ServerUnavailable
from tests.eval.fakes import server

WORDS = "".join(f"line {index} of the long text\n" for index in range(4000))


@pytest.fixture
def window() -> Window:
    return make_window("niah", 1024, 700_001, 1)


def test_head_and_tail_are_whole_lines_of_both_ends(tmp_path: Path) -> None:
    path = tmp_path / "context.txt"
    path.write_text(WORDS)
    cut = head_and_tail(path, 1000)
    head, tail = cut.split(GAP)
    assert len(cut) <= 1000 + len(GAP) and len(cut) > 900
    assert WORDS.startswith(head + "\n") and WORDS.endswith("\n" + tail)
    assert head_and_tail(path, len(WORDS)) == WORDS


def test_text_without_lines_is_cut_all_the_same(tmp_path: Path) -> None:
    path = tmp_path / "context.txt"
    path.write_text("é" * 50_000)
    head, tail = head_and_tail(path, 1001).split(GAP)
    assert (len(head), len(tail)) == (249, 250)  # no half of a character at either side


@pytest.mark.parametrize("exact", [True, False])
async def test_direct_fills_the_window_and_never_more(
    tmp_path: Path, window: Window, exact: bool
) -> None:
    path = tmp_path / "context.txt"
    path.write_text(WORDS)
    seen: list[str] = []

    def reply(messages: list[dict[str, str]]) -> str:
        seen.append(messages[0]["content"])
        return "4711"

    with server(lambda model, messages: "") as url:
        counter = TokenCounter(url if exact else None, "base")
        direct = Direct(ScriptedLM(reply), counter, window=1024, max_tokens=64)
        outcome = await direct.solve(window, window.tasks[0], path)
    tokens_at = 4 if exact else 2
    assert 0.9 * 960 < len(seen[0]) / tokens_at <= 960
    assert seen[0].endswith(window.tasks[0].question)
    assert outcome.answer == "4711" and outcome.shown_share == pytest.approx(
        (len(seen[0]) - len(window.tasks[0].question) - 2) / len(WORDS)
    )


async def test_a_short_context_is_shown_whole(tmp_path: Path, window: Window) -> None:
    path = tmp_path / "context.txt"
    path.write_text("short")
    direct = Direct(ScriptedLM(lambda m: "x"), TokenCounter(None, "b"), window=900, max_tokens=64)
    assert (await direct.solve(window, window.tasks[0], path)).shown_share == 1


async def test_an_endpoint_without_tokenize_falls_back() -> None:
    with server(lambda model, messages: "") as url:
        counter = TokenCounter(url.replace("/v1", "/elsewhere/v1"), "base")
        # The stand-in answers every path but /tokenize as a chat: there is no count in it.
        assert await counter.count([{"role": "user", "content": "x" * 400}]) == 200 + 32
    assert not counter.exact


async def test_a_dead_server_is_no_zero_tokens() -> None:
    with server(lambda model, messages: "") as url:
        counter = TokenCounter(url, "base")
    with pytest.raises(ServerUnavailable):
        await counter.count([{"role": "user", "content": "x"}])


async def test_watched_remembers_the_servers_faults_only() -> None:
    def failing(error: Exception) -> ScriptedLM:
        def reply(messages: list[dict[str, str]]) -> str:
            raise error

        return ScriptedLM(reply)

    ask = {"max_tokens": 5, "sampling": greedy()}
    for error, blamed in [(ServerUnavailable("down"), True), (PromptTooLong("m", 9, 5), False)]:
        watched = Watched(failing(error))
        with pytest.raises(type(error)):
            await watched.chat([{"role": "user", "content": "x"}], **ask)  # type: ignore[arg-type]
        assert (watched.fault is error) == blamed


async def test_memory_stands_before_the_meter() -> None:
    meter = Metered(ScriptedLM(lambda messages: "ok"))
    shared = CachedLM(meter)
    message = [{"role": "user", "content": "same"}]
    first = await shared.chat(message, max_tokens=5, sampling=greedy())
    again = await shared.chat(message, max_tokens=5, sampling=greedy())
    assert meter.usage.calls == 1
    assert again.usage.prompt_tokens == first.usage.prompt_tokens and again.usage.cached_calls == 1


async def test_the_floor_reads_nothing(window: Window) -> None:
    first = await Floor().solve(window, window.tasks[0], Path("/nowhere"))
    assert first == await Floor().solve(window, window.tasks[0], Path("/nowhere"))
    assert first.root.calls == first.sub.calls == 0


def test_greedy_keeps_the_template_arguments() -> None:
    kwargs = {"enable_thinking": False}
    sampling = greedy(Sampling(temperature=0.9, chat_template_kwargs=kwargs))
    assert sampling.temperature == 0 and sampling.chat_template_kwargs == kwargs


def test_limits_are_replaced_by_name() -> None:
    assert changed(Limits(), {"max_turns": 3.0}).max_turns == 3
    with pytest.raises(ConfigError, match="unknown max_trns; known limits: max_turns"):
        changed(Limits(), {"max_trns": 3.0})
    with pytest.raises(ConfigError, match="max_turns: has the value 0.0; input should be greater"):
        changed(Limits(), {"max_turns": 0.0})
