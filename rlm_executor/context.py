"""The context: what the model never sees whole, handed to the REPL as file descriptors.

    Context.of("text" | Path | ["a", "b"] | {"k": ...})     whichever fits
    Context.from_text(text)        a str; handed over in pieces: nothing here copies it
    Context.from_file(path)        a UTF-8 text file; .jsonl becomes a list of its records
    Context.from_value(value)      a list or dict of what JSON knows
    Context.from_files(paths)      several files, or a folder: read one by one, when code asks
    Context.named(book=..., notes=...)      several of these, each under a name of its own

The REPL's process maps the descriptors and makes the values once for all sessions (``sandbox.
values``); this process reads of many files their beginnings, and the one that it hands over.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import keyword
import os
import stat
import weakref
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rlm_executor.errors import InputError

SEALS = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
MAX_FILE = 60 << 20  # bytes of one file among several; larger: give it as the context
MOST_PARTS = 100
_BLOCK = 1 << 22
_SNIFFED = 1024  # bytes at a file's start; a NUL among them: it is no text


@dataclass(frozen=True)
class Metadata:
    """All that the root model is told of a context."""

    type: str  # str | list | dict
    chars: int = 0
    lines: int = 0  # of a str
    items: int = 0  # of a list or dict
    of: tuple[str, ...] = ()  # the types of the items
    lengths: tuple[int, ...] = ()  # characters of each item, the first 101
    preview: str = ""
    name: str = "context"
    parts: tuple[Metadata, ...] = ()  # of a context of several names

    @classmethod
    def told(cls, name: str, facts: dict[str, Any]) -> Metadata:
        """From what the context's zygote says."""
        told = facts | {"name": name}
        told |= {key: tuple(facts[key]) for key in ("of", "lengths") if key in facts}
        return cls(**told)

    @classmethod
    def joined(cls, parts: tuple[Metadata, ...]) -> Metadata:
        """Of one value as it is; of several, the dict of them."""
        if len(parts) == 1:
            return parts[0]
        total = sum(part.chars for part in parts)
        lengths = tuple(part.chars for part in parts)
        return cls("dict", total, items=len(parts), lengths=lengths, parts=parts)


@dataclass(frozen=True)
class Part:
    """One value of a context."""

    name: str  # of its variable
    kind: str  # text | json | jsonl | files | str (a text that was handed in)
    descriptor: int  # of its bytes; of an index of names and sizes for files; -1: see text
    label: str  # for error messages: a file's name, or what it is
    path: str = ""  # the name of the file that it was made of
    files: tuple[tuple[str, Path], ...] = ()
    text: str = ""

    @property
    def size(self) -> int:
        """Its bytes, files not yet read included.

        Raises:
            InputError: one of them is not there any more.
        """
        if self.files:
            return sum(_facts(path).st_size for _, path in self.files)
        if self.descriptor >= 0:
            return os.fstat(self.descriptor).st_size
        return len(self.text) if self.text.isascii() else sum(map(len, self.pieces()))

    def pieces(self) -> Iterator[bytes]:
        """Its bytes, a few megabytes at a time."""
        if self.descriptor < 0:
            for at in range(0, len(self.text), _BLOCK):
                yield self.text[at : at + _BLOCK].encode()
            return
        at = 0
        while piece := os.pread(self.descriptor, _BLOCK, at):
            yield piece
            at += len(piece)

    def widest(self) -> int:
        """A code point as wide as the widest of ``text``, in CPython's sense: 1, 2 or 4 bytes."""
        if self.text.isascii():
            return 0x7F
        found = 0xFF
        for at in range(0, len(self.text), _BLOCK):
            piece = self.text[at : at + _BLOCK]
            try:
                piece.encode("latin-1")
            except UnicodeEncodeError:
                if len(piece.encode("utf-16-le")) > 2 * len(piece):
                    return 0x10FFFF
                found = 0xFFFF
        return found


