"""Every attack in every posture, and every wall taken out in turn."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.attacks.harness import python_of_anybody
from tests.attacks.kernel_view import CHECKS
from tests.attacks.programs import ATTACKS
from tests.attacks.walls import WALLS, Wall, build_without

ROOT = Path(__file__).resolve().parents[2]
LANDLOCK = next(wall for wall in WALLS if wall.name == "Landlock")
POSTURES: dict[str, list[str]] = {
    "root": [],
    "nobody": ["--user", "nobody"],
    "docker root": ["--docker"],
    "docker nobody": ["--docker", "--user", "nobody"],
    "without Landlock": [],
}
NAMES = [*CHECKS, *(attack.name for attack in ATTACKS)]
pytestmark = [pytest.mark.real_sandbox, pytest.mark.slow]
AT_ONCE = 2 + len(os.sched_getaffinity(0)) // 4
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can take other identities")


def attack(arguments: list[str], wall: Wall | None = None) -> tuple[list[dict[str, Any]], str]:
    """The harness in a process of its own: its lines, and what it said when it broke off."""
    folder = Path(tempfile.mkdtemp(prefix="attacks-"))
    try:
        paths = [str(ROOT)]
        if wall is not None:
            build_without(wall, folder / "built")
            paths.insert(0, str(folder / "built"))
        harness = [sys.executable, "-P", "-m", "tests.attacks.harness", "--folder", str(folder)]
        done = subprocess.run(
            [*harness, *arguments],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
            capture_output=True,
            text=True,
            timeout=400,
        )
    finally:
        shutil.rmtree(folder)
    return [json.loads(line) for line in done.stdout.splitlines()], done.stderr


@pytest.fixture(scope="module")
def results() -> Iterator[dict[str, tuple[dict[str, dict[str, Any]], str]]]:
    """Every posture, two at a time."""
    found = {}
    with ThreadPoolExecutor(AT_ONCE) as threads:
        runs = {
            name: threads.submit(attack, arguments, LANDLOCK if "Landlock" in name else None)
            for name, arguments in POSTURES.items()
            if os.geteuid() == 0 or not arguments
        }
        for name, run in runs.items():
            lines, said = run.result()
            found[name] = {line["name"]: line for line in lines}, said
    yield found


@pytest.mark.parametrize("posture", POSTURES)
def test_all_attacks_are_held(posture: str, results) -> None:
    if posture not in results:
        pytest.skip("only root can take other identities")
    if "nobody" in posture and python_of_anybody() is None:
        pytest.skip("no Python that another user may run")
    lines, said = results[posture]
    assert sorted(lines) == sorted(NAMES), said[-2000:]
    through = [f"{line['name']}: {line['why']}" for line in lines.values() if not line["held"]]
    if posture == "without Landlock":  # the kernel's view says so, and nothing else
        assert [text[:3] for text in through] == ["k01"] and "landlock=0" in through[0]
    else:
        assert not through


def test_there_are_enough_of_them() -> None:
    assert len(ATTACKS) >= 59 + 25 and len({attack.name for attack in ATTACKS}) == len(ATTACKS)


@pytest.fixture(scope="module")
def without() -> dict[str, tuple[list[dict[str, Any]], str]]:
    """The attacks on every build without a wall, a few builds at a time."""
    with ThreadPoolExecutor(AT_ONCE) as threads:
        runs = {
            wall.name: threads.submit(attack, ["--only", wall.attacks, "--user", wall.user], wall)
            for wall in WALLS
        }
        return {name: run.result() for name, run in runs.items()}


@as_root
@pytest.mark.parametrize("wall", WALLS, ids=lambda wall: wall.name)
def test_a_wall_that_is_gone_is_noticed(wall: Wall, without) -> None:
    lines, said = without[wall.name]
    refused = "the REPL was not started" in said
    assert refused or any(not line["held"] for line in lines), (lines, said[-500:])
