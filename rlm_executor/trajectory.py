"""stub"""
from __future__ import annotations
from pathlib import Path
from typing import Any, NamedTuple
from rlm_executor.context import Context
from rlm_executor.lm import Message


class Turn(NamedTuple):
    """One root turn as the server saw it; error: a cell of it failed, or it had nothing to run."""

    messages: list[Message]
    reply: str
    prompt_token_ids: tuple[int, ...] | None
    token_ids: tuple[int, ...] | None
    error: bool


class Trajectory:
    turns: list[Turn]
    run: dict[str, Any]
    end: dict[str, Any] | None

    @classmethod
    def read(cls, path: Path) -> Trajectory:
        raise NotImplementedError


def replay(journal: Path, context: Context) -> Any:
    raise NotImplementedError