class Context:
    """What runs are about. Make it with ``of`` or one of the ``from_`` methods."""

    def __init__(self, parts: Iterable[Part], owners: Iterable[Context] = ()) -> None:
        self.parts = tuple(parts)
        self._owners = tuple(owners)  # whose descriptors they are, if not ours
        self._sha256: str | None = None
        self._files = {part.name: dict(part.files) for part in self.parts if part.files}
        if not self._owners:
            for part in self.parts:
                if part.descriptor >= 0:
                    weakref.finalize(self, os.close, part.descriptor)

    @property
    def label(self) -> str:
        """For error messages."""
        return ", ".join(part.label for part in self.parts)

    @property
    def bytes(self) -> int:
        """How long it is, files not yet read included.

        Raises:
            InputError: one of them is not there any more.
        """
        return sum(part.size for part in self.parts)

    @classmethod
    def of(cls, value: Context | str | Path | list[Any] | dict[str, Any]) -> Context:
        """A ``Context`` as it is, a str as text, a Path as file or folder, else a JSON value.

        Raises:
            InputError: as the other methods.
        """
        if isinstance(value, Context):
            return value
        if isinstance(value, Path):
            folder = stat.S_ISDIR(_facts(value).st_mode)
            return cls.from_files([value]) if folder else cls.from_file(value)
        return cls.from_text(value) if isinstance(value, str) else cls.from_value(value)

    @classmethod
    def from_text(cls, text: str) -> Context:
        """A context held in memory. Lone surrogates become question marks."""
        part = Part("context", "str", -1, "text", text=text)
        try:
            if not text.isascii():
                for _ in part.pieces():
                    pass
        except UnicodeEncodeError:
            part = replace(part, text=text.encode("utf-8", "replace").decode())
        return cls([part])

    @classmethod
    def from_value(cls, value: list[Any] | dict[str, Any]) -> Context:
        """A list or dict.

        Raises:
            InputError: it is neither, or JSON does not know what is in it.
        """
        if not isinstance(value, (list, dict)):
            raise InputError(f"a context is a str, a list or a dict, not {type(value).__name__}")
        try:
            data = json.dumps(value, ensure_ascii=False).encode("utf-8", "replace")
        except (TypeError, ValueError, RecursionError) as error:
            raise InputError(f"the context holds what JSON does not know: {error}") from error
        return cls([Part("context", "json", _memory(data), type(value).__name__)])

    @classmethod
    def from_file(cls, path: Path) -> Context:
        """A UTF-8 text file; it must not change while runs use it.

        Raises:
            InputError: missing, unreadable, not a regular file, or not text.
        """
        mode = _facts(path).st_mode
        if not stat.S_ISREG(mode):
            what = "is a folder, not a file" if stat.S_ISDIR(mode) else "is not a regular file"
            raise InputError(f"context {path} {what}; give a UTF-8 text file")
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise InputError(f"context {path} cannot be read ({error.strerror})") from error
        if b"\0" in os.pread(descriptor, _SNIFFED, 0):
            os.close(descriptor)
            raise InputError(f"context {path} is a binary file; give a UTF-8 text file")
        kind = "jsonl" if path.suffix == ".jsonl" else "text"
        return cls([Part("context", kind, descriptor, path.name, path.name)])

    @classmethod
    def from_files(cls, paths: Iterable[Path]) -> Context:
        """Files and folders, as a mapping of names to texts that are read when code asks.

        Hidden files, links and binary files of a folder are left out. They must not change while
        runs use them. A name that two of them have stands for the first; the other one goes by its
        path.

        Raises:
            InputError: one is missing, cannot be read or is too large, one that is named itself is
                binary, or there is no text file.
        """
        found: dict[str, Path] = {}
        for path in paths:
            for name, file in _walk(path):
                if name in found and not file.samefile(found[name]):
                    name = file.as_posix()
                found.setdefault(name, file)
        if not found:
            raise InputError("the context has no text files; hidden and binary ones do not count")
        sizes = {name: _facts(path).st_size for name, path in found.items()}
        for name, size in sizes.items():
            if size > MAX_FILE:
                told = f"context file {name} has {size} bytes, more than {MAX_FILE}"
                raise InputError(f"{told}; give it alone, or cut it into several")
        index = _memory(json.dumps(sizes, ensure_ascii=False).encode("utf-8", "replace"))
        return cls([Part("context", "files", index, f"{len(found)} files", "", (*found.items(),))])

    @classmethod
    def named(cls, **values: Context | str | Path | list[Any] | dict[str, Any]) -> Context:
        """Several contexts: each is a variable of its name, and ``context`` is the dict of them.

        Raises:
            InputError: no name that a variable may have, or as the other methods.
        """
        contexts = {name: cls.of(value) for name, value in values.items()}
        for name, context in contexts.items():
            if not name.isidentifier() or keyword.iskeyword(name) or name.startswith("_"):
                raise InputError(f"a context cannot be named {name!r}; use a variable's name")
            if len(context.parts) != 1 or name in ("context", "answer"):
                raise InputError(f"a context cannot be named {name!r} here; use another name")
        parts = [
            replace(part, name=name) for name, context in contexts.items() for part in context.parts
        ]
        if not parts:
            raise InputError("no contexts were given")
        if len(parts) > MOST_PARTS:
            raise InputError(f"{len(parts)} contexts were given, {MOST_PARTS} are the most")
        return cls(parts, contexts.values())

    def file(self, name: str) -> str | None:
        """What code gets that opens ``name``: "=" and a variable's name for a value that is there
        already, ":" and the text for another file, None if there is no such file.

        Blocks for as long as reading takes.
        """
        for part in self.parts:
            if part.path and name == part.path:
                if part.kind == "text":
                    return f"={part.name}"
                too_large = os.fstat(part.descriptor).st_size > MAX_FILE
                return None if too_large else ":" + _decoded(part)
        owner, _, rest = name.rpartition("\0")  # a value that reads its own files says whose
        path = self._files[owner].get(rest) if owner in self._files else None
        for files in self._files.values():
            path = path or files.get(name)
        if path is None:
            return None
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            with os.fdopen(descriptor, "rb") as file:
                return ":" + file.read(MAX_FILE).decode("utf-8", "replace")
        except OSError:
            return None

    def text(self) -> str:
        """All of it as one text; several parts and files under their names. May block.

        Raises:
            InputError: a file cannot be read, or is not UTF-8 text.
        """
        texts: list[str] = []
        for part in self.parts:
            names = [f"{part.name}\0{name}" for name, _ in part.files] or [""]
            for name in names:
                label = name.partition("\0")[2] or part.name
                if name:
                    text = self.file(name)
                    if text is None:
                        raise InputError(f"context file {label} cannot be read any more")
                    text = text[1:]
                else:
                    text = _decoded(part)
                texts.append(f"# {label}\n{text}" if len(self.parts) + len(names) > 2 else text)
        return "\n\n".join(texts)

    def sha256(self) -> str:
        """Hex digest of the bytes, computed once; of several parts, of their names too.

        Of files that are read when code asks, of their names and sizes: else all would be read.
        """
        if self._sha256 is None:
            digest = hashlib.sha256()
            for part in self.parts:
                if len(self.parts) > 1 or part.files:
                    digest.update(f"{part.name}\0".encode())
                for piece in part.pieces():
                    digest.update(piece)
            self._sha256 = digest.hexdigest()
        return self._sha256


