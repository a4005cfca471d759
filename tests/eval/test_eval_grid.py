"""eval/grid.py: configurations, seeds, totals, keys."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from eval.grid import EvalConfig, Grid, fingerprints
from rlm_executor.config import load_config
from rlm_executor.errors import ConfigError, InputError
from tests.eval.fakes import settings, small, write_config

REPOSITORY = Path(__file__).parents[2]


@pytest.mark.parametrize("name", ["tiny", "ci"])
def test_committed_configs_load_and_build(name: str) -> None:
    config = load_config(EvalConfig, REPOSITORY / f"configs/eval/{name}.yaml")
    grid = Grid.build(config)
    jobs = list(grid.jobs({arm.name: arm.name for arm in config.arms}))
    assert len({job.name for job in jobs}) == len(jobs)
    for arm in config.arms:
        owed = sum(job.arm.name == arm.name for job in jobs)
        assert owed == sum(grid.stated_n(arm)) == (arm.total or sum(map(len, _tasks(grid))))


def _tasks(grid: Grid) -> list[list[object]]:
    return [list(cell.tasks) for cell in grid.cells]


def test_the_recorded_grid_is_the_stated_one() -> None:
    config = load_config(EvalConfig, REPOSITORY / "configs/eval/tiny.yaml")
    cells = {(cell.family, cell.length): cell for cell in config.cells}
    assert set(cells) == {
        *(("niah", 2**power) for power in (11, 15, 21, 24)),
        *(("oolong", 2**power) for power in (11, 13, 15)),
        *(("pairs", 2**power) for power in (11, 13)),
    }
    assert all(cell.windows * cell.questions == 20 for cell in cells.values())
    assert 800_000 <= config.seed < 900_000
    assert [arm.total for arm in config.arms if arm.name.startswith("rlm-base")] == [60, 60]


def test_a_total_is_spread_evenly_and_over_windows() -> None:
    arms = [{"name": "some", "kind": "floor", "total": 7}]
    grid = Grid.build(small(arms=arms))
    assert grid.stated_n(grid.config.arms[0]) == [4, 3]
    jobs = list(grid.jobs({"some": "x"}))
    windows = Counter(job.window.id for job in jobs if job.cell.family == "oolong")
    assert list(windows.values()) == [1, 1, 1]


def test_seeds_outside_the_split_are_refused() -> None:
    with pytest.raises(InputError, match="dev seed"):
        Grid.build(small(seed=800_000))
    with pytest.raises(InputError, match="test seed"):
        Grid.build(small(purpose="recorded", seed=899_999))


def test_keys_follow_what_a_result_depends_on(tmp_path: Path) -> None:
    arms = [{"name": "direct-sft", "kind": "direct", "model": "tuned"}, settings()["arms"][1]]
    config = small(arms=arms, adapters={"tuned": "sft"})
    (tmp_path / "sft").mkdir()
    weights = tmp_path / "sft" / "adapter_model.safetensors"
    weights.write_bytes(b"one")
    first = fingerprints(config, tmp_path, tmp_path)
    same = fingerprints(config.model_copy(update={"concurrency": 9}), tmp_path, tmp_path)
    assert first == same
    weights.write_bytes(b"two")
    second = fingerprints(config, tmp_path, tmp_path)
    assert first["direct-sft"] != second["direct-sft"] and first["floor"] == second["floor"]


def test_a_loop_needs_a_card(tmp_path: Path) -> None:
    config = small(arms=[{"name": "rlm", "kind": "rlm"}])
    with pytest.raises(ConfigError, match=r"rlm\.json"):
        fingerprints(config, tmp_path, tmp_path)


def test_faults_of_a_config_name_the_field(tmp_path: Path) -> None:
    path = write_config(tmp_path / "a.yaml", seeed=1)
    with pytest.raises(ConfigError, match=r"seeed: is not a known field; did you mean seed\?"):
        load_config(EvalConfig, path)
    twice = [{"name": "a", "kind": "floor"}, {"name": "a", "kind": "direct"}]
    with pytest.raises(ConfigError, match="same name"):
        load_config(EvalConfig, write_config(tmp_path / "b.yaml", arms=twice))
