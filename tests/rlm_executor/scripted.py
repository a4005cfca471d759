"""Scripted models and readable transcripts, for tests of the executor."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from rlm_executor import Completion, Message, RLMCard, Sampling, ScriptedLM, Usage

GREEDY = Sampling(temperature=0)


def says(*replies: str | Completion | Exception, model: str = "root") -> ScriptedLM:
    """A root that gives these replies in turn, whatever it is asked."""
    left = list(replies)

    def reply(_: list[Message]) -> str | Completion:
        said = left.pop(0)
        if isinstance(said, Exception):
            raise said
        return said

    return ScriptedLM(reply, model)


def echoes(change: Callable[[str], str] = str.upper) -> ScriptedLM:
    """A sub-model that answers with its prompt, changed."""
    return ScriptedLM(lambda messages: change(messages[-1]["content"]), "leaf")


def block(code: str, prose: str = "") -> str:
    """A reply with one block of code."""
    return f"{prose}\n```repl\n{code}\n```".lstrip("\n")


def finish(expression: str) -> str:
    """A reply that answers with the value of ``expression``."""
    return block(f'answer["content"] = {expression}\nanswer["ready"] = True')


def card(**limits: float) -> RLMCard:
    """The default card with some limits changed."""
    base = RLMCard()
    fields = {name: getattr(base.limits, name) for name in base.limits.__dataclass_fields__}
    return RLMCard(limits=fields | limits)


def transcript(messages: Sequence[Message]) -> str:
    """Every byte that a model is sent, in a form that people can read and compare."""
    return "".join(f"=== {m['role']}\n{m['content']}\n" for m in messages) + "=== end\n"


class Recorder:
    """Wraps a model and keeps the messages of each call."""

    def __init__(self, inner: ScriptedLM) -> None:
        self.inner, self.model = inner, inner.model
        self.asked: list[list[Message]] = []
        self.max_tokens: list[int] = []

    async def chat(
        self, messages: list[Message], *, max_tokens: int, sampling: Sampling
    ) -> Completion:
        self.asked.append([dict(message) for message in messages])
        self.max_tokens.append(max_tokens)
        return await self.inner.chat(messages, max_tokens=max_tokens, sampling=sampling)

    async def aclose(self) -> None:
        await self.inner.aclose()


def counted(text: str, prompt_tokens: int, completion_tokens: int) -> Completion:
    """A reply with the usage that a server would report."""
    return Completion(text, Usage(prompt_tokens, completion_tokens, calls=1))


GOLDEN = Path(__file__).parent.parent / "golden" / "executor"


def processes_below(first: int) -> list[int]:
    """``first`` and every process that it started, and those started; the dead left out."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if fields[0] != "Z":
                parents[int(entry.name)] = int(fields[1])
    found = [first]
    for process in found:
        found += [child for child, parent in parents.items() if parent == process]
    return [process for process in found if process in parents]
