"""``configs/data/paper.yaml``: a dry run that spends nothing, and a run on a made-up set."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from data_gen import dataset
from data_gen.config import GenerateConfig
from data_gen.evaluations import compared
from data_gen.generate import Generation
from data_gen.supply import supply
from rlm_executor.config import load_config
from tests.data_gen.failing_server import FailingServer
from tests.data_gen.test_real_longbench import pro_row

ROOT = Path(__file__).parents[2]
PAPER = ROOT / "configs" / "data" / "paper.yaml"
LOOK = "I look.\n\n```repl\nprint(context[:60])\n```"


@pytest.fixture
def pro_file(tmp_path: Path) -> Path:
    path = tmp_path / "longbench_pro.json"
    path.write_text(json.dumps([pro_row(n, answer=["Mara", "Ole"][n % 2 :][:1]) for n in range(4)]))
    return path


def overrides(path: Path, *more: str) -> list[str]:
    return [f"real.path={path}", "real.rows=4", "real.english_rows=4", "evaluation=[]", *more]


def dry_run(*more: str, key: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "data_gen.generate", "--config", str(PAPER), "--dry-run"]
    sets = [word for one in more for word in ("--set", one)]
    env = {name: value for name, value in os.environ.items() if name != "FIREWORKS_API_KEY"}
    env |= {"FIREWORKS_API_KEY": key} if key else {}
    return subprocess.run([*command, *sets], cwd=ROOT, env=env, capture_output=True, text=True)


def test_the_dry_run_tells_calls_tokens_and_dollars(pro_file: Path) -> None:
    done = dry_run(*overrides(pro_file), key="a key")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "tasks: 4 x 3 attempts = 12" in done.stdout
    for told in ("root turns", "120", "sub-calls", "720", "root tokens read", "1,440,000"):
        assert told in done.stdout
    # 12 x (10 x (12,000 x 0.45 + 700 x 1.80)) / 1e6
    assert "0.80" in done.stdout and "2,500" in done.stdout
    assert "ready; nothing was made or spent" in done.stdout


def test_the_dry_run_says_what_is_missing(pro_file: Path, tmp_path: Path) -> None:
    done = dry_run(*overrides(pro_file))
    assert done.returncode == 1 and "NOT READY: api_key_env" in done.stdout
    done = dry_run(*overrides(tmp_path / "none.json"), key="a key")
    assert done.returncode == 1 and "none.json does not exist" in done.stdout
    assert "tasks: 690 x 3 attempts = 2070" in done.stdout


def test_tasks_of_a_real_set_come_in_order_and_are_forgotten(pro_file: Path) -> None:
    tasks = supply(load_config(GenerateConfig, PAPER, overrides(pro_file)))
    assert tasks.count == 4
    tasks.between(1, 3)
    asked = tasks.task(2)
    assert asked.text == "context 2 ü" and tasks.score(asked.task, "[Answer]\nMara") == 1.0
    tasks.between(3, 4)
    assert tasks.task(3).text == "context 3 ü"
    with pytest.raises(KeyError):
        tasks.task(2)


@pytest.mark.real_sandbox
async def test_the_recipe_on_a_made_up_set(pro_file: Path, tmp_path: Path) -> None:
    """A teacher that looks, then answers alike: half right; FINAL(name) is mended by the rules."""

    def teacher(messages: list[dict[str, str]]) -> str:
        said = [one["content"] for one in messages if one["role"] == "assistant"]
        if not said:
            return LOOK
        if len(said) == 1:
            return "```repl\nfound = '[Answer]' + chr(10) + 'Mara'\nprint(found)\n```"
        return "FINAL(found)"

    (tmp_path / "bench.json").write_text(json.dumps([pro_row(0, id="other")]))
    async with FailingServer(0.0, teacher=teacher) as server:
        more = [f"{who}.base_url={server.base_url}" for who in ("teacher", "leaf")]
        more += ["teacher.api_key_env=''", "teacher.model=teacher", "leaf.model=leaf", "hints=['']"]
        real = f"{{path: {tmp_path / 'bench.json'}, rows: 1, english_rows: 1}}"
        evaluation = f"evaluation=[{{name: longbench-pro, real: {real}}}]"
        config = load_config(GenerateConfig, PAPER, [*overrides(pro_file), *more, evaluation])
        folder = tmp_path / "data"
        folder.mkdir()
        made = await Generation(config, folder).run()
    told = made.told()
    assert told["attempts"] == 12 and told["kept"] == 6, told
    assert told["dropped"] == {"score_zero": 6}
    assert told["repaired"] == {"final_of_variable": 6}
    assert told["dollars_at_most"] > 0
    shared = compared(config, made.kept, folder)
    assert shared["rows"] == 6 and shared["sets"]["longbench-pro"]["texts"] == 1
    (folder / "funnel.json").write_text(json.dumps({**told, "contamination": shared}))
    dataset.write(folder, made.kept, config)
    card = (folder / "README.md").read_text()
    assert "the data set longbench-pro, 3 attempts each" in card and "apache-2.0" in card
    assert "| longbench-pro | 1 | 0 |" in card
