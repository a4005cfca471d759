"""Measure the skills of the tiny base on held-out words, names, marks, layouts and wordings.

    python -m scripts.tiny_base.measure --base assets/tiny-base [--served]

In torch, float32, one forward a case: greedy decoding gives an answer exactly where each of its
tokens is the most likely one after the right ones (a line of labels: its tokens). With
``--served`` through a real vLLM in bf16, greedy: all cases with 64 requests at once, then the first
100 of each figure one at a time. The figures go to ``skills.json`` beside the weights, and the
card is written anew. A measurement that was stopped goes on after its last finished row.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

from rlm_executor.cli import run_cli
from rlm_executor.errors import InputError
from rlm_executor.files import sha256_file, sha256_text, write_text_atomic
from scripts.tiny_base.card import write_card
from scripts.tiny_base.cases import ROWS, cases
from scripts.tiny_base.mixture import WINDOW, read_source
from scripts.tiny_base.pretrain import code_sha256

Scores = dict[str, list[float]]
"""Of each row of ``cases.ROWS`` by its name: how right each case is, 0 to 1."""
AT_ONCE = 64
ALONE = 100  # cases a figure that are also asked one at a time


def main() -> None:
    """Measure, write ``skills.json`` and the card."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--base", type=Path, default=Path("assets/tiny-base"))
    parser.add_argument("--served", action="store_true", help="through vLLM, in bf16")
    parser.add_argument("--cases", type=int, default=500, help="a figure")
    parser.add_argument("--python-source", type=Path, help="folder of .py files (default: stdlib)")
    parser.add_argument("--work", type=Path, default=Path("runs/tiny-base"), help="finished rows")
    args = parser.parse_args()
    if not (args.base / "training.json").exists():
        raise InputError(
            f"{args.base} has no training.json; `python -m scripts.tiny_base` writes it"
        )
    source = read_source(args.python_source)
    tokenizer = AutoTokenizer.from_pretrained(args.base)
    path = args.base / "skills.json"
    columns = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    kept: list[Finished] = []
    weights = sha256_file(args.base / "model.safetensors")
    of = f"{weights} {sha256_text(''.join(source))} {code_sha256()}"  # the cases are code too

    def finished(way: str, count: int) -> Finished:
        rows = Finished(args.work / f"measured-{way}.json", f"{of} {count}")
        if rows.rows:
            print(f"goes on after {len(rows.rows)} finished rows of {len(ROWS)}", flush=True)
        kept.append(rows)
        return rows

    if args.served:
        from scripts.tiny_base.served import measure_served  # needs the serving stack

        way = f"vLLM, bf16, {AT_ONCE} at once"
        rows = finished("at-once", args.cases)
        at_once = asyncio.run(
            measure_served(args.base, tokenizer, source, args.cases, AT_ONCE, rows)
        )
        columns[way] = column(at_once, args.cases)
        write_text_atomic(path, json.dumps(columns, indent=2) + "\n")  # the next may be stopped
        print(show(columns[way]["figures"]), flush=True)
        first = min(ALONE, args.cases)
        rows = finished("alone", first)
        alone = asyncio.run(measure_served(args.base, tokenizer, source, first, 1, rows))
        part, one = f"{way}, of these the first", "these one at a time"
        columns = {name: told for name, told in columns.items() if name not in (part, one)}
        if first < args.cases:
            columns[part] = column(at_once, first)
        columns[one] = column(alone, first)
        print(show(columns[one]["figures"]), flush=True)
    else:
        model = AutoModelForCausalLM.from_pretrained(args.base, dtype=torch.float32)
        rows = finished("torch", args.cases)
        scores = measure(model, tokenizer, source, args.cases, finished=rows, progress=True)
        columns["torch, float32"] = column(scores, args.cases)
        print(show(columns["torch, float32"]["figures"]))
    write_text_atomic(path, json.dumps(columns, indent=2) + "\n")
    write_card(args.base)
    for rows in kept:
        rows.path.unlink()


class Finished:
    """The rows that a measurement has finished, in a file; those of another ``key`` are dropped."""

    def __init__(self, path: Path, key: str) -> None:
        self.path, self.key = path, key
        told = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        self.rows: Scores = told["rows"] if told.get("key") == key else {}
        if told and not self.rows:
            print(f"begins anew: {path} is of other weights, source, code or cases", flush=True)

    def add(self, name: str, scores: list[float]) -> None:
        """Keep the scores of row ``name``."""
        self.rows[name] = scores
        write_text_atomic(self.path, json.dumps({"key": self.key, "rows": self.rows}))


@torch.no_grad()
def measure(
    model: torch.nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    source: list[str],
    count: int,
    longest: int = WINDOW,
    finished: Finished | None = None,
    progress: bool = False,
) -> Scores:
    """In torch: how right each case is, 0 or 1 (labels: the share of its lines), by row."""
    result: Scores = dict(finished.rows) if finished else {}
    for row in ROWS:
        if row.longest > longest or row.name in result:
            continue
        scores: list[float] = []
        made = cases(row, tokenizer, source, count)
        for sample, ids in tqdm(made, total=count, desc=row.name, disable=not progress):
            answer = tokenizer(f"{sample[-1][1]}<|im_end|>")["input_ids"]
            tokens = torch.tensor([ids[:-1]], device=model.device)
            hidden = model.model(tokens, use_cache=False).last_hidden_state[0]
            guess = model.lm_head(hidden[-len(answer) :]).argmax(-1).tolist()
            if row.by_line:
                scores.append(share_of_lines(tokenizer.decode(guess[:-1]), sample[-1][1]))
            else:
                scores.append(float(guess == answer))
        result[row.name] = scores
        if finished:
            finished.add(row.name, scores)
    return result


def share_of_lines(given: str, gold: str) -> float:
    """Share of the lines of ``gold`` that stand in ``given`` at their place."""
    golds = gold.split("\n")
    return sum(a == b for a, b in zip(given.split("\n"), golds, strict=False)) / len(golds)


def column(scores: Scores, first: int) -> dict[str, Any]:
    """A column of the card's table: of each row the mean of its ``first`` cases."""
    means = {name: round(sum(each[:first]) / first, 4) for name, each in scores.items()}
    return {"cases": first, "figures": means}


def show(measured: dict[str, float]) -> str:
    """One line of it, for the log."""
    return " ".join(f"{name}={share:.2f}" for name, share in measured.items())


if __name__ == "__main__":
    run_cli(main)
