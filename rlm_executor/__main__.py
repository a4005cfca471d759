"""One question from the command line.

    python -m rlm_executor "Who is Mara?" --context book.txt \
        --endpoint http://localhost:8000/v1 --model rlm --sub-model base

The answer goes to stdout; what the run does goes to stderr, as a tree on a terminal, else one line
an event. The API key is read from OPENAI_API_KEY. Exit code: 0 with an answer, 1 without one, 2
for a wrong argument, 130 after Ctrl-C, which prints the best answer so far.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import http.client
import json
import os
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, NoReturn

from rlm_executor.budget import Limits, Price
from rlm_executor.card import RLMCard
from rlm_executor.cli import run_cli
from rlm_executor.context import Context
from rlm_executor.dialect import DIALECTS
from rlm_executor.errors import ConfigError, EnvironmentFault, InputError
from rlm_executor.journal import Event
from rlm_executor.live import View, view_of
from rlm_executor.openai_lm import OpenAILM
from rlm_executor.result import RLMResult
from rlm_executor.rlm import RLM, ROUTES
from rlm_executor.sandbox.tiers import ISOLATIONS

_MODELS_TIMEOUT_S = 20.0
_NAMES_SHOWN = 20
_LEAST_WINDOW = 256  # of a card
# A server that cannot list its models may serve them all the same.
_NO_LIST = (404, 405, 501)
_LIMITS = {  # option (its name is that of the field of Limits): type, help
    "--max-turns": (int, "root replies"),
    "--max-calls": (int, "sub-calls, in the whole tree"),
    "--max-seconds": (float, "wall clock"),
    "--max-tokens": (int, "read and written, in the whole tree"),
    "--max-dollars": (float, "in the whole tree; needs --price"),
    "--max-depth": (int, "of runs in runs; 1: none"),
}


class _Parser(argparse.ArgumentParser):
    """One line for what is wrong, as everywhere here."""

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}; see {self.prog} --help")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="rlm_executor", description="Ask about a long context.")
    parser.add_argument("question")
    parser.add_argument(
        "--context",
        action="append",
        required=True,
        metavar="[NAME=]PATH",
        help="a UTF-8 text file (.jsonl: its records) or a folder; repeat it for several, which "
        "NAME= makes variables of their own",
    )
    parser.add_argument("--endpoint", required=True, help="OpenAI-compatible server, ends in /v1")
    parser.add_argument("--model", required=True, help="the root model's name")
    parser.add_argument(
        "--sub-model", help="answers sub-calls (default: as the card says, else --model)"
    )
    parser.add_argument("--card", type=Path, help="rlm.json or its folder (default: built in)")
    parser.add_argument("--dialect", help=f"instead of the card's: {', '.join(DIALECTS)}")
    parser.add_argument(
        "--route",
        choices=ROUTES,
        default="auto",
        help="auto: one plain call for what fits the sub-model's window (default)",
    )
    for option, (kind, what) in _LIMITS.items():
        parser.add_argument(option, type=kind, metavar="N", help=what)
    parser.add_argument(
        "--price",
        action="append",
        default=[],
        metavar="MODEL=PROMPT:COMPLETION",
        help="dollars for a million tokens; repeat it for several models",
    )
    parser.add_argument(
        "--isolation",
        choices=ISOLATIONS,
        default="sealed",
        help="what holds the model's code (default: sealed)",
    )
    parser.add_argument("--journal", type=Path, help="write the run's events here")
    parser.add_argument("--json", action="store_true", help="print the whole result as JSON")
    parser.add_argument("--quiet", action="store_true", help="nothing but the answer and errors")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Parse the arguments, run, print."""
    args = _parser().parse_args(arguments)
    card = _card(args)
    limits = _limits(args, card.limits)
    prices = dict(map(_price, args.price))
    context = _context(args.context)
    if not context.bytes:
        raise InputError(f"context {context.label} is empty; give what is to be asked about")
    key = os.environ.get("OPENAI_API_KEY", "EMPTY")
    root = OpenAILM(args.endpoint, args.model, api_key=key)
    # A card's "base" is a name on the server that serves its adapter; without one, one model does.
    name = args.sub_model or (card.sub_model if args.card else "self")
    sub = root if name in ("self", root.model) else OpenAILM(root.base_url, name, api_key=key)
    if limits.max_dollars is not None:
        for model in (root.model, sub.model):
            if model not in prices:
                fix = f"give --price {model}=PROMPT:COMPLETION, in dollars a million tokens"
                raise ConfigError("--max-dollars", f"needs the price of {model}", fix)
    if args.journal is not None:
        _writable(args.journal)
    windows = _served(root.base_url, key, [root.model, sub.model])
    for field, model in (("root_window", root.model), ("sub_window", sub.model)):
        if window := windows.get(model):  # a card's own is what its model was trained with
            fits = min(window, getattr(card, field)) if args.card else window
            card = card.model_copy(update={field: max(fits, _LEAST_WINDOW)})

    told = _Told(view_of(quiet=args.quiet))
    with told.view:
        rlm = RLM(
            told.view.watch(root),
            told.view.watch(sub),
            card,
            limits=limits,
            journal=args.journal,
            on_event=told,
            isolation=args.isolation,
            prices=prices or None,
            route=args.route,
        )
        interrupted = False
        try:
            facts = dataclasses.asdict(asyncio.run(_run(rlm, args.question, context)))
        except KeyboardInterrupt:
            if told.end is None:  # it had not begun
                raise
            facts, interrupted = told.end | {"journal": args.journal}, True
    if args.json:
        print(json.dumps(facts, default=str, ensure_ascii=False))
    elif facts["answer"] or not interrupted:
        print(_shown(facts["answer"]))
    if not args.quiet:
        print(told.summary(facts, sub.model), file=sys.stderr)
    return 130 if interrupted else 0 if facts["answer"] else 1


