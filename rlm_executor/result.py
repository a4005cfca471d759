"""What a run ends in."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rlm_executor.lm import Usage


@dataclass(frozen=True)
class RLMResult:
    """How a run ended."""

    answer: str
    stop_reason: str  # answered, a limit (max_turns ... timeout, root_window) or root_error
    answer_source: str  # answer (set ready) | final | variable | landing | text | plain | none
    turns: int  # root replies, the landing turn among them
    error_cells: int
    root: Usage
    sub: Usage  # of all calls below the root, runs in runs among them
    seconds: float
    posture: str  # what held the code, as name=value words
    journal: Path | None
    unknown_calls: int = 0  # of which nobody knows what they used; not in the counts above
    dollars: float | None = None  # of the whole tree; None without prices
