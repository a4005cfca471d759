"""The scripted expert of ``straddle``: has pieces of the context read that overlap each other.

Ways: ``chunks`` and ``sentences`` cut with overlap; ``names`` cuts windows from a name on;
``seams`` reads chunks and then what lies round each cut; ``missing`` reads chunks, then once more
what was named without a number; ``carry`` hands the end of each chunk to the next; ``halves``
is a function that calls itself on two overlapping halves.

The same run without overlap, to measure what overlap is worth:

    next_turn(question, seen, style, mistake="no_overlap")

Over 400 runs of 2^10 to 2^13 tokens: 400 right with overlap, 27 without (of ``halves``, whose cuts
fall elsewhere, about a third).
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from data_gen.experts.steps import broken, merged
from data_gen.experts.style import Style
from data_gen.tasks.straddle import HELD_OUT, QUESTIONS, TRAIN

# crash: the first code raises and is mended. no_overlap: pieces that only touch. thin: an overlap
# shorter than most facts. guess: no look at the context.
MISTAKES = ("crash", "no_overlap", "thin", "guess")
WAYS = ("chunks", "names", "sentences", "seams", "missing", "carry", "halves")

_KINDS, _THINGS = "|".join(TRAIN.kinds + HELD_OUT.kinds), "|".join(TRAIN.things + HELD_OUT.things)
_HEAD = rf"\b(?P<kind>{_KINDS}) (?:of|at|by|called|named|known as) (?P<name>[A-Z]\w+)(?=\W)"
_SINGLE = "How many {things} has the {kind} {name}? Answer with the number, or with none."
_ALL = "Give every {kind} with its number of {things}, one a line as name: number, or none."
_NAMED = "Give every {kind} that is named, one a line, as name: number of its {things}, or none."
_MARKS = (" / ", " | ", "\n> ", "\n    ", "\n\n", "\n")  # what the layouts put for a space
_MOST_ALL = 40_000  # characters; of a longer context only pieces with the kind's word are read


def next_turn(
    question: str, seen: Sequence[str], style: Style, mistake: str | None = None
) -> str | None:
    """The reply after the outputs ``seen``; None for another family's question.

    Args:
        mistake: of ``MISTAKES``, or "" for none; if None, the style draws it.
    """
    asked = _asked(question)
    if asked is None:
        return None
    kind, fields = asked
    bad = style.mistake(MISTAKES) if mistake is None else mistake
    if bad == "guess":
        return style.say(style.finish(repr(style.pick("guess", ("42", "none", "0")))))
    worked = [output for output in seen if "Traceback" not in output]
    cells = _cells(kind, fields, worked[0] if worked else "", style, bad)
    if bad == "crash" and not seen:
        return style.say(broken(cells[0], style.rng("crash")))
    # Only the planted crash is repeated; any other failed cell is followed by the next one.
    at = min(len(seen) - (bad == "crash"), len(cells) - 1)
    if bad == "crash" and len(seen) == 1:
        error = re.findall(r"^\w*Error.*", seen[0], re.MULTILINE)
        told = error[-1][:80] if error else "It failed"
        return style.say(cells[at], f"{told}: I mend this.\n", "I mend the code.\n")
    if at == len(cells) - 1:
        return style.say(cells[at], "Now the answer.\n", "That is all.\n")
    plain = "I have it read piece by piece.\n"
    overlap = "A fact may lie across a cut, so the pieces overlap.\n" if at else "First a look.\n"
    return style.say(cells[at], *((plain,) if bad else (overlap,)))


def leaf(prompt: str) -> str | None:
    """What a sub-call about one piece is answered with, from the piece alone."""
    text, _, ask = prompt.rpartition("\n\n")
    text = re.sub(r"\s+(> )?", " ", text)
    if match := re.fullmatch(_pattern(_SINGLE), ask):
        return _told(text, match["kind"], match["things"]).get(match["name"], "none")
    every = re.fullmatch(_pattern(_NAMED), ask)
    if match := every or re.fullmatch(_pattern(_ALL), ask):
        told = _told(text, match["kind"], match["things"]).items()
        return "\n".join(f"{k}: {n}" for k, n in told if every or n != "none") or "none"
    return None


def _told(text: str, kind: str, things: str) -> dict[str, str]:
    """The numbers of the places of ``kind``: a count is of the place that was named last."""
    events = [_HEAD]
    for at, wording in enumerate(TRAIN.counts + HELD_OUT.counts):
        pattern = re.escape(wording).replace(r"\{things\}", rf"(?P<things{at}>{_THINGS})")
        events.append(pattern.replace(r"\{n\}", rf"(?P<n{at}>\d+)"))
    found: dict[str, str] = {}
    last = None
    for match in re.finditer("|".join(f"(?:{event})" for event in events), text):
        groups = {key: value for key, value in match.groupdict().items() if value}
        if "name" in groups:
            last = groups["name"] if groups["kind"] == kind else None
            if last:
                found.setdefault(last, "none")
            continue
        number = next(value for key, value in groups.items() if key.startswith("n"))
        if last and things in groups.values():
            found[last] = number
    return found


def _pattern(wording: str) -> str:
    """A pattern for the filled wording; a field that comes twice is the same both times."""
    pattern = re.escape(wording)
    for field in re.findall(r"\{(\w+)\}", wording):
        value = r"[\w, ]+" if field == "names" else r"\w+"
        pattern = pattern.replace(rf"\{{{field}\}}", f"(?P<{field}>{value})", 1)
        pattern = pattern.replace(rf"\{{{field}\}}", f"(?P={field})")
    return pattern


def _asked(question: str) -> tuple[str, dict[str, str]] | None:
    for kind, wordings in QUESTIONS.items():
        for wording in wordings:
            if match := re.fullmatch(_pattern(wording), question):
                return kind, match.groupdict()
    return None


def _cells(kind: str, fields: dict[str, str], shown: str, style: Style, bad: str) -> list[str]:
    """The run's cells; ``shown`` is the first output."""
    named = {"value": "x", "more": "x, y", "list": "names"}.get(kind, "")
    names = [part for field in named.split(", ") if field for part in fields[field].split(", ")]
    looks = style.chance("look", 0.6)
    work = _Reading(fields, names, style, bad, shown if looks else "").cells()
    work.append(_working(kind, fields, names, style))
    if style.chance("check", 0.3):
        told = style.name("found")
        size = (f"len({told}), list({told}.items())[:4]", f"sorted({told}.values())[-5:]")
        work[-1] += f"\nprint({style.pick('check how', size)})"
    work.append(style.finish(style.name("result")))
    work = merged(work, style, style.pick("turns", (3, 2, 4, 5, 1)))
    if looks:
        chars = style.pick("peek", (300, 250, 360))
        look = (
            f"print(len(context))\nprint(context[:{chars}])",
            f"print(len(context), context.count({fields['kind']!r}))\nprint(context[:{chars}])",
            f"print(len(context), repr(context[:{chars}]))",
        )
        work.insert(0, style.pick("look how", look))
    return work


