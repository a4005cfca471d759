"""Mistakes with FINAL and FINAL_VAR, mended; their names are in ``repair``."""

from __future__ import annotations

import ast
import builtins
import re
from collections.abc import Iterable
from typing import NamedTuple

from data_gen.programs import REPL_NAMES, module_names, parse
from data_gen.replies import Fix, Mended, Said, Source, Unmendable, swap_block
from rlm_executor import Dialect
from rlm_executor.parsing import find_final, parses, strip_thinking

MADE = "final_answer"  # the variable that mended code leaves the answer in
_CALLS = ("FINAL", "FINAL_VAR")
_CALL = re.compile(r"^[ \t>*_#`~]*?(FINAL_VAR|FINAL)\(", re.MULTILINE)
_CALLED = re.compile(r"\bFINAL(?:_VAR)?\(")
_FENCE = re.compile(r"^ {0,3}```([^\n`]*)\n(.*?)\n {0,3}```[ \t]*$", re.MULTILINE | re.DOTALL)
_BEHIND = re.compile(r"\s*['\"`]*\s*\)[ \t.!;*_`~]*")
_PLACEHOLDER = re.compile(r"\{([A-Za-z_]\w*)[^{}]*\}")


class _Answer(NamedTuple):
    """What a statement gives: a "text", a "variable" or an "expression"."""

    kind: str
    value: str

    def __str__(self) -> str:
        return f"FINAL({self.value})" if self.kind == "text" else f"FINAL_VAR({self.value})"


class _Statement(NamedTuple):
    """FINAL or FINAL_VAR in a reply's text, and where it stands."""

    function: str
    argument: str
    start: int
    end: int


def mend_final(
    replies: list[Said], dialect: Dialect, answered: bool
) -> tuple[list[Mended], list[Fix]]:
    """The replies up to the one that ends the run, mended.

    Raises:
        Unmendable: FINAL is called in code where no edit reaches it.
    """
    trying = [said.turn for said in replies if _tries(said)]
    if not trying:
        return [Mended(said.text, said.turn) for said in replies], []
    last = len(replies) - 1 if answered else trying[-1]
    mended: list[Mended] = []
    fixes: list[Fix] = []
    names: set[str] = set()
    for said in replies[: last + 1]:
        for cell in said.cells:
            tree = parse(cell["code"]) if cell["status"] == "ok" else None
            names |= module_names(tree) if tree is not None else set()
        texts, found = _turn(said, dialect, _probed(said, names), said.turn == last)
        mended += [Mended(text, said.turn) for text in texts]
        fixes += [Fix(said.turn, name) for name in dict.fromkeys(found)]
    if not fixes:  # what came behind the last try is not cut off without a reason
        return [Mended(said.text, said.turn) for said in replies], []
    return mended, fixes


def _tries(said: Said) -> bool:
    """Whether it is, or was meant to be, the end of the run."""
    return (
        _statement(said.text) is not None
        or any(_calls(block) for block in said.reply.blocks)
        or _freed(said) != said.text
    )


def _probed(said: Said, names: set[str]) -> set[str]:
    """The variables after this turn; what the executor has looked for itself is certain."""
    name = re.split(r"[\[(]", said.reply.final_name)[0]
    if not said.probes or not name:
        return names - REPL_NAMES
    found = said.probes[-1]["ready"]
    return ((names | {name}) if found else (names - {name})) - REPL_NAMES


def _turn(said: Said, dialect: Dialect, names: set[str], last: bool) -> tuple[list[str], list[str]]:
    """Its reply in the mended run (none, one or two), and what was wrong."""
    text, fixes = _freed(said), []
    if text != said.text:
        fenced = dialect.parse(text, said.finish_reason).blocks
        fixes.append("final_with_unrun_code" if fenced else "final_in_fence")
    blocks = dialect.parse(text, said.finish_reason).blocks
    trees = [tree for block in blocks if (tree := parse(block)) is not None]
    names = names.union(*map(module_names, trees)) - REPL_NAMES if fixes else names
    answer: _Answer | None = None
    statement = _statement(text)
    if statement is not None:
        answer, wrong = _meant(statement, names)
        fixes += [wrong] if wrong else []
        fixes += ["final_beside_code"] if blocks else []
    body = text
    for block in blocks:
        if _calls(block):
            code, given = _without_calls(block, names, last)
            fixes.append("final_in_code")
            body, answer = swap_block(body, block, code), given or answer
    if not fixes:
        return [said.text], []
    while (found := _statement(body)) is not None:
        body = body[: found.start] + body[found.end :]
    has_code = bool(dialect.parse(body, said.finish_reason).blocks)
    if not last or answer is None:  # code that was not run then is not run now
        return ([body.strip()] if has_code and said.reply.blocks else []), fixes
    if answer.kind == "expression":
        made = f"{MADE} = {answer.value}"
        blocks = dialect.parse(body, said.finish_reason).blocks
        if blocks:
            body = swap_block(body, blocks[-1], f"{blocks[-1]}\n{made}")
        else:
            body = f"{body.strip()}\n\n```repl\n{made}\nprint({MADE})\n```"
        return [body.strip(), f"FINAL_VAR({MADE})"], fixes
    if has_code:
        return [body.strip(), str(answer)], fixes
    return [f"{body.strip()}\n\n{answer}".strip()], fixes


def _freed(said: Said) -> str:
    """The text without the fences, not run, around FINAL; fences around code with it are run."""
    if said.reply.blocks or _statement(said.text) is not None:
        return said.text

    def free(fence: re.Match[str]) -> str:
        lines = [line for line in fence[2].split("\n") if line.strip()]
        if not _CALLED.search(fence[2]):
            return fence[0]
        if len(lines) == 1 and _CALL.match(lines[0]):
            return lines[0].strip()
        return f"```repl\n{fence[2]}\n```" if parses(fence[2]) else fence[0]

    return _FENCE.sub(free, said.text)


