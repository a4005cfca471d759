"""``pairs_full``: pairs of users that satisfy a predicate; OOLONG-Pairs' grammar and more.

``both``: a condition on each user; ``sides``: one user meets the first condition and the other the
second, in either order (arXiv 2512.24601, App. D.1). A condition joins one to three parts: at
least, exactly or at most n lines of a label or of one of two, or a day before or after which all
lines of a label are dated. The other kinds are truly of pairs: no set of users tells them. 5 to
50 % of all pairs satisfy, so that printing every pair is a weak answer.

    window = make_window(2**12, seed=17, n_questions=2)
    window.tasks[0].answer  # ["(1034, 52110)", ...]
"""

from __future__ import annotations

import datetime
import itertools
import random
import re
from collections.abc import Callable
from dataclasses import dataclass

from data_gen.tasks import metrics
from data_gen.tasks.labelled import Crowd, Sheet, draw_sheet
from data_gen.tasks.task import Task, Window, task_id

FAMILY = "pairs_full"
CROWD = Crowd(common=5, others=12, share=0.55, most=100, numeric=True)
SHARE = (0.05, 0.5)
# Wordings; the last of each is held out of all training.
LABELS = ("The labels are: {labels}. ", "Labels: {labels}. ", "The classes are {labels}. ")
PARTS: dict[str, tuple[str, ...]] = {
    "least": ("at least {n} lines with the label {x}", "{n} or more lines with the label {x}",
              "no fewer than {n} lines labelled {x}"),
    "exactly": ("exactly {n} lines with the label {x}", "just {n} lines with the label {x}",
                "precisely {n} lines labelled {x}"),
    "most": ("at most {n} lines with the label {x}", "{n} or fewer lines with the label {x}",
             "no more than {n} lines labelled {x}"),
    "after": ("no line with the label {x} on or before {day}",
              "no lines with the label {x} dated {day} or earlier",
              "no line labelled {x} until {day} or on it"),
    "before": ("no line with the label {x} on or after {day}",
               "no lines with the label {x} dated {day} or later",
               "no line labelled {x} from {day} on"),
}  # fmt: skip
STARTS = ("List all pairs of users", "Find every pair of users", "Name each two users")
FRAMES: dict[str, tuple[str, ...]] = {
    "both": ("where both users have {one}", "such that each of the two has {one}",
             "of whom either one has {one}"),
    "sides": ("where one user has {one}; and the other user has {two}",
              "such that one of the two has {one}; and the other has {two}",
              "of whom the one has {one}; while the other has {two}"),
    "same_top": ("where both users have the same most common label",
                 "such that one label is the most common one of each",
                 "who share their most frequent label"),
    "together": ("who together have at least {n} lines with the label {x}",
                 "such that the two have {n} or more lines with the label {x} between them",
                 "whose lines labelled {x} add up to no fewer than {n}"),
    "share_none": ("where no label occurs in the lines of both users",
                   "such that the two have no label in common",
                   "whose labels are all different"),
    "share_least": ("where at least {n} labels occur in the lines of both users",
                    "such that the two have {n} or more labels in common",
                    "who share no fewer than {n} labels"),
    "cover": ("whose lines together have every label",
              "such that between the two of them no label is missing",
              "who need nobody else to show all labels"),
    "order": ("where all lines with the label {x} of one user are earlier than all of the other",
              "such that one user's last line with the label {x} is dated before the other's first",
              "of whom the one is done with lines labelled {x} before the other begins with them"),
    "near": ("who have lines with the label {x} dated at most {n} days apart",
             "such that each has a line with the label {x} within {n} days of one of the other",
             "with lines labelled {x}, one of each, no more than {n} days from each other"),
    "same_count": ("where both users have the same number of lines with the label {x}, not zero",
                   "such that the two have equally many lines with the label {x}, and at least one",
                   "whose lines labelled {x} are equal in number, zero left out"),
    "differ": ("whose numbers of lines with the label {x} differ by at least {n}",
               "such that one has {n} or more lines with the label {x} beyond those of the other",
               "whose numbers of lines labelled {x} lie no less than {n} apart"),
    "cross": ("where one user has more lines with the label {x} and the other more with {y}",
              "such that one of the two leads in lines with the label {x} and the other in {y}",
              "of whom the one beats the other in lines labelled {x} but is beaten in {y}"),
}  # fmt: skip
NOTES = {
    "sides": ("Either user may be the one.", "It is of no matter who is which."),
    "same_top": (
        "A user whose most common labels tie has none.",
        "Whoever has a tie has none.",
    ),
    "order": ("Both must have such lines.", "Users without such lines don't count."),
}
ENDS = (
    "Answer with one pair a line in the form (user1, user2), lower user first.",
    "Give each pair on a line of its own as (user1, user2), the smaller number first.",
)
KINDS = tuple(FRAMES)
TRULY_PAIRWISE = KINDS[2:]


