"""Show what of a run would go to the Hub, and with --send put it there, private unless --public.

    python -m train.push --run runs/demo --repo me/my-rlm                        # only lists
    HF_TOKEN=... python -m train.push --run runs/demo --repo me/my-rlm --send
    python -m train.push --run runs/demo --repo me/my-rlm-merged --what merged --send
    python -m train.push --run runs/demo --repo me/my-trajectories --what dataset --send

``model`` is the trained folder as it is, ``merged`` what train/merge.py made of it, ``dataset`` the
parquet files with card, funnel and rlm.json, never the journals. Text files are read before: one
with an absolute path, a host's name or a secret is named with its line, and nothing is sent.

A cut upload is gone on with by the same command. ``upload_folder`` of huggingface_hub 2 does it
(its ``upload_large_folder`` is gone, this took its place): files that are there unchanged are not
sent again, and by its word Xet, the Hub's storage, takes of a large file only the pieces that it
lacks; with HF_HUB_DISABLE_XET=1 whole files are what is skipped. Without a network Xet goes on
trying for minutes. Nothing is deleted on the Hub.
"""

from __future__ import annotations

import argparse
import glob
import os
import platform
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rlm_executor.card import CARD_NAME, RLMCard
from rlm_executor.cli import run_cli
from rlm_executor.errors import ConfigError, EnvironmentFault, InputError

What = Literal["model", "merged", "dataset"]
OUTPUT = {"model": "sft", "merged": "merged", "dataset": "data"}
WEIGHTS = {
    "model": ("adapter_model.safetensors", "model*.safetensors"),
    "merged": ("model*.safetensors",),
    "dataset": ("dataset/turns.parquet",),
}
MADE_BY = {"model": "make train", "merged": "make merge", "dataset": "make data"}
DATASET_FILES = ("README.md", "funnel.json", CARD_NAME)
TEXTS = {".json", ".jsonl", ".md", ".jinja", ".txt", ".yaml", ".yml", ".py", ".toml"}
# A vocabulary holds pieces of any text; it says nothing about who trained with it.
VOCABULARIES = {"tokenizer.json", "vocab.json", "merges.txt", "added_tokens.json"}
MOST_TOLD = 5  # findings in one error
REPO = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")

# From two parts on: "/think" and "</b>" are none; a path below an address is part of the address.
_PATH = re.compile(
    r"(?<![\w.<:/$}~-])/(?!(?:v1|dev|proc)/)(?:[\w.+@-]+/)+[\w.+@-]|\b[A-Z]:\\{1,2}\w|file://"
)
# Addresses of a network of one's own: an IP, a name without a dot, a port.
_ADDRESS = re.compile(
    r"(?<![\w.])(?!127\.0\.0\.1|0\.0\.0\.0)(?:\d{1,3}\.){3}\d{1,3}(?![\w.])"
    r"|https?://(?!localhost|127\.0\.0\.1)(?:[^\s/@]+@|[\w-]+(?=[:/\s\"']|$)|[\w.-]+:\d)"
)
_SECRET = re.compile(
    r"\bhf_[A-Za-z0-9]{20,}|\bsk-[\w-]{20,}|\bgh[oprsu]_[A-Za-z0-9]{20,}|\bgithub_pat_\w{20,}"
    r"|\bglpat-[\w-]{16,}|\bAKIA[0-9A-Z]{16}\b|\bAIza[\w-]{35}|\bxox[abprs]-[\w-]{10,}"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY|\bBearer [\w.-]{16,}"
    r"|(?i:api_?key|secret|password|access_token)[\"']?\s*[:=]\s*[\"']?[\w+/.-]{12,}"
)
_NAMED_SECRET = re.compile(r"(?i)(?:key|token|secret|password|passwd)$")


@dataclass(frozen=True)
class Parcel:
    """What is sent: files below a folder, to a repository of a kind."""

    folder: Path
    files: list[Path]
    kind: Literal["model", "dataset"]


def main(arguments: Sequence[str] | None = None) -> None:
    """List and check, then send if asked to."""
    parser = argparse.ArgumentParser(
        prog="push.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--run", type=Path, default=Path("runs/demo"))
    parser.add_argument("--what", choices=OUTPUT, default="model")
    parser.add_argument("--output", help="its folder in the run; default: sft, merged or data")
    parser.add_argument("--repo", help="name on the Hub: owner/name")
    parser.add_argument("--send", action="store_true")
    parser.add_argument("--public", action="store_true", help="for everybody; else private")
    args = parser.parse_args(arguments)
    if args.repo and not REPO.fullmatch(args.repo):
        raise ConfigError(f"--repo {args.repo}", "is no name on the Hub", "give owner/name")
    parcel = pack(args.run / (args.output or OUTPUT[args.what]), args.what)
    for path in parcel.files:
        print(f"{path.stat().st_size:>14,} bytes  {path.relative_to(parcel.folder)}")
    size = sum(path.stat().st_size for path in parcel.files)
    seen = "public" if args.public else "private"
    print(
        f"{len(parcel.files)} files, {size:,} bytes of {parcel.folder} for "
        f"{args.repo or 'a repository: give REPO='} ({parcel.kind}, {seen})"
    )
    check_texts(parcel)
    if not args.send:
        print("nothing was sent; `make push REPO=owner/name SEND=1` sends it")
        return
    if not args.repo:
        raise InputError("no repository given; give REPO=owner/name")
    send(parcel, args.repo, public=args.public)


