"""Where rows come from: local layouts, a stand-in Hub, every fault one clear line; the command."""

from __future__ import annotations

import json
import runpy
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_gen.real import configure, load, rows, source
from rlm_executor.errors import InputError

COMMIT = "abcdef123456" + "0" * 28
OTHER = "9" * 40
ORIGIN = rows.Origin(
    repo="some/set",
    files=("data/part-*.parquet",),
    columns={"id": "text", "n": "integer", "tags": "list of texts"},
)
ROWS = [{"id": f"r{n}", "n": n, "tags": ["x"] * n} for n in range(7)]
ALL = tuple(ORIGIN.columns)
Command = Callable[..., tuple[int, str, str]]


def write(path: Path, values: list[dict[str, Any]], group: int = 3) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(values), path, row_group_size=group)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(value) + "\n" for value in values))
    else:
        path.write_text(json.dumps(values, indent=2))
    return path


def found(path: Path, revision: str = COMMIT) -> rows.Files:
    return source.find(ORIGIN, path, revision)


def every(files: rows.Files) -> list[dict[str, Any]]:
    return [row for _, row in rows.rows(files, ALL)]


@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a.parquet"])
def test_same_rows_and_hash_from_every_kind_of_file(tmp_path: Path, name: str) -> None:
    files = found(write(tmp_path / name, ROWS))
    assert every(files) == ROWS
    assert list(rows.rows(files, ("n",), {1, 5})) == [(1, {"n": 1}), (5, {"n": 5})]
    scan = rows.scan(files, ALL, lambda row: row["n"] % 2 == 1, limit=2)
    assert (scan.rows, scan.matched, scan.chosen) == (7, 3, (1, 3))
    assert scan.sha256 == "17421ed6c74d3c78d32dd86b71d63253f9e0f8147f2579160b9e8f029681a236"
    assert files.source == f"some/set@{COMMIT} (expected, not checked)"


def test_rows_are_numbered_through_all_files_of_a_folder(tmp_path: Path) -> None:
    write(tmp_path / "data/part-1.parquet", ROWS[4:])
    write(tmp_path / "data/part-0.parquet", ROWS[:4])
    write(tmp_path / "data/other.parquet", ROWS)
    files = found(tmp_path)
    assert [path.name for path in files.paths] == ["part-0.parquet", "part-1.parquet"]
    assert every(files) == ROWS
    assert [number for number, _ in rows.rows(files, ("id",), {0, 6})] == [0, 6]
    assert every(found(tmp_path / "data")) == ROWS, "the folder of the parts itself"


def test_only_the_row_groups_and_columns_asked_for_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = found(write(tmp_path / "a.parquet", ROWS))
    asked: list[tuple[Any, Any]] = []
    real = pyarrow.parquet.ParquetFile.iter_batches

    def spy(self: Any, size: int, row_groups: Any, columns: Any) -> Any:
        asked.append((row_groups, columns))
        return real(self, size, row_groups=row_groups, columns=columns)

    monkeypatch.setattr(pyarrow.parquet.ParquetFile, "iter_batches", spy)
    assert list(rows.rows(files, ("n",), {4})) == [(4, {"n": 4})]
    assert asked == [([1], ["n"])]


def test_any_file_of_rows_in_a_folder_will_do(tmp_path: Path) -> None:
    write(tmp_path / "mine.jsonl", ROWS)
    write(tmp_path / ".hidden.parquet", ROWS[:1])
    assert every(found(tmp_path)) == ROWS


@pytest.mark.parametrize("start", ["", "datasets--some--set", "hub/datasets--some--set"])
def test_cache_of_huggingface_hub(tmp_path: Path, start: str) -> None:
    snapshots = tmp_path / start / "snapshots"
    write(snapshots / COMMIT / "data/part-0.parquet", ROWS)
    write(snapshots / OTHER / "data/part-0.parquet", ROWS[:1])
    files = found(tmp_path, "abcdef123456")
    assert every(files) == ROWS and files.source == f"some/set@{COMMIT}"
    assert found(snapshots / COMMIT).commit == COMMIT
    with pytest.raises(InputError, match=f"{OTHER}, {COMMIT}.*begins with 777"):
        found(tmp_path, "777")
    with pytest.raises(InputError, match=f"is revision {OTHER} of some/set, expected {COMMIT}"):
        found(snapshots / OTHER)


def test_folder_of_hf_download_names_its_commit(tmp_path: Path) -> None:
    path = write(tmp_path / "data/part-0.parquet", ROWS)
    note = tmp_path / ".cache/huggingface/download/data/part-0.parquet.metadata"
    note.parent.mkdir(parents=True)
    note.write_text(f"{OTHER}\netag\n0.0\n")
    assert found(tmp_path, OTHER).commit == found(path, "999").commit == OTHER
    with pytest.raises(InputError, match="scores may not compare.*set the revision to 999"):
        found(tmp_path)


