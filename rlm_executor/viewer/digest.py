"""One journal as the page shows it: a row of the table, and all that is opened on demand.

What models and code wrote stands as it is recorded, cut at a limit that is stated. What the
executor tells of its surroundings (models' names, errors of servers, names of contexts) is
without addresses and folders.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from rlm_executor.errors import InputError
from rlm_executor.files import scrub
from rlm_executor.journal import Event
from rlm_executor.trajectory import Trajectory
from rlm_executor.viewer.sources import Facts, Source

TEXT_CHARS = 20_000  # of a question, message, reply, code, output or answer
CALL_CHARS = 4_000  # of a sub-call's prompt and of its reply: a run may have thousands
ROW_CHARS = 300  # of the question and the answer in the table, where they are searched
COLUMNS = (
    *("name", "arm", "family", "length", "score", "stop", "dropped", "turns", "calls"),
    *("tokens_root", "tokens_sub", "seconds", "errors", "question", "answer", "words"),
)
UNFINISHED = "unfinished"  # where a journal has no end

_ERROR_TYPE = re.compile(r"[A-Za-z_][\w.]*")
Shown = dict[str, Any]


def digest(source: Source) -> tuple[Shown, Shown]:
    """The row by column, and the run with all that is below it.

    Raises:
        InputError: the journal is damaged.
    """
    trajectory = _read(source)
    if trajectory is None:  # killed while it wrote its first line
        row = dict.fromkeys(COLUMNS) | {"name": source.name, "stop": UNFINISHED}
        return row | _of_row(source.facts), {"name": source.name, "turns": []}
    try:
        return _row(trajectory, source), {"name": source.name, **_run(trajectory)}
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        what = f"{type(error).__name__} {error}"
        raise InputError(f"journal {source.path} is damaged: {what}") from error


def _read(source: Source) -> Trajectory | None:
    with source.path.open("rb") as file:
        if not file.readline().endswith(b"\n"):
            return None
    return Trajectory.read(source.path)


def _row(trajectory: Trajectory, source: Source) -> Shown:
    run, end = trajectory.run, trajectory.end
    task = run.get("task") or {}
    root, sub = _used(trajectory)
    words = {str(task.get("id", "")), *map(scrub, run["models"]), *_error_types(trajectory)}
    row = {
        "name": source.name,
        "arm": "",
        "family": task.get("family", ""),
        "length": task.get("length"),
        "score": None,
        "stop": end["stop_reason"] if end else UNFINISHED,
        "dropped": None,
        "turns": sum("error" not in turn for turn in trajectory.turn_rows),
        "calls": sub["calls"],
        "tokens_root": _tokens(root),
        "tokens_sub": _tokens(sub),
        "seconds": round(end["seconds"] if end else sum(_seconds(trajectory)), 3),
        "errors": sum(cell["status"] != "ok" for cell in trajectory.cells),
        "question": run["question"][:ROW_CHARS],
        "answer": end["answer"][:ROW_CHARS] if end else "",
        "words": " ".join(sorted(words)),
    }
    return row | _of_row(source.facts)


def _of_row(facts: Facts) -> Shown:
    """What a data run or an evaluation adds; ``dropped`` is "" where no rule dropped the run."""
    known = {key: facts[key] for key in ("arm", "family", "length", "score") if key in facts}
    return known | ({"dropped": facts["dropped_by"] or ""} if "dropped_by" in facts else {})


def _run(trajectory: Trajectory) -> Shown:
    run, end = trajectory.run, trajectory.end
    card = run.get("card") or {}
    shown = {
        "question": cut(run["question"]),
        "context": _context(run.get("context") or {}),
        "task": run.get("task") or {},
        "models": list(map(scrub, run["models"])),
        "dialect": (card.get("dialect") or {}).get("name", ""),
        "route": run.get("route", ""),
        "turns": list(_turns(trajectory)),
        "end": None,
        "used": dict(zip(("root", "sub"), _used(trajectory), strict=True)),
    }
    if end is not None:
        facts = ("stop_reason", "answer_source", "turns", "error_cells", "seconds")
        more = ("unknown_calls", "dollars", "posture")  # younger than the first journals
        shown["end"] = {key: end[key] for key in facts} | {key: end.get(key) for key in more}
        shown["end"]["answer"] = cut(end["answer"])
    return shown


def _context(context: Event) -> Shown:
    """Kind and size; of the text no more than what the root may have been shown of it."""
    keys = ("type", "chars", "lines", "items", "of")
    shown = {key: context[key] for key in keys if context.get(key)}
    shown["preview"] = context.get("preview", "")
    if context.get("parts"):
        parts = [{"name": scrub(part["name"]), **_context(part)} for part in context["parts"]]
        shown["parts"] = parts
    return shown


def _turns(trajectory: Trajectory) -> Iterator[Shown]:
    """Turns with their cells; calls of no cell stand in one without code, under the last turn."""
    calls: dict[int, list[Shown]] = {}
    for row in trajectory.calls:
        calls.setdefault(row["cell"], []).append(_call(trajectory, row))
    called = {row["child"].rpartition(".")[2] for row in trajectory.calls if "child" in row}
    refused: dict[int, list[str]] = {}
    for row in trajectory.refused:
        if "node" not in row:  # else of a run below
            refused.setdefault(row["cell"], []).append(row["message"])
    cells: dict[int, list[Shown]] = {}
    for row in trajectory.cells:
        own = {"calls": calls.pop(row["cell"], []), "refused": refused.get(row["cell"], [])}
        cells.setdefault(row["turn"], []).append(_cell(row) | own)
    lost = [call for own_calls in calls.values() for call in own_calls]
    for node, child in trajectory.children.items():
        if node not in called:
            lost.append({"prompt": "", "child": _run(child)})
    before = 0
    for row in trajectory.turn_rows:
        delta = row["messages"]
        kept, before = [delta["keep"], before], delta["keep"] + len(delta["add"])
        shown = _turn(row) | {"kept": kept, "cells": cells.pop(row["turn"], [])}
        if "error" not in row:
            before += 1  # the reply itself
        if lost and row is trajectory.turn_rows[-1]:
            shown["cells"].append(_unfinished(lost))
            lost = []
        yield shown
    if lost:
        yield {"turn": None, "sent": [], "cells": [_unfinished(lost)]}


def _turn(row: Event) -> Shown:
    shown = {
        "turn": row["turn"],
        "landing": row["landing"],
        "sent": [{"role": m["role"], "text": cut(m["content"])} for m in row["messages"]["add"]],
        "usage": row.get("usage"),
        "seconds": row.get("seconds"),
    }
    if "error" in row:
        return shown | {"error": scrub(f"{row['error']}: {row['message']}")}
    return shown | {"reply": cut(row["reply"]), "finish": row.get("finish_reason", "")}


def _cell(row: Event) -> Shown:
    return {
        "cell": row["cell"],
        "code": cut(row["code"]),
        "status": row["status"],
        "output": cut(row["output"], of=row["output_chars"]),
        "error": cut(row["error"]),
        "answer": cut(row["answer"], of=row.get("answer_chars", 0)),
        "ready": row["ready"],
        "seconds": row["seconds"],
    }


def _unfinished(calls: list[Shown]) -> Shown:
    return {"cell": None, "code": "", "status": UNFINISHED, "output": "", "calls": calls}


def _call(trajectory: Trajectory, row: Event) -> Shown:
    shown = {
        "prompt": cut(row["prompt"], CALL_CHARS, row.get("prompt_chars", 0)),
        "reply": cut(row.get("reply", ""), CALL_CHARS),
        "usage": row.get("usage"),
        "seconds": row["seconds"],
    }
    if "model" in row:
        shown["model"] = scrub(row["model"])
    if "error" in row:
        shown["error"] = scrub(f"{row['error']}: {row['message']}")
    child = trajectory.children.get(row.get("child", "").rpartition(".")[2])
    if child is not None:
        shown["child"] = _run(child)
    return shown


def _used(trajectory: Trajectory) -> tuple[dict[str, int], dict[str, int]]:
    """Tokens and calls of the root and of all below; of an unfinished run, as far as recorded."""
    if trajectory.end is not None:
        return _usage(trajectory.end["root"]), _usage(trajectory.end["sub"])
    below = [_usage(row.get("usage")) for row in trajectory.calls]
    for child in trajectory.children.values():
        below += _used(child)
    return _sum([_usage(row.get("usage")) for row in trajectory.turn_rows]), _sum(below)


def _usage(usage: Event | None) -> dict[str, int]:
    keys = ("prompt_tokens", "completion_tokens", "calls")
    return {key: (usage or {}).get(key, 0) for key in keys}


def _sum(parts: list[dict[str, int]]) -> dict[str, int]:
    return {key: sum(part[key] for part in parts) for key in _usage(None)}


def _tokens(usage: dict[str, int]) -> int:
    return usage["prompt_tokens"] + usage["completion_tokens"]


def _seconds(trajectory: Trajectory) -> Iterator[float]:
    for row in (*trajectory.turn_rows, *trajectory.cells):
        yield row.get("seconds", 0.0)


def _error_types(trajectory: Trajectory) -> Iterator[str]:
    """Names of the errors of turns, cells and calls, to be searched."""
    for row in (*trajectory.turn_rows, *trajectory.calls):
        if "error" in row:
            yield row["error"]
    for cell in trajectory.cells:
        if cell["status"] != "ok":
            yield cell["status"]
            last = _ERROR_TYPE.match(cell["error"].rstrip().rpartition("\n")[2])
            if last:
                yield last[0]
    for child in trajectory.children.values():
        yield from _error_types(child)


def cut(text: str, limit: int = TEXT_CHARS, of: int = 0) -> str | Shown:
    """``text``, or its beginning with the length of the whole.

    Args:
        text: as it is recorded.
        limit: characters that are kept.
        of: characters of the whole, where the record itself is only its beginning.
    """
    whole = max(of, len(text))
    return (
        text if len(text) <= limit and whole == len(text) else {"text": text[:limit], "of": whole}
    )
