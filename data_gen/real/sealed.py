"""Texts that are published encrypted, so that they don't end up in training data.

The scheme of BrowseComp: base64 of the bytes XOR sha256 of a canary string, repeated. It hides
from crawlers, not from people; we keep to it by holding the plain text in memory only.
"""

from __future__ import annotations

import ast
import base64
import hashlib
from pathlib import Path
from typing import Any

from data_gen.real.rows import Row
from data_gen.tasks.task import Window
from rlm_executor.errors import InputError

_MARK = "canary GUID"  # part of every such canary


class SealedWindow(Window):
    """A window whose text may be given to a model, and not be written to a file."""

    def write(self, path: Path) -> None:
        """Refuse.

        Raises:
            InputError: always.
        """
        raise InputError(
            f"the text of {self.id} is published encrypted only and is not written to {path.name}; "
            "give text() to the model"
        )


def key(canary: str, file: Path | None) -> bytes:
    """The key of 32 bytes made from the canary, given or read from a file.

    Raises:
        InputError: there is none, or the file can't be read or holds none.
    """
    if not canary:
        canary = _read_canary(file)
    return hashlib.sha256(canary.encode()).digest()


def decrypt(text: str, secret: bytes) -> str:
    """The plain text.

    Raises:
        ValueError: not base64, or not of this key.
    """
    data = base64.b64decode(text, validate=True)
    pad = (secret * (len(data) // len(secret) + 1))[: len(data)]
    plain = int.from_bytes(data, "big") ^ int.from_bytes(pad, "big")
    return plain.to_bytes(len(data), "big").decode("utf-8")


def opened(row: Row, secret: bytes) -> Row:
    """A row with all of its texts decrypted, but for ``query_id``.

    Raises:
        InputError: the canary is wrong, or the row is not encrypted this way.
    """
    try:
        return {
            name: value if name == "query_id" else _opened(value, secret)
            for name, value in row.items()
        }
    except ValueError as error:  # its message would show decrypted bytes
        raise InputError(
            f"question {row['query_id']} can't be decrypted ({type(error).__name__}); check that "
            "the canary is the one in the data set's decryption script, and the file the original"
        ) from None


def _opened(value: Any, secret: bytes) -> Any:
    if isinstance(value, str):
        return decrypt(value, secret)
    if isinstance(value, list):
        return [_opened(one, secret) for one in value]
    if isinstance(value, dict):
        return {name: _opened(one, secret) for name, one in value.items()}
    return value


def _read_canary(file: Path | None) -> str:
    if file is None:
        raise InputError(
            "the texts are encrypted and the canary is missing; set `canary:` to the string in the "
            "data set's own decryption script, or `canary_file:` to that script"
        )
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = type(error).__name__
        raise InputError(f"{file} can't be read ({why}); correct `canary_file:`") from error
    if file.suffix != ".py":
        found = {text.strip()} if text.strip() and "\n" not in text.strip() else set()
    else:
        try:
            nodes = list(ast.walk(ast.parse(text)))
        except SyntaxError as error:
            raise InputError(f"{file} is not a Python script; correct `canary_file:`") from error
        literals = (node.value for node in nodes if isinstance(node, ast.Constant))
        found = {one for one in literals if isinstance(one, str) and _MARK in one}
    if len(found) != 1:
        raise InputError(
            f"{file} holds {len(found)} canaries, expected one: a .py file with one string that "
            f"contains {_MARK!r}, or a file of one line; or set `canary:`"
        )
    return found.pop()
