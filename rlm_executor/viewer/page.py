"""Putting the page together: one HTML file that needs no network and no other file.

The table is JSON in the page. Each run is a block of its own, compressed, which the browser
unpacks when it is opened; so the page opens as quickly as its table does. A policy in the page
allows its own script and style and nothing else, by their hashes.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import zlib
from collections.abc import Iterable, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from rlm_executor.errors import InputError
from rlm_executor.files import write_text_atomic
from rlm_executor.viewer.digest import COLUMNS, digest
from rlm_executor.viewer.sources import find

_SCRIPTS = ("table.js", "run.js")  # one script of the page, in this order
_MARK = re.compile(r"\{\{(\w+)\}\}")
_MOST_BYTES = 2**30  # browsers open no larger page


def write_page(paths: Sequence[Path], out: Path) -> int:
    """Write the page of all journals in ``paths``; the number of runs in it.

    Raises:
        InputError: no journals, or a damaged one; ``out`` cannot be written.
    """
    scores: list[float | None] = []
    rows: list[str] = []
    runs: list[str] = []
    for source in find(paths):
        row, run = digest(source)
        try:
            rows.append(_json([row[column] for column in COLUMNS]))
            runs.append(_packed(run))
        except ValueError as error:  # "not a number" is no JSON for a browser
            raise InputError(f"journal {source.path} is damaged: {error}") from error
        scores.append(row["score"])
    size = sum(map(len, runs))
    if size > _MOST_BYTES:
        raise InputError(f"{len(runs)} runs make a page of {size >> 20} MiB; give fewer of them")
    try:
        write_text_atomic(out, _page(_title(scores), rows, runs))
    except OSError as error:
        raise InputError(f"{out} cannot be written ({error.strerror})") from error
    return len(runs)


def _page(title: str, rows: Iterable[str], runs: Iterable[str]) -> str:
    style, script = _file("page.css"), "".join(map(_file, _SCRIPTS))
    policy = f"default-src 'none'; script-src '{_hash(script)}'; style-src '{_hash(style)}'"
    table = f'{{"columns":{_json(COLUMNS)},"rows":[{",".join(rows)}]}}'
    blocks = (
        f'<script type="application/octet-stream" id="run{index}">{run}</script>\n'
        for index, run in enumerate(runs)
    )
    parts = {
        "policy": f"{policy}; base-uri 'none'; form-action 'none'",
        "title": title,
        "style": style,
        # Inside a script element only "<" could end it; JSON has it in strings only.
        "table": table.replace("<", "\\u003c"),
        "script": script,
        "runs": "".join(blocks),
    }
    # All marks at once: what a run's text has of them stays text.
    return _MARK.sub(lambda mark: parts[mark[1]], _file("page.html"))


def _title(scores: Sequence[float | None]) -> str:
    known = [score for score in scores if score is not None]
    mean = f", mean score {sum(known) / len(known):.2f}" if known else ""
    return f"{len(scores):,} run{'s' if len(scores) != 1 else ''}{mean}"


def _packed(run: dict[str, Any]) -> str:
    return base64.b64encode(zlib.compress(_json(run).encode(), 6)).decode()


def _json(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), allow_nan=False)


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _file(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")
