"""Models trained with `rlms` get its messages, byte for byte: the package itself is run beside us.

Where the wheel can't be fetched the comparison is skipped, and the hashes of the messages
(tests/golden/rlms.json, with stand-ins for the package's texts) still show a change on our side.
After an intended one: `UPDATE_GOLDEN=1 python -m pytest tests/rlm_executor/test_executor_rlms.py`.
"""

from __future__ import annotations

import copy
import hashlib
import json
import os
import re
import subprocess
import sys
import zipfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from rlm_executor import DIALECTS, RLM, Completion, Limits, Message, RLMCard, ScriptedLM
from rlm_executor.errors import EnvironmentFault, InputError, ServerUnavailable
from rlm_executor.parsing import find_final, parse_rlms
from rlm_executor.replaying import replay
from rlm_executor.rlms_dialect import RlmsDialect
from rlm_executor.rlms_texts import rlms_texts, rlms_wheel
from tests.rlm_executor.rlms_runs import (
    ANSWER,
    BIRDS,
    BOTH,
    DIFFERENT,
    END,
    FINAL,
    PROTOCOLS,
    Scripted,
    stand_in,
)
from tests.rlm_executor.scripted import block, echoes, finish, says

HERE = Path(__file__).parent
GOLDEN = HERE.parent / "golden" / "rlms.json"
PAGE = HERE.parents[1] / "docs" / "rlms.md"
EQUAL = {
    (version, name): run.of(protocol)
    for version, protocol in PROTOCOLS.items()
    for name, run in (BOTH | (ANSWER if protocol == "answer" else FINAL)).items()
}
# A model of our own dialect in their loop, as the page says it.
OURS = Scripted(
    [block("print(llm_query('heron'))"), finish("len(context.split())")],
    system=DIALECTS["answer"].system.replace("{", "{{").replace("}", "}}"),
)
Outcomes = dict[str, dict[str, dict[str, Any]]]


@pytest.fixture(scope="session")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Outcomes:
    """What `rlms` does in all runs, by version."""
    found: Outcomes = {}
    for version, protocol in PROTOCOLS.items():
        try:
            wheel = rlms_wheel(version)
            rlms_texts(version)
        except EnvironmentFault as fault:
            pytest.skip(str(fault))
        folder = tmp_path_factory.mktemp("rlms") / version
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(folder)
        runs = {name: run for (of, name), run in EQUAL.items() if of == version}
        if protocol == "answer":
            runs["ours in theirs"] = OURS
        differing = {name: one for name, one in DIFFERENT.items() if one.version == version}
        runs |= {f"different: {name}": one.run.of(protocol) for name, one in differing.items()}
        done = subprocess.run(
            [sys.executable, "-X", "utf8", str(HERE / "rlms_reference.py")],
            input=json.dumps({name: asdict(run) for name, run in runs.items()}),
            env=dict(os.environ) | {"PYTHONPATH": str(folder)},
            capture_output=True,
            text=True,
            timeout=300,
            cwd=folder,
        )
        assert done.returncode == 0, done.stderr
        found[version] = json.loads(done.stdout)
    return found


async def ours(dialect: RlmsDialect, run: Scripted, **limits: float) -> dict[str, Any]:
    """The same run here."""
    calls: list[list[Message]] = []
    replies = list(run.replies)

    def root(messages: list[Message]) -> Completion:
        calls.append(copy.deepcopy(messages))
        return Completion(replies.pop(0))

    def leaf(messages: list[Message]) -> str:
        calls.append(copy.deepcopy(messages))
        prompt = messages[-1]["content"]
        if prompt == "fail":
            raise ServerUnavailable("no answer")
        return prompt.upper()

    card = RLMCard(
        dialect=dialect,
        limits=Limits(max_turns=run.max_turns, max_depth=run.max_depth, **limits),
        root_window=500_000,
    )
    rlm = RLM(ScriptedLM(root, "root"), ScriptedLM(leaf, "leaf"), card)
    result = await rlm.run(run.question, run.context)
    return {"calls": calls, "answer": result.answer}


