"""Show what of a run would go to the Hub, and with --send put it there, private.

    python train/push.py --run runs/demo --repo me/my-rlm            # only lists
    HF_TOKEN=... python train/push.py --run runs/demo --repo me/my-rlm --send

Takes the adapter's folder as it is: weights, rlm.json, metrics and model card. A repository that
does not exist is made private; one that exists keeps its visibility. It merges nothing, and the
dataset stays here.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from rlm_executor.cli import run_cli
from rlm_executor.errors import EnvironmentFault, InputError


def main() -> None:
    """List, then send if asked to."""
    parser = argparse.ArgumentParser(prog="push.py", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--run", type=Path, default=Path("runs/demo"))
    parser.add_argument("--output", default="sft", help="folder of the adapter in the run")
    parser.add_argument("--repo", help="name on the Hub: owner/model")
    parser.add_argument("--send", action="store_true")
    arguments = parser.parse_args()
    folder = arguments.run / arguments.output
    if not (folder / "adapter_model.safetensors").is_file():
        raise InputError(f"no adapter in {folder}; train it first (`make train`), or give --run")
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    for path in files:
        print(f"{path.stat().st_size:>12,} bytes  {path.relative_to(folder)}")
    print(f"{len(files)} files of {folder} for {arguments.repo or 'a repository: give REPO='}")
    if not arguments.send:
        print("nothing was sent; `make push REPO=owner/model SEND=1` sends it")
        return
    if not arguments.repo:
        raise InputError("no repository given; give REPO=owner/model")
    send(folder, arguments.repo)


def send(folder: Path, repo: str) -> None:
    """Upload ``folder`` as it is.

    Raises:
        EnvironmentFault: no token, no network, or the Hub refuses.
    """
    from huggingface_hub import HfApi, get_token

    if get_token() is None:
        raise EnvironmentFault(
            "no Hub token; set HF_TOKEN to one that may write, or `hf auth login`"
        )
    api = HfApi()
    try:
        api.create_repo(repo, private=True, exist_ok=True)
        commit = api.upload_folder(repo_id=repo, folder_path=folder)
    except Exception as error:  # each of its layers has errors of its own: network, token, name
        said = str(error).strip().partition("\n")[0]
        raise EnvironmentFault(
            f"the Hub did not take it ({type(error).__name__}: {said}); check network, token, name"
        ) from error
    print(f"sent: {commit.commit_url}")


if __name__ == "__main__":
    run_cli(main)
