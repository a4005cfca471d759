"""What a serving run is told: ``configs/serve/*.yaml``, one group for vLLM, one for the endpoint.

    config = load_config(ServeConfig, Path("configs/serve/tiny.yaml")).in_run(Path("runs/demo"))

In the file, adapters are folders of the run directory and the model is a folder of the
repository (or a name on the Hub); ``in_run`` makes paths of them.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator, model_validator

from rlm_executor.config import Config
from rlm_executor.sandbox.tiers import Isolation

REPOSITORY = Path(__file__).resolve().parent.parent
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*\Z")
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+\Z")


class EngineConfig(Config):
    """One vLLM server. Whatever is not here goes through ``extra_args``."""

    model: str = Field(description="folder of the base model, or its name on the Hub")
    base_name: str = Field(default="base", description="the name that the base is served under")
    adapters: dict[str, Path] = Field(
        default={}, description="served name -> LoRA folder; one that does not exist is left out"
    )
    host: str = "127.0.0.1"
    port: int | None = Field(default=None, ge=1, le=65535, description="None: any free one")
    dtype: Literal["native", "float32", "bfloat16", "float16"] = Field(
        default="native",
        description="native: bfloat16 where the machine multiplies it in hardware, else float32",
    )
    max_model_len: int = Field(default=4096, ge=256, description="window in tokens")
    max_num_seqs: int = Field(default=64, ge=1, description="sequences decoded together")
    enforce_eager: bool = Field(default=True, description="no compilation: starts sooner")
    thinking: bool = Field(default=False, description="Qwen3's, for requests that do not say")
    cpu_threads: int | None = Field(
        default=None, ge=1, description="None: all cores but one, 4 at most"
    )
    kv_cache_gib: float | None = Field(
        default=None, gt=0, description="memory for keys and values; None: vLLM decides"
    )
    offline: bool = Field(default=True, description="never ask the Hub")
    start_timeout_s: float = Field(default=300, gt=0)
    max_restarts: int = Field(default=3, ge=0, description="when it dies by itself")
    log: Path | None = Field(default=None, description="None: a temporary file")
    extra_args: list[str] = Field(default=[], description="more of vLLM's own flags")

    @field_validator("adapters")
    @classmethod
    def _plain_names(cls, adapters: dict[str, Path]) -> dict[str, Path]:
        for name in adapters:
            if not _NAME.match(name):
                raise ValueError(f"{name!r} can't be a served name: letters, digits and ._- only")
        return adapters

    @model_validator(mode="after")
    def _distinct_names(self) -> EngineConfig:
        if self.base_name in self.adapters:
            raise ValueError(f"the base and an adapter are both named {self.base_name!r}")
        return self

    @property
    def is_hub_name(self) -> bool:
        """Whether ``model`` can only be a name on the Hub."""
        return not Path(self.model).exists() and bool(_HUB_NAME.match(self.model))

    def in_run(self, run: Path) -> EngineConfig:
        """The same with adapters and log in the run directory, and the model as a path."""
        folder = REPOSITORY / self.model
        return self.model_copy(
            update={
                "model": str(folder) if folder.exists() else self.model,
                "adapters": {name: run / path for name, path in self.adapters.items()},
                "log": run / (self.log or Path("logs/vllm.log")),
            }
        )


class GatewayConfig(Config):
    """The OpenAI-compatible endpoint, and the loop behind one of its model names."""

    host: str = "127.0.0.1"
    port: int | None = Field(default=8000, ge=1, le=65535, description="None: any free one")
    model: str = Field(default="rlm", description="the name that runs the loop")
    root: str = Field(default="rlm", description="served name of the root model")
    card: Path = Field(default=Path("sft"), description="folder of rlm.json, in the run directory")
    max_running: int = Field(default=4, ge=1, description="loops at a time")
    max_waiting: int = Field(default=16, ge=0, description="more than these get a 429")
    max_body_mib: float = Field(default=80, gt=0, description="larger requests get a 413")
    max_question_chars: int = Field(
        default=8000, ge=1, description="a question goes into the root's window; a context doesn't"
    )
    lm_concurrency: int = Field(default=64, ge=1, description="calls in flight, all loops together")
    isolation: Isolation = Field(default="sealed", description="what holds the model's code")
    store: Literal["hashes", "full"] = Field(
        default="hashes", description="what is kept of a request: its hashes, or all of its text"
    )


class ServeConfig(Config):
    """``configs/serve/*.yaml``."""

    engine: EngineConfig
    gateway: GatewayConfig = GatewayConfig()

    @property
    def port(self) -> int | None:
        """The port that vLLM takes, if it is a fixed one."""
        return self.engine.port

    def in_run(self, run: Path) -> ServeConfig:
        """The same with all paths resolved for a run directory."""
        gateway = self.gateway.model_copy(update={"card": run / self.gateway.card})
        return self.model_copy(update={"engine": self.engine.in_run(run), "gateway": gateway})
