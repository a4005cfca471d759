"""The wire between host and session: a kind, a number, and a flat list of byte strings.

Nothing nested and nothing executable is ever parsed from the other side, and no length is believed
that is over its limit. Standard library only: this file runs in the session too.

    host -> session   EXEC (nonce; code)                REPLY (call number; kind, text, ...)
                      STATE (nonce)                     (to OPEN: "1" if it is the context)
    session -> host   PIDFD () with the descriptor, first of all
                      READY (; posture)                 REFUSED (; reason)
                      CALL (call number; prompt, ...)   DONE (nonce; status, output, output length,
                      OPEN (call number; name)                error, answer, flags)
                      STATE (nonce; text)
"""

from __future__ import annotations

import struct
from collections.abc import Callable

EXEC, REPLY, STATE, READY, REFUSED, CALL, DONE = b"E", b"R", b"S", b"H", b"F", b"C", b"D"
OPEN, PIDFD = b"O", b"P"

HEADER = struct.Struct("!cQQ")  # kind, number, bytes that follow
MAX_FRAME = 1 << 30  # bytes, host to session
MAX_FIELDS = 10_000  # session to host: an empty field costs the host more than its 8 bytes
# Bytes of a frame, session to host, by kind; any other kind may not come.
LIMITS = {
    CALL: 16 << 20,
    DONE: 48 << 20,
    STATE: 1 << 20,
    OPEN: 1 << 16,
    READY: 1 << 12,
    REFUSED: 1 << 12,
}
_LENGTH = struct.Struct("!Q")


def pack(kind: bytes, number: int, *fields: str) -> bytes:
    """One frame, ready to send. Lone surrogates become question marks."""
    parts: list[bytes] = []
    for field in fields:
        data = field.encode("utf-8", "replace")
        parts += [_LENGTH.pack(len(data)), data]
    body = b"".join(parts)
    return HEADER.pack(kind, number, len(body)) + body


def unpack(header: bytes, limits: dict[bytes, int] | None = None) -> tuple[bytes, int, int]:
    """Kind, number and length of the body, from a frame's header.

    Raises:
        ValueError: the length is over the limit of its kind.
    """
    kind, number, size = HEADER.unpack(header)
    limit = MAX_FRAME if limits is None else limits.get(kind, 0)
    if size > limit:
        raise ValueError(f"a frame of {size} bytes is announced, {limit} are allowed")
    return kind, number, size


def fields_of(body: bytes | bytearray, most: int | None = None) -> list[str]:
    """The fields of a frame's body, ``most`` at most.

    Raises:
        ValueError: lengths and bytes do not fit together, or there are more.
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
        if most is not None and len(fields) == most:
            raise ValueError(f"more than {most} fields")
        fields.append(bytes(body[at : at + size]).decode("utf-8", "replace"))
        at += size
    return fields


def read_frame(read_exactly: Callable[[int], bytes]) -> tuple[bytes, int, list[str]]:
    """One frame from a blocking source that is trusted: the host."""
    kind, number, size = unpack(read_exactly(HEADER.size))
    return kind, number, fields_of(read_exactly(size))
