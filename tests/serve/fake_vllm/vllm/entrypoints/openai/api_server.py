"""What ``python -m vllm.entrypoints.openai.api_server`` looks like from outside, in milliseconds.

FAKE_VLLM says what goes wrong: "" nothing; "silent" it never listens; "fails" it dies at once with
a log like vLLM's; "stubborn" it and a child of its own ignore SIGTERM; "sick" /health says 503
from the second look on.
Its process ids go to FAKE_VLLM_PIDS, one a line, as they start.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

FAILURE = """\
(EngineCore pid=7) ERROR 11-22 17:05:09 [core.py:1335] EngineCore failed to start.
(EngineCore pid=7) ERROR 11-22 17:05:09 [core.py:1335] Traceback (most recent call last):
(EngineCore pid=7) ERROR 11-22 17:05:09 [core.py:1335]   File "x.py", line 1, in y
(EngineCore pid=7) ERROR 11-22 17:05:09 [core.py:1335] ValueError: no room for the KV cache memory
(APIServer pid=6) Traceback (most recent call last):
(APIServer pid=6) RuntimeError: Engine core initialization failed. See root cause above.
"""
MODE = os.environ.get("FAKE_VLLM", "")
CHILD = "import signal,time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"


class Handler(BaseHTTPRequestHandler):
    """Health, models, and a chat that says which model was asked."""

    looks = 0

    def do_GET(self) -> None:
        if self.path == "/health":
            Handler.looks += 1
            self.send_response(503 if MODE == "sick" and Handler.looks > 1 else 200)
            self.end_headers()
        else:
            self.reply({"object": "list", "data": [{"id": name} for name in self.server.names]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        said = f"{body['model']} was asked"
        choice = {"index": 0, "finish_reason": "stop", "message": {"content": said}}
        usage = {"prompt_tokens": 3, "completion_tokens": 2}
        self.reply({"object": "chat.completion", "choices": [choice], "usage": usage})

    def reply(self, value: dict) -> None:
        data = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


def note_pid(pid: int) -> None:
    if path := os.environ.get("FAKE_VLLM_PIDS"):
        with open(path, "a") as file:
            file.write(f"{pid}\n")


def main() -> None:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--host")
    parser.add_argument("--port", type=int)
    parser.add_argument("--served-model-name")
    parser.add_argument("--lora-modules", nargs="*", default=[])
    arguments, _ = parser.parse_known_args()
    note_pid(os.getpid())
    print("Starting to load model", flush=True)
    if MODE == "fails":
        sys.exit(FAILURE)
    if MODE == "silent":
        time.sleep(600)
    if MODE == "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        # In a process group of its own, like nothing that vLLM does today.
        child = subprocess.Popen([sys.executable, "-c", CHILD], process_group=0)
        note_pid(child.pid)
    server = ThreadingHTTPServer((arguments.host, arguments.port), Handler)
    adapters = [module.partition("=")[0] for module in arguments.lora_modules]
    server.names = [arguments.served_model_name, *adapters]
    server.serve_forever()


if __name__ == "__main__":
    main()
