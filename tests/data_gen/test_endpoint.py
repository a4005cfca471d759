"""A served teacher that fails in every way: the run ends whole, within its dollars, and says so."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from data_gen import dataset
from data_gen.config import GenerateConfig
from data_gen.generate import Generation, Made
from data_gen.teacher import Hinted
from rlm_executor import Sampling, ScriptedLM
from rlm_executor.config import load_config
from rlm_executor.errors import EnvironmentFault
from rlm_executor.files import read_jsonl
from tests.data_gen.failing_server import KINDS, FailingServer

ROOT = Path(__file__).parents[2]
THOUSAND = ROOT / "configs" / "data" / "thousand.yaml"
PRICE = {"prompt": 1.0, "completion": 4.0}


def configured(server: FailingServer, **more: Any) -> GenerateConfig:
    endpoint = {"kind": "endpoint", "base_url": server.base_url, "price": PRICE}
    endpoint |= {"timeout_s": 1.0, "retries": 3}
    values = {
        "keep": None,
        "tasks": 24,
        "families": {"niah": 1, "oolong": 1},
        "lengths": [1024],
        "tokenizer": "",
        "teacher": endpoint | {"model": "teacher"},
        "leaf": endpoint | {"model": "leaf"},
        **more,
    }
    overrides = [f"{key}={json.dumps(value)}" for key, value in values.items()]
    return load_config(GenerateConfig, THOUSAND, overrides)


async def generate(config: GenerateConfig, folder: Path) -> Made:
    folder.mkdir(parents=True, exist_ok=True)
    return await Generation(config, folder).run()


@pytest.mark.real_sandbox
async def test_an_endpoint_that_fails_in_every_way(tmp_path: Path) -> None:
    async with FailingServer(faults=0.3) as server:
        made = await generate(configured(server, attempts=2), tmp_path)
    assert {kind for kind in KINDS if server.told[kind]} == {*KINDS}
    told = made.told()
    assert told["attempts"] == 48 and not made.short
    # An empty reply is nobody's error and spoils its run: about a third of them. Without retries
    # nearly all would be lost, three faults in ten meeting a dozen requests a run.
    assert told["kept"] == len(made.kept) >= 12
    assert all(row["score"] >= 0.9 for row, _ in made.kept)
    faults = told["faults"]
    refusals = server.told["429"] + server.told["429 and when"]
    assert faults["HTTP 429"] == refusals and faults["HTTP 500"] == server.told["500"]
    wrong = server.told["not JSON"] + server.told["other JSON"]
    assert faults["not a completion"] == wrong
    assert faults["timeout"] >= server.told["silence"] + server.told["endless"]
    assert faults["connection lost"] >= server.told["cut"]
    # What is told as spent covers all that the server has worked on.
    read, written = server.tokens
    assert (read * PRICE["prompt"] + written * PRICE["completion"]) / 1e6 <= told["dollars_at_most"]
    # The same config goes on from there, and has nothing to do.
    again = await generate(configured(server, attempts=2), tmp_path)
    ends = {row["index"]: row["score"] for row in made.rows if row["stop_reason"] != "root_error"}
    assert {row["index"]: row["score"] for row in again.rows if row["index"] in ends} == ends


@pytest.mark.real_sandbox
@pytest.mark.parametrize(("faults", "bound"), [(0.0, 0.012), (0.25, 0.03)])
async def test_the_dollar_bound_holds(tmp_path: Path, faults: float, bound: float) -> None:
    async with FailingServer(faults=faults) as server:
        config = configured(server, max_dollars=bound, concurrency=1)
        made = await generate(config, tmp_path)
        read, written = server.tokens
        paid = (read * PRICE["prompt"] + written * PRICE["completion"]) / 1e6
    assert paid <= made.told()["dollars_at_most"] <= bound
    assert made.short.startswith(f"max_dollars={bound} is used up")
    assert 0 < len(made.rows) < 24
    dataset_folder = tmp_path / "dataset"
    (tmp_path / "funnel.json").write_text(json.dumps(made.told()))
    dataset.write(tmp_path, made.kept, config)
    assert (dataset_folder / "turns.parquet").is_file()


@pytest.mark.real_sandbox
async def test_runs_that_ended_within_the_bound_are_kept(tmp_path: Path) -> None:
    async with FailingServer(faults=0.0) as server:
        made = await generate(configured(server, max_dollars=0.02, concurrency=8), tmp_path)
        paid = len(made.rows)
        assert made.short.startswith("max_dollars=0.02 is used up") and 0 < paid < 24
        assert not any("SpendingStopped" in row["faults"] for row in made.rows)
        before = {row["index"]: row["seconds"] for row in made.rows}
        whole = await generate(configured(server, max_dollars=9.0, concurrency=8), tmp_path)
    assert not whole.short and len(whole.rows) == 24
    assert before.items() <= {row["index"]: row["seconds"] for row in whole.rows}.items()
    assert all(row["score"] == 1.0 for row in whole.rows)


@pytest.mark.real_sandbox
async def test_a_dead_leaf_is_said_soon_and_its_runs_are_made_anew(tmp_path: Path) -> None:
    async with FailingServer(faults=0.0) as server:
        good = configured(server, tasks=24, families={"oolong": 1}, concurrency=2)
        dead = {"base_url": "http://127.0.0.1:9/v1", "retries": 0}
        bad = good.model_copy(update={"leaf": good.leaf.model_copy(update=dead)})
        with pytest.raises(EnvironmentFault, match="the leaf leaf has failed 20 runs"):
            await generate(bad, tmp_path)
        faults = json.loads((tmp_path / "spent.json").read_text())["faults"]
        assert faults["no connection"] >= 20
        made = await generate(good, tmp_path)
    assert len(made.rows) == 24 and all(row["score"] == 1.0 for row in made.rows)
    assert made.told()["faults"] == faults  # of both


@pytest.mark.real_sandbox
async def test_a_dead_endpoint_is_said_soon_and_nothing_is_lost(tmp_path: Path) -> None:
    async with FailingServer(faults=0.0) as server:
        good = await generate(configured(server, tasks=4), tmp_path)
    config = configured(server, tasks=90, concurrency=8)
    config = config.model_copy(
        update={
            name: getattr(config, name).model_copy(update={"retries": 0})
            for name in ("teacher", "leaf")
        }
    )
    with pytest.raises(EnvironmentFault, match="has failed 20 runs one after the other"):
        await generate(config, tmp_path)
    rows = {row["index"]: row for row in read_jsonl(tmp_path / "attempts.jsonl")}
    assert [rows[row["index"]]["score"] for row in good.rows] == [1.0] * 4
    assert len(rows) < 40


async def test_hints_are_told_and_not_recorded() -> None:
    heard: list[list[dict[str, str]]] = []

    def reply(messages: list[dict[str, str]]) -> str:
        heard.append(messages)
        return "yes"

    messages = [{"role": "system", "content": "s"}, {"role": "user", "content": "q"}]
    lm = Hinted(ScriptedLM(reply), "Cut it into chunks.")
    await lm.chat(messages, max_tokens=5, sampling=Sampling())
    assert heard[0][1]["content"] == "q\n\nCut it into chunks."
    assert messages[1]["content"] == "q"