@pytest.mark.real_sandbox
@pytest.mark.parametrize(("version", "name"), EQUAL)
async def test_messages_equal_those_of_rlms(version: str, name: str, reference: Outcomes) -> None:
    theirs = reference[version][name]
    assert len(theirs["calls"]) >= 1 and not theirs["answer"].startswith("(")
    assert await ours(RlmsDialect.of(version), EQUAL[version, name]) == theirs


def told(outcome: dict[str, Any]) -> str:
    """All that was said in a run's last calls, and how it ended."""
    said = [message["content"] for calls in outcome["calls"] for message in calls]
    return "\n".join([*said, f"{len(said)} messages, {len(outcome['calls'])} calls"]) + (
        f"\nanswer: {outcome['answer']}<end>"
    )


@pytest.mark.real_sandbox
@pytest.mark.parametrize("name", DIFFERENT)
async def test_intended_difference_to_rlms(name: str, reference: Outcomes) -> None:
    one = DIFFERENT[name]
    here = told(await ours(RlmsDialect.of(one.version), one.run.of(PROTOCOLS[one.version])))
    there = told(reference[one.version][f"different: {name}"])
    assert one.ours in here and one.ours not in there
    assert one.theirs in there and one.theirs not in here


def test_a_model_of_our_dialect_runs_in_rlms(reference: Outcomes) -> None:
    outcome = reference["0.1.3"]["ours in theirs"]
    assert outcome["answer"] == "3"
    last = outcome["calls"][-1]
    assert last[0] == {"role": "system", "content": DIALECTS["answer"].system}
    assert any("HERON" in message["content"] for message in last)


@pytest.mark.real_sandbox
@pytest.mark.parametrize("protocol", ["answer", "final"])
async def test_what_rlms_has_no_words_for_is_told_in_ours(protocol: str) -> None:
    """It has no time limit for code, and no process that can end."""
    run = Scripted(
        [block("n = 1\nwhile True:\n    pass"), block("import os\nos._exit(3)"), END]
    ).of(protocol)
    said = told(await ours(stand_in(protocol), run, cell_timeout_s=1))
    assert "REPL output:\n\n\nTimeoutError: the cell was stopped after 1 s" in said
    assert "'context_0', 'context', 'n']\n" in said
    assert "REPL output:\n\n\nThe REPL process ended during this cell" in said


@pytest.mark.real_sandbox
@pytest.mark.parametrize("protocol", ["answer", "final"])
async def test_runs_can_be_replayed(protocol: str, tmp_path: Path) -> None:
    run = BOTH["rlm_query_deep"].of(protocol)
    card = RLMCard(dialect=stand_in(protocol), limits=Limits(max_depth=2))
    path = tmp_path / "run.jsonl"
    result = await RLM(says(*run.replies), echoes(), card, journal=path).run("Who?", BIRDS)
    again = await replay(path, BIRDS)
    assert (again.answer, again.turns) == (result.answer, result.turns) == (result.answer, 2)


def test_all_differences_are_told_on_the_page() -> None:
    rows = re.findall(r"^\| ([^|]+?) \| [^|]+ \| [^|]+ \|$", PAGE.read_text("utf-8"), re.MULTILINE)
    assert rows[1:] == list(DIFFERENT)


@pytest.mark.real_sandbox
async def test_golden_hashes_of_all_messages() -> None:
    hashes: dict[str, str] = {}
    for (version, name), run in EQUAL.items():
        outcome = await ours(stand_in(PROTOCOLS[version]), run)
        text = json.dumps(outcome, sort_keys=True)
        hashes[f"{version} {name}"] = hashlib.sha256(text.encode()).hexdigest()
    if os.environ.get("UPDATE_GOLDEN"):
        GOLDEN.write_text(json.dumps(hashes, indent=1) + "\n", encoding="utf-8")
    assert hashes == json.loads(GOLDEN.read_text(encoding="utf-8"))


def test_cards_hold_the_texts_and_load_without_the_package(tmp_path: Path) -> None:
    card = RLMCard(dialect=stand_in("final"))
    card.save(tmp_path)
    loaded = RLMCard.load(tmp_path)
    assert loaded == card and isinstance(loaded.dialect, RlmsDialect)
    old = json.loads(RLMCard().model_dump_json())
    del old["dialect"]["kind"]  # of before there were kinds
    assert RLMCard.model_validate(old) == RLMCard()


