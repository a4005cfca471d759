"""Checkpoints that a kill can't spoil: only complete ones of the same run are gone on from.

The trainer writes a checkpoint file by file; a kill leaves a torn folder. When all is written, a
marker goes in last, with the size of every file and the run's fingerprint (configuration, dataset
and base). A folder without a fitting marker does not count.
"""

from __future__ import annotations

import contextlib
import errno
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rlm_executor.errors import InputError
from rlm_executor.files import write_json_atomic

MARKER = "complete.json"
WATCHED = "dev"
_NAME = re.compile(r"checkpoint-(\d+)")


def mark_complete(folder: Path, fingerprint: str, seconds: float) -> None:
    """Declare the checkpoint in ``folder`` whole; ``seconds`` were spent on the run so far."""
    write_json_atomic(
        folder / MARKER, {"fingerprint": fingerprint, "seconds": seconds, "sizes": _sizes(folder)}
    )


def read_marker(folder: Path) -> dict[str, Any] | None:
    """The marker of a whole checkpoint, or None."""
    try:
        marker = json.loads((folder / MARKER).read_text(encoding="utf-8"))
        sizes = _sizes(folder)
    except (OSError, ValueError):
        return None
    return marker if marker.get("sizes") == sizes else None


def latest(folder: Path, fingerprint: str) -> tuple[Path, float] | None:
    """The newest whole checkpoint of this run and the seconds spent up to it.

    Args:
        folder: where checkpoints are.
        fingerprint: of the run; behind a "-" what its steps are counted in.

    Raises:
        InputError: the run's checkpoint counts steps of another size; it is left alone.
    """
    found = [path for path in folder.glob("checkpoint-*") if _NAME.fullmatch(path.name)]
    for path in sorted(found, key=step_of, reverse=True):
        marker = read_marker(path)
        if marker and marker["fingerprint"] == fingerprint:
            return path, float(marker["seconds"])
        if marker and marker["fingerprint"].partition("-")[0] == fingerprint.partition("-")[0]:
            raise InputError(
                f"{path} counts steps of another number of bins: start as many processes as "
                f"before, or delete {folder} to begin anew"
            )
    return None


def keep_only(folder: Path, kept: Path | None) -> None:
    """Delete all other checkpoints: torn, outdated, or newer ones that can't be trusted.

    What development sets have told (``train.watch``) stays with the checkpoint it belongs to.
    """
    for path in folder.glob("*"):
        if path != kept and not (kept and path.name == WATCHED):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def step_of(checkpoint: Path) -> int:
    """Optimizer steps done at this checkpoint."""
    return int(checkpoint.name.rpartition("-")[2])


@contextlib.contextmanager
def naming_full_disk(folder: Path) -> Iterator[None]:
    """Turn what safetensors and torch raise on a full disk into the OSError that commands know."""
    try:
        yield
    except Exception as error:
        text = str(error).lower()
        told = "no space left" in text or "os error 28" in text
        # torch's zip writer only says that it is not where it should be; the room left tells why.
        if told or ("inline_container" in text and shutil.disk_usage(folder).free < 1_000_000):
            raise OSError(errno.ENOSPC, "no space left on device", str(folder)) from error
        raise


def _sizes(folder: Path) -> dict[str, int]:
    """Bytes of every file; those of shards, which lie in folders of their own, too."""
    return {
        str(path.relative_to(folder)): path.stat().st_size
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != MARKER
    }
