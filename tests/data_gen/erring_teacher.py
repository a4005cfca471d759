"""A teacher that solves ``niah`` and errs at the end as the paper's did, and knows where it erred.

arXiv 2512.24601 App. A: 16% of the turns misused FINAL, 13% gave a variable wrongly. Here each
turn is spoiled with these chances, in one of the ways that fit it; in the family ``answer`` the
mistakes are those that the dict allows. ``planted`` tells them: turn -> kind.
"""

from __future__ import annotations

import random
import re

from rlm_executor import Message, RlmsDialect, ScriptedLM

FINAL_MISUSE, WRONG_VARIABLE = 0.16, 0.13
ANSWER_MISTAKES = ("ready_before_looking", "rebound", "ready_first", "rebound_and_ready") + (
    "rebound_at_last",
    "ready_alone",
    "never_ready",
)
_NAMES = ("found", "hits", "values", "answer", "notes")
_KEY = re.compile(r"special magic \w+? for ([\w-]+) mentioned")

FINAL_WORDS = RlmsDialect(
    name="final",
    version="0.1.1",
    protocol="final",
    system=(
        "`context` is a long str in a Python REPL. Write code in ```repl blocks and read what it "
        "prints. When you know the answer, write FINAL(the answer) or FINAL_VAR(variable) as text, "
        "not in code.\n"
    ),
    metadata="The context is a {type} of {chars} characters, in chunks of {lengths}.",
    metadata_bare="The context is a {type} of {chars} characters, in chunks of {lengths}.",
    first="Look at the context first, to answer: {question}\nYour next action:",
    first_bare="Look at the context first.\nYour next action:",
    later="Go on, to answer: {question}\nYour next action:",
    later_bare="Go on.\nYour next action:",
    landing="Give a final answer now.",
)


def block(code: str, prose: str = "", fence: str = "repl") -> str:
    """A reply with one block of code."""
    return f"{prose}\n\n```{fence}\n{code}\n```".lstrip("\n")


