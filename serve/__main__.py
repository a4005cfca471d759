"""Serve a run: vLLM with base and adapters, and the endpoint in front, until Ctrl-C.

    python -m serve --config configs/serve/tiny.yaml --run runs/demo [--set gateway.port=8080]

vLLM's output goes to RUN/logs/vllm.log; what is kept of requests, to RUN/serve/.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
from pathlib import Path

import uvicorn

from rlm_executor import OpenAILM, RLMCard
from rlm_executor.cli import run_cli
from rlm_executor.config import load_config
from serve.config import GatewayConfig, ServeConfig
from serve.engine import Engine, check_port, free_port
from serve.gateway import build_app

DRAIN_S = 5  # for requests in flight after Ctrl-C


def main() -> int:
    """Start, serve, stop."""
    parser = argparse.ArgumentParser(prog="python -m serve", description=__doc__.split("\n")[0])
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--run", type=Path, default=Path("runs/demo"))
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    arguments = parser.parse_args()
    config = load_config(ServeConfig, arguments.config, arguments.set).in_run(arguments.run)
    gateway = config.gateway
    if gateway.port is not None:
        check_port(gateway.host, gateway.port, "gateway.port")  # before vLLM takes a minute
    # SIGTERM leaves by the same way as Ctrl-C, past every `finally`.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with Engine(config.engine) as engine:
        card = find_card(gateway, engine.models)
        sub = config.engine.base_name
        if card is not None:
            sub = {"base": sub, "self": gateway.root}.get(card.sub_model, card.sub_model)
        app = build_app(
            gateway,
            engine.base_url,
            card=card,
            sub=sub,
            make_lm=lambda name: OpenAILM(
                engine.base_url, name, concurrency=gateway.lm_concurrency
            ),
            kept=arguments.run / "serve",
        )
        port = gateway.port or free_port(gateway.host)
        print(invitation(gateway, port, gateway.model if card else sub), flush=True)
        server = uvicorn.Config(
            app,
            host=gateway.host,
            port=port,
            log_level="warning",
            timeout_graceful_shutdown=DRAIN_S,
        )
        uvicorn.Server(server).run()
    return 0


def find_card(gateway: GatewayConfig, models: list[str]) -> RLMCard | None:
    """The root's card, or None with a line that says why there is no loop.

    Raises:
        InputError: it is there and damaged.
    """
    if gateway.root in models and (gateway.card / "rlm.json").exists():
        return RLMCard.load(gateway.card)
    what = f"{gateway.card}/rlm.json" if gateway.root in models else f"adapter {gateway.root}"
    print(
        f"serve: no {what} yet, so no model {gateway.model}; `make data train` makes it",
        file=sys.stderr,
    )
    return None


def invitation(gateway: GatewayConfig, port: int, model: str) -> str:
    """A command to try, for a person to paste."""
    body = {
        "model": model,
        "messages": [
            {"role": "user", "content": "One of the special magic numbers for otter is: 4839201."},
            {"role": "user", "content": "What is the special magic number for otter?"},
        ],
    }
    return (
        f"serve: {model} is ready at http://{gateway.host}:{port}/v1 (Ctrl-C stops everything)\n"
        f"curl -s http://{gateway.host}:{port}/v1/chat/completions "
        f"-H 'Content-Type: application/json' -d '{json.dumps(body)}'"
    )


if __name__ == "__main__":
    run_cli(main)
