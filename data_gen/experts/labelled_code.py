"""The code with which the labelled lines' expert leaves lines out and works out the answer.

It works on lists that are as long as each other: dates, users, texts, and the texts' labels. Each
statistic has several forms, of which the style picks one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date

from data_gen.experts.labelled_reading import Asked
from data_gen.experts.style import Style
from data_gen.tasks.pairs_full import Part

_UNLABELLED = ("user_most", "user_second", "date_most", "date_second", "dates_n")
_BY_DAY = ("shift", "month_most", "first_month", "months_more", "months_top", "order", "near")
_COUNTER = "from collections import Counter\n"


@dataclass(frozen=True)
class Names:
    """Variables of a run; ``iso`` says that dates are compared as YYYY-MM-DD texts."""

    days: str
    users: str
    texts: str
    labels: str
    result: str
    iso: bool

    @classmethod
    def of(cls, asked: Asked, style: Style) -> Names:
        """Those of this run."""
        return cls(
            days=style.pick("name/days", ("days", "dates", "when")),
            users=style.name("users"),
            texts=style.name("texts"),
            labels=style.name("labels"),
            result=style.name("result"),
            iso=asked.body != "near" and style.chance("iso", 0.5),  # texts have no distance
        )

    def day(self, day: date) -> str:
        """A date as code."""
        return f'"{day}"' if self.iso else f"date({day.year}, {day.month}, {day.day})"

    def month(self, name: str) -> str:
        """Code of a date's year and month."""
        return f"{name}[:7]" if self.iso else f'{name}.strftime("%Y-%m")'


def needs_labels(asked: Asked) -> bool:
    """Whether the labels matter for the answer."""
    return asked.body not in _UNLABELLED


def needs_days(asked: Asked) -> bool:
    """Whether dates are compared."""
    dated = any(part.kind in ("after", "before") for part in (*asked.one, *asked.two))
    return dated or asked.scope in ("month", "range", "before", "after") or asked.body in _BY_DAY


def scoped(asked: Asked, names: Names, style: Style) -> str:
    """Code that leaves out lines that don't matter, before any is labelled; "" if all do."""
    if asked.body == "user_duel":
        test = f'{{u}} in ("{asked.fields["u"]}", "{asked.fields["v"]}")'
    else:
        test = _scope(asked, names)
    if not test:
        return ""
    lists = (names.days, names.users, names.texts)
    if style.pick("leaving out", ("index", "zip")) == "index":
        here = test.format(u=f"{names.users}[i]", d=f"{names.days}[i]")
        code = f"keep = [i for i in range(len({names.texts})) if {here}]\n"
        return code + "".join(f"{name} = [{name}[i] for i in keep]\n" for name in lists)
    here = test.format(u="u", d="d")
    return (
        f"keep = [(d, u, t) for d, u, t in zip({', '.join(lists)}) if {here}]\n"
        f"{', '.join(lists)} = map(list, zip(*keep))\n"
    )


def _scope(asked: Asked, names: Names) -> str:
    """A test of a line of the scope, with ``{u}`` and ``{d}`` for its user and date."""
    if asked.scope == "users":
        users = asked.fields["users"].split(", ")
        if len(users) == 1:
            return f'{{u}} == "{users[0]}"'
        return f"{{u}} in {users!r}".replace("'", '"')
    if asked.scope == "month":
        number = _MONTHS.index(asked.fields["month"]) + 1
        return f'{{d}}[5:7] == "{number:02}"' if names.iso else f"{{d}}.month == {number}"
    if asked.scope == "range":
        first, last = (names.day(asked.day(name)) for name in ("first", "last"))
        return f"{first} <= {{d}} <= {last}"
    if asked.scope in ("before", "after"):
        return f"{{d}} {'<' if asked.scope == 'before' else '>'} {names.day(asked.day('day'))}"
    return ""


_MONTHS = (
    "January February March April May June July August September October November December".split()
)


