"""The expert in the real executor, the filter, and a generation that survives SIGKILL."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from data_gen.expert import MISTAKES, Style, program
from data_gen.filter import dropped_by, funnel
from data_gen.generate import GenerateConfig
from data_gen.tasks import make_window, score
from data_gen.teacher import ExpertLM, label_lines, scripted_leaf
from rlm_executor import RLM, RLMResult, Trajectory
from rlm_executor.config import load_config
from rlm_executor.errors import InputError
from rlm_executor.files import read_jsonl

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "configs" / "data" / "tiny.yaml"


def run(
    family: str, seed: int, teacher: ExpertLM, journal: Path | None = None
) -> tuple[float, RLMResult]:
    config = load_config(GenerateConfig, CONFIG)
    window = make_window(family, 1024, seed, 1)
    task = window.tasks[0]
    rlm = RLM(teacher, scripted_leaf(), config.card, journal=journal)
    result = rlm.complete(task.question, window.text())
    return score(task, result.answer), result


@pytest.mark.real_sandbox
@pytest.mark.parametrize("family", ["niah", "oolong", "pairs"])
def test_expert_is_right_in_every_style(family: str) -> None:
    for seed in range(12):
        points, result = run(family, seed, ExpertLM(seed))
        assert (points, result.stop_reason) == (1.0, "answered"), (family, seed)
        assert result.turns in (2, 3)


@pytest.mark.real_sandbox
def test_a_crash_is_repaired_and_its_turn_is_no_target(tmp_path: Path) -> None:
    teacher = ExpertLM(4)
    teacher.style = Style(**{**vars(teacher.style), "mistake": "crash"})
    journal = tmp_path / "j.jsonl"
    points, result = run("oolong", 4, teacher, journal)
    assert (points, result.error_cells) == (1.0, 1)
    errors = [turn.error for turn in Trajectory.read(journal).turns]
    assert errors[0] and not any(errors[1:])


@pytest.mark.real_sandbox
def test_careless_runs_fail_or_do_not_finish() -> None:
    outcomes = set()
    for mistake in set(MISTAKES) - {"crash"}:
        teacher = ExpertLM(4)
        teacher.style = Style(**{**vars(teacher.style), "mistake": mistake})
        points, result = run("niah", 4, teacher)
        assert points < 1.0 or result.stop_reason != "answered"
        outcomes.add(result.stop_reason)
    assert "max_turns" in outcomes


def test_programs_vary_but_not_with_the_same_seed() -> None:
    question = make_window("oolong", 1024, 1, 1).tasks[0].question
    programs = {tuple(program(question, ExpertLM(seed).style)) for seed in range(40)}
    assert len(programs) > 15
    assert ExpertLM(5).style == ExpertLM(5).style


def test_unknown_question_is_refused() -> None:
    with pytest.raises(InputError, match="does not know"):
        program("What is love?", ExpertLM(1).style)


def test_scripted_leaf_labels_each_line() -> None:
    prompt = "Label each line as one of: food, tool. Answer.\n\nthe soup\nan axe again\nnothing"
    assert label_lines(prompt) == "food\ntool\nunknown"


def test_filter_rules_and_funnel() -> None:
    good = {
        "score": 1.0, "turns": 2, "stop_reason": "answered", "longest_turn_chars": 10,
        "family": "niah", "dropped_by": None, "error_turns": 0,
    }  # fmt: skip
    rule = lambda **change: dropped_by({**good, **change}, min_score=0.9, max_chars=100)  # noqa: E731
    assert rule() is None
    assert rule(score=0) == "score_zero"
    assert rule(turns=1) == "single_turn"
    assert rule(score=0.5) == "below_min_score"
    assert rule(stop_reason="max_turns") == "unfinished"
    assert rule(longest_turn_chars=101) == "over_window"
    told = funnel([good, {**good, "dropped_by": "single_turn"}], [good])
    assert (told["attempts"], told["kept"], told["dropped"]["single_turn"]) == (2, 1, 1)


@pytest.mark.real_sandbox
@pytest.mark.slow
def test_killed_and_resumed_generation_equals_an_undisturbed_one(tmp_path: Path) -> None:
    def command(run_folder: Path) -> list[str]:
        return [
            sys.executable, "-m", "data_gen.generate", "--config", str(CONFIG),
            "--run", str(run_folder), "--set", "keep=130", "--set", "lengths=[1024]",
        ]  # fmt: skip

    killed = tmp_path / "killed"
    for _ in range(2):
        process = subprocess.Popen(command(killed), cwd=ROOT, stdout=subprocess.DEVNULL)
        wanted = len(read_jsonl(killed / "data" / "attempts.jsonl")) + 20
        while process.poll() is None:
            if len(read_jsonl(killed / "data" / "attempts.jsonl")) >= wanted:
                break
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
        process.wait()
    for folder in (killed, tmp_path / "whole"):
        subprocess.run(command(folder), cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    ids = []
    for folder in (killed, tmp_path / "whole"):
        rows = read_jsonl(folder / "data" / "attempts.jsonl")
        assert len({row["index"] for row in rows}) == len(rows)
        ids.append(sorted((row["task_id"], row["dropped_by"] or "") for row in rows))
        assert json.loads((folder / "data" / "funnel.json").read_text())["kept"] == 130
    assert ids[0] == ids[1]
    marks = [
        json.loads((f / "data" / "done.json").read_text()) for f in (killed, tmp_path / "whole")
    ]
    again = subprocess.run(
        command(killed), cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout
    assert "done before" in again
    assert marks[0]["config_sha256"] == marks[1]["config_sha256"]


def test_bad_config_is_one_line_and_exit_2(tmp_path: Path) -> None:
    bad = tmp_path / "bad.yaml"
    bad.write_text(CONFIG.read_text().replace("keep: 1000", "keeep: 1000"))
    command = [
        sys.executable,
        "-m",
        "data_gen.generate",
        "--config",
        str(bad),
        "--run",
        str(tmp_path),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "keeep" in done.stderr and "did you mean keep" in done.stderr