@dataclass(frozen=True)
class Part:
    """One part of a condition on a user: of which labels how many lines, or when all are."""

    kind: str
    labels: tuple[str, ...]
    n: int = 0
    day: datetime.date = datetime.date.min

    def holds(self, user: User) -> bool:
        """Whether a user meets it; of no lines at all, all are before and after every day."""
        dates = [date for label in self.labels for date in user.get(label, ())]
        if self.kind == "after":
            return all(date > self.day for date in dates)
        if self.kind == "before":
            return all(date < self.day for date in dates)
        count = len(dates)
        return {"least": count >= self.n, "exactly": count == self.n, "most": count <= self.n}[
            self.kind
        ]


User = dict[str, list[datetime.date]]  # label -> the dates of his lines with it, in order
Test = Callable[[User, User], bool]


def make_window(length: int, seed: int, n_questions: int) -> Window:
    """A window of labelled lines and ``n_questions`` predicates over pairs of its users."""
    held_out = seed >= 700_000
    for again in range(50):  # a short window may admit too few questions: its lines are redrawn
        name = f"{FAMILY}/{length}/{seed}" + (f"/{again}" if again else "")
        sheet = draw_sheet(name, length, held_out, CROWD)
        tasks = _tasks(random.Random(f"{name}/questions"), sheet, seed, n_questions)
        if tasks is not None:
            return Window(
                id=f"{FAMILY}-{length}-{seed}",
                family=FAMILY,
                length=length,
                seed=seed,
                tasks=tasks,
                chunks=sheet.chunks,
                facts={"sheet": sheet, "users": sheet.users()},
            )
    raise RuntimeError(f"windows {FAMILY}/{length}/{seed} admit too few questions")


def score(task: Task, answer: str) -> float:
    """OOLONG-Pairs' F1 over unordered pairs."""
    return metrics.pairs_f1(list(task.answer), answer)


def floor_answer(window: Window, task: Task) -> str:
    """Every pair of users."""
    return "\n".join(f"({a}, {b})" for a, b in itertools.combinations(window.facts["users"], 2))


def _tasks(rng: random.Random, sheet: Sheet, seed: int, n_questions: int) -> list[Task] | None:
    users: dict[str, User] = {user: {} for user in sheet.users()}
    for row in sorted(sheet.rows):
        users[row.user].setdefault(row.label, []).append(row.date)
    pairs = list(itertools.combinations(users, 2))
    sample = rng.sample(pairs, min(len(pairs), 150))
    tasks: list[Task] = []
    for _ in range(400 * n_questions):
        kind = rng.choice(("both", "both", "sides", "sides", *TRULY_PAIRWISE))
        made = _DRAWS[kind](rng, sheet, users)
        if made is None:
            continue
        fields, test = made
        # A rough look first: most draws are of too few or too many pairs.
        if not 0.02 <= sum(test(users[a], users[b]) for a, b in sample) / len(sample) <= 0.6:
            continue
        gold = [f"({a}, {b})" for a, b in pairs if test(users[a], users[b])]
        share = len(gold) / len(pairs)
        question = _question(rng, sheet, kind, fields)
        if not SHARE[0] <= share <= SHARE[1] or any(question == task.question for task in tasks):
            continue
        tasks.append(
            Task(
                id=task_id(FAMILY, sheet.length, seed, len(tasks)),
                family=FAMILY,
                question=question,
                answer=gold,
                metric="pairs_f1",
                meta={
                    "length": sheet.length,
                    "seed": seed,
                    "window_id": f"{FAMILY}-{sheet.length}-{seed}",
                    "kind": kind,
                    "skin": sheet.skin.name,
                    "world": sheet.world.name,
                    "labels": list(sheet.labels),
                    "lines": len(sheet.rows),
                    "users": len(users),
                    "share": round(share, 4),
                },
            )
        )
        if len(tasks) == n_questions:
            return tasks
    return None


def _question(rng: random.Random, sheet: Sheet, kind: str, fields: Fields) -> str:
    def pick(wordings: tuple[str, ...]) -> str:
        return wordings[-1] if sheet.held_out else rng.choice(wordings[:-1])

    def told(parts: list[Part]) -> str:
        return ", and ".join(
            pick(PARTS[part.kind]).format(
                n=part.n, x=" or ".join(part.labels), day=sheet.skin.day(part.day)
            )
            for part in parts
        )

    words = {name: told(one) if isinstance(one, list) else one for name, one in fields.items()}
    # "same_top" and "cover" speak of all labels, which the head of the context tells.
    question = pick(LABELS).format(labels=", ".join(sheet.labels)) if rng.random() < 0.7 else ""
    question += f"{pick(STARTS)} {pick(FRAMES[kind]).format(**words)}."
    if kind in NOTES:
        question += f" {pick(NOTES[kind])}"
    return re.sub(r"\b1 (line|day|label)s", r"1 \1", f"{question} {pick(ENDS)}")


# Draws: what fills the wording, and the test of two users. None where it makes no sense.
Fields = dict[str, str | list[Part]]
_Made = tuple[Fields, Test]
_Draw = Callable[[random.Random, Sheet, dict[str, User]], _Made | None]


