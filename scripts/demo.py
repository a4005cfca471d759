"""The whole loop on a tiny model, stage by stage: `make demo`, or `python scripts/demo.py`.

    python scripts/demo.py [--size tiny|ci] [--run runs/demo]

Checks the machine first, then makes trajectories, trains the adapter and its control, serves both
with vLLM, evaluates and reports. Stop or kill it at any moment and run it again: finished stages
stay finished, a stage that was stopped goes on. One line a stage: seconds taken and planned.
It holds no logic of any stage; each can be run alone (see the Makefile).
"""

from require_python import require_python

require_python("make demo PYTHON={}")  # before any import or syntax that an old Python lacks

import argparse
import contextlib
import fcntl
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
KEEPER = ROOT / "serve" / "keeper.py"
NEEDED = ["pydantic", "yaml", "openai", "torch", "transformers", "trl", "peft", "accelerate"]
NEEDED += ["datasets", "matplotlib", "rich", "vllm"]
STOP_S = 15  # for a stage to end after Ctrl-C (vLLM takes the longest) before it is killed
LOCK_S = STOP_S + 5  # for the rest of a killed run to go away


@dataclass(frozen=True)
class Stage:
    """One command and the seconds it may take on two cores."""

    name: str
    command: list
    config: str
    budget_s: int


def stages(size):
    """The demo, in order; the set-up has a budget of 300 s more."""
    accelerate = [
        "-m",
        "accelerate.commands.launch",
        "--config_file",
        "configs/accelerate/cpu.yaml",
    ]
    train = [*accelerate, "train/sft.py"]
    # Of the evaluation's budget, 180 s are for vLLM to start.
    budgets = [90, 30, 630, 630, 1000, 30] if size == "tiny" else [40, 10, 70, 60, 160, 20]
    rows = [
        ("data", ["-m", "data_gen.generate"], f"configs/data/{size}.yaml"),
        ("direct-data", ["-m", "data_gen.direct"], f"configs/data/{size}-direct.yaml"),
        ("sft", train, f"configs/sft/{size}.yaml"),
        ("direct-sft", train, f"configs/sft/{size}-direct.yaml"),
        ("eval", ["-m", "eval.run"], f"configs/eval/{size}.yaml"),
        ("report", ["-m", "eval.report"], ""),
    ]
    return [Stage(*row, budget) for row, budget in zip(rows, budgets, strict=True)]


def main():
    """Check, then run what is owed."""
    parser = argparse.ArgumentParser(prog="demo.py", description=__doc__.split("\n")[0])
    parser.add_argument("--size", choices=["tiny", "ci"], default=os.environ.get("DEMO", "tiny"))
    parser.add_argument("--run", type=Path, help="default: runs/demo, or runs/demo-ci")
    arguments = parser.parse_args()
    size = arguments.size
    run = arguments.run or ROOT / "runs" / ("demo" if size == "tiny" else f"demo-{size}")
    run = Path(os.path.relpath(run, ROOT))  # stages run from the root, and paths stay short
    os.chdir(ROOT)
    plan = stages(size)
    from preflight import preflight

    preflight(run, [Path(stage.config) for stage in plan if stage.config])
    with locked(run) as lock:
        return Demo(run, size, plan, lock).go()


