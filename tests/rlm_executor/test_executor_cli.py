"""The command line as people meet it: what it prints, its exit codes, and how it is stopped."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from rlm_executor import RLMCard
from rlm_executor.__main__ import main
from rlm_executor.errors import ConfigError, EnvironmentFault, InputError, RLMError
from tests.rlm_executor.scripted import finish
from tests.rlm_executor.test_executor_lm import said

ROOT = Path(__file__).resolve().parents[2]
LOOP = ["--route", "always_rlm"]


class Models:
    """A server that lists its models and says what a function of the request says."""

    def __init__(self) -> None:
        self.requests: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.listing: tuple[int, Any] = (200, {"data": [{"id": "rlm"}, {"id": "base"}]})
        self.reply: Callable[[dict[str, Any]], str] = lambda request: finish("context[:4]")
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                assert self.path == "/v1/models"
                server.keys.append(self.headers["Authorization"])
                self._send(*server.listing)

            def do_POST(self) -> None:
                request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                if not self.path.endswith("/completions"):
                    self._send(404, {})
                    return
                server.requests.append(request)
                self._send(200, said(server.reply(request)))

            def _send(self, status: int, reply: Any) -> None:
                data = reply if isinstance(reply, bytes) else json.dumps(reply).encode()
                try:
                    self.send_response(status)
                    self.send_header("Content-Length", str(len(data)))
                    self.end_headers()
                    self.wfile.write(data)
                except OSError:
                    pass  # who asked was interrupted

            def log_message(self, *_: object) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._http.server_port}/v1"
        threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()


@pytest.fixture
def models() -> Iterator[Models]:
    server = Models()
    yield server
    server.close()


@pytest.fixture
def book(tmp_path: Path) -> Path:
    path = tmp_path / "book.txt"
    path.write_text("Mara has a trout.\n")
    return path


@pytest.fixture
def place(models: Models, book: Path) -> list[str]:
    return ["Q?", "--context", str(book), "--endpoint", models.url, "--model", "rlm"]


def refused(arguments: list[str], kind: type[RLMError] = InputError) -> str:
    """The one line that says why it does not begin."""
    with pytest.raises(kind) as caught:
        main(arguments)
    line = str(caught.value)
    assert "\n" not in line
    return line


# -- routes and contexts ------------------------------------------------------------------------


def test_what_fits_is_answered_by_one_plain_call_and_told(
    models: Models, place: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    models.reply = lambda request: "a trout"
    assert main(place) == 0
    printed = capsys.readouterr()
    assert printed.out == "a trout\n"
    assert "answered by one plain call to rlm, no code was run" in printed.err
    [request] = models.requests
    assert request["messages"] == [{"role": "user", "content": "Mara has a trout.\n\n\nQ?"}]


@pytest.mark.real_sandbox
def test_what_is_too_large_for_that_goes_through_the_loop(
    models: Models, place: list[str], book: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    book.write_text("Mara has a trout.\n" * 20_000)
    assert main(place) == 0
    printed = capsys.readouterr()
    assert printed.out == "Mara\n"
    assert "answered after 1 turns and 0 sub-calls" in printed.err
    assert "turn 1: 1 block\n  cell 1: ok, " in printed.err


@pytest.mark.real_sandbox
@pytest.mark.parametrize(
    ("window", "card", "route"),
    [(200_000, False, "plain"), (40_000, False, "loop"), (200_000, True, "loop")],
)
def test_what_fits_is_told_by_the_server_unless_a_card_says_less(
    models: Models, place: list[str], book: Path, window: int, card: bool, route: str,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    book.write_text("Mara has a trout.\n" * 20_000)
    models.listing = (200, {"data": [{"id": "rlm", "max_model_len": window}, {"id": "base"}]})
    RLMCard(sub_model="self").save(book.parent)
    assert main([*place, *(["--card", str(book.parent)] if card else [])]) == 0
    assert ("by one plain call" in capsys.readouterr().err) == (route == "plain")


@pytest.mark.real_sandbox
@pytest.mark.parametrize(
    ("given", "expression", "answer"),
    [
        (["{0}"], "sorted(context)", "['a.txt', 'b/c.txt']"),
        (["{0}/a.txt", "{0}/b/c.txt"], "list(context)", "['a.txt', 'c.txt']"),
        (["one={0}/a.txt", "two={0}/b"], "[one, two['c.txt']]", "['A', 'C']"),
        (["{0}/d.jsonl"], "context[1]['n']", "2"),
    ],
)
def test_one_file_a_folder_several_files_and_names(
    models: Models,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    given: list[str],
    expression: str,
    answer: str,
) -> None:
    folder = tmp_path / "given"
    (folder / "b").mkdir(parents=True)
    (folder / "a.txt").write_text("A")
    (folder / "b" / "c.txt").write_text("C")
    if "jsonl" in given[0]:
        (folder / "d.jsonl").write_text('{"n": 1}\n{"n": 2}\n')
    models.reply = lambda request: finish(f"str({expression})")
    options = [part for path in given for part in ("--context", path.format(folder))]
    place = ["Q?", *options, "--endpoint", models.url, "--model", "rlm", *LOOP]
    assert main([*place, "--quiet"]) == 0
    assert capsys.readouterr() == (answer + "\n", "")


@pytest.mark.real_sandbox
def test_runs_in_runs_prices_and_the_result_as_json(
    models: Models, place: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def reply(request: dict[str, Any]) -> str:
        below = "inner" in request["messages"][1]["content"]
        return finish("'deep'") if below else finish("rlm_query('inner')")

    models.reply = reply
    limits = ["--max-depth", "2", "--max-dollars", "1", "--price", "rlm=10:100", "--json"]
    journal = tmp_path / "new" / "j.jsonl"
    assert main([*place, *LOOP, *limits, "--journal", str(journal)]) == 0
    printed = capsys.readouterr()
    result = json.loads(printed.out)
    assert (result["answer"], result["stop_reason"]) == ("deep", "answered")
    assert result["dollars"] == pytest.approx(2 * (7 * 10 + 3 * 100) / 1e6)
    assert result["journal"] == str(journal)
    assert "[1] run begins\n[1] turn 1: 1 block" in printed.err
    assert ", $0.0007\n" in printed.err


# -- wrong input --------------------------------------------------------------------------------


def test_contexts_that_are_none(models: Models, tmp_path: Path) -> None:
    def line(*given: str) -> str:
        options = [part for path in given for part in ("--context", path)]
        return refused(["Q?", *options, "--endpoint", models.url, "--model", "rlm"])

    files = {"binary": b"a\0b", "empty": b"", "text": b"x"}
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    (tmp_path / "folder").mkdir()
    here = str(tmp_path)
    assert "does not exist" in line(f"{here}/nope")
    assert "is a binary file" in line(f"{here}/binary")
    assert "is a binary file" in line(f"{here}/text", f"{here}/binary")
    assert "is empty" in line(f"{here}/empty")
    assert "no text files" in line(f"{here}/folder")
    assert "cannot be read (File name too long)" in line("x" * 300)
    assert "all of them as NAME=PATH, or none" in line(f"a={here}/text", f"{here}/text")
    assert "is given twice" in line(f"a={here}/text", f"a={here}/text")
    assert "cannot be named 'answer'" in line(f"answer={here}/text")
    assert models.requests == []


def test_a_folder_that_cannot_be_read(
    models: Models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def closed(path: Any) -> Any:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "scandir", closed)
    place = ["Q?", "--context", str(tmp_path), "--endpoint", models.url, "--model", "rlm"]
    assert "cannot be read (Permission denied)" in refused(place)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--max-turns", "0"], "--max-turns: 0 is out of range"),
        (["--max-calls", "-1"], "--max-calls: -1 is out of range"),
        (["--max-seconds", "nan"], "--max-seconds: nan is out of range"),
        (["--max-tokens", "0"], "--max-tokens: 0 is out of range"),
        (["--max-depth", "0"], "--max-depth: 0 is out of range"),
        (["--max-dollars", "1"], "--max-dollars: needs the price of rlm"),
        (["--max-dollars", "1", "--price", "rlm=1:2", "--sub-model", "base"], "price of base"),
        (["--price", "rlm=1"], "--price: is 'rlm=1'"),
        (["--price", "1:2"], "--price: is '1:2'"),
        (["--price", "rlm=-1:2"], "--price: is 'rlm=-1:2'"),
        (["--dialect", "latin"], "--dialect: is 'latin'; use answer,"),
        (["--model", "nope"], "does not serve 'nope'; it has base, rlm"),
        (["--sub-model", "nope"], "does not serve 'nope'; it has base, rlm"),
        (["--endpoint", "localhost:8000/v1"], "--endpoint: is 'localhost:8000/v1'"),
    ],
)
def test_settings_that_are_wrong(
    models: Models, place: list[str], options: list[str], told: str
) -> None:
    assert told in refused([*place, *options], ConfigError)
    assert models.requests == []


def test_options_that_are_none(place: list[str], tmp_path: Path) -> None:
    assert "invalid int value" in refused([*place, "--max-turns", "many"])
    assert "unrecognized arguments: --nope; see" in refused([*place, "--nope"])
    assert "invalid choice: 'best'" in refused([*place, "--route", "best"])
    assert "required: --context" in refused(["Q?", "--endpoint", "x", "--model", "y"])
    assert "cannot be written (Is a directory)" in refused([*place, "--journal", str(tmp_path)])


@pytest.mark.parametrize(
    ("listing", "kind", "told"),
    [
        ((401, {}), EnvironmentFault, "answers HTTP 401; set OPENAI_API_KEY"),
        ((503, {}), EnvironmentFault, "answers HTTP 503; is the server well?"),
        ((200, b"<html>"), ConfigError, "does not list models"),
        ((200, {"data": 3}), ConfigError, "does not list models"),
    ],
)
def test_endpoints_that_are_none(
    models: Models,
    place: list[str],
    listing: tuple[int, Any],
    kind: type[RLMError],
    told: str,
) -> None:
    models.listing = listing
    assert told in refused(place, kind)
    assert models.requests == []


def test_an_endpoint_that_is_down(place: list[str]) -> None:
    line = refused([*place, "--endpoint", "http://127.0.0.1:1/v1"], EnvironmentFault)
    assert line == (
        "--endpoint: http://127.0.0.1:1/v1 cannot be reached ([Errno 111] Connection refused); "
        "is the server up?"
    )


@pytest.mark.parametrize("listing", [(404, {}), (200, {"data": []})])
def test_a_server_that_does_not_list_its_models_is_believed(
    models: Models, place: list[str], listing: tuple[int, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    models.listing = listing
    models.reply = lambda request: "yes"
    assert main([*place, "--model", "other"]) == 0
    assert models.keys == ["Bearer secret"]


def command(*arguments: str, **options: Any) -> subprocess.Popen[str]:
    line = [sys.executable, "-m", "rlm_executor", *arguments]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(line, cwd=ROOT, start_new_session=True, **(streams | options))


def test_errors_are_one_line_and_exit_code_2(place: list[str]) -> None:
    for options in (["--max-turns", "0"], ["--model", "nope"], ["--route", "best"]):
        process = command(*place, *options)
        out, err = process.communicate(timeout=60)
        assert (process.returncode, out, err.count("\n")) == (2, "", 1)
        assert err.startswith("error: ")
