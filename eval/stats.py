"""The statistics of the report: pure functions of scores and of the windows they came from.

Questions about one window share its text, so their scores are not independent; the window is the
cluster everywhere (Miller 2024, arXiv 2411.00640). What each ``±`` is:

* 0/1 scores: Wilson's interval, with n divided by the design effect of the windows (never
  enlarged). Where all scores are equal the design effect can't be seen and counts as 1.
* fractional scores: percentile bootstrap over whole windows, fixed seed. With few windows it is
  somewhat narrow; the number of windows is always printed beside it. Over questions where the
  windows show no spread.
* differences of two arms on the same tasks: t with (windows - 1) degrees of freedom.

Nothing here knows of arms, files or plots.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

Z_95 = 1.959963984540054
RESAMPLES = 10_000
BOOTSTRAP_SEED = 20_251


@dataclass(frozen=True)
class Estimate:
    """A mean with its 95 % interval, the numbers behind it and the method in words."""

    mean: float
    low: float
    high: float
    n: int
    windows: int
    method: str

    @property
    def text(self) -> str:
        """``0.85 [.62,.95]``."""
        low, high = (f"{bound:.2f}".replace("0.", ".") for bound in (self.low, self.high))
        return f"{self.mean:.2f} [{low},{high}]"


def wilson(mean: float, n: float) -> tuple[float, float]:
    """Wilson's 95 % interval of a share ``mean`` seen in ``n`` trials (n may be fractional)."""
    if n <= 0:
        return 0.0, 1.0
    z2 = Z_95 * Z_95
    centre = (mean + z2 / (2 * n)) / (1 + z2 / n)
    half = Z_95 / (1 + z2 / n) * math.sqrt(mean * (1 - mean) / n + z2 / (4 * n * n))
    # Rounding must not put the bound on the wrong side of a share of exactly 0 or 1.
    return max(0.0, min(mean, centre - half)), min(1.0, max(mean, centre + half))


def design_effect(scores: Sequence[float], windows: Sequence[str]) -> float:
    """Variance of the mean with windows as clusters over its variance without, at least 1."""
    n, mean = len(scores), float(np.mean(scores))
    if mean in (0.0, 1.0) or len(set(windows)) < 2:
        return 1.0
    independent = mean * (1 - mean) / (n - 1)
    effect = _cluster_variance(scores, windows) / independent
    return effect if effect > 1 + 1e-9 else 1.0


def cluster_bootstrap(
    scores: Sequence[float], windows: Sequence[str], resamples: int = RESAMPLES
) -> tuple[float, float]:
    """95 % percentile interval of the mean, whole windows drawn with replacement."""
    sums, counts = _by_window(scores, windows)
    draws = np.random.default_rng(BOOTSTRAP_SEED).integers(0, len(sums), (resamples, len(sums)))
    means = sums[draws].sum(axis=1) / counts[draws].sum(axis=1)
    low, high = np.quantile(means, (0.025, 0.975))
    return float(low), float(high)


def estimate(scores: Sequence[float], windows: Sequence[str]) -> Estimate:
    """Mean and interval of the scores of one cell or pool, method chosen as in the docstring."""
    n, clusters, mean = len(scores), len(set(windows)), float(np.mean(scores))
    if all(value in (0.0, 1.0) for value in scores):
        effect = design_effect(scores, windows)
        low, high = wilson(mean, n / effect)
        method = "Wilson" if effect == 1 else f"Wilson, n/{effect:.1f} for shared windows"
    else:
        low, high = cluster_bootstrap(scores, windows)
        method = "bootstrap over windows"
        if low == high:
            # Windows that don't differ (or a single one) show no spread: take the questions'.
            low, high = cluster_bootstrap(scores, [str(index) for index in range(n)])
            method = "bootstrap over questions (windows do not differ)"
    return Estimate(mean, low, high, n, clusters, method)


def paired(differences: Sequence[float], windows: Sequence[str]) -> Estimate:
    """Mean of per-task differences of two arms with a t interval over windows."""
    n, clusters, mean = len(differences), len(set(windows)), float(np.mean(differences))
    if n < 2:
        return Estimate(mean, -1.0, 1.0, n, clusters, "one task: no interval")
    if clusters > 1:
        error = math.sqrt(_cluster_variance(differences, windows))
        df, method = clusters - 1, f"paired t over windows, {clusters - 1} df"
    else:
        error = float(np.std(differences, ddof=1)) / math.sqrt(n)
        df, method = n - 1, f"paired t over questions (one window only), {n - 1} df"
    if error == 0:
        method += "; no variation seen, so no width"
    half = student_t(0.975, df) * error
    return Estimate(mean, mean - half, mean + half, n, clusters, method)


def trend(lengths: Sequence[int], scores: Sequence[float], windows: Sequence[str]) -> Estimate:
    """Slope of the window means per doubling of length (least squares, t with windows - 2 df)."""
    groups: dict[str, list[float]] = {}
    at: dict[str, float] = {}
    for length, score, window in zip(lengths, scores, windows, strict=True):
        groups.setdefault(window, []).append(score)
        at[window] = math.log2(length)
    x = np.array([at[window] for window in groups])
    y = np.array([float(np.mean(values)) for values in groups.values()])
    clusters = len(groups)
    spread = float(((x - x.mean()) ** 2).sum())
    if clusters < 3 or spread == 0:
        return Estimate(0.0, -math.inf, math.inf, len(scores), clusters, "too few windows")
    slope = float(((x - x.mean()) * (y - y.mean())).sum()) / spread
    residual = y - y.mean() - slope * (x - x.mean())
    error = math.sqrt(float((residual**2).sum()) / (clusters - 2) / spread)
    half = student_t(0.975, clusters - 2) * error
    method = f"least squares on window means, t with {clusters - 2} df"
    return Estimate(slope, slope - half, slope + half, len(scores), clusters, method)


def student_t(probability: float, df: int) -> float:
    """Quantile of Student's t for ``probability`` above one half, by bisection."""
    low, high = 0.0, 1e6
    for _ in range(200):
        middle = (low + high) / 2
        if 0.5 + _central_share(middle, df) / 2 < probability:
            low = middle
        else:
            high = middle
    return high


def _central_share(t: float, df: int) -> float:
    """P(|T| <= t) for whole ``df``: the finite series of Abramowitz and Stegun, 26.7.3-4."""
    angle = math.atan(t / math.sqrt(df))
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = df % 2
    term = cosine if odd else 1.0
    total = term if df > 1 else 0.0
    for k in range(2 + odd, df, 2):
        term *= cosine * cosine * (k - 1) / k
        total += term
    return 2 / math.pi * (angle + sine * total) if odd else sine * total


def _by_window(values: Sequence[float], windows: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    index = {window: position for position, window in enumerate(dict.fromkeys(windows))}
    sums, counts = np.zeros(len(index)), np.zeros(len(index))
    for value, window in zip(values, windows, strict=True):
        sums[index[window]] += value
        counts[index[window]] += 1
    return sums, counts


def _cluster_variance(values: Sequence[float], windows: Sequence[str]) -> float:
    """Variance of the mean from the sums of residuals of each window (CR1)."""
    sums, counts = _by_window(values, windows)
    clusters = len(sums)
    residuals = sums - counts * (sums.sum() / counts.sum())
    return float(clusters / (clusters - 1) * (residuals**2).sum() / counts.sum() ** 2)