class Demo:
    """One run of the plan; ``demo.json`` in the run directory holds what each stage took."""

    def __init__(self, run, size, plan, lock):
        self.run, self.plan, self.lock = run, plan, lock
        self.record = {"size": size, "stages": {}}
        with contextlib.suppress(OSError, ValueError):
            self.record |= json.loads((run / "demo.json").read_text(encoding="utf-8"))
        self.record["size"] = size

    def go(self):
        """Run the stages in order; exit code of the first that fails, else 0."""
        budget = sum(stage.budget_s for stage in self.plan) / 60
        say(f"demo: {self.record['size']} configs into {self.run}, {budget:.0f} minutes at most")
        started = time.monotonic()
        for number, stage in enumerate(self.plan, start=1):
            label = f"[{number}/{len(self.plan)}] {stage.name}"
            if "train/sft.py" in stage.command and self.is_trained(stage):
                say(f"{label}: done before")
                continue
            say(f"{label}: starts, {stage.budget_s} s planned")
            code = self.run_stage(stage, label)
            if code:
                return code
        spent = sum(entry["seconds"] for entry in self.record["stages"].values())
        say(f"demo: complete in {time.monotonic() - started:.0f} s ({spent:.0f} s of stages)")
        say(f"demo: open {self.run}/report.html; `make view` shows every run")
        return 0

    def is_trained(self, stage):
        """What the training stage would say of itself, ten seconds of imports later."""
        from preflight import read_config

        from rlm_executor.errors import RLMError
        from train.inputs import find_inputs, is_done

        config = read_config(Path(stage.config))
        with contextlib.suppress(RLMError):
            return is_done(self.run / config.output, find_inputs(config, self.run).stamp)
        return False

    def run_stage(self, stage, label):
        """Run one stage to its end, with its output passing through."""
        mark = self.run / stage.name / "done.json"
        empty = {"seconds": 0.0, "attempts": 0, "budget_s": stage.budget_s}
        entry = self.record["stages"].setdefault(stage.name, empty)
        before = digest(mark)
        if before is None:  # told before it starts: a kill may come after its end, before ours
            entry["attempts"] += 1
            self.save()
        config = ["--config", stage.config] if stage.config else []
        started = time.monotonic()
        code, stopped_by = self.supervise([*stage.command, *config, "--run", str(self.run)])
        seconds = time.monotonic() - started
        if code or before is None or digest(mark) != before:  # else it found itself done
            entry["seconds"] = round(entry["seconds"] * (stage.name != "report") + seconds, 1)
            entry["attempts"] += before is not None
            self.save()
        if stopped_by:
            say(f"{label}: stopped after {seconds:.0f} s; `make demo` goes on from there")
            return 128 + stopped_by
        if code == 0:
            late = " (over its plan)" if seconds > stage.budget_s else ""
            say(f"{label}: {seconds:.0f} s of {stage.budget_s} s{late}")
            return 0
        say(f"{label}: failed after {seconds:.0f} s with exit code {code}; the reason is above")
        return 2 if code == 2 else 1

    def supervise(self, command):
        """Exit code, and the signal that asked us to stop, if any.

        The keeper ends all of a stage, whatever sessions it made, when this process is gone or says
        so. A session of its own, so that Ctrl-C reaches it through here; the lock goes along, so
        that a new demo waits until the last process of a killed one is gone.
        """
        keeper = [sys.executable, str(KEEPER), str(os.getpid()), str(STOP_S), sys.executable]
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}
        process = subprocess.Popen(
            keeper + command,
            env=environment,
            start_new_session=True,
            pass_fds=[self.lock.fileno()],
        )
        stopped_by = None
        while True:
            try:
                return process.wait(), stopped_by
            except Stopped as stop:
                stopped_by = stop.signal
                process.terminate()

    def save(self):
        """Write demo.json in one step."""
        from rlm_executor.files import write_json_atomic

        write_json_atomic(self.run / "demo.json", self.record)


def digest(path):
    """Hash of a file, or None where there is none."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return None


@contextlib.contextmanager
def locked(run):
    """One demo at a time in a run directory."""
    from rlm_executor.errors import EnvironmentFault

    run.mkdir(parents=True, exist_ok=True)
    with (run / ".demo.lock").open("a+") as lock:
        deadline = time.monotonic() + LOCK_S
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                lock.seek(0)
                owner = lock.read()
                if is_alive(owner) or time.monotonic() > deadline:
                    raise EnvironmentFault(
                        f"another demo (process {owner}) works in {run}; wait for its end, stop it,"
                        " or give another directory with RUN="
                    ) from None
                time.sleep(0.2)  # its last processes are going away
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield lock


def is_alive(pid):
    """Whether the process with this number, as text, still runs."""
    try:
        os.kill(int(pid), 0)
    except (ValueError, ProcessLookupError, PermissionError):
        return False
    return True


class Stopped(BaseException):
    """A signal asked for the end."""

    def __init__(self, number):
        self.signal = number


def on_signal(number, frame):
    raise Stopped(number)


def say(line):
    print(line, flush=True)


def start():
    """Signals, the packages that everything else imports, then the demo itself."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:  # nohup
            signal.signal(number, on_signal)
    sys.path.insert(0, str(ROOT))
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        print(
            f"error: {', '.join(missing)} not installed for {sys.executable}; run `make setup`,"
            " then `make demo`",
            file=sys.stderr,
        )
        sys.exit(2)
    if "MAKELEVEL" in os.environ:  # a killed make takes its demo along
        from serve.keeper import PR_SET_PDEATHSIG, prctl

        prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    from rlm_executor.cli import run_cli

    try:
        run_cli(main)
    except Stopped as stop:  # outside of a stage
        sys.exit(128 + stop.signal)


if __name__ == "__main__":
    start()
