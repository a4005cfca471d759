"""Pure mappings between the OpenAI wire and the loop."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rlm_executor import Limits, RLMCard, RLMResult, Usage, errors
from serve.wire import Refusal, RunRequest, failure, to_refusal, to_response, to_run


def user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


def run(body: dict[str, Any], **more: Any) -> RunRequest:
    return to_run({"model": "rlm", **body, **more}, max_question_chars=100)


def parts(*texts: str) -> list[dict[str, str]]:
    return [{"type": "text", "text": text} for text in texts]


SYSTEM = {"role": "system", "content": "be brief"}
CASES = {
    "last message": ([user("book"), user("who?")], "book", "who?"),
    "alone": ([user("who?")], "who?", "who?"),
    "system too": ([SYSTEM, user("book"), user("who?")], "be brief\n\nbook", "who?"),
    "parts": ([user(parts("book", "page", "who?"))], "book\n\npage", "who?"),
    "unchanged": ([user(" a\n\n\tb "), user("who?")], " a\n\n\tb ", "who?"),
    "conversation": (
        [user("hi"), {"role": "assistant", "content": "yes"}, user("who?")],
        "[user]\nhi\n\n[assistant]\nyes",
        "who?",
    ),
    "assistant without text": (
        [user("book"), {"role": "assistant", "content": None}, user("who?")],
        "book",
        "who?",
    ),
}


@pytest.mark.parametrize(("messages", "context", "question"), CASES.values(), ids=CASES)
def test_the_rule(messages: list[Any], context: str, question: str) -> None:
    request = run({"messages": messages})
    assert (request.context, request.question, request.ignored) == (context, question, ())


def test_an_extension_overrides_the_rule() -> None:
    messages = [user("book"), user("who?")]
    request = run({"messages": messages}, rlm={"context": "film"})
    assert (request.context, request.question) == ("film", "who?")
    assert request.ignored == ("messages before the last",)
    request = run({"messages": messages}, rlm={"question": "when?"})
    assert (request.context, request.question) == ("book\n\nwho?", "when?")
    request = run({}, rlm={"context": "film", "question": "when?"})
    assert (request.context, request.question, request.ignored) == ("film", "when?", ())
    request = run({"messages": messages}, rlm={"context": None, "limits": None})
    assert (request.context, request.question) == ("book", "who?")


def test_limits_can_only_be_lowered() -> None:
    card = RLMCard(limits=Limits(max_turns=5, max_calls=100))
    request = run({"messages": [user("x")]}, rlm={"limits": {"max_turns": 50, "max_calls": 7}})
    limits = request.card(card).limits
    assert (limits.max_turns, limits.max_calls) == (5, 7)
    assert limits.max_seconds == card.limits.max_seconds


def test_sampling_goes_to_the_root_alone() -> None:
    card = RLMCard()
    changed = run({"messages": [user("x")]}, temperature=0, seed=3).card(card)
    assert (changed.sampling.temperature, changed.sampling.seed) == (0, 3)
    assert changed.sampling.top_p == card.sampling.top_p
    assert changed.sampling.chat_template_kwargs == {"enable_thinking": False}
    assert changed.sub_sampling == card.sub_sampling


def test_what_is_not_used_is_told() -> None:
    request = run({"messages": [user("x")]}, max_tokens=5, user="me", n=1, tools=None)
    assert request.ignored == ("max_tokens", "user")


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"messages": [user("x")], "stream": True}, "stream"),
        ({"messages": [user("x")], "n": 2}, "n"),
        ({"messages": [user("x")], "tools": [{}]}, "tools"),
        ({"messages": [user("x")], "response_format": {"type": "json_object"}}, "response_format"),
        ({}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": "hi"}, "messages"),
        ({"messages": [user("  ")]}, "messages"),
        ({"messages": [user(None)]}, "messages"),
        ({"messages": [user("x" * 101)]}, "messages"),
        ({"messages": [user("x"), {"role": "assistant", "content": "y"}]}, "messages"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0]"),
        ({"messages": ["x"]}, "messages[0]"),
        ({"messages": [user([{"type": "image_url"}])]}, "messages[0]"),
        ({"messages": [user("x")], "temperature": "hot"}, "temperature"),
        ({"messages": [user("x")], "temperature": 3}, "temperature"),
        ({"messages": [user("x")], "top_p": 0}, "top_p"),
        ({"messages": [user("x")], "seed": 1.5}, "seed"),
        ({"messages": [user("x")], "rlm": "x"}, "rlm"),
        ({"messages": [user("x")], "rlm": {"context": 5}}, "rlm.context"),
        ({"messages": [user("x")], "rlm": {"context_file": "/etc/passwd"}}, "rlm.context_file"),
        ({"messages": [user("x")], "rlm": {"limits": []}}, "rlm.limits"),
        ({"messages": [user("x")], "rlm": {"limits": {"max_turns": 0}}}, "rlm.limits.max_turns"),
        ({"messages": [user("x")], "rlm": {"limits": {"depth": 3}}}, "rlm.limits.depth"),
    ],
)
def test_what_is_wrong_is_named(body: dict[str, Any], param: str) -> None:
    with pytest.raises(Refusal) as caught:
        run(body)
    assert caught.value.status == 400
    assert caught.value.body["error"]["param"] == param
    assert set(caught.value.body["error"]) == {"message", "type", "param", "code"}


def test_no_request_can_name_a_file() -> None:
    with pytest.raises(Refusal, match="no request can name a file"):
        run({"messages": [user("x")]}, rlm={"context_file": "/etc/passwd"})


def result(**changed: Any) -> RLMResult:
    fields: dict[str, Any] = {
        "answer": "42",
        "stop_reason": "answered",
        "answer_source": "answer",
        "turns": 3,
        "error_cells": 1,
        "root": Usage(100, 20, calls=3),
        "sub": Usage(1000, 200, calls=10, cached_calls=2),
        "seconds": 1.5,
        "posture": "isolation=sealed",
        "journal": Path("somewhere/on/this/machine.jsonl"),
    }
    return RLMResult(**{**fields, **changed})


def test_a_response_counts_the_whole_tree() -> None:
    request = RunRequest("q", "context", ignored=("user",))
    body = to_response(result(), request, model="rlm", request_id="id", created=7)
    assert (body["id"], body["object"], body["created"]) == ("id", "chat.completion", 7)
    assert body["choices"][0]["message"] == {"role": "assistant", "content": "42"}
    assert body["choices"][0]["finish_reason"] == "stop"
    assert body["usage"] == {
        "prompt_tokens": 1100,
        "completion_tokens": 220,
        "total_tokens": 1320,
    }
    assert body["rlm"]["calls"] == 10 and body["rlm"]["usage"]["sub"]["cached_calls"] == 2
    assert body["rlm"]["stop_reason"] == "answered" and body["rlm"]["turns"] == 3
    assert body["rlm"]["ignored"] == ["user"] and body["rlm"]["context_chars"] == 7
    assert "machine" not in str(body)


@pytest.mark.parametrize("stop", ["max_turns", "max_calls", "timeout", "root_error"])
def test_a_run_cut_short_finishes_by_length(stop: str) -> None:
    body = to_response(
        result(stop_reason=stop), RunRequest("q", ""), model="rlm", request_id="i", created=0
    )
    assert body["choices"][0]["finish_reason"] == "length"


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (errors.InputError("x"), 400),
        (errors.PromptTooLong("m", 9, 8), 400),
        (errors.RequestRefused("x"), 502),
        (errors.ReplyEmpty("x"), 502),
        (errors.ServerUnavailable("x"), 503),
        (errors.SandboxError("x"), 500),
        (errors.ReplayDiverged("x"), 500),
        (errors.ConfigError("a", "b", "c"), 500),
    ],
)
def test_every_error_has_a_status(error: errors.RLMError, status: int) -> None:
    refusal = to_refusal(error)
    assert refusal.status == status
    assert refusal.body["error"]["message"] == str(error)
    assert ("Retry-After" in refusal.headers) == (status == 503)


def test_a_failed_root_is_an_error_only_if_nothing_is_known() -> None:
    nothing = result(answer="", stop_reason="root_error", answer_source="none")
    refusal = failure(nothing, ("ServerUnavailable", "down"))
    assert refusal is not None and refusal.status == 503
    refusal = failure(nothing, None)
    assert refusal is not None and refusal.status == 500
    assert failure(result(stop_reason="root_error"), ("ServerUnavailable", "down")) is None
    assert failure(result(answer="", stop_reason="max_turns"), None) is None
