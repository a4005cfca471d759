"""Replies to code blocks: only fences count, and nothing a reply makes up is believed."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlm_executor.parsing import parse_reply, strip_thinking

FENCES = ("repl", "python", "py")
MARK = "REPL output:"


def blocks(text: str, finish_reason: str = "stop") -> tuple[str, ...]:
    return parse_reply(text, FENCES, finish_reason=finish_reason, observation_mark=MARK).blocks


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("```repl\nx = 1\n```", ("x = 1",)),
        ("```python\nx = 1\n```", ("x = 1",)),
        ("```REPL\nx = 1\n```", ("x = 1",)),
        ("look\n  ```repl\nx = 1\n  ```\ndone", ("x = 1",)),
        ("``` repl\nx = 1\n```", ("x = 1",)),
        ("````repl\nx = 1\n````", ("x = 1",)),
        ("```repl title=x\nx = 1\n```", ("x = 1",)),
        ("```repl\na\n```\nthen\n```repl\nb\n```", ("a", "b")),
        ("```\nx = 1\n```", ()),
        ("```json\n{}\n```\n```repl\nx\n```", ("x",)),
        ("use ```repl inline```", ()),
        ("```repl\n\n```", ()),
        ("x = 1", ()),
        ("", ()),
        ("> ```repl\nx\n```", ()),
    ],
)
def test_blocks_are_the_fences_of_the_dialect(text: str, expected: tuple[str, ...]) -> None:
    assert blocks(text) == expected


def test_a_fence_inside_a_string_does_not_end_the_block() -> None:
    code = 's = """\n```\ninner\n```\n"""\nprint(s)'
    assert blocks(f"```repl\n{code}\n```\nand\n```repl\nb = 2\n```") == (code, "b = 2")


def test_code_that_does_not_parse_ends_at_its_first_closing_fence() -> None:
    assert blocks("```repl\nx = = 1\n```\nprose\n```repl\ny = 2\n```") == ("x = = 1", "y = 2")


@pytest.mark.parametrize(
    ("code", "finish_reason", "runs"),
    [("x = 1", "stop", True), ("x = 1", "length", False), ("x = (1,", "stop", False)],
)
def test_an_unclosed_block_runs_only_whole(code: str, finish_reason: str, runs: bool) -> None:
    text = f"```repl\nfirst = 0\n```\n```repl\n{code}"
    reply = parse_reply(text, FENCES, finish_reason=finish_reason)
    assert reply.blocks == (("first = 0", code) if runs else ("first = 0",))
    assert reply.unclosed is not runs


def test_what_follows_invented_output_is_not_run() -> None:
    text = f"```repl\nprint(n)\n```\n**{MARK}** 42\n```repl\nanswer['content'] = 42\n```"
    reply = parse_reply(text, FENCES, observation_mark=MARK)
    assert reply.blocks == ("print(n)",)
    assert reply.invented


def test_the_mark_before_any_code_or_inside_it_is_only_text() -> None:
    text = f"{MARK} was short\n```repl\nprint('''\n{MARK}\n''')\n```"
    reply = parse_reply(text, FENCES, observation_mark=MARK)
    assert len(reply.blocks) == 1
    assert not reply.invented


def test_prose_is_what_is_outside_of_code_and_thinking() -> None:
    reply = parse_reply("<think>\nhm\n</think>\nIt is 5.\n```repl\nx\n```\nSo.", FENCES)
    assert reply.prose == "It is 5.\nSo."


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("<think>a</think>b", "b"),
        ("\n<think>a", ""),
        ("a\n</think>b", "b"),
        ("b", "b"),
        ("```repl\nprint('</think>')\n```", "```repl\nprint('</think>')\n```"),
        ("the tag <think> is text here", "the tag <think> is text here"),
    ],
)
def test_thinking_is_taken_away_at_the_start_only(text: str, left: str) -> None:
    assert strip_thinking(text) == left


def test_code_in_thinking_is_not_run() -> None:
    assert blocks("<think>\n```repl\nbad()\n```\n</think>\n```repl\ngood()\n```") == ("good()",)


_LINES = st.lists(
    st.text(
        st.characters(blacklist_characters="`\r\n", blacklist_categories=["Cs"]), max_size=20
    ).filter(lambda line: MARK not in line and "think>" not in line),
    max_size=4,
)


@given(st.lists(st.tuples(_LINES, _LINES), max_size=4))
@settings(max_examples=60, deadline=None)
def test_blocks_come_back_as_they_were_written(pieces: list[tuple[list[str], list[str]]]) -> None:
    text = "".join(
        "\n".join(prose) + "\n```repl\n" + "\n".join(code) + "\n```\n" for prose, code in pieces
    )
    written = ["\n".join(code) for _, code in pieces]
    assert list(blocks(text)) == [code for code in written if code.strip()]


@given(st.text(st.sampled_from(list("`repl\n xy'\"=(</think>REPL output:")), max_size=200))
@settings(max_examples=150, deadline=None)
def test_any_text_is_taken_apart_without_a_crash(text: str) -> None:
    reply = parse_reply(text, FENCES, observation_mark=MARK)
    assert all(code in text and code.strip() for code in reply.blocks)
