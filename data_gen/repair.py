"""Finish mistakes of a teacher, mended: the run's replies as they should have been.

arXiv 2512.24601 App. A: 16% of the teacher's turns misused FINAL, 13% called a variable wrongly as
the answer; both hurt the student, and programs that mended them helped. Here the last word of a
run counts: the mistake that ended it is mended (and what came behind is cut off), an earlier one,
which the run went on from, is taken out. In the family ``final``:

    final_of_variable      FINAL(name) -> FINAL_VAR(name)
    final_var_of_text      FINAL_VAR("the text") -> FINAL(the text)
    final_expression       FINAL(f(name)) -> code that makes final_answer, then FINAL_VAR of it
    final_beside_code      FINAL next to code whose output was not seen -> a turn of its own
    final_in_code          FINAL called in the code -> a turn of its own
    final_in_fence         FINAL in a fence that is not run -> without the fence
    final_with_unrun_code  code with FINAL in a fence that is not run -> code that is run

and where the dict ``answer`` ends a run:

    answer_rebound         answer = x -> answer["content"] = x
    ready_without_content  ready set, content empty -> not ready
    ready_left_behind      an earlier ready ended the run -> it is set beside the content
    never_ready            content set and nothing done after it -> ready

A mended run has other messages than the recorded one: ``rerun`` makes them, in the real executor.
"""

from __future__ import annotations

from collections import defaultdict, deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_gen.repair_answer import mend_answer
from data_gen.repair_final import mend_final
from data_gen.replies import Fix, Mended, Unmendable, said_in
from rlm_executor import (
    RLM,
    Completion,
    Message,
    Price,
    RLMCard,
    RLMResult,
    ScriptedLM,
    Trajectory,
)
from rlm_executor.errors import InputError, ServerUnavailable
from rlm_executor.files import sha256_text
from rlm_executor.rlm import Asked

FIXES = (
    "final_of_variable",
    "final_var_of_text",
    "final_expression",
    "final_beside_code",
    "final_in_code",
    "final_in_fence",
    "final_with_unrun_code",
    "answer_rebound",
    "ready_without_content",
    "ready_left_behind",
    "never_ready",
)


@dataclass(frozen=True)
class Repaired:
    """What a run's replies should have been.

    replies: in order, each with the recorded turn that it comes from; two may come from one.
    fixes: what was mended, by recorded turn; none: the replies are those recorded.
    left_out: recorded turns of which nothing is left.
    dropped: the rule that drops the run because nothing mends it, or "".
    """

    replies: tuple[Mended, ...]
    fixes: tuple[Fix, ...] = ()
    left_out: int = 0
    dropped: str = ""


def repair(trajectory: Trajectory) -> Repaired:
    """Mend a run's finish mistakes; a run without any is given back as it is."""
    replies, dialect = said_in(trajectory)
    as_said = tuple(Mended(said.text, said.turn) for said in replies)
    answered = trajectory.end is not None and trajectory.end["stop_reason"] == "answered"
    mend = mend_answer if dialect.finish == "answer" else mend_final
    try:
        mended, fixes = mend(replies, dialect, answered)
    except Unmendable as error:
        return Repaired(as_said, dropped=str(error))
    left_out = len(replies) - len({reply.turn for reply in mended})
    return Repaired(tuple(mended), tuple(fixes), left_out)


async def rerun(
    trajectory: Trajectory,
    repaired: Repaired,
    context: Asked,
    journal: Path,
    *,
    isolation: str = "sealed",
) -> tuple[RLMResult, bool]:
    """Say the mended replies in the real executor, over the run's own context.

    Sub-calls are answered as recorded, so no model is asked; one that was never made fails.

    Returns:
        The result, and whether the run took every reply and ended with an answer (or, unfinished
        before, as it had).

    Raises:
        InputError: the run had started runs; their replies are not mended.
    """
    run = trajectory.run
    if trajectory.children:
        raise InputError(f"{journal.name}: a run that has started runs can't be said again")
    reasons = [row["finish_reason"] for row in trajectory.turn_rows if "error" not in row]
    said = [Completion(one.text, finish_reason=reasons[one.turn]) for one in repaired.replies]
    root, sub = run["models"]
    rlm = RLM(
        _in_turn(said, root),
        _recorded(trajectory, sub),
        RLMCard.model_validate(run["card"]),
        journal=journal,
        prelude=run["prelude"],
        task=run["task"],
        isolation=isolation,
        preload=(*run.get("preload", ()),),
        models={name: _recorded(trajectory, model) for name, model in run.get("named", {}).items()},
        prices={model: Price(prompt=0, completion=0) for model in run.get("prices", {})},
    )
    result = await rlm.run(run["question"], context)
    ends = {"answered", trajectory.end["stop_reason"] if trajectory.end else "answered"}
    return result, result.turns == len(said) and result.stop_reason in ends


def _in_turn(said: list[Completion], model: str) -> ScriptedLM:
    left = deque(said)

    def say(_: list[Message]) -> Completion:
        if not left:
            raise ServerUnavailable("the mended run had ended here")
        return left.popleft()

    return ScriptedLM(say, model)


def _recorded(trajectory: Trajectory, model: str) -> ScriptedLM:
    """The replies that a model gave in the recorded run, by what it was asked."""
    rows: defaultdict[str, deque[dict[str, Any]]] = defaultdict(deque)
    for row in trajectory.calls:
        if row.get("model", trajectory.run["models"][1]) == model:
            rows[row["prompt_sha256"]].append(row)

    def say(messages: list[Message]) -> Completion:
        known = rows[sha256_text(messages[-1]["content"])]
        if not known:
            raise ServerUnavailable("the recorded run never asked this")
        row = known.popleft()
        if "reply" not in row:
            raise ServerUnavailable(row["message"])
        return Completion(row["reply"], finish_reason=row["finish_reason"])

    return ScriptedLM(say, model)
