"""Rows of ``turns.parquet`` as the token ids that vLLM serves: loss on the completion only.

    rows = encode(read_turns(path), tokenizer, max_length=4096)

The prompt goes through the tokenizer's own chat template with the row's ``chat_template_kwargs``
and the generation prompt, as vLLM renders a request. The completion is its text and the stop
token, nothing more: the template's line end after the stop token is part of the next prompt, and
vLLM never samples it. Rows over the window are counted and left out, never cut: what a cut takes
away first is the completion.

With thinking on, the reply's text holds the model's own ``<think>`` block, as vLLM sends it, and
all of it is trained; a reply without one is trained without one. (Rendered as the last turn of a
conversation, Qwen3's template would put an empty block before it, which nobody has sampled.) In
the prompts of later turns the template leaves the blocks out, for training as for serving.

The base may be of any family. What can't be the same in training and in serving is refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import TemplateError
from transformers import AutoConfig, GenerationConfig, PreTrainedTokenizerBase

from rlm_executor.errors import InputError

COLUMNS = ("prompt", "completion", "chat_template_kwargs")
RUN = "run"  # says which rows are of one run; a dataset need not have it
IGNORED = -100  # the label of a position without loss
PROBE = "probe"  # stands for a message where only what is around it matters


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
        count = pyarrow.parquet.read_metadata(path).num_rows
        missing = [name for name in COLUMNS if name not in schema.names]
        if missing:
            raise InputError(
                f"{path} has {count} rows and no column {', '.join(missing)} (it has "
                f"{', '.join(schema.names)}); make the dataset again with data_gen"
            )
        for name in ("prompt", "completion"):
            if not _holds_messages(kind := schema.field(name).type):
                raise InputError(
                    f"{path}: `{name}` of its {count} rows is {kind}, not a list of messages with "
                    "role and content; make the dataset again with data_gen"
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


def _holds_messages(kind: Any) -> bool:
    import pyarrow

    if not pyarrow.types.is_list(kind) or not pyarrow.types.is_struct(kind.value_type):
        return False
    return {"role", "content"} <= {field.name for field in kind.value_type}


def encode(
    turns: Sequence[dict[str, Any]], tokenizer: PreTrainedTokenizerBase, max_length: int
) -> Rows:
    """Token ids and labels of every row that fits ``max_length`` tokens.

    Raises:
        InputError: a row can't be trained as it would be served, or no row fits.
    """
    stop = stop_token(tokenizer)
    for options in {repr(options): options for options in map(_options, turns)}.values():
        check_template(tokenizer, options)
    targets = target_texts(turns)
    prompts = render_prompts(turns, tokenizer)
    # The template has written every special token that belongs there.
    prompt_ids = tokenizer(prompts, add_special_tokens=False)["input_ids"]
    target_ids = tokenizer(targets, add_special_tokens=False)["input_ids"]
    check_targets(target_ids, tokenizer)
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


def render_prompts(
    turns: Sequence[dict[str, Any]], tokenizer: PreTrainedTokenizerBase
) -> list[str]:
    """The texts that vLLM makes of requests with these messages.

    Raises:
        InputError: the template refuses some.
    """
    texts: list[str] = []
    refused: dict[int, str] = {}
    for index, turn in enumerate(turns):
        # Parquet fills the fields that only other rows have with None; a request has none such.
        messages = [_given(message) for message in turn["prompt"]]
        try:
            texts.append(_render(messages, tokenizer, **_options(turn)))
        except TemplateError as error:
            refused[index] = f"is refused by the base's chat template ({error})"
    _refuse(refused, len(turns), "use another base, or a dialect whose roles its template knows")
    return texts


def target_texts(turns: Sequence[dict[str, Any]]) -> list[str]:
    """The assistant's text of each row.

    Raises:
        InputError: some have none, or more than a text.
    """
    texts: list[str] = []
    empty: dict[int, str] = {}
    other: dict[int, str] = {}
    for index, turn in enumerate(turns):
        completion = turn["completion"] or []
        message = _given(completion[0]) if len(completion) == 1 else {}
        text = message.get("content")
        texts.append(text or "")
        if not text or not text.strip():
            empty[index] = "has no target"
        elif more := sorted(name for name in message if name not in ("role", "content")):
            other[index] = f"has a target with {', '.join(more)}, which would not be trained"
    _refuse(
        empty,
        len(turns),
        "its completion must be one assistant message with text; mend the data stage and run it "
        "again",
    )
    _refuse(
        other,
        len(turns),
        "write all that the model says into `content`, as a server without a reasoning parser "
        "sends it (`<think>...</think>` and the reply)",
    )
    return texts


def check_targets(targets: Iterable[Sequence[int]], tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuse replies that no server can have sent: control tokens end them or are left out.

    Raises:
        InputError: some replies have control tokens in their text.
    """
    known = tokenizer.added_tokens_decoder
    control = {number for number, token in known.items() if token.special}
    control |= {*tokenizer.all_special_ids}
    targets = [*targets]
    found = {
        index: f"has a reply with the text {str(known[first])!r} in it"
        for index, target in enumerate(targets)
        for first in [token for token in target if token in control][:1]
    }
    _refuse(found, len(targets), "it would be a control token there; leave such runs out")