def _quantile(rng: random.Random, counts: list[int]) -> int:
    """A number that tells these users apart."""
    return max(1, rng.choice(counts) + rng.choice((0, 0, 1)))


def _condition(rng: random.Random, sheet: Sheet, users: dict[str, User]) -> list[Part]:
    """One to three parts about different labels, but a day may be about one named before."""
    labels = rng.sample(sheet.labels, len(sheet.labels))
    parts: list[Part] = []
    for _ in range(rng.choice((1, 1, 2, 2, 3))):
        if parts and rng.random() < 0.35:
            date = rng.choice(sheet.rows).date
            used = [label for part in parts for label in part.labels]
            parts.append(Part(rng.choice(("after", "before")), (rng.choice(used),), day=date))
            break
        if not labels:
            break
        own = tuple(labels.pop() for _ in range(1 if len(labels) < 3 or rng.random() < 0.6 else 2))
        counts = [sum(len(user.get(label, ())) for label in own) for user in users.values()]
        kind = rng.choice(("least", "least", "exactly", "most"))
        parts.append(Part(kind, own, _quantile(rng, counts)))
    return parts


def _both(rng: random.Random, sheet: Sheet, users: dict[str, User]) -> _Made:
    one = _condition(rng, sheet, users)
    return {"one": one}, lambda a, b: all(p.holds(a) and p.holds(b) for p in one)


def _sides(rng: random.Random, sheet: Sheet, users: dict[str, User]) -> _Made | None:
    one, two = _condition(rng, sheet, users), _condition(rng, sheet, users)

    def there(a: User, b: User) -> bool:
        return all(part.holds(a) for part in one) and all(part.holds(b) for part in two)

    return None if one == two else (
        {"one": one, "two": two}, lambda a, b: there(a, b) or there(b, a)
    )  # fmt: skip


def _top(user: User) -> str:
    ranked = sorted(((len(dates), label) for label, dates in user.items()), reverse=True)
    return "" if len(ranked) > 1 and ranked[0][0] == ranked[1][0] else ranked[0][1]


def _whole(test: Test, least_labels: int = 2) -> _Draw:
    return lambda rng, sheet, users: ({}, test) if len(sheet.labels) >= least_labels else None


def _labelled(make: Callable[[str, int], Test], number: Callable[..., int]) -> _Draw:
    """About one label ``x`` and perhaps a number, drawn by what two of the users have."""

    def draw(rng: random.Random, sheet: Sheet, users: dict[str, User]) -> _Made:
        x = rng.choice(sheet.labels)
        n = number(rng, *(len(user.get(x, ())) for user in rng.sample(list(users.values()), 2)))
        return {"x": x, "n": str(n)}, make(x, n)

    return draw


def _share_least(rng: random.Random, sheet: Sheet, users: dict[str, User]) -> _Made | None:
    n = rng.randint(2, max(2, len(sheet.labels) - 1))
    return ({"n": str(n)}, lambda a, b: len(a.keys() & b.keys()) >= n) if n > 1 else None


def _cross(rng: random.Random, sheet: Sheet, users: dict[str, User]) -> _Made:
    x, y = rng.sample(sheet.labels, 2)

    def more(a: User, b: User, label: str) -> bool:
        return len(a.get(label, ())) > len(b.get(label, ()))

    return {
        "x": x,
        "y": y,
    }, lambda a, b: (more(a, b, x) and more(b, a, y)) or (more(b, a, x) and more(a, b, y))


def _order(x: str, _: int) -> Test:
    return lambda a, b: (
        x in a and x in b and (a[x][-1] < b[x][0] or b[x][-1] < a[x][0])
    )  # fmt: skip


def _near(x: str, n: int) -> Test:
    return lambda a, b: any(abs((d - e).days) <= n for d in a.get(x, ()) for e in b.get(x, ()))


_DRAWS: dict[str, _Draw] = {
    "both": _both,
    "sides": _sides,
    "same_top": _whole(lambda a, b: bool(_top(a)) and _top(a) == _top(b)),
    "share_none": _whole(lambda a, b: not a.keys() & b.keys()),
    "share_least": _share_least,
    "cover": lambda rng, sheet, users: (
        {}, lambda a, b: len(a.keys() | b.keys()) == len(sheet.labels)
    ),
    "together": _labelled(
        lambda x, n: lambda a, b: len(a.get(x, ())) + len(b.get(x, ())) >= n,
        lambda rng, one, two: max(2, one + two),
    ),
    "order": _labelled(_order, lambda rng, one, two: 0),
    "near": _labelled(_near, lambda rng, one, two: rng.choice((1, 2, 3, 5, 10, 20))),
    "same_count": _labelled(
        lambda x, n: lambda a, b: len(a.get(x, ())) == len(b.get(x, ())) > 0,
        lambda rng, one, two: 0,
    ),
    "differ": _labelled(
        lambda x, n: lambda a, b: abs(len(a.get(x, ())) - len(b.get(x, ()))) >= n,
        lambda rng, one, two: max(1, abs(one - two)),
    ),
    "cross": _cross,
}  # fmt: skip
