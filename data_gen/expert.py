"""The scripted expert: programs that solve the synthetic families, in a style drawn per run.

It knows the question's wording, not the context: like a model it works turn by turn, its code
really runs in the executor, and labels come from sub-calls. Styles differ in names, chunk size,
wording of the sub-call prompt, prose, and whether the result is looked at before it is given.
Some runs are careless on purpose (``mistake``), so that the filter has something to drop.

    turns = program(question, Style.draw(random.Random(3)))
"""

from __future__ import annotations

import random
import re
import textwrap
from dataclasses import dataclass

from data_gen.tasks.lexicon import LABEL_PROMPTS
from rlm_executor.errors import InputError

MISTAKES = ("typo", "guess", "forgets", "crash")
_NAMES = (
    {"rows": "rows", "users": "users", "texts": "texts", "labels": "labels", "found": "found"},
    {"rows": "notes", "users": "who", "texts": "texts", "labels": "tags", "found": "hits"},
    {"rows": "lines", "users": "owners", "texts": "items", "labels": "kinds", "found": "values"},
)
_PROSE_FIRST = (
    "",
    "",
    "",
    "",
    "I let the sub-model label the lines in chunks.\n",
    "First the labels, by sub-calls.\n",
)
_PROSE_SEARCH = (
    "",
    "",
    "",
    "",
    "I search the text for the key.\n",
    "A regular expression finds it.\n",
)


@dataclass(frozen=True)
class Style:
    """How one run of the expert writes."""

    names: dict[str, str]
    chunk: int
    wording: str
    prose: int
    looks_first: bool  # prints the result before answering with it
    mistake: str = ""  # one of MISTAKES, or none

    @classmethod
    def draw(cls, rng: random.Random, mistakes: float = 0.0) -> Style:
        """A style; with probability ``mistakes`` a careless one."""
        return cls(
            names=rng.choices(_NAMES, (8, 1, 1))[0],
            chunk=rng.choices((4, 3), (8, 2))[0],
            wording=rng.choices(LABEL_PROMPTS, (8, 1, 1))[0],
            prose=rng.randrange(6),
            looks_first=rng.random() < 0.08,
            mistake=rng.choice(MISTAKES) if rng.random() < mistakes else "",
        )


def program(question: str, style: Style) -> list[str]:
    """The expert's turns for a question of any family.

    Raises:
        InputError: the question is of no family that the expert knows.
    """
    if match := re.search(r"special magic (\w+?)s? for ([\w-]+) mentioned", question):
        return _niah(match[2], style)
    if match := re.match(r"Each line has one of the labels: ([^.]+)\. (.+)", question, re.DOTALL):
        labels, body = match.groups()
        setup = _setup(body, style)
        if setup is not None:
            return _labelled(labels, *setup, style)
    raise InputError(f"the scripted expert does not know the question: {question[:80]!r}")


def _block(code: str, prose: str = "") -> str:
    return f"{prose}```repl\n{code}\n```"


def _finish(expression: str) -> str:
    return f'answer["content"] = {expression}\nanswer["ready"] = True'


def _niah(key: str, style: Style) -> list[str]:
    found = style.names["found"]
    asked = key[:-1] if style.mistake == "typo" else key
    search = (
        f'import re\n{found} = re.findall(r"for {asked} is: ([\\w-]+)", context)\nprint({found})'
    )
    if style.mistake == "crash":
        search = search.replace("import re\n", "")
    last = f'", ".join({found})'
    if style.mistake == "guess":
        last = f"str(len({found}))"
    if style.mistake == "forgets":
        return [_block(search), _block(f'answer["content"] = {last}\nanswer["ready"] = False')]
    return [_block(search, _PROSE_SEARCH[style.prose]), _block(_finish(last))]


