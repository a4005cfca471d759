"""The host's end of one session's channel: frames out and in, and nothing in them believed.

    link = Link(sock)
    pidfd = await link.receive_pidfd()       # the first thing a session sends
    await link.open()
    link.send(frames.EXEC, nonce, "1", code)
    kind, number, fields = await link.read()

What is sent is queued and goes out as the session reads it, so a frame is never torn by an
interrupt; what is read is limited in size and in fields before it is kept.
"""

from __future__ import annotations

import asyncio
import os
import socket

from rlm_executor.sandbox import frames

MAX_QUEUED = 256 << 20  # bytes that a session has not read: it never will
Frame = tuple[bytes, int, list[str]]


class Gone(Exception):
    """The session is not there any more; the text says why."""


class Violation(Gone):
    """What it sent is none of what it may send now."""


class Link:
    """One channel, to one session."""

    _reader: asyncio.StreamReader
    _writer: asyncio.StreamWriter | None = None

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        sock.setblocking(False)

    async def receive_pidfd(self) -> int:
        """The handle of the session's process.

        Raises:
            Gone: it ended before it sent one.
        """
        await _readable(self._sock)
        _, descriptors, _, _ = socket.recv_fds(self._sock, frames.HEADER.size, 1)
        if len(descriptors) != 1:
            for descriptor in descriptors:
                os.close(descriptor)
            raise Gone("it ended while it started")
        return descriptors[0]

    async def open(self) -> None:
        """Begin to read and write."""
        self._reader, self._writer = await asyncio.open_unix_connection(sock=self._sock)

    def send(self, kind: bytes, number: int, *fields: str) -> None:
        """Queue one frame.

        Raises:
            Gone: the session has ended, or does not read.
        """
        if self._writer is None or self._writer.is_closing():
            raise Gone("it has ended")
        queued = self._writer.transport.get_write_buffer_size()
        if queued + sum(4 * len(field) + 8 for field in fields) > MAX_QUEUED:
            raise Violation("it does not read what it asked for, or asked for too much")
        self._writer.write(frames.pack(kind, number, *fields))

    async def read(self) -> Frame:
        """The next frame.

        Raises:
            Gone: the session has ended.
            Violation: it is no frame, or too large.
        """
        try:
            header = await self._reader.readexactly(frames.HEADER.size)
            kind, number, size = frames.unpack(header, frames.LIMITS)
            body = await self._reader.readexactly(size)
            return kind, number, frames.fields_of(body, frames.MAX_FIELDS)
        except (asyncio.IncompleteReadError, OSError) as error:
            raise Gone("it ended itself, or the system ended it") from error
        except ValueError as error:
            raise Violation(f"it wrote into the channel that it is driven by ({error})") from error

    def close(self) -> None:
        """Stop reading and writing. Calling it twice is fine."""
        if self._writer is not None:
            self._writer.transport.abort()


async def _readable(sock: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    ready = loop.create_future()

    def set_ready() -> None:
        if not ready.done():
            ready.set_result(None)

    loop.add_reader(sock, set_ready)
    try:
        await ready
    finally:
        loop.remove_reader(sock)
