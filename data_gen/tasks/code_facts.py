"""Facts of excerpts of real code, read from the syntax tree, each with wrong choices beside it.

Every fact can also be found in the text alone (``code_pieces.cut_out``), so that a program in the
REPL can answer it without this module; facts of which text and tree disagree are left out.
"""

from __future__ import annotations

import ast
import random
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from data_gen.tasks.code_pieces import Definition, Piece, definitions, one_name
from data_gen.tasks.code_values import is_pure, values

_LITERALS = ["0", "1", "-1", "None", "True", "False", "''", "2", "10"]
_EXCEPTIONS = ["ValueError", "TypeError", "KeyError", "RuntimeError", "OSError", "IndexError"]
_N_WRONG = 3


@dataclass(frozen=True)
class Fact:
    """What fills the question's wording, the right choice and wrong ones."""

    kind: str
    fields: dict[str, str]
    gold: str
    wrong: list[str]


def default(rng: random.Random, pieces: list[Piece]) -> list[Fact]:
    """Defaults that are plain constants."""
    found: list[tuple[Definition, str, str]] = []
    for d in _all(pieces):
        asked = d.node.args
        if asked.posonlyargs:
            continue
        named = asked.args[len(asked.args) - len(asked.defaults) :]
        for parameter, value in zip(named, asked.defaults, strict=True):
            text = ast.unparse(value)
            if isinstance(value, ast.Constant) and re.fullmatch(r"[\w.' /-]{1,30}", text):
                found.append((d, parameter.arg, text))
    every = [value for _, _, value in found] + _LITERALS
    return _facts(
        rng,
        "default",
        [({"name": d.name, "path": d.path, "parameter": p}, v) for d, p, v in found],
        lambda _, gold: [value for value in every if value != gold],
    )


def raises(rng: random.Random, pieces: list[Piece]) -> list[Fact]:
    """Functions that raise exceptions of one type, by name."""
    found = [(d, name) for d in _all(pieces) if (name := one_raised(d))]
    every = [name for _, name in found] + _EXCEPTIONS
    return _facts(
        rng,
        "raises",
        [({"name": d.name, "path": d.path}, name) for d, name in found],
        lambda _, gold: [name for name in every if name != gold],
    )


def one_raised(definition: Definition) -> str:
    """The one exception type that the function raises; "" if there is none, or more."""
    names = set()
    for node in ast.walk(definition.node):
        if isinstance(node, ast.Raise) and node.exc is not None:
            raised = node.exc.func if isinstance(node.exc, ast.Call) else node.exc
            names.add(raised.id if isinstance(raised, ast.Name) else "?")
    seen = set(re.findall(r"^ *raise (\w+)", definition.source, re.MULTILINE))
    return next(iter(names)) if len(names) == 1 and names == seen and "?" not in names else ""


def calls(rng: random.Random, pieces: list[Piece]) -> list[Fact]:
    """What only one function calls; the wrong choices are functions that don't name it so."""
    every = one_name(_all(pieces))
    callers: dict[str, list[Definition]] = {}
    for d in every:
        for name in {*re.findall(r"\b([A-Za-z_]\w{3,})\(", d.source)}:
            callers.setdefault(name, []).append(d)
    found = []
    for name, who in sorted(callers.items()):
        tree = {_called(node) for node in ast.walk(who[0].node) if isinstance(node, ast.Call)}
        if len(who) == 1 and name in tree and name != who[0].name:
            found.append(({"called": name}, _place(who[0])))
    return _facts(
        rng,
        "calls",
        found,
        lambda fields, gold: [
            text for d in every if d.name != fields["called"] and (text := _place(d)) != gold
        ],
    )


def _place(definition: Definition) -> str:
    return f"{definition.name} ({definition.path})"


def _called(node: ast.Call) -> str:
    if isinstance(node.func, ast.Name):
        return node.func.id
    return node.func.attr if isinstance(node.func, ast.Attribute) else ""