def test_missing_files_say_how_to_get_them(tmp_path: Path) -> None:
    get = f"hf download some/set --repo-type dataset --revision {COMMIT} .*set `path: FOLDER`"
    with pytest.raises(InputError, match=f"nowhere.json does not exist; .*{get}"):
        found(tmp_path / "nowhere.json")
    with pytest.raises(InputError, match=f"holds no data/part-.*; .*{get}"):
        found(tmp_path)
    (tmp_path / "a.csv").write_text("id")
    with pytest.raises(InputError, match="a.csv is not a .parquet, .jsonl, .json file"):
        found(tmp_path / "a.csv")


@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a.parquet"])
def test_missing_column_is_named_with_those_found(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, [{"id": "r", "m": 1}])
    with pytest.raises(InputError, match=f"{name}: .*no column n, tags; found: id, m; .*{COMMIT}"):
        list(rows.rows(found(path), ("id",)))


@pytest.mark.parametrize("name", ["a.json", "a.parquet"])
def test_other_type_names_row_and_column(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, [{"id": "r", "n": "1", "tags": []}])
    with pytest.raises(InputError, match="row 1: column n holds str, expected integer"):
        list(rows.rows(found(path), ("n",)))


@pytest.mark.parametrize(
    ("value", "kind", "fits"),
    [
        (True, "integer", False),
        (["a", 1], "list of texts", False),
        (None, "text or nothing", True),
        (None, "text", False),
        (3, "text or integer", True),
        ([{"docid": "1", "text": "t"}], "list of documents", True),
        ([{"docid": "1", "text": None}], "list of documents", False),
        ([{"text": "t"}], "list of documents", False),
    ],
)
def test_kinds_of_columns(value: Any, kind: str, fits: bool) -> None:
    assert rows.KINDS[kind](value) is fits


@pytest.mark.parametrize(
    ("name", "text", "row"),
    [
        ("a.jsonl", '{"id":"r","n":1,"tags":[]}\n{"id":"r","n":1,', 2),
        ("a.jsonl", '{"id":"r","n":1,"tags":[]}\n{"id" "r"}\n' + " " * 99, 2),
        ("a.json", '[{"id":"r","n":1,"tags":[]}', 2),
        ("a.json", '[{"id":"r","n":1,"tags":[]}, 7]', 2),
        ("a.json", "version of a file kept elsewhere, 123 bytes", 1),
        ("a.parquet", "PAR1 but not really", 1),
    ],
)
def test_damaged_file_names_the_row(tmp_path: Path, name: str, text: str, row: int) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=f"{name}: row {row} is damaged .*get the file again"):
        every(found(tmp_path / name))


def test_bytes_that_are_no_text_are_damage(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'{"id":"\xff","n":1,"tags":[]}')
    with pytest.raises(InputError, match="row 1 is damaged .UnicodeDecodeError"):
        every(found(tmp_path / "a.jsonl"))


def test_parquet_cut_short_is_damage(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", ROWS)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(InputError, match="a.parquet: row 1 is damaged"):
        every(found(path))


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(TEXTS, st.lists(TEXTS, max_size=3)), max_size=5), st.integers(1, 30))
def test_json_is_read_the_same_in_blocks_of_any_size(
    tmp_path_factory: pytest.TempPathFactory, made: list[tuple[str, list[str]]], block: int
) -> None:
    values = [{"id": text, "n": -(10**n), "tags": tags} for n, (text, tags) in enumerate(made)]
    path = tmp_path_factory.mktemp("json") / "a.json"
    for text in (
        json.dumps(values, ensure_ascii=False),
        json.dumps(values, indent=1),
        "\n".join(map(json.dumps, values)),
    ):
        path.write_text(text, encoding="utf-8")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(rows, "_BLOCK", block)
            assert every(found(path)) == values


def test_text_is_handed_on_in_pieces() -> None:
    window = source.text_window("f", "k", "ä" * 3_000_000, [])
    assert window.length == 1_500_000 and window.id == "f-k"
    assert [len(piece) for piece in window.chunks()] == [1 << 20, 1 << 20, 3_000_000 - (1 << 21)]


