"""The ways of answering a task: the loop and the baselines, behind one method.

    outcome = await solver.solve(window, task, context_file)

* ``Direct``: one chat call, the context cut (head and tail) to what the model's window leaves.
* ``Loop``: the recursive loop of ``rlm_executor``; its root is a served model or the scripted
  expert, its sub-calls go to the shared leaf.
* ``Floor``: a guess without reading, or every pair.

All models are asked greedily. A model's mistakes are outcomes that get scored; a failure of the
server or of our own sandbox raises, also where the loop itself would have gone on without that
sub-call. Scoring, retries of tasks and files of results are not here.
"""

from __future__ import annotations

import asyncio
import json
import os
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from pydantic import ValidationError

from data_gen.tasks import Task, Window, floor_answer
from rlm_executor import (
    LM,
    RLM,
    Completion,
    Context,
    Limits,
    Message,
    RLMCard,
    Sampling,
    Usage,
)
from rlm_executor.errors import (
    BudgetExhausted,
    ConfigError,
    EnvironmentFault,
    LMError,
    PromptTooLong,
    ReplyCutOff,
    ReplyEmpty,
    RequestRefused,
    ServerUnavailable,
)

# Where the server cannot count tokens: no usual tokenizer needs more than a token for 2 bytes of
# English text, so a cut by this rule always fits.
CAUTIOUS_BYTES_PER_TOKEN = 2.0
MOST_BYTES_PER_TOKEN = 8  # no tokenizer has more on prose
GAP = "\n[...]\n"
NEAR_CHARS = 300  # a cut gives up at most this much to end at a line
# Faults of these kinds are the model's doing (or its harness's): they are scored, not retried.
OF_THE_MODEL = (PromptTooLong, ReplyCutOff, ReplyEmpty, BudgetExhausted)


@dataclass(frozen=True)
class Outcome:
    """An answer and what it took."""

    answer: str
    stop_reason: str
    answer_source: str = "text"
    turns: int = 0
    error_cells: int = 0
    root: Usage = field(default_factory=Usage)
    sub: Usage = field(default_factory=Usage)
    shown_share: float | None = None  # of the context's bytes, where the model read them itself
    prompt_bytes: int | None = None
    journal: str | None = None  # name of the journal below the evaluation's folder


class Solver(Protocol):
    """One arm."""

    async def solve(self, window: Window, task: Task, context: Path) -> Outcome:
        """Answer ``task`` about the text in ``context``.

        Raises:
            LMError: the server failed; nothing was measured.
            SandboxError: our own REPL failed; nothing was measured.
        """
        ...


def greedy(sampling: Sampling | None = None) -> Sampling:
    """The same chat template arguments, no randomness."""
    kwargs = sampling.chat_template_kwargs if sampling else {"enable_thinking": False}
    return Sampling(temperature=0, top_p=1, top_k=0, chat_template_kwargs=kwargs)


class Floor:
    """A guesser: a random valid choice, or every pair (seeded by the task)."""

    async def solve(self, window: Window, task: Task, context: Path) -> Outcome:
        return Outcome(floor_answer(window, task), "answered")


async def http_json(url: str, body: Any = None, timeout_s: float = 60) -> Any:
    """GET, or POST of ``body``: the parsed reply.

    Raises:
        RequestRefused: a 4xx status.
        ServerUnavailable: no answer, a 5xx status, or no JSON.
    """
    data = None if body is None else json.dumps(body).encode()
    # A proxy of the environment is for the world outside, not for this machine.
    local = urllib.parse.urlsplit(url).hostname in ("127.0.0.1", "localhost", "::1")
    opener = urllib.request.build_opener(*[urllib.request.ProxyHandler({})] * local)
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})

    def fetch() -> Any:
        try:
            with opener.open(request, timeout=timeout_s) as response:
                return json.load(response)
        except urllib.error.HTTPError as error:
            kind = RequestRefused if error.code < 500 else ServerUnavailable
            raise kind(f"{url}: HTTP {error.code}") from error
        except (OSError, ValueError) as error:
            raise ServerUnavailable(f"{url}: {type(error).__name__}: {error}") from error

    return await asyncio.to_thread(fetch)


