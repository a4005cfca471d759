"""The OpenAI wire and the loop: pure mappings, request -> run, result -> response, error -> status.

What is context and what is question (``to_run``), the one rule:

1. Messages are read in order, and the text parts of each. The last part of the last message,
   which must be the user's, is the **question**; everything before it is the **context**, joined
   by blank lines, unchanged. Only where an assistant message is among it does each piece begin
   with its role, as ``[user]``.
2. An ``rlm`` object says it outright: ``{"context": "...", "question": "...", "limits":
   {"max_turns": 8, "max_calls": 100, "max_seconds": 60}}``, each of them optional. A context
   given there replaces the earlier messages; a question given there leaves all messages to the
   context. Limits can only lower those of the card. Files can't be named: a client has no say in
   what this machine reads.
3. Where nothing is left for the context (a message alone), the question is the context too.

``temperature``, ``top_p`` and ``seed`` go to the root model. Fields that would change the reply and
that the loop has no meaning for are refused; any other field is listed in ``rlm.ignored``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from rlm_executor import Limits, RLMCard, RLMResult, errors
from rlm_executor.errors import RLMError

Json = dict[str, Any]
ROLES = ("system", "developer", "user", "assistant")
RETRY_AFTER_S = 5  # for a server that is being restarted

# Error class -> status, OpenAI's error type, OpenAI's code. A class stands for its subclasses.
STATUS: dict[type[RLMError], tuple[int, str, str]] = {
    errors.InputError: (400, "invalid_request_error", "invalid_value"),
    errors.PromptTooLong: (400, "invalid_request_error", "context_length_exceeded"),
    errors.ReplyCutOff: (502, "upstream_error", "reply_cut_off"),
    errors.ReplyEmpty: (502, "upstream_error", "reply_empty"),
    errors.RequestRefused: (502, "upstream_error", "request_refused"),
    errors.BudgetExhausted: (400, "invalid_request_error", "budget_exhausted"),
    errors.ServerUnavailable: (503, "upstream_error", "model_unavailable"),
    errors.EnvironmentFault: (503, "server_error", "environment"),
    errors.SandboxError: (500, "server_error", "sandbox"),
    errors.RLMError: (500, "server_error", "internal"),
}


class Refusal(Exception):
    """A request that is answered with an error; carries the whole answer."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        kind: str = "invalid_request_error",
        code: str = "invalid_value",
        retry_after_s: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.body: Json = {
            "error": {"message": message, "type": kind, "param": param, "code": code}
        }
        self.headers = {} if retry_after_s is None else {"Retry-After": str(retry_after_s)}


@dataclass(frozen=True)
class RunRequest:
    """What the loop is to do."""

    question: str
    context: str
    limits: Mapping[str, float] = field(default_factory=dict)
    sampling: Mapping[str, float] = field(default_factory=dict)
    ignored: tuple[str, ...] = ()

    def card(self, card: RLMCard) -> RLMCard:
        """The card with what this request changes of it."""
        lowered: dict[str, Any] = {
            name: min(value, getattr(card.limits, name)) for name, value in self.limits.items()
        }
        changed: dict[str, Any] = dict(self.sampling)
        return card.model_copy(
            update={
                "limits": replace(card.limits, **lowered),
                "sampling": replace(card.sampling, **changed),
            }
        )


def to_run(body: Json, *, max_question_chars: int) -> RunRequest:
    """The run that a chat completion request asks for, by the rule above.

    Raises:
        Refusal: 400, with the field that is wrong.
    """
    known = {"model", "messages", "rlm", "stream", *_SAMPLING, *_UNSUPPORTED}
    ignored = [name for name in body if name not in known]
    if body.get("stream"):
        raise Refusal(
            400,
            "streaming is not available for the recursive loop yet: its answer is complete only at "
            "the end; send stream=false",
            param="stream",
            code="unsupported_value",
        )
    for name, is_plain in _UNSUPPORTED.items():
        if name in body and not is_plain(body[name]):
            raise Refusal(
                400,
                f"{name} has no meaning for the recursive loop; leave it out",
                param=name,
                code="unsupported_parameter",
            )
    extension = _extension(body.get("rlm"))
    pieces = _pieces(body.get("messages"), needed="question" not in extension)
    question, context = extension.get("question"), extension.get("context")
    if question is None:
        question = pieces.pop()[1]
    if context is None:
        context = _join(pieces)
    elif pieces:
        ignored.append("messages before the last" if "question" not in extension else "messages")
    if not question.strip():
        raise Refusal(400, "the question is empty: the last message has no text", param="messages")
    context = context if context.strip() else question
    if len(question) > max_question_chars:
        raise Refusal(
            400,
            f"the question has {len(question)} characters and may have {max_question_chars}: it "
            "goes into the model's window. Put the long text into an earlier message (or text "
            "part), or into rlm.context, and only the question last",
            param="messages",
            code="question_too_long",
        )
    return RunRequest(
        question, context, extension.get("limits", {}), _sampling(body), tuple(ignored)
    )


def to_response(
    result: RLMResult, request: RunRequest, *, model: str, request_id: str, created: int
) -> Json:
    """The chat completion of a finished run; ``usage`` counts the whole tree of calls."""
    root, sub = result.root, result.sub
    total = root + sub
    return {
        "id": request_id,
        "object": "chat.completion",
        "created": created,
        "model": model,
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": result.answer},
                # A run that a limit ended is to a client what a reply cut off by one is.
                "finish_reason": "stop" if result.stop_reason == "answered" else "length",
                "logprobs": None,
            }
        ],
        "usage": {
            "prompt_tokens": total.prompt_tokens,
            "completion_tokens": total.completion_tokens,
            "total_tokens": total.prompt_tokens + total.completion_tokens,
        },
        "rlm": {
            "stop_reason": result.stop_reason,
            "answer_source": result.answer_source,
            "turns": result.turns,
            "error_cells": result.error_cells,
            "calls": sub.calls,
            "seconds": result.seconds,
            "usage": {"root": asdict(root), "sub": asdict(sub)},
            "context_chars": len(request.context),
            "ignored": list(request.ignored),
        },
    }


