"""Journals written as logs of the ``rlms`` package: the same keys, of the same types.

``tests/golden/rlms_log_schema.json`` has them, taken from a log that rlms 0.1.3 wrote; where the
package can be imported, the test takes them anew.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from rlm_executor import RLM, Completion, Message, ScriptedLM
from rlm_executor.errors import InputError, ServerUnavailable
from rlm_executor.rlms_log import main, write_rlms_log
from tests.rlm_executor.scripted import block, card, echoes, finish, says

SCHEMA = Path(__file__).parent.parent / "golden" / "rlms_log_schema.json"
FREE = ("locals", "model_usage_summaries", "backend_kwargs", "environment_kwargs")  # any keys

# Writes a log of a run with a failed cell, a sub-call and a run in a run.
OFFICIAL = r"""
import glob, sys
import rlm.core.rlm as core
from rlm import RLM
from rlm.clients.base_lm import BaseLM
from rlm.core.types import ModelUsageSummary, UsageSummary
from rlm.logger import RLMLogger

END = "```repl\nanswer['content'] = 'done'\nanswer['ready'] = True\n```"
SAYS = ["```repl\nprint(llm_query('LEAF'))\n1 / 0\n```", "```repl\nr = rlm_query('CHILD')\n```"]

class Fake(BaseLM):
    def completion(self, prompt, *more, **options):
        text = str(prompt)
        if "LEAF" in text and len(text) < 300:
            return "leaf"
        return SAYS.pop(0) if "PARENT" in text and SAYS else END
    async def acompletion(self, prompt, *more, **options):
        return self.completion(prompt)
    def get_usage_summary(self):
        return UsageSummary({self.model_name: ModelUsageSummary(1, 1, 1)})
    def get_last_usage(self):
        return ModelUsageSummary(1, 1, 1)

