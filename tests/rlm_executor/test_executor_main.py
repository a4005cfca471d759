"""The command line and the package as a whole."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from rlm_executor import RLMCard
from rlm_executor.__main__ import main
from rlm_executor.errors import ConfigError, InputError
from tests.rlm_executor.scripted import block, finish
from tests.rlm_executor.test_executor_lm import Server, said, server

__all__ = ["server"]  # a fixture


@pytest.fixture
def book(tmp_path: Path) -> Path:
    path = tmp_path / "book.txt"
    path.write_text("Mara has a trout.\n")
    return path


@pytest.mark.real_sandbox
def test_a_question_from_the_command_line(
    server: Server, book: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    server.plan(200, said(block("r = llm_query('What has she? ' + context)")))
    server.plan(200, said("a trout"))
    server.plan(200, said(finish("r")))
    place = ["--context", str(book), "--endpoint", server.url, "--model", "rlm"]
    journal = tmp_path / "j.jsonl"
    place += ["--route", "always_rlm", "--sub-model", "base", "--journal", str(journal)]
    assert main(["What has Mara?", *place]) == 0
    printed = capsys.readouterr()
    assert printed.out == "a trout\n"
    assert "answered after 2 turns and 1 sub-calls" in printed.err
    assert [request["model"] for request in server.requests] == ["rlm", "base", "rlm"]
    assert len(journal.read_text().splitlines()) == 7


@pytest.mark.real_sandbox
def test_the_whole_result_as_json_and_no_answer_as_exit_code(
    server: Server, book: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    RLMCard(dialect="answer-compact").save(tmp_path)
    server.plan(200, said("hm"))
    server.plan(200, said(""))
    place = ["--context", str(book), "--endpoint", server.url, "--model", "m"]
    limits = ["--max-turns", "1", "--card", str(tmp_path), "--json"]
    assert main(["Q?", *place, *limits, "--route", "always_rlm"]) == 1
    result = json.loads(capsys.readouterr().out)
    assert (result["stop_reason"], result["answer"]) == ("max_turns", "")


def test_wrong_arguments_are_one_clear_error(book: Path, tmp_path: Path) -> None:
    place = ["--endpoint", "http://localhost:1/v1", "--model", "m"]
    with pytest.raises(InputError, match="does not exist"):
        main(["Q?", "--context", str(tmp_path / "nope"), *place])
    with pytest.raises(ConfigError, match="--max-turns"):
        main(["Q?", "--context", str(book), *place, "--max-turns", "0"])
    with pytest.raises(InputError, match="no RLM card"):
        main(["Q?", "--context", str(book), *place, "--card", str(tmp_path / "nope")])


def test_importing_it_is_light() -> None:
    heavy = "openai httpx torch transformers datasets rich"
    code = f"import sys, rlm_executor; print([m for m in {heavy.split()!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
