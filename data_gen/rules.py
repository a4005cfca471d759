"""Which runs and turns become training rows: the rules of the paper and ours, each may be off.

    verdicts = [judge(row, trajectory, PRESETS["ours"]) for row, trajectory in attempts]
    verdicts = select(verdicts, PRESETS["ours"])  # what depends on the other attempts
    rows = [turn for verdict in verdicts for turn in verdict.targets * verdict.copies]

A run is dropped whole, or single turns of it are no targets (they stay in the prompts of later
ones). Sources: arXiv 2512.24601 App. A ("paper"); rl4rlm's report (window, sub-calls without
their chunk, caps and floor).
"""

from __future__ import annotations

import ast
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

from pydantic import Field

from data_gen.programs import normal_form, parse
from data_gen.repair import Repaired
from data_gen.replies import Fix
from data_gen.tasks.task import BYTES_PER_TOKEN
from rlm_executor import Message, Trajectory, Turn
from rlm_executor.config import Config
from rlm_executor.files import sha256_text

Count = Callable[[list[Message]], int]
_EXCERPT = 160
_PIECE, _LEAST_PIECE = 16, 8  # characters of a prompt that are looked up in the context
_MOST_PIECES = 64
_SIBLING = 24  # characters of the first line that prompts of one kind share
_PLACEHOLDER = re.compile(r"\{([A-Za-z_]\w*)(?:[.\[(!:][^{}]*)?\}")


class FilterConfig(Config):
    """Every rule with its parameter; None or false is off."""

    repair: bool = False  # finish mistakes are mended, and what can't be is dropped
    drop_zero: bool = False  # a score of exactly 0
    min_score: float | None = Field(default=None, ge=0, le=1)
    min_turns: int | None = Field(default=None, ge=1)
    finished: bool = False  # the run gave its answer itself
    max_turn_chars: int | None = Field(default=None, gt=0)  # of a turn, its prompt included
    max_turn_tokens: int | None = Field(default=None, gt=0)  # instead, where tokens are counted
    no_error_turns: bool = False  # a turn that failed, or had nothing to run, is no target
    no_cut_replies: bool = False  # nor one that max_tokens ended: it would learn to stop there
    no_lost_chunks: bool = False  # nor one whose sub-calls were sent without their piece of text
    keep_equal: int | None = Field(default=None, ge=1)  # runs of one family with the same program
    length_cap: int | None = Field(default=None, ge=1)  # runs of one length of context
    family_cap: int | None = Field(default=None, ge=1)  # runs of one family
    family_floor: int | None = Field(default=None, ge=1)  # runs are repeated up to this number


PRESETS = {
    "paper": FilterConfig(repair=True, drop_zero=True, min_turns=2, max_turn_chars=100_000),
    "ours": FilterConfig(
        repair=True,
        drop_zero=True,
        min_score=0.9,
        min_turns=2,
        finished=True,
        max_turn_tokens=32_768,
        no_error_turns=True,
        no_cut_replies=True,
        no_lost_chunks=True,
        keep_equal=20,
        length_cap=400,
        family_cap=400,
        family_floor=30,
    ),
}
RULES_VERSION = "2"  # counts up when the same rules begin to judge otherwise
_MOST_BELOW = 1  # run below each run is trained on: they are many, and much alike
ATTEMPT_RULES = (
    ("root_failed", "not_scored")
    + ("ready_before_looking", "ready_without_content", "answer_rebound", "final_in_code")
    + ("code_not_found", "not_reproduced")
    + ("score_zero", "single_turn", "below_min_score", "unfinished", "no_target")
    + ("not_replayed", "equal_program", "over_length_cap", "over_family_cap", "not_needed")
)
TURN_RULES = ("over_window", "error_turn", "cut_reply", "lost_chunk")


class Dropped(NamedTuple):
    """A run (turn None) or one turn of it that a rule has dropped, and what it looked like."""

    rule: str
    turn: int | None
    excerpt: str


@dataclass(frozen=True)
class Verdict:
    """What became of an attempt.

    targets: its turns that are trained on.
    below: runs that it has started and that are trained on with it, each with its targets.
    copies: how often it is in the data; 0 if it was dropped.
    left_out: turns of the recorded run that its repair has left out.
    """

    task_id: str
    family: str
    length: int
    program: str
    targets: tuple[int, ...] = ()
    dropped: Dropped | None = None
    turns_dropped: tuple[Dropped, ...] = ()
    fixes: tuple[Fix, ...] = ()
    left_out: int = 0
    copies: int = 1
    below: tuple[tuple[str, tuple[int, ...]], ...] = ()

    @property
    def rows(self) -> int:
        """Training rows of all its copies."""
        return self.copies * (len(self.targets) + sum(len(targets) for _, targets in self.below))

    def told(self) -> dict[str, Any]:
        """As a row holds it; ``read`` makes it a verdict again."""
        return asdict(self)

    @classmethod
    def read(cls, told: dict[str, Any]) -> Verdict:
        """The verdict of ``told``."""
        whole = told["dropped"]
        return cls(
            **{
                **told,
                "targets": (*told["targets"],),
                "dropped": None if whole is None else Dropped(*whole),
                "turns_dropped": tuple(Dropped(*one) for one in told["turns_dropped"]),
                "fixes": tuple(Fix(*one) for one in told["fixes"]),
                "below": tuple((node, (*targets,)) for node, targets in told["below"]),
            }
        )


