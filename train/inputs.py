"""What a run reads, checked before anything heavy is imported: base, dataset and RLM card.

Their hashes, with the configuration's, are the run's stamp: a finished stage with the same stamp is
done, a checkpoint with the same stamp can be gone on from.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlm_executor.card import RLMCard
from rlm_executor.errors import ConfigError, InputError
from rlm_executor.files import read_jsonl, sha256_file, sha256_text
from train.config import SFTConfig

REPOSITORY = Path(__file__).resolve().parent.parent
BASE_FILES = ("config.json", "tokenizer.json", "tokenizer_config.json")
# They decide the ids too, where a base has them: how prompts are rendered, where replies stop.
MORE_BASE_FILES = ("chat_template.jinja", "generation_config.json")
EVALUATION_SEEDS = 700_000  # from here on seeds are for development and tests


@dataclass(frozen=True)
class Inputs:
    """Where things lie, and the stamp of what they hold."""

    base: str  # folder, or name on the hub
    base_name: str  # as artefacts call it
    local: bool
    turns: Path
    heldout: Path | None  # rows that the dataset puts aside
    funnel: Path | None  # what became of the attempts that the dataset is of
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
        InputError: there is no dataset, or it is none to train on (``check_dataset``).
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
        more = [folder / name for name in MORE_BASE_FILES if (folder / name).is_file()]
        base_sha = hash_together([*(folder / name for name in BASE_FILES), *more, *weights])
    else:
        # A name on the hub is owner/name; a path is usually deeper, or starts at a known folder.
        owner, slash, name = config.base.partition("/")
        if not slash or "/" in name or not owner or owner == "." or (REPOSITORY / owner).exists():
            raise ConfigError(
                f"base: {config.base}", "is no folder of the repository", "give an existing one"
            )
        base_sha = "named on the hub"
    if config.dev is not None and not (REPOSITORY / config.dev).is_file():
        raise ConfigError(f"dev: {config.dev}", "is no file of the repository", "give one")
    source = run / config.dataset
    turns = source / "dataset" / "turns.parquet"
    if not turns.is_file():
        raise InputError(
            f"no dataset at {turns}; make it first (`make data`), or check `dataset` and --run"
        )
    heldout = turns.with_name("turns-validation.parquet")
    card, funnel = source / "rlm.json", source / "funnel.json"
    check_dataset(turns, RLMCard.load(card) if card.is_file() else None, run)
    return Inputs(
        base=str(folder) if local else config.base,
        base_name=folder.name if local else config.base,
        local=local,
        turns=turns,
        heldout=heldout if heldout.is_file() else None,
        funnel=funnel if funnel.is_file() else None,
        card=card if card.is_file() else None,
        stamp={
            "config_sha256": sha256_text(config.model_dump_json()),
            "inputs": {
                "dataset": sha256_file(turns),
                "base": base_sha,
                "card": sha256_file(card) if card.is_file() else None,
                **({"dev": sha256_file(REPOSITORY / config.dev)} if config.dev else {}),
            },
        },
    )


def check_dataset(turns: Path, card: RLMCard | None, run: Path) -> None:
    """Refuse rows that were made for other prompts than will be served, or that are evaluated on.

    Columns that are missing, and a file that can't be read, are for ``rows.read_turns`` to tell.

    Raises:
        InputError: rows were made for another card, or are of evaluation tasks.
    """
    import pyarrow
    import pyarrow.parquet

    try:
        names = pyarrow.parquet.read_schema(turns).names
        if card is not None and {"prompt", "chat_template_kwargs"} <= {*names}:
            columns = ["prompt", "chat_template_kwargs"]
            _check_prompts(pyarrow.parquet.read_table(turns, columns=columns).to_pylist(), card)
        if "task_id" in names:
            ids = pyarrow.parquet.read_table(turns, columns=["task_id"])["task_id"].to_pylist()
            _check_tasks(ids, _evaluated(turns.parent, run))
    except pyarrow.ArrowException:
        return


def _check_prompts(rows: list[dict[str, Any]], card: RLMCard) -> None:
    """Raises InputError if some rows were not rendered as the card says."""
    served = card.sampling.chat_template_kwargs or {}
    others = []
    for row in rows:
        own = row["chat_template_kwargs"] or {}
        own = {name: value for name, value in own.items() if value is not None}
        if own != served:
            others.append(own)
    if others:
        raise InputError(
            f"{len(others)} of {len(rows)} rows were made with chat_template_kwargs {others[0]}, "
            f"and the rlm.json beside the dataset serves with {served}: other prompts than were "
            "trained; set `sampling.chat_template_kwargs` of the data stage's card to what is "
            "wanted and make the dataset again"
        )
    system = card.dialect.system
    strange = sum(not _opens_with(row["prompt"], system) for row in rows)
    if strange:
        raise InputError(
            f"{strange} of {len(rows)} rows do not begin with the system prompt of the dialect "
            f"{card.dialect.name} in the rlm.json beside the dataset, so the model would be served "
            "with another one; put the rlm.json back that was made with these rows, or make the "
            "dataset again"
        )


def _opens_with(prompt: Any, system: str) -> bool:
    first = prompt[0] if isinstance(prompt, list) and prompt else None
    if not isinstance(first, dict):
        return True  # no messages: ``rows`` refuses it, with its reason
    return first.get("role") == "system" and str(first.get("content")).startswith(system)


def _check_tasks(ids: list[str], evaluated: dict[str, str]) -> None:
    """Raises InputError if some rows are of evaluation tasks."""
    found = [name for name in ids if name in evaluated]
    if found:
        raise InputError(
            f"{len(found)} of {len(ids)} rows are of evaluation tasks ({found[0]}: "
            f"{evaluated[found[0]]}); make the dataset again from training seeds, without them"
        )


def _evaluated(dataset: Path, run: Path) -> dict[str, str]:
    """Ids of tasks that are not for training, each with what tells so."""
    import pyarrow.parquet

    found: dict[str, str] = {}
    for path in sorted(dataset.glob("trajectories*.parquet")):
        if not {"task_id", "seed"} <= {*pyarrow.parquet.read_schema(path).names}:
            continue
        table = pyarrow.parquet.read_table(path, columns=["task_id", "seed"]).to_pylist()
        for row in table:
            if (row["seed"] or 0) >= EVALUATION_SEEDS:
                found[row["task_id"]] = f"seed {row['seed']}, {EVALUATION_SEEDS} and up evaluate"
    funnel = dataset.parent / "funnel.json"
    told = json.loads(funnel.read_text(encoding="utf-8")) if funnel.is_file() else {}
    for name, one in (told.get("contamination") or {}).get("sets", {}).items():
        found |= dict.fromkeys(one["shared_ids"], f"funnel.json found it in {name}")
    for row in read_jsonl(run / "eval" / "results.jsonl"):
        found[str(row.get("task_id"))] = "it is in eval/results.jsonl of this run"
    return found


def license_line(base_name: str, folder: Path) -> str:
    """The line for the front matter of what is made of a base; empty where its licence is not told.

    It is told by the model card in the base's folder; all Qwen3 models are Apache-2.0.
    """
    card = folder / "README.md"
    front = card.read_text(encoding="utf-8") if card.is_file() else ""
    found = re.match(r"---\n(?:(?!---\n).*\n)*?license: *(\S+) *\n", front)
    licence = found[1] if found else "apache-2.0" if base_name.startswith("Qwen/Qwen3") else None
    return f"license: {licence}\n" if licence else ""


def is_done(folder: Path, stamp: dict[str, Any]) -> bool:
    """Whether ``folder`` is the finished stage of exactly these inputs."""
    try:
        done = json.loads((folder / "done.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    there = any(folder.glob("adapter_model.safetensors")) or any(folder.glob("model*.safetensors"))
    return there and {name: done.get(name) for name in stamp} == stamp


def hash_together(files: list[Path]) -> str:
    """One hash of files, by their names and contents."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.name} {sha256_file(file)}\n".encode())
    return digest.hexdigest()
