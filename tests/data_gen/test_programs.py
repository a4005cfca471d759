"""The normal form of programs: what it forgets, what it keeps, and how programs are counted."""

from __future__ import annotations

import keyword
import re

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data_gen.programs import REPL_NAMES, diversity, module_names, normal_form, parse

SEARCH = [
    "import re\nhits = re.findall('for red-house is: (.+)', context)\nprint(hits[:3])",
    "def short(text, *, most=80):\n    return [line for line in text if len(line) < most]\n"
    "best = max(short(hits, most=5), key=len)\nanswer['content'] = best",
]
NAMES = ("hits", "short", "text", "most", "line", "best")
NEW = st.integers(0, 10**6).map(lambda number: f"name_{number}")
PATIENT = settings(
    max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)  # the machine may be training something at the same time


@PATIENT
@given(st.lists(NEW, min_size=len(NAMES), max_size=len(NAMES), unique=True))
def test_new_names_are_the_same_program(names: list[str]) -> None:
    renamed = SEARCH
    for old, new in zip(NAMES, names, strict=True):
        renamed = [re.sub(rf"\b{old}\b", new, block) for block in renamed]
    assert normal_form(renamed) == normal_form(SEARCH)


@PATIENT
@given(st.text(), st.integers(), st.booleans())
def test_literals_comments_and_formatting_do_not_count(
    text: str, number: int, spaced: bool
) -> None:
    space = "  " if spaced else ""
    note = " ".join(re.findall(r"[a-z]+", text))
    code = f"x={space}[{text!r},{abs(number)}]  # {note}\n\n\nprint( x{space} , {number} )"
    assert normal_form([code]) == normal_form(["x = ['a', 1]\nprint(x, 7)"])


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("print(f'{a} and {b}')", "print(f'[{a:>5}], then {b!r}.')"),
        ("x = [1, 2, 3]", "x = [4]"),
        ("import numpy as np\nnp.sum(x)", "import numpy as n\nn.sum(x)"),
        ("'a note'\nx = 1", "x = 1"),
        ("for i, j in enumerate(context): print(j)", "for a, b in enumerate(context): print(b)"),
        ("try:\n    f()\nexcept E as e: print(e)", "try:\n    f()\nexcept E as x: print(x)"),
        ("def f():\n    global n\n    n = 1", "def g():\n    global k\n    k = 2"),
        ("match x:\n    case [a, *b]: print(b)", "match x:\n    case [p, *q]: print(q)"),
    ],
)
def test_equal_programs(one: str, other: str) -> None:
    assert normal_form([one]) == normal_form([other])


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("print(context)", "print(len(context))"),
        ("a = 1\nb = 2\nprint(a)", "a = 1\nb = 2\nprint(b)"),
        ("x.find(y)", "x.rfind(y)"),
        ("done = True", "done = False"),
        ("llm_query(p)", "llm_query_batched(p)"),
        ("x = []", "x = [1]"),
        ("x = 1\nprint(x)", "x = 'x'\nx"),
    ],
)
def test_other_programs(one: str, other: str) -> None:
    assert normal_form([one]) != normal_form([other])


def test_names_go_on_from_block_to_block_and_blocks_count() -> None:
    assert normal_form(["a = 1", "print(a)"]) == normal_form(["b = 1", "print(b)"])
    assert normal_form(["a = 1", "print(a)"]) != normal_form(["a = 1\nprint(a)"])


def test_what_is_no_python_is_told_so() -> None:
    assert normal_form(["x = = 2"]) == "(no Python)"
    assert parse("x = = 2") is None
    assert parse("(" * 5000) is None


@PATIENT
@given(st.text(max_size=60))
def test_any_text_has_a_form(text: str) -> None:
    assert isinstance(normal_form([text]), str)


@PATIENT
@given(st.text("abcxyz_", min_size=1, max_size=8).filter(lambda name: not _taken(name)))
def test_module_names_are_those_that_the_repl_then_has(name: str) -> None:
    for code in (
        f"{name} = 1", f"for {name} in 'ab': pass", f"def {name}(): pass", f"import os as {name}",
        f"[({name} := c) for c in 'ab']", f"if True:\n    {name}, z_z = 1, 2",
    ):  # fmt: skip
        space: dict[str, object] = {}
        exec(code, space)
        found = module_names(ast_of(code))
        assert name in found
        assert found <= {*space}


def test_names_of_functions_and_comprehensions_are_their_own() -> None:
    code = "n = [b for b in c]\ndef f(x):\n    y = 1\nclass A:\n    z = 1\ng = lambda w: w"
    assert module_names(ast_of(code)) == {"n", "f", "A", "g"}


def test_diversity() -> None:
    told = diversity([("niah", "a"), ("niah", "a"), ("niah", "b"), ("pairs", "a")])
    assert (told["programs"], told["distinct"], told["commonest_share"]) == (4, 2, 0.75)
    niah = {"programs": 3, "distinct": 2, "commonest_share": 0.6667}
    assert told["by_family"] == {
        "niah": niah,
        "pairs": {"programs": 1, "distinct": 1, "commonest_share": 1.0},
    }
    nothing = {"programs": 0, "distinct": 0, "commonest_share": 0.0, "by_family": {}}
    assert diversity([]) == nothing


def ast_of(code: str):
    tree = parse(code)
    assert tree is not None
    return tree


def _taken(name: str) -> bool:
    return keyword.iskeyword(name) or name in REPL_NAMES or name in ("z_z", "c", "os", "_")
