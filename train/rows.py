"""Rows of ``turns.parquet`` as the token ids that vLLM serves: loss on the completion only.

    rows = encode(read_turns(path), tokenizer, max_length=4096)

The prompt goes through the tokenizer's own chat template with the row's ``chat_template_kwargs``
and the generation prompt, as vLLM renders a request. The completion is its text and the stop
token, nothing more: the template's line end after the stop token is part of the next prompt, and
vLLM never samples it. Rows over the window are counted and left out, never cut: what a cut takes
away first is the completion.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from rlm_executor.errors import InputError

COLUMNS = ("prompt", "completion", "chat_template_kwargs")
RUN = "run"  # says which rows are of one run; a dataset need not have it
IGNORED = -100  # the label of a position without loss


@dataclass(frozen=True)
class Row:
    """One root turn: ``labels`` are the ids where there is loss, ``IGNORED`` elsewhere."""

    input_ids: list[int]
    labels: list[int]
    run: str = ""  # rows of one run stand side by side; "" is a run of its own

    @property
    def target_tokens(self) -> int:
        """How many positions are trained."""
        return len(self.labels) - self.labels.count(IGNORED)


@dataclass(frozen=True)
class Rows:
    """What is trained on, and how many rows did not fit the window."""

    kept: list[Row]
    over_window: int

    @property
    def tokens(self) -> int:
        """Tokens of one epoch."""
        return sum(len(row.input_ids) for row in self.kept)

    @property
    def target_tokens(self) -> int:
        """Trained tokens of one epoch."""
        return sum(row.target_tokens for row in self.kept)

    @property
    def runs(self) -> list[list[Row]]:
        """The rows, run by run."""
        found: list[list[Row]] = []
        for row in self.kept:
            if found and row.run and found[-1][-1].run == row.run:
                found[-1].append(row)
            else:
                found.append([row])
        return found

    @property
    def longest(self) -> int:
        """Tokens of the longest row."""
        return max(len(row.input_ids) for row in self.kept)


def read_turns(path: Path) -> list[dict[str, Any]]:
    """The needed columns of the dataset, row by row.

    Raises:
        InputError: the file is missing, damaged or has other columns.
    """
    import pyarrow
    import pyarrow.parquet

    try:
        schema = pyarrow.parquet.read_schema(path)
        missing = [name for name in COLUMNS if name not in schema.names]
        if missing:
            raise InputError(
                f"{path} has no column {', '.join(missing)} (it has {', '.join(schema.names)}); "
                "make the dataset again with data_gen"
            )
        columns = [*COLUMNS, *({RUN} & {*schema.names})]
        turns = pyarrow.parquet.read_table(path, columns=columns).to_pylist()
    except FileNotFoundError as error:
        raise InputError(f"no dataset at {path}; make it first (`make data`)") from error
    except (pyarrow.ArrowException, OSError) as error:
        raise InputError(
            f"{path} can't be read as parquet ({str(error).splitlines()[0]}); "
            "delete it and run `make data` again"
        ) from error
    if not turns:
        raise InputError(f"{path} has no rows; run `make data` again")
    return turns


def encode(
    turns: Sequence[dict[str, Any]], tokenizer: PreTrainedTokenizerBase, max_length: int
) -> Rows:
    """Token ids and labels of every row that fits ``max_length`` tokens.

    Raises:
        InputError: a row has no text to train on, or no row fits.
    """
    stop = stop_token(tokenizer)
    prompts = [render_prompt(turn, tokenizer) for turn in turns]
    targets = [target_text(turn, index) for index, turn in enumerate(turns)]
    # The template has written every special token that belongs there.
    prompt_ids = tokenizer(prompts, add_special_tokens=False)["input_ids"]
    target_ids = tokenizer(targets, add_special_tokens=False)["input_ids"]
    rows = [
        Row(
            [*prompt, *target, stop],
            [IGNORED] * len(prompt) + [*target, stop],
            turn.get(RUN) or "",
        )
        for turn, prompt, target in zip(turns, prompt_ids, target_ids, strict=True)
    ]
    kept = [row for row in rows if len(row.input_ids) <= max_length]
    if not kept:
        shortest = min(len(row.input_ids) for row in rows)
        raise InputError(
            f"none of the {len(rows)} rows fits max_length {max_length} (the shortest has "
            f"{shortest} tokens); raise max_length"
        )
    return Rows(kept, over_window=len(rows) - len(kept))


def check_replies(data: Rows, limit: int) -> None:
    """Refuse targets that the loop would cut off when they are served.

    Raises:
        InputError: a target has more than ``limit`` tokens.
    """
    long = [row.target_tokens for row in data.kept if row.target_tokens > limit]
    if long:
        raise InputError(
            f"{len(long)} of {len(data.kept)} rows have replies of more tokens than the card's "
            f"max_tokens_per_turn allows ({limit}; the longest has {max(long)}), so the trained "
            f"model would be cut off; set `limits.max_tokens_per_turn` to {max(long)} or more in "
            "the rlm.json beside the dataset (the data can stay)"
        )


def render_prompt(turn: dict[str, Any], tokenizer: PreTrainedTokenizerBase) -> str:
    """The text that vLLM makes of a request with these messages."""
    # Parquet fills the fields that only other rows have with None; a request has no such field.
    messages = [_given(message) for message in turn["prompt"]]
    options = _given(turn["chat_template_kwargs"] or {})
    text = tokenizer.apply_chat_template(
        messages, tokenize=False, add_generation_prompt=True, **options
    )
    assert isinstance(text, str)
    return text


def target_text(turn: dict[str, Any], index: int) -> str:
    """The assistant's text of one row.

    Raises:
        InputError: there is none.
    """
    completion = turn["completion"] or []
    text = completion[0].get("content") if len(completion) == 1 else None
    if not text or not text.strip():
        raise InputError(
            f"row {index} of the dataset has no target: its completion must be one assistant "
            "message with text; mend the data stage and run it again"
        )
    return text


def stop_token(tokenizer: PreTrainedTokenizerBase) -> int:
    """Id of the token that ends a reply, both in the chat template and for vLLM.

    Raises:
        InputError: the tokenizer has no template, or its turns end in another token.
    """
    stop, probe = tokenizer.eos_token, "probe"
    if not tokenizer.chat_template or stop is None:
        raise InputError("the base's tokenizer has no chat template or no eos token; use another")
    turn = [{"role": "user", "content": probe}, {"role": "assistant", "content": probe}]
    end = str(tokenizer.apply_chat_template(turn, tokenize=False)).rpartition(probe)[2].strip()
    if end != stop:
        raise InputError(
            f"the base's chat template ends a turn with {end!r} and its eos token is {stop!r}; "
            "a model trained so would not stop: correct eos_token in tokenizer_config.json"
        )
    stop_id = tokenizer.convert_tokens_to_ids(stop)
    assert isinstance(stop_id, int)
    return stop_id


def show(row: Row, tokenizer: PreTrainedTokenizerBase, prompt_chars: int = 600) -> str:
    """One row as text: the end of its prompt behind ``|``, its trained part behind ``+``."""
    trained = [token for token in row.labels if token != IGNORED]
    prompt = str(tokenizer.decode(row.input_ids[: -len(trained)]))
    target = str(tokenizer.decode(trained))
    lines = [f"  | {line}" for line in prompt[-prompt_chars:].splitlines()]
    return "\n".join(lines + [f"  + {line}" for line in target.splitlines()])


def _given(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}
