"""How a trained family is spoken to: every word a model sees from us is in a ``Dialect``.

A dialect is a value: prompts, fences, observation form, feedback, landing turn. It is saved whole
in the card (``card.py``) beside the weights, so a trained model keeps the words it was trained on.

The ``answer`` protocol: the question and the context's size go in one user message; the model
replies with prose and code in ```` ```repl ```` fences; one user message a turn brings the output;
the run ends when ``answer["ready"]`` is true and ``answer["content"]`` is not empty. Two forms of
it differ in the system prompt only: ``answer`` for models with room to read, ``answer-compact``
for tiny ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Literal

from rlm_executor.budget import Limits
from rlm_executor.config import Config
from rlm_executor.context import Metadata
from rlm_executor.lm import Message
from rlm_executor.parsing import Reply, parse_reply
from rlm_executor.sandbox.host import Cell


class Dialect(Config):
    """One way to speak to a root model. Texts with {names} are filled in by the methods."""

    kind: Literal["own"] = "own"
    name: str
    system: str  # the whole system message; never formatted, braces are safe
    fences: tuple[str, ...] = ("repl", "python", "py")  # info words of fences that are run
    extras: tuple[Literal["chunks", "rlm_query"], ...] = ()  # names beyond those of `rlms`
    metadata: str = "{question}\n\nContext: {type}, {chars} characters, {lines} lines."
    metadata_items: str = "{question}\n\nContext: {type} of {items} {of}, {chars} characters."
    metadata_named: str = "{question}\n\nContexts, also in the dict `context`:\n{parts}"
    metadata_part: str = "- `{name}`: {type}, {chars} characters"
    preview: str = ""  # how its beginning is told, if it is
    no_question: str = "Do what the context says. It begins: {preview}"
    progress: str = ""  # how the turns and sub-calls that are left are told, if they are
    recursion: str = (
        "\nAlso in the REPL: `rlm_query(prompt)` asks a model that works as you do, with the "
        "prompt as its context in a REPL of its own; `rlm_query_batched(prompts)` asks several. "
        "For parts that need work of many steps; llm_query is far cheaper.\n"
    )  # after the system message where runs may start runs
    observation: str = "REPL output:\n{output}"
    observation_mark: str = "REPL output:"  # a reply that writes this line itself invents output
    no_output: str = "(no output)"
    cut: str = "... [cut: {chars} characters in all]"
    no_code: str = (
        "There was no code to run in your reply. Write Python in a ```repl block; to finish, set "
        'answer["content"] and then answer["ready"] = True in it.'
    )
    unclosed: str = (
        "Your ```repl block was cut off before its closing fence, so it was not run. Write a "
        "shorter block and close it."
    )
    invented: str = (
        "(Only the REPL writes its output: the part of your reply after the output you made up "
        "was not run.)"
    )
    empty_answer: str = (
        '(answer["ready"] is set but answer["content"] is empty: set the content first.)'
    )
    not_a_dict: str = (
        '(answer must stay a dict: your value was moved to answer["content"], and '
        'answer["ready"] is False.)'
    )
    timed_out: str = (
        "TimeoutError: the cell was stopped after {seconds:g} s of running (sub-calls not "
        "counted); what it had assigned is kept"
    )
    died: str = (
        "The REPL process ended during this cell ({reason}). A new one is ready: context is "
        "there, but all other variables are gone."
    )
    restored: str = (
        "The REPL process ended during this cell ({reason}). A new one is ready, and your earlier "
        "cells were run again in it: their variables are there, what this cell made is not."
    )
    landing: str = (
        "Stop here: {reason}. No further output will be shown.\n\n{state}\n\n"
        "Give your best final answer now from what you know: either a last ```repl block that "
        'sets answer["content"], or the answer itself as plain text.'
    )
    landing_reasons: dict[str, str] = {
        "max_turns": "all turns are used",
        "max_calls": "all sub-calls are used",
        "max_tokens": "the tokens of this run are used up",
        "max_dollars": "the money for this run is used up",
        "timeout": "the time is used up",
        "root_window": "the conversation has grown too long",
    }

    @property
    def finish(self) -> str:
        """How code gives the answer (``Repl``'s argument)."""
        return "answer"

    @property
    def numbered(self) -> bool:
        """Whether the context is ``context_0`` too."""
        return False

    @property
    def runs_all(self) -> bool:
        """Whether a turn's other blocks run after one that failed or gave the answer."""
        return False

    @property
    def lands_with_code(self) -> bool:
        """Whether code of the landing turn is run."""
        return True

    def kept_chars(self, limits: Limits) -> int:
        """Characters of a cell's output that may be shown."""
        return limits.observation_chars

    def doubt(self, messages: list[Message], reply: Reply) -> list[Message]:
        """The conversation after an answer in ``reply``'s text was turned down."""
        return messages

    def parse(self, text: str, finish_reason: str) -> Reply:
        """A reply's code and what else it says."""
        return parse_reply(
            text,
            self.fences,
            finish_reason=finish_reason,
            observation_mark=self.observation_mark,
        )

    def ask(
        self, messages: list[Message], question: str, turn: int, limits: Limits
    ) -> tuple[list[Message], list[Message]]:
        """What is sent for ``turn`` (from 0), and what of it stays in the conversation."""
        return messages, messages

    def opening(
        self,
        question: str,
        context: Metadata,
        prelude: Sequence[Message] = (),
        *,
        deep: bool = False,
    ) -> list[Message]:
        """The messages before the first turn.

        Args:
            question: "" if it is asked in the context itself.
            context: what may be known of it.
            prelude: a worked example, if any.
            deep: whether runs may start runs.
        """
        question = question or self.no_question.format(preview=context.preview)
        facts = {field: getattr(context, field) for field in ("type", "chars", "lines", "items")}
        if context.parts:
            lines = (self.metadata_part.format(**asdict(part)) for part in context.parts)
            ask = self.metadata_named.format(question=question, parts="\n".join(lines))
        elif context.type == "str":
            ask = self.metadata.format(question=question, **facts)
        else:
            of = "/".join(context.of) or "files"
            ask = self.metadata_items.format(question=question, of=of, **facts)
        if self.preview and context.preview:
            ask += self.preview.format(preview=context.preview)
        return [
            {"role": "system", "content": self.system + (self.recursion if deep else "")},
            *prelude,
            {"role": "user", "content": ask},
        ]

    def observe(
        self,
        reply: Reply,
        cells: Sequence[Cell],
        limits: Limits,
        told: Mapping[str, int] | None = None,
    ) -> list[Message]:
        """What a turn did, as the model sees it: the output, cut, then notes.

        ``told`` is what it may be told of the budget: turn, max_turns, calls_left (no seconds: a
        replay has to send the same words).

        Of the output the head is kept and the true length told. The error comes last and is never
        pushed out by a flood before it: it is what the model has to react to.
        """
        if not cells:
            content = self.unclosed if reply.unclosed else self.no_code
            return [{"role": "user", "content": content + self._progress(told)}]
        last, max_chars = cells[-1], limits.observation_chars
        error = self.ending(last, limits) if last.status == "died" else last.error
        if last.status == "timeout":
            error += "\n" + self.ending(last, limits)
        if len(error) > max_chars // 2:
            error = error[: max_chars // 4] + "\n...\n" + error[-(max_chars // 4) :]
        output = "".join(cell.output for cell in cells)
        printed = sum(cell.output_chars for cell in cells)
        room = max_chars - len(error)
        shown = output.rstrip("\n")
        if printed > len(output) or len(shown) > room:
            shown = shown[:room] + "\n" + self.cut.format(chars=printed)
        notes = [
            (last.moved, self.not_a_dict),
            (last.ready and not last.answer.strip(), self.empty_answer),
            (reply.unclosed and last.status == "ok", self.unclosed),
            (reply.invented and last.status == "ok", self.invented),
        ]
        parts = [part for part in (shown, error) if part] or [self.no_output]
        text = self.observation.format(output="\n".join(parts))
        content = "\n".join([text, *(note for holds, note in notes if holds)])
        return [{"role": "user", "content": content + self._progress(told)}]

    def ending(self, cell: Cell, limits: Limits) -> str:
        """How a cell that was stopped or lost is told of; "" for others."""
        if cell.status == "timeout":
            return self.timed_out.format(seconds=limits.cell_timeout_s)
        if cell.status == "died":
            return (self.restored if cell.restored else self.died).format(reason=cell.error)
        return ""

    def _progress(self, told: Mapping[str, int] | None) -> str:
        return self.progress.format(**told) if self.progress and told else ""

    def land(self, messages: Sequence[Message], reason: str, state: str) -> list[Message]:
        """``messages`` with the landing text: why it ends, what the REPL holds, how to answer.

        It joins the last user message: strict chat templates refuse two in a row.
        """
        why = self.landing_reasons.get(reason, reason)
        landing = self.landing.format(reason=why, state=state)
        *before, last = messages
        if last["role"] != "user":
            return [*messages, {"role": "user", "content": landing}]
        return [*before, {"role": "user", "content": f"{last['content']}\n\n{landing}"}]


_ANSWER = """\
You answer a question about a context that may be far larger than what you can read. The context \
is not shown to you: it is a string in a Python REPL, which you use by writing code. Work in \
turns: each turn, think briefly, then write Python in a block like this:
```repl
print(len(context), context[:300])
```
The block is run, and its printed output is shown to you in the next message, cut if it is long. \
Variables, functions and imports stay for later blocks. Only what you print is shown.

In the REPL you have:
- `context`: the whole text, a str.
- `llm_query(prompt)`: asks a language model and returns its reply as a str. It sees the prompt \
and nothing else, so put the piece of text and the full instruction into it.
- `llm_query_batched(prompts)`: the same for a list of prompts at once, far faster than a loop; \
returns the replies in the same order.
- `SHOW_VARS()`: a str that lists the variables you have made.
- `answer`: the dict {"content": "", "ready": False} that ends the work.

How to work:
1. Look first: print a short piece of the context to see how it is built.
2. What code can decide (searching, counting, sorting, comparing) decide with code. What needs \
reading or judging (meaning, labels, summaries) give to llm_query in pieces, and combine the \
replies with code. Never judge a long text by its first lines.
3. Check what came back before you rely on it. Sub-calls can fail or reply in another form than \
you asked for; an error shows you the line to repair.
4. When you are sure, put the result into answer["content"] in the form that the question asks \
for, and then set answer["ready"] = True:
```repl
answer["content"] = result
answer["ready"] = True
```
Do not write output yourself: wait for the REPL's. Do not set ready before you have seen the \
result that you answer with.
"""

_COMPACT = """\
`context` is a long str in a Python REPL. Write code in ```repl blocks and read what it prints. \
llm_query_batched(prompts) asks a model. Finish with answer["content"] = result and \
answer["ready"] = True.
"""

DIALECTS: dict[str, Dialect] = {
    "answer": Dialect(
        name="answer",
        system=_ANSWER,
        preview="\nIt begins: {preview!r}",
        progress="\n\n(Turn {turn} of {max_turns}; sub-calls left: {calls_left}.)",
    ),
    "answer-compact": Dialect(name="answer-compact", system=_COMPACT),
}
