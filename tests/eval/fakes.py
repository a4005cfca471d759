"""Small grids, made-up rows and a stand-in server for the tests of ``eval/``."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import yaml

from eval.grid import EvalConfig

COST = {
    "prompt_tokens_per_second": 1000,
    "completion_tokens_per_second": 100,
    "run_overhead_seconds": 0.5,
    "scan_seconds_per_mebibyte": 1,
    "write_seconds_per_mebibyte": 2,
    "bytes_per_token": 4,
    "turns": {"rlm": 3, "expert": 3},
    "root_prompt_tokens": 500,
    "root_completion_tokens": 50,
    "answer_tokens": 20,
}


def settings(**changes: Any) -> dict[str, Any]:
    """A small evaluation as the mapping that its YAML would hold."""
    return {
        "title": "small",
        "purpose": "smoke",
        "base": "assets/none",
        "window": 1024,
        "answer_max_tokens": 64,
        "seed": 700_100,
        "concurrency": 4,
        "progress_seconds": 0.2,
        "cells": [
            {"family": "niah", "length": 1024, "windows": 3, "questions": 2},
            {"family": "oolong", "length": 1024, "windows": 3, "questions": 2, "concurrency": 2},
        ],
        "arms": [
            {"name": "direct", "kind": "direct"},
            {"name": "floor", "kind": "floor"},
        ],
        "cost": COST,
    } | changes


def small(**changes: Any) -> EvalConfig:
    """The same as a configuration."""
    return EvalConfig.model_validate(settings(**changes))


def write_config(path: Path, **changes: Any) -> Path:
    """The same as a file."""
    path.write_text(yaml.safe_dump(settings(**changes)), encoding="utf-8")
    return path


Reply = Callable[[str, list[dict[str, str]]], str]


@contextmanager
def server(
    reply: Reply, *, models: tuple[str, ...] = ("base",), window: int = 4096, delay_s: float = 0.0
) -> Iterator[str]:
    """An OpenAI-compatible server on a free port; counts a token for 4 bytes."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            return None

        def do_GET(self) -> None:
            data = [{"id": model, "max_model_len": window} for model in models]
            self._send({"data": data})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            tokens = sum(len(message["content"]) for message in body["messages"]) // 4
            if self.path == "/tokenize":
                self._send({"count": tokens, "max_model_len": window})
                return
            time.sleep(delay_s)
            text = reply(body["model"], body["messages"])
            choice = {"message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
            usage = {"prompt_tokens": tokens, "completion_tokens": len(text) // 4}
            self._send({"choices": [choice], "usage": usage})

        def _send(self, value: Any) -> None:
            data = json.dumps(value).encode()
            try:
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)
            except OSError:
                self.close_connection = True  # the client was killed

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: object) -> None:
            return None  # killed clients are part of the tests

    with Server(("127.0.0.1", 0), Handler) as live:
        threading.Thread(target=live.serve_forever, kwargs={"poll_interval": 0.05}).start()
        try:
            yield f"http://127.0.0.1:{live.server_address[1]}/v1"
        finally:
            live.shutdown()
