"""eval/stats.py against textbook values and against its own promises."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eval import stats


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [
        (0, 20, 0.0, 0.1611),
        (20, 20, 0.8389, 1.0),
        (10, 20, 0.2993, 0.7007),
        (81, 263, 0.2553, 0.3662),
    ],
)
def test_wilson_equals_published_values(successes: int, n: int, low: float, high: float) -> None:
    assert stats.wilson(successes / n, n) == pytest.approx((low, high), abs=2e-4)


@pytest.mark.parametrize(
    ("df", "value"),
    [(1, 12.7062), (2, 4.3027), (3, 3.1824), (4, 2.7764), (9, 2.2622), (30, 2.0423)],
)
def test_t_quantiles_equal_the_table(df: int, value: float) -> None:
    assert stats.student_t(0.975, df) == pytest.approx(value, abs=1e-4)


def test_t_over_windows_is_the_one_sample_test_of_window_means() -> None:
    # Window means 0.1, 0.3, 0.2: sd 0.1, so the half width is 4.3027 * 0.1 / sqrt(3).
    result = stats.paired([0.0, 0.2, 0.2, 0.4, 0.1, 0.3], ["a", "a", "b", "b", "c", "c"])
    assert result.mean == pytest.approx(0.2)
    assert result.high - result.mean == pytest.approx(4.3027 * 0.1 / math.sqrt(3), abs=1e-4)
    assert "2 df" in result.method


def test_windows_that_agree_within_widen_the_interval() -> None:
    scores = [1.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0] * 2
    windows = [str(index // 4) for index in range(16)]
    shared = stats.estimate(scores, windows)
    alone = stats.estimate(scores, [str(index) for index in range(16)])
    assert shared.mean == alone.mean == 0.5
    assert shared.low < alone.low and shared.high > alone.high
    assert "shared windows" in shared.method and alone.method == "Wilson"


def test_the_method_follows_the_scores() -> None:
    assert stats.estimate([0.0, 1.0], ["a", "b"]).method.startswith("Wilson")
    assert stats.estimate([0.5, 1.0], ["a", "b"]).method == "bootstrap over windows"
    assert "over questions" in stats.estimate([0.5, 1.0], ["a", "a"]).method
    level = stats.estimate([0.5, 1.0, 1.0, 0.5], ["a", "a", "b", "b"])
    assert level.low < 0.75 < level.high


def test_all_right_is_not_certainty() -> None:
    result = stats.estimate([1.0] * 20, [str(index // 4) for index in range(20)])
    assert result.high == 1.0 and result.low == pytest.approx(0.8389, abs=1e-4)


def test_bootstrap_is_the_same_each_time() -> None:
    scores, windows = [0.1, 0.4, 0.9, 0.3, 0.7, 0.2], ["a", "a", "b", "b", "c", "c"]
    assert stats.cluster_bootstrap(scores, windows) == stats.cluster_bootstrap(scores, windows)


def test_trend_finds_a_slope_and_its_absence() -> None:
    lengths = [2**11] * 3 + [2**12] * 3 + [2**13] * 3
    windows = [str(index) for index in range(9)]
    falling = stats.trend(lengths, [0.9, 1.0, 0.95, 0.7, 0.8, 0.75, 0.5, 0.6, 0.55], windows)
    assert falling.mean == pytest.approx(-0.2) and falling.high < 0
    flat = stats.trend(lengths, [1.0] * 9, windows)
    assert flat.mean == 0 and flat.low == flat.high == 0
    assert "too few" in stats.trend([2**11] * 9, [1.0] * 9, windows).method


cells = st.lists(st.tuples(st.floats(0, 1), st.integers(0, 4)), min_size=2, max_size=24)


@settings(max_examples=40, deadline=None)
@given(cells)
def test_intervals_hold_their_mean_and_stay_in_range(cell: list[tuple[float, int]]) -> None:
    scores = [score for score, _ in cell]
    result = stats.estimate(scores, [str(window) for _, window in cell])
    assert -1e-9 <= result.low <= result.high <= 1 + 1e-9
    assert result.n == len(cell)
    zeros_and_ones = [float(score > 0.5) for score in scores]
    binary = stats.estimate(zeros_and_ones, [str(window) for _, window in cell])
    assert binary.low <= binary.mean <= binary.high


@settings(max_examples=40, deadline=None)
@given(cells)
def test_swapping_the_arms_mirrors_the_difference(cell: list[tuple[float, int]]) -> None:
    windows = [str(window) for _, window in cell]
    forth = stats.paired([score for score, _ in cell], windows)
    back = stats.paired([-score for score, _ in cell], windows)
    assert back.mean == pytest.approx(-forth.mean, abs=1e-12)
    assert back.low == pytest.approx(-forth.high, abs=1e-9)
