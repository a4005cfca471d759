"""The control's rows: as many as asked for, several questions to a context, gold answers."""

from __future__ import annotations

from pathlib import Path

import pytest

from data_gen import direct
from data_gen.tasks import score
from rlm_executor.config import load_config

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "data"


@pytest.mark.parametrize("name", ["tiny-direct", "ci-direct"])
def test_configs_are_valid(name: str) -> None:
    config = load_config(direct.DirectConfig, CONFIGS / f"{name}.yaml", [])
    assert config.keep > 0 and max(config.lengths) <= 2048  # 4,096 of the tiny base's tokens


def test_questions_share_their_context() -> None:
    config = direct.DirectConfig(
        keep=10, questions=4, families={"niah": 1, "oolong": 1, "pairs": 1}, lengths={512: 1}
    )
    rows = direct.examples(config)
    assert len(rows) == 10 and rows == direct.examples(config)
    for number in (0, 4):
        texts = {
            row["prompt"][0]["content"].rpartition("\n\n")[0] for row in rows[number : number + 4]
        }
        assert len(texts) == 1 and len({row["run"] for row in rows[number : number + 4]}) == 1
    assert len({row["task_id"] for row in rows}) == 10


def test_a_completion_is_the_gold_answer() -> None:
    config = direct.DirectConfig(
        keep=24, questions=2, families={"niah": 1, "oolong": 1, "pairs": 1}, lengths={512: 1}
    )
    answers = {row["task_id"]: row["completion"][0]["content"] for row in direct.examples(config)}
    tasks = [
        task
        for number in range(12)
        for family in config.families
        for task in direct.make_window(family, 512, config.first_seed + number, 2).tasks
    ]
    found = [task for task in tasks if task.id in answers]
    assert len(found) == 24
    assert all(score(task, answers[task.id]) == 1.0 for task in found)
