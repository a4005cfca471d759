"""Teachers behind the LM protocol: the scripted expert, its scripted leaf, or any endpoint.

A teacher is a root LM and a leaf LM; the executor does not know which kind it talks to.
"""

from __future__ import annotations

import random
import re
from dataclasses import replace
from typing import Literal

from data_gen.expert import Style, program
from data_gen.tasks.lexicon import CATEGORIES
from rlm_executor import LM, CachedLM, Message, OpenAILM, ScriptedLM
from rlm_executor.config import Config

_CATEGORY_OF = {thing: name for name, things in CATEGORIES.items() for thing in things}
_TRACEBACK = re.compile(r"^\w*(Error|Exception)\b", re.MULTILINE)


class ModelConfig(Config):
    """Who answers: ``scripted``, or an OpenAI-compatible ``endpoint`` with a model name."""

    kind: Literal["scripted", "endpoint"] = "scripted"
    base_url: str = ""
    model: str = ""


class ExpertLM(ScriptedLM):
    """The scripted expert as a root model; one object serves one run.

    Args:
        seed: draws the style.
        mistakes: probability that the run is a careless one.
    """

    def __init__(self, seed: int, mistakes: float = 0.0) -> None:
        rng = random.Random(f"expert/{seed}")
        self.style = Style.draw(rng, mistakes)
        super().__init__(self._turn, model="expert")
        self._said: list[str] = []

    def _turn(self, messages: list[Message]) -> str:
        question = next(
            m["content"].rsplit("\n\nContext:", 1)[0]
            for m in reversed(messages)
            if m["role"] == "user" and "\n\nContext:" in m["content"]
        )
        turns = program(question, self.style)
        index = len(self._said)
        if self.style.mistake == "crash" and _TRACEBACK.search(messages[-1]["content"]):
            # The error is read and its line repaired: from here the run is a careful one.
            careful = replace(self.style, mistake="")
            turns = [*self._said, *program(question, careful)]
        reply = turns[min(index, len(turns) - 1)]
        self._said.append(reply)
        return reply


def scripted_leaf() -> LM:
    """A leaf that labels lines from the lexicon, for runs without a served model."""
    return ScriptedLM(lambda messages: label_lines(messages[-1]["content"]), model="scripted-leaf")


def label_lines(prompt: str) -> str:
    """One label a line for a labelling prompt; ``unknown`` where no known thing is named."""
    _, _, body = prompt.partition("\n\n")
    return "\n".join(
        next((_CATEGORY_OF[w] for w in re.findall(r"\w+", line) if w in _CATEGORY_OF), "unknown")
        for line in body.splitlines()
    )


def open_model(config: ModelConfig, concurrency: int) -> LM:
    """The LM of an endpoint; greedy repeats are sent once."""
    return CachedLM(OpenAILM(config.base_url, config.model, concurrency=concurrency))
