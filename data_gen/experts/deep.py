"""The scripted expert of ``deep``: a run below for each book, which reads the book as it asks.

``next_turn`` answers the top question by one ``rlm_query`` a book, and the question of a run below
by looks at the head (and at the last line, where the head sends there), code for just this layout,
notation and rules, and leaf calls that say which things are of the kind. ``next_turn_flat`` is
the best that we found for one run without runs below: it parts all heads into sentences, has a leaf
say which of them mean the same, prints each meaning once, and writes code for those that it has
seen. Both write code for a sentence only after they have read it; ``heart`` gives the flat one
sentences that it knows beforehand.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from data_gen.experts.steps import merged, play
from data_gen.experts.style import Style
from data_gen.tasks import deep
from data_gen.tasks.deep import Scheme
from data_gen.tasks.lexicon import CATEGORIES

_Told = tuple[Scheme, str]  # what a sentence says, and its number
_LOOK = 390  # characters that one look shows
_FLAT_LOOK = 398
_BELOW = (
    "What do the entries about a thing of the kind {c} come to in this book? Its head says how it "
    "is read. Answer with the number alone.",
    "Read the book's head, then sum the entries whose thing is of the kind {c}. Answer with the "
    "number.",
    "By the rules at its top, what is this book's sum for things of the kind {c}? Answer with a "
    "number only.",
)
_IS_KIND = (
    "Say for each line whether it is of the kind {c}: yes or no, one a line.",
    "Is each of these a thing of the kind {c}? Answer yes or no, a line each.",
    "Label each line yes if it is of the kind {c}, else no.",
)
_SAME = "Which line says the same as this: {s}? Answer with its number, or none."
_SMALL = r"\b(the|an?|of|is|are|was|were|and|its?|that|to|has|have|be|been|up|any|each|all) "
_TELLS = "Does this line tell what amounts mean? Answer yes or no."
_NAMES = {"p": "p page pg", "w": "w who clerk", "t": "t thing what"}
_NAMES |= {"v": "v worth amount", "i": "i number nr", "a": "a raw text"}
_FIELDS = {"p": r"(\d+)", "w": r"(\w+)", "t": r"(\w+)", "a": r"(\S+)"}


def _pattern(wording: str) -> str:
    return re.sub(r"\\\{(\w)\\\}", r"(?P<\1>[\\w-]+)", re.escape(wording))


def _short(sentence: str) -> str:
    """A sentence as the flat one prints it, to read more of them."""
    return re.sub(_SMALL, "", sentence)


_KNOWN = [
    (re.compile(_pattern(form)), scheme)
    for scheme in (*deep.SCHEMES, *deep.SCHEMES_HELD_OUT)
    for wording in scheme.wordings
    for form in dict.fromkeys((wording, _short(wording)))
]


def next_turn(question: str, seen: Sequence[str], style: Style) -> str | None:
    """The next reply, at the top or in a run below; None for another family's question."""
    shown = [re.sub(r"\AREPL output:\n?", "", out) for out in seen]
    shown = [out for out in shown if "Traceback" not in out]
    if (fields := _match(question, _BELOW)) is not None:
        cells = _below(fields["c"], shown, style)
        return play(cells, repr(style.pick("guess", ("0", "100", "57"))), seen, style)
    asked = _asked(question)
    if asked is None:
        return None
    return play(_top(*asked, shown, style), "str(len(context) % 97)", seen, style)


def leaf(prompt: str) -> str | None:
    """Which lines are of a kind, which says the same as another, whether one tells of amounts."""
    body, _, ask = prompt.rpartition("\n\n")
    if (fields := _match(ask, _IS_KIND)) is not None:
        things = CATEGORIES[fields["c"]]
        return "\n".join("yes" if line in things else "no" for line in body.split("\n"))
    if ask == _TELLS:
        told = _scheme(body.rstrip("."))
        return "yes" if told and told[0].part == "notation" else "no"
    before, after = _SAME.split("{s}")
    if ask.startswith(before) and ask.endswith(after):
        wanted = _scheme(ask[len(before) : -len(after)])
        for line in body.split("\n"):
            number, _, sentence = line.partition(": ")
            known = _scheme(sentence)
            if wanted and known and wanted[0].code == known[0].code:
                return number
        return "none"
    return None


