"""The wire between host and worker: a kind, a number, and a flat list of byte strings.

Nothing nested and nothing executable is ever parsed from the other side. Standard library only:
this file runs in the worker too.

    host -> worker   EXEC (cell number; code)            REPLY (call number; kind, text, ...)
                     STATE ()
    worker -> host   READY (pid; characters, lines)      REFUSED (; reason)
                     CALL (call number; prompt, ...)     DONE (cell number; status, output,
                     STATE (; text)                            output length, error, answer, flags)
"""

from __future__ import annotations

import struct
from collections.abc import Callable

EXEC, REPLY, STATE, READY, REFUSED, CALL, DONE = b"E", b"R", b"S", b"H", b"F", b"C", b"D"

HEADER = struct.Struct("!cQQ")  # kind, number, bytes that follow
SETTINGS = struct.Struct("!QQQ")  # one worker's memory limit, characters of output kept, seed
MAX_FRAME = 1 << 30  # bytes; a longer frame is a broken peer
_LENGTH = struct.Struct("!Q")


def pack(kind: bytes, number: int, *fields: str) -> bytes:
    """One frame, ready to send. Lone surrogates become question marks."""
    parts: list[bytes] = []
    for field in fields:
        data = field.encode("utf-8", "replace")
        parts += [_LENGTH.pack(len(data)), data]
    body = b"".join(parts)
    return HEADER.pack(kind, number, len(body)) + body


def unpack(header: bytes) -> tuple[bytes, int, int]:
    """Kind, number and length of the body, from a frame's header.

    Raises:
        ValueError: the length is absurd.
    """
    kind, number, size = HEADER.unpack(header)
    if size > MAX_FRAME:
        raise ValueError(f"a frame of {size} bytes is announced")
    return kind, number, size


def fields_of(body: bytes) -> list[str]:
    """The fields of a frame's body.

    Raises:
        ValueError: lengths and bytes do not fit together.
    """
    fields: list[str] = []
    at = 0
    while at < len(body):
        if at + 8 > len(body):
            raise ValueError("a field's length is torn")
        (size,) = _LENGTH.unpack_from(body, at)
        at += 8
        if at + size > len(body):
            raise ValueError("a field is longer than its frame")
        fields.append(body[at : at + size].decode("utf-8", "replace"))
        at += size
    return fields


def read_frame(read_exactly: Callable[[int], bytes]) -> tuple[bytes, int, list[str]]:
    """One frame from a blocking source."""
    kind, number, size = unpack(read_exactly(HEADER.size))
    return kind, number, fields_of(read_exactly(size))
