"""Excerpts of real source files that parse, and the functions in them.

An excerpt is a run of whole top-level statements, so that a small window also holds real code.
"""

from __future__ import annotations

import ast
import random
import re
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache

from data_gen.tasks.real_text import Package, read

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Definition:
    """A function or method whose name stands once in its file, with its source."""

    path: str
    name: str
    source: str
    node: Function = field(repr=False)
    method: bool


@dataclass(frozen=True, eq=False)
class Piece:
    """An excerpt of the file at ``path``."""

    path: str
    text: str
    tree: ast.Module = field(repr=False)


def parse(text: str) -> ast.Module | None:
    """Its tree, or None if it is no Python of this version."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return ast.parse(text)
        except (SyntaxError, ValueError, RecursionError):
            return None


@lru_cache(maxsize=512)
def _statements(package: Package, path: str) -> tuple[str, ...]:
    """The file's text cut before each top-level statement; joined they are the file."""
    text = read(package, path)
    tree = parse(text) if text is not None else None
    if text is None or tree is None or not tree.body:
        return ()
    lines = text.splitlines(keepends=True)
    starts = [0]
    for node in tree.body[1:]:
        decorators = getattr(node, "decorator_list", [])
        line = min([node.lineno, *(d.lineno for d in decorators)]) - 1
        if line > starts[-1]:
            starts.append(line)
    ends = [*starts[1:], len(lines)]
    return tuple("".join(lines[a:b]) for a, b in zip(starts, ends, strict=True))


def excerpt(
    rng: random.Random,
    package: Package,
    path: str,
    n_bytes: int,
    prefer: Callable[[str], bool] = lambda statement: False,
) -> Piece | None:
    """The file, or whole statements of it from a random one on, in at most ``n_bytes``.

    Args:
        prefer: where it holds for a statement that fits, the excerpt begins with such a one.
    """
    statements = _statements(package, path)
    if not statements:
        return None
    sizes = [len(statement.encode()) for statement in statements]
    first = 0
    if sum(sizes) > n_bytes:
        fitting = [at for at, size in enumerate(sizes) if size <= n_bytes]
        if not fitting:
            return None
        first = rng.choice([at for at in fitting if prefer(statements[at])] or fitting)
    last, size = first, 0
    while last < len(sizes) and size + sizes[last] <= n_bytes:
        size += sizes[last]
        last += 1
    text = "".join(statements[first:last]).strip("\n") + "\n"
    tree = parse(text)
    return None if tree is None else Piece(path, text, tree)


@lru_cache(maxsize=256)
def definitions(piece: Piece) -> tuple[Definition, ...]:
    """Top-level functions and methods of top-level classes that plain code can cut out, too."""
    names = Counter(n.name for n in ast.walk(piece.tree) if isinstance(n, (Function, ast.ClassDef)))
    lines = piece.text.split("\n")
    found = []
    for owner in [piece.tree, *(n for n in piece.tree.body if isinstance(n, ast.ClassDef))]:
        for node in owner.body:
            if not isinstance(node, Function) or names[node.name] != 1:
                continue
            source = "\n".join(lines[node.lineno - 1 : node.end_lineno]).strip()
            if cut_out(piece.text, node.name) == source:
                method = isinstance(owner, ast.ClassDef)
                found.append(Definition(piece.path, node.name, source, node, method))
    return tuple(found)


def cut_out(text: str, name: str) -> str:
    """The function's source by its indent alone, as a program without a parser finds it."""
    pattern = rf"^( *)(?:async )?def {re.escape(name)}\(.*\n(?:\1 +.*\n|\n)*"
    match = re.search(pattern, text, re.MULTILINE)
    return match[0].strip() if match else ""


def one_name(definitions: list[Definition]) -> list[Definition]:
    """Those whose name no other one has."""
    counts = Counter(d.name for d in definitions)
    return [d for d in definitions if counts[d.name] == 1]
