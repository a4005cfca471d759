"""What a session keeps, what it may have, and what all of them may have together."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import time

import pytest

from rlm_executor import RLM, Context
from rlm_executor.errors import SandboxError
from rlm_executor.sandbox import host, pool, tiers
from rlm_executor.sandbox.host import Call, CallReply, Repl
from tests.rlm_executor.scripted import block, card, echoes, finish, says

pytestmark = pytest.mark.real_sandbox


def soon() -> float:
    return time.monotonic() + 60


class Leaf:
    """Counts what it is asked; no two of its replies are the same."""

    def __init__(self) -> None:
        self.asked = 0

    async def __call__(self, call: Call) -> list[CallReply]:
        self.asked += len(call.prompts)
        return [CallReply(f"{prompt} {self.asked}") for prompt in call.prompts]


def session(leaf: Leaf | None = None, context: str = "some text", **options) -> Repl:
    options = {"cell_timeout_s": 1.0, "keep_chars": 10_000, "grace_s": 0.3, **options}
    return Repl(Context.of(context), leaf or Leaf(), **options)


# -- after a kill -----------------------------------------------------------------------------


async def test_a_killed_cell_leaves_all_that_was_made_before() -> None:
    leaf = Leaf()
    async with session(leaf) as repl:
        for code in (
            "import json as j\nclass C: kind = 'c'\ndef f(x): return x + n",
            "n = 1\nm = n + 'wrong'",  # half of it counts
            "a = llm_query('p')\nb = llm_query_batched(['q', 'r', 'q'])",
            "open('notes', 'w').write('kept')\nanswer['content'] = a",
        ):
            await repl.execute(code, deadline=soon())
        asked = leaf.asked
        cell = await repl.execute(
            "n = 99\nimport itertools\nsum(itertools.repeat(0))", deadline=soon()
        )
        assert (cell.status, cell.restored) == ("died", True)
        assert leaf.asked == asked  # nothing was asked again
        after = await repl.execute(
            "print(f(1), C.kind, j.dumps(b), a, open('notes').read(), answer['content'])",
            deadline=soon(),
        )
    assert after.output == '2 c ["q 3", "r 3", "q 3"] p 1 kept p 1\n'


async def test_a_session_that_was_told_too_much_starts_afresh(monkeypatch) -> None:
    monkeypatch.setattr(host, "_MOST_REPLAYED_BYTES", 500)
    async with session() as repl:
        await repl.execute("a = [llm_query(str(i)) for i in range(5)]", deadline=soon())
        cell = await repl.execute("import os\nos._exit(0)", deadline=soon())
        assert (cell.status, cell.restored) == ("died", False)
        after = await repl.execute("print('a' in globals(), context)", deadline=soon())
        assert after.output == "False some text\n"
        await repl.execute("n = 1", deadline=soon())
        cell = await repl.execute("import os\nos._exit(0)", deadline=soon())
        assert cell.restored  # from here on it can be


async def test_a_state_that_cannot_be_told_costs_no_more_than_that() -> None:
    async with session() as repl:
        await repl.execute("n = 1", deadline=soon())
        await repl.execute(
            "class S(str):\n    def __str__(self):\n        while True: pass\n"
            "answer['content'] = [S()] if False else 'x'\nn = 2",
            deadline=soon(),
        )
        assert "- n: int 2" in await repl.state()
        repl._link.send(b"E", 5, "9", "import time\ntime.sleep(3)")  # it listens to nobody now
        assert await repl.state() == ""
        assert (await repl.execute("print(n)", deadline=soon())).output == "2\n"


async def test_a_cell_that_also_fails_the_second_time_costs_the_variables() -> None:
    async with session() as repl:
        # It lives the first time only: what it reads there is not in its replay.
        await repl.execute("n = 1", deadline=soon())
        repl._past[0].code = "import os\nos._exit(1)"
        cell = await repl.execute("import os\nos._exit(0)", deadline=soon())
        assert (cell.status, cell.restored) == ("died", False)
        assert (await repl.execute("print('n' in globals())", deadline=soon())).output == "False\n"


async def test_cells_keep_their_numbers_after_a_kill() -> None:
    async with session() as repl:
        await repl.execute("n = 1", deadline=soon())
        await repl.execute("import os\nos._exit(0)", deadline=soon())
        cell = await repl.execute("1 / 0", deadline=soon())
    assert '"<cell 3>", line 1' in cell.error


# -- files ------------------------------------------------------------------------------------

FILES = """
with open('a.csv', 'w') as f:
    f.write('x,y\\n1,2\\n')
    print('3,4', file=f)
