"""Mistakes with the dict ``answer``, mended; their names are in ``repair``."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from dataclasses import replace

from data_gen.programs import parse
from data_gen.replies import Fix, Mended, Said, Source, Unmendable, swap_block
from rlm_executor import Dialect

_SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)
_BINDINGS = (ast.Assign, ast.AnnAssign, ast.AugAssign)


def mend_answer(
    replies: list[Said], dialect: Dialect, answered: bool
) -> tuple[list[Mended], list[Fix]]:
    """The replies up to the one that ends the run, mended.

    Raises:
        Unmendable: the answer was given before anything was looked at, or no edit reaches it.
    """
    if answered and len(replies) == 1:
        raise Unmendable("ready_before_looking")
    mended: list[Said] = []
    fixes: list[Fix] = []
    was_ready = False
    for said in replies:
        text = said.text
        if _is_rebound(said):
            text = _edited(said, _unbound, "answer_rebound")
            fixes.append(Fix(said.turn, "answer_rebound"))
        elif _is_ready_in_vain(said) and (_sets_ready(said) or not was_ready):
            text = _edited(said, _not_ready, "ready_without_content")
            fixes.append(Fix(said.turn, "ready_without_content"))
        was_ready = said.cells[-1]["ready"] if said.cells else was_ready
        if text != said.text:
            said = _with(said, text, dialect)
            if not said.reply.blocks:
                continue
        mended.append(said)
        if fixes and fixes[-1] == (said.turn, "answer_rebound") and _sets_ready(said):
            return _told(mended), fixes  # nothing stops it now from ending the run
    if answered:
        left = any(fix.name == "ready_without_content" for fix in fixes)
        if left and not any("ready" in block for block in mended[-1].reply.blocks):
            mended[-1] = _made_ready(mended[-1], dialect)
            fixes.append(Fix(mended[-1].turn, "ready_left_behind"))
    elif (last := _last_word(mended)) is not None:
        mended = [*mended[:last], _made_ready(mended[last], dialect)]
        fixes.append(Fix(mended[-1].turn, "never_ready"))
    return _told(mended), fixes


def _told(replies: list[Said]) -> list[Mended]:
    return [Mended(said.text, said.turn) for said in replies]


def _with(said: Said, text: str, dialect: Dialect) -> Said:
    """The reply with another text."""
    return replace(said, text=text, reply=dialect.parse(text, said.finish_reason))


def _edited(said: Said, edit: Callable[[str, ast.Module], str], rule: str) -> str:
    """Its text with every block edited.

    Raises:
        Unmendable: by ``rule``: no edit changes anything.
    """
    text = said.text
    for block in said.reply.blocks:
        tree = parse(block)
        if tree is not None and (code := edit(block, tree)) != block:
            text = swap_block(text, block, code)
    if text == said.text:
        raise Unmendable(rule)
    return text


def _is_ready_in_vain(said: Said) -> bool:
    """Whether it was ready, and there was nothing to give."""
    if not said.cells or said.cells[-1]["status"] != "ok":
        return False
    return said.cells[-1]["ready"] and not said.cells[-1]["answer"].strip()


def _is_rebound(said: Said) -> bool:
    """Whether ``answer`` became another thing than a dict."""
    if any(cell["moved"] for cell in said.cells):
        return True
    failed = any(cell["status"] == "error" for cell in said.cells)
    return failed and any(_binding(parse(block)) for block in said.reply.blocks)


def _last_word(replies: list[Said]) -> int | None:
    """The last reply that did anything new, if what it did was to set the content for good."""
    last: int | None = None
    seen: set[str] = set()
    for index, said in enumerate(replies):
        if not seen.issuperset(said.reply.blocks):
            last = index
        seen |= {*said.reply.blocks}
    if last is None or not replies[last].cells:
        return None
    cell = replies[last].cells[-1]
    sets = any(_items(parse(block), "content") for block in replies[last].reply.blocks)
    return last if sets and cell["status"] == "ok" and cell["answer"].strip() else None


def _sets_ready(said: Said) -> bool:
    return any(
        isinstance(node.value, ast.Constant) and bool(node.value.value)
        for block in said.reply.blocks
        for node in _items(parse(block), "ready")
    )


def _made_ready(said: Said, dialect: Dialect) -> Said:
    """The reply with ready set, after all else that its last block does."""
    block = said.reply.blocks[-1]
    source = Source(block)
    for node in _items(parse(block), "ready"):  # it says that it is not
        source.cut(node)
    code = f'{source.edited().rstrip()}\nanswer["ready"] = True'
    return _with(said, swap_block(said.text, block, code), dialect)


def _not_ready(code: str, tree: ast.Module) -> str:
    source = Source(code)
    for node in _items(tree, "ready"):
        if node in tree.body:
            source.cut(node)
        else:
            source.swap(node, "pass")
    return source.edited()


def _unbound(code: str, tree: ast.Module) -> str:
    """The code with ``answer["content"]`` for ``answer``, from its first new value on."""
    first = _binding(tree)
    if first is None:
        return code
    nodes = [*_own(tree)]
    items = {
        id(node.value)
        for node in nodes
        if isinstance(node, ast.Subscript) and _is_item(node, "content", "ready")
    }
    names = [
        node
        for node in nodes
        if isinstance(node, ast.Name)
        and node.id == "answer"
        and id(node) not in items
        and (node.lineno, node.col_offset) >= (first.lineno, first.col_offset)
    ]
    for quote in "\"'":  # in an f-string only one of them may do
        source = Source(code)
        for name in names:
            source.swap(name, f"answer[{quote}content{quote}]")
        if parse(source.edited()) is not None:
            return source.edited()
    return code


def _items(tree: ast.AST | None, item: str) -> list[ast.Assign]:
    """The statements that set an item of the dict, in the REPL's own scope."""
    return [
        node
        for node in _own(tree)
        if isinstance(node, ast.Assign) and any(_is_item(one, item) for one in node.targets)
    ]


def _is_item(node: ast.AST, *items: str) -> bool:
    return (
        isinstance(node, ast.Subscript)
        and isinstance(node.value, ast.Name)
        and node.value.id == "answer"
        and isinstance(node.slice, ast.Constant)
        and node.slice.value in items
    )


def _binding(tree: ast.AST | None) -> ast.stmt | None:
    """The first statement that gives ``answer`` a value that is not written as a dict."""
    for node in _own(tree):
        if isinstance(node, _BINDINGS) and not isinstance(node.value, ast.Dict):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            if any(isinstance(one, ast.Name) and one.id == "answer" for one in targets):
                return node
    return None


def _own(tree: ast.AST | None) -> Iterator[ast.AST]:
    """The nodes that do not stand in a function or class."""
    if tree is not None:
        for child in ast.iter_child_nodes(tree):
            yield child
            if not isinstance(child, _SCOPES):
                yield from _own(child)