def working(asked: Asked, labels: Sequence[str], names: Names, style: Style, *, cut: bool) -> str:
    """Code that makes the answer; ``cut`` says that the lines are those of the scope already."""
    if asked.pairs:
        return _pairs(asked, labels, names, style)
    test = "" if cut else _scope(asked, names)
    if not test:
        return _statistic(asked, labels, names, names.labels, style)
    own = style.pick("own", ("own", "mine", "inside"))
    lists = f"zip({names.days}, {names.users}, {names.labels})"
    if style.pick("picking", ("list", "loop")) == "list":
        code = f"{own} = [k for d, u, k in {lists} if {test.format(u='u', d='d')}]\n"
    else:
        code = f"{own} = []\nfor d, u, k in {lists}:\n    if {test.format(u='u', d='d')}:\n"
        code += f"        {own}.append(k)\n"
    return code + _statistic(asked, labels, names, own, style)


def _statistic(asked: Asked, labels: Sequence[str], names: Names, own: str, style: Style) -> str:
    """Code of a statistic over the labels in ``own``."""
    body, result = asked.body, names.result
    a, b = (f'"{asked.fields.get(name, "")}"' for name in "ab")
    every = f"[{', '.join(repr(label) for label in labels)}]".replace("'", '"')
    counted = style.pick("count", (0, 1, 2))
    if body in ("most", "second", "least"):
        if counted == 0 or (counted == 2 and body == "second"):
            ranked = {"most": "(1)[0]", "second": "(2)[1]", "least": "()[-1]"}[body]
            return f"{_COUNTER}{result} = Counter({own}).most_common{ranked}[0]"
        if body == "second" or counted == 2:
            place = {"most": -1, "second": -2, "least": 0}[body]
            return f"{result} = sorted({every}, key={own}.count)[{place}]"
        return f"{result} = {'max' if body == 'most' else 'min'}({every}, key={own}.count)"
    if body == "ranking":
        if counted == 0:
            return f'{_COUNTER}{result} = ", ".join(k for k, n in Counter({own}).most_common(3))'
        if counted == 1:
            return f'{result} = ", ".join(sorted({every}, key={own}.count, reverse=True)[:3])'
        return (
            f'top = sorted({every}, key=lambda k: -{own}.count(k))\n{result} = ", ".join(top[:3])'
        )
    if body == "compare":
        said = '"more common" if one > two else "less common"'
        if counted == 0:
            more = f"one, two = {own}.count({a}), {own}.count({b})\n"
            return f"{more}{result} = {said}"
        if counted == 1:
            return f"{_COUNTER}c = Counter({own})\none, two = c[{a}], c[{b}]\n{result} = {said}"
        more = f"sum((k == {a}) - (k == {b}) for k in {own})"
        return f'{result} = "more common" if {more} > 0 else "less common"'
    if body in ("count", "percent"):
        many = (f"{own}.count({a})", f"sum(k == {a} for k in {own})",
                f"len([k for k in {own} if k == {a}])")[counted]  # fmt: skip
        number = many if body == "count" else f"round(100 * {many} / len({own}))"
        return f"{result} = str({number})"
    return _by_user(asked, names, style) or _by_day(asked, names, style)


def _by_user(asked: Asked, names: Names, style: Style) -> str:
    result, users, counted = names.result, names.users, style.pick("by user", (0, 1))
    if asked.body in ("user_most", "user_second", "user_label"):
        code, held = "", users
        if asked.body == "user_label":
            held = style.pick("held", ("by", "mine"))
            code = f"{held} = [u for u, k in zip({users}, {names.labels}) "
            code += f'if k == "{asked.fields["a"]}"]\n'
        second = asked.body == "user_second"
        if counted == 0:
            place = "(2)[1][0]" if second else "(1)[0][0]"
            return f"{_COUNTER}{code}{result} = Counter({held}).most_common{place}"
        return (
            f"{code}n = {{}}\nfor u in {held}:\n    n[u] = n.get(u, 0) + 1\n"
            f"{result} = sorted(n, key=n.get)[{-2 if second else -1}]"
        )
    if asked.body == "user_duel":
        u, v, a = (f'"{asked.fields[name]}"' for name in "uva")
        if counted == 0:
            return (
                f"both = list(zip({users}, {names.labels}))\n"
                f"{result} = max([{u}, {v}], key=lambda u: both.count((u, {a})))"
            )
        return (
            f"{_COUNTER}n = Counter(u for u, k in zip({users}, {names.labels}) if k == {a})\n"
            f"{result} = {u} if n[{u}] > n[{v}] else {v}"
        )
    return ""


