"""The dialect of models that were trained with the package ``rlms``: byte for byte its messages.

Two families: that of 0.1.3, which answers with the dict ``answer``, and that of 0.1.1, which
answers with FINAL and FINAL_VAR. The prompts come from the package itself (``rlms_texts``) and
stand in the card in full; what is here follows ``rlm/core/rlm.py``, ``rlm/utils/parsing.py`` and
``rlm/environments/local_repl.py`` of those versions. Where we differ on purpose is told, with the
reasons, in docs/rlms.md.

    RLMCard(dialect=RlmsDialect.of("0.1.3"), limits=Limits(max_turns=30))
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Literal

from rlm_executor.budget import Limits
from rlm_executor.context import Metadata
from rlm_executor.dialect import Dialect
from rlm_executor.lm import Message
from rlm_executor.parsing import Reply, parse_rlms
from rlm_executor.rlms_texts import VERSIONS, rlms_texts
from rlm_executor.sandbox.host import Cell

RLMS_DIALECTS = {f"rlms-{version}": version for version in VERSIONS}
_LENGTHS_TOLD = 100  # of a context's items
_OUR_FILE = re.compile(r"\(<cell \d+>(?=, line \d+\)$)")


class RlmsDialect(Dialect):
    """How ``rlms`` speaks to a root model; make it with ``of``."""

    kind: Literal["rlms"] = "rlms"  # type: ignore[assignment]
    version: str
    protocol: Literal["answer", "final"]  # the dict; the functions and the text
    fences: tuple[str, ...] = ("repl",)
    metadata_role: str = "user"
    metadata_bare: str  # without a question
    turn_role: str = "user"
    first: str
    first_bare: str
    later: str
    later_bare: str
    landing_role: str = "assistant"
    block_chars: int = 20_000  # of one block's output; ``rlms`` has no limit for a turn
    # What `rlms` has no words for, because it goes another way there.
    empty_answer: str = '(answer["content"] is still empty: set it, and ready again.)'
    doubtful: str = (
        "(That answer came with code whose output you had not seen. If it holds after the output "
        "above, give it again.)"
    )
    unknown: str = "({asked} gives no answer: {error})"

    @classmethod
    def of(cls, version: str) -> RlmsDialect:
        """The dialect of a version of ``rlms``; its texts are fetched if they are not cached.

        Raises:
            InputError: no such version.
            EnvironmentFault: its texts can't be had.
        """
        texts = rlms_texts(version)
        return cls(
            name=f"rlms-{version}",
            version=version,
            protocol="final" if version == "0.1.1" else "answer",
            system=texts.system,
            metadata_role=texts.metadata_role,
            metadata=texts.metadata,
            metadata_bare=texts.metadata_bare,
            turn_role=texts.turn_role,
            first=texts.first,
            first_bare=texts.first_bare,
            later=texts.later,
            later_bare=texts.later_bare,
            landing_role=texts.landing_role,
            landing=texts.landing,
        )

    @property
    def finish(self) -> str:
        return self.protocol

    @property
    def numbered(self) -> bool:
        return True

    @property
    def runs_all(self) -> bool:
        return True

    @property
    def lands_with_code(self) -> bool:
        return False

    def kept_chars(self, limits: Limits) -> int:
        return self.block_chars

    def parse(self, text: str, finish_reason: str) -> Reply:
        return parse_rlms(text, finals=self.protocol == "final")

    def opening(
        self,
        question: str,
        context: Metadata,
        prelude: Sequence[Message] = (),
        *,
        deep: bool = False,
    ) -> list[Message]:
        told = (self.metadata if question else self.metadata_bare).format(
            question=question, type=context.type, chars=context.chars, lengths=_lengths(context)
        )
        return [
            {"role": "system", "content": self.system},
            *prelude,
            {"role": self.metadata_role, "content": told},
        ]

    def ask(
        self, messages: list[Message], question: str, turn: int, limits: Limits
    ) -> tuple[list[Message], list[Message]]:
        """The "answer" family keeps each turn's prompt; "final" sees only that of now."""
        asked, bare = (self.later, self.later_bare) if turn else (self.first, self.first_bare)
        prompt = (asked if question else bare).format(
            question=question, turn=turn + 1, turns=limits.max_turns
        )
        sent = [*messages, {"role": self.turn_role, "content": prompt}]
        return sent, sent if self.protocol == "answer" else messages

    def observe(
        self,
        reply: Reply,
        cells: Sequence[Cell],
        limits: Limits,
        told: Mapping[str, int] | None = None,
    ) -> list[Message]:
        """Each block's output, errors and variables: in one message, or in one a block.

        Where there was no code, nothing is said. Cells beyond the blocks are what FINAL_VAR in
        the text has looked for in vain.
        """
        ran = list(zip(reply.blocks, cells, strict=False))
        results = [(code, self._result(cell, limits)) for code, cell in ran]
        messages: list[Message] = []
        if self.protocol == "final":
            for code, result in results:
                content = f"Code executed:\n```python\n{code}\n```\n\nREPL output:\n{result}"
                messages.append({"role": "user", "content": content})
        elif results:
            headers = [f"REPL output (block {number}):" for number in range(1, len(results) + 1)]
            headers = headers if len(results) > 1 else ["REPL output:"]
            parts = [
                f"{header}\n{result}" for header, (_, result) in zip(headers, results, strict=True)
            ]
            if cells[-1].ready and not cells[-1].answer.strip():
                parts.append(self.empty_answer)
            messages.append({"role": "user", "content": "\n\n".join(parts)})
        for cell in cells[len(ran) :]:
            error = cell.raised or cell.output.strip()
            content = self.unknown.format(asked=reply.final, error=error)
            messages.append({"role": "user", "content": content})
        return messages

    def doubt(self, messages: list[Message], reply: Reply) -> list[Message]:
        """Ask once more; a variable that is not there was told of by ``observe``."""
        if reply.final_name and reply.final_name != reply.final:
            return messages
        return [*messages, {"role": "user", "content": self.doubtful}]

    def land(self, messages: Sequence[Message], reason: str, state: str) -> list[Message]:
        """As ``rlms`` does when no turn is left; its message tells neither reason nor state."""
        return [*messages, {"role": self.landing_role, "content": self.landing}]

    def _result(self, cell: Cell, limits: Limits) -> str:
        """One block's result, its head if it is long, and how much there was beyond."""
        error = self.ending(cell, limits) or _OUR_FILE.sub("(<string>", cell.raised)
        parts = [f"\n{cell.output}"] if cell.output else []
        parts += [f"\n\n{error}"] if error else []
        parts += [f"REPL variables: {list(cell.names)}\n"] if cell.names else []
        result = "\n\n".join(parts) if parts else "No output"
        total = len(result) + cell.output_chars - len(cell.output)  # not all of it is here
        if total <= self.block_chars:
            return result
        return f"{result[: self.block_chars]}... + [{total - self.block_chars} chars...]"


def _lengths(context: Metadata) -> str:
    """The characters of each item, as ``rlms`` tells them."""
    if context.type == "str":
        return str([context.chars])
    if not context.items:
        return str([0] if context.type == "list" else [])
    lengths = str(list(context.lengths[:_LENGTHS_TOLD]))
    more = context.items - _LENGTHS_TOLD
    return f"{lengths}... [{more} others]" if more > 0 else lengths