def to_refusal(error: RLMError) -> Refusal:
    """An error's status and body, by ``STATUS``."""
    return _refusal(type(error), str(error))


def failure(result: RLMResult, last_error: tuple[str, str] | None) -> Refusal | None:
    """The refusal for a run that has nothing to show because its root model failed, if it did.

    ``last_error`` is the type name and message of the root's last failed turn.
    """
    if result.answer or result.stop_reason not in ("root_error", "root_window"):
        return None
    name, message = last_error or ("LMError", "the root model failed")
    return _refusal(getattr(errors, name, errors.RLMError), message)


def _refusal(kind: type[RLMError], message: str) -> Refusal:
    known = next(parent for parent in kind.__mro__ if parent in STATUS)
    status, openai_type, code = STATUS[known]
    retry_after_s = RETRY_AFTER_S if status == 503 else None
    return Refusal(status, message, kind=openai_type, code=code, retry_after_s=retry_after_s)


def _is_absent(value: Any) -> bool:
    return value in (None, False, [], {})


_UNSUPPORTED: dict[str, Callable[[Any], bool]] = {
    "n": lambda value: value in (None, 1),
    "tools": _is_absent,
    "functions": _is_absent,
    "tool_choice": lambda value: value in (None, "none", "auto"),
    "logprobs": _is_absent,
    "stop": _is_absent,
    "response_format": lambda value: value is None or value == {"type": "text"},
}


def _number(low: float, high: float, *, whole: bool = False) -> Callable[[Any], bool]:
    kinds = int if whole else (int, float)
    return lambda value: (
        isinstance(value, kinds) and not isinstance(value, bool) and low <= value <= high
    )


_SAMPLING = {
    "temperature": _number(0, 2),
    "top_p": _number(1e-6, 1),
    "seed": _number(-(2**63), 2**63 - 1, whole=True),
}
_LIMITS = {
    "max_turns": _number(1, 10**6, whole=True),
    "max_calls": _number(0, 10**9, whole=True),
    "max_seconds": _number(0.001, 10**9),
}
assert set(_LIMITS) <= set(Limits.__dataclass_fields__)


def _sampling(body: Json) -> dict[str, float]:
    given = {name: body[name] for name in _SAMPLING if body.get(name) is not None}
    for name, value in given.items():
        if not _SAMPLING[name](value):
            raise Refusal(400, f"{name} has the unusable value {value!r}", param=name)
    return given


def _extension(given: Any) -> Json:
    """The ``rlm`` object, checked; without what is null in it."""
    if given is None:
        return {}
    if not isinstance(given, dict):
        raise Refusal(400, "rlm must be an object", param="rlm")
    found = {name: value for name, value in given.items() if value is not None}
    for name in found.keys() - {"context", "question", "limits"}:
        why = " (no request can name a file of this machine)" if "file" in name else ""
        raise Refusal(
            400,
            f"rlm.{name} is not known{why}; there are context, question and limits",
            param=f"rlm.{name}",
            code="unknown_parameter",
        )
    for name in ("context", "question"):
        if not isinstance(found.get(name, ""), str):
            raise Refusal(400, f"rlm.{name} must be a string", param=f"rlm.{name}")
    limits = found.get("limits", {})
    if not isinstance(limits, dict):
        raise Refusal(400, "rlm.limits must be an object", param="rlm.limits")
    for name, value in limits.items():
        if name not in _LIMITS or not _LIMITS[name](value):
            raise Refusal(
                400,
                f"rlm.limits.{name}={value!r} is not usable; positive numbers for "
                f"{', '.join(_LIMITS)} are",
                param=f"rlm.limits.{name}",
            )
    return found


def _pieces(messages: Any, *, needed: bool) -> list[tuple[str, str]]:
    """(role, text) of every text part, in order; the last one is the user's if ``needed``."""
    if messages is None and not needed:
        return []
    if not isinstance(messages, list) or not messages:
        raise Refusal(400, "messages must be a list with at least one message", param="messages")
    pieces: list[tuple[str, str]] = []
    for index, message in enumerate(messages):
        where = f"messages[{index}]"
        role = message.get("role") if isinstance(message, dict) else None
        if role not in ROLES:
            raise Refusal(
                400, f"{where} has the role {role!r}; known: {', '.join(ROLES)}", param=where
            )
        pieces += [(role, text) for text in _texts(message.get("content"), where)]
    if needed and (messages[-1]["role"] != "user" or not _texts(messages[-1]["content"], "")):
        raise Refusal(
            400, "the last message must be the user's: it is the question", param="messages"
        )
    return pieces


def _texts(content: Any, where: str) -> list[str]:
    if isinstance(content, str):
        return [content]
    if content is None:
        return []
    parts = content if isinstance(content, list) else [content]
    for part in parts:
        is_text = isinstance(part, dict) and part.get("type") == "text"
        if not is_text or not isinstance(part.get("text"), str):
            raise Refusal(400, f"{where}: only text content can be read", param=where)
    return [part["text"] for part in parts]


def _join(pieces: list[tuple[str, str]]) -> str:
    if any(role == "assistant" for role, _ in pieces):
        return "\n\n".join(f"[{role}]\n{text}" for role, text in pieces)
    return "\n\n".join(text for _, text in pieces)
