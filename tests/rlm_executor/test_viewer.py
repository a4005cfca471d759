"""The page of runs: what is found, what is shown of it, what is cut, and what is refused."""

from __future__ import annotations

import base64
import json
import re
import subprocess
import sys
import zlib
from html.parser import HTMLParser
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

from rlm_executor import RLM, Message, ScriptedLM
from rlm_executor.errors import InputError, ServerUnavailable
from rlm_executor.files import append_jsonl
from rlm_executor.sandbox.host import Cell
from rlm_executor.viewer import write_page
from rlm_executor.viewer.__main__ import main
from rlm_executor.viewer.digest import CALL_CHARS, TEXT_CHARS, cut, digest, scrub
from rlm_executor.viewer.sources import find
from tests.rlm_executor.journals import CARD, HOSTILE, begin, call, end, turn, whole
from tests.rlm_executor.scripted import block, card, echoes, finish


def shown(*paths: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Row and run of the only journal in ``paths``."""
    (source,) = find(paths)
    return digest(source)


class Blocks(HTMLParser):
    """The elements of a page, and the text of its scripts by their id."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.texts: dict[str, str] = {}
        self._inside: str | None = None
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self._inside = str(dict(attrs).get("id", "page")) if tag == "script" else None

    def handle_data(self, data: str) -> None:
        if self._inside is not None:
            self.texts[self._inside] = self.texts.get(self._inside, "") + data

    def handle_endtag(self, tag: str) -> None:
        self._inside = None

    def rows(self) -> list[dict[str, Any]]:
        table = json.loads(self.texts["table"])
        return [dict(zip(table["columns"], row, strict=True)) for row in table["rows"]]

    def run(self, index: int) -> str:
        return zlib.decompress(base64.b64decode(self.texts[f"run{index}"])).decode()


def made(out: Path, *paths: Path) -> Blocks:
    write_page(paths, out)
    return Blocks(out.read_text(encoding="ascii"))


def test_a_run_has_its_question_turns_cells_calls_and_answer(tmp_path: Path) -> None:
    whole(tmp_path / "j.jsonl")
    row, run = shown(tmp_path)
    assert (row["name"], row["family"], row["length"]) == ("j.jsonl", "niah", 1024)
    assert (row["stop"], row["turns"], row["calls"]) == ("answered", 2, 2)
    assert (row["tokens_root"], row["tokens_sub"], row["seconds"]) == (45, 10, 2.5)
    assert (row["score"], row["dropped"], row["errors"]) == (None, None, 0)
    assert run["question"] == "Who is Mara?"
    assert run["context"] == {"type": "str", "chars": 4_000_000, "lines": 43, "preview": "It was"}
    first, second = run["turns"]
    assert (first["reply"], first["seconds"], first["kept"]) == ("I look.\nlook()", 0.5, [0, 0])
    assert first["usage"]["prompt_tokens"] == 10
    assert second["kept"] == [1, 2] and len(second["sent"]) == 1
    (cell,) = first["cells"]
    assert (cell["code"], cell["output"], cell["seconds"]) == ("look()", "printed", 0.25)
    (asked,) = cell["calls"]
    assert (asked["prompt"], asked["reply"], asked["seconds"]) == ("Is she here?", "No.", 0.1)
    assert (run["end"]["answer"], run["end"]["stop_reason"]) == ("the smith", "answered")


def test_rows_of_a_data_run_and_of_an_evaluation(tmp_path: Path) -> None:
    data, evaluation = tmp_path / "data", tmp_path / "eval"
    for name in ("000000", "000001"):
        whole(data / "journals" / f"{name}.jsonl")
    whole(evaluation / "journals" / "rlm-sft" / "t1.jsonl")
    for name, score, rule in (("000000", 1.0, None), ("000001", 0.0, "score_zero")):
        row = {"journal": f"{name}.jsonl", "family": "pairs", "length": 2048, "score": score}
        append_jsonl(data / "attempts.jsonl", row | {"dropped_by": rule})
    failed = {"arm": "rlm-sft", "journal": "rlm-sft/t1.jsonl", "score": 0.0, "error": "x"}
    good = failed | {"score": 0.5, "error": None}
    other: dict[str, Any]
    for other in (good, failed, {"arm": "floor", "journal": None, "score": 0.1, "error": None}):
        append_jsonl(evaluation / "results.jsonl", other)
    rows = [digest(source)[0] for source in find([tmp_path])]
    keys = ("name", "arm", "family", "score", "dropped")
    assert [tuple(row[key] for key in keys) for row in rows] == [
        ("data/journals/000000.jsonl", "", "pairs", 1.0, ""),
        ("data/journals/000001.jsonl", "", "pairs", 0.0, "score_zero"),
        ("eval/journals/rlm-sft/t1.jsonl", "rlm-sft", "niah", 0.5, None),
    ]
    (alone,) = find([data / "journals" / "000001.jsonl"])
    assert (alone.name, alone.facts["score"]) == ("000001.jsonl", 0.0)
    names = [source.name for source in find([data, evaluation / "journals", data])]
    assert names[0] == "data/journals/000000.jsonl" and names[2] == "journals/rlm-sft/t1.jsonl"
    assert len(names) == 3
    (data / "attempts.jsonl").write_text("{\n{}\n")
    with pytest.raises(InputError, match=r"attempts.jsonl is damaged: .*line 1"):
        find([data])


def test_folders_of_the_same_name_are_told_apart(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        whole(tmp_path / folder / "data" / "j.jsonl")
    named = [source.name for source in find([tmp_path / "a" / "data", tmp_path / "b" / "data"])]
    assert named == ["data (2)/j.jsonl", "data/j.jsonl"]


def test_runs_in_runs_are_nested(tmp_path: Path) -> None:
    journal = begin(tmp_path / "j.jsonl")
    child = journal.child()
    child.run(question="", context={}, models=["root", "leaf"], card=CARD)
    grandchild = child.child()
    grandchild.run(question="deep", context={}, models=["root", "leaf"], card=CARD)
    turn(grandchild, 0, "nothing to run")
    end(grandchild, "42")
    call(child, 1, "deep", "42", child=grandchild.node, usage=None)
    child.record({"type": "refused", "cell": 1, "what": "", "message": "no calls are left"})
    turn(child, 0, "below", "rlm_query('deep')")
    end(child, "it is 42")
    call(journal, 1, "go down", "it is 42", child=child.node, usage=None)
    turn(journal, 0, "above", "rlm_query('go down')")
    end(journal)
    row, run = shown(tmp_path)
    (cell,) = run["turns"][0]["cells"]
    below = cell["calls"][0]["child"]
    assert (below["end"]["answer"], cell["refused"]) == ("it is 42", [])
    (cell,) = below["turns"][0]["cells"]
    assert cell["refused"] == ["no calls are left"]
    assert cell["calls"][0]["child"]["question"] == "deep"
    assert cell["calls"][0]["child"]["turns"][0]["reply"] == "nothing to run"


@pytest.mark.real_sandbox
async def test_a_run_of_the_executor(tmp_path: Path) -> None:
    code = "print(llm_query('leaf'))\nprint(rlm_query('CHILD'))"

    def root(messages: list[Message]) -> str:
        below = "CHILD" in messages[1]["content"]
        return finish("'done'") if below or len(messages) > 2 else block(code, "I ask.")

    path = tmp_path / "j.jsonl"
    rlm = RLM(ScriptedLM(root, "root"), echoes(), card(max_depth=2), journal=path)
    result = await rlm.run("Q?", "some text")
    row, run = shown(path)
    assert (row["answer"], row["turns"], row["calls"]) == ("done", 2, result.sub.calls)
    assert row["tokens_root"] == result.root.prompt_tokens + result.root.completion_tokens
    first, second = run["turns"]
    (cell,) = first["cells"]
    assert cell["code"] == code and code in first["reply"] and cell["output"] == "LEAF\ndone\n"
    leaf, child = cell["calls"]
    assert (leaf["prompt"], leaf["reply"], child["reply"]) == ("leaf", "LEAF", "done")
    assert child["child"]["turns"][0]["cells"][0]["answer"] == "done"
    assert second["kept"] == [3, 3] and "LEAF" in second["sent"][0]["text"]


def test_unfinished_journals_are_shown_as_far_as_they_go(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    journal = begin(path)
    call(journal, 1, "first", "yes")
    turn(journal, 0, "reply", "code()")
    call(journal, 2, "second", "yes")
    child = journal.child()
    child.run(question="below", context={}, models=["root", "leaf"], card=CARD)
    turn(child, 0, "reply below")
    row, run = shown(path)
    assert (row["stop"], row["answer"], run["end"]) == ("unfinished", "", None)
    assert (row["tokens_root"], row["tokens_sub"], row["seconds"]) == (15, 25, 0.75)
    done, lost = run["turns"][0]["cells"]
    assert [asked["prompt"] for asked in done["calls"]] == ["first"]
    assert lost["cell"] is None
    assert [asked["prompt"] for asked in lost["calls"]] == ["second", ""]
    assert lost["calls"][1]["child"]["turns"][0]["reply"] == "reply below"
    data = path.read_bytes()
    lengths = {len(data) - 9, *(data.index(b"\n") + step for step in (-20, 0, 1)), 40}
    for length in lengths:
        path.write_bytes(data[:length])
        row, run = shown(path)
        assert row["stop"] == "unfinished", length
    write_page([path], tmp_path / "view.html")


def test_a_failed_turn_and_a_plain_call(tmp_path: Path) -> None:
    journal = begin(tmp_path / "a.jsonl", route="plain")
    call(journal, 0, "text and question", "Mara")
    end(journal, "Mara")
    journal = begin(tmp_path / "b.jsonl")
    event = journal.asked(0, [{"role": "user", "content": "?"}], "max_turns")
    journal.failed(event, ServerUnavailable("no answer from http://10.1.2.3:8000/v1"), None)
    end(journal, "", "root_error")
    plain, failed = (digest(source) for source in find([tmp_path]))
    (only,) = plain[1]["turns"]
    assert only["turn"] is None and only["cells"][0]["calls"][0]["reply"] == "Mara"
    assert failed[1]["turns"][0]["error"] == "ServerUnavailable: no answer from <url>"
    assert failed[1]["turns"][0]["landing"] == "max_turns"
    assert "ServerUnavailable" in failed[0]["words"] and failed[0]["turns"] == 0


def test_failed_cells_are_counted_and_their_errors_can_be_searched(tmp_path: Path) -> None:
    journal = begin(tmp_path / "j.jsonl")
    error = 'Traceback (most recent call last):\n  File "<cell 1>"\nKeyError: 3'
    turn(journal, 0, "x", "x", Cell("error", "", 0, error, "", False, False, 0.1))
    end(journal)
    row, run = shown(tmp_path)
    assert row["errors"] == 1 and "KeyError" in row["words"]
    assert run["turns"][0]["cells"][0]["error"] == error


def test_what_is_long_is_cut_and_the_cut_is_stated(tmp_path: Path) -> None:
    assert cut("abc", 3) == "abc"
    assert cut("abcd", 3) == {"text": "abc", "of": 4}
    assert cut("abc", 3, of=9) == {"text": "abc", "of": 9}
    journal = begin(tmp_path / "j.jsonl", question="q" * (TEXT_CHARS + 1))
    call(journal, 1, "p" * 4000, "r" * (CALL_CHARS + 5), prompt_chars=80_000)
    output = "o" * (TEXT_CHARS + 7)
    turn(journal, 0, "reply", "code", Cell("ok", output, 80_000, "", "", False, False, 0.1))
    end(journal, "a" * TEXT_CHARS)
    row, run = shown(tmp_path)
    (cell,) = run["turns"][0]["cells"]
    assert (cell["output"]["of"], len(cell["output"]["text"])) == (80_000, TEXT_CHARS)
    assert (cell["calls"][0]["prompt"]["of"], cell["calls"][0]["reply"]["of"]) == (80_000, 4005)
    assert run["question"]["of"] == TEXT_CHARS + 1 and len(row["question"]) < 1000
    assert run["end"]["answer"] == "a" * TEXT_CHARS


def test_hostile_text_stays_text(tmp_path: Path) -> None:
    clean, hostile = tmp_path / "clean", tmp_path / "hostile"
    keys = ("question", "prompt", "reply", "code", "answer")
    whole(clean / "j.jsonl")
    whole(hostile / "j.jsonl", **dict.fromkeys(keys, HOSTILE))
    append_jsonl(hostile / "more" / "journals" / "x.jsonl", {"type": "other"})
    page = made(tmp_path / "hostile.html", hostile)
    assert page.tags == made(tmp_path / "clean.html", clean).tags
    stored = HOSTILE.replace("\ud800", "?")  # the journal itself holds no half characters
    assert page.rows()[0]["question"] == stored
    assert json.loads(page.run(0))["question"] == stored
    name = "<img src=x onerror=alert(1)>.jsonl"
    whole(hostile / name)
    assert made(tmp_path / "hostile.html", hostile).rows()[0]["name"] == name


def test_the_script_makes_no_html_and_asks_for_nothing() -> None:
    package = resources.files("rlm_executor.viewer")
    files = {name: package.joinpath(name).read_text() for name in
             ("page.html", "page.css", "table.js", "run.js")}  # fmt: skip
    script = files["table.js"] + files["run.js"]
    for word in (
        "innerHTML",
        "outerHTML",
        "insertAdjacent",
        "document.write",
        "eval(",
        "Function(",
    ):
        assert word not in script
    for text in files.values():
        assert text.isascii()
        assert not re.search(r"https?:|//[a-z]+\.|@import|url\(|fetch\(|XMLHttp", text)


def test_no_path_and_no_host_of_the_machine(tmp_path: Path) -> None:
    journal = begin(tmp_path / "runs" / "j.jsonl", models=[f"{tmp_path}/sft", "leaf"])
    failed = {"error": "ServerUnavailable", "message": f"http://box.local:8000/v1 {tmp_path}/log"}
    call(journal, 1, "p", "", **failed)
    turn(journal, 0, "reply", "code")
    end(journal)
    page = made(tmp_path / "view.html", tmp_path / "runs")
    for text in ((tmp_path / "view.html").read_text(), page.run(0)):
        assert str(tmp_path) not in text and "box.local" not in text
    assert json.loads(page.run(0))["models"] == ["sft", "leaf"]
    assert scrub("and/or, </b>, 1/2") == "and/or, </b>, 1/2"


def test_the_same_journals_give_the_same_bytes(tmp_path: Path) -> None:
    for index in range(3):
        whole(tmp_path / "runs" / f"{index}.jsonl", question=f"Question {index}?")
    made(tmp_path / "one.html", tmp_path / "runs")
    made(tmp_path / "two.html", tmp_path / "runs")
    assert (tmp_path / "one.html").read_bytes() == (tmp_path / "two.html").read_bytes()
    assert "<title>3 runs</title>" in (tmp_path / "one.html").read_text()


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (b'{"type":"run","question":"q","models":[]}\n{"type\n{"type":"end"}\n', "line 2"),
        (b'{"type":"run","question":"q","models":[]}\n[1]\n', "indices"),
        (b'{"type":"run","question":"q","models":[]}\n{"type":"end"}\n', "KeyError"),
        (b'{"type":"run","question":7,"models":[]}\n', "TypeError"),
        (b'{"type":"run"}\n', "models"),
        (b'{"type":"run","question":"q","models":[],"task":{"length":NaN}}\n', "JSON"),
        (b'{"type":"run","question":"q","models":[]}\n\xff\xfe\n{}\n', "line 2"),
    ],
)
def test_a_damaged_journal_is_named(tmp_path: Path, lines: bytes, message: str) -> None:
    whole(tmp_path / "good.jsonl")
    (tmp_path / "bad.jsonl").write_bytes(lines)
    with pytest.raises(InputError, match=rf"bad.jsonl is damaged: .*{message}"):
        write_page([tmp_path], tmp_path / "view.html")
    assert not (tmp_path / "view.html").exists()


def test_other_errors_are_one_line(tmp_path: Path) -> None:
    out = tmp_path / "view.html"
    with pytest.raises(InputError, match="no journal or folder at .*nope"):
        write_page([tmp_path / "nope"], out)
    (tmp_path / "rows.jsonl").write_text('{"type":"turn"}\n')
    with pytest.raises(InputError, match="no journals"):
        write_page([tmp_path], out)
    with pytest.raises(InputError, match="rows.jsonl is not a journal"):
        write_page([tmp_path / "rows.jsonl"], out)
    whole(tmp_path / "j.jsonl")
    with pytest.raises(InputError, match="cannot be written"):
        write_page([tmp_path], tmp_path / "j.jsonl" / "view.html")
    with pytest.raises(InputError, match="cannot be written"):
        write_page([tmp_path], tmp_path)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole(tmp_path / "j.jsonl")
    out = tmp_path / "view.html"
    assert main([str(tmp_path), "--out", str(out)]) == 0
    assert re.fullmatch(r".*view.html: 1 run, \d\.\d MB\n", capsys.readouterr().out)
    command = [sys.executable, "-m", "rlm_executor.viewer", str(tmp_path / "nope")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert done.stderr.startswith("error: no journal or folder at")


def test_it_opens_where_there_is_a_screen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    whole(tmp_path / "j.jsonl")
    out = tmp_path / "view.html"
    for screens in ({}, {"DISPLAY": ":0"}, {"WAYLAND_DISPLAY": "wayland-0"}):
        for name in ("DISPLAY", "WAYLAND_DISPLAY"):
            monkeypatch.delenv(name, raising=False)
        for name, value in screens.items():
            monkeypatch.setenv(name, value)
        main([str(tmp_path), "--out", str(out), "--open"])
    assert opened == [out.as_uri()] * 2