class _Told:
    """What the events have said: passed on to the view, and kept for the end."""

    def __init__(self, view: View) -> None:
        self.view, self.route = view, ""
        self.end: Event | None = None  # the result, also of a run that was interrupted

    def __call__(self, event: Event) -> None:
        if "node" not in event and event["type"] == "run":
            self.route = event.get("route", "")
        if "node" not in event and event["type"] == "end":
            self.end = {key: value for key, value in event.items() if key != "type"}
        self.view(event)

    def summary(self, facts: dict[str, Any], sub: str) -> str:
        """One line: how it ended, and what it took."""
        used = (facts["root"], facts["sub"])
        if self.route == "plain":
            way = f"by one plain call to {sub}, no code was run"
        else:
            way = f"after {facts['turns']} turns and {facts['sub']['calls']} sub-calls"
        told = f"{facts['stop_reason']} {way}, {facts['seconds']:.1f} s, "
        told += f"{sum(usage['prompt_tokens'] for usage in used)} tokens read, "
        told += f"{sum(usage['completion_tokens'] for usage in used)} written"
        if facts["unknown_calls"]:
            told += f", {facts['unknown_calls']} calls of unknown size"
        return told if facts["dollars"] is None else f"{told}, ${facts['dollars']:.4f}"


async def _run(rlm: RLM, question: str, context: Context) -> RLMResult:
    try:
        return await rlm.run(question, context)
    finally:
        await rlm.aclose()


def _card(args: argparse.Namespace) -> RLMCard:
    card = RLMCard.load(args.card) if args.card else RLMCard()
    if args.dialect is None:
        return card
    if args.dialect not in DIALECTS:
        raise ConfigError("--dialect", f"is {args.dialect!r}", f"use {', '.join(DIALECTS)}")
    return card.model_copy(update={"dialect": DIALECTS[args.dialect]})


