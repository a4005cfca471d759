"""The scripted expert of ``oolong_full`` and ``pairs_full``: look, parse, have labelled, work out.

The layout is nowhere named: the expert looks at the context, finds date, user and text in two lines
that it sees (by what differs between them, so in layouts never met before, too), and writes code
for that layout. Labels come from sub-calls on a few lines each; the labels, and the glossary where
there is one, stand in every prompt. Some runs leave lines out before, some after labelling.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from data_gen.experts.labelled_code import Names, needs_days, needs_labels, scoped, working
from data_gen.experts.labelled_reading import Asked, Layout, asked_of, layout_of, read_label
from data_gen.experts.steps import broken, merged
from data_gen.experts.style import Style
from data_gen.tasks.lexicon import LABEL_PROMPTS
from data_gen.tasks.worlds import GLOSSARY_LABELS, GLOSSARY_LABELS_UNSEEN

# crash: the first cell or the parsing raises and is mended. guess: answers without looking.
# forgets: is never ready. part: tries the code on some lines and then takes them for all.
MISTAKES = ("crash", "guess", "forgets", "part")
LONG = 100_000  # characters from which on a sub-call gets more lines
_LISTED = re.compile(r": ((?:[a-z]+, )+[a-z]+)\.")
_KEYED = re.compile(r"(?im)^.*\bwords?\b.*:$")  # the line above a glossary


def next_turn(question: str, seen: Sequence[str], style: Style) -> str | None:
    """The reply after the outputs ``seen``; None for another family's question."""
    asked = asked_of(question)
    if asked is None:
        return None
    mistake = style.mistake(MISTAKES)
    if mistake == "guess":
        guess = "(1, 2)" if asked.pairs else (asked.labels or ("12",))[0]
        return style.say(style.finish(repr(guess)))
    outputs = [out.removeprefix("REPL output:").strip("\n") for out in seen]
    errors = [at for at, out in enumerate(outputs) if re.search(r"^Traceback", out, re.MULTILINE)]
    good = [out for at, out in enumerate(outputs) if at not in errors]
    looks, layout = _looks(good, style)
    at = len(good)
    prose: tuple[str, ...] = ("I look at the context first.\n", "What do the lines look like?\n")
    if layout is None or at < len(looks):
        code = looks[min(at, len(looks) - 1)]
    else:
        cells = _cells(asked, good, layout, style, mistake)
        step = min(at - len(looks), len(cells) - 1)
        code = cells[step]
        prose = ("Now the answer.\n",) if step == len(cells) - 1 else (_PLANS[step % len(_PLANS)],)
    breaks = 0 if style.chance("crash at once", 0.5) else len(looks)
    if mistake == "crash" and not errors and at == breaks:
        code = broken(code, style.rng("crash"))
    if errors and errors[-1] == len(outputs) - 1:
        told = re.findall(r"^\w*Error.*", outputs[-1], re.MULTILINE)
        return style.say(code, f"{(told or ['An error'])[-1][:80]}: I mend this.\n", "I mend it.\n")
    if mistake == "forgets":
        code = code.replace('answer["ready"] = True', 'answer["ready"] = False')
    return style.say(code, *prose)


_PLANS = ("The lines have a fixed layout: I take them apart.\n", "Sub-calls do the labelling.\n")


def leaf(prompt: str) -> str | None:
    """One label a line, by the glossary in the prompt or by the meaning of the line."""
    above, _, body = prompt.rpartition("\n\n")
    for wording in LABEL_PROMPTS:
        pattern = re.escape(wording).replace(r"\{labels\}", "([a-z, ]+)")
        if match := re.search(pattern, above):
            labels = match[1].split(", ")
            read = [read_label(line, labels, above) for line in body.strip().split("\n")]
            known = {*GLOSSARY_LABELS, *GLOSSARY_LABELS_UNSEEN}
            # Neither a glossary nor a set of fixed meanings: another family's labels.
            if not any(read) and not known & {*labels}:
                return None
            return "\n".join(label or labels[0] for label in read)
    return None


def _looks(good: Sequence[str], style: Style) -> tuple[list[str], Layout | None]:
    """Code of the looks at the context, and the layout if they showed it."""
    every = style.name("row") + "s"
    head = style.pick("head", (250, 220, 280))
    split = f"{every} = context.splitlines()"
    last = style.pick(
        "which lines",
        (
            f'print("\\n".join({every}[-4:-2]))',
            f"for x in {every}[-4:-2]:\n    print(x)",
            f"print({every}[len({every}) // 2])\nprint({every}[-3])",
        ),
    )
    way = style.pick("look", ("two", "one", "lines"))
    if way == "two":
        looks = [f"print(len(context))\nprint(context[:{head}])", f"{split}\n{last}"]
    elif way == "one":
        looks = [f"print(len(context))\nprint(context[:{head}])\n{split}\nprint({every}[-3])"]
    else:
        looks = [f"print(len(context))\n{split}\nfor i in (0, 2, -4, -3):\n    print({every}[i])"]
    shown = [*good]
    if good and way != "lines":  # the head breaks off within a line
        number, _, rest = good[0].partition("\n")
        shown[0] = rest[:head].rpartition("\n")[0] + rest[head:]
    # Two lines may be by one user, or cut off: then others are looked at, as long as turns last.
    for part in (2, 3, 5, 7, 11, 13):
        layout = layout_of("\n".join(shown[: len(looks)]))
        if layout or len(good) < len(looks):
            return looks, layout
        looks.append(f"{split}\nat = len({every}) // {part}\nprint(*{every}[at:at + 2], sep='\\n')")
    return looks, None


