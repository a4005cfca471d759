"""From the configuration to live arms: the server, its models, one solver an arm.

    async with served(config, run, endpoint) as base_url, AsyncExitStack() as stack:
        await check_models(config, base_url)
        solvers, meters = await make_solvers(config, run, base_url, stack)

Without an endpoint the server is ours: vLLM with the base and the run's adapters, for as long as
the block lasts. A server that cannot serve the grid is refused before anything runs.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

from eval.example import Examples
from eval.grid import REPOSITORY, EvalConfig, card_path
from eval.solvers import (
    Direct,
    Floor,
    Loop,
    Metered,
    Solver,
    TokenCounter,
    expert_root,
    http_json,
)
from rlm_executor import CachedLM, OpenAILM, RLMCard
from rlm_executor.config import load_config
from rlm_executor.errors import ConfigError, EnvironmentFault, LMError
from serve.config import ServeConfig
from serve.engine import Engine


async def make_solvers(
    config: EvalConfig, run: Path, base_url: str, stack: contextlib.AsyncExitStack
) -> tuple[dict[str, Solver], list[Metered]]:
    """One solver an arm; a model is one client, shared by all arms that use it."""
    clients: dict[str, Metered] = {}

    def client(model: str) -> Metered:
        if model not in clients:
            lm = OpenAILM(base_url, model, concurrency=2 * config.concurrency)
            stack.push_async_callback(lm.aclose)
            clients[model] = Metered(lm)
        return clients[model]

    leaf = CachedLM(client(config.leaf))
    journals = run / "eval" / "journals"
    needs_card = any(arm.kind in ("rlm", "expert") for arm in config.arms)
    card = RLMCard.load(card_path(config, run)) if needs_card else RLMCard()
    examples = Examples(run / "eval" / "examples", card, config.expert_seed)
    if any(arm.example for arm in config.arms):
        await examples.prepare(sorted({cell.family for cell in config.cells}))
    solvers: dict[str, Solver] = {}
    for arm in config.arms:
        if arm.kind == "floor":
            solvers[arm.name] = Floor()
        elif arm.kind == "direct":
            counter = TokenCounter(base_url, arm.model)
            solvers[arm.name] = Direct(
                client(arm.model),
                counter,
                window=config.window,
                max_tokens=config.answer_max_tokens,
            )
        else:
            scripted = arm.kind == "expert"
            solvers[arm.name] = Loop(
                expert_root(config.expert_seed) if scripted else partial(client, arm.model),
                leaf,
                card,
                limits=arm.limits,
                journals=journals / arm.name,
                example=examples if arm.example else None,
                isolation=config.isolation,
            )
    return solvers, list(clients.values())


@contextlib.asynccontextmanager
async def served(config: EvalConfig, run: Path, endpoint: str | None) -> AsyncIterator[str]:
    """The address of the server: the one given, or one that lives as long as this block."""
    if endpoint is not None:
        yield endpoint.rstrip("/").removesuffix("/v1") + "/v1"
        return
    if config.serve is None:
        raise ConfigError("serve", "is empty and no --endpoint is given", "name a serving config")
    for name, folder in config.adapters.items():
        if not (run / folder / "adapter_model.safetensors").exists():
            raise ConfigError(f"adapters: {name}", f"the run has no {folder}", "train first")
    engine = load_config(ServeConfig, REPOSITORY / config.serve).in_run(run).engine
    adapters = {name: run / folder for name, folder in config.adapters.items()}
    # The port is any free one, so that a server that runs beside this is not in the way.
    changes = {"model": str(REPOSITORY / config.base), "adapters": adapters, "port": None}
    async with Engine(engine.model_copy(update=changes)) as server:
        yield server.base_url


async def check_models(config: EvalConfig, base_url: str) -> None:
    """Refuse early a server that lacks a model of the grid or has a smaller window.

    Raises:
        EnvironmentFault: no server, or a model is missing.
        ConfigError: its window is smaller than the config's.
    """
    try:
        listed = (await http_json(f"{base_url}/models"))["data"]
    except (LMError, KeyError, TypeError) as error:
        raise EnvironmentFault(
            f"no usable server at {base_url} ({error}); start it with `make serve`, or leave "
            "--endpoint out"
        ) from error
    wanted = {config.leaf} | {arm.model for arm in config.arms if arm.kind in ("direct", "rlm")}
    missing = wanted - {model["id"] for model in listed}
    if missing:
        raise EnvironmentFault(
            f"the server at {base_url} serves {', '.join(model['id'] for model in listed)}; the "
            f"grid also needs {', '.join(sorted(missing))}"
        )
    for model in listed:
        window = model.get("max_model_len")
        if model["id"] in wanted and window is not None and window < config.window:
            raise ConfigError(
                "window",
                f"is {config.window}, but {model['id']} is served with {window}",
                "set it to the served window, or serve with a larger one",
            )