class _Reading:
    """Code that has pieces read; the numbers go into a dict, by name."""

    def __init__(
        self, fields: dict[str, str], names: list[str], style: Style, bad: str, shown: str
    ) -> None:
        self.kind, self.names, self.style, self.bad = fields["kind"], names, style, bad
        self.fields = {"kind": fields["kind"], "things": fields["things"]}
        # What a piece reaches into the next one; facts are at most some 420 characters long.
        self.reach = {"no_overlap": 0, "thin": 60}.get(bad, style.pick("reach", (500, 450, 600)))
        self.size = style.pick("size", (1000, 500))
        size = re.search(r"\d+", shown)
        long = size is None or int(size[0]) > _MOST_ALL
        self.prunes = long or style.chance("prune", 0.5)
        shown = re.sub(r"\A(REPL output:)?[\d\s]*", "", shown.replace("\\n", "\n")).strip()
        self.mark = next((mark for mark in _MARKS if mark in shown), "")
        self.told, self.parts = style.name("found"), style.name("parts")
        self.part, self.out = style.name("part"), style.name("replies")

    def cells(self) -> list[str]:
        """Two or three cells."""
        way = self.style.pick("way", WAYS)
        whole = {"carry": self._carry, "halves": self._halves, "missing": self._missing}
        if way in whole:
            return whole[way]()
        ways = {"chunks": self._chunks, "sentences": self._sentences, "names": self._windows}
        cut = ways.get(way, self._seams)()
        count = self.style.pick("count", (f"\nprint(len({self.parts}))", ""))
        prunes = self.prunes and not self.names and way != "names"
        prune = f"\n{self._prune()}" if prunes else ""
        singly = self.names and (way == "names" or self.style.chance("singly", 0.5))
        return [cut + prune + count, self._by_name() if singly else self._all()]

    def _touching(self) -> str:
        return f"[context[i:i + {self.size}] for i in range(0, len(context), {self.size})]"

    def _kept(self, condition: str) -> str:
        return f"{self.parts} = [{self.part} for {self.part} in {self.parts} if {condition}]"

    def _prune(self) -> str:
        return self._kept(f"{self.kind!r} in {self.part}")

    def _chunks(self) -> str:
        parts, size, reach = self.parts, self.size, self.reach
        form = self.style.pick("cut", ("one", "while", "function", "step"))
        if form == "one":
            end = f"i + {size + reach}"
            return f"{parts} = [context[i:{end}] for i in range(0, len(context), {size})]"
        if form == "while":
            return (
                f"size, overlap = {size}, {reach}\n{parts}, at = [], 0\n"
                "while at < len(context):\n"
                f"    {parts}.append(context[at:at + size + overlap])\n    at += size"
            )
        if form == "function":
            return (
                "def cut(text, size, overlap):\n"
                "    starts = range(0, len(text), size)\n"
                "    return [text[max(0, s - overlap):s + size] for s in starts]\n"
                f"{parts} = cut(context, {size}, {reach})"
            )
        return (
            f"size, overlap = {size + reach}, {reach}\nstep = size - overlap\n"
            f"{parts} = [context[i:i + size] for i in range(0, len(context), step)]"
        )

    def _sentences(self) -> str:
        """Cut at sentence ends; facts have at most seven sentences."""
        style = self.style
        rows, number = style.name("rows"), style.pick("sentences", (8, 10, 6))
        more = {"no_overlap": 0, "thin": 1}.get(self.bad, style.pick("more", (7, 8)))
        split = f'import re\n{rows} = re.split(r"(?<=\\.)[\\s/|>]+", context)'
        if self.mark in _MARKS[:2]:
            split = style.pick("split", (f"{rows} = context.split({self.mark!r})", split))
        elif self.mark:
            clean = f'text = context.replace({self.mark!r}, " ")\n'
            ends = f'import re\n{clean}{rows} = re.split(r"(?<=\\.) ", text)'
            split = style.pick("split", (ends, f'{clean}{rows} = text.split(". ")', split))
        joint = ". " if 'split(". ")' in split else " "
        return (
            f"{split}\n{self.parts} = [{joint!r}.join({rows}[i:i + {number + more}]) + '.'\n"
            f"    for i in range(0, len({rows}), {number})]"
        )

    def _windows(self) -> str:
        """From each mention of a name, or of the kind of place, on."""
        parts = self.parts
        words = self.names or [self.kind]
        pattern = words[0] if len(words) == 1 else f"(?:{'|'.join(words)})"
        search = f'r"\\b{pattern}\\b"'
        if self.bad == "no_overlap":
            kept = self._kept(f"re.search({search}, {self.part})")
            return f"import re\n{parts} = {self._touching()}\n{kept}"
        before = self.style.pick("before", (60, 40, 100))
        window = f"context[max(0, m.start() - {before}):m.start() + {self.reach}]"
        return f"import re\n{parts} = [{window}\n    for m in re.finditer({search}, context)]"

    def _seams(self) -> str:
        """Chunks, and what lies round the cuts between them."""
        code = f"{self.parts} = {self._touching()}"
        if self.bad == "no_overlap":
            return code
        cuts = f"range({self.size}, len(context), {self.size})"
        seam = f"context[max(0, c - {self.reach}):c + {self.reach}]"
        if self.style.pick("seams", ("list", "loop")) == "list":
            return f"{code}\n{self.parts} += [{seam} for c in {cuts}]"
        return f"{code}\nfor c in {cuts}:\n    {self.parts}.append({seam})"

    def _parse(self, reply: str, indent: str = "") -> str:
        """Code that puts the numbers of ``reply`` into the dict."""
        form = self.style.pick("parse", ("pattern", "rows", "update"))
        if form == "rows":
            lines = [
                f"for row in {reply}.splitlines():",
                '    name, _, number = row.partition(": ")',
                "    if number.isdigit():",
                f"        {self.told}[name] = int(number)",
            ]
        elif form == "pattern":
            lines = [
                f'for name, number in re.findall(r"(\\w+): (\\d+)", {reply}):',
                f"    {self.told}[name] = int(number)",
            ]
        else:
            pairs = f'(row.split(": ") for row in {reply}.split("\\n") if row[-1:].isdigit())'
            lines = [f"{self.told}.update({{n: int(v) for n, v in {pairs}}})"]
        return "\n".join(indent + line for line in lines)

    def _all(self) -> str:
        code = f'ask = "\\n\\n{_ALL.format(**self.fields)}"\n{self.told} = {{}}\n'
        if self.style.pick("batch", ("batch", "single")) == "batch":
            code += f"{self.out} = llm_query_batched([p + ask for p in {self.parts}])\n"
            code += f"for reply in {self.out}:\n"
        else:
            code += f"for {self.part} in {self.parts}:\n    reply = llm_query({self.part} + ask)\n"
        say = (f"\nprint(len({self.told}))", f"\nprint({self.told})")
        return _import(code + self._parse("reply", "    ") + self.style.pick("say", say))

    def _single(self) -> str:
        """An f-string's end that asks about the variable ``name``."""
        return "\\n\\n" + _SINGLE.format(name="{name}", **self.fields)

    def _by_name(self) -> str:
        """One question a name, about the pieces that have it."""
        told, part, out = self.told, self.part, self.out
        if self.style.pick("by name", ("batch", "function")) == "batch":
            return (
                f"{told} = {{}}\nfor name in {self.names}:\n"
                f"    near = [{part} for {part} in {self.parts} if name in {part}]\n"
                f'    {out} = llm_query_batched([f"{{{part}}}{self._single()}" '
                f"for {part} in near])\n"
                f"    {told}[name] = max([int(n) for n in {out} if n.isdigit()], default=0)\n"
                f"print({told})"
            )
        return (
            f"def ask(name):\n    for {part} in {self.parts}:\n        if name in {part}:\n"
            f'            reply = llm_query({part} + f"{self._single()}")\n'
            "            if reply.strip().isdigit():\n                return int(reply)\n"
            f"    return 0\n{told} = {{name: ask(name) for name in {self.names}}}"
        )

    def _carry(self) -> list[str]:
        """One piece after the other, each with the end of the one before."""
        part, size = self.part, self.size
        start = f'ask = "\\n\\n{_ALL.format(**self.fields)}"\n{self.told} = {{}}\n'
        loop = f"for i in range(0, len(context), {size}):\n"
        if self.reach:
            start += 'tail = ""\n'
            loop += f"    {part} = tail + context[i:i + {size}]\n"
            loop += f"    tail = {part}[-{self.reach}:]\n"
        else:
            loop += f"    {part} = context[i:i + {size}]\n"
        if self.prunes:
            loop += f"    if {self.kind!r} not in {part}:\n        continue\n"
        loop += f"    reply = llm_query({part} + ask)\n{self._parse('reply', '    ')}"
        return [_import(f"{start}{loop}\nprint(len({self.told}))")]

    def _halves(self) -> list[str]:
        """A function that halves what is too long; the halves share ``reach`` characters."""
        part, most = self.part, self.style.pick("most", (1600, 1800, 1400))
        half = self.reach // 2
        left, right = (f"half + {half}", f"half - {half}") if half else ("half", "half")
        ask = f'import re\nask = "\\n\\n{_ALL.format(**self.fields)}"\n'
        prune = f"    if {self.kind!r} not in {part}:\n        return {{}}\n" if self.prunes else ""
        pairs = 're.findall(r"(\\w+): (\\d+)", llm_query(' + f"{part} + ask))"
        code = (
            f"{ask}def read({part}):\n{prune}    if len({part}) > {most}:\n"
            f"        half = len({part}) // 2\n"
            f"        return {{**read({part}[:{left}]), **read({part}[{right}:])}}\n"
            f"    return {{name: int(n) for name, n in {pairs}}}"
        )
        return [f"{code}\n{self.told} = read(context)\nprint(len({self.told}))"]

    def _missing(self) -> list[str]:
        """Chunks that only touch, then once more what was named there without a number."""
        told, part = self.told, self.part
        prune = f"\n{self._prune()}" if self.prunes else ""
        first = f"{self.parts} = {self._touching()}{prune}"
        ask = _NAMED.format(**self.fields)
        second = (
            f'import re\nask = "\\n\\n{ask}"\n'
            f"{self.out} = llm_query_batched([p + ask for p in {self.parts}])\n"
            f'every = re.findall(r"(\\w+): (\\w+)", "\\n".join({self.out}))\n'
            f"{told} = {{name: int(n) for name, n in every if n.isdigit()}}\n"
        )
        if self.names:
            second += f"missing = [name for name in {self.names} if name not in {told}]\n"
        else:
            second += f"missing = {{name for name, n in every}} - {{*{told}}}\n"
        second += f"print(len({told}), list(missing)[:9])"
        if self.bad == "no_overlap":
            return [first, second]
        window = f"context[max(0, m.start() - 60):m.start() + {self.reach}]"
        third = (
            "for name in missing:\n"
            f'    for m in re.finditer(rf"\\b{{name}}\\b", context):\n'
            f"        {part} = {window}\n"
            f'        reply = llm_query({part} + f"{self._single()}")\n'
            f"        if reply.isdigit():\n            {told}[name] = int(reply)"
        )
        return [first, second, third]


