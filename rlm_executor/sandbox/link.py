"""The host's end of one session's channel: frames out and in, and nothing in them believed.

    link = Link(sock)
    pidfd = await link.receive_pidfd()       # the first thing a session sends
    await link.open()
    link.send(frames.EXEC, nonce, "1", code)
    kind, number, fields = await link.read()

What is sent is queued and goes out as the session reads it, so a frame is never torn by an
interrupt; what comes is limited in size and in fields before it is kept, and is read only while
somebody listens: a session that sends unasked waits.
"""

from __future__ import annotations

import asyncio
import os
import socket
from typing import Protocol

from rlm_executor.sandbox import frames

MAX_QUEUED = 256 << 20  # bytes that a session has not read: it never will
Frame = tuple[bytes, int, list[str]]


class Gone(Exception):
    """The session is not there any more; the text says why."""


class Violation(Gone):
    """What it sent is none of what it may send now."""


class Listener(Protocol):
    """Who is told what comes."""

    def frame(self, kind: bytes, number: int, fields: list[str]) -> None:
        """A frame has come."""

    def lost(self, why: Gone) -> None:
        """No more will."""


class Link(asyncio.Protocol):
    """One channel, to one session."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        sock.setblocking(False)
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray()
        self._listener: Listener | None = None
        self._lost: Gone | None = None

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
        """Ready to read and write."""
        loop = asyncio.get_running_loop()
        self._transport, _ = await loop.create_unix_connection(lambda: self, sock=self._sock)
        self._transport.pause_reading()

    def send(self, kind: bytes, number: int, *fields: str) -> None:
        """Queue one frame.

        Raises:
            Gone: the session has ended, or does not read.
        """
        if self._transport is None or self._transport.is_closing():
            raise Gone("it has ended")
        frame = frames.pack(kind, number, *fields)
        if self.queued + len(frame) > MAX_QUEUED:
            raise Violation("it does not read what it asked for, or asked for too much")
        self._transport.write(frame)

    @property
    def queued(self) -> int:
        """Bytes that the session has not read yet."""
        closed = self._transport is None or self._transport.is_closing()
        return 0 if closed or self._transport is None else self._transport.get_write_buffer_size()

    def listen(self, listener: Listener | None) -> None:
        """Tell it everything that comes, from what has come already; None: nobody listens."""
        self._listener = listener
        if self._transport is None or self._transport.is_closing():
            if listener is not None:
                listener.lost(self._lost or Gone("it has ended"))
        elif listener is None:
            self._transport.pause_reading()
        else:
            self._transport.resume_reading()
            self._tell()

    async def read(self) -> Frame:
        """The next frame.

        Raises:
            Gone: the session has ended.
            Violation: it is no frame, or too large.
        """
        one = _One(self)
        try:
            self.listen(one)
            return await one.come
        finally:
            self.listen(None)

    def close(self) -> None:
        """Stop reading and writing. Calling it twice is fine."""
        if self._transport is not None:
            self._transport.abort()

    # What asyncio calls.

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        self._tell()

    def connection_lost(self, error: Exception | None) -> None:
        self._lost = self._lost or Gone("it ended itself, or the system ended it")
        if self._listener is not None:
            self._listener.lost(self._lost)

    def _tell(self) -> None:
        at = frames.HEADER.size
        while self._listener is not None and len(self._buffer) >= at:
            try:
                kind, number, size = frames.unpack(bytes(self._buffer[:at]), frames.LIMITS)
                if len(self._buffer) < at + size:
                    return
                fields = frames.fields_of(self._buffer[at : at + size], frames.MAX_FIELDS)
            except ValueError as error:
                self._lost = Violation(f"it wrote into the channel that it is driven by ({error})")
                self._listener.lost(self._lost)
                self.close()
                return
            del self._buffer[: at + size]
            self._listener.frame(kind, number, fields)


class _One:
    """Waits for a single frame; what comes after it stays for the next."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self.come: asyncio.Future[Frame] = asyncio.get_running_loop().create_future()

    def frame(self, kind: bytes, number: int, fields: list[str]) -> None:
        self._link.listen(None)
        if not self.come.done():
            self.come.set_result((kind, number, fields))

    def lost(self, why: Gone) -> None:
        if not self.come.done():
            self.come.set_exception(why)


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