def _by_day(asked: Asked, names: Names, style: Style) -> str:
    body, days, result = asked.body, names.days, names.result
    counted, month = style.pick("by day", (0, 1)), names.month("d")
    a, b = (f'"{asked.fields.get(name, "")}"' for name in "ab")
    held = f"zip({days}, {names.labels})"
    if body in ("date_most", "date_second"):
        at = int(body == "date_second")
        if counted == 0:
            return f"{_COUNTER}{result} = Counter({days}).most_common({at + 1})[{at}][0]"
        return f"{result} = sorted(set({days}), key={days}.count)[{-1 - at}]"
    if body == "dates_n":
        n = asked.fields["n"]
        if counted == 0:
            return f"{_COUNTER}{result} = str(list(Counter({days}).values()).count({n}))"
        return f"{result} = str(len([d for d in set({days}) if {days}.count(d) == {n}]))"
    if body == "shift":
        day, said = names.day(asked.day("day")), '"more common" if one > two else "less common"'
        if counted == 0:
            return (
                f"x = [k for d, k in {held} if d < {day}]\ny = [k for d, k in {held} if d > {day}]"
                f"\none, two = x.count({a}) / len(x), y.count({a}) / len(y)\n{result} = {said}"
            )
        return (
            f"def share(part):\n    return sum(k == {a} for k in part) / len(part)\n"
            f"one = share([k for d, k in {held} if d < {day}])\n"
            f"two = share([k for d, k in {held} if d > {day}])\n{result} = {said}"
        )
    if body == "month_most":
        if counted == 0:
            code = f"{_COUNTER}n = Counter({month} for d, k in {held} if k == {a})\n"
            return f"{code}{result} = n.most_common(1)[0][0]"
        code = f"months = [{month} for d, k in {held} if k == {a}]\n"
        return f"{code}{result} = max(set(months), key=months.count)"
    if body in ("first_month", "months_more"):
        if counted == 0:
            code = _COUNTER + "".join(
                f"{name} = Counter({month} for d, k in {held} if k == {label})\n"
                for name, label in (("one", a), ("two", b))
            )
            more = "[m for m in sorted(one) if one[m] > two[m]]"
        else:
            code = f"lead = {{}}\nfor d, k in {held}:\n    m = {month}\n"
            code += f"    lead[m] = lead.get(m, 0) + (k == {a}) - (k == {b})\n"
            more = "sorted(m for m in lead if lead[m] > 0)"
        return f"{code}more = {more}\n{result} = " + (
            "more[0]" if body == "first_month" else "str(len(more))"
        )
    assert body == "months_top", body
    code = f"{_COUNTER}held = {{}}\nfor d, k in {held}:\n"
    if counted == 0:
        return (
            f"{code}    held.setdefault({month}, Counter())[k] += 1\ntotal = 0\n"
            "for c in held.values():\n    best = max(c.values())\n"
            f"    total += c[{a}] == best and list(c.values()).count(best) == 1\n"
            f"{result} = str(total)"
        )
    return (
        f"{code}    held.setdefault({month}, []).append(k)\n"
        f"{result} = str(sum(all(m.count({a}) > m.count(k) for k in set(m) - {{{a}}}) and "
        f"{a} in m for m in held.values()))"
    )


