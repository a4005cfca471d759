"""A chat completion that comes in pieces: the lines of a server-sent stream, read as they are.

With vLLM's ``continuous_usage_stats`` every piece tells the tokens up to it, so a stream that is
given up in the middle is known to its last piece.
"""

from __future__ import annotations

import json
from typing import Any

from rlm_executor.lm import Completion, Usage

STREAM_OPTIONS = {"include_usage": True, "continuous_usage_stats": True}


class StreamedReply:
    """The reply so far: ``feed`` it bytes as they come.

    Attributes:
        usage: the server's count up to the last piece; None before it told one.
        done: the reply is whole.
        error: what the server says went wrong in the middle.
    """

    def __init__(self) -> None:
        self.usage: Usage | None = None
        self.done = False
        self.error: dict[str, Any] | None = None
        self._rest = b""
        self._texts: list[str] = []
        self._finish = "stop"
        self._prompt_ids: list[int] | None = None
        self._ids: list[int] | None = None

    def feed(self, data: bytes) -> None:
        """Take the lines that are whole; the rest waits for more.

        Raises:
            ValueError: what came is no stream of completions.
        """
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            if not line.startswith(b"data:"):  # blank, a comment, or a field nobody sends here
                continue
            event = line[5:].strip()
            if event == b"[DONE]":
                self.done = self.error is None
            else:
                self._take(json.loads(event))

    def completion(self) -> Completion:
        """The reply, once it is ``done``."""
        return Completion(
            text="".join(self._texts),
            usage=self.usage or Usage(calls=1),
            finish_reason=self._finish,
            prompt_token_ids=None if self._prompt_ids is None else tuple(self._prompt_ids),
            token_ids=None if self._ids is None else tuple(self._ids),
        )

    def _take(self, piece: Any) -> None:
        try:
            if error := piece.get("error"):
                self.error = error if isinstance(error, dict) else {"message": str(error)}
                return
            if usage := piece.get("usage"):
                read, written = usage.get("prompt_tokens"), usage.get("completion_tokens")
                self.usage = Usage(read or 0, written or 0, calls=1)
            if (ids := piece.get("prompt_token_ids")) is not None:
                self._prompt_ids = ids
            for choice in piece["choices"][:1]:
                self._texts.append((choice.get("delta") or {}).get("content") or "")
                if (ids := choice.get("token_ids")) is not None:
                    self._ids = self._ids or []
                    self._ids += ids
                if finish := choice.get("finish_reason"):
                    self._finish, self.done = finish, True
        except (AttributeError, KeyError, TypeError) as error:
            raise ValueError(f"not a piece of a completion: {json.dumps(piece)[:200]}") from error
