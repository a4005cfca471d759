"""What one run may use (``Limits``), and what it has used (``Budget``).

One budget holds for the whole tree of calls: room is reserved before a request is sent, settled by
what it really took, and given back when it failed. Time runs from the start.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass as checked_dataclass

from rlm_executor.errors import BudgetExhausted
from rlm_executor.lm import LM, Usage

# Calls that fail are given back, but not for ever: a loop of them has to end too.
_ASKED_PER_CALL, _SPARE = 2, 100
_RUNS_AT_ONCE = 32  # below the top, of each depth


@checked_dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Limits:
    """What one run may use; at any of them it lands with what is known."""

    max_turns: int = Field(default=20, ge=1)  # root replies, without the landing turn
    max_calls: int = Field(default=1000, ge=0)  # sub-calls in the whole tree
    max_seconds: float = Field(default=1800, gt=0)  # wall clock, without the landing turn
    cell_timeout_s: float = Field(default=60, gt=0)  # one cell's own time, sub-calls not counted
    max_tokens_per_turn: int = Field(default=4096, ge=1)
    sub_max_tokens: int = Field(default=2048, ge=1)
    observation_chars: int = Field(default=8000, ge=100)  # shown of one turn's output
    max_depth: int = Field(default=1, ge=1)  # of runs in runs; at 1 rlm_query is a plain call
    max_tokens: int | None = Field(default=None, ge=1)  # read and written, in the whole tree
    max_dollars: float | None = Field(default=None, gt=0)  # in the whole tree; needs prices


@checked_dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Price:
    """Dollars for a million tokens."""

    prompt: float = Field(ge=0)
    completion: float = Field(ge=0)

    def of(self, usage: Usage) -> float:
        """Dollars for what was used."""
        return (
            usage.prompt_tokens * self.prompt + usage.completion_tokens * self.completion
        ) / 1_000_000


@dataclass(frozen=True)
class Need:
    """What a request may take at most."""

    calls: int = 0
    tokens: int = 0
    dollars: float = 0.0


class Tally:
    """What was used, here and in everything below; ``above`` hears of it too."""

    def __init__(self, above: Tally | None = None) -> None:
        self.usage = Usage()
        self.unknown = 0  # requests of which nobody knows what they used
        self._above = above

    def add(self, usage: Usage | None) -> None:
        """One request has ended; None: nobody knows what it used."""
        if usage is None:
            self.unknown += 1
        else:
            self.usage += usage
        if self._above is not None:
            self._above.add(usage)


class Budget:
    """Calls, tokens, dollars and seconds of one tree, shared by everything in it.

    Args:
        limits: of the run at the top.
        prices: by model; a model that is not there costs nothing.
    """

    def __init__(self, limits: Limits, prices: Mapping[str, Price] | None = None) -> None:
        self.limits, self.prices = limits, dict(prices or {})
        self.used_calls, self.used_tokens, self.used_dollars = 0, 0, 0.0
        self.refused = ""  # the limit that some request met: the runs have to land
        self._tokens_out, self._dollars_out = 0, 0.0  # reserved for what is on its way
        # Runs in runs at once, by depth: each has processes and descriptors of its own.
        self.running: defaultdict[int, asyncio.Semaphore] = defaultdict(
            lambda: asyncio.Semaphore(_RUNS_AT_ONCE)
        )
        self._asked_calls = 0  # those that failed and were given back among them
        self._deadline = time.monotonic() + limits.max_seconds

    def need(self, model: str, calls: int, prompt_tokens: int, reply_tokens: int) -> Need:
        """What ``calls`` requests take at most, of as many tokens together."""
        price = self.prices.get(model)
        usage = Usage(prompt_tokens, reply_tokens)
        return Need(calls, prompt_tokens + reply_tokens, price.of(usage) if price else 0.0)

    def stop(self, root: LM) -> str:
        """The limit that some request has met, "" if none: runs then have to land.

        Args:
            root: whose run asks; a replay goes by what is recorded of it.
        """
        return self.refused

    def reserve(self, need: Need, what: str = "") -> None:
        """Take room, all or none.

        Args:
            need: how much.
            what: the requests, told apart from all others of the tree: a replay goes by it.

        Raises:
            BudgetExhausted: there is not that much left.
        """
        limits = self.limits
        left = limits.max_calls - self.used_calls
        self._asked_calls += need.calls
        most = _ASKED_PER_CALL * limits.max_calls + _SPARE
        if self._asked_calls > most:
            self.refused = "max_calls"
            raise BudgetExhausted(
                f"more than {most} sub-calls were asked for, most of which failed; "
                "go on with what is there"
            )
        if need.calls > left:
            self.refused = "max_calls"
            raise BudgetExhausted(
                f"{need.calls} sub-call{'s' * (need.calls != 1)} asked for, "
                f"{left} of {limits.max_calls} left"
            )
        tokens = self.used_tokens + self._tokens_out + need.tokens
        if limits.max_tokens is not None and tokens > limits.max_tokens:
            self.refused = "max_tokens"
            raise BudgetExhausted(
                f"about {need.tokens} tokens asked for, "
                f"{max(0, limits.max_tokens - tokens + need.tokens)} of {limits.max_tokens} left"
            )
        dollars = self.used_dollars + self._dollars_out + need.dollars
        if limits.max_dollars is not None and dollars > limits.max_dollars:
            self.refused = "max_dollars"
            raise BudgetExhausted(
                f"up to ${need.dollars:.4f} asked for, "
                f"${max(0.0, limits.max_dollars - dollars + need.dollars):.4f} left"
            )
        self.used_calls += need.calls
        self._tokens_out += need.tokens
        self._dollars_out += need.dollars

    def settle(self, need: Need, model: str, usage: Usage | None) -> None:
        """A request that room was reserved for has ended.

        Args:
            need: what was reserved for it.
            model: who answered.
            usage: what it took; None: nobody knows, so all that was reserved counts.
        """
        self._tokens_out -= need.tokens
        self._dollars_out -= need.dollars
        if usage is None:
            self.used_tokens += need.tokens
            self.used_dollars += need.dollars
            return
        if not usage.calls:
            self.used_calls -= need.calls
        price = self.prices.get(model)
        self.used_tokens += usage.prompt_tokens + usage.completion_tokens
        self.used_dollars += price.of(usage) if price else 0.0

    def seconds_left(self, depth: int = 0) -> float:
        """Seconds until a run at ``depth`` has to land; never below 0."""
        return max(0.0, self._deadline - time.monotonic())

    def deadline(self, depth: int = 0) -> float:
        """The moment (monotonic) at which whatever runs then at ``depth`` has to stop."""
        return self._deadline

    def extend(self, seconds: float) -> None:
        """Give the landing turn its own time, counted from now."""
        self._deadline = time.monotonic() + seconds
