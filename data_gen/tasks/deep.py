"""``deep``: books that are each read in a way of their own, so that runs in runs are worth it.

A window holds 8 to 32 books. The head of each tells how its entries are laid out, what its amounts
mean (at times only its last line tells that) and which rules change what an entry counts; the
question needs the totals of all books. No program fits two books: who answers has to read a book's
head before the code for it can be written.

Why depth 2 beats depth 1. A run may print 400 characters a turn, in 7 turns. The heads of a window
of 2^11 tokens or more do not fit into that, whereas a run below needs one or two looks at its own
book. Sub-calls do not make up for it: a leaf can say which sentences mean the same, and code can
print each meaning once without its small words, yet the meanings are still more than a run can
read. The best reader at depth 1 that we could write (``experts.deep.next_turn_flat``) does that.
Right answers of 20 windows each, training and held-out seeds, same limits and leaves:

    tokens  depth 2      depth 1      depth 1 with the training schemes by heart
    2^10    1.00, 1.00   1.00, 1.00   1.00, 0.95    (8 books: one run can read all)
    2^11    1.00, 1.00   0.05, 0.25   1.00, 0.45
    2^13    1.00, 1.00   0.00, 0.00   1.00, 0.35

The last column is the limit of this design: schemes are a finite list, and who knows it needs no
look. So held-out windows say every scheme in other words and have 31 schemes of their own.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from data_gen.tasks.lexicon import CATEGORIES
from data_gen.tasks.task import BYTES_PER_TOKEN, Task, Window, task_id
from rlm_executor.errors import InputError

# An entry's page p, clerk w, thing t, what it counts so far v, its number i of n, beginning with 1;
# P and W are the pages and clerks of all entries. {k} is a number that differs.
_RULES = """
An entry on an odd page counts double // Double whatever has a page with an odd number // On odd pages an item goes in twice => v * 2 if p % 2 else v
What stands on an even page is left out // Pages with an even number are not counted at all // Pages that two divides are worth nothing => 0 if p % 2 == 0 else v
From page fifty on, each entry counts {k} less // Take {k} off every entry on page fifty or later // Reduce by {k} the items on page fifty and up => v - k if p >= 50 else v
Where three divides the page, add {k} // Entries whose page is a multiple of three get {k} more // Raise by {k} all items on pages in the table of three => v + k if p % 3 == 0 else v
Before page 30 only half counts, rounded down // Halve and round down all that is before page 30 // Cut in half, down, whatever precedes page 30 => v // 2 if p < 30 else v
A page that ends in 5 or 0 makes its entry a debt // Where five divides the page, the entry is taken off // Reverse the sign on pages in the table of five => -v if p % 5 == 0 else v
Clerks whose name begins with B, D or F count double // Double the work of clerks in B, D and F // Twice go the items whose clerk has B, D or F for an initial => v * 2 if w[0] in "BDF" else v
Clerks with a last letter e are not counted // Leave out all clerks whose name has e at its end // Clerks spelled with a final e are worth nothing => 0 if w[-1] == "e" else v
If a clerk's name has over four letters, add {k} // Clerks with a name longer than four letters get {k} more // Raise by {k} the items of clerks with five letters or more => v + k if len(w) > 4 else v
Where a clerk follows himself, the later entry is void // Void is an entry by the clerk of the one above // Two in a row by one clerk: the second is worth nothing => 0 if i > 1 and W[i - 2] == w else v
The first entry of each clerk counts double // A clerk's opening entry is worth twice as much // Twice goes whatever a clerk wrote first of all => v * 2 if W.index(w) == i - 1 else v
The last entry of each clerk is taken off // A clerk's closing entry is a debt // Reverse the sign of whatever a clerk wrote last => -v if w not in W[i:] else v
The three entries at the top do not count // Start with the fourth entry; those above it are void // Ignore the top three items => 0 if i <= 3 else v
The two entries at the bottom count double // Double the last entry and the last but one // Twice go the final pair of items => v * 2 if i > n - 2 else v
Every third entry is left out // Entries number three, six, nine and so on are void // Ignore each third item => 0 if i % 3 == 0 else v
Every second entry gets {k} more // Add {k} to the entries number two, four, six and so on // Raise by {k} each second item => v + k if i % 2 == 0 else v
Things of more than 6 letters are debts // If the word for the thing is over 6 letters long, take it off // Reverse the sign of things spelled with 7 letters or more => -v if len(t) > 6 else v
Things that begin with a vowel count double // Double what has one of a, e, i, o, u as first letter // Twice go things whose initial is a vowel => v * 2 if t[0] in "aeiou" else v
Things with an r anywhere are left out // No thing that is spelled with an r counts // Ignore things spelled with an r => 0 if "r" in t else v
Things that end in n or r count half, rounded down // Halve, rounding down, things with n or r at the end // Cut in half, down, things whose final letter is n or r => v // 2 if t[-1] in "nr" else v
Whatever is over 90 counts as 90 // No entry may count more than 90 // Lower to 90 whatever exceeds it => min(v, 90)
Whatever is under 20 is left out // Only what reaches 20 counts // Ignore what stays below 20 => 0 if v < 20 else v
Even amounts are halved // If two divides the amount, half of it counts // Cut in half what two divides => v // 2 if v % 2 == 0 else v
Odd amounts count one more // Round an odd amount up to the next even one // Raise odd ones by one => v + v % 2
All is rounded down to full tens // Drop the ones of every amount, so that tens are left // Bring all down to a multiple of ten => v // 10 * 10
Of what is over 60 the last digit alone counts // Above 60 keep no more than the ones // Past 60, use just the final digit => v % 10 if v > 60 else v
What is between 0 and 15 is multiplied by itself // Square the amounts that lie between 0 and 15 // Multiply with itself what is above 0 and below 15 => v * v if 0 < v < 15 else v
Its page is added to each entry // Each entry counts its page number on top // Raise each item by its page => v + p
The letters of the clerk's name are taken off // Count each entry less the length of its clerk's name // Reduce each item by how many letters its clerk has => v - len(w)
The first entry gets 1 more, the second 2 and so on // Add its own number, from 1 up, to each entry // Raise each item by its place in the book, 1 for the first => v + i
Clerks with an m in their name are debtors // Take off all by clerks that are spelled with an m // Reverse the sign where the clerk is spelled with an m => -v if "m" in w.lower() else v
Things with the same letter twice in a row count double // Double the things spelled with a double letter // Twice go things where a letter repeats at once => v * 2 if any(x == y for x, y in zip(t, t[1:])) else v
A page above that of the entry before adds {k} // Add {k} wherever the page is higher than the last one // Raise by {k} an item whose page exceeds the page above it => v + k if i > 1 and p > P[i - 2] else v
A page below that of the entry before is void // Void is an entry when the page has gone down // Ignore an item whose page is less than the page above it => 0 if i > 1 and p < P[i - 2] else v
The highest page of the book counts three times // Take three times what is on the book's last page // Treble all on the greatest page => v * 3 if p == max(P) else v
The lowest page of the book is left out // Skip the page with the least number // Ignore all on the smallest page => 0 if p == min(P) else v
Clerks with a single entry are left out // Only clerks with two or more entries count // Ignore who wrote just once => 0 if W.count(w) == 1 else v
Clerks with three or more entries count double // Double those who wrote at least three entries // Twice go all items of whoever wrote three or more => v * 2 if W.count(w) >= 3 else v
Pages with the same digit twice add {k} // Where eleven divides the page, add {k} // Raise by {k} what stands on pages in the table of eleven => v + k if p % 11 == 0 else v
Pages of one digit count ten times // Multiply by ten what is before page 10 // Pages 1 to 9 go in ten times => v * 10 if p < 10 else v
An entry with the same page as the one before is void // Void is an entry when the page has not changed // Ignore an item whose page repeats the page above it => 0 if i > 1 and p == P[i - 2] else v
Clerks with names of six letters count half, rounded down // Halve, rounding down, whatever six-letter clerks wrote // Cut in half, down, items of clerks spelled with six letters => v // 2 if len(w) == 6 else v
Things of four letters or fewer count three times // Take three times the things with at most four letters // Treble the things spelled with up to four letters => v * 3 if len(t) <= 4 else v
Pages from 40 to 60 are not counted // Between pages 40 and 60, both included, nothing counts // Ignore items from page 40 through page 60 => 0 if 40 <= p <= 60 else v
Pages whose digits add up to ten or more gain {k} // Add {k} if the digits of the page make ten or more // Raise by {k} items if the page's digits make at least ten => v + k if p // 10 + p % 10 >= 10 else v
Amounts that three divides are debts // Take off the amounts that can be parted in three // Reverse the sign of what three divides => -v if v % 3 == 0 else v
Things that end in e or t gain {k} // Add {k} to the things with e or t at the end // Raise by {k} things whose final letter is e or t => v + k if t[-1] in "et" else v
Every fifth entry is a debt // Take off the entries number five, ten and so on // Reverse the sign of each fifth item => -v if i % 5 == 0 else v
Clerks spelled with a d or an f lose {k} // Take {k} off where the clerk's name has a d or an f // Reduce by {k} items of clerks spelled with d or f => v - k if set("df") & set(w.lower()) else v
All but the last six entries are left out // Only the six entries at the bottom count // Ignore what stands above the final six => v if i > n - 6 else 0
No entry may count less than 30 // Let 30 stand for whatever is lower // Raise to 30 whatever is below => max(v, 30)
The second entry of each clerk is void // Leave out what a clerk wrote second // Ignore a clerk's second item => 0 if W[: i - 1].count(w) == 1 else v
"""  # noqa: E501
_RULES_HELD_OUT = """
Wherever the page has 7, 8 or 9 as its last digit, treble the entry // Treble pages in 7, 8 and 9 => v * 3 if p % 10 >= 7 else v
Ignore each clerk spelled with an o // A clerk's name with an o in it voids the entry => 0 if "o" in w.lower() else v
Reduce by {k} the entries on pages that are multiples of four // On pages in the table of four lose {k} => v - k if p % 4 == 0 else v
Numbers four, eight, twelve and on are worth twice their amount // Twice goes every fourth entry => v * 2 if i % 4 == 0 else v
Ignore everything after the fifth entry // Five entries are worth something, later ones nothing => v if i <= 5 else 0
Reverse the sign of things with exactly five letters // Things of five letters are to be subtracted => -v if len(t) == 5 else v
Raise by {k} the things from a to h // Things whose initial is one of a to h rise by {k} => v + k if t[0] < "i" else v
Should the digits add up to over 10, use half, dropped to whole // Cut in half, down, if digits sum past 10 => v // 2 if sum(map(int, str(abs(v)))) > 10 else v
Bring all amounts up to a multiple of five // Amounts go up to where five divides them => -(-v // 5) * 5
Ignore an entry if its clerk writes the next one too // Of a clerk's neighbouring entries only the last holds => 0 if W[i : i + 1] == [w] else v
Multiply each entry by the last digit of its page // The page's final digit tells how many times it goes in => v * (p % 10)
Treble the very last entry // The book's final entry goes in three times => v * 3 if i == n else v
Raise by {k} all entries of clerks who have exactly two // Who wrote just two entries gains {k} on both => v + k if W.count(w) == 2 else v
An entry on a later page than all before it is worth twice // Twice goes each new record of the page number => v * 2 if i == 1 or p > max(P[: i - 1]) else v
Ignore things with two or more of the letter e // The letter e twice in a thing voids it => 0 if t.count("e") >= 2 else v
Reverse the sign of amounts past 70 // Amounts past 70 are to be subtracted => -v if v > 70 else v
"""  # noqa: E501
# How an amount a is read, and how v was written.
_NOTATIONS = """
Amounts are plain numbers // The amounts stand as they are // Values need no change => int(a) <- str(v)
Amounts are written from right to left // Read the digits of an amount backwards // Values run backwards, the ones in front => int(a[::-1]) <- str(v)[::-1]
Amounts are numbers to the base eight // All amounts are octal // Eight is the base of all values => int(a, 8) <- f"{v:o}"
Amounts are numbers to the base sixteen // All amounts are hexadecimal // Sixteen is the base of all values => int(a, 16) <- f"{v:x}"
Amounts are numbers to the base two // All amounts are binary // Two is the base of all values => int(a, 2) <- f"{v:b}"
In an amount dozens stand before the d, the rest after it // A d parts dozens from ones in amounts // Values give dozens, then d, then ones => int(a.split("d")[0]) * 12 + int(a.split("d")[1]) <- f"{v // 12}d{v % 12}"
In an amount scores stand before the s, the rest after it // An s parts twenties from ones in amounts // Values give twenties, then s, then ones => int(a.split("s")[0]) * 20 + int(a.split("s")[1]) <- f"{v // 20}s{v % 20}"
In an amount hours stand before the h, minutes after it; count minutes // Amounts are minutes: hours h rest // Values are minutes; hours have an h behind them => int(a.split("h")[0]) * 60 + int(a.split("h")[1]) <- f"{v // 60}h{v % 60}"
In amounts the letters a to j are the digits 0 to 9 // For digits 0 to 9 amounts have the letters a to j // Values have a for 0, b for 1 and on to j for 9 => int("".join(str("abcdefghij".index(c)) for c in a)) <- "".join("abcdefghij"[int(c)] for c in str(v))
Amounts are written {k} too high // Take {k} off each amount to get the true one // Values exceed the true ones by {k} => int(a) - {k} <- str(v + {k})
Amounts are written {k} too low // Add {k} to each amount to get the true one // Values fall short of the true ones by {k} => int(a) + {k} <- str(v - {k})
Amounts are three times what they should be // Divide every amount by three // A third of each value is the true one => int(a) // 3 <- str(3 * v)
Amounts are sums that are still to be added up // An amount's parts stand around a plus // Values come in two parts with a plus; join them => sum(map(int, a.split("+"))) <- f"{v // 3}+{v - v // 3}"
Amounts are differences that are still to be worked out // An amount is what a minus leaves // Values come as a minus task; solve it => int(a.split("-")[0]) - int(a.split("-")[1]) <- f"{v + 17}-17"
Amounts are what is missing to 1000 // Take each amount from 1000 // True values make 1000 together with the written ones => 1000 - int(a) <- str(1000 - v)
The last digit of an amount is a check and no part of it // Drop the last digit of each amount // Values end in a digit too many => int(a[:-1]) <- f"{v}{v % 7}"
The first digit of an amount is a check and no part of it // Drop the first digit of each amount // Values open with a digit too many => int(a[1:]) <- f"{v % 9 + 1}{v}"
In amounts each digit is written twice // Of two equal digits in amounts one is to be dropped // Values show all digits doubled => int(a[::2]) <- "".join(c + c for c in str(v))
In amounts C is a hundred, X a ten and I a one // Count C, X and I in amounts as 100, 10 and 1 // Values are tallies: C is 100, X is 10, I is 1 => a.count("C") * 100 + a.count("X") * 10 + a.count("I") <- "C" * (v // 100) + "X" * (v // 10 % 10) + "I" * (v % 10)
Before the stroke of an amount each one is worth {k} // In amounts {k} times what is before the stroke // What a slash follows in values goes in {k} times, then add the rest => int(a.split("/")[0]) * {k} + int(a.split("/")[1]) <- f"{v // {k}}/{v % {k}}"
In amounts each digit is one too high, 0 being 9 // Lower each digit of an amount by one, 0 to 9 // Values have 1 for 0, 2 for 1 and on to 0 for 9 => int("".join(str((int(c) + 9) % 10) for c in a)) <- "".join(str((int(c) + 1) % 10) for c in str(v))
"""  # noqa: E501
_NOTATIONS_HELD_OUT = """
Values use base seven // Seven is the base of all values => int(a, 7) <- f"{v // 49}{v // 7 % 7}{v % 7}"
Values are days; weeks have a w behind them // A value has weeks, a w and days; turn all to days => int(a.split("w")[0]) * 7 + int(a.split("w")[1]) <- f"{v // 7}w{v % 7}"
Values have k for 0, l for 1 and on to t for 9 // Digits of values are coded by k to t, from 0 up => int("".join(str("klmnopqrst".index(c)) for c in a)) <- "".join("klmnopqrst"[int(c)] for c in str(v))
A quarter of each value is the true one // Values were multiplied by four => int(a) // 4 <- str(4 * v)
True values make 500 together with the written ones // Values lack as much from 500 as is true => 500 - int(a) <- str(500 - v)
Values give how many nines there are and, after a plus, the ones // Nines, plus, ones make a value => int(a.split("+")[0]) * 9 + int(a.split("+")[1]) <- f"{v // 9}+{v % 9}"
Between any two digits of values a 0 was put in // Values have needless zeros between their digits => int(a[::2]) <- "0".join(str(v))
A star in values is fifty, the number behind is added // Values are stars of fifty and a number => a.count("*") * 50 + int(a.strip("*")) <- "*" * (v // 50) + str(v % 50)
Values were doubled and then raised by {k} // Lower values by {k}, then halve them => (int(a) - {k}) // 2 <- str(2 * v + {k})
"""  # noqa: E501
_LAYOUTS = r"""
Page, clerk, thing and amount stand after an at sign, bars between // A line with @ has page, clerk, thing, amount // At signs open items of page, clerk, thing, value, with bars => @ {p} | {w} | {t} | {a}
A star leads clerk, colon, thing, equals sign, amount; the page is in brackets // Entries have a star and = in them // Items: star, clerk, colon, thing, equals, value, page at the end => * {w}: {t} = {a} (p. {p})
Angle marks lead the amount, the thing, the clerk and the page // Lines of > are entries: amount, thing, clerk, page // Signs like > open value, thing, clerk and page => > {a} > {t} > {w} > {p}
After no come page, amount, thing and clerk, by slashes // Entries say no/ and page, amount, thing, clerk by slashes // Each item: no, page, value, thing, clerk, slashes between => no/{p}/{a}/{t}/{w}
A page in square brackets and a clerk, on the next line thing and amount // An entry is two lines, the first in [] // Items fill two lines, [page] clerk and then thing; value => [{p}] {w}\n    {t}; {a}
First the thing, the clerk in angles, then the amount, at the end the page // Thing, <clerk>, amount @ page // Each item: thing, clerk in angles, value, at sign, page => {t} <{w}> {a} @ {p}
Plus signs lead clerk, amount, page and thing // An entry has four plus signs: clerk, amount, page, thing // Each item: plus before clerk, value, page and thing => + {w} + {a} + {p} + {t}
A p with the page, then clerk, thing and amount, with points between // Points part page, clerk, thing, amount // Each item: p, page, then clerk, thing, value behind points => p{p}.{w}.{t}.{a}
Three lines: the page after a hash, thing and amount, by whom // A hash and page, thing with amount, by clerk // Items fill three lines: hash and page, thing and value, by and clerk => #{p}\n{t} {a}\nby {w}
Double colons part amount, clerk, page and thing // Amount, clerk, page, thing have :: between them // Each item: value, clerk, page, thing, with colons in twos => {a} :: {w} :: {p} :: {t}
Clerk and page stand left of an arrow, thing and amount right of it // An arrow leads from clerk, page to thing, amount // Each item: clerk, page, arrow, thing, value => {w} {p} -> {t} {a}
Percent signs lead thing, page, amount and clerk // Look for lines of % with thing, page, amount, clerk // Each item: percent before thing, page, value and clerk => % {t} % {p} % {a} % {w}
In brackets clerk and page, on the line below amount and thing // (clerk, page) is above amount and thing // Items fill two lines, (clerk, page) and then value, thing => ({w}, {p})\n {a} {t}
Braces hold page, clerk, amount and thing // Semicolons in braces part page, clerk, amount, thing // Each item: page, clerk, value, thing, all in braces => {{ {p} ; {w} ; {a} ; {t} }}
"""  # noqa: E501
_LAYOUTS_HELD_OUT = r"""
Tildes come before clerk, page, value and thing of an item // Each item: tilde clerk, page, value, thing => ~ {w} ~ {p} ~ {a} ~ {t}
Items are lines with four semicolons: thing, value, clerk, page // Thing; value; clerk; page; is an item => {t}; {a}; {w}; {p};
Items open with page and brace, then a line for thing, value, clerk // Five lines an item: page, thing, value, clerk => {p} {{\n {t}\n {a}\n {w}\n}}
Bars enclose value, page, thing and clerk of an item // Items stand within bars: value, page, thing, clerk => |{a}|{p}|{t}|{w}|
Items tell whose thing it is, on what page, and last the value // Commas part owner's thing, page and value => {w}'s {t}, page {p}, {a}
Equals signs come before page, clerk, value and thing // An item has four equals signs: page, clerk, value, thing => = {p} = {w} = {a} = {t}
"""  # noqa: E501
_CLOSINGS = ("Apply these in the order given.", "One after the other, these hold for all entries.")
_CLOSINGS_HELD_OUT = ("They take effect from left to right.",)
_LATER = ("The last line of the book tells of its amounts", "For amounts see the last line")
_LATER_HELD_OUT = ("Values are explained at the very bottom",)
_HEADINGS = ("=== Book of {name} ===", "<book {name}>", "BOOK: {name}", "# Ledger {name}")
_HEADINGS_HELD_OUT = (">> archive {name} <<", "[[{name}]]")
_QUESTIONS = """
sum: Read each book as its head says. What do its entries about a thing of the kind {c} come to, summed over all books? Answer with the number. // All books together: what is the sum of the entries about a thing of the kind {c}? Each book has its own rules. Answer with the number. // Every book has a sum for its things of the kind {c}, by its own rules. What is the total of these sums? Answer with a number.
most: In which book do entries about a thing of the kind {c} come to most, read as each book's head says? Answer with its name. // Each book has its own rules. Name the book whose entries about a thing of the kind {c} have the largest sum. // Which book has the highest sum for its things of the kind {c}, by its own rules? Answer with the name.
top: Which three books have the largest sums of entries about a thing of the kind {c}? Read each as its head says. Answer with the names, largest first, with commas. // Each book has its own rules. Name the three books that have the most for things of the kind {c}, in falling order, with commas. // List the three books with the highest sums for things of the kind {c}, each by its own rules: the names with commas, highest first.
over: In how many books do entries about a thing of the kind {c} come to more than {x}, read as each book's head says? Answer with the number. // Each book has its own rules. Count the books whose entries about a thing of the kind {c} sum to more than {x}. // How many books have a sum above {x} for their things of the kind {c}, by their own rules? Answer with a number.
"""  # noqa: E501
# Of each kind of question, the last wording is held out.
WORDINGS = {
    kind: tuple(told.split(" // "))
    for kind, _, told in (line.partition(": ") for line in _QUESTIONS.strip().split("\n"))
}


@dataclass(frozen=True)
class Scheme:
    """A rule, a way to write amounts or a layout: how heads tell of it, and what it does.

    Args:
        wordings: with ``{k}`` where a number stands.
        code: what an entry counts, how an amount is read, or an entry's template.
        write: how an amount is written.
    """

    part: str
    wordings: tuple[str, ...]
    code: str
    write: str = ""

    def told(self, rng: random.Random, k: int) -> str:
        """A sentence of a head, without its full stop."""
        return rng.choice(self.wordings).replace("{k}", str(k))


def _table(part: str, text: str) -> tuple[Scheme, ...]:
    found = []
    for line in text.strip().split("\n"):
        told, _, code = line.partition(" => ")
        found.append(Scheme(part, tuple(told.split(" // ")), *code.split(" <- ")))
    return tuple(found)


BOTH = _table("rule", _RULES) + _table("notation", _NOTATIONS) + _table("layout", _LAYOUTS)
NEW = _table("rule", _RULES_HELD_OUT) + _table("notation", _NOTATIONS_HELD_OUT)
NEW += _table("layout", _LAYOUTS_HELD_OUT)
# Training has the first two wordings; the other split the third, and schemes of its own.
_SEEN = tuple(replace(scheme, wordings=scheme.wordings[:2]) for scheme in BOTH)
_SAID_ANEW = tuple(replace(scheme, wordings=scheme.wordings[2:]) for scheme in BOTH)
SCHEMES = (*_SEEN, Scheme("later", _LATER, ""))
SCHEMES_HELD_OUT = (*_SAID_ANEW, *NEW, Scheme("later", _LATER_HELD_OUT, ""))
CLOSINGS = _CLOSINGS + _CLOSINGS_HELD_OUT
HEADINGS = _HEADINGS + _HEADINGS_HELD_OUT


@dataclass
class _Book:
    head: str
    entries: list[str]
    last: str
    totals: dict[str, int]

    def size(self) -> int:
        return len(self.head) + sum(map(len, self.entries)) + len(self.last)


class _Library:
    """Draws the books of one window."""

    def __init__(self, rng: random.Random, test: bool) -> None:
        self._rng, self._test = rng, test
        self._schemes = SCHEMES_HELD_OUT if test else SCHEMES
        self._taken: set[str] = set()
        self.heading = rng.choice(_HEADINGS_HELD_OUT if test else _HEADINGS)
        self.kinds = rng.sample(sorted(CATEGORIES), 3)
        # Of each kind, training windows show every other word.
        self._things = [t for kind in self.kinds for t in CATEGORIES[kind][int(test) :: 2]]
        self._decks: dict[str, list[Scheme]] = {}

    def name(self) -> str:
        """A new word; the two splits share no syllable."""
        consonants, vowels = ("gjkpvwz", "iou") if self._test else ("bdflmnrst", "ae")
        while True:
            size = self._rng.choice((2, 3))
            letters = [self._rng.choice(consonants) + self._rng.choice(vowels) for _ in range(size)]
            word = "".join(letters).capitalize()
            if word not in self._taken:
                self._taken.add(word)
                return word

    def book(self, name: str, n_rules: int, n_entries: int) -> _Book:
        """A book, with what its entries come to for each kind."""
        rng, k = self._rng, self._rng.randint(3, 9)
        layout, notation = self._deal("layout"), self._deal("notation")
        rules = [self._deal("rule") for _ in range(n_rules)]
        told = [rule.told(rng, k) for rule in rules]
        what = notation.told(rng, k)
        later = rng.random() < 0.25
        # The rules keep their order; what else the head tells stands anywhere among them.
        for other in (layout.told(rng, k), self._deal("later").told(rng, k) if later else what):
            told.insert(rng.randint(0, len(told)), other)
        closing = rng.choice(_CLOSINGS_HELD_OUT if self._test else _CLOSINGS)
        head = f"{self.heading.format(name=name)}\n{'. '.join(told)}. {closing}\n"
        clerks = [self.name() for _ in range(max(2, n_entries // 3))]
        rows = [
            (rng.randint(1, 99), rng.choice(clerks), rng.choice(self._things), rng.randint(10, 199))
            for _ in range(n_entries)
        ]
        entries = [
            layout.code.replace("\\n", "\n").format(p=p, w=w, t=t, a=_written(notation, v, k))
            for p, w, t, v in rows
        ]
        totals = dict.fromkeys(self.kinds, 0)
        for (_, _, thing, _), worth in zip(rows, worths(rows, rules, k), strict=True):
            totals[next(kind for kind in self.kinds if thing in CATEGORIES[kind])] += worth
        return _Book(head, [f"{e}\n" for e in entries], f"{what}.\n" if later else "", totals)

    def _deal(self, part: str) -> Scheme:
        """No scheme comes again before all have come."""
        deck = self._decks.setdefault(part, [])
        if not deck:
            deck += [scheme for scheme in self._schemes if scheme.part == part]
            self._rng.shuffle(deck)
        return deck.pop()


def _written(notation: Scheme, value: int, k: int) -> str:
    return str(eval(notation.write.replace("{k}", str(k)), {"v": value}))


def worths(rows: list[tuple[int, str, str, int]], rules: list[Scheme], k: int) -> list[int]:
    """What each entry counts when the rules have changed it, one after the other."""
    codes = [compile(re.sub(r"\bk\b", str(k), rule.code), "rule", "eval") for rule in rules]
    every = {"P": [row[0] for row in rows], "W": [row[1] for row in rows], "n": len(rows)}
    found = []
    for number, (page, clerk, thing, value) in enumerate(rows, 1):
        for code in codes:
            value = eval(code, every | {"p": page, "w": clerk, "t": thing, "v": value, "i": number})
        found.append(value)
    return found


def make_window(length: int, seed: int, n_questions: int) -> Window:
    """Books of ``length`` tokens in all, and ``n_questions`` about their sums.

    Raises:
        InputError: a length under 2^10 has no room for books.
    """
    if length < 1024:
        raise InputError(f"length {length} is too short for deep; use at least 1024 tokens")
    rng = random.Random(f"deep/{length}/{seed}")
    test = seed >= 700_000
    library = _Library(rng, test)
    n_bytes = length * BYTES_PER_TOKEN
    n_books = min(32, int(17 * (length / 2048) ** 0.4)) if length >= 2048 else 8
    n_rules = 2 if length < 2048 else 3
    n_entries = max(4, min(24, (n_bytes // n_books - 480) // 50))
    names = [library.name() for _ in range(n_books)]
    books = [library.book(name, n_rules, n_entries) for name in names]
    while sum(book.size() for book in books) > n_bytes:  # only the shortest windows
        at = max(range(n_books), key=lambda j: books[j].size())
        books[at] = library.book(names[at], n_rules, 3)
    asked = _asked(rng, library.kinds, dict(zip(names, books, strict=True)))
    window_id = f"deep-{length}-{seed}"
    facts = {"length": length, "seed": seed, "window_id": window_id, "skin": library.heading}
    tasks = []
    for index, (kind, fields, answer) in enumerate(asked[:n_questions]):
        told = rng.choice(WORDINGS[kind][-1:] if test else WORDINGS[kind][:-1]).format(**fields)
        name, meta = task_id("deep", length, seed, index), {**facts, "kind": kind}
        tasks.append(Task(name, "deep", told, answer, "exact_match", meta))
    filler_seed = rng.random()

    def chunks() -> Iterator[str]:
        yield from _text(random.Random(filler_seed), test, books, n_bytes)

    totals = {name: book.totals for name, book in zip(names, books, strict=True)}
    return Window(window_id, "deep", length, seed, tasks, chunks, {"books": totals})


def floor_answer(window: Window, task: Task) -> str:
    """What a guesser says who knows the books' names."""
    rng = random.Random(f"floor/{task.id}")
    names: list[str] = list(window.facts["books"])
    if task.meta["kind"] == "top":
        return ", ".join(rng.sample(names, 3))
    if task.meta["kind"] == "most":
        return rng.choice(names)
    most = len(names) if task.meta["kind"] == "over" else 100 * len(names)
    return str(rng.randint(0, most))


