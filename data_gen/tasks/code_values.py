"""Pure functions found in real code, and their values on inputs drawn for them.

Pure here is a list of what a function may use (safe builtins, methods that change nothing, its own
names), not a proof for all Python. Values come from a process of its own with a limit on its CPU
time and memory; a function that is slow, raises or gives back no plain value is not used.
"""

from __future__ import annotations

import ast
import json
import random
import subprocess
import sys
from functools import lru_cache

_BUILTINS = (
    "abs all any bool chr dict divmod enumerate filter float int isinstance len list map max min "
    "ord pow range repr reversed round set sorted str sum tuple zip ValueError TypeError KeyError "
    "IndexError"
).split()
_METHODS = set(
    "strip lstrip rstrip split rsplit splitlines join lower upper title capitalize swapcase "
    "startswith endswith find rfind index rindex count replace partition rpartition isdigit "
    "isalpha isalnum isspace isupper islower isidentifier zfill ljust rjust center expandtabs "
    "items keys values get bit_length removeprefix removesuffix format".split()
)
_GROWING = {"append", "extend", "add", "insert", "pop", "reverse", "sort"}
_REFUSED = (
    ast.Yield, ast.YieldFrom, ast.Await, ast.Global, ast.Nonlocal, ast.Import, ast.ImportFrom,
    ast.With, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.Delete, ast.Try,
)  # fmt: skip
_STRINGS = (
    "ab", "Hello World", "x=1; y=2", "a,b,,c", "/usr/lib/x.py", "  two  words ", "127", "CamelCase",
    "snake_case_name", "key: value", "text/html; charset=utf-8", "<b>bold</b>", "a-b-c", "?!", "",
)  # fmt: skip
_N_TRIES = 24
_RUNNER = """
import json, resource, signal, sys
resource.setrlimit(resource.RLIMIT_CPU, (20, 20))
resource.setrlimit(resource.RLIMIT_AS, (1 << 29, 1 << 29))
names, jobs = json.load(sys.stdin)
given = __builtins__.__dict__
safe = {name: given[name] for name in names}
def stop(*_):
    raise TimeoutError
signal.signal(signal.SIGVTALRM, stop)
for source, name, calls in jobs:
    values = []
    for call in calls:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0.2)
        try:
            space = {"__builtins__": safe}
            exec(source, space)
            value = eval(call, space)
            plain = isinstance(value, (bool, int, str, list, tuple, dict))
            text = repr(value) if plain else ""
            values.append(text if eval(text, {}) == value else "")
        except BaseException:
            values.append("")
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    print(json.dumps(values), flush=True)
"""


def is_pure(node: ast.AST) -> bool:
    """Whether it is a small function of the listed means alone."""
    if not isinstance(node, ast.FunctionDef) or node.decorator_list or node.name.startswith("__"):
        return False
    asked = node.args
    if asked.vararg or asked.kwarg or asked.kwonlyargs or asked.posonlyargs:
        return False
    if not 1 <= len(asked.args) <= 3:
        return False
    if not all(isinstance(default, ast.Constant) for default in asked.defaults):
        return False
    parameters = {arg.arg for arg in asked.args}
    inside = [part for statement in node.body for part in ast.walk(statement)]
    own = {n.id for n in inside if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    known = own | parameters | set(_BUILTINS) | {node.name}
    return all(_allowed(part, known, parameters - own) for part in inside)


def _allowed(part: ast.AST, known: set[str], parameters: set[str]) -> bool:
    if isinstance(part, _REFUSED):
        return False
    if isinstance(part, ast.Name):
        return part.id in known and not part.id.startswith("__")
    if isinstance(part, ast.Attribute):
        if part.attr in _METHODS:
            return True
        grown = part.value.id if isinstance(part.value, ast.Name) else None
        return part.attr in _GROWING and grown is not None and grown not in parameters
    if isinstance(part, ast.Subscript) and isinstance(part.ctx, ast.Store):
        return isinstance(part.value, ast.Name) and part.value.id not in parameters
    return True


@lru_cache(maxsize=4096)
def values(source: str, name: str, n_parameters: int) -> tuple[tuple[str, str], ...]:
    """(call, value) of inputs on which the function gives a plain, short value; all differ."""
    rng = random.Random(f"values/{source}")
    calls = sorted({_call(rng, name, n_parameters) for _ in range(_N_TRIES)})
    done = subprocess.run(
        [sys.executable, "-I", "-c", _RUNNER],
        input=json.dumps([_BUILTINS, [[source, name, calls]]]),
        capture_output=True,
        text=True,
        timeout=60,
    )
    if done.returncode or not done.stdout:
        return ()
    found: dict[str, str] = {}
    for call, value in zip(calls, json.loads(done.stdout), strict=True):
        if value and len(value) <= 60 and value not in found.values():
            found[call] = value
    return tuple(found.items())


def _call(rng: random.Random, name: str, n_parameters: int) -> str:
    return f"{name}({', '.join(repr(_argument(rng)) for _ in range(n_parameters))})"


def _argument(rng: random.Random) -> object:
    kind = rng.randrange(4)
    if kind == 0:
        return rng.choice(_STRINGS)
    if kind == 1:
        return [rng.randrange(10) for _ in range(rng.randint(2, 4))]
    return rng.randrange(2_100) if kind == 2 else rng.randrange(12)