def _match(text: str, wordings: Iterable[str]) -> dict[str, str] | None:
    for wording in wordings:
        if match := re.fullmatch(_pattern(wording), text):
            return match.groupdict()
    return None


def _asked(question: str) -> tuple[str, dict[str, str]] | None:
    for kind, wordings in deep.WORDINGS.items():
        if (fields := _match(question, wordings)) is not None:
            return kind, fields
    return None


def _scheme(sentence: str) -> _Told | None:
    """What a head's sentence says, and its number if it has one."""
    for pattern, scheme in _KNOWN:
        if match := pattern.fullmatch(sentence):
            return scheme, match.groupdict().get("k", "")
    return None


def _code(scheme: Scheme, k: str) -> str:
    return re.sub(r"\{k\}|\bk\b", k, scheme.code) if k else scheme.code


def _row(scheme: Scheme) -> tuple[str, str]:
    """A pattern that finds an entry of a layout, and the order of its fields."""
    template = scheme.code.replace("{{", "{").replace("}}", "}").replace("\\n", "\n")
    parts = re.split(r"\{([pwta])\}", template)
    found = "".join(
        _FIELDS[part] if at % 2 else re.escape(part).replace("\\ ", " ").replace("\\\n", "\\n")
        for at, part in enumerate(parts)
    )
    return f"^{found}$", "".join(parts[1::2])


def _below(c: str, shown: list[str], style: Style) -> list[str]:
    """Cells of the run over one book, as far as they can be known."""
    size = style.pick("look", (_LOOK, 300, 350))
    looks: list[str] = []
    head = ""
    while not any(closing in head for closing in deep.CLOSINGS):
        looks.append(f"print(context[{len(looks) * size or ''}:{(len(looks) + 1) * size}])")
        if len(looks) > len(shown):
            return [*looks, "pass"]
        # The space or line break at which a look ends is not shown.
        head += shown[len(looks) - 1].rstrip("\n").ljust(size)[:size]
    line = next(line for line in head.split("\n") if any(end in line for end in deep.CLOSINGS))
    told = [found for s in line.split(". ") if (found := _scheme(s))]
    by = {part: [(one, k) for one, k in told if one.part == part] for part in ("layout", "rule")}
    notation = [(one, k) for one, k in told if one.part == "notation"]
    if not notation:
        looks.append(style.pick("last line", (
            'print(context.strip().split("\\n")[-1])',
            "print(context.strip().splitlines()[-1])",
            'print(context[-120:].strip().rpartition("\\n")[2])',
        )))  # fmt: skip
        if len(looks) > len(shown):
            return [*looks, "pass"]
        found = _scheme(shown[len(looks) - 1].strip().rstrip("."))
        notation = [found] if found else []
    work = _reader(by["layout"][0][0], notation[0], by["rule"], c, style)
    result = style.name("result")
    finish = style.finish(f"str({result})")
    if style.chance("check", 0.3):
        work[-1] += f"\nprint({result})"
        work.append(style.pick("how checked", (
            f"print(len(rows), sum(own.values()), {result})",
            "print(rows[0], rows[-1])",
            "print(sorted(own, key=own.get)[-3:])",
        )))  # fmt: skip
    elif style.chance("at once", 0.4):
        work[-1] += f"\n{finish}"
    else:
        work[-1] += f"\nprint({result})"
    if finish not in work[-1]:
        work.append(finish)
    while len(looks) + len(work) > 6:
        work[0:2] = [f"{work[0]}\n{work[1]}"]
    return looks + work