def imports(rng: random.Random, pieces: list[Piece]) -> list[Fact]:
    """A module that only some of the files import."""
    modules = {piece.path: _imported(piece.tree) for piece in pieces}
    found = [({"module": m}, path) for path, names in modules.items() for m in sorted(names)]
    return _facts(
        rng,
        "imports",
        found,
        lambda fields, _: [
            path for path, names in modules.items() if fields["module"] not in names
        ],
    )


def _imported(tree: ast.Module) -> set[str]:
    """Modules of plain ``import`` and ``from`` statements, by the name that stands there."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module)
    return names


def snippet(rng: random.Random, pieces: list[Piece]) -> list[Fact]:
    """Lines that stand in one of the files only."""
    counts = Counter(line.strip() for p in pieces for line in {*p.text.splitlines()})
    found = []
    for piece in pieces:
        lines = [line.strip() for line in piece.text.splitlines()]
        good = [x for x in lines if 25 <= len(x) <= 70 and counts[x] == 1 and "`" not in x]
        others = [p.text for p in pieces if p is not piece]
        for line in rng.sample(good, min(2, len(good))):
            if not any(line in text for text in others):
                found.append(({"line": line}, piece.path))
    return _facts(rng, "snippet", found, lambda _, g: [p.path for p in pieces if p.path != g])


def overrides(rng: random.Random, pieces: list[Piece]) -> list[Fact]:
    """Classes that define a method which their base class, also in the text, has too."""
    places = [(n, p.path) for p in pieces for n in p.tree.body if isinstance(n, ast.ClassDef)]
    nodes = [node for node, _ in places]
    place = {node.name: f"{node.name} ({path})" for node, path in places}
    counts = Counter(node.name for node in nodes)
    methods = {
        node.name: {n.name for n in node.body if isinstance(n, ast.FunctionDef)}
        for node in nodes
        if counts[node.name] == 1
    }
    found = [
        ({"method": method, "base": base.id}, place[node.name])
        for node in nodes
        for base in node.bases
        if node.name in methods and isinstance(base, ast.Name) and base.id in methods
        for method in sorted(methods[node.name] & methods[base.id])
    ]
    return _facts(
        rng,
        "overrides",
        found,
        lambda fields, _: [
            place[name] for name, has in methods.items() if fields["method"] not in has
        ],
    )


def value(rng: random.Random, pieces: list[Piece]) -> list[Fact]:
    """Values of pure functions; the wrong choices are their values on other inputs."""
    found = []
    for d in _all(pieces):
        if d.method or not is_pure(d.node):
            continue
        told = list(values(d.source, d.name, len(d.node.args.args)))
        rng.shuffle(told)
        # A value that stands in the call can be guessed without reading the function.
        call, gold = next(((c, v) for c, v in told if v not in c), ("", ""))
        wrong = [v for c, v in told if v != gold]
        if call and "`" not in call and len(wrong) >= _N_WRONG:
            found.append(Fact("value", {"call": call, "path": d.path}, gold, wrong[:_N_WRONG]))
    return found


FINDERS: dict[str, Callable[[random.Random, list[Piece]], list[Fact]]] = {
    "value": value,
    "default": default,
    "raises": raises,
    "calls": calls,
    "imports": imports,
    "snippet": snippet,
    "overrides": overrides,
}


def _all(pieces: list[Piece]) -> list[Definition]:
    return [d for piece in pieces for d in definitions(piece)]


def _facts(
    rng: random.Random,
    kind: str,
    found: list[tuple[dict[str, str], str]],
    wrong: Callable[[dict[str, str], str], list[str]],
) -> list[Fact]:
    """Facts that have enough wrong choices; a few of them are all that a window needs."""
    facts = []
    for fields, gold in rng.sample(found, min(8, len(found))):
        others = list(dict.fromkeys(wrong(fields, gold)))
        if len(others) >= _N_WRONG:
            facts.append(Fact(kind, fields, gold, rng.sample(others, _N_WRONG)))
    return facts