def judge(
    row: dict[str, Any],
    trajectory: Trajectory,
    config: FilterConfig,
    *,
    repaired: Repaired | None = None,
    reproduced: bool = True,
    context: str | None = None,
    count: Count | None = None,
) -> Verdict:
    """One attempt by the rules that look at nothing else.

    Args:
        row: task_id, family, length, score, turns, stop_reason; of the run in ``trajectory``.
            A score of None: no metric could be taken.
        trajectory: the run; where it was mended, that of ``rerun``.
        config: the rules.
        repaired: what its repair has done, if the rules ask for one.
        reproduced: whether the mended run went as it should.
        context: its text, if it is at hand; ``no_lost_chunks`` sees more with it.
        count: tokens of messages, by the tokenizer of the model that is trained.
    """
    turns = trajectory.turns
    blocks = [cell["code"] for cell in trajectory.cells]
    verdict = Verdict(row["task_id"], row["family"], row["length"], normal_form(blocks))
    if repaired is not None:
        verdict = replace(verdict, fixes=repaired.fixes, left_out=repaired.left_out)
    rule = _run_rule(row, config, repaired, reproduced)
    if rule:
        excerpt = turns[-1].reply[-_EXCERPT:] if turns else ""
        return replace(verdict, dropped=Dropped(rule, None, excerpt), copies=0)
    targets, dropped = _targets(trajectory, config, context, count)
    below = []
    for node, child in _below(trajectory)[:_MOST_BELOW]:
        # What the context of a run below was, its journal does not hold.
        own, left_out = _targets(child, config, None, count)
        below += [(node, own)] if own else []
        dropped += left_out
    verdict = replace(
        verdict,
        targets=targets,
        turns_dropped=tuple(dropped),
        below=tuple(below if targets else ()),
    )
    if targets:
        return verdict
    excerpt = dropped[-1].excerpt if dropped else ""
    return replace(verdict, dropped=Dropped("no_target", None, excerpt), copies=0)


def _targets(
    trajectory: Trajectory, config: FilterConfig, context: str | None, count: Count | None
) -> tuple[tuple[int, ...], list[Dropped]]:
    """The turns that no rule drops, and those that one does."""
    lost = _lost_chunks(trajectory, context) if config.no_lost_chunks else {}
    replied = [turn for turn in trajectory.turn_rows if "error" not in turn]
    cut = {at for at, turn in enumerate(replied) if turn["finish_reason"] == "length"}
    targets: list[int] = []
    dropped: list[Dropped] = []
    for index, turn in enumerate(trajectory.turns):
        bad = _turn_rule(index, turn, config, lost, count)
        if bad is None and config.no_cut_replies and index in cut:
            bad = Dropped("cut_reply", index, turn.reply[-_EXCERPT:])
        targets += [] if bad else [index]
        dropped += [bad] if bad else []
    return tuple(targets), dropped


def _below(trajectory: Trajectory) -> list[tuple[str, Trajectory]]:
    """The runs below that ended by themselves, in an order that no position decides."""
    found = [
        (node, child)
        for node, child in trajectory.children.items()
        if child.end is not None and child.end["stop_reason"] == "answered"
    ]
    return sorted(found, key=lambda one: sha256_text(one[1].run["question"] + one[0]))


def _run_rule(
    row: dict[str, Any], config: FilterConfig, repaired: Repaired | None, reproduced: bool
) -> str:
    """The first rule that drops the run, or ""."""
    if row["stop_reason"] == "root_error":
        return "root_failed"
    if row["score"] is None:
        return "not_scored"
    if repaired is not None:
        if repaired.dropped:
            return repaired.dropped
        if not reproduced:
            return "not_reproduced"
    if config.drop_zero and row["score"] == 0:
        return "score_zero"
    if config.min_turns is not None and row["turns"] < config.min_turns:
        return "single_turn"
    if config.min_score is not None and row["score"] < config.min_score:
        return "below_min_score"
    if config.finished and row["stop_reason"] != "answered":
        return "unfinished"
    return ""


def _turn_rule(
    index: int, turn: Turn, config: FilterConfig, lost: dict[int, str], count: Count | None
) -> Dropped | None:
    if _over_window(turn, config, count):
        return Dropped("over_window", index, turn.reply[:_EXCERPT])
    if config.no_error_turns and turn.error:
        return Dropped("error_turn", index, turn.reply[:_EXCERPT])
    if index in lost:
        return Dropped("lost_chunk", index, lost[index][:_EXCERPT])
    return None


