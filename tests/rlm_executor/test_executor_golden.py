"""Every byte that a model is sent, against files that people can read: tests/golden/executor/.

After an intended change of wording: `UPDATE_GOLDEN=1 python -m pytest -k golden tests/rlm_executor`
and read the difference. Models trained on the old wording keep it: it is in their card.
"""

from __future__ import annotations

import os

import pytest

from rlm_executor import DIALECTS, RLM, Completion, RLMCard, RLMResult, ScriptedLM
from rlm_executor.context import Metadata
from rlm_executor.errors import ServerUnavailable
from tests.rlm_executor.scripted import (
    GOLDEN,
    Recorder,
    block,
    card,
    counted,
    echoes,
    finish,
    says,
    transcript,
)

BIRDS = "sparrow\nheron\n\nwren\n"
RUNS: dict[str, tuple[list[str | Completion | Exception], RLMCard]] = {
    "plain": (
        [block("print(context)", "First I look."), finish("len(context.split())")],
        card(),
    ),
    "sub_calls": (
        [
            block("print(llm_query('one'))\nprint(llm_query_batched(['two', 'three']))"),
            finish("['a', 'b']"),
        ],
        card(),
    ),
    "several_blocks": (
        [
            block("print('first')") + "\nand\n" + block("x = [1, 2]\nprint(x)"),
            block("print('kept')\nprint(x[5])") + "\n" + block("print('never run')"),
            block("def f(n):\n    return 1 // n\nf(1)\nf(0)"),
            finish("x"),
        ],
        card(),
    ),
    "feedback": (
        [
            "The answer is surely 3.",
            Completion("I start.\n```repl\nprint(", finish_reason="length"),
            Completion(block("x = 1") + "\n```repl\nprint(", finish_reason="length"),
            block("print(x)") + "\nREPL output:\n7\n" + finish("7"),
            block("answer['ready'] = True"),
            block("answer = 'three'"),
            block("x = 2"),
            finish("x"),
        ],
        card(),
    ),
    "cut": (
        [
            block("print('x' * 1000)"),
            block("for i in range(30):\n    print('line', i)\n1 / 0"),
            block("raise ValueError('y' * 1000)"),
            finish("1"),
        ],
        card(observation_chars=200),
    ),
    "time": (
        [
            block("n = 1\nimport time\ntime.sleep(60)"),
            block("import os\nos._exit(3)"),
            block("print(n)"),
            finish("1"),
        ],
        card(cell_timeout_s=1),
    ),
    "landing_max_turns": (
        [
            block("words = context.split()\nn = len(words)\nratio = n / 7"),
            block("by_length = {w: len(w) for w in words}\nseen = set()\nprint(n)"),
            "It is 3.",
        ],
        card(max_turns=2),
    ),
    "landing_max_calls": (
        [
            block("answer['content'] = 'so far'\nfor i in range(9):\n    last = llm_query(str(i))"),
            finish("last"),
        ],
        card(max_calls=3),
    ),
    "landing_root_window": (
        [
            counted(block("found = [7]\nprint('x' * 4000)"), 700, 20),
            "Seven.",
        ],
        card(max_tokens_per_turn=300).model_copy(update={"root_window": 1500}),
    ),
    "compact": (
        [block("print(context[:7])"), finish("'heron'")],
        RLMCard(dialect="answer-compact"),
    ),
}


def check(name: str, text: str) -> None:
    path = GOLDEN / f"{name}.txt"
    if os.environ.get("UPDATE_GOLDEN"):
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")


def outcome(result: RLMResult) -> str:
    facts = (result.answer, result.stop_reason, result.answer_source)
    return f"=== result\n{facts}, {result.turns} turns, {result.error_cells} error cells\n"


@pytest.mark.real_sandbox
@pytest.mark.parametrize("name", RUNS)
async def test_golden_transcript(name: str) -> None:
    replies, harness = RUNS[name]
    root = Recorder(says(*replies))
    result = await RLM(root, echoes(), harness).run("How many birds?", BIRDS)
    text = transcript(root.asked[-1][1:])  # the system message has a file of its own
    last = replies[-1]
    text += f"=== last reply\n{last.text if isinstance(last, Completion) else last}\n"
    check(f"run_{name}", text + outcome(result))
    if "landing_root_window" != name:
        shown = root.asked[-1]
        for asked in root.asked[:-1]:  # the prefix stays, so a server's cache of it stays good
            assert shown[: len(asked)] == asked


@pytest.mark.parametrize("name", DIALECTS)
def test_golden_system_prompt(name: str) -> None:
    messages = DIALECTS[name].opening("{Who} is in {it}?", Metadata("str", 123456, 789))
    assert [message["role"] for message in messages] == ["system", "user"]
    check(f"opening_{name}", transcript(messages))


def test_the_compact_prompt_is_short() -> None:
    assert len(DIALECTS["answer-compact"].system.split()) <= 80


@pytest.mark.real_sandbox
async def test_golden_errors_of_sub_calls() -> None:
    def leaf(prompt: str) -> str | Completion:
        if prompt == "away":
            raise ServerUnavailable("base: no answer after 5 attempts")
        if prompt == "thinks":
            return Completion("<think>\nlong", finish_reason="length")
        if prompt == "cut":
            return Completion("a, b, c", finish_reason="length")
        return "" if prompt == "mute" else prompt

    sub = ScriptedLM(lambda messages: leaf(messages[0]["content"]), "base")
    root = Recorder(
        says(
            *(block(f"llm_query({prompt!r})") for prompt in ("away", "thinks", "cut", "mute")),
            block("llm_query_batched(['x', 'mute', 'y'])"),
            block("llm_query('z' * 600000)"),
            finish("llm_query('fine')"),
        )
    )
    result = await RLM(root, sub, card()).run("Q?", BIRDS)
    check("sub_call_errors", transcript(root.asked[-1][1:]) + outcome(result))