def _reader(layout: Scheme, notation: _Told, rules: list[_Told], c: str, style: Style) -> list[str]:
    """Two cells: the entries with the things of the kind; what they come to."""
    pattern, order = _row(layout)
    at = {field: order.index(field) for field in "pwta"}
    names = {field: style.pick(f"name {field}", own.split()) for field, own in _NAMES.items()}
    things, part, out = style.name("texts"), style.name("part"), style.name("replies")
    size, result = style.pick("pack", (8, 6, 10)), style.name("result")
    ask = style.pick("ask", _IS_KIND).format(c=c)
    entries = f'import re\nrows = re.findall(r"{pattern}", context, re.M)\nn = len(rows)\n'
    entries += f"P = [int(r[{at['p']}]) for r in rows]\nW = [r[{at['w']}] for r in rows]"
    first = style.pick("distinct", (
        f"{things} = sorted({{r[{at['t']}] for r in rows}})",
        f"{things} = list(dict.fromkeys(r[{at['t']}] for r in rows))",
    ))  # fmt: skip
    if style.pick("label", ("batch", "loop")) == "batch":
        label = (
            f"parts = [{things}[j:j + {size}] for j in range(0, len({things}), {size})]\n"
            f'{out} = llm_query_batched(["\\n".join({part}) + "\\n\\n{ask}" for {part} in parts])\n'
            f'own = {{x: y == "yes" for {part}, o in zip(parts, {out})'
            f' for x, y in zip({part}, o.split("\\n"))}}'
        )
    else:
        label = (
            f"own = {{}}\nfor j in range(0, len({things}), {size}):\n"
            f"    {part} = {things}[j:j + {size}]\n"
            f'    {out} = llm_query("\\n".join({part}) + "\\n\\n{ask}").split("\\n")\n'
            f'    own.update((x, y == "yes") for x, y in zip({part}, {out}))'
        )
    count = style.pick("told", (f"print(n, len({things}))", "print(n, rows[:2])", "print(n)"))
    steps = [_named(_code(*rule), names) for rule in rules]
    read = _named(_code(*notation), names)
    fields = ", ".join(names[field] for field in order)
    v, page, number, thing = (names[field] for field in "vpit")
    way = style.pick("way", ("loop", "function", "passes"))
    each = f"for {number}, ({fields}) in enumerate(rows, 1)"
    if way == "loop":
        lines = [f"{result} = 0", f"{each}:", f"    {page} = int({page})", f"    {v} = {read}"]
        lines += [f"    {v} = {step}" for step in steps]
        lines += [f"    if own[{thing}]:", f"        {result} += {v}"]
    elif way == "function":
        lines = [f"def counts({number}, {fields}):", f"    {page} = int({page})"]
        lines += [f"    {v} = {read}", *(f"    {v} = {step}" for step in steps), f"    return {v}"]
        lines += [
            f"{result} = sum(counts(j, *r) for j, r in enumerate(rows, 1) if own[r[{at['t']}]])"
        ]
    else:
        lines = ["now = []", f"{each}:", f"    now.append({read})"]
        for step in steps:
            lines += [f"for {number}, ({fields}) in enumerate(rows, 1):",
                      f"    {page}, {v} = int({page}), now[{number} - 1]",
                      f"    now[{number} - 1] = {step}"]  # fmt: skip
        lines += [f"{result} = sum(x for x, r in zip(now, rows) if own[r[{at['t']}]])"]
    return [f"{entries}\n{first}\n{label}\n{count}", "\n".join(lines)]


def _named(code: str, names: dict[str, str]) -> str:
    """The code with this run's names; single letters in quotes stay."""
    return re.sub(r"(?<![\"'\w])([pwtvia])(?![\"'\w])(?!\()", lambda match: names[match[1]], code)


def _heading(look: str) -> tuple[str, str]:
    """How books are headed: the heading, and the pattern where one begins."""
    first = look.lstrip().split("\n")[0]
    for heading in deep.HEADINGS:
        before, after = heading.split("{name}")
        if first.startswith(before) and first.endswith(after):
            start = re.escape(before).replace("\\ ", " ").replace("\\#", "#")
            return f"{start}(\\w+)", f"(?m)^(?={start})"
    raise AssertionError("one of the headings fits")


