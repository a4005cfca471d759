"""From attempts to kept runs, rule by rule: counts, examples, a file and a table.

funnel = Funnel(verdicts)
write_json_atomic(folder / "funnel.json", funnel.told())
rich.print(funnel.table())
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from data_gen.programs import diversity
from data_gen.repair import FIXES
from data_gen.rules import ATTEMPT_RULES, TURN_RULES, Dropped, Verdict

if TYPE_CHECKING:
    from rich.table import Table


class Funnel:
    """What became of all attempts.

    Args:
        verdicts: of every attempt, in order, after ``select``.
        examples: of each rule, at most.
    """

    def __init__(self, verdicts: Sequence[Verdict], examples: int = 3) -> None:
        self._verdicts, self._examples = list(verdicts), examples

    def told(self) -> dict[str, Any]:
        """As ``funnel.json`` has it."""
        families = sorted({verdict.family for verdict in self._verdicts})
        kept = [verdict for verdict in self._verdicts if verdict.dropped is None]
        return {
            **_counts(self._verdicts),
            "by_family": {
                family: _counts([one for one in self._verdicts if one.family == family])
                for family in families
            },
            "diversity": diversity((one.family, one.program) for one in kept),
            "examples": self._shown(),
        }

    def table(self) -> Table:
        """Attempts, what is left after each rule, and what is kept; a column a family."""
        from rich.table import Table

        told = self.told()
        columns = {"all": told, **told["by_family"]}
        table = Table("")
        for name in columns:
            table.add_column(name, justify="right")
        table.add_row("attempts", *(str(one["attempts"]) for one in columns.values()))
        left = {name: one["attempts"] for name, one in columns.items()}
        for rule in told["dropped"]:
            cells = []
            for name, one in columns.items():
                lost = one["dropped"].get(rule, 0)
                left[name] -= lost
                cells.append(f"{left[name]} (-{lost})" if lost else str(left[name]))
            table.add_row(f"after {rule}", *cells)
        for key in ("kept", "copies", "turns"):
            table.add_row(key, *(str(one[key]) for one in columns.values()))
        for key in ("turns_dropped", "repaired"):
            for rule in told[key]:
                counts = (str(one[key].get(rule, 0)) for one in columns.values())
                table.add_row(f"{key}: {rule}", *counts)
        return table

    def _shown(self) -> dict[str, list[dict[str, Any]]]:
        shown: dict[str, list[dict[str, Any]]] = {}
        for verdict in self._verdicts:
            whole = [verdict.dropped] if verdict.dropped is not None else []
            for drop in [*whole, *verdict.turns_dropped]:
                own = shown.setdefault(drop.rule, [])
                if len(own) < self._examples:
                    own.append(_example(verdict, drop))
        return shown


def _example(verdict: Verdict, drop: Dropped) -> dict[str, Any]:
    return {"task_id": verdict.task_id, "turn": drop.turn, "excerpt": drop.excerpt}


def _counts(verdicts: Sequence[Verdict]) -> dict[str, Any]:
    kept = [verdict for verdict in verdicts if verdict.dropped is None]
    turns = Counter(drop.rule for one in kept for drop in one.turns_dropped)
    turns["left_out_by_repair"] = sum(one.left_out for one in kept)
    return {
        "attempts": len(verdicts),
        "kept": len(kept),
        "copies": sum(one.copies for one in kept),
        "turns": sum(one.rows for one in kept),
        "dropped": _ordered(
            ATTEMPT_RULES, Counter(one.dropped.rule for one in verdicts if one.dropped)
        ),
        "turns_dropped": _ordered((*TURN_RULES, "left_out_by_repair"), turns),
        "repaired": _ordered(FIXES, Counter(fix.name for one in kept for fix in one.fixes)),
    }


def _ordered(names: Iterable[str], counts: Counter[str]) -> dict[str, int]:
    """Those that have happened, in the order of the rules."""
    return {name: counts[name] for name in names if counts[name]}
