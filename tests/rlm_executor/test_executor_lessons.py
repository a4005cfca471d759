"""Faults that other executors of recursive language models have had, none of which is ours.

Most were seen in the package `rlms` (0.1.1 and 0.1.3) and its issue tracker; each test is the
smallest run that would show the fault.
"""

from __future__ import annotations

import asyncio
import os
import time

import pytest

from rlm_executor import RLM, Completion, Context, RLMResult, ScriptedLM
from rlm_executor.errors import ServerUnavailable
from rlm_executor.journal import Event
from rlm_executor.sandbox.host import Repl
from tests.rlm_executor.rlms_runs import stand_in
from tests.rlm_executor.scripted import Recorder, block, card, counted, echoes, finish, says

pytestmark = pytest.mark.real_sandbox
BIRDS = "sparrow\nheron\n\nwren\n"


async def ran(*replies: str | Completion, **limits: float) -> tuple[RLMResult, str]:
    """The result of a run, and all that its root was told after the opening."""
    root = Recorder(says(*replies))
    result = await RLM(root, echoes(), card(**limits)).run("How many birds?", BIRDS)
    return result, said_to(root)


async def ran_final(*replies: str) -> tuple[RLMResult, str]:
    """The same with FINAL and FINAL_VAR."""
    root = Recorder(says(*replies))
    harness = card().model_copy(update={"dialect": stand_in("final")})
    result = await RLM(root, echoes(), harness).run("How many birds?", BIRDS)
    return result, said_to(root)


def said_to(root: Recorder) -> str:
    said = [message for message in root.asked[-1][2:] if message["role"] == "user"]
    return "\n".join(message["content"] for message in said)


# What is in the REPL.


async def test_variables_survive_an_exception() -> None:
    result, _ = await ran(block("n = llm_query('dear')\n1 / 0"), finish("n"))
    assert result.answer == "DEAR"


async def test_functions_see_globals_as_they_are() -> None:
    result, _ = await ran(
        block("k = 1\ndef get():\n    return k"), block("k = 2"), finish("str(get())")
    )
    assert result.answer == "2"


async def test_classes_can_be_defined() -> None:
    code = (
        "from dataclasses import dataclass\n@dataclass\nclass Bird:\n    name: str\n"
        "answer.update(content=Bird('wren').name, ready=True)"
    )
    assert (await ran(block(code)))[0].answer == "wren"


@pytest.mark.parametrize("name", ["ZeroDivisionError", "TimeoutError", "frozenset", "exec"])
async def test_builtins_are_there(name: str) -> None:
    assert (await ran(finish(f"{name}.__name__")))[0].answer == name


async def test_errors_name_their_line() -> None:
    _, told = await ran(block("x = 1\ny = [x]\ny[5]"), finish("x"))
    assert "line 3" in told and "y[5]" in told and "IndexError" in told


async def test_own_names_can_be_overwritten_by_accident() -> None:
    result, _ = await ran(
        block("context = llm_query = SHOW_VARS = None"), finish("llm_query(context[:5])")
    )
    assert result.answer == "SPARR"


async def test_exit_does_not_end_the_run() -> None:
    result, told = await ran(block("import sys\nsys.exit(1)"), finish("'still here'"))
    assert result.answer == "still here" and "SystemExit" in told


async def test_an_endless_loop_ends_and_keeps_what_was_made() -> None:
    result, _ = await ran(block("n = 7\nwhile True:\n    pass"), finish("str(n)"), cell_timeout_s=1)
    assert result.answer == "7"


async def test_keys_in_the_environment_cannot_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_API_KEY", "secret-" + "key")
    code = f"import os\nprint(dict(os.environ))\nprint(open('/proc/{os.getpid()}/environ').read())"
    _, told = await ran(block(code), finish("1"))
    assert "secret-key" not in told


async def test_two_repls_at_once_keep_their_output_apart() -> None:
    async def nothing(call: object) -> list[object]:
        return []

    async def one(word: str) -> str:
        repl = Repl(
            Context.from_text(word),
            nothing,  # type: ignore[arg-type]
            cell_timeout_s=20,
            keep_chars=9999,
        )
        code = "import time\nfor _ in range(20):\n    print(context)\n    time.sleep(0.01)"
        async with repl:
            return (await repl.execute(code, deadline=time.monotonic() + 30)).output

    outputs = await asyncio.gather(one("left"), one("right"))
    assert outputs == ["left\n" * 20, "right\n" * 20]


# The dict `answer`.


async def test_ready_may_come_before_content() -> None:
    code = "answer['ready'] = True\nanswer['content'] = 'three'"
    assert (await ran(block(code)))[0].answer == "three"


async def test_answer_can_be_updated() -> None:
    code = "answer.update({'content': 'three', 'ready': True})"
    assert (await ran(block(code)))[0].answer == "three"


async def test_a_new_answer_dict_survives_an_exception() -> None:
    code = "answer = {'content': 'three', 'ready': True}\n1 / 0"
    result, _ = await ran(block(code), block("print('checked')"))
    assert result.answer == "three"


