"""Contexts of every kind: what code has of them, what the root is told, and what is no context."""

from __future__ import annotations

import hashlib
import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from rlm_executor import DIALECTS, RLM, Context, Message, RLMCard, ScriptedLM
from rlm_executor import context as contexts
from rlm_executor.errors import InputError
from rlm_executor.sandbox.host import Repl
from tests.rlm_executor.scripted import Recorder, block, card, echoes, finish, says

pytestmark = pytest.mark.real_sandbox


async def asked(context: Any, expression: str, harness: RLMCard | None = None) -> tuple[str, str]:
    """The expression's value as text, and what the root is told before it writes it."""
    root = Recorder(says(finish(f"str({expression})")))
    result = await RLM(root, echoes(), harness or card()).run("Q?", context)
    assert result.stop_reason == "answered", result
    return result.answer, root.asked[0][-1]["content"]


async def value(context: Any, expression: str) -> str:
    return (await asked(context, expression))[0]


def tree(folder: Path, **files: str | bytes) -> Path:
    """A folder with these files; `__` in a name is a slash."""
    for name, content in files.items():
        path = folder / (name.replace("__", "/") + ".txt")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


# -- values ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("context", "told"),
    [
        ("two\nlines", "str, 9 characters, 2 lines."),
        ("two\nlines\n", "str, 10 characters, 2 lines."),
        (["a", "bcd"], "list of 2 str, 4 characters."),
        (["a", 7, {"k": None}], "list of 3 dict/int/str, 13 characters."),
        ({"one": "x", "two": ["y"]}, "dict of 2 list/str, 6 characters."),
        ([], "list of 0 "),
    ],
)
async def test_text_and_json_values_are_the_same_in_the_repl(context: Any, told: str) -> None:
    got, said = await asked(context, "repr(context)")
    assert got == repr(context)
    assert told in said


@pytest.mark.parametrize("wide", ["日本語\n", "\U0001f600a", "é" * 5, "a\r\nb\x00c", "\ufeffx"])
async def test_wide_characters_are_counted_as_characters(tmp_path: Path, wide: str) -> None:
    got, said = await asked(wide, "(len(context), context.encode().hex())")
    assert got == str((len(wide), wide.encode().hex()))
    assert f"{len(wide)} characters" in said
    if "\0" not in wide:
        path = tmp_path / "wide.txt"
        path.write_bytes(wide.encode())
        assert await value(path, "(len(context), context.encode().hex())") == got


async def test_a_lone_surrogate_becomes_a_question_mark() -> None:
    assert await value("a\ud800b", "context") == "a?b"
    assert await value(["a\ud800b"], "context[0]") == "a?b"


@pytest.mark.parametrize("wrong", [7, None, {1, 2}, [{1, 2}], [object()]])
def test_what_json_does_not_know_is_refused(wrong: Any) -> None:
    with pytest.raises(InputError, match="not int|not NoneType|not set|what JSON does not know"):
        Context.of(wrong)


async def test_records_of_jsonl(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"n": 1}\n\n[2]\r\n"\u2028three"\n')
    got, said = await asked(path, "(len(context), context[0]['n'], context[1], context[2])")
    assert got == "(3, 1, [2], '\\u2028three')"
    assert "list of 3 dict/list/str" in said
    text = "open('rows.jsonl').read().splitlines()[0]"
    assert await value(path, text) == '{"n": 1}'


