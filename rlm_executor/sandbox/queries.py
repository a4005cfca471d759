"""What code may call besides Python: language models, and windows of a text.

Standard library only; the channel does the asking. A failed call is an exception that is named
like the host's error, never a text that looks like a reply.
"""

from __future__ import annotations

import os

from rlm_executor.sandbox import frames
from rlm_executor.sandbox.channel import Channel

_MAX_CALL_BYTES = frames.LIMITS[frames.CALL] - (1 << 20)


class LMError(RuntimeError):
    """A sub-call failed. Its subclasses are named like the host's error types."""


class BatchError(LMError):
    """Some calls of a batch failed; ``results`` holds the replies, None where there is none."""

    results: list[str | None]


LMError.__module__ = BatchError.__module__ = "builtins"  # tracebacks then show the bare name
_ERROR_TYPES: dict[str, type[LMError]] = {"LMError": LMError}


def _error_type(name: str) -> type[LMError]:
    if name not in _ERROR_TYPES:
        _ERROR_TYPES[name] = type(name, (LMError,), {"__module__": "builtins"})
    return _ERROR_TYPES[name]


class Queries:
    """``llm_query`` and its kin, for the threads of one session."""

    def __init__(self, channel: Channel) -> None:
        self._channel, self._pid = channel, os.getpid()

    def llm_query(self, prompt: str, model: str | None = None) -> str:
        """Ask a language model; returns its reply."""
        return self._one("l", "llm_query", prompt, model)

    def llm_query_batched(self, prompts: list[str], model: str | None = None) -> list[str]:
        """Ask for many prompts at once; returns the replies in the same order."""
        return self._many("l", "llm_query", prompts, model)

    def rlm_query(self, prompt: str, model: str | None = None) -> str:
        """Ask a recursive language model: the prompt is its context, in a REPL of its own."""
        return self._one("r", "rlm_query", prompt, model)

    def rlm_query_batched(self, prompts: list[str], model: str | None = None) -> list[str]:
        """Ask many of them at once; returns the replies in the same order."""
        return self._many("r", "rlm_query", prompts, model)

    def rlm_query_over(
        self, prompt: str, context: str | None = None, model: str | None = None
    ) -> str:
        """Ask a recursive language model a question about a text of its own."""
        if context is None:
            return self.rlm_query(prompt, model)
        if not isinstance(context, str):
            raise TypeError(f"context must be a str, not {type(context).__name__}")
        return self._one("c", "rlm_query", prompt, model, context)

    def _one(self, kind: str, name: str, prompt: str, model: str | None, *more: str) -> str:
        if not isinstance(prompt, str):
            raise TypeError(f"{name} takes one str, not {type(prompt).__name__}")
        failed, text = self._ask(kind, model, [prompt, *more])
        if failed:
            raise _error_type(failed)(text)
        return text

    def _many(self, kind: str, name: str, prompts: list[str], model: str | None) -> list[str]:
        if isinstance(prompts, str):
            raise TypeError(f"{name}_batched takes a list of str; for one prompt use {name}")
        prompts = list(prompts)
        for prompt in prompts:
            if not isinstance(prompt, str):
                raise TypeError(f"prompts must be str, one is {type(prompt).__name__}")
        if not prompts:
            return []
        fields = self._ask_all(kind, model, prompts)
        kinds, texts = fields[::2], fields[1::2]
        failed = [index for index, kind in enumerate(kinds) if kind]
        if not failed:
            return texts
        kind, text = kinds[failed[0]], texts[failed[0]]
        if len(failed) == len(kinds) and len({*kinds}) == 1:
            raise _error_type(kind)(text)
        error = BatchError(
            f"{len(failed)} of {len(kinds)} calls failed, the first at index {failed[0]}: "
            f"{kind}: {text} (this exception's .results has the other replies)"
        )
        error.results = [None if bad else text for bad, text in zip(kinds, texts, strict=True)]
        raise error

    def _ask_all(self, kind: str, model: str | None, prompts: list[str]) -> list[str]:
        """Distinct prompts once, in as many frames as they need."""
        replies: dict[str, tuple[str, str]] = {}
        distinct = list(dict.fromkeys(prompts))
        while distinct:
            size = many = 0
            for prompt in distinct[: frames.MAX_FIELDS - 2]:
                size += 4 * len(prompt) + 8  # at most
                if size > _MAX_CALL_BYTES and many:
                    break
                many += 1
            told = self._ask(kind, model, distinct[:many])
            replies |= zip(distinct[:many], zip(told[::2], told[1::2], strict=True), strict=True)
            distinct = distinct[many:]
        return [field for prompt in prompts for field in replies[prompt]]

    def _ask(self, kind: str, model: str | None, texts: list[str]) -> list[str]:
        if os.getpid() != self._pid:
            raise RuntimeError("sub-calls can only be made from the REPL's own process")
        if model is not None and not isinstance(model, str):
            raise TypeError(f"model must be a str, not {type(model).__name__}")
        if sum(4 * len(text) + 8 for text in texts) > _MAX_CALL_BYTES and len(texts) == 1:
            raise ValueError(f"a prompt of {len(texts[0])} characters is too long to send")
        return self._channel.call(frames.CALL, [kind, model or "", *texts])


def chunks(text: str, size: int, overlap: int = 0) -> list[str]:
    """Windows of ``size`` characters, each beginning ``overlap`` before the end of the last."""
    if not 0 <= overlap < size:
        raise ValueError("overlap must be at least 0 and smaller than size")
    return [text[at : at + size] for at in range(0, max(1, len(text) - overlap), size - overlap)]