def test_cards_know_the_dialects_by_name(reference: Outcomes) -> None:
    for version in PROTOCOLS:
        card = RLMCard.model_validate({"dialect": f"rlms-{version}"})
        assert card.dialect == RlmsDialect.of(version)
    with pytest.raises(ValueError, match=r"unknown dialect .* rlms-0\.1\.3"):
        RLMCard.model_validate({"dialect": "rlms-9"})


def test_texts_are_made_once_and_made_again_when_damaged(
    reference: Outcomes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheel = rlms_wheel("0.1.3")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    texts = rlms_texts("0.1.3", wheel)
    kept = tmp_path / "rlm_executor" / "rlms-0.1.3.json"
    made = kept.read_text("utf-8")
    assert rlms_texts("0.1.3") == texts
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    kept.write_text(made[:100])
    with pytest.raises(EnvironmentFault, match="could not be fetched.*--wheel FILE"):
        rlms_texts("0.1.3")
    assert rlms_texts("0.1.3", wheel) == texts and kept.read_text("utf-8") == made


def test_only_the_known_wheel_is_run(tmp_path: Path) -> None:
    wheel = tmp_path / "rlms-0.1.3-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("rlm/utils/prompts.py", "raise SystemExit")
    with pytest.raises(InputError, match=r"is not the wheel of rlms 0\.1\.3"):
        rlms_texts("0.1.3", wheel)
    with pytest.raises(InputError, match=r"rlms 2 is not known here; known: 0\.1\.1, 0\.1\.3"):
        rlms_texts("2")


@pytest.mark.parametrize(
    ("text", "final", "name"),
    [
        ("FINAL(42)", "42", ""),
        ("FINAL(42).", "42", ""),
        ("> **FINAL(42)**", "42", ""),
        ("`FINAL(1, 2)`", "1, 2", ""),
        ("FINAL(f(x) and (y))", "f(x) and (y)", ""),
        ("FINAL(42)\nSome text (really)", "42", ""),
        ("FINAL(42) is what I would say", "", ""),
        ("I would say FINAL(42)", "", ""),
        ("FINAL(a)\nFINAL(b c)", "b c", ""),
        ("FINAL(It's (so))", "It's (so)", ""),
        ('FINAL("a ) b")', '"a ) b"', ""),
        ("FINAL(the answer :) yes)", "the answer :) yes", ""),
        ("FINAL(a (b)", "a (b", ""),
        ("FINAL(two\n\nparts (x)\n)", "two\n\nparts (x)", ""),
        ("FINAL(word)", "word", "word"),
        ("FINAL()", "", ""),
        ("FINAL(cut o", "", ""),
        ("FINAL_VAR(x)\nFINAL(3)", "FINAL_VAR(x)", "x"),
        ("FINAL_VAR('x') at last", "FINAL_VAR(x)", "x"),
        ("FINAL_VAR(x['k'][-1])", "FINAL_VAR(x['k'][-1])", "x['k'][-1]"),
        ("FINAL_VAR(len(x))", "", ""),
        ("```repl\nFINAL(3)\n```", "", ""),
        ("see ```repl\ny\n```\nFINAL(7)", "7", ""),
        ("```\nFINAL(3)\n```\nFINAL(4)", "4", ""),
        ("```python\nFINAL(3)", "", ""),
        ("<think>\nFINAL(1)\n</think>\nno", "", ""),
        ("thought\nFINAL(1)\n</think>\nFINAL(2)", "2", ""),
    ],
)
def test_final_in_a_text(text: str, final: str, name: str) -> None:
    assert find_final(text) == (final, name)


def test_long_replies_are_parsed_in_little_time() -> None:
    for text in ("FINAL((\n" * 9000, "FINAL(" + '"(' * 90_000, "```repl" + "\n" * 90_000):
        parse_rlms(text, finals=True)
    parse_rlms("FINAL(" + (")" + " " * 2000 + "x") * 100, finals=True)
