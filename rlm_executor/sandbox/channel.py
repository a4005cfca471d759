"""The worker's end of the wire, safe for threads and for interrupts at any moment.

There is no reading thread: whichever thread waits for a reply reads for all that wait. On a busy
machine each change of thread costs milliseconds, so a plain cell and a plain ``llm_query`` need
none. Standard library only.
"""

from __future__ import annotations

import select
import socket
import threading
from types import TracebackType

from rlm_executor.sandbox import frames

COMMAND = 0  # what the host sends unasked is waited for under this number


class Stopper:
    """SIGINT's handler: stops the cell that runs, but never in the middle of a frame.

    ``with stopper:`` shields the main thread; an interrupt that came meanwhile is raised at its
    end. Other threads get no signals, for them it does nothing.
    """

    def __init__(self) -> None:
        self.in_cell = self.stopped = False
        self._shielded = False

    def __call__(self, *_: object) -> None:
        if self.in_cell:  # else it came too late: the cell is over
            self.stopped = True
            if not self._shielded:
                raise KeyboardInterrupt

    def __enter__(self) -> None:
        if threading.current_thread() is threading.main_thread():
            self._shielded = True

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if threading.current_thread() is threading.main_thread():
            self._shielded = False
            if self.in_cell and self.stopped and kind is None:
                raise KeyboardInterrupt


class Channel:
    """Frames over one socket, for many threads."""

    def __init__(self, sock: socket.socket, stopper: Stopper) -> None:
        self._sock, self._stopper = sock, stopper
        self._send_lock = threading.Lock()
        self._changed = threading.Condition()  # guards what follows
        self._reading = False  # some thread reads for all
        self._expected = {COMMAND}
        self._arrived: dict[int, tuple[bytes, int, list[str]]] = {}
        self._calls = 0

    def send(self, kind: bytes, number: int, *fields: str) -> None:
        """Send one frame, whole."""
        frame = frames.pack(kind, number, *fields)
        with self._stopper, self._send_lock:
            self._sock.sendall(frame)

    def call(self, kind: bytes, fields: list[str]) -> list[str]:
        """Ask the host for something and wait for its reply."""
        with self._stopper, self._changed:
            self._calls += 1
            number = self._calls
            self._expected.add(number)
        try:
            self.send(kind, number, *fields)
            return self.wait(number)[2]
        finally:
            self._expected.discard(number)  # a reply that comes after an interrupt is dropped

    def wait(self, number: int) -> tuple[bytes, int, list[str]]:
        """The frame for ``number``.

        Raises:
            EOFError: the host has closed the channel.
        """
        poll = select.poll()
        poll.register(self._sock, select.POLLIN)
        while True:
            lead, frame = False, None
            try:
                with self._stopper, self._changed:
                    if number in self._arrived:
                        return self._arrived.pop(number)
                    lead = not self._reading
                    self._reading = True
                if lead:
                    poll.poll()  # may be interrupted: it takes nothing from the channel
                    with self._stopper:
                        frame = frames.read_frame(self._read_exactly)
                else:
                    with self._changed:
                        if number not in self._arrived and self._reading:
                            self._changed.wait()
            finally:
                if lead:
                    with self._stopper, self._changed:
                        self._reading = False
                        self._keep(frame)
                        self._changed.notify_all()

    def _keep(self, frame: tuple[bytes, int, list[str]] | None) -> None:
        if frame is not None:
            number = frame[1] if frame[0] == frames.REPLY else COMMAND
            if number in self._expected:
                self._arrived[number] = frame

    def _read_exactly(self, size: int) -> bytes:
        data = bytearray(size)
        view = memoryview(data)
        while view:
            got = self._sock.recv_into(view)
            if not got:
                raise EOFError("the host has closed the channel")
            view = view[got:]
        return bytes(data)
