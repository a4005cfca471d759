"""One attempt: a run of the teacher on a task, its repair, its verdict, its replay; as a row.

The run is recorded once and judged as often as the rules change: ``assess`` needs the journal and
the task, no model.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

from data_gen.config import GenerateConfig
from data_gen.repair import Repaired, repair, rerun
from data_gen.rules import Count, Dropped, Verdict, judge
from data_gen.supply import Asked, Supply
from data_gen.teacher import Models
from rlm_executor import RLM, RLMResult, Trajectory, replay
from rlm_executor.errors import ReplayDiverged


class Attempts:
    """Makes and judges the attempts of one generation.

    Args:
        config: of the generation.
        folder: RUN/data; journals go below it.
        tasks: where they come from.
        models: who teaches; None: nothing is made, only judged.
        count: tokens of messages by the student's tokenizer; None: bytes/4.
    """

    def __init__(
        self,
        config: GenerateConfig,
        folder: Path,
        tasks: Supply,
        models: Models | None = None,
        count: Count | None = None,
    ) -> None:
        self._config, self._tasks, self._models, self._count = config, tasks, models, count
        self._journals = folder / "journals"
        self._filter_sha256 = config.filter_sha256()

    def journal(self, index: int, mended: bool = False) -> Path:
        """The recorded run of an attempt, or the one that its repair made of it."""
        return self._journals / f"{index:06d}{'-mended' if mended else ''}.jsonl"

    async def make(self, index: int) -> dict[str, Any]:
        """One run of the teacher, as a row; a failing run is a row too."""
        assert self._models is not None
        config, asked = self._config, self._tasks.task(index // self._config.attempts)
        task, journal = asked.task, self.journal(index)
        journal.parent.mkdir(parents=True, exist_ok=True)
        journal.unlink(missing_ok=True)  # of an attempt that was killed before its row was written
        card = config.card
        for field, model in (("sampling", config.teacher), ("sub_sampling", config.leaf)):
            if model.sampling is not None:
                card = card.model_copy(update={field: model.sampling})
        rlm = RLM(
            self._models.teacher(index, asked.seed, task.family),
            self._models.leaf,
            card,
            journal=journal,
            task={"id": task.id, "family": task.family, "seed": asked.seed, "length": asked.length},
            isolation=config.isolation,
            prices=self._models.prices,
        )
        result = await rlm.run(task.question, asked.text)
        row = {
            "index": index,
            "task_id": task.id,
            "family": task.family,
            "kind": task.meta["kind"],
            "seed": asked.seed,
            "length": asked.length,
            "calls": result.sub.calls,
            "tokens_root": result.root.prompt_tokens + result.root.completion_tokens,
            "tokens_sub": result.sub.prompt_tokens + result.sub.completion_tokens,
            "dollars": result.dollars or 0.0,
            "seconds": result.seconds,
            "faults": _faults(Trajectory.read(journal)),
            "served_by": [one.model for one in (config.teacher, config.leaf) if one.model],
        }
        return await self._assessed(row, asked, _told(result))

    async def again(self, row: dict[str, Any]) -> dict[str, Any]:
        """The row by today's rules; as it is if they are those that it was judged by."""
        if row["filter_sha256"] == self._filter_sha256:
            return row
        asked = self._tasks.task(row["index"] // self._config.attempts)
        return await self._assessed(row, asked, row["recorded"])

    async def _assessed(
        self, row: dict[str, Any], asked: Asked, recorded: dict[str, Any]
    ) -> dict[str, Any]:
        """The row with its verdict; its score and turns are those of the run that is kept."""
        index, config = row["index"], self._config
        path = self.journal(index)
        trajectory, reproduced = Trajectory.read(path), True
        repaired: Repaired | None = None
        told = recorded
        if config.filter.repair and recorded["stop_reason"] != "root_error":
            repaired = repair(trajectory)
            if repaired.fixes and trajectory.children:
                reproduced = False  # the replies of runs in runs can't be said again
            elif repaired.fixes:
                path = self.journal(index, mended=True)
                path.unlink(missing_ok=True)
                result, reproduced = await rerun(
                    trajectory, repaired, asked.text, path, isolation=config.isolation
                )
                told, trajectory = _told(result), Trajectory.read(path)
        row = row | {
            **{key: value for key, value in told.items() if key != "answer"},
            "recorded": recorded,
            "journal": path.name,
            "score": self._tasks.score(asked.task, told["answer"]),
            "error_turns": sum(turn.error for turn in trajectory.turns),
            "filter_sha256": self._filter_sha256,
        }
        verdict = judge(
            row,
            trajectory,
            config.filter,
            repaired=repaired,
            reproduced=reproduced,
            context=asked.text,
            count=self._count,
        )
        if verdict.dropped is None:
            verdict = await self._replayed(verdict, row, asked, path)
        rule = verdict.dropped.rule if verdict.dropped is not None else None
        return row | {"verdict": verdict.told(), "dropped_by": rule}

    async def _replayed(
        self, verdict: Verdict, row: dict[str, Any], asked: Asked, journal: Path
    ) -> Verdict:
        """Dropped if the run can't be made again from its journal, to the same score."""
        try:
            result = await replay(journal, asked.text)
            why = "another score"
            if self._tasks.score(asked.task, result.answer) == row["score"]:
                return verdict
        except ReplayDiverged as error:
            why = str(error)
        return replace(verdict, dropped=Dropped("not_replayed", None, why[:160]), copies=0)


def _told(result: RLMResult) -> dict[str, Any]:
    """What of a result depends on the run's replies."""
    return {
        "answer": result.answer,
        "stop_reason": result.stop_reason,
        "turns": result.turns,
    }


def _faults(trajectory: Trajectory) -> dict[str, int]:
    """Requests of the run that got no usable reply, by kind."""
    rows = [*trajectory.turn_rows, *trajectory.calls]
    kinds = Counter(row["error"] for row in rows if "error" in row)
    for child in trajectory.children.values():
        kinds.update(_faults(child))
    return dict(kinds)
