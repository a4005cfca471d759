"""The context: a text that the model never sees, handed to the REPL as a file descriptor.

    Context.from_text(text)        a str; kept once in an anonymous memory file
    Context.from_file(path)        a UTF-8 text file; never read by this process, except to hash it

The worker process maps the descriptor and makes one ``str`` of it, so 64 MiB are ordinary.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import weakref
from dataclasses import dataclass
from pathlib import Path

from rlm_executor.errors import InputError

SEALS = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


@dataclass(frozen=True)
class Metadata:
    """All that the root model is told of a context."""

    type: str
    chars: int
    lines: int


class Context:
    """A text on its way to a REPL. Make it with ``from_text`` or ``from_file``."""

    type = "str"

    def __init__(self, descriptor: int, label: str, path: str | None = None) -> None:
        self._descriptor, self._path = descriptor, path
        self._sha256: str | None = None
        self.label = label  # file name or "text": for error messages
        self.bytes = os.fstat(descriptor).st_size
        weakref.finalize(self, os.close, descriptor)

    @classmethod
    def of(cls, value: Context | str | Path) -> Context:
        """A ``Context`` as it is, a str as text, a Path as file."""
        if isinstance(value, Context):
            return value
        return cls.from_file(value) if isinstance(value, Path) else cls.from_text(value)

    @classmethod
    def from_text(cls, text: str) -> Context:
        """A context held in memory."""
        descriptor = os.memfd_create("context", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        data = memoryview(text.encode("utf-8", "replace"))
        while data:
            data = data[os.write(descriptor, data) :]
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, SEALS)  # nobody changes it any more
        return cls(descriptor, "text")

    @classmethod
    def from_file(cls, path: Path) -> Context:
        """A context that is a UTF-8 text file; it must not change while runs use it.

        Raises:
            InputError: missing, unreadable, or not a regular file.
        """
        if not path.is_file():
            what = "is a folder, not a file" if path.is_dir() else "does not exist"
            raise InputError(f"context {path} {what}; give a UTF-8 text file")
        try:
            return cls(os.open(path, os.O_RDONLY | os.O_CLOEXEC), path.name, path.name)
        except OSError as error:
            raise InputError(f"context {path} cannot be read ({error.strerror})") from error

    def is_file(self, name: str) -> bool:
        """Whether this is the name of the file that this context was made of."""
        return name == self._path

    def fileno(self) -> int:
        """The descriptor that goes to the worker; it stays ours."""
        return self._descriptor

    def sha256(self) -> str:
        """Hex digest of the bytes, computed once."""
        if self._sha256 is None:
            digest = hashlib.sha256()
            offset = 0
            while chunk := os.pread(self._descriptor, 1 << 22, offset):
                digest.update(chunk)
                offset += len(chunk)
            self._sha256 = digest.hexdigest()
        return self._sha256
