"""The scripted expert of ``ruler``: finds needles by code and reads values by code or sub-calls.

Ways, drawn per run: ``guess`` tries a sentence before it has looked; ``pattern`` looks round the
key and writes the search from what stands there; ``read`` answers with the value it was shown;
``windows`` cuts windows round the key and has a sub-call read each; ``chunks`` cuts the whole text
and asks about the chunks that have the key, of a small text about all. A search that finds less
than the key's occurrences is followed by another way.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Generator, Sequence
from dataclasses import dataclass

from data_gen.experts.steps import broken
from data_gen.experts.style import Style
from data_gen.tasks import ruler

# crash: raises, the traceback is read and the code mended. typo: searches for another key.
# part: keeps one value of several. guess: answers with a number that is none of the values.
MISTAKES = ("crash", "typo", "part", "guess")
WAYS = ("pattern", "windows", "chunks", "read", "guess", "pattern", "windows")
ASKS = (
    "What is the special magic {one} for {key}? Answer with it alone, or none.",
    "Which special magic {one} does this text give for {key}? If it gives none, answer none.",
    "Copy the special magic {one} of {key}. Write none if it is not there.",
)
_SMALL = 40_000  # characters of a text whose chunks are all read
_TEMPLATES = (
    *ruler.WORDINGS,
    *ruler.WORDINGS_HELD_OUT,
    *(record for skin in ruler.SKINS + ruler.SKINS_HELD_OUT for record in skin.records),
)
_VALUES = {
    "number": (r"(\d+)", r"(\d{7})", r"([0-9]+)"),
    "word": (r"([a-z]+-[a-z]+)", r"(\w+-\w+)", r"([\w-]+)"),
    "uuid": (r"([0-9a-f-]+)", r"([\w-]+)", r"([0-9a-f-]{36})"),
}
_READ = {
    "number": r"[0-9]{7}",
    "word": r"[a-z]+-[a-z]+",
    "uuid": r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}",
}
_SIZES = {"number": 7, "uuid": 36}

Steps = Generator[str, str, None]


@dataclass(frozen=True)
class Asked:
    """What a question asks for."""

    one: str  # number, word or uuid
    keys: tuple[str, ...]
    several: bool


def next_turn(question: str, seen: Sequence[str], style: Style) -> str | None:
    """The reply after the outputs ``seen``; None for another family's question."""
    asked = _asked(question)
    if asked is None:
        return None
    steps = _steps(asked, style)
    reply = next(steps)
    for output in seen:
        reply = steps.send(output)
    return reply


def leaf(prompt: str) -> str | None:
    """The values that the prompt's text gives for its key, or "none"."""
    text, _, question = prompt.rpartition("\n\n")
    for ask in ASKS:
        rule = re.escape(ask).replace(r"\{one\}", r"(\w+)").replace(r"\{key\}", r"([\w-]+)")
        if match := re.fullmatch(rule, question.strip()):
            one, key = match.groups()
            return ", ".join(_read(text, one, key).values()) or "none"
    return None


def _read(text: str, one: str, key: str) -> dict[str, str]:
    """The values of ``key`` in the text, by the needle that tells each."""
    if one not in _READ:
        return {}
    found: dict[int, tuple[str, str]] = {}
    for template in _TEMPLATES:
        for match in re.finditer(_pattern(template, one, key), text):
            found[match.start()] = (match[0], match[1])
    return dict(found[at] for at in sorted(found))


def _pattern(template: str, one: str, key: str) -> str:
    """What a reader knows of a sentence or record: the group is the value of ``key``.

    What stands before both key and value is left out, and after them all but a mark; the words
    may stand on several lines.
    """
    fields = [m.start() for m in re.finditer(r"\{(?:key|value|other)\}", template)]
    tail = re.match(r"\{\w+\}[^\w\s{]*", template[fields[-1] :])
    assert tail is not None
    body = re.escape(template[fields[0] : fields[-1] + tail.end()])
    body = body.replace(r"\{\{", r"\{").replace(r"\}\}", r"\}").replace("\\ ", r"\s+")
    found = _READ[one]
    # A piece that begins within a name of two words would show another name.
    edge = r"(?<=[^\w-])" if one == "word" else r"(?<![\w-])"
    for name, text in (
        ("key", rf"(?<![\w-]){re.escape(key)}(?![\w-])"),
        ("value", f"{edge}({found})"),
        ("other", found),
        ("one", one),
        ("many", f"{one}s"),
    ):
        body = body.replace(rf"\{{{name}\}}", text)
    return body


