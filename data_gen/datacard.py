"""The dataset card: written from the numbers of the run that made the dataset."""

from __future__ import annotations

from collections import Counter
from typing import Any

from data_gen.config import GenerateConfig
from data_gen.plan import rules

Row = dict[str, Any]
# The texts that contexts are made of, where they are not made up.
_SOURCES = {
    "hops": "Python's standard library (PSF licence) as filler between made-up documents",
    "codeqa": "Python's standard library (PSF licence); contexts past its size: installed packages",
    "pro": "Python's standard library, its help topics (PSF licence); as codeqa past its size",
    "ruler": "Python's standard library (PSF licence) as haystack",
    "straddle": "made up",
    "deep": "made up",
}
_LICENCES = {"longbench-pro": "apache-2.0 (caskcsg/LongBench-Pro)"}


def describe(funnel: Row, tables: dict[str, list[Row]], config: GenerateConfig) -> str:
    """The card.

    Args:
        funnel: ``funnel.json``.
        tables: of the dataset, by name.
        config: that it was made by.
    """
    runs = [row for name, rows in tables.items() if name.startswith("traj") for row in rows]
    turns = [row for name, rows in tables.items() if name.startswith("turns") for row in rows]
    return "\n".join(
        [
            _head("turns-validation" in tables, config),
            "# Trajectories of a recursive language model\n",
            f"{len(runs)} runs of a teacher in the REPL loop of arXiv 2512.24601, {len(turns)} "
            "root turns as training rows.\n",
            f"- teacher: {config.teacher.model or 'scripted experts'}; "
            f"sub-calls: {config.leaf.model or 'scripted'}",
            f"- dialect: `{config.card.dialect.name}`; its full text is in `rlm.json`",
            f"- tasks: {_tasks(config)}",
            f"- sources of the contexts: {_sources(config)}",
            f"- rules: {', '.join(rules(config.filter)) or 'none'}",
            f"- tokens read and written: {funnel['tokens']['root']:,} by the root, "
            f"{funnel['tokens']['sub']:,} by sub-calls (all attempts)",
            f"- cost: {_cost(funnel)}\n",
            "## From attempts to rows\n",
            _families(funnel),
            f"Dropped by rule: {_listed(funnel['dropped'])}.",
            f"Turns dropped: {_listed(funnel['turns_dropped'])}. "
            f"Turns whose code failed, in kept runs: {funnel['error_turns_not_trained']}.",
            f"Mended by rule: {_listed(funnel['repaired'])}.",
            f"Requests that failed: {_listed(funnel['failed_requests'])}.\n",
            "## What is in it\n",
            f"- turns a run: {_counts(Counter(run['turns'] for run in runs))}",
            f"- lengths of the contexts in tokens (bytes/4): {_lengths(runs)}",
            f"- sub-calls: {sum(run['calls'] for run in runs)} in all, "
            f"{_counts(Counter(min(run['calls'], 100) // 10 * 10 for run in runs))} by tens",
            f"- different programs: {_programs(funnel['diversity'])}\n",
            "## Contamination\n",
            _contamination(funnel),
        ]
    )


def _head(validation: bool, config: GenerateConfig) -> str:
    # Of other real sets only their owners can say under which licence pieces of them go on.
    known = config.real is None or config.real["name"] in _LICENCES
    lines = ["---", f"license: {'apache-2.0' if known else 'other'}", "configs:"]
    for name in ("trajectories", "turns"):
        lines += [f"- config_name: {name}", "  data_files:"]
        lines += ["  - split: train", f"    path: dataset/{name}.parquet"]
        if validation:
            lines += ["  - split: validation", f"    path: dataset/{name}-validation.parquet"]
    return "\n".join([*lines, "---"])


def _tasks(config: GenerateConfig) -> str:
    if config.real is not None:
        return f"the data set {config.real['name']}, {config.attempts} attempts each"
    made = f"synthetic with truth by construction, seeds from {config.first_seed} on"
    return f"{made}, {config.attempts} attempts each" if config.attempts > 1 else made


def _sources(config: GenerateConfig) -> str:
    if config.real is not None:
        name = str(config.real["name"])
        return _LICENCES.get(name, f"{name}, under its own licence")
    told = {name: _SOURCES.get(name, "made up") for name in config.families}
    return "; ".join(f"{name}: {source}" for name, source in told.items())


def _cost(funnel: Row) -> str:
    return f"${funnel['dollars_at_most']:.2f} at most" if funnel["dollars_at_most"] else "none"


def _families(funnel: Row) -> str:
    lines = ["| family | attempts | kept | training rows |", "|---|---|---|---|"]
    for name, own in funnel["by_family"].items():
        lines.append(f"| {name} | {own['attempts']} | {own['kept']} | {own['turns']} |")
    return "\n".join([*lines, ""])


def _listed(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items()) or "none"


def _counts(counter: Counter[int]) -> str:
    return ", ".join(f"{value} ({count})" for value, count in sorted(counter.items()))


def _lengths(runs: list[Row]) -> str:
    buckets = Counter(1 << max(0, run["length"].bit_length() - 1) for run in runs)
    return _counts(buckets) + ", each up to the next"


def _programs(diversity: Row) -> str:
    by_family = ", ".join(
        f"{name} {own['distinct']} of {own['programs']} (commonest {own['commonest_share']:.1%})"
        for name, own in diversity["by_family"].items()
    )
    return f"{diversity['distinct']} of {diversity['programs']} after renaming; {by_family}"


def _contamination(funnel: Row) -> str:
    checks = funnel.get("contamination")
    if not checks:
        return (
            "Synthetic tasks of training, development and test have other seeds, names, wordings "
            "and layouts; seeds from 700000 on are refused here. No evaluation set was compared "
            "(`evaluation` of the configuration names those to compare)."
        )
    lines = ["| evaluation set | texts | same task ids | texts that share 13 words in a row |"]
    lines.append("|---|---|---|---|")
    for name, one in checks["sets"].items():
        lines.append(f"| {name} | {one['texts']} | {len(one['shared_ids'])} | {one['overlaps']} |")
    lines.append("")
    lines += [
        f"- {name}, {example['task_id']}: {example['gram']!r}"
        for name, one in checks["sets"].items()
        for example in one["examples"]
    ]
    if any(one["overlaps"] for one in checks["sets"].values()):
        lines.append("\nQuestions of a synthetic family share their wordings by construction.")
    return "\n".join(lines)
