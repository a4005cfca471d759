"""What ``context`` is in the REPL: a text, a JSON value, records, or files that are read lazily.

Made once in the context's zygote and shared by its sessions; standard library only.
"""

from __future__ import annotations

import codecs
import ctypes
import json
import mmap
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

_KEPT_CHARS = 32 << 20  # of files that were read; a session that reads on lets go of the oldest
_SHOWN_NAMES = 5
_PIECE = 1 << 20  # bytes read at once
_PREVIEW_CHARS, _SHORT_PREVIEW = 200, 20
Fetch = Callable[[str], "str | None"]


class BadContext(ValueError):
    """The context cannot be made; the text says why, to go behind its label."""


class Files(Mapping[str, str]):
    """Files by name. A text is fetched from the host when it is asked for."""

    def __init__(self, sizes: dict[str, int]) -> None:
        self._sizes = sizes
        self._texts: dict[str, str] = {}
        self._kept = 0
        self._fetch: Fetch = lambda name: None

    def connect(self, fetch: Fetch) -> None:
        """In the session: how to get a file's text."""
        self._fetch = fetch

    def __getitem__(self, name: str) -> str:
        if name in self._texts:
            return self._texts[name]
        if name not in self._sizes:
            raise KeyError(f"{name}: no such file; the names are in list(context)")
        text = self._fetch(name)
        if text is None:
            raise KeyError(f"{name}: it cannot be read any more")
        self._texts[name] = text
        self._kept += len(text)
        while self._kept > _KEPT_CHARS and len(self._texts) > 1:
            oldest = next(iter(self._texts))
            self._kept -= len(self._texts.pop(oldest))
        return text

    def __iter__(self) -> Iterator[str]:
        return iter(self._sizes)

    def __len__(self) -> int:
        return len(self._sizes)

    def __contains__(self, name: object) -> bool:
        return name in self._sizes

    def size(self, name: str) -> int:
        """A file's size in bytes, without reading it."""
        return self._sizes[name]

    def __repr__(self) -> str:
        names = ", ".join(list(self._sizes)[:_SHOWN_NAMES])
        more = ", ..." if len(self) > _SHOWN_NAMES else ""
        return f"<{len(self)} files: {names}{more}>"


def read(kind: str, descriptor: int, chars: int = 0, widest: int = 0) -> Any:
    """The value behind a descriptor, which is closed.

    Args:
        kind: "text", "json", "jsonl", "files" (a JSON object of names and sizes) or "str", a text
            that comes through a pipe.
        descriptor: of UTF-8 bytes.
        chars: of a "str".
        widest: of a "str", a code point that is as wide as its widest.

    Raises:
        BadContext: it is no such thing.
        MemoryError, OSError: it does not fit.
    """
    if kind == "str":
        return _assemble(descriptor, chars, widest)
    try:
        text = _decode(descriptor)
    except UnicodeDecodeError as error:
        raise BadContext(f"is not UTF-8 text (byte {error.start})") from error
    if kind == "text":
        return text
    if kind == "jsonl":
        return _records(text)
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadContext(f"is not JSON ({error})") from error
    return Files(value) if kind == "files" else value


def describe(value: Any) -> dict[str, Any]:
    """Type, size and a preview: all that a root model is told of it."""
    if isinstance(value, str):
        lines = value.count("\n") + (not value.endswith("\n") if value else 0)
        return {"type": "str", "chars": len(value), "lines": lines, "preview": _cut(value)}
    if isinstance(value, Files):
        chars = sum(map(value.size, value))
        named = f"files named {', '.join(list(value)[:_SHOWN_NAMES])}"
        return {"type": "dict", "chars": chars, "items": len(value), "preview": _cut(named)}
    if isinstance(value, (list, dict)):
        lengths = lengths_of(value)
        first = next(iter(value.items() if isinstance(value, dict) else value), "")
        of = sorted({type(item).__name__ for item in _items(value)})
        return {
            "type": type(value).__name__,
            "chars": sum(lengths),
            "items": len(value),
            "of": of,
            "lengths": lengths[:101],
            "preview": _cut(repr(first)[: 4 * _PREVIEW_CHARS]),
        }
    return {"type": type(value).__name__, "chars": len(str(value)), "preview": _cut(repr(value))}


def shortened(facts: dict[str, Any]) -> dict[str, Any]:
    """Without what takes most room, where there are many values."""
    return facts | {"lengths": [], "preview": str(facts["preview"])[:_SHORT_PREVIEW]}


def weight(value: Any) -> int:
    """Bytes of memory it has, about; what a session may take grows with it."""
    if isinstance(value, str):
        return sys.getsizeof(value)
    if isinstance(value, Files):
        return 4 * max(map(value.size, value), default=0)
    return 4 * sum(lengths_of(value)) if isinstance(value, (list, dict)) else 0


def lengths_of(value: list[Any] | dict[str, Any]) -> list[int]:
    """Characters of each item: of text as it is, of anything else as JSON."""
    return [
        len(item) if isinstance(item, str) else len(json.dumps(item, default=str))
        for item in _items(value)
    ]


def _items(value: list[Any] | dict[str, Any]) -> list[Any]:
    return list(value.values()) if isinstance(value, dict) else value


def _records(text: str) -> list[Any]:
    records = []
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                records.append(json.loads(line))
            except (ValueError, RecursionError) as error:
                raise BadContext(f"line {number} is not JSON ({error})") from error
    return records


def _decode(descriptor: int) -> str:
    """Straight from the mapped file: no second copy in between."""
    size = os.fstat(descriptor).st_size
    try:
        if not size:
            return ""
        with mmap.mmap(descriptor, size, prot=mmap.PROT_READ) as mapped:
            return str(mapped, "utf-8")
    finally:
        os.close(descriptor)


def _assemble(descriptor: int, chars: int, widest: int) -> str:
    """A str of known size, filled piece by piece: at no time is there a second copy of it."""
    api = ctypes.pythonapi
    api.PyUnicode_New.restype = ctypes.c_void_p
    api.PyUnicode_New.argtypes = [ctypes.c_ssize_t, ctypes.c_uint32]
    api.PyUnicode_CopyCharacters.restype = ctypes.c_ssize_t
    api.PyUnicode_CopyCharacters.argtypes = [
        ctypes.c_void_p,
        ctypes.c_ssize_t,
        ctypes.py_object,
        ctypes.c_ssize_t,
        ctypes.c_ssize_t,
    ]
    decode = codecs.getincrementaldecoder("utf-8")().decode
    with os.fdopen(descriptor, "rb", buffering=0) as pipe:
        if not chars:
            return ""
        # An address, not an object: only a str that nobody else holds may be written to.
        whole, at = api.PyUnicode_New(chars, widest), 0
        while at < chars and (data := pipe.read(_PIECE)):
            piece = decode(data)
            at += api.PyUnicode_CopyCharacters(whole, at, piece, 0, len(piece))
    if at != chars:
        raise BadContext("was not handed over whole")
    made = ctypes.cast(whole, ctypes.py_object).value
    assert isinstance(made, str)
    return made


def _cut(text: str) -> str:
    return text if len(text) <= _PREVIEW_CHARS else text[:_PREVIEW_CHARS] + "..."
