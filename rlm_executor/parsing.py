"""Pure functions: a reply's text to the code blocks in it, and the prose around them.

Only code in fences counts. A fence opens at the start of a line (up to three spaces before it) and
closes at a line of at least as many backticks. What a reply writes after output that it made up
itself is dropped: it rests on an observation that never was.
"""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

_OPEN = re.compile(r" {0,3}(`{3,})[ \t]*([^\s`]*)[^`]*")
_MAX_CLOSERS = 16  # closing lines tried for one block; each try may parse the code
_RLMS_OPEN = re.compile(r"```repl(\s*+)")
_FINAL = re.compile(r"[\s>*_#`~]*+(FINAL_VAR|FINAL)\(")
_LINE_END = re.compile(r"[ \t\r]*+[.!;*_`~]*+[ \t\r]*+(?:\n|\Z)")
_MAX_FINALS = 32  # statements looked at in one reply, the last ones


@dataclass(frozen=True)
class Reply:
    """What a reply asks for."""

    blocks: tuple[str, ...]  # code to run, in order
    prose: str  # text outside fences and thinking
    unclosed: bool = False  # it ended inside a block, which is not among ``blocks``
    invented: bool = False  # it made up output of its own; what followed is not in ``blocks``
    final: str = ""  # the answer that its text gives, in dialects that know such a thing
    final_name: str = ""  # the variable that the text names as the answer


def parse_reply(
    text: str, fences: Sequence[str], *, finish_reason: str = "stop", observation_mark: str = ""
) -> Reply:
    """Take a reply apart.

    Args:
        text: the reply.
        fences: info words of the fences that are code for the REPL; others are prose.
        finish_reason: an unclosed block at the end is run only after "stop", and if it parses.
        observation_mark: how the REPL's messages begin; a reply that writes it after a code
            block is inventing output.
    """
    lines = strip_thinking(text).split("\n")
    blocks: list[str] = []
    prose: list[str] = []
    at = 0
    while at < len(lines):
        line = lines[at]
        if blocks and observation_mark and line.lstrip(" \t*#>_").startswith(observation_mark):
            return Reply(tuple(blocks), _join(prose), invented=True)
        opened = _OPEN.fullmatch(line)
        if opened is None:
            prose.append(line)
            at += 1
            continue
        is_code = opened[2].lower() in fences
        end = _closing_line(lines, at + 1, len(opened[1]), is_code)
        if end is None:
            if not is_code:
                prose.append(line)
                at += 1
                continue
            code = "\n".join(lines[at + 1 :])
            if finish_reason == "stop" and code.strip() and parses(code):
                return Reply((*blocks, code), _join(prose))
            return Reply(tuple(blocks), _join(prose), unclosed=True)
        if is_code:
            blocks.append("\n".join(lines[at + 1 : end]))
        else:
            prose.extend(lines[at : end + 1])
        at = end + 1
    return Reply(tuple(block for block in blocks if block.strip()), _join(prose))


def parse_rlms(text: str, *, finals: bool) -> Reply:
    """Take a reply apart as `rlms` does: code is what stands in a ```` ```repl ```` fence.

    A fence that is never closed, or that says python, is no code there.

    Args:
        text: the reply; its thinking may hold code too, as in `rlms`.
        finals: whether FINAL(...) and FINAL_VAR(...) in the text give the answer.
    """
    blocks = tuple(text[start:end].strip() for _, start, end in _rlms_code(text))
    prose = strip_thinking(text)
    for opening, _, end in reversed(_rlms_code(prose)):
        prose = prose[:opening] + prose[end + 4 :]
    final, name = find_final(text) if finals else ("", "")
    return Reply(blocks, prose.strip(), final=final, final_name=name)


def find_final(text: str) -> tuple[str, str]:
    """The answer in a reply's text, and the variable that it names; "" for what there is not.

    Outside of fences and thinking, at the start of a line (markdown marks before it do not count);
    the last statement wins, FINAL_VAR before FINAL. FINAL must end its line, but for a full stop
    or marks. For FINAL(word) both are the word: it may be a variable. FINAL_VAR takes a variable
    or what is in one (``x['k'][0]``), nothing that would have to be computed.
    """
    text = strip_thinking(text)
    found: dict[str, str] = {}
    end = 0
    for start, function in _statements(text)[-_MAX_FINALS:]:
        if start < end:
            continue  # it is part of an answer
        closing = _closing_bracket(text, start, ends_line=function == "FINAL")
        if closing is not None:
            end = closing
            found[function] = text[start:closing].strip()
    name = found.get("FINAL_VAR", "").strip("\"'")
    if "FINAL_VAR" in found:
        return (f"FINAL_VAR({name})", name) if _is_path(name) else ("", "")
    final = found.get("FINAL", "")
    return final, final if final.isidentifier() else ""