def _asked(question: str) -> Asked | None:
    for wordings in ruler.QUESTIONS + ruler.QUESTIONS_HELD_OUT:
        for at, wording in enumerate(wordings):
            rule = re.escape(wording).replace(r"\{one\}", r"(?P<one>\w+?)")
            rule = rule.replace(r"\{many\}", r"(?P<one>\w+?)s")
            rule = rule.replace(r"\{query\}", r"(?P<query>[\w, -]+?)")
            if match := re.fullmatch(rule, question):
                keys = tuple(re.split(r", and |, ", match["query"]))
                return Asked(match["one"], keys, several=at == 1)
    return None


def _steps(asked: Asked, style: Style) -> Steps:
    """The run: each reply is yielded, the output of its code is sent back."""
    mistake = style.mistake(MISTAKES)
    if mistake == "part" and not asked.several:
        mistake = "typo"  # one of one is all
    write = _Writer(asked, style, mistake)
    way = style.pick("way", WAYS)
    if mistake == "crash":
        yield style.say(broken(write.look(), style.rng("crash")), "First a look.\n")
        shown = yield style.say(write.look(), "I mend the error.\n", "The name was wrong.\n")
        way = "pattern"
    elif mistake == "guess":
        yield from _end(write, style)
    elif way == "guess":
        out = yield style.say(write.search([ruler.WORDINGS[style.pick("first", (0, 0, 1, 2))]],
                                           False), "I try the usual sentence.\n")  # fmt: skip
        if _complete(out):
            yield from _end(write, style)
        shown = yield style.say(write.look(), "Not all are found: I look round the key.\n",
                                "The sentence is another one.\n")  # fmt: skip
    elif way in ("pattern", "read"):
        shown = yield style.say(write.look(), "First I look round the key.\n")
    else:
        if style.chance("in one", 0.2):
            yield from _end(write, style, f"{write.asking(way, False)}\n")
        every = False
        if style.chance("peek", 0.6):
            out = yield style.say(write.peek(), "I look at the text.\n")
            size = re.search(r"^(\d+)", out, re.MULTILINE)
            every = size is not None and int(size[1]) <= _SMALL and len(asked.keys) == 1
        yield style.say(write.asking(way, every), "Sub-calls read the values.\n")
        yield from _end(write, style)
    told = [_read(shown, asked.one, key) for key in asked.keys]
    needles = {needle: value for found in told for needle, value in found.items()}
    if way == "read" and not asked.several and len(needles) == 1 and mistake != "typo":
        yield from _end(write, style, f'{write.found} = ["{next(iter(needles.values()))}"]\n')
    templates = [
        template
        for template in _TEMPLATES
        if any(re.search(_pattern(template, asked.one, key), shown) for key in asked.keys)
    ]
    if templates:
        wrapped = any("\n" in needle for needle in needles)
        out = yield style.say(write.search(templates, wrapped),
                              "Now the search.\n", "It stands there like this.\n")  # fmt: skip
        if _complete(out):
            yield from _end(write, style)
    yield style.say(write.asking(style.pick("then", ("windows", "chunks")), False),
                    "The rest by sub-calls.\n", "Code does not see it: I ask.\n")  # fmt: skip
    yield from _end(write, style)


def _end(write: _Writer, style: Style, before: str = "") -> Steps:
    """Perhaps a check, then the answer."""
    if not before and write.mistake == "" and style.chance("check", 0.35):
        yield style.say(write.check(), "A second look.\n", "I check.\n")
    while True:
        yield style.say(before + write.finish(), "Now the answer.\n")


def _complete(output: str) -> bool:
    """Whether as many values were found as the keys occur."""
    counts = re.search(r"^(\d+) (?:of )?(\d+)\b", output, re.MULTILINE)
    return counts is not None and counts[1] == counts[2] != "0"