def _limits(args: argparse.Namespace, limits: Limits) -> Limits:
    for option in _LIMITS:
        field = option[2:].replace("-", "_")
        value = getattr(args, field)
        if value is not None:
            try:
                limits = dataclasses.replace(limits, **{field: value})
            except ValueError as error:
                raise ConfigError(option, f"{value} is out of range", "give more") from error
    return limits


def _price(text: str) -> tuple[str, Price]:
    model, _, numbers = text.rpartition("=")
    prompt, _, completion = numbers.partition(":")
    try:
        if not model:
            raise ValueError("no model")
        return model, Price(prompt=float(prompt), completion=float(completion))
    except ValueError as error:
        fix = "give MODEL=PROMPT:COMPLETION, in dollars a million tokens"
        raise ConfigError("--price", f"is {text!r}", fix) from error


def _context(given: list[str]) -> Context:
    """What the ``--context`` options name.

    Raises:
        InputError: missing, unreadable, binary, or named and unnamed ones mixed.
    """
    named: dict[str, Path] = {}
    paths: list[Path] = []
    for text in given:
        name, equals, path = text.partition("=")
        if not equals or not name.isidentifier() or Path(text).exists():
            paths.append(Path(text))
        elif name in named:
            raise InputError(f"--context {name}=... is given twice; use another name")
        else:
            named[name] = Path(path)
    if named and paths:
        raise InputError("--context: give all of them as NAME=PATH, or none")
    if named:
        return Context.named(**named)
    return Context.of(paths[0]) if len(paths) == 1 else Context.from_files(paths)


def _writable(path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.open("a").close()
    except OSError as error:
        raise InputError(f"--journal {path} cannot be written ({error.strerror})") from error


def _served(base_url: str, key: str, names: list[str]) -> dict[str, int]:
    """Ask the server what it serves, before anything is spent.

    Returns:
        The windows of its models in tokens, of those that it tells (vLLM does).

    Raises:
        ConfigError: the address is none, or it does not serve one of ``names``.
        EnvironmentFault: it cannot be reached, or does not answer as such a server does.
    """
    url = f"{base_url}/models"
    fix = "give --endpoint http://HOST:PORT/v1"
    if not url.startswith(("http://", "https://")):
        raise ConfigError("--endpoint", f"is {base_url!r}", fix)
    try:
        request = urllib.request.Request(url, headers={"Authorization": f"Bearer {key}"})
        with urllib.request.urlopen(request, timeout=_MODELS_TIMEOUT_S) as response:
            listed = json.load(response)["data"]
        served = [str(model["id"]) for model in listed]
        windows = {str(model["id"]): model.get("max_model_len") for model in listed}
    except urllib.error.HTTPError as error:
        if error.code in _NO_LIST:
            return {}
        why = "set OPENAI_API_KEY" if error.code in (401, 403) else "is the server well?"
        raise EnvironmentFault(f"--endpoint: {url} answers HTTP {error.code}; {why}") from error
    except OSError as error:  # refused, no such host, timed out
        reason = getattr(error, "reason", error)
        raise EnvironmentFault(
            f"--endpoint: {base_url} cannot be reached ({reason}); is the server up?"
        ) from error
    except (ValueError, LookupError, TypeError, AttributeError, http.client.HTTPException) as error:
        told = f"{url} does not list models as OpenAI-compatible servers do"
        raise ConfigError("--endpoint", told, fix) from error
    for name in names:
        if served and name not in served:
            more = f" and {len(served) - _NAMES_SHOWN} more" if len(served) > _NAMES_SHOWN else ""
            known = ", ".join(sorted(served)[:_NAMES_SHOWN]) + more
            raise ConfigError("--model", f"{base_url} does not serve {name!r}", f"it has {known}")
    return {name: window for name, window in windows.items() if isinstance(window, int)}


def _shown(answer: str) -> str:
    """The answer as it is; without control characters where a terminal would obey them."""
    if not sys.stdout.isatty():
        return answer
    return "".join(char for char in answer if char.isprintable() or char in "\n\t")


if __name__ == "__main__":
    run_cli(main)