def _pairs(asked: Asked, labels: Sequence[str], names: Names, style: Style) -> str:
    """Code that lists the pairs."""
    every = f"[{', '.join(repr(label) for label in labels)}]".replace("'", '"')
    users, tags, result = names.users, names.labels, names.result
    people = style.pick("people", ("people", "ids", "everybody"))
    code = f"import itertools\n{_COUNTER}n = Counter(zip({users}, {tags}))\n"
    code += f"{people} = sorted(set({users}), key=int)\n"
    x, y, many = (asked.fields.get(name, "") for name in ("x", "y", "n"))
    dated = [part for part in (*asked.one, *asked.two) if part.kind in ("after", "before")]
    if dated or asked.body in ("order", "near"):
        code += f"on = {{}}\nfor d, u, k in zip({names.days}, {users}, {tags}):\n"
        code += "    on.setdefault((u, k), []).append(d)\n"
    if asked.body in ("share_none", "share_least", "cover"):
        if style.pick("has", ("set", "count")) == "set":
            code += f"has = {{u: set() for u in {people}}}\n"
            code += f"for u, k in zip({users}, {tags}):\n    has[u].add(k)\n"
        else:
            code += f"has = {{u: {{k for k in {every} if n[u, k]}} for u in {people}}}\n"
    if asked.body == "same_top":
        code += f"top = {{}}\nfor u in {people}:\n"
        code += f"    best = sorted({every}, key=lambda k: n[u, k])\n"
        code += "    top[u] = best[-1] if n[u, best[-1]] > n[u, best[-2]] else None\n"
    if asked.body in ("both", "sides"):
        return code + _of_sides(asked, people, names, style)
    test = {
        "same_top": "top[a] and top[a] == top[b]",
        "together": f'n[a, "{x}"] + n[b, "{x}"] >= {many}',
        "share_none": "not has[a] & has[b]",
        "share_least": f"len(has[a] & has[b]) >= {many}",
        "cover": f"len(has[a] | has[b]) == {len(labels)}",
        "order": f'n[a, "{x}"] and n[b, "{x}"] and (max(on[a, "{x}"]) < min(on[b, "{x}"]) '
        f'or max(on[b, "{x}"]) < min(on[a, "{x}"]))',
        "near": f'any(abs((d - e).days) <= {many} for d in on.get((a, "{x}"), []) '
        f'for e in on.get((b, "{x}"), []))',
        "same_count": f'n[a, "{x}"] == n[b, "{x}"] > 0',
        "differ": f'abs(n[a, "{x}"] - n[b, "{x}"]) >= {many}',
        "cross": f'(n[a, "{x}"] - n[b, "{x}"]) * (n[a, "{y}"] - n[b, "{y}"]) < 0',
    }[asked.body]
    return code + _listed(test, people, result, style)


def _listed(test: str, people: str, result: str, style: Style) -> str:
    """Code that goes through all pairs ``a`` and ``b``."""
    way = style.pick("listing", ("combinations", "loop", "function", "index"))
    if way == "combinations":
        pairs = f"pairs = [(a, b) for a, b in itertools.combinations({people}, 2) if {test}]\n"
    elif way == "loop":
        pairs = f"pairs = []\nfor a, b in itertools.combinations({people}, 2):\n"
        pairs += f"    if {test}:\n        pairs.append((a, b))\n"
    elif way == "function":
        pairs = f"def fit(a, b):\n    return {test}\n"
        pairs += f"pairs = [p for p in itertools.combinations({people}, 2) if fit(*p)]\n"
    else:
        pairs = f"pairs = []\nfor i, a in enumerate({people}):\n    for b in {people}[i + 1:]:\n"
        pairs += f"        if {test}:\n            pairs.append((a, b))\n"
    return f'{pairs}{result} = "\\n".join(f"({{a}}, {{b}})" for a, b in pairs)'


def _of_sides(asked: Asked, people: str, names: Names, style: Style) -> str:
    """Code for conditions on each of the two users: by functions, sets, or one expression."""
    one, two = _condition(asked.one, names), _condition(asked.two, names)
    way = style.pick("sides", ("sets", "functions"))
    both = asked.body == "both"
    if way == "sets":
        code = f"one = {{u for u in {people} if {one}}}\n"
        code += "" if both else f"two = {{u for u in {people} if {two}}}\n"
        if both and style.chance("product", 0.5):
            return (
                f"{code}pairs = itertools.combinations(sorted(one, key=int), 2)\n"
                f'{names.result} = "\\n".join(f"({{a}}, {{b}})" for a, b in pairs)'
            )
        test = "a in one and b in one" if both else "a in one and b in two or b in one and a in two"
    else:
        code = f"def one(u):\n    return {one}\n"
        code += "" if both else f"def two(u):\n    return {two}\n"
        test = "one(a) and one(b)" if both else "one(a) and two(b) or one(b) and two(a)"
    return code + _listed(test, people, names.result, style)


def _condition(parts: Sequence[Part], names: Names) -> str:
    """Code of a condition on a user ``u``."""
    tests = []
    for part in parts:
        count = " + ".join(f'n[u, "{label}"]' for label in part.labels)
        sign = {"least": ">=", "exactly": "==", "most": "<="}.get(part.kind)
        if sign:
            tests.append(f"{count} {sign} {part.n}")
            continue
        order, day = (">" if part.kind == "after" else "<"), names.day(part.day)
        tests.extend(
            f'all(d {order} {day} for d in on.get((u, "{label}"), []))' for label in part.labels
        )
    return " and ".join(tests)
