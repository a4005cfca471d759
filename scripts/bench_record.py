"""What every benchmark prints: one JSON line with its figures and where they come from."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent


def print_record(figure: str, values: dict[str, Any]) -> None:
    """Print ``values`` with the commit, the command and the machine that made them."""
    print(json.dumps(record(figure, values)), flush=True)


def record(figure: str, values: dict[str, Any], checkout: Path = ROOT) -> dict[str, Any]:
    """``values`` as one entry.

    Args:
        figure: what was measured, in words, with its unit.
        values: the numbers, ours beside the peer's or the limit's.
        checkout: where the code that was measured lies.
    """
    command = ["python", os.path.relpath(sys.argv[0], ROOT), *sys.argv[1:]]
    return {
        "figure": figure,
        **values,
        "commit": commit(checkout),
        "command": " ".join(command),
        "machine": machine(),
    }


def commit(checkout: Path) -> str:
    """The commit measured; "+" after it where files differ from it."""
    git = ["git", "-C", str(checkout)]
    head = subprocess.run([*git, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True)
    changed = subprocess.run(  # what other benchmarks have just written is no change of the code
        [*git, "status", "--porcelain", "-uno", "--", ":/", ":!/benchmarks"],
        capture_output=True,
        text=True,
    )
    if head.returncode:
        return "unknown"
    return head.stdout.strip() + ("+" if changed.stdout.strip() else "")


def machine() -> str:
    """Processor, cores, memory, kernel and Python; no names."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return (
        f"{processor()}, {len(os.sched_getaffinity(0))} cores, {memory:.0f} GiB, "
        f"Linux {platform.release().split('-')[0]}, Python {platform.python_version()}"
    )


def processor(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """The processor's name, and its widest matrix instructions."""
    facts: dict[str, str] = {}
    for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
        key, _, value = line.partition(":")
        facts.setdefault(key.strip(), value.strip())
    flags = set(facts.get("flags", "").split())
    widest = next(
        (flag for flag in ("amx_bf16", "avx512_bf16", "avx512f", "avx2") if flag in flags), ""
    )
    name = facts.get("model name", platform.machine())
    return f"{name} ({widest})" if widest else name
