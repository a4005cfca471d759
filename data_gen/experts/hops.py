"""The scripted expert of ``hops``: finds a document by code, has a field read by a sub-call.

Ways: ``docs`` takes the layout apart and picks the document that tells most of a name;
``mentions`` cuts windows round a name, in whatever layout; ``every`` asks about each
document that has the name at once; ``recursion`` is a function that calls itself. Some do all hops
in one cell, some one a turn with the value that they read.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from data_gen.experts.style import Style
from data_gen.tasks.hops import FIELDS, WORDINGS, WORDINGS_HELD_OUT

# crash: a name is missing, the traceback is read and the line added. near: no word boundary and
# the first document that fits, so nearly equal names are taken for each other. short: a hop less.
MISTAKES = ("crash", "near", "short")
_FIELD = "|".join(FIELDS)
_VALUE = r"([A-Z]\w*(?: [A-Z]\w*)?|[a-z]+)"
# How the look at the context begins, and how its documents are got.
_LAYOUTS = (
    (r"=== doc \d", ('context.split("\\n=== doc ")', 're.split(r"=== doc \\d+ ===\\n", context)')),
    (r"<doc id=", ('context.split("</doc>")', 're.findall(r"<doc id=\\d+>\\n(.*?)</doc>", context, '
                   "re.DOTALL)")),
    (r'\{"id"', ('[json.loads(line)["text"] for line in context.splitlines()]',
                 "[json.loads(row)['text'] for row in context.strip().split('\\n')]")),
    (r"## Document", ('context.split("## Document ")',
                      're.split(r"^## Document \\d+$", context, flags=re.MULTILINE)')),
    (r">>> file", ('context.split(">>> file ")', 're.split(r">>> file \\d+.txt\\n", context)')),
    (r"(?s).*", ('context.split("***** end of ")',
                 're.split(r"^[*]{5} end of \\d+$", context, flags=re.MULTILINE)')),
)  # fmt: skip


def next_turn(question: str, seen: Sequence[str], style: Style) -> str | None:
    """The reply after the outputs ``seen``; None for another family's question."""
    asked = _asked(question)
    if asked is None:
        return None
    start, path = asked
    mistake = style.mistake(MISTAKES)
    if mistake == "short":
        path = path[:-1]
    # The first output is the look at real text, which may itself show a traceback.
    failed = [at > 0 and "Traceback" in output for at, output in enumerate(seen)]
    errors = sum(failed)
    plan = _plan(start, path, seen, style, mistake)
    at = min(len(seen) - errors, len(plan) - 1)
    code = plan[at]
    if mistake == "crash" and at == _first_work(plan) and not errors:
        return style.say(code.removeprefix("import re\n"))
    if failed and failed[-1]:
        return style.say(code, "The import is missing.\n", "NameError: I add the import.\n")
    if at == len(plan) - 1:
        return style.say(code, "Now the answer.\n")
    return style.say(code, "I follow the chain.\n", "Find the document, then read the field.\n")


def leaf(prompt: str) -> str | None:
    """The value of a field in the text of the prompt, "none" if it does not tell."""
    text, _, question = prompt.rpartition("\n\n")
    asked = re.fullmatch(rf"What is the ({_FIELD}) of (.+)\?", question)
    if asked is None:
        return None
    field, name = asked.groups()
    for wording in WORDINGS[field] + WORDINGS_HELD_OUT[field]:
        before, between, after = re.split(r"\{x\}|\{y\}", wording)
        # "Lamade" is no part of "Salade Lamade": the name stands where the sentence has it.
        lead = re.escape(before) if before else r"(?<![\w] )(?<!\w)"
        if match := re.search(
            rf"{lead}{re.escape(name)}{re.escape(between)}{_VALUE}{re.escape(after)}", text
        ):
            return match[1]
    return "none"


def _asked(question: str) -> tuple[str, list[str]] | None:
    """The start and the fields in the order in which they are followed."""
    if match := re.search(rf"is the ((?:(?:{_FIELD}) of (?:the )?)+)([A-Z]\w+(?: [A-Z]\w+)?)[?.]",
                          question):  # fmt: skip
        return match[2], re.findall(_FIELD, match[1])[::-1]
    if match := re.search(
        r"(?:Start at|Begin with) (.+?)(?:\. Follow| and go by) (.+?)\.", question
    ):
        return match[1], match[2].split(", ")
    if match := re.match(rf"(.+?)((?: -> (?:{_FIELD}))+): what comes last", question):
        return match[1], match[2].split(" -> ")[1:]
    return None


def _first_work(plan: list[str]) -> int:
    return next(at for at, code in enumerate(plan) if code.startswith("import re\n"))


