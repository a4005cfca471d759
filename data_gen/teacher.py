"""Teachers behind the LM protocol: the scripted experts, their scripted leaf, or any endpoint.

A teacher is a root LM and a leaf LM; the executor does not know which kind it talks to.
"""

from __future__ import annotations

import contextlib
import random
import re
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace

from data_gen import experts
from data_gen.config import GenerateConfig, ModelConfig
from data_gen.expert import Style, program
from data_gen.purse import Purse, PurseMeter
from data_gen.tasks.lexicon import CATEGORIES
from rlm_executor import LM, CachedLM, Completion, Message, OpenAILM, Price, Sampling, ScriptedLM

_CATEGORY_OF = {thing: name for name, things in CATEGORIES.items() for thing in things}
_TRACEBACK = re.compile(r"^\w*(Error|Exception)\b", re.MULTILINE)
_OUTPUT = "REPL output:"
_SEEDS_APART = 1_000_003  # of a task's attempts: each has a style of its own


class ExpertLM(ScriptedLM):
    """The scripted experts as a root model; one object serves one run and those below it.

    Args:
        seed: draws the style.
        mistakes: probability that the run is a careless one.
        variety: 0 writes every run nearly alike, 1 as differently as it can.
        family: of the task; "": told from the question.
    """

    def __init__(
        self, seed: int, mistakes: float = 0.0, variety: float = 1.0, family: str = ""
    ) -> None:
        self._family = family
        self.style = Style.draw(random.Random(f"expert/{seed}"), mistakes)
        self._style = experts.Style(seed, variety, mistakes)
        super().__init__(self._turn, model="expert")

    def _turn(self, messages: list[Message]) -> str:
        at = next(
            index
            for index in reversed(range(len(messages)))
            if messages[index]["role"] == "user"
            and "\n\nContext:" in messages[index]["content"]
            and not messages[index]["content"].startswith(_OUTPUT)
        )
        question = messages[at]["content"].rsplit("\n\nContext:", 1)[0]
        told = messages[at + 1 :]
        seen = [
            one["content"].removeprefix(f"{_OUTPUT}\n") for one in told if one["role"] == "user"
        ]
        reply = experts.next_turn(question, seen, self._style, self._family)
        if reply is not None:
            return reply
        return self._program(question, [one["content"] for one in told[::2]], seen)

    def _program(self, question: str, said: list[str], seen: list[str]) -> str:
        turns = program(question, self.style)
        if self.style.mistake == "crash" and seen and _TRACEBACK.search(seen[-1]):
            # The error is read and its line repaired: from here the run is a careful one.
            turns = [*said, *program(question, replace(self.style, mistake=""))]
        return turns[min(len(said), len(turns) - 1)]


def scripted_leaf() -> LM:
    """A leaf that answers what the experts ask, for runs without a served model."""
    return ScriptedLM(lambda messages: leaf_reply(messages[-1]["content"]), model="scripted-leaf")


def leaf_reply(prompt: str) -> str:
    """What the experts' leaves say; else one label a line."""
    reply = experts.leaf(prompt)
    return label_lines(prompt) if reply is None else reply


def label_lines(prompt: str) -> str:
    """One label a line for a labelling prompt; ``unknown`` where no known thing is named."""
    _, _, body = prompt.partition("\n\n")
    return "\n".join(
        next((_CATEGORY_OF[w] for w in re.findall(r"\w+", line) if w in _CATEGORY_OF), "unknown")
        for line in body.splitlines()
    )


class Hinted:
    """A model that is told one thing more than what the run records.

    The hint stands at the end of each request's first user message, so a student that is trained
    on the run never misses it.
    """

    def __init__(self, inner: LM, hint: str) -> None:
        self.inner, self.hint = inner, hint

    @property
    def model(self) -> str:
        return self.inner.model

    async def chat(
        self, messages: list[Message], *, max_tokens: int, sampling: Sampling
    ) -> Completion:
        """One completion, with the hint; see ``LM.chat``."""
        first = next(i for i, one in enumerate(messages) if one["role"] == "user")
        hinted = {**messages[first], "content": f"{messages[first]['content']}\n\n{self.hint}"}
        return await self.inner.chat(
            [*messages[:first], hinted, *messages[first + 1 :]],
            max_tokens=max_tokens,
            sampling=sampling,
        )

    async def aclose(self) -> None:
        """The inner model is closed by whoever opened it."""


@dataclass(frozen=True)
class Models:
    """Who teaches: the endpoints that are open, or nobody where the script does it."""

    config: GenerateConfig
    root: OpenAILM | None
    leaf_endpoint: OpenAILM | None
    leaf: LM

    def teacher(self, index: int, seed: int, family: str) -> LM:
        """The root of attempt ``index``, at the task of ``seed``."""
        config = self.config
        turn = index % config.attempts
        if self.root is None:
            return ExpertLM(seed + _SEEDS_APART * turn, config.mistakes, config.variety, family)
        hint = config.hints[turn % len(config.hints)]
        # Sampled replies differ by themselves; greedy ones are the same for the same request.
        root: LM = CachedLM(self.root)
        return Hinted(root, hint) if hint else root

    @property
    def prices(self) -> dict[str, Price]:
        """By model."""
        own = (self.config.teacher, self.config.leaf)
        return {one.model: one.price for one in own if one.price is not None}

    def faults(self) -> dict[str, int]:
        """How often which fault came instead of a reply."""
        every: Counter[str] = Counter()
        for one in (self.root, self.leaf_endpoint):
            every.update(one.faults if one is not None else {})
        return dict(every.most_common())


@contextlib.asynccontextmanager
async def open_models(config: GenerateConfig, purse: Purse) -> AsyncIterator[Models]:
    """The models of a generation, closed at its end; ``purse`` pays for their requests.

    Raises:
        ConfigError: a key is not in the environment.
    """
    opened = [_open(one, config.concurrency, purse) for one in (config.teacher, config.leaf)]
    root, leaf = opened
    try:
        yield Models(config, root, leaf, scripted_leaf() if leaf is None else CachedLM(leaf))
    finally:
        for model in opened:
            if model is not None:
                await model.aclose()


def _open(config: ModelConfig, concurrency: int, purse: Purse) -> OpenAILM | None:
    if config.kind == "scripted":
        return None
    return OpenAILM(
        config.base_url,
        config.model,
        api_key=config.api_key(),
        concurrency=concurrency,
        timeout_s=config.timeout_s,
        retries=config.retries,
        meter=None if config.price is None else PurseMeter(purse, config.price),
    )