def _top(kind: str, fields: dict[str, str], shown: list[str], style: Style) -> list[str]:
    look = f"print(context[:{style.pick('peek', (200, 300, 390))}])"
    if not shown:
        return [look, "pass"]
    name, start = _heading(shown[0])
    ask = style.pick("below", _BELOW).format(c=fields["c"])
    books = style.pick("books", ("books", "sections", "chapters"))
    names = style.pick("names", ("names", "titles", "which"))
    sums = style.pick("sums", ("sums", "totals", "per_book"))
    result = style.name("result")
    split = f'import re\n{books} = re.split(r"{start}", context)[1:]\n'
    split += f'{names} = [re.match(r"{name}", b)[1] for b in {books}]\n'
    split += style.pick("count", (f"print(len({books}), {names}[:4])", f"print(len({names}))"))
    way = style.pick("calls", ("threads", "list", "loop"))
    if way == "threads":
        call = (
            "from concurrent.futures import ThreadPoolExecutor\n"
            f'ask = "{ask}"\nwith ThreadPoolExecutor({style.pick("width", (8, 6, 4))}) as pool:\n'
            f"    out = list(pool.map(lambda b: rlm_query(ask, context=b), {books}))\n"
            f"{sums} = {{x: int(y) for x, y in zip({names}, out)}}"
        )
    elif way == "list":
        call = (
            f'ask = "{ask}"\nout = [rlm_query(ask, context=b) for b in {books}]\n'
            f"{sums} = dict(zip({names}, map(int, out)))"
        )
    else:
        call = (
            f"{sums} = {{}}\nfor x, b in zip({names}, {books}):\n"
            f'    {sums}[x] = int(rlm_query("{ask}", context=b))'
        )
    call += style.pick("shown", (f"\nprint(list({sums}.items())[:5])", f"\nprint(len({sums}))"))
    cells = [look, split, call, f"{_result(kind, fields, sums, result, style)}\nprint({result})"]
    cells.append(style.finish(result))
    return [cells[0], *merged(cells[1:], style, style.pick("turns", (4, 3, 2, 1)))]


def _result(kind: str, fields: dict[str, str], sums: str, result: str, style: Style) -> str:
    """Code of the answer from the books' sums."""
    x = fields.get("x", "")
    forms = {
        "sum": (
            f"{result} = str(sum({sums}.values()))",
            f"{result} = 0\nfor x in {sums}:\n    {result} += {sums}[x]\n{result} = str({result})",
        ),
        "most": (
            f"{result} = max({sums}, key={sums}.get)",
            f"{result} = sorted({sums}, key=lambda x: {sums}[x])[-1]",
        ),
        "top": (
            f'{result} = ", ".join(sorted({sums}, key={sums}.get, reverse=True)[:3])',
            f"order = sorted({sums}.items(), key=lambda x: -x[1])\n"
            f'{result} = ", ".join(x for x, _ in order[:3])',
        ),
        "over": (
            f"{result} = str(sum(y > {x} for y in {sums}.values()))",
            f"{result} = str(len([x for x in {sums} if {sums}[x] > {x}]))",
        ),
    }
    return style.pick("result", forms[kind])


# -- one run without runs below -------------------------------------------------------------------