async def test_a_broken_line_of_jsonl_is_told_by_its_number(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"n": 1}\n\n{"n": 2\n')
    with pytest.raises(InputError, match=r"context rows\.jsonl line 3 is not JSON"):
        await value(path, "1")


async def test_what_is_not_utf8_is_refused_on_every_way(tmp_path: Path) -> None:
    path = tmp_path / "latin.txt"
    path.write_bytes("café".encode("latin-1"))
    for route in ("always_rlm", "auto", "plain"):
        with pytest.raises(InputError, match=r"latin\.txt is not UTF-8 text \(byte 3\)"):
            await RLM(says(finish("1")), echoes(), card(), route=route).run("Q?", path)


@pytest.mark.parametrize("empty", ["", Path("empty.txt")])
async def test_an_empty_context_is_refused(empty: Any, tmp_path: Path) -> None:
    if isinstance(empty, Path):
        empty = tmp_path / empty
        empty.touch()
    root = Recorder(says(finish("1")))
    with pytest.raises(InputError, match="is empty; give what is to be asked about"):
        await RLM(root, echoes(), card()).run("Q?", empty)
    assert not root.asked


async def test_a_context_of_45_mb(tmp_path: Path) -> None:
    text = "".join(f"line {number:012d}\n" for number in range(2_500_000))
    assert len(text) == 45_000_000
    path = tmp_path / "large.txt"
    path.write_text(text)
    digest = hashlib.sha256(text.encode()).hexdigest()
    code = "__import__('hashlib').sha256({}.encode()).hexdigest()"
    started = time.monotonic()
    for given, name in ((path, "context"), (text, "context"), (path, "open('large.txt').read()")):
        assert await value(given, code.format(name)) == digest
    folder = Context.from_files([tmp_path])
    assert await value(folder, code.format("context['large.txt']")) == digest
    assert await value(folder, code.format("open('large.txt').read()")) == digest
    assert time.monotonic() - started < 60


# -- files ----------------------------------------------------------------------------------------


async def test_the_names_of_a_folder_and_their_texts(tmp_path: Path) -> None:
    folder = tree(tmp_path, a="A", b__c="CC", b__d__e="é")
    context = Context.from_files([folder])
    code = "(dict(context), len(context), 'a.txt' in context, context.size('b/d/e.txt'))"
    got, said = await asked(context, code)
    texts = {"a.txt": "A", "b/c.txt": "CC", "b/d/e.txt": "é"}
    assert got == str((texts, 3, True, 2))
    assert "Context: dict of 3 files, 5 characters." in said
    assert context.bytes == 5


async def test_files_that_code_does_not_read_are_not_handed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tree(tmp_path, **{f"f{number}": f"text {number}" for number in range(50)})
    context = Context.from_files([folder])
    opened: list[str] = []
    file = Context.file

    def handed(self: Context, name: str) -> str | None:
        opened.append(name)
        return file(self, name)

    monkeypatch.setattr(Context, "file", handed)
    for path in folder.iterdir():  # who opens one of these now gets nothing
        if path.name != "f7.txt":
            path.write_bytes(path.read_bytes()[::-1])
    code = "(context['f7.txt'], context['f7.txt'], sum(map(context.size, context)), list(context))"
    assert (await value(context, code)).startswith("('text 7', 'text 7', 340, ['f0.txt'")
    assert opened == ["context\0f7.txt"]  # once: the session keeps it


async def test_only_the_beginning_of_a_file_is_looked_at(tmp_path: Path) -> None:
    path = tmp_path / "large.txt"
    with path.open("wb") as file:
        file.truncate(contexts.MAX_FILE)
        file.write(b"x" * 4096)
    before = time.monotonic()
    context = Context.from_files([tmp_path])
    digest = context.sha256()
    assert time.monotonic() - before < 1
    assert digest == Context.from_files([tmp_path]).sha256()
    tree(tmp_path, other="x")
    assert digest != Context.from_files([tmp_path]).sha256()


async def test_hidden_binary_and_linked_files_of_a_folder_are_left_out(tmp_path: Path) -> None:
    folder = tree(tmp_path / "in", a="A", b__c="C", **{".hidden": "H", ".git__x": "X"})
    tree(tmp_path, outside="secret")
    tree(folder, binary=b"PNG\0\0", late=b"x" * 2000 + b"\0")
    (folder / "link.txt").symlink_to(tmp_path / "outside.txt")
    (folder / "b" / "up").symlink_to(tmp_path)
    os.mkfifo(folder / "pipe.txt")
    context = Context.from_files([folder])
    assert await value(context, "sorted(context)") == "['a.txt', 'b/c.txt', 'late.txt']"


async def test_a_file_that_turns_into_a_link_is_not_followed(tmp_path: Path) -> None:
    folder = tree(tmp_path / "in", a="A", b="B")
    tree(tmp_path, outside="secret")
    context = Context.from_files([folder])
    (folder / "a.txt").unlink()
    (folder / "a.txt").symlink_to(tmp_path / "outside.txt")
    code = "context['a.txt']\n"
    root = Recorder(says(block(code), finish("context['b.txt']")))
    result = await RLM(root, echoes(), card()).run("Q?", context)
    assert result.answer == "B"
    assert "KeyError: 'a.txt: it cannot be read any more'" in root.asked[1][-1]["content"]


@pytest.mark.parametrize(
    "name",
    ["../outside.txt", "b/../../outside.txt", "/etc/passwd", "", ".", "b", "a.txt\\0", "A.TXT"],
)
async def test_names_that_leave_the_folder_are_not_there(tmp_path: Path, name: str) -> None:
    folder = tree(tmp_path / "in", a="A", b__c="C")
    tree(tmp_path, outside="secret")
    code = (
        f"found = []\nfor read in (lambda n: context[n], lambda n: open(n).read()):\n"
        f"    try:\n        found.append(read('{name}'))\n"
        f"    except (KeyError, OSError, ValueError) as error:\n"
        f"        found.append(type(error).__name__)"
    )
    root = says(block(code) + "\n" + finish("str(found)"))
    result = await RLM(root, echoes(), card()).run("Q?", Context.from_files([folder]))
    assert result.answer in ("['KeyError', 'FileNotFoundError']", "['KeyError', 'ValueError']")


async def test_a_file_that_has_vanished(tmp_path: Path) -> None:
    folder = tree(tmp_path, a="A", b="B")
    context = Context.from_files([folder])

    def gone(_: list[Message]) -> str:
        (folder / "a.txt").unlink(missing_ok=True)
        return block("context['a.txt']")

    root = Recorder(ScriptedLM(gone, "root"))
    result = await RLM(root, echoes(), card(max_turns=1)).run("Q?", context)
    assert result.stop_reason == "max_turns"
    assert "it cannot be read any more" in str(root.asked[1])
    for route in ("always_rlm", "plain"):  # and before the run
        with pytest.raises(InputError, match=r"a\.txt does not exist"):
            await RLM(says(finish("1")), echoes(), card(), route=route).run("Q?", context)


def test_an_unreadable_file_or_folder_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tree(tmp_path, a="A", b="B")
    open_, opener = os.open, Path.open

    def closed(path: Any, *more: Any, **options: Any) -> Any:
        if str(path).endswith("b.txt"):
            raise PermissionError(13, "Permission denied", str(path))
        return (opener if isinstance(path, Path) and not more[:1] == (os.O_RDONLY,) else open_)(
            path, *more, **options
        )

    monkeypatch.setattr(Path, "open", closed)
    with pytest.raises(InputError, match=r"b\.txt cannot be read \(Permission denied\)"):
        Context.from_files([folder])
    monkeypatch.undo()
    monkeypatch.setattr(os, "open", lambda path, *more: closed(str(path)))
    with pytest.raises(InputError, match=r"b\.txt cannot be read \(Permission denied\)"):
        Context.from_file(folder / "b.txt")


def test_files_that_are_none(tmp_path: Path) -> None:
    tree(tmp_path, binary=b"\0")
    (tmp_path / "empty").mkdir()
    os.mkfifo(tmp_path / "pipe")
    for given, told in {
        "nope": "does not exist",
        "binary.txt": "is a binary file",
        "empty": "no text files",
        "pipe": "neither a file nor a folder",
        "x" * 300: "cannot be read \\(File name too long\\)",
        "a\0b": "cannot be read \\(embedded null byte\\)",
    }.items():
        with pytest.raises(InputError, match=told):
            Context.from_files([tmp_path / given])
    for given, told in {
        "nope": "does not exist",
        "binary.txt": "is a binary file",
        "empty": "is a folder, not a file",
        "pipe": "is not a regular file",
    }.items():
        with pytest.raises(InputError, match=told):
            Context.from_file(tmp_path / given)
    with pytest.raises(InputError, match="no text files"):
        Context.from_files([])


def test_one_of_several_files_may_be_too_large(tmp_path: Path) -> None:
    with (tmp_path / "large.txt").open("wb") as file:
        file.write(b"x" * 2000)
        file.truncate(contexts.MAX_FILE + 1)
    with pytest.raises(InputError, match=r"large\.txt has 62914561 bytes, more than 62914560"):
        Context.from_files([tmp_path])


async def test_the_largest_file_of_several_is_handed_over(tmp_path: Path) -> None:
    tree(tmp_path, large="x" * contexts.MAX_FILE, small="y")
    code = "(len(context['large.txt']), len(open('large.txt').read()), context['small.txt'])"
    got = await value(Context.from_files([tmp_path]), code)
    assert got == f"({contexts.MAX_FILE}, {contexts.MAX_FILE}, 'y')"


async def test_files_of_one_name_are_both_there(tmp_path: Path) -> None:
    tree(tmp_path, one__x="1", two__x="2")
    first, second = tmp_path / "one" / "x.txt", tmp_path / "two" / "x.txt"
    context = Context.from_files([first, second, first])
    assert await value(context, "dict(context)") == str({"x.txt": "1", second.as_posix(): "2"})


async def test_a_link_that_is_named_itself_is_followed(tmp_path: Path) -> None:
    tree(tmp_path, a="A")
    (tmp_path / "link.txt").symlink_to(tmp_path / "a.txt")
    assert await value(tmp_path / "link.txt", "context") == "A"
    context = Context.from_files([tmp_path / "link.txt"])
    assert await value(context, "context['link.txt']") == "A"


async def test_the_file_that_the_context_is_can_be_opened(tmp_path: Path) -> None:
    path = tree(tmp_path, book="one\ntwo\n") / "book.txt"
    assert await value(path, "open('book.txt').readlines()[1]") == "two\n"
    assert await value(path, "open('./book.txt', 'rb').read(3)") == "b'one'"
    assert await value(path, "__import__('os').path.exists('other.txt')") == "False"


# -- several contexts -----------------------------------------------------------------------------


async def test_named_contexts_are_variables_and_one_dict(tmp_path: Path) -> None:
    folder = tree(tmp_path / "in", a="A")
    (tmp_path / "rows.jsonl").write_text('{"n": 1}\n')
    context = Context.named(
        book="text", rows=tmp_path / "rows.jsonl", files=folder, facts={"k": "v"}
    )
    code = (
        "(book, rows, files['a.txt'], facts, list(context), context['book'], open('a.txt').read())"
    )
    got, said = await asked(context, code)
    names = ["book", "rows", "files", "facts"]
    assert got == str(("text", [{"n": 1}], "A", {"k": "v"}, names, "text", "A"))
    assert "- `book`: str, 4 characters\n- `rows`: list" in said


async def test_two_folders_with_the_same_names_are_kept_apart(tmp_path: Path) -> None:
    one, two = tree(tmp_path / "1", a="A1"), tree(tmp_path / "2", a="A2")
    context = Context.named(one=one, two=two)
    assert await value(context, "(one['a.txt'], two['a.txt'])") == "('A1', 'A2')"


@pytest.mark.parametrize("name", ["context", "answer", "class", "a b", "_x", "1", ""])
def test_names_that_no_context_may_have(name: str) -> None:
    with pytest.raises(InputError, match=f"a context cannot be named '{name}'"):
        Context.named(**{name: "text"})


def test_no_names_and_names_in_names() -> None:
    with pytest.raises(InputError, match="no contexts were given"):
        Context.named()
    with pytest.raises(InputError, match="cannot be named 'both' here"):
        Context.named(both=Context.named(a="1", b="2"))


async def test_as_many_as_there_may_be() -> None:
    many = {f"part{number}": ["word " * 40] * 150 for number in range(60)}
    assert await value(Context.named(**many), "len(context)") == "60"


# -- what the root sees ---------------------------------------------------------------------------


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("kind", ["str", "list", "dict", "folder", "named", "jsonl"])
async def test_the_root_never_sees_the_text_beyond_the_preview(
    dialect: str, kind: str, tmp_path: Path
) -> None:
    text = "".join(f"w{number:05d} " for number in range(2000))
    tree(tmp_path / "in", a=text)
    (tmp_path / "rows.jsonl").write_text(json.dumps({"k": text}) + "\n")
    given: Any = {
        "str": text,
        "list": [text, text],
        "dict": {"k": text},
        "folder": tmp_path / "in",
        "named": Context.named(one=text, two=[text]),
        "jsonl": tmp_path / "rows.jsonl",
    }[kind]
    root = Recorder(says("I do not know.", "no", "no"))
    harness = RLMCard(dialect=dialect, limits={"max_turns": 1})
    await RLM(root, echoes(), harness).run("Q?", given)
    said = "".join(message["content"] for asked in root.asked for message in asked)
    seen = [number for number in range(2000) if f"w{number:05d}" in said]
    assert len(seen) <= 30  # 200 characters of preview
    assert kind != "folder" or not seen


async def test_many_parts_and_bad_ones_are_told_apart(tmp_path: Path) -> None:
    lists = {f"part{n}": [f"a text of its own, number {i}" for i in range(150)] for n in range(99)}
    async with Repl(Context.named(**lists), None, cell_timeout_s=9, keep_chars=99) as repl:  # type: ignore[arg-type]
        assert repl.metadata.items == 99
    with pytest.raises(InputError, match="101 contexts were given"):
        Context.named(**{f"part{n}": "x" for n in range(101)})
    (tmp_path / "bad.txt").write_bytes(b"\xff\xfe" * 99)
    both = Context.named(bad=tmp_path / "bad.txt", big="x" * 20_000_000)
    with pytest.raises(InputError, match="is not UTF-8 text"):
        await Repl(both, None, cell_timeout_s=9, keep_chars=99).start()  # type: ignore[arg-type]
