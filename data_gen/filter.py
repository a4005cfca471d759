"""Which trajectories are kept, and why the others are not: the paper's rules and ours.

arXiv 2512.24601 App. A drops trajectories that scored exactly 0 or took a single turn. We also
ask for a minimal score, since with truth by construction a half-right run shows a defect, and
for a run that ended itself; and a turn whose code failed is never a training target, though the
turns after its repair are.
Each rule counts what it dropped.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

RULES = ("score_zero", "single_turn", "below_min_score", "unfinished", "over_window")


def dropped_by(attempt: dict[str, Any], *, min_score: float, max_chars: int) -> str | None:
    """The first rule that drops this attempt, or None if it is kept."""
    if attempt["score"] == 0:
        return "score_zero"
    if attempt["turns"] < 2:
        return "single_turn"
    if attempt["score"] < min_score:
        return "below_min_score"
    if attempt["stop_reason"] != "answered":  # saved by the landing turn: a finish rule misused
        return "unfinished"
    if attempt["longest_turn_chars"] > max_chars:
        return "over_window"
    return None


def funnel(attempts: list[dict[str, Any]], chosen: list[dict[str, Any]]) -> dict[str, Any]:
    """Attempts, drops by rule and what was kept, in all and by family."""
    by_family: dict[str, Any] = {}
    for family in sorted({attempt["family"] for attempt in attempts}):
        own = [attempt for attempt in attempts if attempt["family"] == family]
        by_family[family] = {
            "attempts": len(own),
            "dropped": _drops(own),
            "kept": sum(attempt["family"] == family for attempt in chosen),
        }
    return {
        "attempts": len(attempts),
        "dropped": _drops(attempts),
        "passed_not_needed": sum(a["dropped_by"] is None for a in attempts) - len(chosen),
        "kept": len(chosen),
        "error_turns_not_trained": sum(attempt["error_turns"] for attempt in chosen),
        "by_family": by_family,
    }


def _drops(attempts: list[dict[str, Any]]) -> dict[str, int]:
    counts = Counter(attempt["dropped_by"] for attempt in attempts)
    return {rule: counts[rule] for rule in RULES}