def _statement(text: str) -> _Statement | None:
    """The last FINAL or FINAL_VAR at the start of a line, as the executor finds them."""
    hidden = len(text) - len(strip_thinking(text))
    shown = " " * hidden + text[hidden:]
    shown = _FENCE.sub(lambda fence: re.sub(r"[^\n]", " ", fence[0]), shown)
    found = [*_CALL.finditer(shown)]
    ends = [*(called.start() for called in found[1:]), len(text)]
    # The last one counts, FINAL_VAR before FINAL.
    for called, end in sorted(zip(found, ends, strict=False), key=_rank, reverse=True):
        rest = text[called.end() : end]
        # FINAL_VAR of what is no variable is not found there; as FINAL it is.
        name = find_final(f"FINAL_VAR({rest}")[1] if called[1] == "FINAL_VAR" else ""
        argument = name or find_final(f"FINAL({rest}")[0]
        if not argument:
            continue
        start = text.index(argument, called.end())
        closing = _BEHIND.match(text, start + len(argument))
        if closing is not None:
            return _Statement(called[1], argument, called.start(), closing.end())
    return None


def _rank(found: tuple[re.Match[str], int]) -> tuple[bool, int]:
    return found[0][1] == "FINAL_VAR", found[1]


def _meant(statement: _Statement, names: set[str]) -> tuple[_Answer, str]:
    """The answer that a statement was to give, and the mistake in it, if any."""
    argument = statement.argument
    bare = argument.strip("\"'`")
    if bare in names:
        wrong = "" if statement.function == "FINAL_VAR" else "final_of_variable"
        return _Answer("variable", bare), wrong
    if statement.function == "FINAL_VAR" and find_final(f"FINAL_VAR({argument})")[1]:
        base = re.split(r"\[", argument)[0]
        if base in names:
            return _Answer("variable", argument), ""
    expression = _expression(argument, names)
    if expression:
        return _Answer("expression", expression), "final_expression"
    if statement.function == "FINAL":
        return _Answer("text", argument), ""
    return _Answer("text", _unquoted(argument)), "final_var_of_text"


def _expression(text: str, names: set[str]) -> str:
    """``text`` as an expression over variables, or ""; braces around them make an f-string."""
    tree = parse(text.strip())
    only = tree.body[0] if tree is not None and len(tree.body) == 1 else None
    if not isinstance(only, ast.Expr) or isinstance(only.value, (ast.Set, ast.Dict)):
        named = {match[1] for match in _PLACEHOLDER.finditer(text)}
        formatted = f"f{text!r}"
        return formatted if named and named <= names and parses(formatted) else ""
    nodes = [node for node in ast.walk(only) if isinstance(node, ast.Name)]
    own = {node.id for node in nodes if isinstance(node.ctx, ast.Store)}
    used = {node.id for node in nodes} - own
    known = names | REPL_NAMES | {*dir(builtins)}
    return text.strip() if used & (names | {"context"}) and used <= known else ""


def _unquoted(text: str) -> str:
    try:
        value = ast.literal_eval(text)
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError):
        return text.strip("\"'`")
    return value if isinstance(value, str) else text


def _without_calls(code: str, names: set[str], last: bool) -> tuple[str, _Answer | None]:
    """The code without its calls of FINAL, and the answer that they give.

    Raises:
        Unmendable: a call stands where it can't be taken out.
    """
    tree = ast.parse(code)
    source = Source(code)
    holders = [
        (node, call)
        for node in ast.walk(tree)
        if isinstance(node, (ast.Expr, ast.Assign))
        for call in _alone(node.value)
    ]
    if len(holders) != len(_calls(code)) or any(len(call.args) != 1 for _, call in holders):
        raise Unmendable("final_in_code")
    answer: _Answer | None = None
    for statement, call in holders:
        answer = _given(call, source, names)
        simple = len(holders) == 1 and answer.kind != "expression"
        if statement in tree.body and (simple or not last):
            source.cut(statement)
        elif not last:
            source.swap(statement, "pass")
        else:
            value = repr(answer.value) if answer.kind == "text" else answer.value
            source.swap(statement, f"{MADE} = {value}")
            answer = _Answer("variable", MADE)
    return source.edited(), answer


def _calls(code: str) -> list[ast.AST]:
    """The calls of FINAL and FINAL_VAR in ``code``."""
    tree = parse(code)
    return [] if tree is None else [node for node in ast.walk(tree) if _is_call(node, *_CALLS)]


def _is_call(node: ast.AST, *functions: str) -> bool:
    return (
        isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in functions
    )


def _alone(value: ast.expr) -> Iterable[ast.Call]:
    """The call of FINAL that ``value`` is, or prints."""
    if isinstance(value, ast.Call) and _is_call(value, "print") and len(value.args) == 1:
        value = value.args[0]
    return [value] if isinstance(value, ast.Call) and _is_call(value, *_CALLS) else []


def _given(call: ast.Call, source: Source, names: set[str]) -> _Answer:
    """What a call in code gives as the answer."""
    argument, is_var = call.args[0], getattr(call.func, "id", "") == "FINAL_VAR"
    if isinstance(argument, ast.Constant):
        text = str(argument.value)
        known = is_var and text.strip("\"'") in names
        return _Answer("variable", text.strip("\"'")) if known else _Answer("text", text)
    if isinstance(argument, ast.Name) and argument.id in names:
        return _Answer("variable", argument.id)
    return _Answer("expression", source.text(argument))
