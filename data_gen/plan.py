"""What a generation will take, before anything is spent: ``--dry-run``.

Two columns: what to expect (``expect`` of the configuration, whose numbers are from runs like it)
and the most that its limits allow.
"""

from __future__ import annotations

from data_gen.config import Expected, GenerateConfig
from data_gen.evaluations import find
from data_gen.rules import FilterConfig
from data_gen.supply import Real, Supply, supply
from rlm_executor import Price, Usage
from rlm_executor.errors import RLMError


def show(config: GenerateConfig) -> str:
    """Print it; what would stop the run at its start, "" if nothing."""
    import rich
    from rich.table import Table

    tasks: Supply | None = None
    problems: list[str] = []
    try:
        tasks = supply(config)
        config.teacher.api_key()
        config.leaf.api_key()
        for evaluation in config.evaluation:
            find(evaluation)
    except RLMError as error:
        problems.append(str(error))
    count = config.tasks if tasks is None else tasks.count
    if count is None:  # as many as it takes
        if config.keep is None:
            return problems[0]
        share = config.expect.kept if config.expect else 1 / config.max_attempts_factor
        count = int(config.keep / share / config.attempts) + 1
    attempts = count * config.attempts
    print(f"tasks: {count} x {config.attempts} attempts = {attempts}")
    if isinstance(tasks, Real):
        print(f"source: {tasks.source}, sha256 {tasks.sha256}")
    print(f"teacher: {told(config.teacher.model, config.teacher.base_url)}")
    print(f"sub-calls: {told(config.leaf.model, config.leaf.base_url)}")
    print(f"rules: {', '.join(rules(config.filter))}")
    columns = {"at most": most(config, attempts)}
    if config.expect is not None:
        columns = {"expected": expected(config, config.expect, attempts), **columns}
    table = Table("")
    for name in columns:
        table.add_column(name, justify="right")
    for key in columns["at most"]:
        table.add_row(key, *(_shown(column.get(key)) for column in columns.values()))
    rich.print(table)
    if config.max_dollars is not None:
        print(f"the run stops before it has spent ${config.max_dollars:,.2f} (max_dollars)")
    return problems[0] if problems else ""


def told(model: str, url: str) -> str:
    """Who it is."""
    return f"{model} at {url}" if model else "scripted, at no cost"


def rules(config: FilterConfig) -> list[str]:
    """The rules that are on, with what they are set to."""
    on = {name: value for name, value in config.model_dump().items() if value not in (None, False)}
    return [name if value is True else f"{name}={value}" for name, value in on.items()]


def expected(config: GenerateConfig, one: Expected, attempts: int) -> dict[str, float | None]:
    """All attempts, each as ``one``."""
    turns, calls = attempts * one.turns, attempts * one.calls
    root = Usage(int(turns * one.prompt_tokens), int(turns * one.reply_tokens))
    sub = Usage(int(calls * one.call_prompt_tokens), int(calls * one.call_reply_tokens))
    return {**_told(config, turns, calls, root, sub), "trajectories kept": attempts * one.kept}


def most(config: GenerateConfig, attempts: int) -> dict[str, float | None]:
    """Every attempt at all its limits."""
    card, limits = config.card, config.card.limits
    turns = attempts * (limits.max_turns + 1)  # the landing turn
    calls = attempts * limits.max_calls
    root = Usage(turns * card.root_window, turns * limits.max_tokens_per_turn)
    sub = Usage(calls * card.sub_window, calls * limits.sub_max_tokens)
    figures = _told(config, turns, calls, root, sub)
    dollars = figures["dollars"]
    if dollars is not None and limits.max_dollars is not None:
        figures["dollars"] = min(dollars, attempts * limits.max_dollars)
    if figures["dollars"] is not None and config.max_dollars is not None:
        figures["dollars"] = min(figures["dollars"], config.max_dollars)
    return {**figures, "trajectories kept": config.keep or attempts}


def _told(
    config: GenerateConfig, turns: float, calls: float, root: Usage, sub: Usage
) -> dict[str, float | None]:
    used = [(config.teacher, root), (config.leaf, sub)]
    costs = [_dollars(model.price, usage) for model, usage in used if model.kind == "endpoint"]
    known = [cost for cost in costs if cost is not None]
    dollars = sum(known) if len(known) == len(costs) else None
    return {
        "root turns": turns,
        "sub-calls": calls,
        "root tokens read": root.prompt_tokens,
        "root tokens written": root.completion_tokens,
        "sub-call tokens read": sub.prompt_tokens,
        "sub-call tokens written": sub.completion_tokens,
        "dollars": dollars,
    }


def _dollars(price: Price | None, usage: Usage) -> float | None:
    return None if price is None else price.of(usage)


def _shown(value: float | None) -> str:
    if value is None:
        return "no price given"
    return f"{value:,.2f}" if value != int(value) else f"{int(value):,}"
