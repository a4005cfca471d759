"""One worked example a family for ``rlm-base-1shot``: a run of the expert on a small window.

The base then sees, in the dialect's own form, how a task of this very family is solved: the
strongest prompt we know for it. Examples come from development seeds; their sub-calls are answered
by the scripted leaf, so that what they show is right. They are kept beside the results.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from data_gen.tasks import make_window, score
from data_gen.teacher import scripted_leaf
from eval.solvers import Loop, expert_root
from rlm_executor import Message, RLMCard, Trajectory
from rlm_executor.errors import EnvironmentFault
from rlm_executor.files import sha256_text, write_json_atomic

SEED = 790_000
TRIES = 8
LENGTH = 2**10


class Examples:
    """The examples of some families, made once and then read from ``folder``."""

    def __init__(self, folder: Path, card: RLMCard, expert_seed: int) -> None:
        self.folder, self.card, self.expert_seed = folder, card, expert_seed
        self._harness = sha256_text(f"{card.model_dump_json()} {expert_seed}")[:8]
        self._messages: dict[str, list[Message]] = {}

    def __call__(self, family: str) -> list[Message]:
        return self._messages[family]

    async def prepare(self, families: list[str]) -> None:
        """Load or make the example of each family.

        Raises:
            EnvironmentFault: the expert solved none of the tries.
        """
        for family in families:
            path = self.folder / f"{family}-{self._harness}.json"
            if not path.exists():
                write_json_atomic(path, await self._make(family))
            self._messages[family] = json.loads(path.read_text(encoding="utf-8"))["messages"]

    async def _make(self, family: str) -> dict[str, Any]:
        runs = self.folder / "runs"
        runs.mkdir(parents=True, exist_ok=True)
        loop = Loop(
            expert_root(self.expert_seed), scripted_leaf(), self.card, limits={}, journals=runs
        )
        for seed in range(SEED, SEED + TRIES):
            window = make_window(family, LENGTH, seed, 1)
            task = window.tasks[0]
            context = runs / f"{window.id}.txt"
            window.write(context)
            outcome = await loop.solve(window, task, context)
            context.unlink()
            if score(task, outcome.answer) < 1:
                continue
            last = Trajectory.read(runs / f"{task.id}.jsonl").turns[-1]
            # Without the system message: the run that shows the example has its own.
            messages = [*last.messages[1:], {"role": "assistant", "content": last.reply}]
            return {"family": family, "seed": seed, "messages": messages}
        raise EnvironmentFault(
            f"no worked example for {family}: the expert solved none of {TRIES} small windows; "
            "raise the card's limits"
        )
