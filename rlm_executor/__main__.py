"""One question from the command line.

    python -m rlm_executor "Who is Mara?" --context book.txt \
        --endpoint http://localhost:8000/v1 --model rlm --sub-model base

The answer goes to stdout, one line a turn to stderr. The API key is read from OPENAI_API_KEY.
Exit code: 0 with an answer, 1 without one, 2 for a wrong argument.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import json
import os
import sys
from pathlib import Path
from typing import Any

from rlm_executor.card import RLMCard
from rlm_executor.cli import run_cli
from rlm_executor.context import Context
from rlm_executor.dialect import DIALECTS
from rlm_executor.errors import ConfigError
from rlm_executor.openai_lm import OpenAILM
from rlm_executor.result import RLMResult
from rlm_executor.rlm import RLM
from rlm_executor.sandbox.tiers import ISOLATIONS


def main(arguments: list[str] | None = None) -> int:
    """Parse the arguments, run, print."""
    parser = argparse.ArgumentParser(prog="rlm_executor", description="Ask about a long context.")
    parser.add_argument("question")
    parser.add_argument("--context", type=Path, required=True, help="a UTF-8 text file")
    parser.add_argument("--endpoint", required=True, help="OpenAI-compatible server, ends in /v1")
    parser.add_argument("--model", required=True, help="the root model's name")
    parser.add_argument(
        "--sub-model", help="answers sub-calls (default: as the card says, else --model)"
    )
    parser.add_argument("--card", type=Path, help="rlm.json or its folder (default: built in)")
    parser.add_argument("--dialect", choices=DIALECTS, help="instead of the card's")
    parser.add_argument("--max-turns", type=int)
    parser.add_argument("--max-seconds", type=float)
    parser.add_argument(
        "--isolation",
        choices=ISOLATIONS,
        default="sealed",
        help="what holds the model's code (default: sealed)",
    )
    parser.add_argument("--journal", type=Path, help="write the run's events here")
    parser.add_argument("--json", action="store_true", help="print the whole result as JSON")
    args = parser.parse_args(arguments)

    card = RLMCard.load(args.card) if args.card else RLMCard()
    if args.dialect:
        card = card.model_copy(update={"dialect": DIALECTS[args.dialect]})
    given = {"max_turns": args.max_turns, "max_seconds": args.max_seconds}
    changes = {field: value for field, value in given.items() if value is not None}
    try:
        limits = dataclasses.replace(card.limits, **changes)
    except ValueError as error:
        raise ConfigError("--max-turns/--max-seconds", "out of range", "give more") from error
    context = Context.from_file(args.context)
    root = OpenAILM(args.endpoint, args.model, api_key=os.environ.get("OPENAI_API_KEY", "EMPTY"))
    # A card's "base" is a name on the server that serves its adapter; without one, one model does.
    sub = _sub_model(args.sub_model or (card.sub_model if args.card else "self"), root)
    rlm = RLM(
        root,
        sub,
        card,
        limits=limits,
        journal=args.journal,
        on_event=_show,
        isolation=args.isolation,
    )
    result = asyncio.run(_run(rlm, args.question, context))
    if args.json:
        print(json.dumps(dataclasses.asdict(result), default=str, ensure_ascii=False))
    else:
        print(result.answer)
    print(_summary(result), file=sys.stderr)
    return 0 if result.answer else 1


def _sub_model(name: str, root: OpenAILM) -> OpenAILM:
    if name in ("self", root.model):
        return root
    return OpenAILM(root.base_url, name, api_key=os.environ.get("OPENAI_API_KEY", "EMPTY"))


async def _run(rlm: RLM, question: str, context: Context) -> RLMResult:
    try:
        return await rlm.run(question, context)
    finally:
        await rlm.root.aclose()
        await rlm.sub.aclose()


def _show(event: dict[str, Any]) -> None:
    if event["type"] == "turn":
        said = event.get("message") or f"{event.get('blocks')} blocks"
        print(f"turn {event['turn'] + 1}: {said}", file=sys.stderr)
    elif event["type"] == "cell":
        line = f"  cell {event['cell']}: {event['status']}, {event['seconds']:.2f} s"
        print(f"{line}, {event['output_chars']} characters printed", file=sys.stderr)
    elif event["type"] == "call" and "error" in event:
        print(f"  sub-call failed: {event['error']}: {event['message']}", file=sys.stderr)


def _summary(result: RLMResult) -> str:
    return (
        f"{result.stop_reason} after {result.turns} turns and {result.sub.calls} sub-calls, "
        f"{result.seconds:.1f} s, {result.root.prompt_tokens + result.sub.prompt_tokens} tokens "
        f"read, {result.root.completion_tokens + result.sub.completion_tokens} written"
    )


if __name__ == "__main__":
    run_cli(main)