def _import(code: str) -> str:
    return f"import re\n{code}" if "re.findall" in code else code


def _working(kind: str, fields: dict[str, str], names: list[str], style: Style) -> str:
    """Code that makes the answer of the numbers."""
    told, result = style.name("found"), style.name("result")
    if kind == "value":
        return f"{result} = {told}.get({names[0]!r}, 'none')"
    if kind == "more":
        x, y = names
        return f"{result} = {told}.get({x!r}, 0) - {told}.get({y!r}, 0)\nprint({result})"
    if kind == "list":
        values = f'str({told}.get(n, "none"))'
        if style.pick("join", ("join", "map")) == "join":
            return f'{result} = ", ".join({values} for n in {names})'
        return f'{result} = ", ".join(map(lambda n: {values}, {names}))'
    if kind == "total":
        sums = (f"sum({told}.values())", f"sum({told}[n] for n in {told})")
        return f"{result} = {style.pick('sum', sums)}\nprint({result})"
    if kind == "most":
        ranked = f"sorted({told}, key=lambda n: -{told}[n])"
        best = (f'max({told}, key={told}.get, default="none")', f'({ranked} or ["none"])[0]')
        return f"{result} = {style.pick('best', best)}"
    above = (
        f"sum(n > {fields['n']} for n in {told}.values())",
        f"len([n for n in {told} if {told}[n] > {fields['n']}])",
    )
    return f"{result} = {style.pick('above', above)}"
