"""The normal form of a run's code, which tells two programs that only look different from two.

Names are numbered in order of appearance, literals masked, comments and formatting gone. What the
REPL and Python give (``context``, ``llm_query``, ``print``) and attributes keep their names.

    normal_form(["hits = re.findall('a', context)", "print(hits[:3])"])
"""

from __future__ import annotations

import ast
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

# What the REPL puts back after each cell: a program can't give these names away.
REPL_NAMES = frozenset(
    ["context", "context_0", "SHOW_VARS", "FINAL", "FINAL_VAR"]
    + ["llm_query", "llm_query_batched", "rlm_query", "rlm_query_batched"]
)
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
_SCOPES = (*_FUNCTIONS, ast.ClassDef, ast.Lambda)
_COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)


def parse(code: str) -> ast.Module | None:
    """Its tree, or None if it is no Python."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an odd escape in a model's string is no news here
        try:
            return ast.parse(code)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return None


def normal_form(blocks: Sequence[str]) -> str:
    """The blocks as one program; names are the same over all of them."""
    trees = [parse(block) for block in blocks]
    masks = _Masks(tree for tree in trees if tree is not None)
    parts = []
    for tree in trees:
        try:
            parts.append("(no Python)" if tree is None else ast.unparse(masks.visit(tree)))
        except RecursionError:
            parts.append("(too deep)")
    return "\n---\n".join(parts)


def diversity(programs: Iterable[tuple[str, str]]) -> dict[str, Any]:
    """How many of the programs (family, normal form) differ, and the share of the commonest."""
    families: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for family, form in programs:
        families[family][form] += 1
    every: Counter[str] = Counter()
    for counts in families.values():
        every.update(counts)
    by_family = {family: _told(families[family]) for family in sorted(families)}
    return {**_told(every), "by_family": by_family}


def _told(counts: Counter[str]) -> dict[str, Any]:
    total = counts.total()
    share = max(counts.values()) / total if total else 0.0
    return {"programs": total, "distinct": len(counts), "commonest_share": round(share, 4)}


def module_names(tree: ast.AST) -> set[str]:
    """Variables that running ``tree`` makes in the REPL; those of functions are not among them."""
    found = {name for node in _outside_scopes(tree) for name in _bound(node)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Global):
            found |= {*node.names}
    return found


def _outside_scopes(node: ast.AST, hidden: frozenset[str] = frozenset()) -> Iterator[ast.AST]:
    """The nodes that bind names where ``node`` stands."""
    for child in ast.iter_child_nodes(node):
        own = hidden
        if isinstance(child, _COMPREHENSIONS):  # its targets are its own, a walrus in it is not
            targets = (name for one in child.generators for name in ast.walk(one.target))
            own = hidden | {name.id for name in targets if isinstance(name, ast.Name)}
        if not (isinstance(child, ast.Name) and child.id in hidden):
            yield child
        if not isinstance(child, _SCOPES):
            yield from _outside_scopes(child, own)


def _bound(node: ast.AST) -> list[str]:
    """Names that this one node gives a value to."""
    if isinstance(node, ast.Name):
        return [node.id] if isinstance(node.ctx, ast.Store) else []
    if isinstance(node, ast.alias):
        return [node.asname or node.name.partition(".")[0]]
    if isinstance(node, ast.arg):
        return [node.arg]
    if isinstance(node, ast.MatchMapping):
        return [node.rest] if node.rest else []
    if isinstance(node, (*_FUNCTIONS, ast.ClassDef, ast.ExceptHandler, ast.MatchAs, ast.MatchStar)):
        return [node.name] if node.name else []
    return []


class _Masks(ast.NodeTransformer):
    """Numbers the names that the programs bind, and masks their literals."""

    def __init__(self, trees: Iterable[ast.Module]) -> None:
        nodes = [node for tree in trees for node in ast.walk(tree)]
        # A module is the same under another name, so an import gives its own name back.
        self._names = {
            node.asname: node.name for node in nodes if isinstance(node, ast.alias) and node.asname
        }
        imported = {node.name for node in nodes if isinstance(node, ast.alias)}
        self._functions = {node.name for node in nodes if isinstance(node, _FUNCTIONS)}
        bound = {name for node in nodes for name in _bound(node)}
        self._bound = bound - REPL_NAMES - imported - {*self._names}
        self._numbered = 0

    def _name(self, name: str) -> str:
        if name in self._bound and name not in self._names:
            self._names[name] = f"v{self._numbered}"
            self._numbered += 1
        return self._names.get(name, name)

    def visit(self, node: ast.AST) -> Any:
        for field in ("id", "arg", "name", "rest"):  # of names, arguments, definitions, patterns
            value = getattr(node, field, None)
            if isinstance(value, str) and not isinstance(node, (ast.keyword, ast.alias)):
                setattr(node, field, self._name(value))
        return super().visit(node)

    def visit_Call(self, node: ast.Call) -> ast.AST:
        if isinstance(node.func, ast.Name) and node.func.id in self._functions:
            for keyword in node.keywords:
                keyword.arg = keyword.arg and self._name(keyword.arg)
        return self.generic_visit(node)

    def visit_Global(self, node: ast.Global) -> ast.AST:
        node.names = [self._name(name) for name in node.names]
        return node

    def visit_Nonlocal(self, node: ast.Nonlocal) -> ast.AST:
        node.names = [self._name(name) for name in node.names]
        return node

    def visit_alias(self, node: ast.alias) -> ast.AST:
        return ast.alias(node.name)

    def visit_Constant(self, node: ast.Constant) -> ast.AST:
        if node.value is None or isinstance(node.value, bool) or node.value is ...:
            return node  # they decide; they are no data
        return ast.Constant("" if isinstance(node.value, (str, bytes)) else 0)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> ast.AST:
        negative = isinstance(node.op, ast.USub) and isinstance(node.operand, ast.Constant)
        return ast.Constant(0) if negative else self.generic_visit(node)

    def visit_JoinedStr(self, node: ast.JoinedStr) -> ast.AST:
        """Only what stands in the braces; as a call, since f-strings can't all be written."""
        values = [part.value for part in node.values if isinstance(part, ast.FormattedValue)]
        return ast.Call(ast.Name("fstring"), [self.visit(value) for value in values], [])

    def visit_List(self, node: ast.List) -> ast.AST:
        return self._display(node)

    def visit_Tuple(self, node: ast.Tuple) -> ast.AST:
        return self._display(node)

    def visit_Set(self, node: ast.Set) -> ast.AST:
        return self._display(node)

    def _display(self, node: ast.List | ast.Tuple | ast.Set) -> ast.AST:
        """A list of constants is one literal, however long it is."""
        if node.elts and all(isinstance(item, ast.Constant) for item in node.elts):
            node.elts = node.elts[:1]
        return self.generic_visit(node)

    def visit_Expr(self, node: ast.Expr) -> ast.AST | None:
        """A text alone is a comment."""
        if isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            return None
        return self.generic_visit(node)