def _asked(
    rng: random.Random, kinds: list[str], books: dict[str, _Book]
) -> list[tuple[str, dict[str, Any], str]]:
    """Kind, fields and answer of every question that has one answer, in any order."""
    found: list[tuple[str, dict[str, Any], str]] = []
    for c in kinds:
        sums = {name: book.totals[c] for name, book in books.items()}
        first = sorted(sums, key=lambda name: -sums[name])
        found.append(("sum", {"c": c}, str(sum(sums.values()))))
        if sums[first[0]] > sums[first[1]]:
            found.append(("most", {"c": c}, first[0]))
        if len({sums[name] for name in first[:4]}) == 4:
            found.append(("top", {"c": c}, ", ".join(first[:3])))
        x = sums[first[rng.randint(len(first) // 4, len(first) // 2)]]
        found.append(("over", {"c": c, "x": x}, str(sum(s > x for s in sums.values()))))
    return rng.sample(found, len(found))


def _text(rng: random.Random, test: bool, books: list[_Book], n_bytes: int) -> Iterator[str]:
    """The books, their entries among lines that say nothing, up to ``n_bytes``."""
    pool = [_sentence(rng, test) for _ in range(500)]
    spare = n_bytes - sum(book.size() for book in books)
    for j, book in enumerate(books):
        yield book.head
        room = spare // (len(books) - j)
        gaps = len(book.entries) + 1
        shares = sorted(rng.randint(0, room) for _ in book.entries) + [room]
        used = 0
        for number in range(gaps):
            lines: list[str] = []
            while used + len(line := rng.choice(pool)) <= shares[number]:
                used += len(line)
                lines.append(line)
            yield "".join(lines)
            if number < gaps - 1:
                yield book.entries[number]
        yield book.last
        spare -= used


_FILLER = """The dusty|A late|The usual|Some old|The other|A mild
morning|letter|visitor|window|storm|market|harbour
came to nothing|was soon forgotten|went by without a word|was the same as ever|was late"""
_FILLER_HELD_OUT = """One grey|Yet another|Our second|That long|Each quiet
evening|parcel|neighbour|doorway|frost|meeting|garden
had no end|pleased nobody|left few traces|stayed as it had been|went on till dark"""


def _sentence(rng: random.Random, test: bool) -> str:
    parts = (_FILLER_HELD_OUT if test else _FILLER).split("\n")
    return " ".join(rng.choice(part.split("|")) for part in parts) + ".\n"
