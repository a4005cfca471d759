"""One worked example a family for ``rlm-base-1shot``: a run of the expert on a small window.

The base then sees, in the dialect's own form, how a task of this very family is solved: the
strongest prompt we know for it. Examples come from development seeds and are kept beside the
results, so that a resumed run shows the same ones.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from data_gen.tasks import make_window, score
from eval.solvers import Loop, expert_root
from rlm_executor import LM, Message, RLMCard, Trajectory
from rlm_executor.errors import EnvironmentFault
from rlm_executor.files import sha256_text, write_json_atomic

SEED = 790_000
TRIES = 8
LENGTH = 2**10


class Examples:
    """The examples of some families, made once and then read from ``folder``."""

    def __init__(self, folder: Path, card: RLMCard, leaf: LM) -> None:
        self.folder, self.card, self.leaf = folder, card, leaf
        self._harness = sha256_text(card.model_dump_json())[:8]
        self._messages: dict[str, list[Message]] = {}

    def __call__(self, family: str) -> list[Message]:
        return self._messages[family]

    async def prepare(self, families: list[str]) -> None:
        """Load or make the example of each family.

        Raises:
            EnvironmentFault: the expert answered none of the tries.
        """
        for family in families:
            path = self.folder / f"{family}-{self._harness}.json"
            if not path.exists():
                write_json_atomic(path, await self._make(family))
            self._messages[family] = json.loads(path.read_text(encoding="utf-8"))["messages"]

    async def _make(self, family: str) -> dict[str, Any]:
        best: dict[str, Any] | None = None
        for seed in range(SEED, SEED + TRIES):
            window = make_window(family, LENGTH, seed, 1)
            task = window.tasks[0]
            loop = Loop(
                expert_root(seed), self.leaf, self.card, limits={}, journals=self.folder / "runs"
            )
            context = self.folder / "runs" / f"{window.id}.txt"
            context.parent.mkdir(parents=True, exist_ok=True)
            window.write(context)
            outcome = await loop.solve(window, task, context)
            context.unlink()
            last = Trajectory.read(self.folder / "runs" / f"{task.id}.jsonl").turns[-1]
            points = score(task, outcome.answer)
            if best is None or points > best["score"]:
                # Without the system message: the run that shows the example has its own.
                messages = [*last[0][1:], {"role": "assistant", "content": last[1]}]
                best = {"family": family, "seed": seed, "score": points, "messages": messages}
            if points == 1:
                break
        if best is None:
            raise EnvironmentFault(f"no worked example for {family} could be made")
        return best
