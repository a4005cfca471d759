"""The expert in the real executor, the filter, and a generation that survives SIGKILL."""

from __future__ import annotations

import asyncio
import fcntl
import json
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from datasets import load_dataset
from transformers import AutoTokenizer

from data_gen import datacard, generate
from data_gen.config import GenerateConfig
from data_gen.expert import MISTAKES, Style, program
from data_gen.generate import Generation
from data_gen.tasks import make_window, score
from data_gen.teacher import ExpertLM, label_lines, scripted_leaf
from rlm_executor import RLM, RLMResult, Trajectory
from rlm_executor.config import load_config
from rlm_executor.errors import ConfigError, InputError
from rlm_executor.files import read_jsonl

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "configs" / "data" / "tiny.yaml"
THOUSAND = CONFIG.with_name("thousand.yaml")


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


@pytest.mark.real_sandbox
@pytest.mark.slow
def test_killed_at_random_moments_it_ends_as_if_undisturbed(tmp_path: Path, thorough: bool) -> None:
    """At twenty of them, thoroughly."""

    def command(run_folder: Path) -> list[str]:
        return [
            sys.executable, "-m", "data_gen.generate", "--config", str(THOUSAND), "--run",
            str(run_folder), "--set", "keep=40", "--set", "lengths=[1024]",
            "--set", "tokenizer=''", "--set", "families={hops: 1, ruler: 1, straddle: 1}",
        ]  # fmt: skip

    killed, rng = tmp_path / "killed", random.Random(0)
    kills = 0
    while kills < (20 if thorough else 2):
        process = subprocess.Popen(command(killed), cwd=ROOT, stdout=subprocess.DEVNULL)
        started, wait = time.monotonic(), rng.uniform(0.5, 3.0)
        while process.poll() is None and time.monotonic() - started < wait:
            time.sleep(0.01)
        assert process.poll() is None, "it ended before it could be killed often enough"
        process.send_signal(signal.SIGKILL)
        process.wait()
        kills += 1
    for folder in (killed, tmp_path / "whole"):
        subprocess.run(command(folder), cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    kept, tables = [], []
    for folder in (killed, tmp_path / "whole"):
        lines = (folder / "data" / "attempts.jsonl").read_text().splitlines()
        rows = [json.loads(line) for line in lines]
        assert len({row["index"] for row in rows}) == len(rows)
        kept.append(sorted((row["task_id"], str(row["verdict"]["dropped"])) for row in rows))
        assert json.loads((folder / "data" / "funnel.json").read_text())["kept"] == 40
        turns = load_dataset("parquet", data_files=str(folder / "data/dataset/turns.parquet"))
        tables.append([(row["run"], row["turn"], row["completion"]) for row in turns["train"]])
    assert kept[0] == kept[1]
    assert tables[0] == tables[1] and len({row[:2] for row in tables[0]}) == len(tables[0])
    again = subprocess.run(
        command(killed), cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout
    assert "done before" in again


@pytest.mark.real_sandbox
def test_other_rules_judge_the_same_attempts_again(tmp_path: Path) -> None:
    def made(*overrides: str) -> tuple[dict[str, Any], dict[int, Any]]:
        more = ["keep=null", "tasks=20", "lengths=[1024]", "tokenizer=''", "mistakes=0.9"]
        config = load_config(GenerateConfig, THOUSAND, [*more, *overrides])
        folder = tmp_path / "data"
        folder.mkdir(exist_ok=True)
        done = asyncio.run(Generation(config, folder).run())
        return done.told(), {row["index"]: row["seconds"] for row in done.rows}

    strict, seconds = made()
    assert strict["dropped"] and strict["attempts"] == 20
    loose, again = made("filter={}")
    assert again == seconds  # nothing was made anew
    assert loose["kept"] == 20 and not loose["dropped"]
    assert made()[0] == strict


@pytest.mark.parametrize("row", ['{"dollars": 0.5}', '{"dollars": 0.0, "served_by": ["m"]}'])
def test_attempts_of_a_served_model_are_not_deleted(tmp_path: Path, row: str) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "config.sha256").write_text("another")
    (folder / "attempts.jsonl").write_text(f"{row}\n")
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "data_gen.generate",
            "--config",
            str(CONFIG),
            "--run",
            str(tmp_path),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2 and "attempts of another configuration" in done.stderr
    assert (folder / "attempts.jsonl").exists()


def called(monkeypatch: pytest.MonkeyPatch, run: Path, *overrides: str) -> int:
    """The command in this process: to start another one takes longer than a small generation."""
    sets = [word for one in overrides for word in ("--set", one)]
    arguments = ["generate", "--config", str(THOUSAND), "--run", str(run), *sets]
    monkeypatch.setattr(sys, "argv", arguments)
    return generate.main()


def generated(run: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "data_gen.generate", "--config", str(THOUSAND)]
    sets = [word for one in overrides for word in ("--set", one)]
    return subprocess.run(
        [*command, "--run", str(run), *sets], cwd=ROOT, capture_output=True, text=True
    )


def test_one_generation_at_a_time_in_a_folder(tmp_path: Path) -> None:
    with (tmp_path / ".data.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = generated(tmp_path)
    assert done.returncode == 2 and "another generation is running" in done.stderr
    assert not (tmp_path / "data").exists()


@pytest.mark.real_sandbox
def test_none_put_aside_and_other_rules_end_the_done_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    small = ("keep=null", "tasks=4", "lengths=[1024]", "tokenizer=''", "families={hops: 1}")
    small += ("evaluation=[]", "mistakes=0")
    assert called(monkeypatch, tmp_path, *small) == 0
    tables = {path.name for path in (tmp_path / "data" / "dataset").iterdir()}
    assert tables == {"turns.parquet", "trajectories.parquet"}  # of four, none is for validation
    assert "done before" not in capsys.readouterr().out
    assert called(monkeypatch, tmp_path, *small) == 0
    assert "done before" in capsys.readouterr().out
    with pytest.raises(InputError, match="none of 4 attempts is kept"):
        called(monkeypatch, tmp_path, *small, "filter={min_turns: 50}")
    assert called(monkeypatch, tmp_path, *small) == 0
    assert "done before" not in capsys.readouterr().out


@pytest.mark.real_sandbox
def test_families_that_have_their_share_are_not_made_any_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = ("keep=90", "lengths=[1024]", "tokenizer=''", "families={niah: 8, hops: 1}")
    assert called(monkeypatch, tmp_path, *small, "evaluation=[]", "mistakes=0") == 0
    told = json.loads((tmp_path / "data" / "funnel.json").read_text())["by_family"]
    assert (told["niah"]["kept"], told["hops"]["kept"]) == (80, 10)
    rows = read_jsonl(tmp_path / "data" / "attempts.jsonl")
    full = [row["index"] for row in rows if row["family"] == "niah"]
    # 120 attempts are a wave: by its end either family may have its share, and not both.
    assert max(full) < 120 or max(row["index"] for row in rows if row["family"] == "hops") < 120


def test_the_card_claims_a_licence_only_where_it_is_known() -> None:
    teacher = "teacher={kind: endpoint, base_url: 'http://127.0.0.1:1/v1', model: m}"
    known = load_config(GenerateConfig, THOUSAND)
    real = [teacher, "families={}", "lengths=[]", "keep=null", "real={name: oolong-synth}"]
    other = load_config(GenerateConfig, THOUSAND, real)
    told = [datacard._head(False, config).splitlines()[1] for config in (known, other)]
    assert told == ["license: apache-2.0", "license: other"]


def test_the_same_model_at_another_address_goes_on() -> None:
    def config(**more: Any) -> GenerateConfig:
        teacher = {"kind": "endpoint", "base_url": "http://127.0.0.1:1/v1", "model": "m", **more}
        return load_config(GenerateConfig, THOUSAND, [f"teacher={json.dumps(teacher)}"])

    moved = config(base_url="http://127.0.0.1:2/v1", retries=20, timeout_s=9, api_key_env="KEY")
    assert moved.attempts_sha256() == config().attempts_sha256()
    assert config(model="n").attempts_sha256() != config().attempts_sha256()


def test_a_tokenizer_without_a_chat_template_is_told_before_anything_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(ROOT / "assets" / "tiny-base")
    tokenizer.chat_template = None
    tokenizer.save_pretrained(tmp_path / "plain")
    with pytest.raises(InputError, match="plain can't be loaded"):
        called(monkeypatch, tmp_path, f"tokenizer={tmp_path / 'plain'}", "evaluation=[]")
    assert not (tmp_path / "data" / "journals").exists()


def test_a_folder_with_other_files_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "thesis.txt").write_text("mine")
    done = generated(tmp_path)
    assert done.returncode == 2 and "holds other files" in done.stderr
    assert (tmp_path / "data" / "thesis.txt").read_text() == "mine"


@pytest.mark.real_sandbox
def test_nothing_kept_says_where_to_look(tmp_path: Path) -> None:
    small = ("keep=null", "tasks=3", "lengths=[1024]", "tokenizer=''", "families={hops: 1}")
    done = generated(tmp_path, *small, "filter={min_turns: 50}")
    assert done.returncode == 2 and "none of 3 attempts is kept" in done.stderr
    assert json.loads((tmp_path / "data" / "funnel.json").read_text())["dropped"]


@pytest.mark.real_sandbox
def test_fewer_than_wanted_is_incomplete_where_the_tasks_end_too(tmp_path: Path) -> None:
    small = ("keep=40", "tasks=3", "lengths=[1024]", "tokenizer=''", "families={hops: 1}")
    done = generated(tmp_path, *small)
    assert done.returncode == 1
    assert re.search(
        r"INCOMPLETE: \d of 40 trajectories after 3 attempts;.* 3 `tasks`", done.stdout
    )
    assert not (tmp_path / "data" / "done.json").exists()


def test_a_missing_evaluation_set_is_told_before_anything_is_made(tmp_path: Path) -> None:
    missing = "evaluation=[{name: longbench-v2, real: {path: none.json}}]"
    done = generated(tmp_path, missing)
    assert done.returncode == 2 and "none.json does not exist" in done.stderr
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("real={name: longbench-pro}", "either `families`"),
        ("lengths=[]", "need `lengths`"),
        ("keep=null", "give `keep` or `tasks`"),
        ("filter=theirs", "one of the presets paper, ours"),
        ("filter={family_cap: 100}", "125 runs of a family, and filter.family_cap ends at 100"),
        ("teacher={kind: endpoint}", "needs base_url and model"),
    ],
)
def test_fields_that_do_not_go_together(override: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load_config(GenerateConfig, THOUSAND, [override])


def test_max_dollars_needs_prices() -> None:
    teacher = "teacher={kind: endpoint, base_url: 'http://127.0.0.1:1/v1', model: m}"
    with pytest.raises(ConfigError, match="needs the `price`"):
        load_config(GenerateConfig, THOUSAND, [teacher, "max_dollars=1"])


def test_the_dry_run_reckons_and_makes_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "data_gen.generate", "--config", str(THOUSAND), "--dry-run"]
    done = subprocess.run(
        [*command, "--run", str(tmp_path / "run")], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0 and not (tmp_path / "run").exists()
    assert "root turns" in done.stdout and "scripted, at no cost" in done.stdout


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
