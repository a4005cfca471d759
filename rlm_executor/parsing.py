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


def _join(prose: list[str]) -> str:
    return "\n".join(prose).strip()
