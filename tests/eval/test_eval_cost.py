"""eval/cost.py against sums done by hand."""

from __future__ import annotations

import pytest

from eval.cost import cost_table, grid_cost, total_seconds
from eval.grid import Grid
from tests.eval.fakes import COST, small

ARMS = [
    {"name": "direct", "kind": "direct"},
    {"name": "rlm-sft", "kind": "rlm"},
    {"name": "expert", "kind": "expert"},
    {"name": "floor", "kind": "floor"},
]


def test_the_cost_of_a_grid_is_the_sum_done_by_hand() -> None:
    # One window of 1 MiB with 2 questions; lines of 100 bytes, 10 to a call: 1049 calls a question.
    cells = [{"family": "oolong", "length": 2**18, "windows": 1, "questions": 2}]
    config = small(cells=cells, arms=ARMS)
    costs = grid_cost(config, Grid.build(config).jobs({arm["name"]: "x" for arm in ARMS}))
    direct, loop, expert = costs["direct"], costs["rlm-sft"], costs["expert"]
    assert (direct.runs, direct.calls, direct.prompt_tokens) == (2, 2, 2 * (1024 - 64))
    assert direct.seconds == pytest.approx(2 * (0.96 + 20 / 100))
    assert expert.calls == 2 * 1049
    assert expert.prompt_tokens == pytest.approx(2 * 1049 * 240)
    assert expert.completion_tokens == 2 * 1049 * 25
    assert loop.calls == expert.calls + 2 * 3
    assert loop.prompt_tokens == expert.prompt_tokens + 2 * 3 * 500
    leaf = 1049 * (0.24 + 0.25)
    assert expert.seconds == pytest.approx(2 * (0.5 + 3 * 1 * 1 + leaf))
    assert costs["floor"].seconds == 0
    assert costs["windows"].seconds == pytest.approx(2)
    assert total_seconds(costs) == pytest.approx(sum(cost.seconds for cost in costs.values()))


def test_needles_need_no_leaves_and_memory_makes_leaves_cheaper() -> None:
    cells = [{"family": "niah", "length": 2**18, "windows": 1, "questions": 2}]
    config = small(cells=cells, arms=ARMS)
    assert (
        grid_cost(config, Grid.build(config).jobs(dict.fromkeys(_names(), "")))["expert"].calls == 0
    )
    cells[0]["family"] = "oolong"
    half = small(cells=cells, arms=ARMS, cost=COST | {"leaf_cached_share": 0.5})
    assert (
        grid_cost(half, Grid.build(half).jobs(dict.fromkeys(_names(), "")))["expert"].calls == 1049
    )


def test_limits_bound_the_cost() -> None:
    cells = [{"family": "oolong", "length": 2**18, "windows": 1, "questions": 2}]
    arms = [{"name": "rlm-base", "kind": "rlm", "limits": {"max_calls": 10}, "total": 1}]
    config = small(cells=cells, arms=arms)
    assert grid_cost(config, Grid.build(config).jobs({"rlm-base": ""}))["rlm-base"].calls == 13


def test_the_table_ends_in_the_total() -> None:
    config = small(arms=ARMS)
    costs = grid_cost(config, Grid.build(config).jobs(dict.fromkeys(_names(), "")))
    table = cost_table(costs, "cost")
    assert list(table.columns[0].cells)[-2:] == ["windows", "total"]
    assert list(table.columns[1].cells)[-1] == "48"


def _names() -> list[str]:
    return [arm["name"] for arm in ARMS]
