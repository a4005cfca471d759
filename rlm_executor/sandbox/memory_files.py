"""Files for code that expects some, without a file system: ``open`` in a session.

What model code writes is kept in memory and can be read again; the names of the context's files
can be read too, and their contents come from the host when they are opened. Everything else is
not there, and the error says so. Standard library only.
"""

from __future__ import annotations

import builtins
import errno
import io
import os
import stat
import threading
from collections.abc import Callable, Iterable
from typing import Any

ABSENT = (
    "there are no files here, only those that you write yourself; the text to work on is in the "
    "variable `context`"
)
Fetch = Callable[[str], "str | None"]


class MemoryFiles:
    """The files of one session.

    Args:
        fetch: gives the content of a file of the context, None if it has none of that name.
    """

    def __init__(self, fetch: Fetch) -> None:
        self._fetch = fetch
        self._lock = threading.Lock()
        self._contents: dict[str, bytes | None] = {}  # None: it is not there

    def install(self) -> None:
        """Become ``open``, ``io.open``, and what ``os.path`` and ``os`` say of these files."""
        builtins.open = io.open = self.open
        os.path.exists = os.path.isfile = self.exists  # type: ignore[assignment]
        os.path.getsize = lambda name: len(self._read(self._name(name)))  # type: ignore[assignment]
        os.remove = os.unlink = self.remove  # type: ignore[assignment]
        os.stat = os.lstat = self.stat  # type: ignore[assignment]

    def open(
        self,
        file: Any,
        mode: str = "r",
        buffering: int = -1,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
        closefd: bool = True,
        opener: Any = None,
    ) -> Any:
        """As the built-in, over the session's own files."""
        kinds, binary = set(mode) - {"b", "t", "+"}, "b" in mode
        if len(mode) != len(set(mode)) or len(kinds) != 1 or not kinds <= set("rwax"):
            raise ValueError(f"invalid mode: {mode!r}")
        if binary and (encoding or errors or newline is not None):
            raise ValueError("binary mode takes no encoding, errors or newline argument")
        (kind,) = kinds
        name = self._name(file)
        if kind == "x" and self.exists(name):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), name)
        if kind in "wx" or (kind == "a" and not self.exists(name)):
            self._contents[name] = b""
        reads, writes = kind == "r" or "+" in mode, kind != "r" or "+" in mode
        raw = _MemoryFile(self, name, self._read(name), reads, writes, append=kind == "a")
        if binary:
            return raw
        return io.TextIOWrapper(raw, encoding or "utf-8", errors, newline, write_through=True)

    def exists(self, name: Any) -> bool:
        """Whether a file of this name can be read."""
        try:
            self._read(self._name(name))
        except (OSError, TypeError, ValueError):
            return False
        return True

    def remove(self, name: Any, **_: Any) -> None:
        """Forget a file."""
        self._read(self._name(name))
        self._contents[self._name(name)] = None

    def stat(self, name: Any, **_: Any) -> os.stat_result:
        """Type and size of a file."""
        size = len(self._read(self._name(name)))
        return os.stat_result((stat.S_IFREG | 0o644, 0, 0, 1, 0, 0, size, 0, 0, 0))

    def keep(self, name: str, content: bytes) -> None:
        """A file was written."""
        self._contents[name] = content

    def _read(self, name: str) -> bytes:
        with self._lock:
            if name not in self._contents:
                text = self._fetch(name)
                self._contents[name] = None if text is None else text.encode("utf-8", "replace")
            content = self._contents[name]
        if content is None:
            raise FileNotFoundError(errno.ENOENT, ABSENT, name)
        return content

    @staticmethod
    def _name(file: Any) -> str:
        if isinstance(file, int):
            raise OSError(errno.EBADF, "files are opened by name here, not by number")
        name = os.fsdecode(os.fspath(file))
        return name.removeprefix("./")


class _MemoryFile(io.BytesIO):
    """One open file; what was written is kept at every flush."""

    def __init__(
        self, files: MemoryFiles, name: str, content: bytes, reads: bool, writes: bool, append: bool
    ) -> None:
        super().__init__(content)
        self.name = name
        self._files, self._reads, self._writes, self._append = files, reads, writes, append
        if append:
            self.seek(0, io.SEEK_END)

    def readable(self) -> bool:
        return self._reads

    def writable(self) -> bool:
        return self._writes

    def read(self, size: int | None = -1, /) -> bytes:
        self._check(self._reads, "readable")
        return super().read(size)

    def read1(self, size: int | None = -1, /) -> bytes:
        return self.read(size)

    def readline(self, size: int | None = -1, /) -> bytes:
        self._check(self._reads, "readable")
        return super().readline(size)

    def readlines(self, size: int | None = None, /) -> list[bytes]:
        self._check(self._reads, "readable")
        return super().readlines(size)

    def readinto(self, buffer: Any, /) -> int:
        self._check(self._reads, "readable")
        return super().readinto(buffer)

    def __next__(self) -> bytes:
        self._check(self._reads, "readable")
        return super().__next__()

    def write(self, data: Any, /) -> int:
        self._check(self._writes, "writable")
        if self._append:
            self.seek(0, io.SEEK_END)
        return super().write(data)

    def writelines(self, lines: Iterable[Any], /) -> None:
        for line in lines:
            self.write(line)

    def truncate(self, size: int | None = None, /) -> int:
        self._check(self._writes, "writable")
        return super().truncate(size)

    def flush(self) -> None:
        super().flush()
        if self._writes:
            self._files.keep(self.name, self.getvalue())

    def close(self) -> None:
        if not self.closed:
            self.flush()
        super().close()

    @staticmethod
    def _check(allowed: bool, what: str) -> None:
        if not allowed:
            raise io.UnsupportedOperation(f"not {what}")
