"""From rows to results: cells, pools, trends, paired differences, and the claims they bear.

    summary = summarise(run)          # reads DIR/eval/plan.json and results.jsonl
    summary.incomplete                # why it may not be quoted; empty when all is there

A failed run stays in its cell with score 0 and makes the report incomplete; so does a missing one.
Only rows whose key is in the plan count. Numbers only: tables, pictures and pages are elsewhere.
"""

from __future__ import annotations

import json
import math
from collections.abc import Container
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from eval.results import Row, read_rows
from eval.stats import Estimate, estimate, paired, trend
from rlm_executor.errors import InputError

NEEDLE_TARGET = 0.90
FAR_ABOVE = 0.50  # what "far above" means here: at least half the scale
NEAR_EXPERT = 0.10
NEAR_FLOOR = 0.05


@dataclass(frozen=True)
class CellResult:
    """One arm on one family at one length."""

    arm: str
    family: str
    length: int
    stated: int
    rows: list[Row] = field(repr=False)
    score: Estimate | None

    @property
    def failed(self) -> int:
        """Rows in which nothing was measured."""
        return sum(row["error"] is not None for row in self.rows)

    @property
    def measured(self) -> int:
        """Rows that count towards the stated n."""
        return len(self.rows) - self.failed

    def mean(self, name: str) -> float | None:
        """Mean of a field over the rows that have it."""
        values = [row[name] for row in self.rows if row[name] is not None]
        return sum(values) / len(values) if values else None


@dataclass(frozen=True)
class Claim:
    """Something that was to be shown, the number for it, and whether it holds."""

    text: str
    target: str
    value: Estimate | None
    # "holds" | "holds, but not beyond chance" | "fails" | "says nothing (why)" | "not measured"
    verdict: str


@dataclass(frozen=True)
class Summary:
    """All that the report prints."""

    title: str
    smoke: bool
    config: dict[str, Any] = field(repr=False)
    cells: list[CellResult] = field(repr=False)
    incomplete: list[str]

    @property
    def arms(self) -> list[str]:
        """Arms in the order of the plan."""
        return list(dict.fromkeys(cell.arm for cell in self.cells))

    @property
    def families(self) -> list[str]:
        """Families by name."""
        return sorted({cell.family for cell in self.cells})

    @property
    def bytes_per_token(self) -> float | None:
        """Of the base's own tokenizer, as the server counted the prompts of the direct arms."""
        rows = [
            row
            for row in (*self.rows("direct"), *self.rows("direct-sft"))
            if row["prompt_bytes"] and row["usage"]["root"]["prompt_tokens"]
        ]
        tokens = sum(row["usage"]["root"]["prompt_tokens"] for row in rows)
        return sum(row["prompt_bytes"] for row in rows) / tokens if tokens else None

    @property
    def window_length(self) -> float:
        """The base's window as a length, in tokens of 4 bytes."""
        return float(self.config["window"] * (self.bytes_per_token or 4) / 4)

    def lengths(self, family: str) -> list[int]:
        """Lengths of a family, ascending."""
        return sorted({cell.length for cell in self.cells if cell.family == family})

    def cell(self, arm: str, family: str, length: int) -> CellResult | None:
        """That cell, if it is in the plan."""
        for cell in self.cells:
            if (cell.arm, cell.family, cell.length) == (arm, family, length):
                return cell
        return None

    def rows(
        self, arm: str, family: str | None = None, lengths: Container[int] | None = None
    ) -> list[Row]:
        """Rows of an arm, of one family and of some lengths if they are given."""
        return [
            row
            for cell in self.cells
            if cell.arm == arm
            and family in (None, cell.family)
            and (lengths is None or cell.length in lengths)
            for row in cell.rows
        ]

    def pooled(self, arm: str, family: str) -> Estimate | None:
        """The arm's score over all lengths of a family."""
        rows = self.rows(arm, family)
        return estimate(_scores(rows), _windows(rows)) if rows else None

    def trend(self, arm: str, family: str) -> Estimate | None:
        """Change of the arm's score per doubling of the length."""
        rows = self.rows(arm, family)
        if len({row["length"] for row in rows}) < 2:
            return None
        result = trend([row["length"] for row in rows], _scores(rows), _windows(rows))
        return result if math.isfinite(result.low) else None

    def difference(
        self,
        arm: str,
        other: str,
        family: str | None = None,
        lengths: Container[int] | None = None,
    ) -> Estimate | None:
        """Mean of ``arm`` minus ``other`` over the tasks that both have."""
        others = {row["task_id"]: row["score"] for row in self.rows(other, family, lengths)}
        rows = [row for row in self.rows(arm, family, lengths) if row["task_id"] in others]
        if not rows:
            return None
        return paired([row["score"] - others[row["task_id"]] for row in rows], _windows(rows))

    def claims(self) -> list[Claim]:
        """The claims that the arms of this grid can bear."""
        found: list[Claim] = []
        if {"rlm-sft", "direct"} <= set(self.arms) and "niah" in self.families:
            needles = self.pooled("rlm-sft", "niah")
            found.append(
                _at_least("rlm-sft finds the needles, all lengths", NEEDLE_TARGET, needles)
            )
            found.append(self._no_downward_trend())
            window = self.config["window"]
            past = [length for length in self.lengths("niah") if length > window]
            far = self.difference("rlm-sft", "direct", "niah", past)
            text = f"rlm-sft minus direct on niah past {window:,} tokens"
            found.append(_at_least(text, FAR_ABOVE, far))
        if {"rlm-sft", "expert"} <= set(self.arms):
            for family in self.families:
                if family != "niah":
                    gap = self.difference("rlm-sft", "expert", family)
                    text = f"rlm-sft minus expert on {family}, same leaves"
                    claim = _at_least(text, -NEAR_EXPERT, gap)
                    if not self._above_floor("expert", family):
                        # As good as a ceiling that lies on the floor is no success.
                        claim = replace(claim, verdict="says nothing (expert is at the floor)")
                    found.append(claim)
        for arm in self.arms:
            if arm.startswith("rlm-base") and "floor" in self.arms:
                gap = self.difference(arm, "floor")
                found.append(_at_most(f"{arm} minus floor, all families", NEAR_FLOOR, gap))
        return found

    def _above_floor(self, arm: str, family: str) -> bool:
        score, floor = self.pooled(arm, family), self.pooled("floor", family)
        return score is not None and score.low > (floor.mean if floor is not None else 0.0)

    def _no_downward_trend(self) -> Claim:
        slope = self.trend("rlm-sft", "niah")
        verdict = "not measured" if slope is None else "holds" if slope.high >= 0 else "fails"
        if slope is not None and not self._above_floor("rlm-sft", "niah"):
            verdict = "says nothing (it is at the floor)"
        return Claim(
            "rlm-sft on niah does not fall with length (score per doubling)",
            "interval reaches 0",
            slope,
            verdict,
        )


