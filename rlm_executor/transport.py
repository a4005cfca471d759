"""One POST to a model server, tried again while that helps.

On ``aiohttp``: through the ``openai`` client a call cost three milliseconds of the one core that
all runs of a process share, here it is half of one (``scripts/bench_executor.py``).
"""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from rlm_executor.pacing import Attempts, Pace

if TYPE_CHECKING:
    import aiohttp

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 8.0  # between attempts, doubled each time
_LONGEST_ASKED_S = 60.0  # that a server may ask us to wait
_TOO_MUCH = (429, 503)
_WORTH_ANOTHER = (408, 409, 429)  # and all from 500
ReadT = TypeVar("ReadT")


class Refused(Exception):
    """The server said no, with a status; ``detail`` in its own words."""

    def __init__(self, status: int, detail: str, retry_after: str | None = None) -> None:
        super().__init__(f"HTTP {status}: {detail}")
        self.status, self.detail, self.retry_after = status, detail, retry_after
        self.kind = f"HTTP {status}"

    @property
    def passes(self) -> bool:
        """Whether another attempt may help."""
        return self.status in _WORTH_ANOTHER or self.status >= 500


class NoAnswer(Exception):
    """None came, or not a whole one; the text says why, ``kind`` in a word or two."""

    def __init__(self, why: str, kind: str = "connection lost") -> None:
        super().__init__(why)
        self.kind = kind


class Transport:
    """Connections of one event loop to one server.

    Args:
        base_url: its address, to know whether a proxy stands before it.
        api_key: sent as a bearer token.
        timeout_s: for one attempt, from sending to the last byte.
        retries: attempts after the first one.
        pace: is told when the server says that it is asked too much.
        faults: counts the attempts that failed, by what came: "HTTP 429", "no connection" ...
    """

    def __init__(
        self,
        base_url: str,
        api_key: str,
        timeout_s: float,
        retries: int,
        pace: Pace,
        faults: Counter[str],
    ) -> None:
        import aiohttp

        self.pace, self._faults = pace, faults
        self._timeout_s, self._retries = timeout_s, retries
        self._session = aiohttp.ClientSession(
            # ``pace`` is what limits. uvicorn (vLLM's) closes what is idle for 5 s: a request on a
            # connection that is closed just then would be lost, and counted as perhaps worked on.
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=4),
            headers={"authorization": f"Bearer {api_key}", "content-type": "application/json"},
            timeout=aiohttp.ClientTimeout(total=None),
            proxy=_proxy_to(base_url),
        )

    async def post(
        self,
        url: str,
        body: dict[str, Any],
        read: Callable[[aiohttp.ClientResponse], Awaitable[ReadT]],
        attempts: Attempts,
        *,
        retries: int | None = None,
    ) -> ReadT:
        """Send ``body``; what ``read`` makes of the response.

        Args:
            url: where to.
            body: JSON.
            read: raises ``Refused`` or ``NoAnswer`` for what is no reply after all.
            attempts: is told of each.
            retries: another number of them.

        Raises:
            Refused, NoAnswer: of the last attempt.
        """
        data = json.dumps(body, ensure_ascii=False).encode("utf-8", "replace")
        left = self._retries if retries is None else retries
        pause = _FIRST_PAUSE_S
        while True:
            try:
                return await self._attempt(url, data, read, attempts)
            except (Refused, NoAnswer) as fault:
                self._faults[fault.kind] += 1
                if not left or (isinstance(fault, Refused) and not fault.passes):
                    raise
                asked = fault.retry_after if isinstance(fault, Refused) else None
                await asyncio.sleep(_seconds(asked, pause * random.uniform(0.75, 1)))
            left, pause = left - 1, min(2 * pause, _LONGEST_PAUSE_S)

    async def close(self) -> None:
        """Give the connections back."""
        await self._session.close()

    async def _attempt(
        self,
        url: str,
        data: bytes,
        read: Callable[[aiohttp.ClientResponse], Awaitable[ReadT]],
        attempts: Attempts,
    ) -> ReadT:
        import aiohttp

        attempts.sent()
        try:
            async with (
                asyncio.timeout(self._timeout_s),
                self._session.post(url, data=data) as response,
            ):
                if response.status < 400:
                    return await read(response)
                detail = _message_of(await response.text(errors="replace"))
                raise Refused(response.status, detail, response.headers.get("retry-after"))
        except Refused as refused:
            if refused.status in _TOO_MUCH:
                self.pace.refused()
            # A 5xx (a proxy's 502 to 504, too) can come after the model had begun.
            attempts.ended(known=refused.status < 500)
            raise
        except NoAnswer:
            attempts.ended(known=False)
            raise
        except (aiohttp.ClientConnectorError, aiohttp.InvalidURL) as error:
            attempts.ended(known=True)  # nothing was sent
            raise NoAnswer(f"{type(error).__name__}: {error}", "no connection") from error
        except TimeoutError as error:
            attempts.ended(known=False)
            raise NoAnswer(f"not whole after {self._timeout_s:g} s", "timeout") from error
        except aiohttp.ClientPayloadError as error:
            attempts.ended(known=False)
            raise NoAnswer(f"the reply broke off: {error}") from error
        except (aiohttp.ClientError, OSError) as error:
            attempts.ended(known=False)
            raise NoAnswer(f"{type(error).__name__}: {error}") from error


def _proxy_to(url: str) -> str | None:
    """What HTTP_PROXY, NO_PROXY and the like say. (aiohttp would ask again for every request.)"""
    parts = urlsplit(url)
    if not parts.hostname or proxy_bypass(parts.hostname):
        return None
    return getproxies().get(parts.scheme)


def _seconds(asked: str | None, pause: float) -> float:
    """How long to wait: what the server asks for, in seconds or as a date, else ``pause``."""
    if asked is None:
        return pause
    try:
        seconds = float(asked)
    except ValueError:
        try:
            until = parsedate_to_datetime(asked)
        except ValueError:
            return pause
        seconds = until.timestamp() - datetime.now(UTC).timestamp()
    return seconds if 0 <= seconds <= _LONGEST_ASKED_S else pause


def _message_of(text: str) -> str:
    """What an error's body says."""
    try:
        body = json.loads(text)
    except ValueError:
        return text[:1000]
    inner = body.get("error", body) if isinstance(body, dict) else body
    if isinstance(inner, dict):
        return str(inner.get("message", inner))[:1000]
    return str(inner)[:1000]
