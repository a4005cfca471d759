"""What the questions of ``oolong_full`` say; the last wording of each list is held out of training.

A question is, in this order: perhaps the labels, a scope, a body, and the form of the answer.
"""

from __future__ import annotations

LABELS = ("The labels are: {labels}. ", "Labels: {labels}. ", "The classes are {labels}. ")
SCOPES: dict[str, tuple[str, ...]] = {
    "all": ("", ""),
    "users": (
        "Only consider the lines of these users: {users}. ",
        "Take nothing but what these users wrote: {users}. ",
        "Leave out everybody except {users}. ",
    ),
    "month": (
        "Only consider lines dated in {month} of any year. ",
        "Take nothing but what was written in {month}, whatever the year. ",
        "Leave out every line of another month than {month}; the year is of no matter. ",
    ),
    "range": (
        "Only consider lines dated from {first} to {last}, both included. ",
        "Take nothing but what was written between {first} and {last} or on these days. ",
        "Leave out lines of days earlier than {first} or later than {last}. ",
    ),
    "before": (
        "Only consider lines dated before {day}. ",
        "Take nothing but what was written earlier than {day}. ",
        "Leave out lines of {day} and of all later days. ",
    ),
    "after": (
        "Only consider lines dated after {day}. ",
        "Take nothing but what was written later than {day}. ",
        "Leave out lines of {day} and of all earlier days. ",
    ),
}
BODIES: dict[str, tuple[str, ...]] = {
    "most": (
        "Which label is the most common?",
        "Which label occurs most often?",
        "Name the most frequent label.",
    ),
    "second": (
        "Which label is the second most common?",
        "Which label occurs second most often?",
        "Name the second most frequent label.",
    ),
    "least": (
        "Which label is the least common?",
        "Which label occurs least often?",
        "Name the least frequent label.",
    ),
    "compare": (
        "Is the label {a} more common or less common than {b}?",
        "Compared with {b}, is the label {a} more common or less common?",
        "Of {a} and {b}: is the former more common or less common?",
    ),
    "count": (
        "How many lines have the label {a}?",
        "What is the number of lines with the label {a}?",
        "Count the lines labelled {a}.",
    ),
    "percent": (
        "How many percent of the lines have the label {a}, rounded to a whole number?",
        "Which percentage of the lines has the label {a}, rounded to a whole number?",
        "Give the share of lines labelled {a} in percent, rounded to a whole number.",
    ),
    "ranking": (
        "Which three labels are the most common, beginning with the most common one?",
        "Rank the three labels that occur most often, the most common one first.",
        "Name the three most frequent labels in falling order.",
    ),
    "user_most": ("Which user wrote the most lines?", "Who wrote more lines than anybody else?",
                  "Name the most active user."),
    "user_second": ("Which user wrote the second most lines?", "Who comes second by lines written?",
                    "Name the second most active user."),
    "user_label": (
        "Which user has the most lines with the label {a}?",
        "Who wrote the most lines of the label {a}?",
        "Name the user with the largest number of lines labelled {a}.",
    ),
    "user_duel": (
        "Who has more lines with the label {a}, user {u} or user {v}?",
        "Which of the users {u} and {v} wrote more lines with the label {a}?",
        "Of {u} and {v}, name the user with more lines labelled {a}.",
    ),
    "date_most": ("Which date occurs on the most lines?", "On which date were most lines written?",
                  "Name the busiest date."),
    "date_second": (
        "Which date occurs on the second most lines?",
        "Which date comes second by lines written on it?",
        "Name the second busiest date.",
    ),
    "dates_n": (
        "For how many dates is the number of lines exactly {n}?",
        "What is the number of dates whose number of lines is {n}?",
        "Count the dates whose lines are {n} in number.",
    ),
    "shift": (
        "As a share of the lines, is the label {a} more common or less common before {day} than "
        "after it?",
        "Compare the share of the label {a} among lines before {day} with its share after that "
        "date: is it more common or less common before?",
        "Going by shares, was the label {a} more common or less common in the days until {day} "
        "(left out itself) than in those that followed?",
    ),
    "month_most": (
        "In which month of which year does the label {a} occur most often?",
        "Which month of which year has the most lines with the label {a}?",
        "Name the month and year with the largest number of lines labelled {a}.",
    ),
    "first_month": (
        "Which is the first month in which the label {a} has more lines than {b}?",
        "When, by month, are there for the first time more lines with the label {a} than {b}?",
        "Name the earliest month with more lines labelled {a} than {b}.",
    ),
    "months_more": (
        "In how many months does the label {a} have more lines than {b}?",
        "What is the number of months that have more lines with the label {a} than with {b}?",
        "Count the months with more lines labelled {a} than {b}.",
    ),
    "months_top": (
        "In how many months is {a} the single most common label?",
        "What is the number of months in which no label is as common as {a}?",
        "Count the months that {a} leads alone.",
    ),
}  # fmt: skip
ENDS: dict[str, tuple[str, ...]] = {
    "label": ("Answer with the label.", "Give the label alone."),
    "labels": ("Answer with the labels, separated by commas.", "Give the labels, a comma between."),
    "number": ("Answer with a number.", "Give the number alone."),
    "comparison": ("Answer with more common or less common.", "Give more common or less common."),
    "user": ("Answer with the user.", "Give the user alone."),
    "date": ("Answer with the date as the lines write it.", "Give the date in the lines' form."),
    "month": ("Answer in the form 1999-01.", "Give year and month in the form 1999-01."),
}
TYPES = {
    "most": "label", "second": "label", "least": "label", "compare": "comparison",
    "count": "number", "percent": "number", "ranking": "labels", "user_most": "user",
    "user_second": "user", "user_label": "user", "user_duel": "user", "date_most": "date",
    "date_second": "date", "dates_n": "number", "shift": "comparison", "month_most": "month",
    "first_month": "month", "months_more": "number", "months_top": "number",
}  # fmt: skip