class TokenCounter:
    """Counts the prompt tokens of a chat request with the server's own tokenizer.

    vLLM's ``/tokenize`` applies the chat template; where the endpoint has none, ``exact`` turns
    False and the cautious rule of 2 bytes a token is used.
    """

    def __init__(self, base_url: str | None, model: str) -> None:
        self.exact = base_url is not None
        self._url = (base_url or "").rstrip("/").removesuffix("/v1") + "/tokenize"
        self._model = model

    async def count(self, messages: list[Message]) -> int:
        """Tokens of the whole prompt."""
        if self.exact:
            body = {
                "model": self._model,
                "messages": messages,
                "add_generation_prompt": True,
                "chat_template_kwargs": {"enable_thinking": False},
            }
            try:
                return int((await http_json(self._url, body))["count"])
            except (RequestRefused, KeyError, TypeError):
                self.exact = False
        size = sum(len(message["content"].encode()) for message in messages)
        return int(size / CAUTIOUS_BYTES_PER_TOKEN) + 32 * len(messages)


class Direct:
    """The model reads the context itself, as much of it as fits."""

    def __init__(self, lm: LM, counter: TokenCounter, *, window: int, max_tokens: int) -> None:
        self.lm, self.counter, self.window, self.max_tokens = lm, counter, window, max_tokens
        self._keep: dict[str, int] = {}  # bytes shown of a window, by its id

    async def solve(self, window: Window, task: Task, context: Path) -> Outcome:
        # One cut for all questions about a window, so that the server reads their common
        # beginning once; the longest question decides.
        longest = max((other.question for other in window.tasks), key=len)
        keep = self._keep.get(window.id, context.stat().st_size)
        text, keep = await self.fit(longest, context, keep)
        self._keep[window.id] = keep
        if task.question != longest:  # most characters are not always most tokens
            text, _ = await self.fit(task.question, context, keep)
        message = prompt(text, task.question)
        details: dict[str, Any] = {
            "shown_share": min(1.0, len(text.encode()) / max(1, context.stat().st_size)),
            "prompt_bytes": len(message[0]["content"].encode()),
        }
        try:
            said = await self.lm.chat(message, max_tokens=self.max_tokens, sampling=greedy())
        except (ReplyCutOff, ReplyEmpty) as error:
            stop = "length" if isinstance(error, ReplyCutOff) else "empty"
            return Outcome("", stop, "none", turns=1, root=Usage(calls=1), **details)
        stop = "answered" if said.finish_reason == "stop" else said.finish_reason
        return Outcome(said.text, stop, turns=1, root=said.usage, **details)

    async def fit(self, question: str, context: Path, keep: int) -> tuple[str, int]:
        """The longest head and tail of the file, of at most ``keep`` bytes, that fit."""
        room = self.window - self.max_tokens
        keep = min(keep, room * MOST_BYTES_PER_TOKEN)
        while True:
            text = head_and_tail(context, keep)
            tokens = await self.counter.count(prompt(text, question))
            if tokens <= room:
                return text, keep
            if keep < 64:
                raise PromptTooLong(self.lm.model, tokens, room, "the question alone fills it")
            # Aimed a little low, so that one or two rounds are enough.
            keep = int(min(keep * room / tokens * 0.99, keep - 32))


def prompt(text: str, question: str) -> list[Message]:
    """The chat request of a direct arm, the form that ``direct-sft`` was trained on."""
    return [{"role": "user", "content": f"{text}\n\n{question}"}]