def summarise(run: Path) -> Summary:
    """Read the plan and the rows of a run.

    Raises:
        InputError: the run holds no evaluation.
    """
    path = run / "eval" / "plan.json"
    if not path.exists():
        raise InputError(
            f"{run} holds no evaluation; run `python -m eval.run --config ... --run {run}` first"
        )
    plan = json.loads(path.read_text(encoding="utf-8"))
    best: dict[tuple[str, str, str], Row] = {}
    for row in read_rows(run / "eval" / "results.jsonl"):
        name = (row["arm"], row["task_id"], row["key"])
        if name not in best or best[name]["error"] is not None:
            best[name] = row
    cells, incomplete = [], []
    for cell in plan["cells"]:
        arm = cell["arm"]
        names = [(arm, task, key) for task, key in cell["tasks"].items()]
        rows = [best[name] for name in names if name in best]
        score = estimate(_scores(rows), _windows(rows)) if rows else None
        result = CellResult(arm, cell["family"], cell["length"], cell["n"], rows, score)
        cells.append(result)
        if result.measured < result.stated:
            failed = f", {result.failed} failed" if result.failed else ""
            incomplete.append(
                f"{arm} {result.family} {size(result.length)}: "
                f"{result.measured} of {result.stated} measured{failed}"
            )
    config = plan["config"]
    return Summary(config["title"], config["purpose"] == "smoke", config, cells, incomplete)


def size(length: int) -> str:
    """``2K``, ``16M``; other lengths in full."""
    for unit, name in ((2**20, "M"), (2**10, "K")):
        if length >= unit and length % unit == 0:
            return f"{length // unit}{name}"
    return f"{length:,}"


def _at_least(text: str, target: float, value: Estimate | None) -> Claim:
    if value is None:
        verdict = "not measured"
    elif value.mean < target:
        verdict = "fails"
    else:
        verdict = "holds" if value.low >= target else "holds, but not beyond chance"
    return Claim(text, f"≥ {target:.2f}", value, verdict)


def _at_most(text: str, target: float, value: Estimate | None) -> Claim:
    if value is None:
        verdict = "not measured"
    elif value.mean > target:
        verdict = "fails"
    else:
        verdict = "holds" if value.high <= target else "holds, but not beyond chance"
    return Claim(text, f"≤ {target:.2f}", value, verdict)


def _scores(rows: list[Row]) -> list[float]:
    return [row["score"] for row in rows]


def _windows(rows: list[Row]) -> list[str]:
    return [row["window_id"] for row in rows]