class _Writer:
    """Writes the cells of one run."""

    def __init__(self, asked: Asked, style: Style, mistake: str) -> None:
        self._asked, self._style, self.mistake = asked, style, mistake
        self.found = style.name("found")
        self._keys = asked.keys
        if mistake == "typo":
            self._keys = tuple(key[:-1] + ("x" if key[-1] != "x" else "z") for key in asked.keys)
        self._known = False  # whether a cell has said what the keys are

    def peek(self) -> str:
        """A look at the beginning and the size."""
        return f"print(len(context), context[:{self._style.pick('peek', (150, 200, 300))}])"

    def look(self) -> str:
        """A look round the first key."""
        key, before, after = self._keys[0], *self._style.pick("look", ((120, 140), (130, 160)))
        self._known = False
        way = self._style.pick("look way", ("find", "iter", "split", "lines", "index"))
        head = f'key = "{key}"\n'
        if way == "find":
            return (f"{head}at = context.find(key)\n"
                    f"print(context[max(0, at - {before}):at + {after}])")  # fmt: skip
        if way == "iter":
            return (f"import re\n{head}for m in list(re.finditer(key, context))[:2]:\n"
                    f"    print(context[max(0, m.start() - {before}):m.end() + {before}])\n"
                    '    print("--")')  # fmt: skip
        if way == "split":
            return (f"{head}sides = context.split(key)\nprint(len(sides) - 1)\n"
                    f"print(sides[0][-{before}:] + key + sides[1][:{before}])")  # fmt: skip
        if way == "lines":
            return (f"{head}rows = [s for s in context.splitlines() if key in s]\n"
                    "print(len(rows))\nfor s in rows[:2]:\n    at = max(0, s.find(key) - "
                    f"{before})\n    print(s[at:at + {after + before}])")  # fmt: skip
        return (f"{head}at = context.index(key)\nprint(at, len(context))\n"
                f"print(context[max(0, at - {before}):][:{after + before}])")  # fmt: skip

    def search(self, templates: list[str], wrapped: bool) -> str:
        """A search written from sentences that were seen."""
        style, one = self._style, self._asked.one
        ways = ["regex", "regex", "iter"]
        template = templates[0]
        if len(templates) == 1 and not wrapped:
            if template.startswith("{{"):
                ways += ["json", "json"]
            elif template.startswith("| "):
                ways += ["cells", "cells"]
            if "{other}" not in template:
                first = template.index("{key}") < template.index("{value}")
                ways += ["split", "index"] if first else []
                ways += ["back"] if not first and one in _SIZES else []
        way = style.pick("search", ways)
        tight = style.chance("tight", 0.6)
        rules = [self._rule(each, wrapped, tight) for each in templates]
        out = "{out}"
        if len(rules) > 1:
            body = f"{out} = []\nfor rule in ({', '.join(rules)}):\n"
            body += f"    {out} += re.findall(rule, context)"
        elif way == "regex":
            body = f"{out} = re.findall({rules[0]}, context)"
        elif way == "iter":
            body = f"rule = {rules[0]}\n{out} = [m[1] for m in re.finditer(rule, context)]"
        elif way == "json":
            name = re.search(r'"([^"]+)": "\{value\}"', template)
            assert name is not None
            field = name[1].replace("{one}", one)
            body = "rows = [json.loads(s) for s in context.splitlines() if key in s]\n"
            body += f'{out} = [r["{field}"] for r in rows]'
        elif way == "cells":
            at = [cell.find("{value}") >= 0 for cell in template.split("|")].index(True)
            value = f's.split("|")[{at}].split()[-1]'
            body = f"{out} = [{value} for s in context.splitlines() if key in s]"
        else:
            body = self._cut(template, way, out)
        needs = "json" if way == "json" and len(rules) == 1 else "re"
        head = f"import {needs}\n" if f"{needs}." in body else ""
        return head + self._each(body)

    def _cut(self, template: str, way: str, out: str) -> str:
        """Cuts at the words between key and value."""
        one = self._asked.one
        plain = template.replace("{one}", one).replace("{many}", f"{one}s").replace("{{", "{")
        plain = plain.replace("}}", "}")
        if way == "back":
            between = plain[plain.index("{value}") + 7 : plain.index("{key}")]
            return (f"sides = context.split({between!r} + key)\n"
                    f"{out} = [s[-{_SIZES[one]}:] for s in sides[:-1]]")  # fmt: skip
        between = plain[plain.index("{key}") + 5 : plain.index("{value}")]
        after = plain[plain.index("{value}") + 7 :][:1]
        if way == "split":
            return (f"sides = context.split(key + {between!r})\n"
                    f"{out} = [s.split({after!r})[0] for s in sides[1:]]")  # fmt: skip
        return (f"{out}, mark = [], key + {between!r}\nat = context.find(mark)\nwhile at >= 0:\n"
                f"    end = context.find({after!r}, at + len(mark))\n"
                f"    {out}.append(context[at + len(mark):end])\n"
                "    at = context.find(mark, end)")  # fmt: skip

    def _rule(self, template: str, wrapped: bool, tight: bool) -> str:
        """Code of the regular expression for ``key``, from the sentence or a part of it."""
        one = self._asked.one
        text = template.replace("{one}", one).replace("{many}", f"{one}s")
        text = text.replace("{{", "").replace("}}", "")
        if tight:
            fields = [m.start() for m in re.finditer(r"\{", text)]
            text = text[fields[0] : text.index("}", fields[-1]) + 2]
        value = self._style.pick("value", _VALUES[one])
        text = re.sub(r"[.|\[\]?*+()]", r"\\\g<0>", text)
        text = text.replace("{value}", value).replace("{other}", value.strip("()"))
        if wrapped:
            text = text.replace(" ", r"\s+")
        before, after = text.split("{key}")
        quote = "'" if '"' in text else '"'
        return " + ".join(
            part
            for part in (
                f"r{quote}{before}{quote}" if before else "",
                "key",
                f"r{quote}{after}{quote}" if after else "",
            )
            if part
        )

    def asking(self, way: str, every: bool) -> str:
        """Windows round the key, or chunks of the text, that sub-calls read."""
        style, out = self._style, "{out}"
        ask = style.pick("ask", ASKS).replace("{one}", self._asked.one)
        cut = style.pick("margin", (160, 200, 250))
        parts, replies = style.name("parts"), style.name("replies")
        form = style.pick("cut", ("iter", "find", "split"))
        if way == "chunks":
            size = style.pick("chunk", (1500, 2000, 1200))
            only = "" if every else " if key in c"
            body = f"cuts = (context[i:i + {size}] for i in range(0, len(context), {size - 300}))\n"
            body += f"{parts} = [c for c in cuts{only}]"
        elif form == "iter":
            body = f"{parts} = [context[max(0, m.start() - {cut}):m.end() + {cut}]\n"
            body += f"{' ' * (len(parts) + 4)}for m in re.finditer(key, context)]"
        elif form == "split":
            body = "sides = context.split(key)\n"
            body += f"{parts} = [a[-{cut}:] + key + b[:{cut}] for a, b in zip(sides, sides[1:])]"
        else:
            body = f"{parts}, at = [], context.find(key)\nwhile at >= 0:\n"
            body += f"    {parts}.append(context[max(0, at - {cut}):at + {2 * cut}])\n"
            body += "    at = context.find(key, at + 1)"
        call = style.pick("call", ("batch", "batch", "one"))
        if call == "batch":
            body += f'\n{replies} = llm_query_batched([p + f"\\n\\n{ask}" for p in {parts}])'
        else:
            body += f'\n{replies} = [llm_query(p + f"\\n\\n{ask}") for p in {parts}]'
        read = f'v.strip() for r in {replies} for v in r.split(",") if "none" not in r'
        keep = style.pick("keep", ("dict", "set", "loop"))
        if keep == "dict":
            body += f"\n{out} = list(dict.fromkeys({read}))"
        elif keep == "set":
            body += f"\n{out} = sorted({{{{{read}}}}})"
        else:
            body += f"\n{out} = []\nfor v in [{read}]:\n    if v not in {out}:\n"
            body += f"        {out}.append(v)"
        return ("import re\n" if "re.finditer" in body else "") + self._each(body)

    def _each(self, body: str) -> str:
        """``body`` for each key; it sets ``{out}`` from ``key``."""
        style, found = self._style, self.found
        several = len(self._keys) > 1
        if not several and not style.chance("function", 0.25):
            head = f'key = "{self._keys[0]}"\n'
            count = style.pick("count", ("context.count(key)", "len(context.split(key)) - 1"))
            code = head + body.replace("{out}", found)
        else:
            head = f"keys = {list(self._keys)}\n"
            count = style.pick("count", ("sum(context.count(k) for k in keys)",
                                         "sum(map(context.count, keys))"))  # fmt: skip
            if style.pick("each", ("function", "loop")) == "function":
                inner = textwrap.indent(body.replace("{out}", "got"), "    ")
                code = f"{head}def search(key):\n{inner}\n    return got\n"
                code += f"{found} = [v for key in keys for v in search(key)]"
            else:
                inner = textwrap.indent(body.replace("{out}", "got"), "    ")
                code = f"{head}{found} = []\nfor key in keys:\n{inner}\n    {found} += got"
        code = code.replace("{{", "{").replace("}}", "}")
        return f"{code}\nprint(len({found}), {count})\nprint({found})"

    def check(self) -> str:
        """A second search: each value stands near its key."""
        found, way = self.found, self._style.pick("check way", ("near", "count", "in"))
        if way == "near":
            return (f"for v in {found}:\n    at = context.find(v)\n"
                    "    print(context[max(0, at - 50):at + 40])")  # fmt: skip
        if way == "count":
            return f"print([(v, context.count(v)) for v in {found}])"
        return f"assert all(v in context for v in {found})\nprint(len({found}))"

    def finish(self) -> str:
        """The answer."""
        if self.mistake == "guess":
            return self._style.finish(f'str(context.count("{self._keys[0]}"))')
        found = f"{self.found}[:1]" if self.mistake == "part" else self.found
        ways = (f'", ".join({found})', f'"\\n".join({found})', f"str({found})",
                f'" ".join({found})')  # fmt: skip
        if self.mistake == "typo":
            return self._style.finish(f"str({found})")
        return self._style.finish(self._style.pick("finish", ways))