def strip_thinking(text: str) -> str:
    """``text`` without the thinking at its start; unfinished thinking is all of it.

    Chat templates may put the opening tag into the prompt, so a closing tag before any fence
    counts too. Tags anywhere else are text (code may well handle them).
    """
    head, closing, rest = text.partition("</think>")
    if text.lstrip().startswith("<think>"):
        return rest if closing else ""
    return rest if closing and "```" not in head else text


def parses(code: str) -> bool:
    """Whether ``code`` is Python by its grammar."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an odd escape in a model's string is no news here
        try:
            ast.parse(code)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return False
    return True


def _closing_line(lines: list[str], start: int, ticks: int, is_code: bool) -> int | None:
    """Index of the line that closes a block opened before ``start``.

    Code may hold a fence inside a string: when the code up to the first closing line does not
    parse but up to a later one does, that later one closes. If none does, the first.
    """
    closers: list[int] = []
    for index in range(start, len(lines)):
        bare = lines[index].strip()
        indent = len(lines[index]) - len(lines[index].lstrip(" "))
        if len(bare) >= ticks and set(bare) == {"`"} and indent <= 3:
            closers.append(index)
            if not is_code or len(closers) == _MAX_CLOSERS:
                break
    if not closers:
        return None
    if len(closers) > 1:
        for end in closers:
            if parses("\n".join(lines[start:end])):
                return end
    return closers[0]


def _rlms_code(text: str) -> list[tuple[int, int, int]]:
    r"""Where each fence of ``rlms`` opens, and its code begins and ends; "\n```" closes it.

    Finds what the pattern "```repl\s*\n(.*?)\n```" of its ``find_code_blocks`` finds, in a time
    that does not grow with the square of the text.
    """
    found: list[tuple[int, int, int]] = []
    at = 0
    while opened := _RLMS_OPEN.search(text, at):
        at = opened.end()
        line_end = text.rfind("\n", opened.start(1), at)
        if line_end < 0:
            continue
        closing = text.find("\n```", line_end + 1)
        if closing < 0 and text.startswith("```", line_end + 1):  # nothing in it but blanks
            closing, line_end = line_end, text.rfind("\n", opened.start(1), line_end)
        if closing < 0 or line_end < 0:
            break
        found.append((opened.start(), line_end + 1, closing))
        at = closing + 4
    return found


def _statements(text: str) -> list[tuple[int, str]]:
    """Where the argument of each FINAL and FINAL_VAR begins that may be meant, and which it is."""
    for opening, _, end in _rlms_code(text):  # blanks in its place: all places stay what they are
        blank = re.sub(r"[^\n]", " ", text[opening : end + 4])
        text = text[:opening] + blank + text[end + 4 :]
    lines = text.split("\n")
    found: list[tuple[int, str]] = []
    index = offset = 0
    while index < len(lines):
        following = index + 1
        if opened := _OPEN.fullmatch(lines[index]):
            close = _closing_line(lines, following, len(opened[1]), is_code=False)
            if close is None and opened[2]:
                break  # it was cut off inside code
            following = following if close is None else close + 1
        elif called := _FINAL.match(lines[index]):
            found.append((offset + called.end(), called[1]))
        offset += sum(len(line) + 1 for line in lines[index:following])
        index = following
    return found


def _closing_bracket(text: str, start: int, *, ends_line: bool) -> int | None:
    """Index of the bracket that closes what was opened before ``start``.

    Brackets in quotes do not count; where that leads nowhere, quotes are taken for apostrophes,
    and at last the pairs of brackets for what they are in prose (":)").
    """
    ends: list[int] = []
    for quoting in (True, False):
        depth, quote, before = 1, "", ""
        for index in range(start, len(text)):
            char = text[index]
            if quote:
                quote = "" if char == quote and before != "\\" else quote
            elif quoting and char in "\"'" and not before.isalnum():
                quote = char
            elif char == "(":
                depth += 1
            elif char == ")":
                ended = not ends_line or _LINE_END.match(text, index + 1) is not None
                if depth == 1 and ended:
                    return index
                ends += [index] if ended else []
                depth = max(1, depth - 1)
            before = char
    paragraph = text.find("\n\n", start) % (len(text) + 1)
    return max((end for end in ends if end < paragraph), default=None)


def _is_path(text: str) -> bool:
    """Whether it is a variable, or what constants find in one."""
    try:
        node: ast.expr = ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    while isinstance(node, ast.Subscript):
        try:
            ast.literal_eval(node.slice)
        except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
            return False
        node = node.value
    return isinstance(node, ast.Name)


def _join(prose: list[str]) -> str:
    return "\n".join(prose).strip()
