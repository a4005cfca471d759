"""The 20 predicates of OOLONG-Pairs (arXiv 2512.24601, App. D.1), and pairs counted by them.

Each is a condition on one user, or on either of two: so the users of each side are enough to count
all pairs, and a gold list is checked without writing down a second one. As in the
re-implementations seen: dates are strict; "all instances" holds for a user who has none; of a
task with two sides either user may be on either; nobody is paired with himself.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import date

LABELS = {
    "description and abstract concept": "D",
    "entity": "E",
    "human being": "H",
    "numeric value": "N",
    "location": "L",
    "abbreviation": "A",
}
# Tasks 1-10: both users have one of these labels; and all their lines of one label are dated so.
BOTH: dict[int, tuple[str, str, str, date | None]] = {
    1: ("NL", "", "", None),
    2: ("EH", "", "", None),
    3: ("DA", "", "", None),
    4: ("HL", "H", "after", date(2023, 1, 6)),
    5: ("EN", "E", "before", date(2023, 3, 15)),
    6: ("LA", "", "", None),
    7: ("DN", "N", "after", date(2023, 2, 1)),
    8: ("HD", "", "", None),
    9: ("EL", "L", "after", date(2023, 4, 10)),
    10: ("NA", "A", "before", date(2023, 5, 20)),
}
# Tasks 11-20: one user meets the first, the other the second; "2+E" is at least, "2=E" exactly.
EITHER: dict[int, tuple[str, str]] = {
    11: ("1+E 1+A", "1=E"),
    12: ("2+N", "1+L 1+H"),
    13: ("1=D", "1+A 1+E"),
    14: ("1+H 1+N", "2=L"),
    15: ("1+E 1+L 1+A", "1=N"),
    16: ("1+D 1+H", "2+E 1=A"),
    17: ("1=N", "1+L 1+D"),
    18: ("1+A 1=H", "1+E 1+N"),
    19: ("2+L 1+E", "1=D 1=A"),
    20: ("1+N 1+H", "1+L 1+E 1=A"),
}
_MONTHS = "Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec".split()
_LINE = re.compile(
    r"^Date: (\w{3}) (\d{1,2}), (\d{4}) \|\| User: (\d+) \|\| Instance: .*? \|\| Label: ([^|\n]+)$",
    re.MULTILINE,
)
_USER = re.compile(r"^Date: [^|]+ \|\| User: (\d+) \|\| Instance: ", re.MULTILINE)
User = dict[str, list[date]]  # label's letter -> dates of his lines with it
Pair = tuple[int, int]


@dataclass(frozen=True)
class Sides:
    """Users on each side of a predicate; the same set twice where both must meet the same."""

    first: frozenset[int]
    second: frozenset[int]

    def holds(self, pair: Pair) -> bool:
        """Whether the two users meet the predicate, in either order."""
        a, b = pair
        there = a in self.first and b in self.second
        return a != b and (there or (b in self.first and a in self.second))

    def count(self) -> int:
        """How many unordered pairs meet it."""
        common = len(self.first & self.second)
        return len(self.first) * len(self.second) - common - math.comb(common, 2)


def users_in(text: str) -> set[int]:
    """Users of a window, with or without labels."""
    return set(map(int, _USER.findall(text)))


def labelled_users(text: str) -> dict[int, User]:
    """User -> label -> dates, from a window with labels.

    Raises:
        ValueError: a line with an unknown label or month.
    """
    users: dict[int, User] = defaultdict(lambda: defaultdict(list))
    for month, day, year, user, label in _LINE.findall(text):
        if label.strip() not in LABELS or month not in _MONTHS:
            raise ValueError(f"the line of user {user} on {month} {day} has the label {label!r}")
        when = date(int(year), _MONTHS.index(month) + 1, int(day))
        users[int(user)][LABELS[label.strip()]].append(when)
    return users


def sides(number: int, users: dict[int, User]) -> Sides:
    """Who is on which side of task ``number`` (1 to 20)."""
    if number in BOTH:
        labels, guarded, order, limit = BOTH[number]
        met = _meeting(
            users,
            lambda user: (
                any(user.get(label) for label in labels)
                and (
                    limit is None or all(_dated(day, order, limit) for day in user.get(guarded, ()))
                )
            ),
        )
        return Sides(met, met)
    first, second = EITHER[number]
    return Sides(
        _meeting(users, lambda user: _has(user, first)),
        _meeting(users, lambda user: _has(user, second)),
    )


def disagreements(gold: Iterable[Pair], wanted: Sides) -> int:
    """Pairs that are in the gold and don't meet the predicate, or meet it and are not there."""
    pairs = set(gold)
    hits = sum(map(wanted.holds, pairs))
    return wanted.count() + len(pairs) - 2 * hits


def _meeting(users: dict[int, User], test: Callable[[User], bool]) -> frozenset[int]:
    return frozenset(name for name, user in users.items() if test(user))


def _dated(day: date, order: str, limit: date) -> bool:
    return day > limit if order == "after" else day < limit


def _has(user: User, condition: str) -> bool:
    """All parts of ``condition`` hold: each is a count, "+" or "=", and a label."""
    for part in condition.split():
        least, label = int(part[0]), part[2]
        found = len(user.get(label, ()))
        if found < least or (part[1] == "=" and found > least):
            return False
    return True
