"""Make trajectories: tasks go to a teacher in the real executor; the good runs become a dataset.

    python -m data_gen.generate --config configs/data/thousand.yaml --run runs/thousand
    python -m data_gen.generate --config configs/data/paper.yaml --dry-run

Writes into RUN/data: one journal a run, ``attempts.jsonl`` (one line an attempt), and at the end
``dataset/``, ``funnel.json``, ``rlm.json`` and the dataset card. Attempts are numbered and made
in order until each family has its share, so an interrupted run goes on where it was and ends with
the same trajectories. Other rules or shares judge the same attempts again. An attempt is
``attempts.py``, rules are ``rules.py``, rows are ``dataset.py``, what it may cost is ``purse.py``.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import fcntl
import math
import shutil
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data_gen import dataset, plan
from data_gen.attempts import Attempts
from data_gen.config import GenerateConfig
from data_gen.evaluations import compared, find
from data_gen.funnel import Funnel
from data_gen.progress import Progress
from data_gen.purse import Purse
from data_gen.rules import Count, Verdict, select
from data_gen.supply import Supply, supply
from data_gen.teacher import open_models
from rlm_executor import Message
from rlm_executor.cli import run_cli
from rlm_executor.config import load_config
from rlm_executor.errors import EnvironmentFault, InputError, RLMError
from rlm_executor.files import append_jsonl, read_jsonl, write_json_atomic

WAVE = 120  # attempts between two looks at what is still owed
_DEAD = 20  # failed runs one after the other: the teacher is down
Row = dict[str, Any]


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--run", type=Path, default=Path("runs/demo"), help="default: runs/demo")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides")
    parser.add_argument(
        "--dry-run", action="store_true", help="print calls, tokens and dollars; make nothing"
    )
    args = parser.parse_args()
    config = load_config(GenerateConfig, args.config, args.overrides)
    if args.dry_run:
        problem = plan.show(config)
        print(f"NOT READY: {problem}" if problem else "ready; nothing was made or spent")
        return 1 if problem else 0
    folder: Path = args.run / "data"
    with _held(folder):
        if dataset.is_done(folder, config.sha256()):
            print(f"data: done before, the dataset is in {folder}")
            return 0
        return _make(config, folder)


def _make(config: GenerateConfig, folder: Path) -> int:
    for evaluation in config.evaluation:  # what is missing is told before anything is spent
        find(evaluation)
    _own_folder(config, folder)
    started = time.monotonic()
    generation = Generation(config, folder)
    made = asyncio.run(generation.run())
    if not made.kept:
        write_json_atomic(folder / "funnel.json", made.told())
        raise InputError(
            f"none of {len(made.rows)} attempts is kept; {folder / 'funnel.json'} says which rules "
            "dropped them, with examples: mend the teacher or the `filter` (attempts stay)"
        )
    funnel = {**made.told(), "contamination": compared(config, made.kept, folder)}
    write_json_atomic(folder / "funnel.json", funnel)
    config.card.save(folder)
    dataset.write(folder, made.kept, config)
    dataset.print_funnel(folder)
    print(f"data: {time.monotonic() - started:.0f} s, peak memory {generation.peak_mb} MB")
    if made.short:
        print(f"data: INCOMPLETE: {made.short}")
        return 1
    dataset.mark_done(folder, config.sha256(), time.monotonic() - started)
    return 0


@contextlib.contextmanager
def _held(folder: Path) -> Iterator[None]:
    """One generation at a time in a folder: two would spend twice and tear each other's files."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / f".{folder.name}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(
                f"another generation is running in {folder}; wait for it or stop it, or give "
                "another --run"
            ) from None
        yield


def _own_folder(config: GenerateConfig, folder: Path) -> None:
    """Start afresh if what lies here came from other attempts; what was paid for is not deleted."""
    stamp, digest = folder / "config.sha256", config.attempts_sha256()
    if folder.exists() and not stamp.exists() and any(folder.iterdir()):
        raise InputError(f"{folder} holds other files than a generation's; give another --run")
    if stamp.exists() and stamp.read_text() != digest:
        rows = read_jsonl(folder / "attempts.jsonl")
        if any(row.get("dollars") or row.get("served_by") for row in rows):
            raise InputError(
                f"{folder} holds attempts of another configuration; give another --run, or delete "
                "that folder"
            )
        old = folder.with_name(f".{folder.name}.old")
        shutil.rmtree(old, ignore_errors=True)
        folder.rename(old)  # at once: a kill leaves no half of it
        shutil.rmtree(old)
    folder.mkdir(parents=True, exist_ok=True)
    stamp.write_text(digest)
    (folder / "done.json").unlink(missing_ok=True)  # what is written from here on may be others'