def stop_token(tokenizer: PreTrainedTokenizerBase) -> int:
    """Id of the token that ends a reply, both in the chat template and for vLLM.

    Raises:
        InputError: the tokenizer has no template, or its turns end in another token.
    """
    stop = tokenizer.eos_token
    if not tokenizer.chat_template or stop is None:
        raise InputError("the base's tokenizer has no chat template or no eos token; use another")
    turn = [{"role": "user", "content": PROBE}, {"role": "assistant", "content": PROBE}]
    text = str(tokenizer.apply_chat_template(turn, tokenize=False))
    end = text.rpartition(PROBE)[2].strip()
    ids = tokenizer(end, add_special_tokens=False)["input_ids"]
    if not ids or ids[0] not in (tokenizer.eos_token_id, *_also_stops(tokenizer)):
        raise InputError(
            f"the base's chat template ends a turn with {end!r} and its eos token is {stop!r}; "
            "a model trained so would not stop: correct eos_token in tokenizer_config.json, or "
            "eos_token_id in generation_config.json"
        )
    return int(ids[0])


def _also_stops(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Ids besides the eos token's at which vLLM stops, as it reads them from the base."""
    base = tokenizer.name_or_path
    try:
        config = GenerationConfig.from_pretrained(base)
    except (OSError, ValueError):
        try:
            config = GenerationConfig.from_model_config(AutoConfig.from_pretrained(base))
        except (OSError, ValueError):
            return []
    stops = config.eos_token_id
    return stops if isinstance(stops, list) else [] if stops is None else [stops]


def check_template(tokenizer: PreTrainedTokenizerBase, options: dict[str, Any]) -> None:
    """Refuse a base whose prompts change by themselves, or whose replies can't stand alone.

    Raises:
        InputError: the template tells the date, or text after the prompt is cut otherwise.
    """
    ask = [{"role": "user", "content": PROBE}]
    one, other = (
        _render(ask, tokenizer, **{"strftime_now": lambda _, day=day: day, **options})
        for day in ("1 May", "2 May")
    )
    if one != other:
        raise InputError(
            "the base's chat template writes the date of the day into each prompt, so prompts are "
            "served that were not trained; give its date (`date_string`, mostly) in the "
            "chat_template_kwargs of the data stage's card and make the dataset again"
        )
    prompt, reply = tokenizer(
        [_render(ask, tokenizer, **options), PROBE], add_special_tokens=False
    )["input_ids"]
    if tokenizer.decode([*prompt, *reply]) != str(tokenizer.decode(prompt)) + PROBE:
        raise InputError(
            "the base's tokenizer puts a space before a text that stands alone, so replies would "
            "be trained with other ids than are served; use a base with a byte-level tokenizer"
        )


def _render(
    messages: list[dict[str, Any]], tokenizer: PreTrainedTokenizerBase, **options: Any
) -> str:
    text = tokenizer.apply_chat_template(
        messages, tokenize=False, add_generation_prompt=True, **options
    )
    assert isinstance(text, str)
    return text


def show(row: Row, tokenizer: PreTrainedTokenizerBase, prompt_chars: int = 600) -> str:
    """One row as text: the end of its prompt behind ``|``, its trained part behind ``+``."""
    trained = [token for token in row.labels if token != IGNORED]
    prompt = str(tokenizer.decode(row.input_ids[: -len(trained)]))
    target = str(tokenizer.decode(trained))
    lines = [f"  | {line}" for line in prompt[-prompt_chars:].splitlines()]
    return "\n".join(lines + [f"  + {line}" for line in target.splitlines()])


def _options(turn: dict[str, Any]) -> dict[str, Any]:
    return _given(turn["chat_template_kwargs"] or {})


def _given(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


def _refuse(faults: dict[int, str], total: int, fix: str) -> None:
    """Raises InputError if there are any; ``faults`` are by the number of the row."""
    if faults:
        first, fault = next(iter(faults.items()))
        raise InputError(
            f"{len(faults)} of {total} rows can't be trained: row {first} of the dataset {fault}; "
            f"{fix}"
        )
