"""The scripted expert for ``pro``: takes the entries apart, has each one read, works out the rest.

Entries are read one by one, in one batch, or several in a prompt; the code then sorts, counts,
compares or looks up. Some runs look at an entry first, check the replies, or leave out entries
that don't name what is asked about.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from data_gen.experts.steps import merged, play
from data_gen.experts.style import Style
from data_gen.tasks.lexicon import CATEGORIES
from data_gen.tasks.pro_entries import MONTHS, read
from data_gen.tasks.pro_kinds import KINDS

_ASK = {
    "sequence": "When was it filed? Answer as YYYY-MM-DD.",
    "cite": "Does it say that {name} lives in {place}? Answer yes or no.",
    "rank": "Of which kind is the thing, {kinds}? Answer with one word.",
    "contradict": "Whose file is it, and how many pages has it? Answer as name: number.",
    "sums": "Who paid how many crowns? Answer as name: number.",
    "rule": "Of which kind is the thing, {kinds}? Answer with one word.",
    "wish": "Which thing does {name} ask for? Answer with the thing, or with none.",
}
_EACH = "For each line: "
_CATEGORY = {thing: name for name, things in CATEGORIES.items() for thing in things}


def next_turn(question: str, seen: Sequence[str], style: Style) -> str | None:
    """The next reply, or None if the question is of another family."""
    asked = _asked(question)
    if asked is None:
        return None
    kind, fields = asked
    low, high = re.findall(r"\d+", fields["span"])
    result = style.name("result")
    cells = [
        _entries(low, high, style),
        _reading(kind, _ASK[kind].format(**fields), fields, style),
        f"{_working(kind, fields, style)}\nprint(str({result})[:200])",
        style.finish(result),
    ]
    cells = merged(cells, style, style.pick("turns", (2, 3, 4, 1)))
    if style.chance("look first", 0.25):
        look = style.pick("look", ("context[:300]", 'context[context.find("[entry"):][:300]'))
        cells.insert(0, f"print(len(context))\nprint({look})")
    return play(cells, repr(style.pick("guess", (low, high, "none"))), seen, style)


def leaf(prompt: str) -> str | None:
    """What a sub-call about one entry, or about one a line, is answered with."""
    body, _, ask = prompt.rpartition("\n\n")
    texts = body.split("\n") if ask.startswith(_EACH) else [body]
    replies = [_answer(text, ask.removeprefix(_EACH)) for text in texts]
    return None if None in replies else "\n".join(map(str, replies))


def _answer(text: str, ask: str) -> str | None:
    if ask == _ASK["sequence"]:
        told = read("date", text)
        if told is None:
            return "none"
        return f"{told['year']}-{MONTHS.index(told['month']) + 1:02}-{int(told['day']):02}"
    if match := re.fullmatch(r"Does it say that (\w+) lives in (\w+)\? .*", ask):
        told = read("lives", text)
        # "X has never lived in Y" is no sentence of the kind that says where somebody lives.
        same = told is not None and (told["name"], told["place"]) == match.groups()
        return "yes" if same else "no"
    if ask.startswith("Of which kind is the thing"):
        told = read("thing", text)
        return _CATEGORY.get(told["thing"], "none") if told else "none"
    if ask in (_ASK["contradict"], _ASK["sums"]):
        told = read("pages" if ask == _ASK["contradict"] else "paid", text)
        return f"{told['name']}: {told['number']}" if told else "none"
    if match := re.fullmatch(r"Which thing does (\w+) ask for\? .*", ask):
        told = read("wants", text)
        return told["thing"] if told and told["name"] == match[1] else "none"
    return None


def _asked(question: str) -> tuple[str, dict[str, str]] | None:
    for name, kind in KINDS.items():
        for wording in kind.wordings:
            pattern = re.sub(r"\\\{(\w+)\\\}", r"(?P<\1>.+)", re.escape(f"{wording} {kind.ends}"))
            if match := re.fullmatch(pattern, question):
                return name, match.groupdict()
    return None


def _entries(low: str, high: str, style: Style) -> str:
    """Code that puts the texts of the asked entries into a dict, by number."""
    texts, row = style.name("texts"), style.name("row")
    way = style.pick("entries", ("pattern", "split", "loop"))
    if way == "pattern":
        code = (
            "import re\n"
            f'{row} = re.findall(r"\\[entry (\\d+)\\]\\n(.*)\\n\\[end\\]", context)\n'
            f"{texts} = {{int(n): t for n, t in {row} if {low} <= int(n) <= {high}}}"
        )
    elif way == "split":
        code = (
            f"{texts} = {{}}\n"
            f'for {row} in context.split("[entry ")[1:]:\n'
            f'    number, _, rest = {row}.partition("]\\n")\n'
            f"    if number.isdigit() and {low} <= int(number) <= {high}:\n"
            f'        {texts}[int(number)] = rest.partition("\\n[end]")[0]'
        )
    else:
        code = (
            f"every = context.splitlines()\n{texts} = {{}}\n"
            f"for number in range({low}, {high} + 1):\n"
            f'    at = every.index(f"[entry {{number}}]")\n'
            f"    {texts}[number] = every[at + 1]"
        )
    return code + style.pick("count", (f"\nprint(len({texts}))", f"\nprint(list({texts})[:5])", ""))


def _reading(kind: str, ask: str, fields: dict[str, str], style: Style) -> str:
    """Code that has every entry read; the replies go into a dict ``told``, by number."""
    texts, replies, part = style.name("texts"), style.name("replies"), style.name("part")
    code = ""
    if kind in ("cite", "sums", "wish") and style.chance("leave out", 0.5):
        code = f"{texts} = {{n: t for n, t in {texts}.items() if {fields['name']!r} in t}}\n"
    way = style.pick("reading", ("batch", "packed", "one by one", "function"))
    if way == "batch":
        code += (
            f'ask = "\\n\\n{ask}"\n'
            f"{replies} = llm_query_batched([t + ask for t in {texts}.values()])\n"
            f"told = {{n: a.strip() for n, a in zip({texts}, {replies})}}"
        )
    elif way == "packed":
        size = style.pick("pack", (4, 3, 5))
        code += (
            f'ask = "\\n\\n{_EACH}{ask}"\nids = list({texts})\n'
            f"packs = [ids[i:i + {size}] for i in range(0, len(ids), {size})]\n"
            f'prompts = ["\\n".join({texts}[n] for n in {part}) + ask for {part} in packs]\n'
            f"told = {{}}\n"
            f"for {part}, {replies} in zip(packs, llm_query_batched(prompts)):\n"
            f'    told.update(zip({part}, {replies}.strip().split("\\n")))'
        )
    elif way == "one by one":
        code += (
            f"told = {{}}\nfor n, t in {texts}.items():\n"
            f'    told[n] = llm_query(t + "\\n\\n{ask}").strip()'
        )
    else:
        code += (
            f'def look(t):\n    return llm_query(t + "\\n\\n{ask}").strip()\n'
            f"told = {{n: look(t) for n, t in {texts}.items()}}"
        )
    if style.chance("check", 0.35):
        code += style.pick(
            "check how",
            (
                f"\nprint(len(told) == len({texts}), list(told.items())[:2])",
                f"\nmissing = [n for n in {texts} if not told.get(n)]\nprint(missing)",
                "\nassert all(told.values())\nprint(list(told.values())[:4])",
            ),
        )
    return code


def _working(kind: str, fields: dict[str, str], style: Style) -> str:
    """Code that makes the answer of ``told``."""
    result, found = style.name("result"), style.name("found")
    lines = f'{result} = "\\n".join(str(n) for n in {found})'
    if kind == "sequence":
        way = style.pick("sort", ("key", "pairs", "lambda"))
        if way == "key":
            return f"{found} = sorted(told, key=told.get)\n{lines}"
        if way == "pairs":
            return f"{found} = [n for d, n in sorted((d, n) for n, d in told.items())]\n{lines}"
        return f"{found} = list(told)\n{found}.sort(key=lambda n: told[n])\n{lines}"
    if kind == "cite":
        if style.pick("filter", ("list", "loop")) == "list":
            return f'{found} = [n for n, a in told.items() if a.lower() == "yes"]\n{lines}'
        return (
            f"{found} = []\nfor n, a in told.items():\n"
            f'    if a == "yes":\n        {found}.append(n)\n{lines}'
        )
    if kind == "rank":
        if style.pick("rank", ("counter", "count")) == "counter":
            count = "from collections import Counter\n"
            count += f"{found} = [k for k, c in Counter(told.values()).most_common()]"
        else:
            count = f"every = list(told.values())\n{found} = sorted(set(every), key=every.count)"
            count += f"\n{found}.reverse()"
        return f"{count}\n{lines}"
    if kind == "contradict":
        if style.pick("compare", ("groups", "pairs")) == "groups":
            return (
                'groups = {}\nfor n, a in told.items():\n    who, many = a.split(": ")\n'
                "    groups.setdefault(who, set()).add(many)\n"
                f'{found} = [n for n, a in told.items() if len(groups[a.split(": ")[0]]) > 1]\n'
                f"{lines}"
            )
        return (
            f"{found} = set()\nfor n, a in told.items():\n    for m, b in told.items():\n"
            '        if a != b and a.split(": ")[0] == b.split(": ")[0]:\n'
            f"            {found} |= {{n, m}}\n{lines}"
        )
    if kind == "sums":
        own = (
            'paid = {n: int(a.split(": ")[1]) for n, a in told.items() '
            f"if a.startswith({fields['name'] + ':'!r})}}\n"
        )
        if style.pick("largest", ("key", "sorted")) == "key":
            best = "best = max(paid, key=paid.get)\n"
        else:
            best = "best = sorted(paid, key=lambda n: paid[n])[-1]\n"
        return (
            f"{own}{best}"
            f'{result} = f"total: {{sum(paid.values())}}\\nlargest: {{paid[best]}}\\n'
            'entry: {best}"'
        )
    texts = style.name("texts")
    if kind == "rule":
        tray = f'{texts}[n].split("Tray: ")[1].split(".")[0]'
        if style.pick("rule", ("dict", "search")) == "dict":
            return (
                f"trays = {{n: {tray} for n in told}}\n"
                'rule = {told[n]: t for n, t in trays.items() if t != "unknown"}\n'
                f'{found} = [f"{{n}}: {{rule[told[n]]}}" for n in told if trays[n] == "unknown"]\n'
                f"{lines}"
            )
        return (
            f"trays = {{n: {tray} for n in told}}\n{found} = []\nfor n in told:\n"
            '    if trays[n] == "unknown":\n'
            '        like = [m for m in told if told[m] == told[n] and trays[m] != "unknown"]\n'
            f'        {found}.append(f"{{n}}: {{trays[like[0]]}}")\n{lines}'
        )
    if style.pick("last", ("list", "loop")) == "list":
        return f'{result} = [a for n, a in sorted(told.items()) if a != "none"][-1]'
    return f'for n in sorted(told):\n    if told[n] != "none":\n        {result} = told[n]'