_GATHER = r"""import re
from collections import Counter
books = re.split(r"START", context)[1:]
names = [re.match(r"NAME", b)[1] for b in books]
def key(s):
    return re.sub(r"\d+", "#", s)
lasts = [b.strip().split("\n")[-1] for b in books]
tells = llm_query_batched([s + "\n\nTELLS" for s in lasts])
told = []
for b, last, yes in zip(books, lasts, tells):
    told.append(b.split("\n")[1].split(". ")[:-1] + [last.rstrip(".")] * (yes == "yes"))
reps, same = list(R), {}
for s in [s for ss in told for s in ss]:
    if key(s) not in same:
        lines = "\n".join(f"{j}: {r}" for j, r in enumerate(reps))
        said = llm_query(f"{lines}\n\nSAME") if reps else "none"
        if said == "none":
            reps.append(s)
        same[key(s)] = reps[int(said)] if said != "none" else s
uses = Counter(same[key(s)] for ss in told for s in ss)
def short(s):
    return re.sub(r"SMALL", "", s)
def learn(new):
    for x, c in new.items():
        R[next((s for s in uses if short(s).startswith(x)), x)] = c
text = "|".join(short(s) for s, _ in uses.most_common() if s not in {*R} and s not in context[:398])
text += "|"
print(text[:398])"""
_LABEL = r"""things = sorted({w for w in re.findall(r"[a-z]+", context) if len(w) > 2})
parts = [things[j:j + 24] for j in range(0, len(things), 24)]
own = {}
for part, o in zip(parts, llm_query_batched(["\n".join(p) + "\n\nIS" for p in parts])):
    own.update(zip(part, o.split("\n")))
"""
_COUNT = r"""def total(b, told):
    rows, read, rules = [], "int(a)", []
    for s in told:
        c, order = R.get(same[key(s)], ("v", ""))
        c = re.sub(r"\{k\}|\bk\b", (re.findall(r"\d+", s) or ["0"])[0], c)
        if order == "a":
            read = c
        elif order:
            rows = [dict(zip(order, r)) for r in re.findall(c, b, re.M)]
        else:
            rules.append(c)
    found, g = 0, {"P": [int(r["p"]) for r in rows], "W": [r["w"] for r in rows], "n": len(rows)}
    for i, r in enumerate(rows, 1):
        try:
            g.update(r, i=i, p=int(r["p"]))
            for c in [read, *rules]:
                g["v"] = eval(c, g)
            found += g["v"] * (own[r["t"]] == "yes")
        except Exception:
            pass
    return found
"""


def next_turn_flat(
    question: str, seen: Sequence[str], style: Style, heart: Sequence[Scheme] = ()
) -> str | None:
    """The reply of a run that has no runs below; it reads as much as its turns can show.

    Args:
        heart: schemes that it knows without reading; it then reads few others.
    """
    asked = _asked(question)
    if asked is None:
        return None
    shown = [re.sub(r"\AREPL output:\n?", "", out) for out in seen]
    turn = len(shown)
    if not turn:
        return style.say(f"print(context[:{_FLAT_LOOK}])")
    name, start = _heading(shown[0])
    gather = _GATHER.replace("START", start).replace("NAME", name)
    gather = gather.replace("TELLS", _TELLS).replace("SAME", _SAME).replace("SMALL", _SMALL)
    label = _LABEL.replace("IS", _IS_KIND[0].format(c=asked[1]["c"]))
    end = "sums = {x: total(*b) for x, *b in zip(names, books, told)}\n"
    end += _result(*asked, "sums", "result", Style(0, variety=0)) + "\n" + style.finish("result")
    if heart:
        share = -(-len(heart) // 4)
        known = [s.wordings[0].replace("{k}", "7") for s in heart[(turn - 1) * share :][:share]]
        update = f"R = {{}}\nR.update({_learned(known, 99)})".removeprefix("R = {}\n" * (turn > 1))
        if turn > 5:
            read = _learned(
                [*shown[5].split("|")[:-1], *map(_short, re.split(r"\. |\n", shown[0]))], 24
            )
            update = f"learn({read})\n{label}{_COUNT}{end}"
        return style.say(gather if turn == 5 else update)
    if turn == 1:
        return style.say(f"R = {{}}\n{gather}")
    before = "".join(shown[1 : turn - 1]).split("|")[:-1]
    new = "".join(shown[1:turn]).split("|")[len(before) : -1]
    new += map(_short, re.split(r"\. |\n", shown[0]) if turn == 2 else [])
    code = f"learn({_learned(new, 24)})\n" + {2: label, 3: _COUNT}.get(turn, "")
    at = (turn - 1) * _FLAT_LOOK
    return style.say(code + (end if turn == 6 else f"print(text[{at}:{at + _FLAT_LOOK}])"))


def _learned(sentences: Iterable[str], size: int) -> str:
    """Code for sentences that were read: of each the beginning, what it does, a layout's fields."""
    made: dict[str, tuple[str, str]] = {}
    for sentence in sentences:
        if (found := _scheme(sentence)) is not None and (scheme := found[0]).code:
            code = scheme.code, "a" if scheme.part == "notation" else ""
            made[sentence[:size]] = _row(scheme) if scheme.part == "layout" else code
    return "{" + ",\n".join(f"{key!r}: {value!r}" for key, value in made.items()) + "}"
