"""What a run is watched by: the loss on rows put aside, TensorBoard, a development set."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from safetensors.torch import load_file
from transformers import TrainerControl, TrainerState, TrainingArguments

from rlm_executor.config import load_config
from rlm_executor.errors import ConfigError, EnvironmentFault, InputError
from tests.train import tiny
from train import sft
from train.config import SFTConfig
from train.watch import Development, check_server, check_set, exchange

ROOT = Path(__file__).resolve().parents[2]
DEV = ROOT / "configs" / "eval" / "dev-tiny.yaml"


def call(monkeypatch: pytest.MonkeyPatch, *arguments: str | Path) -> None:
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    monkeypatch.setattr(sys, "argv", ["sft.py", *map(str, arguments)])
    sft.main()


class Answers:
    """In the place of ``eval.run``: scores by the step, and what it was given."""

    def __init__(self, scores: list[float]) -> None:
        self.scores, self.given = scores, list[dict]()

    def __call__(self, run: Path) -> tuple[float, int]:
        self.given.append(load_file(run / "sft" / "adapter_model.safetensors"))
        assert (run / "sft" / "rlm.json").exists()
        return self.scores[len(self.given) - 1], 4


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> Answers:
    made = Answers([0.25, 0.75, 0.5, 0.75])
    monkeypatch.setattr(Development, "answer", lambda self, run: made(run))
    return made


def watched(tmp_path: Path, base: Path, *, packing: str = "tree") -> list[str | Path]:
    config = tiny.write_run(tmp_path, base, packing=packing)
    aside = tiny.write_turns(tmp_path / "aside", tiny.turns(6))
    aside.replace(tmp_path / "data" / "dataset" / "turns-validation.parquet")
    return ["--config", config, "--run", tmp_path, "--set", "heldout_looks=3"]


@pytest.mark.real_trl
@pytest.mark.parametrize("packing", ["tree", "turns"])
def test_the_loss_on_rows_put_aside_falls_and_is_kept(
    tiny_base, tmp_path, monkeypatch, capsys, packing: str
):
    call(monkeypatch, *watched(tmp_path, tiny_base, packing=packing))
    lines = [line for line in capsys.readouterr().out.splitlines() if "heldout_loss=" in line]
    losses = [float(line.split("heldout_loss=")[1]) for line in lines]
    assert [line.split()[0] for line in lines] == ["step=4", "step=8", "step=12"]
    assert losses[2] < losses[0]
    metrics = json.loads((tmp_path / "sft" / "metrics.json").read_text())
    assert metrics["heldout_loss"] == losses[2]
    assert any((tmp_path / "logs" / "sft").glob("events.out.tfevents.*"))


@pytest.mark.real_trl
def test_the_best_weights_are_kept_and_looks_are_not_repeated(
    tiny_base, tmp_path, monkeypatch, capsys, answers: Answers
):
    arguments = [*watched(tmp_path, tiny_base), "--set", f"dev={DEV.relative_to(ROOT)}"]
    answers.scores = [0.25, 0.75, 0.5]
    call(monkeypatch, *arguments, "--set", "dev_steps=5")
    printed = capsys.readouterr().out
    assert "step=5 dev_score=0.250 of 4 tasks" in printed and "step=12 dev_score=0.5" in printed
    assert "the weights of step 10 are kept" in printed
    kept = load_file(tmp_path / "sft" / "adapter_model.safetensors")
    first, best, last = answers.given
    assert all(kept[name].equal(best[name]) for name in kept)
    assert not all(last[name].equal(best[name]) for name in kept)
    metrics = json.loads((tmp_path / "sft" / "metrics.json").read_text())
    assert metrics["best_step"] == 10
    assert metrics["dev_scores"] == {"5": 0.25, "10": 0.75, "12": 0.5}


@pytest.mark.real_trl
def test_only_the_first_look_may_end_the_training(tiny_base, tmp_path, monkeypatch, capsys):
    def answer(self: Development, run: Path) -> tuple[float, int]:
        assert run.exists()
        if len(self.scores) == fails_after:
            raise EnvironmentFault("dev_server: gone")
        return 0.5, 4

    monkeypatch.setattr(Development, "answer", answer)
    more = ["--set", f"dev={DEV.relative_to(ROOT)}", "--set", "dev_steps=5"]
    fails_after = 0
    with pytest.raises(EnvironmentFault, match="gone"):
        call(monkeypatch, *watched(tmp_path / "first", tiny_base), *more)
    fails_after = 1
    call(monkeypatch, *watched(tmp_path / "later", tiny_base), *more)
    printed = capsys.readouterr().out
    assert "step=10 no dev_score: dev_server: gone" in printed
    assert "the weights of step 5 are kept" in printed


@pytest.mark.real_trl
def test_a_look_takes_no_log_of_a_step_away(tiny_base, tmp_path, monkeypatch, capsys, answers):
    looked = ["--set", f"dev={DEV.relative_to(ROOT)}", "--set", "dev_steps=4"]
    answers.scores = [0.0] * 3
    steps = []
    for more in ([], looked):
        folder = tmp_path / str(len(more))
        call(monkeypatch, *watched(folder, tiny_base), *more)
        lines = [line for line in capsys.readouterr().out.splitlines() if " loss=" in line]
        steps.append([line.split(" tok/s")[0] for line in lines])
    assert steps[0] == steps[1] and steps[0][-1].startswith("step=12/12")
    assert len(answers.given) == 3


@pytest.mark.real_trl
def test_scores_of_a_run_that_begins_anew_are_forgotten(
    tiny_base, tmp_path, monkeypatch, capsys, answers
):
    answers.scores = [0.25, 0.75]
    left = tmp_path / ".sft.work" / "dev"  # of a command that was killed before a checkpoint
    (left / "best").mkdir(parents=True)
    (left / "scores.json").write_text('{"6": 1.0}')
    more = ["--set", f"dev={DEV.relative_to(ROOT)}", "--set", "dev_steps=6"]
    call(monkeypatch, *watched(tmp_path, tiny_base), *more)
    metrics = json.loads((tmp_path / "sft" / "metrics.json").read_text())
    assert metrics["dev_scores"] == {"6": 0.25, "12": 0.75}
    card = (tmp_path / "sft" / "README.md").read_text()
    assert "| development score of these weights | 0.75 |" in card
    assert "| loss on runs put aside, at the end |" in card


def test_of_equal_scores_the_last_is_the_best_and_scores_outlive_a_kill(tmp_path, answers):
    def look() -> Development:
        made = Development(DEV, None, 5, tmp_path / "dev", save)
        state = TrainerState(is_world_process_zero=True)
        made.on_train_begin(TrainingArguments(), state, TrainerControl())
        return made

    def save(folder: Path) -> None:
        tiny.CARD.save(folder)
        (folder / "adapter_model.safetensors").write_bytes(EMPTY)

    first = look()
    for step in (5, 10, 15, 20):
        first.look(step)
    assert first.best == 20
    assert look().scores == {5: 0.25, 10: 0.75, 15: 0.5, 20: 0.75} and look().best == 20
    (tmp_path / "dev" / "look-25-00").mkdir()  # of a look that was killed
    assert look().best == 20
    assert {path.name for path in (tmp_path / "dev").iterdir()} == {"best", "scores.json"}
    shutil.rmtree(tmp_path / "dev" / "best")
    assert look().best is None


EMPTY = len(b"{}").to_bytes(8, "little") + b"{}"  # safetensors without a tensor


def test_only_development_sets_are_taken(tmp_path):
    assert check_set(DEV, None, True).seed == 710_000
    with pytest.raises(ConfigError, match="is a recorded evaluation"):
        check_set(ROOT / "configs" / "eval" / "tiny.yaml", None, True)
    with pytest.raises(ConfigError, match="has other arms"):
        check_set(ROOT / "configs" / "eval" / "ci.yaml", None, True)
    with pytest.raises(ConfigError, match="needs the loop's rlm.json"):
        check_set(DEV, None, False)
    with pytest.raises(ConfigError, match="dev_server: is not given, and dev-qwen3-8b.yaml has no"):
        check_set(DEV.with_name("dev-qwen3-8b.yaml"), None, True)
    other = tmp_path / "dev.yaml"
    other.write_text(DEV.read_text().replace("seed: 710000", "seed: 800000"))
    with pytest.raises(InputError, match="seed 800000 is not a dev seed"):
        check_set(other, None, True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["dev=x.yaml", "method=full"], "dev needs an adapter"),
        (["dev_server=http://127.0.0.1:1/v1"], "dev_server has no use without dev"),
    ],
)
def test_settings_that_do_not_fit(changes: list[str], message: str):
    with pytest.raises(ConfigError, match=message):
        load_config(SFTConfig, ROOT / "configs" / "sft" / "tiny.yaml", changes)


class Server(BaseHTTPRequestHandler):
    """The part of vLLM that exchanges adapters."""

    may_load = True
    calls: list[tuple[str, dict]]

    def do_GET(self) -> None:
        if self.path == "/openapi.json":
            self.say(200, {"paths": {"/v1/load_lora_adapter": {}} if self.may_load else {}})
        else:
            self.say(200, {"data": [{"id": "base"}, {"id": "rlm"}]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        type(self).calls.append((self.path, body))
        self.say(200 if self.may_load or "unload" in self.path else 404, {})

    def say(self, status: int, body: dict) -> None:
        text = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def server() -> Iterator[str]:
    Server.calls, Server.may_load = [], True
    with ThreadingHTTPServer(("127.0.0.1", 0), Server) as http:
        Thread(target=http.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{http.server_port}/v1"
        http.shutdown()


def test_the_adapter_before_goes_then_the_new_one_comes(server: str, tmp_path):
    exchange(server, tmp_path)
    assert Server.calls == [
        ("/v1/unload_lora_adapter", {"lora_name": "rlm"}),
        ("/v1/load_lora_adapter", {"lora_name": "rlm", "lora_path": str(tmp_path)}),
    ]


def test_a_server_that_may_not_load_says_how_to_start_it(server: str, tmp_path):
    check_server(server)
    Server.may_load = False
    with pytest.raises(EnvironmentFault, match="VLLM_ALLOW_RUNTIME_LORA_UPDATING=1"):
        check_server(server)
    with pytest.raises(EnvironmentFault, match="does not answer as vLLM"):
        check_server("http://127.0.0.1:9/v1")
    with pytest.raises(EnvironmentFault, match="VLLM_ALLOW_RUNTIME_LORA_UPDATING=1"):
        exchange(server, tmp_path)
    with pytest.raises(EnvironmentFault, match="does not load the adapter"):
        exchange("http://127.0.0.1:9/v1", tmp_path)