class Made:
    """The attempts of a generation and what became of them."""

    def __init__(self, config: GenerateConfig, rows: list[Row], cost: Row, short: str) -> None:
        self.rows = sorted(rows, key=lambda row: row["index"])
        self.verdicts = chosen(config, self.rows)
        self.cost, self.short = cost, short
        pairs = zip(self.rows, self.verdicts, strict=True)
        self.kept = [(row, verdict) for row, verdict in pairs if verdict.dropped is None]

    def told(self) -> Row:
        """``funnel.json``."""
        faults: Counter[str] = Counter()
        for row in self.rows:
            faults.update(row["faults"])
        error_turns = sum(row["error_turns"] for row, _ in self.kept)
        return {
            **Funnel(self.verdicts).told(),
            "error_turns_not_trained": error_turns,
            "failed_requests": dict(faults.most_common()),
            "tokens": {
                key: sum(row[f"tokens_{key}"] for row in self.rows) for key in ("root", "sub")
            },
            "calls": sum(row["calls"] for row in self.rows),
            **self.cost,
        }


def chosen(config: GenerateConfig, rows: list[Row]) -> list[Verdict]:
    """The verdicts of the rows, in their order, after the rules that look at all of them."""
    verdicts = [Verdict.read(row["verdict"]) for row in rows]
    return select(verdicts, config.filter, config.quota())


