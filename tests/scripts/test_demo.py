"""scripts/demo.py over stand-in stages that append rows: kills, stops, repeats, and its preflight.

The stand-ins do their work in a process of another session, as vLLM does, so that a row written
twice shows an orphan. The real stages run in ``test_demo_small``.
"""

import json
import os
import random
import shutil
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
STAGES = ["data", "direct-data", "sft", "direct-sft", "eval", "report"]
ROWS = 12
STUB = '''
import argparse, json, os, subprocess, sys, time
from pathlib import Path
from rlm_executor.cli import run_cli
from rlm_executor.config import Config, load_config
from rlm_executor.errors import InputError

class StubConfig(Config):
    stage: str
    fails: bool = False
    base: Path | None = None
    serve: Path | None = None

    @property
    def output(self):
        return self.stage

def find_inputs(config, run):
    return argparse.Namespace(stamp=config.stage)

def is_done(folder, stamp):
    return (folder / "done.json").exists() and (folder / "done.json").read_text() == stamp

GenerateConfig = DirectConfig = SFTConfig = EvalConfig = StubConfig
WORKER = """
import sys, time
path, rows = sys.argv[1:]
with open(path, "a+") as file:
    file.seek(0)
    for row in range(len(file.readlines()), int(rows)):
        print(row, file=file, flush=True)
        time.sleep(0.05)
"""

def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--config", type=Path)
    parser.add_argument("--run", type=Path)
    args = parser.parse_args()
    config = load_config(StubConfig, args.config) if args.config else StubConfig(stage="report")
    if config.fails:
        raise InputError("this stage can't: mend it")
    folder = args.run / config.stage
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "done.json").exists():
        command = [sys.executable, "-c", WORKER, str(folder / "rows.jsonl"), "ROWS"]
        worker = subprocess.Popen(command, start_new_session=True)
        assert worker.wait() == 0
        (folder / "done.json").write_text(config.stage)
    print("stub", config.stage, "done")

if __name__ == "__main__":
    run_cli(main)
'''
LAUNCH = (
    "import runpy, sys\nsys.argv = sys.argv[3:]\nrunpy.run_path(sys.argv[0], None, '__main__')\n"
)
MODULES = [
    *("data_gen/generate.py", "data_gen/direct.py", "eval/run.py", "eval/report.py"),
    *("eval/grid.py", "train/sft.py", "train/config.py", "train/inputs.py"),
]


@pytest.fixture
def clone(tmp_path):
    """A clone with the real scripts and rlm_executor, and stand-ins for everything else."""
    root = tmp_path / "clone"
    shutil.copytree(ROOT / "scripts", root / "scripts", ignore=shutil.ignore_patterns("__pyc*"))
    for package in ("rlm_executor", "serve"):
        (root / package).symlink_to(ROOT / package)
    for name in MODULES:
        (root / name).parent.mkdir(exist_ok=True)
        # Without it, the real package would be found first: it is installed from the clone.
        (root / name).with_name("__init__.py").touch()
        (root / name).write_text(STUB.replace("ROWS", str(ROWS)))
    # accelerate takes ten seconds to start; here it only runs the script.
    (root / "accelerate/commands").mkdir(parents=True)
    (root / "accelerate/__init__.py").touch()
    (root / "accelerate/commands/__init__.py").touch()
    (root / "accelerate/commands/launch.py").write_text(LAUNCH)
    for name, stage in {
        **{"data/ci": "data", "data/ci-direct": "direct-data"},
        **{"sft/ci": "sft", "sft/ci-direct": "direct-sft", "eval/ci": "eval"},
    }.items():
        configure(root, name, stage=stage)
    configure(root, "serve/ci", engine={"model": "assets/tiny-base"})
    configure(root, "eval/ci", stage="eval", base="assets/tiny-base", serve="configs/serve/ci.yaml")
    model = root / "assets/tiny-base"
    model.mkdir(parents=True)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (model / name).write_text("{}")
    (model / "config.json").write_text('{"architectures": ["Qwen3ForCausalLM"]}')
    header = json.dumps({"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).encode()
    weights = struct.pack("<Q", len(header)) + header + bytes(8)
    (model / "model.safetensors").write_bytes(weights)
    return root


def configure(root, name, **fields):
    """Write ``configs/NAME.yaml``."""
    path = root / "configs" / f"{name}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{key}: {json.dumps(value)}\n" for key, value in fields.items()))


def environment():
    """Without what make or CI put there."""
    drop = {"MAKELEVEL", "DEMO", "PYTHONPATH"}
    return {key: value for key, value in os.environ.items() if key not in drop}


def start(clone, *options):
    """The demo as a process with its output in a pipe."""
    command = [sys.executable, clone / "scripts/demo.py", "--size", "ci", *options]
    return subprocess.Popen(
        command, stdout=-1, stderr=-1, text=True, env=environment(), cwd=clone.parent
    )


