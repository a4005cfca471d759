"""The other executors that benchmarks compare with, in an environment of their own: ``.peers``.

rlms and dspy want other versions of packages that are here too, so they are never installed into
``.venv``. What cannot be installed or does not run is left out, and said.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from rlm_executor.errors import EnvironmentFault
from scripts.bench_record import ROOT

FOLDER = ROOT / ".peers"
PACKAGES = {"rlms": "rlms==0.1.3", "dspy": "dspy[deno]==3.4.1"}
TRIALS = {
    "rlms": "from rlm.environments.local_repl import LocalREPL; LocalREPL().execute_code('1')",
    # Its first run loads a module from the network.
    "dspy": "import dspy.primitives.python_interpreter as it; it.PythonInterpreter().execute('1')",
}


def peers(given: Path | None, base: str = sys.executable) -> tuple[Path, list[str]]:
    """A Python that has them, and which of them run.

    Args:
        given: one that is there already; None: it is made, with pip.
        base: what it is made of.

    Raises:
        EnvironmentFault: none of them runs.
    """
    python = given or FOLDER / "bin" / "python"
    if given is None and not python.exists():
        say("making .peers with rlms and dspy: a minute or two")
        subprocess.run([base, "-m", "venv", "--clear", FOLDER], check=True)
    found = []
    for name, package in PACKAGES.items():
        if given is None and not runs(python, f"import {'rlm' if name == 'rlms' else name}"):
            pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
            subprocess.run([*pip, package], check=False, stderr=subprocess.DEVNULL)
        if runs(python, TRIALS[name]):
            found.append(name)
        else:
            say(f"{package} does not run here and is left out")
    if not found:
        raise EnvironmentFault(
            f"neither {' nor '.join(PACKAGES.values())} can be installed: give --python, one that "
            "has them"
        )
    return python, found


def runs(python: Path, code: str) -> bool:
    """Whether it does so."""
    try:
        done = subprocess.run(
            [python, "-P", "-c", code], capture_output=True, timeout=180, env={**os.environ}
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


def say(line: str) -> None:
    """To the person who waits."""
    print(line, file=sys.stderr, flush=True)
