"""How full the root's window is: what the server has counted, and an estimate of the rest."""

from __future__ import annotations

from collections.abc import Sequence

from rlm_executor.errors import PromptTooLong
from rlm_executor.lm import Message, Usage

_BYTES_PER_TOKEN = 3.0  # until the first reply tells; on the short side for English and code
_CAUTION = 0.8  # of the measured bytes per token: outputs full of digits are denser than prose
_PER_MESSAGE = 8  # tokens a chat template puts around a message
_SPARE = 16
_LEAST_REPLY = 256  # with less room for a reply than this (or the limit), the window is full


class Window:
    """Room for the next reply in a window of ``size`` tokens, at most ``max_reply``."""

    def __init__(self, model: str, size: int, max_reply: int) -> None:
        self._model, self._size, self._max_reply = model, size, max_reply
        self._counted: list[Message] = []  # these, and the reply to them, are `_tokens` long
        self._tokens = 0
        self._bytes_per_token = _BYTES_PER_TOKEN

    def room(self, messages: Sequence[Message]) -> int:
        """Tokens that a reply to ``messages`` may have.

        Raises:
            PromptTooLong: not enough for a useful reply.
        """
        tokens = self.estimate(messages)
        room = min(self._max_reply, self._size - tokens - _SPARE)
        if room < min(_LEAST_REPLY, self._max_reply):
            raise PromptTooLong(self._model, tokens + self._max_reply, self._size)
        return room

    def saw(self, messages: Sequence[Message], reply: str, usage: Usage) -> None:
        """Take the server's count of ``messages`` and of the reply to them."""
        if usage.prompt_tokens:
            self._counted = [*messages, {"role": "assistant", "content": reply}]
            self._tokens = usage.prompt_tokens + usage.completion_tokens
            self._bytes_per_token = max(1.0, _size(messages) / usage.prompt_tokens * _CAUTION)

    def estimate(self, messages: Sequence[Message]) -> int:
        """Tokens of a prompt, about."""
        known = len(self._counted)
        if known and list(messages[:known]) == self._counted:
            rest, tokens = messages[known:], self._tokens
        else:
            rest, tokens = messages, 0
        return tokens + int(_size(rest) / self._bytes_per_token) + _PER_MESSAGE * len(rest)


def _size(messages: Sequence[Message]) -> int:
    return sum(len(message["content"].encode("utf-8", "replace")) for message in messages)