def head_and_tail(path: Path, keep: int) -> str:
    """All of a file of at most ``keep`` bytes, else its first and last halves of that many.

    Cut at a line end where one is near; only these bytes are read.
    """
    with path.open("rb") as file:
        if os.fstat(file.fileno()).st_size <= keep:
            return file.read().decode("utf-8", "ignore")
        head = file.read(keep // 2).decode("utf-8", "ignore")
        file.seek(-(keep - keep // 2), os.SEEK_END)
        tail = file.read().decode("utf-8", "ignore")
    last, first = head.rfind("\n"), tail.find("\n")
    head = head[:last] if len(head) - last < NEAR_CHARS else head
    tail = tail[first + 1 :] if first < NEAR_CHARS else tail
    return head + GAP + tail


class Watched:
    """A model seen by one run, which remembers whether the server failed that run.

    The loop may survive a failed sub-call and answer wrongly; such an answer was not measured.
    """

    def __init__(self, inner: LM) -> None:
        self.inner = inner
        self.fault: LMError | None = None

    @property
    def model(self) -> str:
        return self.inner.model

    async def chat(
        self, messages: list[Message], *, max_tokens: int, sampling: Sampling
    ) -> Completion:
        try:
            return await self.inner.chat(messages, max_tokens=max_tokens, sampling=sampling)
        except OF_THE_MODEL:
            raise
        except LMError as error:
            self.fault = self.fault or error
            raise

    async def aclose(self) -> None:
        return None  # shared with other runs; its owner closes it


class Metered:
    """A model that keeps the sum of what it was really asked (the shared cache is before it)."""

    def __init__(self, inner: LM) -> None:
        self.inner = inner
        self.usage = Usage()

    @property
    def model(self) -> str:
        return self.inner.model

    async def chat(
        self, messages: list[Message], *, max_tokens: int, sampling: Sampling
    ) -> Completion:
        completion = await self.inner.chat(messages, max_tokens=max_tokens, sampling=sampling)
        self.usage += completion.usage
        return completion

    async def aclose(self) -> None:
        await self.inner.aclose()


class Loop:
    """The recursive loop.

    Args:
        root: gives the root of one run: a served model, or a fresh scripted expert.
        leaf: answers the sub-calls of all runs.
        card: the harness; its sampling is made greedy here.
        limits: those of the card that differ for this arm, by name.
        journals: folder for the journals; one file a task.
        example: gives the worked example of a family, or nothing.
        isolation: what holds the code.
    """

    def __init__(
        self,
        root: Callable[[], LM],
        leaf: LM,
        card: RLMCard,
        *,
        limits: dict[str, float],
        journals: Path,
        example: Callable[[str], list[Message]] | None = None,
        isolation: str = "sealed",
    ) -> None:
        self.root, self.leaf, self.journals, self.example = root, leaf, journals, example
        self.isolation = isolation
        self.card = card.model_copy(
            update={
                "sampling": greedy(card.sampling),
                "sub_sampling": greedy(card.sub_sampling),
            }
        )
        self.limits = changed(card.limits, limits)

    async def solve(self, window: Window, task: Task, context: Path) -> Outcome:
        journal = self.journals / f"{task.id}.jsonl"
        root, leaf = Watched(self.root()), Watched(self.leaf)
        rlm = RLM(
            root,
            leaf,
            self.card,
            limits=self.limits,
            journal=journal,
            prelude=self.example(task.family) if self.example else None,
            task={"id": task.id, "family": task.family, "seed": task.meta.get("seed")},
            isolation=self.isolation,
        )
        result = await rlm.run(task.question, Context.from_file(context))
        fault = root.fault or leaf.fault
        if fault is not None:
            raise fault
        return Outcome(
            result.answer,
            result.stop_reason,
            result.answer_source,
            turns=result.turns,
            error_cells=result.error_cells,
            root=result.root,
            sub=result.sub,
            journal=f"{self.journals.name}/{journal.name}",
        )


def changed(limits: Limits, overrides: dict[str, float]) -> Limits:
    """``limits`` with some replaced by name.

    Raises:
        ConfigError: a name is unknown or a value out of bounds.
    """
    known = ", ".join(Limits.__dataclass_fields__)
    unknown = sorted(set(overrides) - set(Limits.__dataclass_fields__))
    if unknown:
        raise ConfigError("arms: limits", f"unknown {', '.join(unknown)}", f"known limits: {known}")
    try:
        return replace(limits, **overrides)  # type: ignore[arg-type]
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"]))
        raise ConfigError(
            f"arms: limits: {name}", f"has the value {first['input']}", first["msg"].lower()
        ) from error


def expert_root(seed: int) -> Callable[[], LM]:
    """A fresh scripted expert for each run, all in the style of ``seed``.

    One style for all: its leaf calls are then the same for all questions about a window.
    """
    try:
        from data_gen.teacher import ExpertLM
    except ImportError as error:  # a clone without the data stage
        raise EnvironmentFault(f"the expert arm needs data_gen.teacher ({error})") from error
    return partial(ExpertLM, seed=seed)