def _cells(
    asked: Asked, good: Sequence[str], layout: Layout, style: Style, mistake: str
) -> list[str]:
    """Take apart, have labelled, work out, answer: in one to three turns."""
    shown = good[0]
    listed = _LISTED.search(shown)
    labels = asked.labels or (tuple(listed[1].split(", ")) if listed else ())
    size = int((re.findall(r"^\d+$", shown, re.MULTILINE) or ["0"])[0])
    names = Names.of(asked, style)
    code = _parsing(layout, names, style)
    if mistake == "part":
        some = style.pick("some", (20, 12, 30))
        for name in (names.days, names.users, names.texts):
            code += f"\n{name} = {name}[:{some}]"
    if needs_days(asked):
        code += _dated(layout, names, style)
    code += style.pick(
        "parsed",
        (f"\nprint(len({names.texts}))", f"\nprint(len({names.texts}), {names.users}[:3])", ""),
    )
    cells = [code]
    if needs_labels(asked):
        before = style.chance("leave out first", 0.6)
        cut = scoped(asked, names, style) if before else ""
        cells.append(cut + _labelling(labels, bool(_KEYED.search(shown)), size, names, style))
        cells.append(working(asked, labels, names, style, cut=bool(cut)))
    else:
        cells.append(working(asked, labels, names, style, cut=False))
    shows = style.pick("shows", ("", f"\nprint(str({names.result})[:100])", ""))
    cells[-1] += shows
    cells.append(style.finish(names.result))
    return _fitting(merged(cells, style, style.pick("turns", (2, 3, 1))), cells)


def _fitting(joined: list[str], cells: list[str]) -> list[str]:
    """A reply has room for about 2,000 characters: what is longer stays apart."""
    if max(map(len, joined)) < 1_800 or len(cells) < 4:
        return joined
    return [cells[0], cells[1], "\n".join(cells[2:])]


def _parsing(layout: Layout, names: Names, style: Style) -> str:
    """Code that makes lists of the dates, users and texts of all lines."""
    row, rows = style.name("row"), style.name("rows")
    lists = {"date": names.days, "user": names.users, "text": names.texts}
    order = [lists[field] for field in layout.fields]
    ways = ["pattern", "unzip", "loop"]
    if layout.parts:
        ways[0] = "parts"
    if layout.shape:
        ways[:2] = [layout.shape, layout.shape]
    way = style.pick("parsing", ways)
    if way in ("json", "csv", "parts"):
        code = {
            "json": f"import json\n{rows} = [json.loads({row}) for {row} in context.splitlines() "
            f'if {row}.startswith("{{")]',
            "csv": f"import csv\n{rows} = [{row} for {row} in csv.reader(context.splitlines()) "
            f"if len({row}) == 3 and {row}[{layout.fields.index('date')}][:1].isdigit()]",
            "parts": f"{rows} = [{row}.split({layout.between!r}) for {row} in "
            f"context.splitlines() if {row}.count({layout.between!r}) == 2]"
            + (f"[{layout.headings}:]" if layout.headings else ""),
        }[way]
        where = {**layout.parts, **({} if way == "parts" else layout.keys)}
        return code + "".join(
            f"\n{lists[field]} = [{row}{where[field]} for {row} in {rows}]"
            for field in style.pick("field order", (("date", "user", "text"), layout.fields))
        )
    pattern = f"r'{layout.pattern}'"
    if way == "pattern":
        return f"import re\n{rows} = re.findall({pattern}, context, re.MULTILINE)" + "".join(
            f"\n{name} = [{row}[{at}] for {row} in {rows}]" for at, name in enumerate(order)
        )
    if way == "unzip":
        return (
            f"import re\n{rows} = re.findall({pattern}, context, re.MULTILINE)\n"
            f"{', '.join(order)} = map(list, zip(*{rows}))"
        )
    return (
        f"import re\n{', '.join(order)} = [], [], []\n"
        f"for {row} in context.splitlines():\n    m = re.fullmatch({pattern}, {row})\n    if m:\n"
        + "\n".join(f"        {name}.append(m[{at + 1}])" for at, name in enumerate(order))
    )