class Generation:
    """Attempts, wave by wave, until every family has its quota.

    Args:
        config: what to make.
        folder: RUN/data.
    """

    def __init__(self, config: GenerateConfig, folder: Path) -> None:
        self._config, self._folder = config, folder
        self._path = folder / "attempts.jsonl"
        self._rows: dict[int, Row] = {}
        self._short = ""
        self._failed = 0  # runs of a teacher that did not answer, one after the other
        self.peak_mb = 0  # of all processes together, as seen every few seconds

    async def run(self) -> Made:
        """What is owed; what was made before is judged again where the rules are others.

        Raises:
            EnvironmentFault: the teacher does not answer.
        """
        config = self._config
        tasks = supply(config)
        found = {row["index"]: row for row in read_jsonl(self._path, repair=True)}
        # A server that was down may be up again.
        self._rows = {number: row for number, row in found.items() if not _unserved(row)}
        limit = self._limit(tasks)
        print(
            f"data: {self._wanted()}, at most {limit} attempts; "
            f"teacher={config.teacher.model or 'scripted experts'} "
            f"leaf={config.leaf.model or 'scripted'}; {len(self._rows)} attempts found",
            flush=True,
        )
        purse = Purse(config.max_dollars, self._folder / "spent.json")
        async with open_models(config, purse) as models:
            progress = Progress(self.state)
            try:
                count = _counter(config.tokenizer)
                attempts = Attempts(config, self._folder, tasks, models, count)
                made = await self._waves(limit, attempts, tasks, purse, progress)
            finally:
                purse.close(models.faults())
                self.peak_mb = progress.peak_mb
        cost = {
            "dollars_at_most": math.ceil(purse.spent * 1e6) / 1e6,
            "faults": dict(purse.faults.most_common()),
        }
        return Made(config, made, cost, self._short)

    async def _waves(
        self, limit: int, attempts: Attempts, tasks: Supply, purse: Purse, progress: Progress
    ) -> list[Row]:
        """The attempts up to where enough are kept, the purse is empty or no more may be made."""
        config = self._config
        made: list[Row] = []
        # Waves end at fixed numbers, so the attempts made do not depend on interruptions.
        for start in range(0, limit, WAVE):
            end = min(start + WAVE, limit)
            full = self._full(made)
            owed = [
                index
                for index in range(start, end)
                if index in self._rows or tasks.family(index // config.attempts) not in full
            ]
            await self._wave(owed, attempts, tasks, purse, progress)
            made = [self._rows[index] for index in range(end) if index in self._rows]
            if config.keep is not None and self._kept(made) == config.keep:
                return made
            if any(index not in self._rows for index in owed):
                self._short = f"max_dollars={config.max_dollars} is used up; raise it and {_GO_ON}"
                return made
        if config.keep is not None:
            tried = tasks.count is not None and limit == tasks.count * config.attempts
            self._short = (
                f"{self._kept(made)} of {config.keep} trajectories after {len(made)} attempts; "
                "look at the funnel, mend the teacher, "
                + (
                    f"or give more than {tasks.count} `tasks` or {config.attempts} "
                    "`attempts` each, or a lower `keep`"
                    if tried
                    else "or raise max_attempts_factor"
                )
            )
        return made

    def _wanted(self) -> str:
        if self._config.keep is None:
            return "all good trajectories wanted"
        return f"{self._config.keep} trajectories wanted {self._config.quota()}"

    def _limit(self, tasks: Supply) -> int:
        config = self._config
        limits = [] if tasks.count is None else [tasks.count * config.attempts]
        if config.keep is not None:
            most = int(config.keep * config.max_attempts_factor) + WAVE
            limits.append(most - most % WAVE + WAVE)
        return min(limits)

    def _kept(self, rows: list[Row]) -> int:
        return sum(verdict.dropped is None for verdict in chosen(self._config, rows))

    def _full(self, rows: list[Row]) -> set[str]:
        """The families that have their share: no more of them is paid for."""
        kept = Counter(v.family for v in chosen(self._config, rows) if v.dropped is None)
        quota = self._config.quota() or {}
        return {family for family, share in quota.items() if kept[family] >= share}

    async def _wave(
        self,
        wave: list[int],
        attempts: Attempts,
        tasks: Supply,
        purse: Purse,
        progress: Progress,
    ) -> None:
        each = self._config.attempts
        if not wave:
            return
        await asyncio.to_thread(tasks.between, wave[0] // each, wave[-1] // each + 1)
        semaphore = asyncio.Semaphore(self._config.concurrency)

        async def one(index: int) -> None:
            async with semaphore:
                if index in self._rows:
                    before = self._rows[index]
                    row = await attempts.again(before)
                    if row is before:
                        return
                elif purse.empty:
                    return
                else:
                    row = await attempts.make(index)
                    if "SpendingStopped" in row["faults"]:  # it is made anew with more dollars
                        return
                    self._alive(row)
                append_jsonl(self._path, row)
                self._rows[index] = row
                progress.step()

        try:
            async with asyncio.TaskGroup() as group:
                for index in wave:
                    group.create_task(one(index))
        except* (RLMError, OSError) as errors:
            raise errors.exceptions[0] from None

    def _alive(self, row: Row) -> None:
        """Raises EnvironmentFault if the teacher or the leaf has not answered for a while."""
        self._failed = self._failed + 1 if _unserved(row) else 0
        if self._failed >= max(_DEAD, 2 * self._config.concurrency):
            root = row["stop_reason"] == "root_error"
            who, model = ("teacher", self._config.teacher) if root else ("leaf", self._config.leaf)
            kinds = ", ".join(row["faults"]) or "no reply"
            raise EnvironmentFault(
                f"the {who} {model.model} has failed {self._failed} runs one after the other "
                f"({kinds}); look at {model.base_url}, then {_GO_ON}"
            )

    def state(self) -> tuple[int, int]:
        """Attempts made, and those that would be kept now."""
        return len(self._rows), self._kept([self._rows[index] for index in sorted(self._rows)])


_GO_ON = "run the same command to go on"


def _unserved(row: Row) -> bool:
    """Whether a server did not answer: such a run says nothing of its teacher."""
    leafless = not row["calls"] and bool(row["faults"].get("ServerUnavailable"))
    return row["stop_reason"] == "root_error" or leafless


def _counter(tokenizer: str) -> Count | None:
    """Tokens of messages under the student's chat template.

    Raises:
        InputError: the tokenizer can't be had.
    """
    if not tokenizer:
        return None
    from transformers import AutoTokenizer  # takes seconds to import

    try:
        known = AutoTokenizer.from_pretrained(tokenizer)
        known.apply_chat_template([{"role": "user", "content": "?"}])  # a base may have none
    except (OSError, ValueError) as error:
        raise InputError(
            f"tokenizer: {tokenizer} can't be loaded ({str(error).splitlines()[0]}); give a folder "
            'or a name on the Hub, or "" to count bytes/4'
        ) from error

    def count(messages: list[Message]) -> int:
        return len(known.apply_chat_template(messages, tokenize=True, return_dict=False))

    return count


if __name__ == "__main__":
    run_cli(main)