def demo(clone, *options):
    """Run it to its end: exit code, output, errors."""
    process = start(clone, *options)
    output, errors = process.communicate(timeout=120)
    return process.returncode, output, errors


def wait_for_line(process, text):
    """Read its output up to a line with ``text``."""
    for line in process.stdout:
        if text in line:
            return
    raise AssertionError(f"no line with {text!r}; errors: {process.stderr.read()}")


def assert_all_rows_once(clone):
    for stage in STAGES:
        rows = (clone / "runs/demo-ci" / stage / "rows.jsonl").read_text().split()
        assert rows == [str(row) for row in range(ROWS)], stage


def test_killed_in_every_stage_it_goes_on_and_then_finds_all_done(clone):
    moments = random.Random(os.environ.get("PYTEST_KILL_SEED", "1"))
    for number, stage in enumerate(STAGES, start=1):
        process = start(clone)
        wait_for_line(process, f"[{number}/6] {stage}: starts")
        time.sleep(moments.uniform(0, 1.5))
        process.send_signal(signal.SIGKILL)
        process.communicate()
    code, output, errors = demo(clone)
    assert code == 0, output + errors
    assert "demo: complete" in output
    assert_all_rows_once(clone)
    record = json.loads((clone / "runs/demo-ci/demo.json").read_text())
    assert list(record["stages"]) == STAGES
    assert all(entry["attempts"] >= 1 for entry in record["stages"].values())
    again, output, _ = demo(clone)
    assert again == 0 and "sft: done before" in output
    assert json.loads((clone / "runs/demo-ci/demo.json").read_text()) == record


def test_ctrl_c_leaves_with_130_and_can_go_on(clone):
    process = start(clone)
    wait_for_line(process, "sft: starts")
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "sft: stopped after" in output and "goes on from there" in output
    assert demo(clone)[0] == 0
    assert_all_rows_once(clone)


def test_two_at_once_are_refused(clone):
    first = start(clone)
    wait_for_line(first, "data: starts")
    first.send_signal(signal.SIGSTOP)
    code, _, errors = demo(clone)
    assert code == 2 and f"another demo (process {first.pid}) works in" in errors
    first.kill()
    first.communicate()


def test_a_failing_stage_ends_the_demo_with_its_reason(clone):
    configure(clone, "sft/ci", stage="sft", fails=True)
    code, output, errors = demo(clone)
    assert code == 2
    assert errors == "error: this stage can't: mend it\n"
    assert "[3/6] sft: failed after" in output


def refusal(clone, *options):
    """The one line of a demo that refuses to start; nothing may have been run."""
    code, output, errors = demo(clone, *options)
    assert code == 2, output + errors
    assert output == "" and len(errors.splitlines()) == 1 and errors.startswith("error: ")
    return errors


def test_no_vllm(clone, tmp_path):
    """An environment that has everything but vllm: links to all other packages."""
    site = Path(pytest.__file__).parents[1]
    packages = tmp_path / "packages"
    packages.mkdir()
    for entry in site.iterdir():
        if not entry.name.startswith("vllm"):
            (packages / entry.name).symlink_to(entry)
    process = subprocess.run(
        [sys.executable, "-S", clone / "scripts/demo.py", "--size", "ci"],
        env={**environment(), "PYTHONPATH": str(packages)},
        capture_output=True,
        text=True,
    )
    assert process.returncode == 2
    assert process.stderr.startswith("error: vllm not installed") and "make setup" in process.stderr


def test_full_disk(clone):
    """A real small file system, in a mount namespace of its own."""
    script = 'mount -t tmpfs -o size=2m none "$1" && exec "$2" "$3" --size ci --run "$1/run"'
    (clone / "disk").mkdir()
    process = subprocess.run(
        ["unshare", "-rm", "sh", "-c", script, "sh", clone / "disk", sys.executable]
        + [clone / "scripts/demo.py"],
        env=environment(),
        capture_output=True,
        text=True,
    )
    assert process.returncode == 2
    assert "GB free and a demo needs 3 GB; free some space" in process.stderr


@pytest.mark.parametrize("name", ["data/ci", "data/ci-direct", "sft/ci", "eval/ci", "serve/ci"])
def test_damaged_config(clone, name):
    path = clone / f"configs/{name}.yaml"
    path.write_text(path.read_text() + "stage: [\n")
    assert f"configs/{name}.yaml:" in (line := refusal(clone)) and "not valid YAML" in line
    path.write_text("stages: data\n")
    assert f"configs/{name}.yaml: " in refusal(clone)
    path.unlink()
    assert "cannot be read" in refusal(clone)


def test_wrong_model_path(clone):
    configure(clone, "eval/ci", stage="eval", base="assets/no-base")
    line = refusal(clone)
    assert "configs/eval/ci.yaml: base: the base model assets/no-base does not exist" in line


def test_damaged_model(clone):
    weights = clone / "assets/tiny-base/model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-3])
    assert "and its header says" in refusal(clone)