def _dated(layout: Layout, names: Names, style: Style) -> str:
    """Code that makes the dates comparable: as texts YYYY-MM-DD, or as dates of these."""
    days, months = names.days, '"Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec".split()'
    code, iso = "", "d"
    if layout.format in ("%b %d, %Y", "%d %B %Y"):
        order = "m, d, y" if layout.format[1] == "b" else "d, m, y"
        code = (
            f'\nmonths = {months}\ndef iso(d):\n    {order} = d.replace(",", "").split()\n'
            '    return f"{y}-{months.index(m[:3]) + 1:02}-{d}"'
        )
        iso = "iso(d)"
    elif layout.format == "%d.%m.%Y":
        iso = style.pick(
            "turned", ('"-".join(reversed(d.split(".")))', 'f"{d[6:]}-{d[3:5]}-{d[:2]}"')
        )
    elif layout.format == "%Y/%m/%d":
        iso = style.pick("slashes", ('d.replace("/", "-")', '"-".join(d.split("/"))'))
    if names.iso:
        return "" if iso == "d" else f"{code}\n{days} = [{iso} for d in {days}]"
    return (
        f"{code}\nfrom datetime import date\n{days} = [date.fromisoformat({iso}) for d in {days}]"
    )


def _labelling(labels: Sequence[str], glossary: bool, size: int, names: Names, style: Style) -> str:
    """Code that has ``texts`` labelled, a few in each sub-call."""
    texts, tags = names.texts, names.labels
    few = style.pick("lines a call", (25, 40, 16) if size > LONG else (4, 3, 5, 8, 6))
    wording = style.pick("wording", LABEL_PROMPTS).replace("{labels}", ", ".join(labels))
    code = ""
    if glossary:
        head = style.pick("key", ("head", "key", "glossary"))
        code = f'{head} = context[:context.find({texts}[0])].rpartition("\\n")[0]\n'
        if style.chance("key only", 0.5):
            code += f"{head} = {head}[{head}.find(\"\\n\\n\"):].strip()\n"  # fmt: skip
        code += f'ask = {head} + "\\n\\n{wording}\\n\\n"\n'
    else:
        code = f'ask = "{wording}\\n\\n"\n'
    part, parts, out = style.name("part"), style.name("parts"), style.name("replies")
    cut = f"{parts} = [{texts}[i:i + {few}] for i in range(0, len({texts}), {few})]\n"
    call = f'{out} = llm_query_batched([ask + "\\n".join({part}) for {part} in {parts}])\n'
    way = style.pick("labelling", ("batch", "again", "halves", "rounds", "pad"))
    if way == "batch":
        code += f"{cut}{call}{tags} = []\nfor {part}, o in zip({parts}, {out}):\n"
        code += f'    got = o.strip().split("\\n")\n    if len(got) != len({part}):\n'
        code += f"        got = [llm_query(ask + t).strip() for t in {part}]\n    {tags} += got"
    elif way == "again":
        code += f"{cut}{call}{out} = [o.strip().split('\\n') for o in {out}]\n"
        code += f"bad = [i for i in range(len({parts})) if len({out}[i]) != len({parts}[i])]\n"
        code += f"for i in bad:\n    {out}[i] = llm_query_batched([ask + t for t in {parts}[i]])\n"
        code += f"{tags} = [a.strip() for o in {out} for a in o]\nprint(len(bad))"
    elif way == "halves":
        code += (
            f'def label({part}):\n    got = llm_query(ask + "\\n".join({part})).strip()'
            f'.split("\\n")\n    if len(got) == len({part}) or len({part}) == 1:\n'
            f"        return got[:1] if len({part}) == 1 else got\n    half = len({part}) // 2\n"
            f"    return label({part}[:half]) + label({part}[half:])\n"
            f"{tags} = []\nfor i in range(0, len({texts}), {few}):\n"
            f"    {tags} += label({texts}[i:i + {few}])"
        )
    elif way == "rounds":
        code += f"told = {{}}\nfor n in ({few}, 2, 1):\n"
        code += f"    todo = [t for t in dict.fromkeys({texts}) if t not in told]\n"
        code += f"    {parts} = [todo[i:i + n] for i in range(0, len(todo), n)]\n    {call}"
        code += f"    for {part}, o in zip({parts}, {out}):\n"
        code += f'        got = o.strip().split("\\n")\n        if len(got) == len({part}):\n'
        code += f"            told.update(zip({part}, got))\n"
        code += f'{tags} = [told.get(t, "") for t in {texts}]'
    else:  # a lost line is lost, but none is shifted
        code += f"{cut}{call}{tags} = [a for {part}, o in zip({parts}, {out}) "
        code += f'for a in (o.strip().split("\\n") + {part})[:len({part})]]'
    return code + style.pick(
        "labelled",
        (
            f"\nprint({tags}[:3])",
            f"\nprint(len({tags}) == len({texts}), set({tags}))",
            f"\nassert len({tags}) == len({texts})",
            "",
        ),
    )