def _plan(
    start: str, path: list[str], seen: Sequence[str], style: Style, mistake: str
) -> list[str]:
    """All cells of the run as far as they can be known after ``seen``."""
    way = style.pick("way", ("docs", "mentions", "every", "recursion"))
    stepwise = way != "recursion" and style.chance("stepwise", 0.5)
    checks = style.chance("check", 0.35) and not (stepwise and len(path) > 2)
    name, value = style.pick("name", ("name", "at", "who")), style.name("result")
    cells = [f"print(context[:{style.pick('peek', (200, 300, 250))}])"]
    ask = "import re\n" + _ask(way, seen, style, mistake)
    if stepwise:
        printed = [out for out in seen[1:] if "Traceback" not in out]
        last = start
        for step, field in enumerate(path):
            call = f'{value} = ask("{last}", "{field}")\nprint({value})'
            cells.append(f"{ask}\n{call}" if step == 0 else call)
            # What is not yet printed is not needed: the cells up to there come first.
            last = printed[step].strip().splitlines()[-1] if step < len(printed) else last
    elif way == "recursion":
        cells.append(
            f"{ask}\ndef follow({name}, fields):\n    if not fields:\n        return {name}\n"
            f"    return follow(ask({name}, fields[0]), fields[1:])\n"
            f'{value} = follow("{start}", {path})\nprint({value})'
        )
    else:
        cells.append(
            f'{ask}\n{value} = "{start}"\nfor field in {path}:\n'
            f"    {value} = ask({value}, field)\n    print(field, {value})"
        )
    if checks:
        cells.append(
            style.pick(
                "how checked",
                (
                    f"for m in list(re.finditer(re.escape({value}), context))[:3]:\n"
                    "    print(context[max(0, m.start() - 60):m.end() + 20])",
                    f"print({value}, context.count({value}))",
                    f"assert {value} in context\nprint(len({value}))",
                ),
            )
        )
    return [*cells, style.finish(f"{value}")]


def _ask(way: str, seen: Sequence[str], style: Style, mistake: str) -> str:
    """Code of a function that gives the value of a field of a name."""
    size = style.pick("snippet", (500, 800, 1200))
    prompt = 'f"\\n\\nWhat is the {field} of {name}?"'
    found, docs = style.name("found"), style.pick("docs", ("docs", "documents", "files"))
    edge = 'rf"\\b{name}\\b"'
    if way == "mentions":
        most = max(2400, size)
        # In JSON a line break is two characters, the second of which would join the name.
        raw = any('{"id"' in shown for shown in seen[:1])
        return (
            "text = context" + ('.replace("\\\\n", " ")' if raw else "") + "\n"
            f"def ask(name, field):\n    {found}, last = [], 0\n"
            f"    for m in re.finditer({'name' if mistake == 'near' else edge}, text):\n"
            f"        if m.start() >= last:\n            last = m.start() + {size // 2}\n"
            f"            {found}.append(text[max(0, m.start() - 100):last])\n"
            + ("" if mistake == "near" else
               f"    {found}.sort(key=lambda t: -t.count(name))\n")
            + f'    return llm_query("\\n".join({found})[:{most}] + {prompt})'
        )  # fmt: skip
    setup = _documents(docs, seen, style)
    cut = f"d[max(0, re.search({edge}, d).start() - 100):][:{size}]"
    if mistake == "near":
        return (
            f"{setup}def ask(name, field):\n    d = [d for d in {docs} if name in d][0]\n"
            f"    return llm_query(d[max(0, d.find(name) - 100):][:{size}] + {prompt})"
        )
    if way == "docs":
        return (
            f"{setup}def ask(name, field):\n"
            f"    d = max({docs}, key=lambda d: len(re.findall({edge}, d)))\n"
            f"    return llm_query({cut} + {prompt})"
        )
    if way == "every":
        return (
            f"{setup}def ask(name, field):\n"
            f"    {found} = [{cut} for d in {docs} if re.search({edge}, d)]\n"
            f"    out = llm_query_batched([t + {prompt} for t in {found}])\n"
            f'    return [o for o in out if o != "none"][0]'
        )
    return (
        f"{setup}def ask(name, field):\n    for d in {docs}:\n"
        f"        if len(re.findall({edge}, d)) > 1:\n"
        f"            reply = llm_query({cut} + {prompt})\n"
        f'            if reply != "none":\n                return reply'
    )


def _documents(docs: str, seen: Sequence[str], style: Style) -> str:
    """Code that takes the context apart, by what the look at it showed."""
    shown = re.sub(r"\AREPL output:\s*", "", seen[0]) if seen else ""
    for pattern, forms in _LAYOUTS:
        if re.match(pattern, shown):
            form = style.pick("layout", forms)
            return ("import json\n" if "json." in form else "") + f"{docs} = {form}\n"
    raise AssertionError("the last layout fits everything")
