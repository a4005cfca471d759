"""How the skills ask, and the forms they ask for; each list in two splits."""

from __future__ import annotations

from collections.abc import Callable


def _quoted(words: list[str]) -> str:
    return "[" + ", ".join(f'"{word}"' for word in words) + "]"


# The last wording of each list of lists is held out; it joins words of the others anew.
AGAIN = ("Repeat.", "Copy this.", "Write it again.", "Say it.", "Repeat this.", "Copy it again.",
          "Write this once more.", "Say this.")  # fmt: skip
AGAIN_HELD_OUT = ("Repeat it again.", "Say it once more.", "Copy this again.")
FORMS: tuple[tuple[tuple[str, ...], Callable[[list[str]], str]], ...] = (
    (("Write as a list of strings.", "Give a list of strings.", "As a list of strings.",
      "Give this as a list of strings."), _quoted),
    (("Write as a Python list.", "Give a Python list.", "As a Python list.",
      "Give this as a Python list."), lambda words: "[" + ", ".join(map(repr, words)) + "]"),
    (("One a line.", "Write one a line.", "Give one on each line.", "Give one a line."),
     "\n".join),
    (("Joined by commas.", "Write with commas.", "Give it with commas.",
      "Give it joined by commas."), ", ".join),
    (("Put each in quotes.", "Write each in quotes.", "Each in quotes.", "Give each in quotes."),
     lambda words: " ".join(f'"{word}"' for word in words)),
    (("Put each in brackets.", "Write each in brackets.", "Each in brackets.",
      "Give each in brackets."), lambda words: " ".join(f"({word})" for word in words)),
    (("Number these.", "Write these with numbers.", "Number each.", "Give these with numbers."),
     lambda words: "\n".join(f"{i}. {w}" for i, w in enumerate(words, 1))),
    (("From the last to the first.", "Backwards.", "Write these backwards.",
      "Give these backwards."), lambda words: ", ".join(reversed(words))),
)  # fmt: skip
PATTERNS = (
    'print("@")', "x = '@'", "is @ here", 'items.count("@")', "the one of @ is", 'table["@"] += 1',
    'if name == "@":', "@ or more", "(@)", 'label == "@"', "about @ and", '"@ is: "', "d['@']",
    're.findall("@", line)', "@ >= 1", 'user == "@"', "of @:", "[@]", "for @ in", "{@}",
    "f('@', 1)", "<@>", "return '@'", "@ = None", "not @,",
)  # fmt: skip
PATTERNS_HELD_OUT = ('names["@"] = 1', "the @ here", 'if "@" in line:', "say('@')", "@ and more:")
BETWEEN = ("Repeat what stands between {left} and {right}.", "Copy the text from {left} to "
            "{right}.", "What is between {left} and {right}?")  # fmt: skip
BETWEEN_HELD_OUT = ("Copy what is between {left} and {right}.", "Repeat the text from {left} to "
                     "{right}.")  # fmt: skip
PASSAGE = ("Repeat the passage {}.", "Copy the passage of {}.", "What is the text of {}?",
            "Write {} again.", "Say the text of {}.", "Give the text of {}.")  # fmt: skip
PASSAGE_HELD_OUT = ("Repeat the text of {}.", "Say the passage {} again.")
VALUE_OF = ("What is {}?", "Find {}.", "Give the value of {}.", "What belongs to {}?",
             "Look up {}.", "What is the value for {}?", "{}?", "Which value has {}?")  # fmt: skip
VALUE_OF_HELD_OUT = ("Give the value for {}.", "What is the value of {}?", "Find the value of {}.")
KEY_OF = ("Which one has {}?", "What has the value {}?", "Whose value is {}?",
           "To which one belongs {}?")  # fmt: skip
KEY_OF_HELD_OUT = ("Which one has the value {}?", "What has {}?")
VALUES_OF = ("What are {}? One a line.", "Find {}, one a line.", "Give the values of {}, one a "
              "line.", "Look up {}. One a line.")  # fmt: skip
VALUES_OF_HELD_OUT = ("Find the values of {}, one a line.", "Give {}. One a line.")
SENTENCES = (
    "the number of {k} is {v}", "One of the special magic numbers for {k} is: {v}.",
    "{v} belongs to {k}", "{k} is called {v}", "we know that {k} has {v}.", "{v} is for {k}.",
    "Note: {k} stands at {v}.", "for {k} write {v}", "{v} ({k})", "<{k}>{v}</{k}>",
)  # fmt: skip
SENTENCES_HELD_OUT = (
    "we write {v} for {k}.", "One of the special magic words for {k} is: {v}.",
    "note that {k} is called {v}", "[{k}] {v} [/{k}]",
)  # fmt: skip
FIELDS: dict[str, tuple[str, ...]] = {
    "user": ("user", "author", "owner", "User"),
    "date": ("date", "day", "Date"),
    "text": ("text", "note", "Instance", "instance"),
    "place": ("place", "town"),
    "amount": ("amount", "sum", "price"),
    "code": ("code", "id", "key"),
}
FIELD = ('Which {f} has the {g} "{v}"?', "What is the {f} of {g} {v}?",
          'Give the {f} of "{v}".', "What is the {f} where the {g} is {v}?",
          "Find the {f} for {g} {v}.", '{f} of "{v}"?')  # fmt: skip
FIELD_HELD_OUT = ('Give the {f} where the {g} is "{v}".', "Which {f} has {g} {v}?",
                   'What is the {f} of "{v}"?')  # fmt: skip
COLUMN = ("Write every {f}, one a line.", "Give each {f}, one a line.", "All of {f}, one a line.")
COLUMN_HELD_OUT = ("Give every {f}, one a line.", "Write each {f}, one a line.")
MORE_LESS = (("larger", "larger"), ("smaller", "smaller"), ("largest", "larger"),
              ("smallest", "smaller"), ("more", "larger"), ("less", "smaller"))  # fmt: skip
PICK = ("Which is {word}?", "Which is {word} in each line?", "Give the {word} one of each line.",
         "Which one is {word} in each line?")  # fmt: skip
COMMON = ("Is the first more or less?", "Is the first of each line more or less?",
           "More or less?", "In each line, is the first more or less?")  # fmt: skip
SAME = ("Are they the same?", "Are both the same in each line?", "The same, yes or no?",
         "Are they the same in each line?")  # fmt: skip