def pack(folder: Path, what: What) -> Parcel:
    """The files that go, in order.

    Raises:
        InputError: the stage has not finished, or has no card.
    """
    if not any(path for name in WEIGHTS[what] for path in folder.glob(name)):
        raise InputError(
            f"no {WEIGHTS[what][0]} in {folder}; make it first (`{MADE_BY[what]}`), or give --run"
        )
    if not (folder / "README.md").is_file():
        raise InputError(f"{folder} has no README.md, its card; run `{MADE_BY[what]}` again")
    if what == "dataset":
        files = [path for name in DATASET_FILES for path in folder.glob(name)]
        files += folder.glob("dataset/*.parquet")
    else:
        files = [path for path in folder.rglob("*") if path.is_file() and _shown(path, folder)]
    if (folder / CARD_NAME).is_file():
        RLMCard.load(folder)  # a damaged one is refused here
    return Parcel(folder, sorted(files), "dataset" if what == "dataset" else "model")


def _shown(path: Path, folder: Path) -> bool:
    return not any(part.startswith(".") for part in path.relative_to(folder).parts)


def check_texts(parcel: Parcel) -> None:
    """Refuse texts that tell of this machine or hold a secret, without repeating it.

    Raises:
        InputError: names each file and line, up to ``MOST_TOLD``.
    """
    found = [
        f"{path.relative_to(parcel.folder)}:{number}: {what}"
        for path in parcel.files
        if path.suffix in TEXTS and path.name not in VOCABULARIES
        for number, what in findings(path.read_text(encoding="utf-8", errors="replace"))
    ]
    if found:
        more = f" and {len(found) - MOST_TOLD} more" if len(found) > MOST_TOLD else ""
        raise InputError(
            f"nothing was sent, for it would tell of this machine: {', '.join(found[:MOST_TOLD])}"
            f"{more}; take it out of these files and run again"
        )


def findings(text: str) -> Iterator[tuple[int, str]]:
    """Line numbers and what is there that must not be sent."""
    host = platform.node()
    # A short or general name would be found in ordinary words.
    hosts = [name for name in {host, host.partition(".")[0]} if len(name) > 5]
    hosts = [re.escape(name) for name in hosts if name != "localhost"]
    named = re.compile(rf"(?<![\w-])(?:{'|'.join(hosts)})(?![\w-])") if hosts else None
    secrets = known_secrets()
    for number, line in enumerate(text.splitlines(), start=1):
        if _SECRET.search(line) or any(secret in line for secret in secrets):
            yield number, "a secret"
        elif _PATH.search(line):
            yield number, "an absolute path"
        elif (named and named.search(line)) or _ADDRESS.search(line):
            yield number, "a host's name or address"


def known_secrets() -> set[str]:
    """The Hub's token, and what the environment holds under names of secrets."""
    from huggingface_hub import get_token

    own = {value for name, value in os.environ.items() if _NAMED_SECRET.search(name)}
    return {value for value in {*own, get_token() or ""} if len(value) >= 12}


def send(parcel: Parcel, repo: str, *, public: bool) -> None:
    """Upload what is packed; what is there already is not sent again.

    Raises:
        EnvironmentFault: no token, no network, or the Hub refuses.
    """
    from huggingface_hub import HfApi, get_token
    from huggingface_hub.utils import logging

    if get_token() is None:
        raise EnvironmentFault(
            "no Hub token; set HF_TOKEN to one that may write, or `hf auth login`"
        )
    # It warns of each retry with the address of the upload, which is signed: a key to it.
    logging.set_verbosity_error()
    api = HfApi()
    try:
        api.create_repo(repo, private=not public, exist_ok=True, repo_type=parcel.kind)
        private = bool(api.repo_info(repo, repo_type=parcel.kind).private)
    except Exception as error:  # each of its layers has errors of its own: network, token, name
        raise explained(error, repo) from None
    if private == public:
        is_now, wish = ("private", "leave --public out") if private else ("public", "give --public")
        raise EnvironmentFault(
            f"{repo} exists and is {is_now}; {wish}, or change it in its settings on the Hub"
        )
    names = [glob.escape(str(path.relative_to(parcel.folder))) for path in parcel.files]
    try:
        commit = api.upload_folder(
            repo_id=repo, folder_path=parcel.folder, repo_type=parcel.kind, allow_patterns=names
        )
    except Exception as error:
        raise explained(error, repo) from None
    print(f"sent: {commit.commit_url}")


def explained(error: Exception, repo: str) -> EnvironmentFault:
    """One line for what the client raised; its own text goes in without the token."""
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    chain: list[BaseException] = []
    at: BaseException | None = error
    while at is not None and at not in chain:
        chain.append(at)
        at = at.__cause__ or at.__context__
    status = next((one.response.status_code for one in chain if isinstance(one, HfHubHTTPError)), 0)
    again = "run the same command again: what has arrived is not sent twice"
    if any(isinstance(one, OfflineModeIsEnabled) for one in chain):
        return EnvironmentFault("HF_HUB_OFFLINE is set, so nothing can be sent; unset it")
    if status == 401:
        return EnvironmentFault(
            "the Hub does not know this token (401); set HF_TOKEN to a valid one or `hf auth login`"
        )
    if status == 403:
        return EnvironmentFault(
            f"this token may not write to {repo} (403); use one that may, or another --repo"
        )
    if not status and any("httpx" in type(one).__module__ for one in chain):
        return EnvironmentFault(
            f"the connection to the Hub failed ({type(chain[-1]).__name__}); check the network, "
            f"then {again}"
        )
    said = " ".join(str(error).split())[:300]
    for secret in known_secrets():
        said = said.replace(secret, "...")
    said = _SECRET.sub("...", said)
    return EnvironmentFault(
        f"the Hub did not take it ({type(error).__name__}: {said}); check network, token and name, "
        f"then {again}"
    )


if __name__ == "__main__":
    run_cli(main)
