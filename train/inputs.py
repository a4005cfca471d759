"""What a run reads, checked before anything heavy is imported: base, dataset and RLM card.

Their hashes, with the configuration's, are the run's stamp: a finished stage with the same stamp is
done, a checkpoint with the same stamp can be gone on from.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlm_executor.card import RLMCard
from rlm_executor.errors import ConfigError, InputError
from rlm_executor.files import sha256_file, sha256_text
from train.config import SFTConfig

REPOSITORY = Path(__file__).resolve().parent.parent
BASE_FILES = ("config.json", "tokenizer.json", "tokenizer_config.json")


@dataclass(frozen=True)
class Inputs:
    """Where things lie, and the stamp of what they hold."""

    base: str  # folder, or name on the hub
    base_name: str  # as artefacts call it
    local: bool
    turns: Path
    card: Path | None
    stamp: dict[str, Any]

    @property
    def fingerprint(self) -> str:
        """One hash of the whole stamp."""
        return sha256_text(json.dumps(self.stamp, sort_keys=True))

    def reply_limit(self) -> int | None:
        """Tokens that the card's loop lets a root turn have; None without a card."""
        return RLMCard.load(self.card).limits.max_tokens_per_turn if self.card else None


def find_inputs(config: SFTConfig, run: Path) -> Inputs:
    """Look up and hash what the configuration names.

    Raises:
        ConfigError: the base is neither a whole model folder nor a possible name on the hub.
        InputError: there is no dataset.
    """
    folder = REPOSITORY / config.base
    local = folder.is_dir()
    if local:
        missing = [name for name in BASE_FILES if not (folder / name).is_file()]
        weights = sorted(folder.glob("*.safetensors"))
        if missing or not weights:
            missing += [] if weights else ["*.safetensors"]
            raise ConfigError(
                f"base: {config.base}", f"lacks {', '.join(missing)}", "restore it from git"
            )
        base_sha = _hash_together([*(folder / name for name in BASE_FILES), *weights])
    else:
        # A name on the hub is owner/name; a path is usually deeper, or starts at a known folder.
        owner, slash, name = config.base.partition("/")
        if not slash or "/" in name or not owner or owner == "." or (REPOSITORY / owner).exists():
            raise ConfigError(
                f"base: {config.base}", "is no folder of the repository", "give an existing one"
            )
        base_sha = "named on the hub"
    source = run / config.dataset
    turns = source / "dataset" / "turns.parquet"
    if not turns.is_file():
        raise InputError(
            f"no dataset at {turns}; make it first (`make data`), or check `dataset` and --run"
        )
    card = source / "rlm.json"
    return Inputs(
        base=str(folder) if local else config.base,
        base_name=folder.name if local else config.base,
        local=local,
        turns=turns,
        card=card if card.is_file() else None,
        stamp={
            "config_sha256": sha256_text(config.model_dump_json()),
            "inputs": {
                "dataset": sha256_file(turns),
                "base": base_sha,
                "card": sha256_file(card) if card.is_file() else None,
            },
        },
    )


def is_done(folder: Path, stamp: dict[str, Any]) -> bool:
    """Whether ``folder`` is the finished stage of exactly these inputs."""
    try:
        done = json.loads((folder / "done.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    weights = folder / "adapter_model.safetensors"
    return weights.is_file() and {name: done.get(name) for name in stamp} == stamp


def _hash_together(files: list[Path]) -> str:
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.name} {sha256_file(file)}\n".encode())
    return digest.hexdigest()