core.get_client = lambda backend, options=None, **more: Fake(model_name="m")
logger = RLMLogger(sys.argv[1])
RLM(backend_kwargs={"model_name": "m"}, max_depth=2, logger=logger).completion("PARENT", "PARENT?")
print(open(glob.glob(sys.argv[1] + "/*.jsonl")[0]).read())
"""


def schema(rows: list[Any]) -> dict[str, list[str]]:
    """The types that stand at each place of a log: `iteration.code_blocks[].code` -> ["str"]."""
    seen: defaultdict[str, set[str]] = defaultdict(set)

    def look(value: Any, where: str) -> None:
        seen[where].add("number" if type(value) in (int, float) else type(value).__name__)
        if isinstance(value, dict):
            if where.endswith("locals"):
                return
            free = where.rpartition(".")[2] in FREE
            for key, item in value.items():
                look(item, f"{where}.{'*' if free else key}")
        elif isinstance(value, list):
            for item in value:
                look(item, f"{where}[]")

    for row in rows:
        look(row, row["type"])
    return {where: sorted(types) for where, types in sorted(seen.items())}


def official(folder: Path, python: str = sys.executable) -> dict[str, list[str]]:
    """The schema of a log that the package writes now."""
    done = subprocess.run(
        [python, "-c", OFFICIAL, str(folder)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return schema([json.loads(line) for line in done.stdout.splitlines() if line])


def root(messages: list[Message]) -> str | Completion:
    """At the top a failed cell, a sub-call and a run in a run; below, an answer at once."""
    said = [message["content"] for message in messages if message["role"] == "assistant"]
    if "CHILD" in messages[1]["content"]:
        return finish("'of the child'")
    turns = [
        block("print(llm_query('leaf'))\n1 / 0"),
        block("r = rlm_query('CHILD')\nprint(r)"),
        finish("r * 300"),
    ]
    return turns[len(said)]


async def journal(path: Path) -> str:
    rlm = RLM(ScriptedLM(root, "root"), echoes(), card(max_depth=2), journal=path)
    return (await rlm.run("Q?", "some text")).answer


def read(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.real_sandbox
async def test_keys_and_types_are_those_of_the_package(tmp_path: Path) -> None:
    await journal(tmp_path / "j.jsonl")
    write_rlms_log(tmp_path / "j.jsonl", tmp_path / "log.jsonl")
    theirs = json.loads(SCHEMA.read_text())
    if importlib.util.find_spec("rlm"):
        assert official(tmp_path / "theirs") == theirs
    ours = schema(read(tmp_path / "log.jsonl"))
    assert set(ours) == set(theirs)
    for where, types in ours.items():
        assert set(types) <= set(theirs[where]), where


@pytest.mark.real_sandbox
async def test_what_is_in_it(tmp_path: Path) -> None:
    answer = await journal(tmp_path / "j.jsonl")
    assert main([str(tmp_path / "j.jsonl")]) == 0
    metadata, *turns = read(tmp_path / "j.rlms.jsonl")
    assert (metadata["root_model"], metadata["max_depth"]) == ("root", 2)
    assert [turn["iteration"] for turn in turns] == [1, 2, 3]
    assert [turn["final_answer"] for turn in turns] == [None, None, answer]
    assert len(answer) > 2000  # more than a journal keeps of a cell's answer
    assert turns[2]["code_blocks"][0]["result"]["final_answer"] == answer
    assert [message["role"] for message in turns[1]["prompt"]] == [
        "system", "user", "assistant", "user"
    ]  # fmt: skip
    first = turns[0]["code_blocks"][0]["result"]
    assert "ZeroDivisionError" in first["stderr"] and first["stdout"] == "LEAF\n"
    [leaf] = first["rlm_calls"]
    assert (leaf["root_model"], leaf["response"]) == ("leaf", "LEAF")
    assert leaf["usage_summary"]["model_usage_summaries"]["leaf"]["total_calls"] == 1
    [child] = turns[1]["code_blocks"][0]["result"]["rlm_calls"]
    assert (child["root_model"], child["response"]) == ("root", "of the child")
    assert child["metadata"]["iterations"][0]["final_answer"] == "of the child"
    times = [row["timestamp"] for row in (metadata, *turns)]
    assert times == sorted(times)


@pytest.mark.real_sandbox
async def test_failed_calls_failed_turns_and_torn_journals(tmp_path: Path) -> None:
    def away(_: list[Message]) -> str:
        raise ServerUnavailable("m: HTTP 503")

    path, out = tmp_path / "j.jsonl", tmp_path / "log.jsonl"
    script = says(block("llm_query('a')"), ServerUnavailable("m: HTTP 503"))
    await RLM(script, ScriptedLM(away), card(), journal=path).run("Q?", "text")
    write_rlms_log(path, out)
    _, first, last = read(out)
    [call] = first["code_blocks"][0]["result"]["rlm_calls"]
    assert (call["response"], call["error"]) == ("", "ServerUnavailable: m: HTTP 503")
    assert (last["response"], last["final_answer"]) == ("[ServerUnavailable: m: HTTP 503]", None)
    path.write_bytes(path.read_bytes()[:-20])  # killed: there is no end
    write_rlms_log(path, out)
    assert len(read(out)) == 3


@pytest.mark.real_sandbox
async def test_a_plain_call_is_one_iteration(tmp_path: Path) -> None:
    path, out = tmp_path / "j.jsonl", tmp_path / "log.jsonl"
    await RLM(says(), echoes(), card(), journal=path, route="plain").run("q?", "text")
    write_rlms_log(path, out)
    _, only = read(out)
    assert (only["response"], only["final_answer"]) == ("TEXT\n\nQ?", "TEXT\n\nQ?")


def test_what_is_no_journal_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no journal at"):
        main([str(tmp_path / "nope")])
    (tmp_path / "j.jsonl").write_text('{"type":"turn"}\n')
    with pytest.raises(InputError, match="is not a journal"):
        main([str(tmp_path / "j.jsonl")])