import csv, os, pathlib
print(list(csv.reader(open('a.csv'))), os.path.exists('a.csv'), os.path.getsize('a.csv'))
open('a.csv', 'a').write('5,6\\n')
print(pathlib.Path('a.csv').read_text().count(','), open('./a.csv', 'rb').read(3))
with open('a.csv', 'r+') as f:
    f.read(1); f.seek(0); f.write('z')
print(open('a.csv').readline(), end='')
os.remove('a.csv')
print(os.path.exists('a.csv'))
"""


async def test_files_of_ones_own_work() -> None:
    async with session() as repl:
        cell = await repl.execute(FILES, deadline=soon())
    assert cell.output == (
        "[['x', 'y'], ['1', '2'], ['3', '4']] True 12\n4 b'x,y'\nz,y\nFalse\n"
    ), cell


@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("open('/etc/passwd')", "there are no files here, only those that you write yourself"),
        ("open('x', 'rw')", "ValueError: invalid mode: 'rw'"),
        ("open('x', 'rb', encoding='utf-8')", "ValueError: binary mode"),
        ("open('y', 'w').read()", "UnsupportedOperation: not readable"),
        ("open('z', 'x'); open('z', 'x')", "FileExistsError"),
        ("open(0)", "files are opened by name here"),
        ("import os; os.remove('x')", "there are no files here"),
        ("import numpy", "this REPL has the standard library only"),
        ("import xml.sax.nothing", "ModuleNotFoundError"),
    ],
)
async def test_what_is_not_there_says_so(code: str, error: str) -> None:
    async with session() as repl:
        cell = await repl.execute(code, deadline=soon())
    assert cell.status == "error" and error in cell.error


async def test_the_context_s_own_file_can_be_opened(tmp_path) -> None:
    path = tmp_path / "book.txt"
    path.write_text("a sparrow\n")
    repl = Repl(Context.from_file(path), Leaf(), cell_timeout_s=5, keep_chars=100)
    async with repl:
        cell = await repl.execute("print(open('book.txt').read() == context)", deadline=soon())
        other = await repl.execute(f"open({str(path)!r})", deadline=soon())
    assert cell.output == "True\n" and other.status == "error"


# -- limits -----------------------------------------------------------------------------------


async def test_all_sessions_together_have_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool.watch, "limit", 300 << 20)
    touch = "for i in range(0, len(x), 4096): x[i] = 1"
    bomb = f"import time\nx = bytearray(200 << 20)\n{touch}\ntime.sleep(2)"
    async with session(cell_timeout_s=10) as one, session(cell_timeout_s=10) as two:
        cells = await asyncio.gather(*(repl.execute(bomb, deadline=soon()) for repl in (one, two)))
    assert sorted(cell.status for cell in cells) == ["died", "ok"]
    (died,) = [cell for cell in cells if cell.status == "died"]
    assert "all sessions together" in died.error


async def test_a_wide_context_has_more_room() -> None:
    narrow, wide = "a" * 20_000_000, "\U0001f600" * 20_000_000
    sizes = []
    for text in (narrow, wide):
        async with session(context=text, cell_timeout_s=20) as repl:
            sizes.append(int(repl.posture.split("memory=")[1].split("M")[0]))
            cell = await repl.execute("x = [context[1:] for _ in range(4)]", deadline=soon())
            assert cell.status == "ok", cell
    assert sizes[1] > sizes[0] + 300


async def test_a_hundred_sessions_at_once() -> None:
    repls = [session() for _ in range(100)]
    await asyncio.gather(*(repl.start() for repl in repls))
    cells = await asyncio.gather(
        *(repl.execute(f"print({number})", deadline=soon()) for number, repl in enumerate(repls))
    )
    for repl in repls:
        repl.close()
    assert [cell.output for cell in cells] == [f"{number}\n" for number in range(100)]


# -- kinds of isolation -----------------------------------------------------------------------


async def test_the_result_says_what_held_the_code() -> None:
    result = await RLM(says(finish("'x'")), echoes(), card()).run("Q?", "text")
    assert result.posture.startswith("isolation=sealed uid=")
    assert "seccomp=allow-list" in result.posture and "memory=" in result.posture


async def test_none_is_spelled_out_and_warns_every_time(caplog: pytest.LogCaptureFixture) -> None:
    root = says(block("import os\nprint(os.path.exists('/'))"), finish("os.getcwd()"))
    with caplog.at_level(logging.WARNING):
        result = await RLM(root, echoes(), card(), isolation="none").run("Q?", "text")
    assert (result.answer, result.posture) == ("/", "isolation=none")
    assert "isolation is off" in caplog.text


def test_what_cannot_be_had_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SandboxError, match="'jail' is not known; use sealed, "):
        tiers.check_platform("jail")
    monkeypatch.setattr(tiers.platform, "machine", lambda: "aarch64")
    with pytest.raises(SandboxError, match="never tested on aarch64; use another machine, or"):
        tiers.check_platform("sealed")
    monkeypatch.setattr(tiers.platform, "machine", lambda: "riscv64")
    with pytest.raises(SandboxError, match="has no table on riscv64"):
        tiers.check_platform("sealed")
    tiers.check_platform("none")
    monkeypatch.setattr(tiers.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(tiers.shutil, "which", lambda name: None)
    with pytest.raises(SandboxError, match="needs bubblewrap .*install it, or use"):
        tiers.check_platform("sealed+ns")
    monkeypatch.setattr(tiers.sys, "platform", "darwin")
    with pytest.raises(SandboxError, match="needs Linux, this is darwin"):
        tiers.check_platform("sealed")


async def test_files_tier_has_a_scratch_folder_and_nothing_else() -> None:
    async with session(isolation="files", cell_timeout_s=20) as repl:
        cell = await repl.execute(
            "import os\nopen('x', 'w').write('kept')\n"
            "print(open('x').read(), os.listdir('.'))\n"
            "os.mkdir('d')\nos.rename('x', 'd/y')\nprint(os.path.getsize('d/y') == 4)",
            deadline=soon(),
        )
        assert cell.output == "kept ['x']\nTrue\n", cell
        folder = repl._place and repl._place.scratch
        for code in ("open('/etc/passwd')", "open('/etc/x', 'w')", "import os; os.fork()",
                     "import socket; socket.socket()"):  # fmt: skip
            assert (await repl.execute(code, deadline=soon())).status == "error", code
        assert repl.posture.startswith("isolation=files")
    assert folder
    end = time.monotonic() + 10
    while os.path.exists(folder) and time.monotonic() < end:
        await asyncio.sleep(0.01)
    assert not os.path.exists(folder)


async def test_modules_that_are_asked_for_are_there() -> None:
    pytest.importorskip("numpy")
    root = says(finish("__import__('numpy').eye(3).sum()"))
    result = await RLM(root, echoes(), card(), preload=("numpy",)).run("Q?", "text")
    assert result.answer == "3.0"


@pytest.mark.skipif(shutil.which("bwrap") is None, reason="bubblewrap is not installed")
async def test_namespaces_can_be_put_around_it() -> None:
    async with session(isolation="sealed+ns", cell_timeout_s=20) as repl:
        cell = await repl.execute("import os\nprint(context, os.getpid() < 50)", deadline=soon())
        assert cell.output == "some text True\n", cell  # a process table of its own
        assert repl.posture.startswith("isolation=sealed+ns uid=")
        died = await repl.execute("import os\nos._exit(0)", deadline=soon())
        assert died.restored