def _over_window(turn: Turn, config: FilterConfig, count: Count | None) -> bool:
    messages = [*turn.messages, {"role": "assistant", "content": turn.reply}]
    if config.max_turn_tokens is not None and count is not None:
        return count(messages) > config.max_turn_tokens
    most = config.max_turn_chars
    if most is None and config.max_turn_tokens is not None:
        most = config.max_turn_tokens * BYTES_PER_TOKEN
    return most is not None and sum(len(one["content"]) for one in messages) > most


def _lost_chunks(trajectory: Trajectory, context: str | None) -> dict[int, str]:
    """Turn -> a prompt of its sub-calls that was sent without its piece of the context."""
    lost: dict[int, str] = {}
    names: set[str] = set()
    # What a reply has said may be asked about, too.
    known = None if context is None else (context, *(c.get("reply", "") for c in trajectory.calls))
    replied = [row["turn"] for row in trajectory.turn_rows if "error" not in row]
    for cell in trajectory.cells:
        prompts = [row for row in trajectory.calls if row["cell"] == cell["cell"]]
        names |= _names_in(cell["code"])
        found = next(_without_chunk(prompts, names, known), None)
        if found is not None:
            lost.setdefault(replied.index(cell["turn"]), found)
    return lost


def _without_chunk(
    calls: list[dict[str, Any]], names: set[str], known: tuple[str, ...] | None
) -> Iterator[str]:
    """Prompts of a cell; ``known``: the context, then the replies of the run's sub-calls."""
    kinds: defaultdict[str, list[str]] = defaultdict(list)
    holding: Counter[str] = Counter()
    for call in calls:
        prompt = call["prompt"]
        for match in _PLACEHOLDER.finditer(prompt):
            # A name of the program in braces: the text of the context may have its own.
            if match[1] in names and (known is None or match[0] not in known[0]):
                yield prompt
        if known is not None:
            kind = prompt.partition("\n")[0][:_SIBLING]
            cut = call["prompt_chars"] > len(prompt)  # the journal keeps its beginning
            if cut or _holds(prompt, known):
                holding[kind] += 1
            else:
                kinds[kind].append(prompt)
    for kind, prompts in kinds.items():
        # The same words again and again, and no text in any: all have lost it.
        if holding[kind] or len({*prompts}) < len(prompts):
            yield from prompts


def _names_in(code: str) -> set[str]:
    tree = parse(code)
    return {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)} if tree else set()


def _holds(prompt: str, known: tuple[str, ...]) -> bool:
    """Whether a piece of a line of the prompt is in one of the known texts."""
    pieces = [
        piece
        for line in prompt.split("\n")
        for start in (*range(0, len(line), _PIECE), max(0, len(line) - _PIECE))
        if len(piece := line[start : start + _PIECE].strip()) >= _LEAST_PIECE
    ]
    step = max(1, len(pieces) // _MOST_PIECES)
    # The text comes last in most prompts.
    return any(piece in text for piece in reversed(pieces[::step]) for text in known)


def select(
    verdicts: Sequence[Verdict], config: FilterConfig, quota: Mapping[str, int] | None = None
) -> list[Verdict]:
    """The verdicts again, after the rules that look at all attempts; earlier ones go first.

    Args:
        verdicts: in the order of the attempts.
        config: the rules.
        quota: runs wanted of each family; what passes beyond is "not_needed".
    """
    programs: Counter[tuple[str, str]] = Counter()
    lengths: Counter[int] = Counter()
    families: Counter[str] = Counter()
    chosen: list[Verdict] = []
    for verdict in verdicts:
        if verdict.dropped is not None:
            chosen.append(verdict)
            continue
        program, bucket = (verdict.family, verdict.program), verdict.length.bit_length()
        rule = ""
        if _full(programs[program], config.keep_equal):
            rule = "equal_program"
        elif _full(lengths[bucket], config.length_cap):
            rule = "over_length_cap"
        elif _full(families[verdict.family], config.family_cap):
            rule = "over_family_cap"
        elif quota is not None and families[verdict.family] >= quota.get(verdict.family, 0):
            rule = "not_needed"
        if rule:
            dropped = Dropped(rule, None, verdict.program[:_EXCERPT])
            chosen.append(replace(verdict, dropped=dropped, copies=0))
            continue
        programs[program] += 1
        lengths[bucket] += 1
        families[verdict.family] += 1
        chosen.append(verdict)
    return _repeated(chosen, families, config.family_floor)


def _full(count: int, cap: int | None) -> bool:
    return cap is not None and count >= cap


def _repeated(verdicts: list[Verdict], kept: Counter[str], floor: int | None) -> list[Verdict]:
    """Each kept run as often as its family needs to come to the floor, the first ones once more."""
    if floor is None:
        return verdicts
    seen: Counter[str] = Counter()
    repeated = []
    for verdict in verdicts:
        if verdict.dropped is None:
            whole, rest = divmod(max(floor, kept[verdict.family]), kept[verdict.family])
            verdict = replace(verdict, copies=whole + (seen[verdict.family] < rest))
            seen[verdict.family] += 1
        repeated.append(verdict)
    return repeated
