"""stub"""
from __future__ import annotations
import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from rlm_executor.card import Limits, RLMCard
from rlm_executor.context import Context
from rlm_executor.lm import LM, Message, Usage


@dataclass(frozen=True)
class RLMResult:
    """How a run ended. Nothing known is thrown away: see stop_reason and answer_source."""

    answer: str
    stop_reason: str  # "answered" | "max_turns" | "max_calls" | "timeout" | "root_window" | "root_error"
    answer_source: str  # "answer" | "variable" | "landing" | "text" | "none"
    turns: int
    error_cells: int
    root: Usage
    sub: Usage
    seconds: float
    journal: Path | None


class RLM:
    def __init__(self, root: LM, sub: LM, card: RLMCard, *, limits: Limits | None = None,
                 journal: Path | None = None, prelude: list[Message] | None = None,
                 task: dict[str, Any] | None = None,
                 on_event: Callable[[dict[str, Any]], None] | None = None) -> None:
        self.root, self.sub, self.card = root, sub, card

    async def run(self, question: str, context: Context | str | Path) -> RLMResult:
        raise NotImplementedError

    def complete(self, question: str, context: Context | str | Path) -> RLMResult:
        """``run`` for code that is not async."""
        return asyncio.run(self.run(question, context))