async def test_an_empty_answer_is_none() -> None:
    result, told = await ran(block("answer['ready'] = True"), finish("'three'"))
    assert result.answer == "three" and "empty" in told


async def test_at_the_turn_limit_the_answer_so_far_counts() -> None:
    result, _ = await ran(block("answer['content'] = 'three'"), "I give up.", max_turns=1)
    assert result.answer == "three"


# FINAL and FINAL_VAR in a text.


async def test_a_full_stop_behind_final() -> None:
    assert (await ran_final("FINAL(3 birds)."))[0].answer == "3 birds"


async def test_final_ends_at_its_own_bracket() -> None:
    result, _ = await ran_final("FINAL(3 (three) birds)\nI counted them (twice)")
    assert result.answer == "3 (three) birds"


async def test_final_in_a_code_block_is_no_text() -> None:
    result, _ = await ran_final("```python\nFINAL(n)\n```", "FINAL(3 birds)")
    assert result.answer == "3 birds" and result.turns == 2


async def test_final_beside_unread_output_is_doubted_once() -> None:
    guess = block("print('no birds')") + "\nFINAL(5 birds)"
    assert (await ran_final(guess, "FINAL(0 birds)"))[0].answer == "0 birds"
    assert (await ran_final(guess, guess))[0].answer == "5 birds"


async def test_final_of_a_variable_is_its_value() -> None:
    assert (await ran_final(block("result = 'three'"), "FINAL(result)"))[0].answer == "three"


async def test_final_var_of_what_is_not_there_is_told() -> None:
    result, told = await ran_final(block("n = 3"), "FINAL_VAR(m)", "FINAL_VAR(n)")
    assert result.answer == "3" and "no variable 'm'" in told


# Fences.


async def test_a_fence_inside_a_string_does_not_cut_the_block() -> None:
    result, _ = await ran(block("text = '''\n```\nx\n```\n'''\n" + "print(1)"), finish("text"))
    assert result.answer == "\n```\nx\n```\n" and result.error_cells == 0


async def test_a_block_that_was_never_closed() -> None:
    assert (await ran("```repl\nanswer.update(content='x', ready=True)"))[0].answer == "x"
    cut = Completion("```repl\nprint(", finish_reason="length")
    assert "closing fence" in (await ran(cut, finish("1")))[1]


async def test_a_python_fence_is_code() -> None:
    assert (await ran(finish("'x'").replace("repl", "python")))[0].answer == "x"


async def test_invented_output_is_no_observation() -> None:
    invented = block("n = 1\nprint(n)") + "\nREPL output:\n7\n\nSo it is 7.\n" + finish("'7'")
    result, told = await ran(invented, finish("str(n)"))
    assert result.answer == "1" and "7" not in told


# Sub-calls.


async def test_a_failed_sub_call_is_an_error_and_no_text() -> None:
    def fails(_: object) -> str:
        raise ServerUnavailable("no answer")

    root = Recorder(says(block("r = llm_query('x')\nprint('got', r)"), finish("'none'")))
    await RLM(root, ScriptedLM(fails), card()).run("Q?", BIRDS)
    assert "ServerUnavailable" in said_to(root) and "got" not in said_to(root).split("\n")[0]


async def test_the_program_is_not_told_where_a_model_is_served() -> None:
    def fails(_: object) -> str:
        raise ServerUnavailable("leaf at http://10.1.2.3:8000/v1: no answer after 5 attempts")

    root = Recorder(says(block("llm_query('x')"), finish("'none'")))
    await RLM(root, ScriptedLM(fails), card()).run("Q?", BIRDS)
    assert "no answer after 5 attempts" in said_to(root) and "10.1.2.3" not in said_to(root)


async def test_each_call_of_a_batch_has_its_own_usage() -> None:
    events: list[Event] = []
    sub = ScriptedLM(lambda said: counted("ok", len(said[-1]["content"]), 1), "leaf")
    root = says(finish("llm_query_batched(['a', 'b' * 20, 'c' * 300])"))
    result = await RLM(root, sub, card(), on_event=events.append).run("Q?", BIRDS)
    calls = [event for event in events if event["type"] == "call"]
    assert sorted(call["usage"]["prompt_tokens"] for call in calls) == [1, 20, 300]
    assert result.sub.prompt_tokens == 321


async def test_what_a_child_used_counts_for_its_parent() -> None:
    root = says(
        counted(block("r = rlm_query('task')"), 10, 1),
        counted(finish("llm_query('leaf')"), 200, 20),
        counted(finish("r"), 10, 1),
    )
    sub = ScriptedLM(lambda _: counted("fine", 3000, 300), "leaf")
    result = await RLM(root, sub, card(max_depth=2)).run("Q?", BIRDS)
    assert result.answer == "fine"
    assert (result.root.prompt_tokens, result.sub.prompt_tokens) == (20, 3200)
    assert (result.root.completion_tokens, result.sub.completion_tokens) == (2, 320)


async def test_below_the_deepest_run_rlm_query_is_a_plain_call() -> None:
    result, _ = await ran(finish("rlm_query('deep')"), max_depth=1)
    assert result.answer == "DEEP" and result.sub.calls == 1
