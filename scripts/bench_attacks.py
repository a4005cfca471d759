"""The attacks of tests/attacks on other executors' REPLs, beside ours: one JSON line.

All programs but those that speak our own channel, each in a fresh REPL in a fresh process of a
user without rights, so that what is held is held by the REPL or by that user's having no rights.
One got through if

* the process that hosts the REPL ended, or hangs for 30 s, or its REPL does not run the next cell;
* a secret of that process, or the file system of the machine, is in what the program printed;
* a file, a socket or another process of that user was touched;
* in a REPL that runs on this kernel (all but Pyodide, whose files and calls are make-believe):
  the program reports that something succeeded.

Needs root, to be another user.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rlm_executor.cli import run_cli
from rlm_executor.errors import EnvironmentFault
from rlm_executor.files import write_json_atomic
from scripts.bench_peers import peers
from scripts.bench_record import ROOT, record
from tests.attacks.harness import SECRET, Scene, python_of_anybody
from tests.attacks.programs import ATTACKS, CHANNEL, PRELUDE, Attack

USER = 64_911  # nobody else's: all its processes are ended after every attack
PEERS = {"rlms": "kernel", "dspy": "emulated"}
MOST_SECONDS = 30.0  # Pyodide alone takes several
MOST_BYTES = 4 << 30  # of address space; Deno reserves more than it uses
LIMITS = {"rlms": f"ulimit -v {MOST_BYTES >> 10};", "dspy": ""}
CHANGES = "ulimit -u 400; ulimit -c 0; ulimit -f 2000000;"
# Emscripten has no such modules, and what follows must be able to begin.
TOLERANT = "\n".join(
    f"try: import {name}\nexcept Exception: pass"
    for line in PRELUDE.split("\n")
    if line.startswith("import ")
    for name in line.removeprefix("import ").split(", ")
)


def main() -> None:
    """Attack every peer, count, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--python", type=Path, help="one that has rlms and dspy (else .peers)")
    parser.add_argument("--only", default="", help="attacks with this in their name")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "attacks.json")
    arguments = parser.parse_args()
    if os.geteuid():
        raise EnvironmentFault("the attacks on others need another user: run this as root")
    attacks = [
        one
        for one in ATTACKS
        if one not in CHANNEL and "frame(" not in one.code and arguments.only in one.name
    ]
    figures: dict[str, Any] = {"attacks": len(attacks), "ours_held": ours(attacks)}
    python, found = peers(arguments.python, python_of_anybody() or sys.executable)
    for peer in found:
        through = {}
        for attack in attacks:
            why = attack_peer(peer, attack, python)
            if why:
                through[attack.name] = why
            print(f"{peer}: {attack.name}: {why or 'held'}", file=sys.stderr, flush=True)
        figures[f"{peer}_version"] = version(python, peer)
        figures[f"{peer}_held"] = len(attacks) - len(through)
        figures[f"{peer}_through"] = through
    entry = record("attacks held by the REPLs of executors", figures)
    entry["command"] = "make bench-attacks"
    if not arguments.only:
        write_json_atomic(arguments.out, entry)
    print(json.dumps(entry))


def ours(attacks: list[Attack]) -> int:
    """How many of them our own default holds, in the posture of that user."""
    harness = [sys.executable, "-P", "-m", "tests.attacks.harness", "--user", "nobody"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(harness, env=environment, capture_output=True, text=True, check=True)
    lines = {line["name"]: line for line in map(json.loads, done.stdout.splitlines())}
    return sum(lines[attack.name]["held"] for attack in attacks)


def version(python: Path, package: str) -> str:
    """The peer's version."""
    ask = f"from importlib.metadata import version; print(version({package!r}))"
    return subprocess.run(
        [python, "-c", ask], capture_output=True, text=True, check=True
    ).stdout.strip()


def attack_peer(peer: str, attack: Attack, python: Path) -> str:
    """How ``attack`` got through, "" if it was held."""
    folder = Path(tempfile.mkdtemp(prefix="attacks-"))
    folder.chmod(0o755)
    home = folder / "home"
    home.mkdir()
    os.chown(home, USER, USER)
    try:
        scene = Scene(folder)
        worker = folder / "attacked_peer.py"
        shutil.copy(ROOT / "scripts" / "attacked_peer.py", worker)
        worker.chmod(0o644)
        bystander = subprocess.Popen(["/bin/sleep", "60"], user=USER, group=USER)
        setup = f"{TOLERANT}\n{helpers()}\n{scene.values(bystander.pid, bystander.pid)}"
        cells = {"setup": setup, "attack": attack.code, "after": "print('well' + ' and good')"}
        command = f'{CHANGES} {LIMITS[peer]} exec "$0" "$@"'
        environment = {"HOME": str(home), "PATH": os.environ["PATH"], "ATTACK_SECRET": SECRET}
        if "DENO_DIR" in os.environ:  # where Pyodide has been fetched to, for all users to write
            environment["DENO_DIR"] = os.environ["DENO_DIR"]
        process = subprocess.Popen(
            ["/bin/bash", "-c", command, str(python), "-P", str(worker), peer],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            cwd=home,
            user=USER,
            group=USER,
            extra_groups=[],
        )
        cells["setup"] += f"\nH = {process.pid}"
        said, hung = b"", True
        with contextlib.suppress(subprocess.TimeoutExpired):
            said, _ = process.communicate(json.dumps(cells).encode(), timeout=MOST_SECONDS)
            hung = False
        touched = scene.touched()
        if bystander.poll() is not None:
            touched = touched or "another process of that user was ended"
        if hung:
            end_all()
            said, _ = process.communicate()
        return touched or verdict(peer, dict(parsed(said)), hung)
    finally:
        end_all()
        shutil.rmtree(folder, ignore_errors=True)


def helpers() -> str:
    """The prelude without its imports; what Emscripten lacks is None."""
    lines = [
        line for line in PRELUDE.split("\n") if not line.startswith(("import", "libc", "sysc"))
    ]
    libc = "try: libc = ctypes.CDLL(None, use_errno=True)\nexcept Exception: libc = None"
    return f"{libc}\nsyscall = getattr(libc, 'syscall', None)\n" + "\n".join(lines)


def parsed(out: bytes) -> Iterator[tuple[str, str]]:
    """The cells that said something; an attack may have written between the lines."""
    for line in out.decode("utf-8", "replace").splitlines():
        try:
            value = json.loads(line)
        except ValueError:
            continue
        if isinstance(value, dict):
            yield from value.items()


def verdict(peer: str, said: dict[str, str], hung: bool) -> str:
    """How it got through, "" if it did not."""
    if "setup" not in said or "Error" in said["setup"]:
        raise EnvironmentFault(f"{peer} does not run the scene: {said}")
    attack = said.get("attack", "")
    if SECRET in attack or "root:x:" in attack:
        return "it read what is the host's"
    if PEERS[peer] == "kernel" and "GOT" in attack:
        return "the program reports success"
    if hung:
        return "the host hangs"
    if "attack" not in said or "after" not in said:
        return "the host's process ended"
    return "" if "well and good" in said["after"] else f"the REPL is lost: {said['after'][:120]}"


def end_all() -> None:
    """End all processes of that user."""
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setresgid(USER, USER, USER)
            os.setresuid(USER, USER, USER)
            os.kill(-1, signal.SIGKILL)
        finally:
            os._exit(0)
    os.waitpid(child, 0)


if __name__ == "__main__":
    run_cli(main)
