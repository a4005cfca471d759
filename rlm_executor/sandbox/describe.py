"""What a model is shown of its values and its errors, short and at a bounded cost.

Standard library only. Tracebacks are our own form of Python's: the same on every version, and
only with frames of the model's own cells, never with ours or a library's.
"""

from __future__ import annotations

import linecache
import reprlib
import traceback
from typing import Any

_MAX_LAST_LINE = 10_000
_FRAMES_SHOWN = 8  # of a deep traceback: half from the top, half from the bottom

_REPR = reprlib.Repr()
_REPR.maxstring = _REPR.maxother = 80
_REPR.maxlist = _REPR.maxtuple = _REPR.maxset = _REPR.maxfrozenset = _REPR.maxdict = 4
_REPR.maxlevel = 2


def remember_source(name: str, code: str) -> None:
    """Let tracebacks quote the lines of ``code``."""
    linecache.cache[name] = (len(code), None, code.splitlines(keepends=True), name)


def glance(value: Any) -> str:
    """Type, size and a glance; the cost does not grow with the value."""
    kind = type(value)
    if kind in (bool, int, float, complex) or value is None:
        return f"{kind.__name__} {_REPR.repr(value)}"
    if kind in (str, bytes):
        unit = "characters" if kind is str else "bytes"
        return f"{kind.__name__}, {len(value)} {unit}: {_REPR.repr(value)}"
    if kind in (list, tuple, set, frozenset, dict):
        return f"{kind.__name__}, {len(value)} items: {_REPR.repr(value)}"
    return kind.__name__


def answer_text(content: Any) -> str:
    """The answer that ``content`` stands for: a list is one item a line."""
    if content is None:
        return ""
    if isinstance(content, (list, tuple)):
        return "\n".join(str(item) for item in content)
    return str(content)


def last_line(error: BaseException) -> str:
    """Type and message, without where it happened."""
    try:
        return f"{type(error).__name__}: {error}"[:_MAX_LAST_LINE]
    except Exception:  # a model's own __str__ may do anything
        return type(error).__name__


def format_error(error: BaseException) -> str:
    """Traceback and message."""
    last = "".join(traceback.format_exception_only(error)).rstrip("\n")
    if not _own_frames(error):  # the cell does not compile: the message says where
        return last
    return f"{format_frames(error)}\n{last}"


def format_frames(error: BaseException) -> str:
    """The traceback without its last line."""
    shown = _own_frames(error)
    lines = ["Traceback (most recent call last):"]
    if len(shown) > _FRAMES_SHOWN:
        half = _FRAMES_SHOWN // 2
        skipped = f"  ... {len(shown) - 2 * half} more frames ..."
        return "\n".join([*lines, *_each(shown[:half]), skipped, *_each(shown[-half:])])
    return "\n".join([*lines, *_each(shown)])


def _own_frames(error: BaseException) -> list[tuple[str, int, str]]:
    return [
        (frame.f_code.co_filename, line, frame.f_code.co_name)
        for frame, line in traceback.walk_tb(error.__traceback__)
        if frame.f_code.co_filename.startswith("<cell ")
    ]


def _each(shown: list[tuple[str, int, str]]) -> list[str]:
    lines: list[str] = []
    for name, line, function in shown:
        lines.append(f'  File "{name}", line {line}, in {function}')
        source = linecache.getline(name, line).strip()
        if source:
            lines.append(f"    {source}")
    return lines
