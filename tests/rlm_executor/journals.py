"""Journals written event by event, without a model and without a sandbox."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from rlm_executor import Completion, RLMCard, RLMResult, Usage
from rlm_executor.journal import Journal
from rlm_executor.sandbox.host import Cell

HOSTILE = "</script><img src=x onerror=\"document.title='owned'\"><!--<script>{{script}}\ud800"
CARD = RLMCard().model_dump(mode="json")
OK = Cell("ok", "printed", 7, "", "", False, False, 0.25)


def begin(path: Path, question: str = "Who is Mara?", **facts: Any) -> Journal:
    """A journal with its first line."""
    journal = Journal(path, None)
    told = {
        "context": {"type": "str", "chars": 4_000_000, "lines": 43, "preview": "It was"},
        "task": {"id": "niah-1", "family": "niah", "length": 1024},
        "models": ["root", "leaf"],
        "prelude": [],
        "card": CARD,
    }
    journal.run(question=question, **told | facts)
    return journal


def turn(journal: Journal, number: int, reply: str, code: str = "", cell: Cell = OK) -> None:
    """A root turn with one cell."""
    messages = [{"role": "user", "content": f"message {i}"} for i in range(number + 1)]
    event = journal.asked(number, messages, "")
    journal.replied(event, Completion(reply, Usage(10, 5, 1)), 1, 0.5)
    if code:
        journal.cell(number, number + 1, code, cell)


def call(journal: Journal, cell: int, prompt: str, reply: str, **facts: Any) -> None:
    """A sub-call; it comes before its cell."""
    row = {"type": "call", "cell": cell, "prompt": prompt, "prompt_chars": len(prompt)}
    row |= {"reply": reply, "usage": asdict(Usage(3, 2, 1)), "seconds": 0.1}
    journal.record(row | facts)


def end(journal: Journal, answer: str = "the smith", stop: str = "answered") -> None:
    """The last line; at the top it closes the file."""
    root, sub = Usage(30, 15, 3), Usage(6, 4, 2)
    journal.end(asdict(RLMResult(answer, stop, "answer", 3, 0, root, sub, 2.5, "sealed", None)))
    if not journal.node:
        journal.close()


def whole(path: Path, **texts: str) -> None:
    """A finished run of two turns and one sub-call."""
    journal = begin(path, texts.get("question", "Who is Mara?"))
    call(journal, 1, texts.get("prompt", "Is she here?"), texts.get("reply", "No."))
    turn(journal, 0, f"I look.\n{texts.get('code', 'look()')}", texts.get("code", "look()"))
    turn(journal, 1, "Done.", "answer()")
    end(journal, texts.get("answer", "the smith"))