class ErringTeacher(ScriptedLM):
    """One object serves one run: looks, searches, and answers; some of its turns are spoiled.

    Args:
        seed: draws the words and the mistakes.
        finish: the family, "final" or "answer".
        errs: whether there are mistakes at all.
    """

    def __init__(self, seed: int, finish: str, errs: bool = True) -> None:
        super().__init__(self._reply, model="erring-teacher")
        self._rng = random.Random(f"erring/{finish}/{seed}")
        self._finish, self._errs = finish, errs
        self._name = self._rng.choice(_NAMES[:3] if finish == "answer" else _NAMES)
        self._looks = self._rng.random() < 0.5
        self._stage = 0 if self._looks else 1
        self._key = ""
        self._again = ("", "")  # a mistake and its reply, to be said once more
        self._stuck = ("", "")  # and until the run is ended
        self.said: list[str] = []
        self.planted: dict[int, str] = {}

    def _reply(self, messages: list[Message]) -> str:
        if not self._key:  # the family "final" tells the question with each turn but the landing
            told = " ".join(message["content"] for message in messages)
            self._key = _KEY.findall(told)[-1]
        key = self._key
        kind = text = ""
        if self._again[0] or self._stuck[0]:
            kind, text = self._again if self._again[0] else self._stuck
            self._again = ("", "")
        else:
            draw = self._rng.random() if self._errs else 1.0
            if self._finish == "answer":
                kind = self._answer_mistake() if draw < FINAL_MISUSE + WRONG_VARIABLE else ""
                text = self._answer_turn(key, kind, messages)
            else:
                kind = self._final_mistake(draw)
                text = self._final_turn(key, kind, messages)
        rebound = any(one.startswith("rebound") for one in self.planted.values())
        # What was rebound the REPL has put into the content: then only ready is missing.
        if kind and not (rebound and kind == "ready_alone"):
            self.planted[len(self.said)] = kind
        self.said.append(text)
        return text

    def _search(self, key: str) -> str:
        return f'import re\n{self._name} = re.findall(r"for {key} is: ([\\w-]+)", context)'

    def _code(self, key: str) -> str:
        """What this turn runs when it is not the last one."""
        if self._stage == 0:
            return "size = len(context)\nprint(size, context[:60])"
        return f"{self._search(key)}\nresult = ', '.join({self._name})\nprint(result)"

    def _seen(self, messages: list[Message]) -> str:
        """The values as the REPL has printed them."""
        shown = next(
            (m["content"] for m in reversed(messages) if "REPL output" in m["content"]), ""
        )
        lines = shown.partition("REPL output:")[2].strip().splitlines()
        return lines[0] if lines else ""

    # The family "final".

    def _final_mistake(self, draw: float) -> str:
        if draw < FINAL_MISUSE:
            kinds = ("guess", "text_beside_code", "in_code") if self._stage < 2 else (
                "of_variable", "quoted_variable", "of_expression", "of_template", "in_fence",
                "in_code_alone", "unrun_code",
            )  # fmt: skip
        elif draw < FINAL_MISUSE + WRONG_VARIABLE:
            kinds = ("var_of_guess", "var_beside_code", "var_in_code") if self._stage < 2 else (
                "var_of_text", "var_of_value", "var_of_expression", "var_in_fence",
                "var_in_code_alone", "var_unknown",
            )  # fmt: skip
        else:
            return ""
        if self._stage == 0:  # nothing is known yet that could be called
            kinds = tuple(kind for kind in kinds if kind in ("guess", "var_of_guess"))
        return self._rng.choice(kinds)

    def _final_turn(self, key: str, kind: str, messages: list[Message]) -> str:
        name, seen = self._name, self._seen(messages)
        if self._stage < 2:
            code = self._code(key)
            self._stage += 1
            beside = {
                "guess": "FINAL(it must be 1234567)",
                "text_beside_code": f"FINAL(', '.join({name}))",
                "var_of_guess": 'FINAL_VAR("the values of the key")',
                "var_beside_code": "FINAL_VAR(result)",
            }
            inside = {"in_code": f"FINAL(', '.join({name}))", "var_in_code": 'FINAL_VAR("result")'}
            if kind in inside:
                return block(f"{code}\n{inside[kind]}", "I search and answer.")
            return block(code, "I look.") + (f"\n\n{beside[kind]}" if kind else "")
        spoiled = {
            "of_variable": f"That is it.\n\nFINAL({self._rng.choice(['result', name])})",
            "quoted_variable": 'FINAL("result")',
            "of_expression": f'So:\n\nFINAL(", ".join({name}))',
            "of_template": "FINAL(The values are {result}, all of them)",
            "in_fence": f"Done.\n\n```\nFINAL({seen})\n```",
            "in_code_alone": block("FINAL(result)", "Now the answer."),
            "unrun_code": block(f"text = ' and '.join({name})\nFINAL(text)", fence="python"),
            "var_of_text": f'FINAL_VAR("{seen}")',
            "var_of_value": f"So it is:\n\nFINAL_VAR({seen})",
            "var_of_expression": f'FINAL_VAR(", ".join({name}))',
            "var_in_fence": "```text\nFINAL_VAR(result)\n```",
            "var_in_code_alone": block('print(FINAL_VAR("result"))'),
            "var_unknown": "FINAL_VAR(final_result)",
        }
        if kind:
            text = spoiled[kind]
            # Nothing comes of some of them: then it says it once more, or does it right.
            self._again = (kind, text) if self._rng.random() < 0.4 else ("", "")
            return text
        good = ("FINAL_VAR(result)", f"FINAL({seen})", f"I have it.\n\nFINAL_VAR({name})")
        return self._rng.choice(good)

    # The family "answer".

    def _answer_mistake(self) -> str:
        if self._stage == 0:
            return "ready_before_looking"
        kinds = ("rebound", "ready_first") if self._stage == 1 else (
            "rebound_and_ready", "rebound_at_last", "ready_alone", "never_ready",
        )  # fmt: skip
        return self._rng.choice(kinds)

    def _answer_turn(self, key: str, kind: str, messages: list[Message]) -> str:
        code = self._code(key)
        if self._stage < 2:
            self._stage += 1
            spoiled = {
                "ready_before_looking": 'answer["content"] = "1234567"\nanswer["ready"] = True',
                "rebound": f"{self._search(key)}\nresult = ', '.join({self._name})\n"
                f"answer = {self._name}\nprint(len(answer), result)",
                "ready_first": f'{code}\nanswer["ready"] = True',
            }
            return block(spoiled.get(kind, code), "I look.")
        last = f'answer["content"] = ", ".join({self._name})'
        spoiled = {
            "rebound_and_ready": 'answer = result\nanswer["ready"] = True',
            "rebound_at_last": f"answer = ', '.join({self._name})",
            "ready_alone": 'answer["ready"] = True',
            "never_ready": last,
        }
        if not kind:
            return block(f'{last}\nanswer["ready"] = True')
        # Some of those that forget ready say the same, or nothing, until the limit.
        if kind == "never_ready" or (kind == "rebound_at_last" and self._rng.random() < 0.5):
            self._stuck = (kind, self._rng.choice([block(spoiled[kind]), "The answer is set."]))
        return block(spoiled[kind])
