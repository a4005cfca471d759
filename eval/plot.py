"""Score against length, one panel a family: ``score_vs_length.png``.

Colours are Okabe and Ito's, which colour-blind readers tell apart; every arm also has a marker
and a line of its own. Bands are 95 % intervals; the dashed vertical line is the base's window, in
the axis' unit.
"""

from __future__ import annotations

import io
import itertools

import matplotlib

matplotlib.use("Agg")
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from eval.summary import Summary, size

STYLES: dict[str, tuple[str, str, str]] = {
    "rlm-sft": ("#0072B2", "o", "-"),
    "expert": ("#009E73", "^", "--"),
    "direct": ("#D55E00", "s", "-"),
    "direct-sft": ("#E69F00", "D", "-"),
    "rlm-base-1shot": ("#56B4E9", "P", "-."),
    "rlm-base": ("#CC79A7", "v", "-."),
    "floor": ("#555555", "x", ":"),
}
OTHERS = itertools.cycle([("#000000", "*", "-"), ("#888888", "h", "--")])
DOTS_PER_INCH = 160


def score_vs_length(summary: Summary) -> bytes:
    """The picture as PNG bytes."""
    families = summary.families
    figure = Figure(figsize=(4.0 * len(families) + 0.6, 4.3), layout="constrained")
    panels = figure.subplots(1, len(families), sharey=True, squeeze=False)[0]
    window_name = f"base's window ({summary.config['window']:,})"
    # Ours last, so that it lies on top.
    order = sorted(summary.arms, key=lambda arm: (arm == "rlm-sft", arm == "expert"))
    for panel, family in zip(panels, families, strict=True):
        lengths = summary.lengths(family)
        for position, arm in enumerate(order):
            _draw_arm(panel, summary, arm, family, shift=position - (len(order) - 1) / 2)
        window = summary.window_length
        panel.axvline(window, color="#333333", linestyle=(0, (5, 3)), linewidth=1)
        panel.text(window * 1.06, 1.045, window_name, fontsize=8, color="#333333")
        panel.set_xscale("log", base=2)
        panel.set_xlim(min(*lengths, window) / 1.6, max(*lengths, window) * 1.9)
        panel.set_xticks(lengths, [size(length) for length in lengths])
        panel.minorticks_off()
        panel.set_ylim(-0.04, 1.10)
        panel.set_title(family, fontweight="bold", fontsize=12)
        panel.set_xlabel("context length (tokens of 4 bytes)")
        panel.grid(axis="y", color="#dddddd", linewidth=0.7)
        panel.set_axisbelow(True)
        for side in ("top", "right"):
            panel.spines[side].set_visible(False)
    panels[0].set_ylabel("score (mean, 95 % interval)")
    handles: dict[str, Artist] = {}
    for panel in panels:
        for handle, label in zip(*panel.get_legend_handles_labels(), strict=True):
            handles[label] = handle
    labels = [arm for arm in summary.arms if arm in handles]
    if labels:
        figure.legend(
            [handles[label] for label in labels],
            labels,
            loc="outside lower center",
            ncols=len(labels),
            frameon=False,
        )
    warning = " and ".join(_warnings(summary))
    if warning:
        figure.suptitle(warning, color="#B00020", fontweight="bold")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DOTS_PER_INCH, facecolor="white", metadata={})
    return buffer.getvalue()


def _warnings(summary: Summary) -> list[str]:
    found = ["INCOMPLETE"] if summary.incomplete else []
    return found + (["smoke run, not to be quoted"] if summary.smoke else [])


def _draw_arm(panel: Axes, summary: Summary, arm: str, family: str, shift: float) -> None:
    if arm not in STYLES:
        STYLES[arm] = next(OTHERS)
    colour, marker, line = STYLES[arm]
    found = [
        (cell.length, cell.score)
        for length in summary.lengths(family)
        if (cell := summary.cell(arm, family, length)) is not None and cell.score is not None
    ]
    if not found:
        return
    # Arms with equal scores would hide each other: each is moved sideways by a hair.
    spread = 1.035 if len(summary.lengths(family)) < 4 else 1.09
    x = [length * spread**shift for length, _ in found]
    y = [score.mean for _, score in found]
    low, high = [score.low for _, score in found], [score.high for _, score in found]
    ours = arm == "rlm-sft"
    panel.fill_between(x, low, high, color=colour, alpha=0.16 if ours else 0.07, linewidth=0)
    panel.vlines(x, low, high, color=colour, alpha=0.55, linewidth=1)
    panel.plot(
        x,
        y,
        color=colour,
        marker=marker,
        linestyle=line,
        linewidth=2.4 if ours else 1.4,
        markersize=6.5 if ours else 5,
        label=arm,
    )
