"""The REPL in its real process: state, errors, limits, and what it must not know."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from rlm_executor import Context
from rlm_executor.errors import InputError
from rlm_executor.sandbox.host import Call, CallReply, Cell, Repl
from rlm_executor.sandbox.pool import Pool
from tests.attacks.kernel_view import gone, parent, pid

pytestmark = pytest.mark.real_sandbox

Answer = Callable[[Call], Awaitable[list[CallReply]]]


async def upper(call: Call) -> list[CallReply]:
    return [CallReply(prompt.upper()) for prompt in call.prompts]


async def run(
    *cells: str,
    context: Context | str = "some text",
    answer: Answer = upper,
    timeout: float = 60,
    seconds: float = 120,
    keep: int = 10_000,
    grace: float = 10,
) -> list[Cell]:
    """The cells, one after another in one session; a dead one is started anew."""
    results = []
    repl = Repl(Context.of(context), answer, cell_timeout_s=timeout, keep_chars=keep, grace_s=grace)
    async with repl:
        for code in cells:
            cell = await repl.execute(code, deadline=time.monotonic() + seconds)
            results.append(cell)
            if cell.status == "died":
                await repl.start()
    return results


# -- state ------------------------------------------------------------------------------------


async def test_what_modules_import_late_is_there() -> None:
    (cell,) = await run(
        "import datetime, time\n"
        "print(datetime.datetime.strptime('03.02.1999', '%d.%m.%Y').date(), end=' ')\n"
        "print(time.strptime('1999', '%Y').tm_year)"
    )
    assert cell.output == "1999-02-03 1999\n"


async def test_names_functions_classes_and_imports_stay() -> None:
    cells = await run(
        "import re, dataclasses\nn = 1\ndef f():\n    return n\n"
        "@dataclasses.dataclass\nclass P:\n    x: int\n    y: 'list[int]'",
        "n = 2\nprint(f(), P(1, []), re.findall('e', context))",
    )
    assert cells[1].output == "2 P(x=1, y=[]) ['e', 'e']\n"


async def test_assignments_before_an_exception_stay() -> None:
    cells = await run("a = 1\nb = 1 / 0", "print(a)")
    assert cells[0].status == "error"
    assert cells[1].output == "1\n"


async def test_a_traceback_shows_the_cells_own_lines_and_nothing_of_ours() -> None:
    cells = await run(
        "import json\ndef f(text):\n    return json.loads(text)", "x = 1\nprint('hi')\nf('{')"
    )
    assert cells[1].output == "hi\n"
    assert cells[1].error.splitlines()[:-1] == [
        "Traceback (most recent call last):",
        '  File "<cell 2>", line 3, in <module>',
        "    f('{')",
        '  File "<cell 1>", line 3, in f',
        "    return json.loads(text)",
    ]
    assert cells[1].error.splitlines()[-1].startswith("json.decoder.JSONDecodeError: ")


async def test_a_deep_traceback_is_shortened() -> None:
    [cell] = await run("def f():\n    f()\nf()")
    assert "RecursionError" in cell.error
    assert "more frames ..." in cell.error
    assert len(cell.error) < 1000


async def test_code_that_does_not_compile_says_where() -> None:
    cells = await run("x = 1\ny = = 2", "print('x' in globals())")
    assert 'File "<cell 1>", line 2' in cells[0].error
    assert "SyntaxError" in cells[0].error
    assert cells[1].output == "False\n"


async def test_both_streams_are_one_and_a_last_expression_is_not_echoed() -> None:
    [cell] = await run("import sys\nprint('a')\nprint('b', file=sys.stderr)\nprint('c')\n42")
    assert cell.output == "a\nb\nc\n"


async def test_a_flood_is_cut_and_its_true_length_told() -> None:
    [cell] = await run("for _ in range(1000):\n    print('x' * 999)", keep=500)
    assert cell.output == "x" * 500
    assert cell.output_chars == 1_000_000


async def test_two_sessions_do_not_mix() -> None:
    code = "import time\nfor i in range(20):\n    print(context)\n    time.sleep(0.001)"
    both = await asyncio.gather(run(code, context="a"), run(code, context="b"))
    assert [cells[0].output for cells in both] == ["a\n" * 20, "b\n" * 20]


async def test_reserved_names_are_put_back() -> None:
    cells = await run(
        "context = 'mine'\nllm_query = None\ndel SHOW_VARS\nprint(context)",
        "print(context, llm_query('x'), SHOW_VARS())",
    )
    assert cells[0].output == "mine\n"
    assert cells[1].output == "some text X Variables: none\n"


async def test_sessions_start_from_the_same_seed_and_hashes() -> None:
    code = "import random\nprint(random.random(), hash('a'), list({'x', 'y', 'z'}))"
    first, second = await run(code), await run(code)
    assert first[0].output == second[0].output


async def test_show_vars_lists_what_the_cells_made() -> None:
    cells = await run("import os\nn = 3\nwords = ['a'] * 9\n_hidden = 1", "print(SHOW_VARS())")
    assert cells[1].output == (
        "Variables:\n- n: int 3\n- words: list, 9 items: ['a', 'a', 'a', 'a', ...]\n"
    )


# -- the answer -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "text", "ready"),
    [
        ("answer['content'] = 'x'\nanswer['ready'] = True", "x", True),
        ("answer['ready'] = True\nanswer['content'] = 'x'", "x", True),
        ("answer.update(content='x', ready=True)", "x", True),
        ("answer = {'content': 'x', 'ready': True}", "x", True),
        ("answer |= dict(content=7, ready=1)", "7", True),
        ("answer['content'] = ['a', 2]\nanswer['ready'] = True", "a\n2", True),
        ("answer['content'] = 0\nanswer['ready'] = True", "0", True),
        ("answer['ready'] = True", "", True),
        ("answer = {}", "", False),
        ("del answer", "", False),
        ("answer['content'] = 'kept'\n1 / 0", "kept", False),
    ],
)
async def test_every_way_to_set_the_answer_counts(code: str, text: str, ready: bool) -> None:
    [cell] = await run(code)
    assert (cell.answer, cell.ready, cell.moved) == (text, ready, False)
    assert cell.final is (ready and bool(text))


async def test_an_answer_that_is_no_dict_is_moved_into_one() -> None:
    cells = await run("answer = 'x'", "print(answer)\nanswer['ready'] = True")
    assert (cells[0].answer, cells[0].ready, cells[0].moved) == ("x", False, True)
    assert cells[1].output == "{'content': 'x', 'ready': False}\n"
    assert cells[1].final


async def test_an_answer_that_cannot_be_read_is_none() -> None:
    code = "class Bad:\n    def __str__(self):\n        raise ValueError\nanswer['content'] = Bad()"
    [cell] = await run(code)
    assert (cell.status, cell.answer) == ("ok", "")


# -- sub-calls --------------------------------------------------------------------------------


async def test_replies_come_back_in_order() -> None:
    [cell] = await run("print(llm_query('a'), llm_query_batched(['b', 'c', 'b']))")
    assert cell.output == "A ['B', 'C', 'B']\n"


async def test_a_failed_call_raises_its_type() -> None:
    async def fails(call: Call) -> list[CallReply]:
        return [CallReply("the server is away", "ServerUnavailable")] * len(call.prompts)

    cells = await run(
        "llm_query('a')",
        "try:\n    llm_query_batched(['a', 'b'])\nexcept RuntimeError as e:\n    print(repr(e))",
        answer=fails,
    )
    assert cells[0].error.endswith("\nServerUnavailable: the server is away")
    assert cells[1].output == "ServerUnavailable('the server is away')\n"


async def test_a_batch_that_fails_in_part_keeps_the_other_replies() -> None:
    async def partly(call: Call) -> list[CallReply]:
        return [CallReply("no", "ReplyEmpty") if p == "b" else CallReply(p) for p in call.prompts]

    cells = await run(
        "try:\n    llm_query_batched(['a', 'b', 'c'])\n"
        "except Exception as e:\n    print(type(e).__name__, e.results)",
        "llm_query_batched(['a', 'b', 'c'])",
        answer=partly,
    )
    assert cells[0].output == "BatchError ['a', None, 'c']\n"
    assert "1 of 3 calls failed, the first at index 1: ReplyEmpty: no" in cells[1].error


@pytest.mark.parametrize(
    "code",
    ["llm_query(3)", "llm_query_batched('abc')", "llm_query_batched(['a', None])", "llm_query()"],
)
async def test_a_wrong_argument_is_a_type_error(code: str) -> None:
    [cell] = await run(code)
    assert "TypeError" in cell.error


async def test_threads_of_the_code_may_call() -> None:
    async def slow(call: Call) -> list[CallReply]:
        await asyncio.sleep(0.01 * (int(call.prompts[0]) % 3))
        return await upper(call)

    [cell] = await run(
        "from concurrent.futures import ThreadPoolExecutor as Pool\n"
        "with Pool(8) as pool:\n"
        "    replies = list(pool.map(llm_query, map(str, range(40))))\n"
        "print(replies == list(map(str, range(40))), llm_query('0'))",
        answer=slow,
    )
    assert cell.output == "True 0\n"


async def test_a_thread_that_outlives_its_cell_does_no_harm() -> None:
    cells = await run(
        "import threading, time\ndef later():\n    time.sleep(0.05)\n    print(llm_query('x'))\n"
        "t = threading.Thread(target=later)\nt.start()",
        "t.join()\nprint(llm_query('y'))",
    )
    assert cells[1].output == "X\nY\n"


async def test_there_are_no_other_processes() -> None:
    cells = await run("import os\nos.fork()", "import subprocess\nsubprocess.run(['true'])")
    assert [cell.status for cell in cells] == ["error", "error"]
    assert all("PermissionError: " in cell.error for cell in cells)


# -- time -------------------------------------------------------------------------------------


async def test_an_endless_loop_is_stopped_and_its_variables_kept() -> None:
    cells = await run("n = 5\nwhile True:\n    n += 0", "print(n)", timeout=0.5)
    assert cells[0].status == "timeout"
    assert cells[0].error.splitlines()[1] in (
        '  File "<cell 1>", line 2, in <module>',
        '  File "<cell 1>", line 3, in <module>',
    )
    assert cells[1].output == "5\n"


async def test_a_cell_that_will_not_stop_is_killed() -> None:
    cells = await run(
        "n = 5\nimport itertools\nsum(itertools.repeat(0))",  # C code that looks at no signal
        "print('n' in globals())",
        timeout=0.5,
        grace=0.5,
    )
    assert cells[0].status == "died"
    assert cells[1].output == "False\n"


async def test_waiting_for_a_sub_call_does_not_count() -> None:
    async def slow(call: Call) -> list[CallReply]:
        await asyncio.sleep(3)
        return await upper(call)

    [cell] = await run("print(llm_query('x'))", answer=slow, timeout=2)
    assert (cell.status, cell.output) == ("ok", "X\n")


async def test_the_deadline_ends_a_cell_that_waits_for_a_sub_call() -> None:
    cancelled = []

    async def hangs(call: Call) -> list[CallReply]:
        try:
            await asyncio.sleep(1000)
        except asyncio.CancelledError:
            cancelled.append(call)
            raise
        return []

    cells = await run("n = 1\nllm_query('x')", "print(n)", answer=hangs, seconds=1)
    assert cells[0].status == "timeout"
    assert [call.prompts for call in cancelled] == [("x",)]
    assert cells[1].output == "1\n"


async def test_an_interrupt_that_is_swallowed_ends_the_next_call() -> None:
    [cell] = await run(
        "import time\ntry:\n    time.sleep(1000)\nexcept BaseException as e:\n    print('no')\n"
        "llm_query('x')",
        timeout=0.5,
    )
    assert (cell.status, cell.output) == ("timeout", "no\n")


async def test_an_interrupt_that_comes_before_the_cell_begins_is_not_lost() -> None:
    cells = await run("n = 1\nwhile True: pass", "print(1)", seconds=0)
    assert [cell.status for cell in cells] == ["timeout", "timeout"] or cells[1].output == "1\n"


async def test_a_keyboard_interrupt_of_the_codes_own_is_an_error() -> None:
    [cell] = await run("raise KeyboardInterrupt('mine')")
    assert cell.status == "error"
    assert cell.error.endswith("KeyboardInterrupt: mine")


# -- ends and limits --------------------------------------------------------------------------


async def test_sys_exit_is_an_error_and_os_exit_costs_the_variables() -> None:
    cells = await run("n = 1\nimport sys\nsys.exit('bye')", "print(n)\nimport os\nos._exit(0)", "n")
    assert cells[0].error.endswith("SystemExit: bye")
    assert cells[1].status == "died"
    assert "NameError" in cells[2].error


async def test_a_memory_bomb_is_a_memory_error() -> None:
    cells = await run("n = 1\nx = 'x' * (1 << 33)", "print(n)")
    assert "MemoryError" in cells[0].error
    assert cells[1].output == "1\n"


async def test_noise_on_the_channel_ends_the_session_and_not_the_run() -> None:
    cells = await run(
        "import os\nfor fd in range(3, 64):\n    try: os.write(fd, b'C' + b'\\xff' * 40)\n"
        "    except OSError: pass",
        "print('fresh')",
    )
    assert cells[0].status == "died"
    assert cells[1].output == "fresh\n"


async def test_the_worker_knows_no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-very-secret")
    monkeypatch.setattr(Pool, "_pools", {})  # one that is started with the key in our hands
    [cell] = await run(
        "import os, sys\nprint(dict(os.environ))\n"
        "descriptors = []\n"
        "for descriptor in range(1024):\n"
        "    try:\n        os.get_inheritable(descriptor)\n        descriptors.append(descriptor)\n"
        "    except OSError:\n        pass\n"
        "print(descriptors, [m for m in sys.modules if 'rlm' in m or 'openai' in m], "
        "'site' in sys.modules)"
    )
    assert "secret" not in cell.output
    assert "OPENAI" not in cell.output
    assert cell.output.endswith("[0, 1, 2, 3] [] False\n")  # nowhere, and the channel


async def test_cancelling_kills_the_worker() -> None:
    pids: list[int] = []

    async def one() -> None:
        async with Repl(Context.of("x"), upper, cell_timeout_s=60, keep_chars=10) as repl:
            pids.append(pid(repl))
            await repl.execute("while True: pass", deadline=time.monotonic() + 60)

    task = asyncio.create_task(one())
    while not pids:
        await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert gone(pids[0])


def test_nothing_is_left_when_the_host_is_killed() -> None:
    script = (
        "import asyncio, time\n"
        "from rlm_executor import Context\n"
        "from rlm_executor.sandbox.host import Repl\n"
        "from rlm_executor.sandbox.memory import pid_of\n"
        "async def main():\n"
        "    async with Repl(Context.of('x'), None, cell_timeout_s=99, keep_chars=9) as repl:\n"
        "        await repl.execute('x = 1', deadline=time.monotonic() + 99)\n"
        "        print(pid_of(repl._place.pidfd), flush=True)\n"
        "        await repl.execute('while True: pass', deadline=time.monotonic() + 99)\n"
        "asyncio.run(main())\n"
    )
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    session = int(process.stdout.readline())
    home = parent(session)
    family = [session, home, parent(home)]
    process.kill()
    process.wait()
    process.stdout.close()
    assert all(gone(member, within=1) for member in family)


async def test_dead_zygotes_are_replaced() -> None:
    context = Context.of("some text")
    async with Repl(context, upper, cell_timeout_s=60, keep_chars=100) as repl:
        home = parent(pid(repl))
    os.kill(home, signal.SIGKILL)
    assert gone(home)
    [cell] = await run("print(context)", context=context)
    assert cell.output == "some text\n"
    base = Pool.of("sealed")._base
    assert base is not None
    os.kill(base.pid, signal.SIGKILL)
    assert gone(base.pid)
    [cell] = await run("print('again')", context="another")
    assert cell.output == "again\n"


# -- contexts ---------------------------------------------------------------------------------


async def test_a_context_of_64_mib_is_read_from_its_file(tmp_path: Path) -> None:
    path = tmp_path / "big.txt"
    line = "All work and no play makes Jack a dull boy. " + "." * 83 + "\n"
    with path.open("w") as file:
        for _ in range(64):
            file.write(line * (1 << 13))
        file.write("needle: 4839201\n")
    repl = Repl(Context.from_file(path), upper, cell_timeout_s=60, keep_chars=1000)
    async with repl:
        assert repl.metadata.chars == (64 << 20) + 16
        assert repl.metadata.lines == (1 << 19) + 1
        cell = await repl.execute(
            "import re\nprint(re.search(r'needle: (\\d+)', context)[1], len(context.split('\\n')))",
            deadline=time.monotonic() + 60,
        )
    assert cell.output == f"4839201 {(1 << 19) + 2}\n"


async def test_contexts_of_every_kind_of_text() -> None:
    for text in ("", "x", "a\r\nb\r", "日本語\n𝒳", "\ufeffbom\x00nul"):
        [cell] = await run("print(ascii(context), end='')", context=text)
        assert cell.output == ascii(text)


async def test_a_context_that_is_not_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "photo.jpg"
    path.write_bytes(b"\xff\xd8\xff\xe0" * 10)
    with pytest.raises(InputError, match=r"photo\.jpg is not UTF-8 text \(byte 0\)"):
        await run("1", context=Context.from_file(path))


def test_a_context_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        Context.from_file(tmp_path / "nope.txt")
    with pytest.raises(InputError, match="is a folder"):
        Context.from_file(tmp_path)
