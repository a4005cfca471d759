"""Every error a caller of this project can meet, drawn as one tree.

    RLMError                    base: one line that says what came, what was expected, what to do
    ├── ConfigError             a setting is wrong: names the field and the fix
    ├── InputError              a file, context or argument is wrong
    ├── EnvironmentFault        something on the machine is missing or taken (package, port, disk)
    ├── SandboxError            the REPL process died or could not start (never shown to the model)
    ├── ReplayDiverged          a journal replayed to another state than it records
    ├── RecordEnds              a journal has no more of its run, which was killed
    └── LMError                 a language model call did not give a usable reply
        ├── PromptTooLong       the prompt does not fit the window; carries both numbers
        ├── ReplyCutOff         max_tokens ended the reply before it was complete
        ├── ReplyEmpty          nothing was left of the reply after thinking
        ├── RequestRefused      the server said no (4xx other than 408/429)
        ├── BudgetExhausted     the tree's budget has no room for this call
        ├── SpendingStopped     the meter that several runs share has no room for this request
        ├── RunFailed           a run in a run ended without an answer
        └── ServerUnavailable   no answer after the retries
    CallCancelled               a CancelledError that tells what its call had used

Commands catch ``RLMError``, print its one line and leave with exit code 2 (``rlm_executor.cli``).
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rlm_executor.lm import Usage


class RLMError(Exception):
    """Base of all errors raised on purpose by this project."""


class ConfigError(RLMError):
    """A configuration value is wrong.

    Args:
        field: dotted name of the field, with its file if known.
        problem: what came and what was expected.
        fix: what to do about it.
    """

    def __init__(self, field: str, problem: str, fix: str) -> None:
        self.field, self.problem, self.fix = field, problem, fix
        super().__init__(f"{field}: {problem}; {fix}")


class InputError(RLMError):
    """A file, context or argument given by the caller is wrong."""


class EnvironmentFault(RLMError):
    """Something on this machine is missing or taken: a package, a port, disk space."""


class SandboxError(RLMError):
    """The REPL process died or could not start; our fault, never the model's."""


class ReplayDiverged(RLMError):
    """Replaying a journal led to another prompt, output or answer than it records."""


class RecordEnds(RLMError):
    """A journal has no more of a run that was killed; nothing is wrong."""


class LMError(RLMError):
    """A language model call did not give a usable reply.

    ``usage_unknown``: the server may have worked on it, nobody knows how much.
    """

    usage_unknown = False


class PromptTooLong(LMError):
    """The prompt does not fit the model's window."""

    def __init__(
        self, model: str, tokens: int | None, window: int | None, detail: str = ""
    ) -> None:
        self.tokens, self.window = tokens, window
        over = f" by {tokens - window} tokens" if tokens and window and tokens > window else ""
        super().__init__(
            f"prompt for {model} is over its window of {window or '?'} tokens{over}; "
            f"send a shorter piece{': ' + detail if detail else ''}"
        )


class ReplyCutOff(LMError):
    """The reply was ended by max_tokens."""


class ReplyEmpty(LMError):
    """The reply holds no text once thinking is taken away."""


class RequestRefused(LMError):
    """The server refused the request; trying again would not help."""


class BudgetExhausted(LMError):
    """The budget of the whole tree has no room for this call."""


class SpendingStopped(LMError):
    """What several runs may spend together is spent."""


class RunFailed(LMError):
    """A run that was started by a run ended without an answer."""


class ServerUnavailable(LMError):
    """No answer from the server after all retries."""


class CallCancelled(asyncio.CancelledError):
    """A call was cancelled; ``usage`` is what it had used by then, None if nobody knows.

    It travels as the ``__cause__`` of the CancelledError that goes on, for ``asyncio.timeout`` and
    ``TaskGroup`` (Python 3.11) know only that very class: a subclass passes through both of them
    as if somebody else had cancelled. So ask ``CallCancelled.of(error)``, never ``isinstance``.
    """

    def __init__(self, usage: Usage | None) -> None:
        super().__init__()
        self.usage = usage

    @classmethod
    def of(cls, error: BaseException) -> CallCancelled | None:
        """What a CancelledError, or the TimeoutError made of it, tells of its call."""
        told: BaseException | None = error
        while told is not None and not isinstance(told, cls):
            told = told.__cause__
        return told
