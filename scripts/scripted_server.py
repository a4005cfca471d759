"""A model server that says what it is told to, for benchmarks: `python -m scripts.scripted_server`.

Speaks as much of /v1/chat/completions as clients need and costs little, so that what is measured
is the client. Prints its port. The model's name tells what it says and when:

    root-TURNS-DELAY-RUN   code that looks at the context, TURNS times, then the answer
    dspy-TURNS-DELAY-RUN   the same in the form of dspy's ChatAdapter
    leaf-DELAY             a short text

DELAY is in milliseconds; RUN is anything, each run its own, because turns are counted by name.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from typing import Any

LOOK = "n = len(context)\nprint(n, context[-40:])"
OWN = f"Looking.\n```repl\n{LOOK}\n```"
DSPY = (
    "[[ ## reasoning ## ]]\nLooking.\n\n[[ ## code ## ]]\n```python\n{code}\n```\n\n"
    "[[ ## completed ## ]]"
)
ANSWER = "```repl\nanswer['content'] = str(n)\nanswer['ready'] = True\n```"
SUBMIT = "SUBMIT(str(n))"


class Connection(asyncio.Protocol):
    """One client's connection; requests come one after the other."""

    turns: Counter[str] = Counter()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: Any = transport
        self._buffer = bytearray()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            head = bytes(self._buffer[:end]).lower()
            size = int(head.partition(b"content-length:")[2].partition(b"\r\n")[0] or b"0")
            if len(self._buffer) < end + 4 + size:
                return
            body = bytes(self._buffer[end + 4 : end + 4 + size])
            del self._buffer[: end + 4 + size]
            delay, reply = self.reply(json.loads(body)["model"]) if size else (0.0, b"{}")
            asyncio.get_running_loop().call_later(delay, self.send, reply)

    def send(self, body: bytes) -> None:
        """A reply, if the client still waits for it."""
        if not self._transport.is_closing():
            head = (
                f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(body)}"
            )
            self._transport.write(f"{head}\r\n\r\n".encode() + body)

    def reply(self, model: str) -> tuple[float, bytes]:
        """Seconds to wait, and the whole body."""
        kind, *numbers = model.split("-")
        text = "four"
        if kind in ("root", "dspy"):
            self.turns[model] += 1
            last = self.turns[model] >= int(numbers.pop(0))
            if kind == "root":
                text = ANSWER if last else OWN
            else:
                text = DSPY.format(code=SUBMIT if last else LOOK)
        body = {
            "id": "x",
            "object": "chat.completion",
            "created": 0,
            "model": model,
            "choices": [
                {
                    "index": 0,
                    "message": {"role": "assistant", "content": text},
                    "finish_reason": "stop",
                }
            ],
            "usage": {"prompt_tokens": 9, "completion_tokens": 9, "total_tokens": 18},
        }
        return int(numbers[0]) / 1000, json.dumps(body).encode()


async def main() -> None:
    """Serve until the end."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Connection, "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
