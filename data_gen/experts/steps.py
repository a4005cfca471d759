"""Turns of a scripted expert that may go wrong on purpose and mend themselves.

``crash``: the first code raises; the traceback is read and the code mended in the next turn.
``guess``: the answer is given without looking. ``forgets``: it is never said to be ready.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence

from data_gen.experts.style import Style

MISTAKES = ("crash", "guess", "forgets")


def play(cells: Sequence[str], guess: str, seen: Sequence[str], style: Style) -> str:
    """The reply after the outputs ``seen``; the last of ``cells`` gives the answer.

    Args:
        guess: an expression that a careless run answers with.
    """
    mistake = style.mistake(MISTAKES)
    if mistake == "guess":
        return style.say(style.finish(guess))
    at = min(len(seen), len(cells) - 1)
    if mistake == "crash":
        if not seen:
            return style.say(broken(cells[0], style.rng("crash")))
        at = min(len(seen) - 1, len(cells) - 1)
        if len(seen) == 1 and (error := re.findall(r"^\w*Error.*", seen[0], re.MULTILINE)):
            return style.say(cells[at], f"{error[-1][:80]}: I mend this.\n", "I mend the code.\n")
    code = cells[at]
    if mistake == "forgets":
        code = code.replace('answer["ready"] = True', 'answer["ready"] = False')
    return style.say(code, *(("Now the answer.\n",) if at == len(cells) - 1 else ("I look.\n",)))


def broken(code: str, rng: random.Random) -> str:
    """The code with a fault that raises at its first or second line."""
    faults = [code.replace("context", "contexts", 1), code.replace("context", "context.text", 1)]
    if code.startswith("import "):
        faults.append(code.partition("\n")[2])
    return rng.choice([fault for fault in faults if fault != code] or [f"print(parts[0])\n{code}"])


def merged(cells: Sequence[str], style: Style, n_turns: int) -> list[str]:
    """The cells joined to at most ``n_turns``, from the front."""
    joined = list(cells)
    while len(joined) > max(1, n_turns):
        joined[0:2] = [f"{joined[0]}\n{joined[1]}"]
    return joined
