"""The RLM card, ``rlm.json``: the harness that travels with the weights.

Data generation writes it into the dataset, training copies it beside the weights, serving and
evaluation read it; so a model is always met with the words and limits it was trained on.

    card = RLMCard.load(Path("runs/demo/sft"))
    card.save(Path("runs/demo/sft"))
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

from pydantic import Discriminator, Field, Tag, ValidationError, field_validator

from rlm_executor.budget import Limits
from rlm_executor.config import Config
from rlm_executor.dialect import DIALECTS, Dialect
from rlm_executor.errors import InputError
from rlm_executor.files import write_text_atomic
from rlm_executor.lm import Sampling
from rlm_executor.rlms_dialect import RLMS_DIALECTS, RlmsDialect

CARD_NAME = "rlm.json"


def _no_thinking() -> Sampling:
    return Sampling(chat_template_kwargs={"enable_thinking": False})


def _kind(value: Any) -> str:
    kind = value.get("kind", "own") if isinstance(value, dict) else getattr(value, "kind", "own")
    return str(kind)  # cards from before there were kinds have none


AnyDialect = Annotated[
    Annotated[Dialect, Tag("own")] | Annotated[RlmsDialect, Tag("rlms")], Discriminator(_kind)
]


class RLMCard(Config):
    """Dialect with its full text, sampling, limits, windows, and who answers sub-calls."""

    # In YAML a name will do, `dialect: answer-compact`, or one that is like another but for some
    # fields: `dialect: {like: answer-compact, extras: [rlm_query]}`.
    dialect: AnyDialect = DIALECTS["answer"]
    sampling: Sampling = Field(default_factory=_no_thinking)
    sub_sampling: Sampling = Field(default_factory=_no_thinking)
    limits: Limits = Limits()
    root_window: int = Field(default=32768, ge=256)  # tokens, prompt and reply together
    sub_window: int = Field(default=32768, ge=256)
    sub_model: str = "base"  # "base" | "self" | a served model's name
    # Of the chat template that the weights were trained under; training writes it.
    chat_template_sha256: str | None = None

    @field_validator("dialect", mode="before")
    @classmethod
    def _by_name(cls, value: Any) -> Any:
        if isinstance(value, dict) and "like" in value:
            changes = {key: field for key, field in value.items() if key != "like"}
            like = cls._by_name(value["like"])
            return {**like.model_dump(), **changes}
        if not isinstance(value, str):
            return value
        if value in RLMS_DIALECTS:
            return RlmsDialect.of(RLMS_DIALECTS[value])
        if value not in DIALECTS:
            known = ", ".join([*DIALECTS, *RLMS_DIALECTS])
            raise ValueError(f"unknown dialect {value!r}; known: {known}")
        return DIALECTS[value]

    @classmethod
    def load(cls, path: Path) -> RLMCard:
        """Read a card from its folder or file.

        Raises:
            InputError: it is missing or damaged.
        """
        file = path / CARD_NAME if path.is_dir() else path
        try:
            return cls.model_validate_json(file.read_bytes())
        except OSError as error:
            raise InputError(
                f"no RLM card at {file} ({error.strerror}); data generation and training write it"
            ) from error
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise InputError(f"{file} is not an RLM card: {where}: {first['msg']}") from error

    def save(self, folder: Path) -> Path:
        """Write ``rlm.json`` into ``folder``."""
        path = folder / CARD_NAME
        write_text_atomic(path, self.model_dump_json(indent=2) + "\n")
        return path


def chat_template(folder: Path) -> str | None:
    """The chat template of a model folder, found as transformers and vLLM find it.

    None where the folder has none, or is none.
    """
    try:
        return (folder / "chat_template.jinja").read_text(encoding="utf-8")
    except OSError:
        pass
    try:
        found = json.loads((folder / "tokenizer_config.json").read_bytes())["chat_template"]
    except (OSError, ValueError, KeyError):
        return None
    return found if isinstance(found, str) else None
