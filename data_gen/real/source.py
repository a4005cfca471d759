"""Where the rows of a real data set come from, and the checks that every set shares.

A local file or folder first, else the Hub at a pinned revision. A folder is one of data files, one
that `hf download --local-dir` made, or a cache of huggingface_hub. Reading is ``rows.py``. Every
fault is one InputError that says what came, what was expected and what to do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import Field

from data_gen.real.rows import Files, Origin, first_line
from data_gen.tasks.task import BYTES_PER_TOKEN, Task, Window
from rlm_executor.config import Config
from rlm_executor.errors import InputError
from rlm_executor.files import sha256_text

SUFFIXES = (".parquet", ".jsonl", ".json")
_COMMIT_CHARS = 40
_HUB_TIMEOUT_S = 20
_BLOCK = 1 << 20  # characters handed on at a time


class RealConfig(Config):
    """What every set can be told; each adds its own fields and its pinned revision."""

    path: Path | None = None  # a file or folder; None: from the Hub
    revision: str  # commit on the Hub, or how it begins
    limit: int | None = Field(default=None, gt=0)  # tasks at most, in the order of the files


@dataclass(frozen=True)
class RealSet:
    """A checked set. Iterating makes its windows afresh, one at a time.

    ``sha256`` is over the rows used, so two results with the same hash are about the same data.
    """

    name: str
    source: str
    rows: int
    sha256: str
    make: Callable[[], Iterator[Window]] = field(repr=False)
    notes: dict[str, Any] = field(default_factory=dict)

    def __iter__(self) -> Iterator[Window]:
        return self.make()


def find(origin: Origin, path: Path | None, revision: str, field: str = "path") -> Files:
    """The data files of ``origin``; ``field`` names the setting that gives ``path``.

    Raises:
        InputError: not there, of another revision, or the Hub can't be reached.
    """
    get = _how_to_get(origin, revision, field)
    if path is None:
        path = _from_hub(origin, revision, get)
    if not path.exists():
        raise InputError(f"{path} does not exist; {get}")
    if path.is_file():
        if path.suffix not in SUFFIXES:
            raise InputError(f"{path} is not a {', '.join(SUFFIXES)} file; {get}")
        paths: tuple[Path, ...] = (path,)
    else:
        paths = _in_folder(origin, _snapshot(origin, path, revision, get), get)
    commit = _commit_of(paths[0])
    if commit and not commit.startswith(revision):
        raise InputError(
            f"{path} is revision {commit} of {origin.repo}, expected {revision}: scores may not "
            f"compare; {get}, or set the revision to {commit}"
        )
    return Files(origin, revision, paths, commit)


def task_id(family: str, *parts: object) -> str:
    """Stable name of a task: a hash of what identifies it in its set."""
    told = "/".join(map(str, (family, *parts, "v1")))
    return f"{family}-{sha256_text(told)[:12]}"


def joined_hash(*texts: str) -> str:
    """sha256 over several texts, each told apart from the next."""
    return sha256_text("\n".join(map(sha256_text, texts)))


def pieces(text: str) -> Iterator[str]:
    """``text``, a megabyte at a time."""
    for at in range(0, len(text), _BLOCK):
        yield text[at : at + _BLOCK]


def text_window(family: str, key: str, text: str, tasks: list[Task]) -> Window:
    """A window over one text that is in memory; its length is counted as bytes/4."""
    length = len(text.encode("utf-8", "surrogatepass")) // BYTES_PER_TOKEN
    for task in tasks:
        task.meta.update(length=length, window_id=f"{family}-{key}")
    return Window(
        id=f"{family}-{key}",
        family=family,
        length=length,
        seed=0,
        tasks=tasks,
        chunks=lambda: pieces(text),
    )


def _how_to_get(origin: Origin, revision: str, field: str) -> str:
    include = " ".join(f"'{pattern}'" for pattern in origin.files)
    commit = revision if len(revision) == _COMMIT_CHARS else f"COMMIT ({revision or '?'}...)"
    return (
        f"where there is network, run `hf download {origin.repo} --repo-type dataset --revision "
        f"{commit} --include {include} --local-dir FOLDER`, and set `{field}: FOLDER` here"
    )


def _cache_name(origin: Origin) -> str:
    return "datasets--" + origin.repo.replace("/", "--")


def _snapshot(origin: Origin, folder: Path, revision: str, get: str) -> Path:
    """``folder``, or in a cache of huggingface_hub the folder of ``revision``."""
    for cache in (folder / "hub" / _cache_name(origin), folder / _cache_name(origin), folder):
        if (cache / "snapshots").is_dir():
            there = sorted(one.name for one in (cache / "snapshots").iterdir())
            wanted = [name for name in there if name.startswith(revision)]
            if len(wanted) != 1:
                raise InputError(
                    f"{cache} holds the revisions {', '.join(there) or '(none)'} of {origin.repo}, "
                    f"expected one that begins with {revision or '(none pinned)'}; {get}"
                )
            return cache / "snapshots" / wanted[0]
    return folder


def _in_folder(origin: Origin, folder: Path, get: str) -> tuple[Path, ...]:
    flat = [pattern.rpartition("/")[2] for pattern in origin.files]
    for pattern in (*origin.files, *flat, *(f"*{suffix}" for suffix in SUFFIXES)):
        found = sorted(one for one in folder.glob(pattern) if not one.name.startswith("."))
        if found:
            return tuple(found)
    raise InputError(f"{folder} holds no {' or '.join(origin.files)}; {get}")


def _commit_of(path: Path) -> str | None:
    """The commit that huggingface_hub noted beside ``path`` or in its folder's name."""
    for folder in path.parents[:4]:
        if folder.parent.name == "snapshots":
            return folder.name
        name = f"{path.relative_to(folder)}.metadata"
        note = folder / ".cache" / "huggingface" / "download" / name
        if note.is_file():
            return note.read_text(encoding="utf-8").split("\n", 1)[0].strip()
    return None


def _from_hub(origin: Origin, revision: str, get: str) -> Path:
    if not revision:
        raise InputError(f"{origin.repo} has no pinned revision here: set `revision:`, or {get}")
    # Imported here: a second, and only for those who have no files yet.
    from huggingface_hub import HfApi, constants, snapshot_download
    from huggingface_hub.errors import HTTPError  # of whichever HTTP client it uses

    try:
        # Tried once: the calls after it try again for half a minute where there is no network.
        HfApi().dataset_info(origin.repo, timeout=_HUB_TIMEOUT_S)
        commit = revision
        if len(revision) != _COMMIT_CHARS:  # the Hub serves whole commit names only
            commits = HfApi().list_repo_commits(origin.repo, repo_type="dataset")
            commit = next(
                (one.commit_id for one in commits if one.commit_id.startswith(revision)), ""
            )
            if not commit:
                raise InputError(f"{origin.repo} has no commit that begins with {revision}; {get}")
        return Path(
            snapshot_download(
                origin.repo,
                repo_type="dataset",
                revision=commit,
                allow_patterns=list(origin.files),
            )
        )
    except (OSError, ValueError, HTTPError) as error:
        # What was fetched before will do; asking first lets a download that was cut short go on.
        cached = Path(constants.HF_HUB_CACHE) / _cache_name(origin) / "snapshots"
        for folder in sorted(cached.glob(f"{revision}*")):
            if all(any(folder.glob(pattern)) for pattern in origin.files):
                return folder
        raise InputError(
            f"{origin.repo} can't be fetched from the Hub ({first_line(error)}); {get}"
        ) from error