def _memory(data: bytes) -> int:
    descriptor = os.memfd_create("context", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, SEALS)  # nobody changes it any more
    return descriptor


def _decoded(part: Part) -> str:
    if part.descriptor < 0:
        return part.text
    try:
        return b"".join(part.pieces()).decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"context {part.label} is not UTF-8 text (byte {error.start})") from error


def _facts(path: Path) -> os.stat_result:
    try:
        return path.stat()
    except FileNotFoundError as error:
        raise InputError(f"context {path} does not exist; give text files or folders") from error
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise InputError(f"context {path} cannot be read ({why})") from error


def _walk(path: Path) -> Iterator[tuple[str, Path]]:
    """Names and paths: of a file its name, of a folder all text files in it."""
    mode = _facts(path).st_mode
    if stat.S_ISREG(mode):
        file = path.resolve()  # a link that was named itself is meant
        if not _is_text(file):
            raise InputError(f"context {path} is a binary file; give a UTF-8 text file")
        yield path.name, file
        return
    if not stat.S_ISDIR(mode):
        raise InputError(f"context {path} is neither a file nor a folder; give text files")

    def failed(error: OSError) -> None:
        raise InputError(f"context {error.filename} cannot be read ({error.strerror})") from error

    for folder, folders, names in os.walk(path, onerror=failed):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            file = Path(folder) / name
            if not name.startswith(".") and not file.is_symlink() and file.is_file():
                if _is_text(file):
                    yield file.relative_to(path).as_posix(), file


def _is_text(path: Path) -> bool:
    """Whether its beginning is; the rest is not looked at."""
    try:
        with path.open("rb", buffering=0) as file:
            return b"\0" not in file.read(_SNIFFED)
    except OSError as error:
        raise InputError(f"context {path} cannot be read ({error.strerror})") from error