def _labelled(labels: str, setup: str, expression: str, style: Style) -> list[str]:
    """Say what is asked as a function, parse, label by sub-calls; then answer with the function."""
    n = style.names
    ask = style.wording.replace("{labels}", "{names}")
    if style.mistake == "crash":
        ask = ask.replace("{names}", "{missing}")
    size, texts = style.chunk, n["texts"]
    if style.mistake == "typo":
        setup = setup.replace(">=", ">")
        expression = expression.replace("max(", "min(", 1).replace(".count(", ".index(", 1)
    # What is asked comes first in the code, while the question is near, and in its own words: the
    # choice between min and max then stands beside the word that decides it.
    solve = f"def solve({n['users']}, {n['labels']}):\n"
    solve += textwrap.indent(f"{setup}return {expression}\n", "    ")
    first = (
        f'names = "{labels}"\n'
        f"{solve}"
        f'{n["rows"]} = [r.split(" || ") for r in context.splitlines() if " || " in r]\n'
        f"{n['users']} = [r[1][6:] for r in {n['rows']}]\n"
        f"{texts} = [r[2][10:] for r in {n['rows']}]\n"
        f'ask = f"{ask}\\n\\n"\n'
        f"parts = [{texts}[i:i + {size}] for i in range(0, len({texts}), {size})]\n"
        f'out = llm_query_batched([ask + "\\n".join(p) for p in parts])\n'
        # A reply of too few lines is filled up with the notes themselves: no label is shifted.
        f"{n['labels']} = [a for p, o in zip(parts, out) "
        f'for a in (o.split("\\n") + p)[:len(p)]]\n'
        f"print(len({texts}), len({n['labels']}), {n['labels']}[:3])"
    )
    if style.mistake == "guess":  # counts the words of the text instead of labelling the lines
        first = f'names = "{labels}"\n{solve}{n["users"]} = context.split("\\n")\n'
        first += f"{n['labels']} = context.split()\nprint(len({n['labels']}))"
    call = f"solve({n['users']}, {n['labels']})"
    if style.mistake == "forgets":
        return [_block(first, _PROSE_FIRST[style.prose]), _block(f"print({call})")]
    if style.looks_first:
        return [
            _block(first, _PROSE_FIRST[style.prose]),
            _block(f"result = {call}\nprint(str(result)[:80])"),
            _block(_finish("result")),
        ]
    return [_block(first, _PROSE_FIRST[style.prose]), _block(_finish(call))]


def _setup(body: str, style: Style) -> tuple[str, str] | None:
    """Code before the answer, and the answer's expression, for a question about labels."""
    users, labels = style.names["users"], style.names["labels"]
    every = 'names.split(", ")'
    asked = f"# {re.split(' Answer with ', body)[0]}\n"
    if "the most common" in body:
        return asked, f"max({every}, key={labels}.count)"
    if "the least common" in body:
        return asked, f"min({every}, key={labels}.count)"
    if match := re.match(r"How many lines have the label (\w+)\?", body):
        return asked, f'{labels}.count("{match[1]}")'
    if match := re.match(r"Is the label (\w+) more common or less common than (\w+)\?", body):
        more = f'{labels}.count("{match[1]}") > {labels}.count("{match[2]}")'
        return asked, f'"more common" if {more} else "less common"'
    if match := re.match(r"Which user has the most lines with the label (\w+)\?", body):
        setup = f'own = [a for a, b in zip({users}, {labels}) if b == "{match[1]}"]\n'
        return asked + setup, "max(sorted(set(own)), key=own.count)"
    if match := re.match(r"How many lines of user (\d+) have the label (\w+)\?", body):
        pair = f'("{match[1]}", "{match[2]}")'
        return asked, f"list(zip({users}, {labels})).count({pair})"
    return _pairs(body, users, labels)


def _pairs(body: str, users: str, labels: str) -> tuple[str, str] | None:
    """The condition stays in the question's words and the code takes it apart.

    A small model copies a sentence whole, but put a threshold that it had just copied right into a
    comment wrong into the code below it (30 of 40 runs).
    """
    asked = re.search(r" where ((?:both|one) users? ha(?:ve|s) at least \d+ lines [^.]+)\.", body)
    if asked is None:
        return None
    setup = (
        f'asked = "{asked[1]}"\n'
        "sets = []\n"
        'for part in asked.split(" and "):\n'
        '    least, wanted = part.split(" lines with the label ")\n'
        '    least, wanted = int(least.split()[-1]), wanted.split(" or ")\n'
        f"    own = [a for a, b in zip({users}, {labels}) if b in wanted]\n"
        "    sets.append({u for u in own if own.count(u) >= least})\n"
        "one, two = sets[0], sets[-1]\n"
        "pairs = sorted({(min(a, b), max(a, b)) for a in one for b in two if a != b})\n"
    )
    return setup, '"\\n".join(f"({a}, {b})" for a, b in pairs)'