class Hub(BaseHTTPRequestHandler):
    """As much of the Hub as one file of one data set needs."""

    body = b""
    commits = [COMMIT, OTHER]

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        head = {"ETag": '"abc"', "X-Repo-Commit": OTHER}
        kind = self.path.removeprefix("/api/datasets/THUDM/LongBench-v2")
        body: bytes | None = None
        if "/resolve/" in kind:
            body = self.body
        elif kind.startswith("/commits/"):
            date = "2026-01-01T00:00:00.000Z"
            fields = {"title": "", "message": "", "date": date, "authors": []}
            body = json.dumps([{"id": name} | fields for name in self.commits]).encode()
        elif kind.startswith("/tree/"):
            file = {"type": "file", "oid": "abc", "size": len(self.body), "path": "data.json"}
            body = json.dumps([file]).encode()
        elif kind == "" or kind.startswith("/revision/"):
            body = json.dumps({"id": "THUDM/LongBench-v2", "sha": OTHER}).encode()
        self.send_response(404 if body is None else 200)
        for name, value in (head | {"Content-Length": str(len(body or b""))}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body or b"")

    do_HEAD = do_GET


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[ThreadingHTTPServer]:
    row = {f"choice_{name}": name for name in "ABCD"}
    row |= {"_id": "1", "domain": "Code Repository Understanding", "sub_domain": "s"}
    row |= {"difficulty": "easy", "length": "short", "question": "Who?", "answer": "C"}
    Hub.body = json.dumps([row | {"context": "some text"}]).encode()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """`python -m data_gen.real` in this process: exit status, output, errors."""

    def run(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["data_gen.real", *words])
        with pytest.raises(SystemExit) as end:
            runpy.run_module("data_gen.real", run_name="__main__")
        return (int(str(end.value.code)), *capsys.readouterr())

    return run


def point_at(port: int, cache: Path, patch: pytest.MonkeyPatch) -> None:
    """Let the real client speak to a port of this machine, as HF_ENDPOINT does from its start."""
    address = f"http://127.0.0.1:{port}"
    constants = huggingface_hub.constants
    template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, address)
    patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    patch.setattr(constants, "ENDPOINT", address)
    patch.setattr(constants, "HF_HUB_CACHE", str(cache))
    patch.setattr(constants, "HF_HUB_OFFLINE", False)


def test_from_the_hub_by_the_beginning_of_a_commit_then_from_its_cache(
    hub: ThreadingHTTPServer, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["longbench-v2", "--set", "rows=1", "--set", "code_rows=1", "--set", "revision=999"]
    point_at(hub.server_port, tmp_path, monkeypatch)
    code, told, errors = command(*words)
    assert code == 0, errors
    assert f"1 rows of THUDM/LongBench-v2@{OTHER}\n" in told
    code, _, errors = command(*words[:-1], "revision=777")
    assert code == 2 and "has no commit that begins with 777" in errors
    point_at(1, tmp_path, monkeypatch)
    assert command(*words)[:2] == (0, told), "no network is needed for what was fetched before"


def test_without_network_one_line_says_what_to_do(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    point_at(1, tmp_path, monkeypatch)
    code, told, errors = command("longbench-pro")
    assert (code, told) == (2, "") and len(errors.splitlines()) == 1
    assert errors.startswith("error: caskcsg/LongBench-Pro can't be fetched from the Hub")
    assert "hf download caskcsg/LongBench-Pro" in errors and "set `path: FOLDER`" in errors


def test_set_without_a_known_revision_is_not_fetched() -> None:
    config = configure("browsecomp-plus", {"canary": "x"})
    with pytest.raises(InputError, match="no pinned revision here: set `revision:`, or where"):
        load("browsecomp-plus", config)


def test_command_counts_and_shows_an_example(
    hub: ThreadingHTTPServer, command: Command, tmp_path: Path
) -> None:
    (tmp_path / "data.json").write_bytes(Hub.body)
    words = ["longbench-v2", "--path", str(tmp_path), "--limit", "1", "--set", "rows=1"]
    code, told, errors = command(*words, "--set", "code_rows=1")
    assert code == 0, errors
    assert "1 tasks, 2 tokens (bytes/4) of context in all" in told
    assert "     1  short             letter              easy" in told
    assert "Who?" in told and "gold: C" in told and "some text" not in told
    for wrong in ("code_row=1", "code_rows=few", "code_rows"):
        code, _, errors = command(*words, "--set", wrong)
        assert code == 2 and len(errors.splitlines()) == 1 and "code_row" in errors


def test_command_refuses_tasks_that_are_there_twice(
    hub: ThreadingHTTPServer, command: Command, tmp_path: Path
) -> None:
    row = json.loads(Hub.body)[0]
    path = write(tmp_path / "data.json", [row, row])
    words = ["longbench-v2", "--path", str(path), "--set", "rows=2", "--set", "code_rows=2"]
    code, _, errors = command(*words)
    assert code == 2 and "1 task ids are repeated" in errors
