"""The scripted expert for ``codeqa``: finds the code in the text, then reads, runs or compares it.

Three ways, drawn per run: by the syntax tree, by regular expressions, or by sub-calls on the one
function that was cut out. The wording says what is asked; nothing else is known of the answer.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from data_gen.experts.steps import merged, play
from data_gen.experts.style import Style
from data_gen.tasks.codeqa import WORDINGS

_WINDOW = 2_000  # characters of code that one sub-call reads
_ASK = {
    "default": "What is the default of the parameter {parameter}?",
    "raises": "Which exception does this code raise?",
    "calls": "Does this code call {called}? Answer yes or no.",
    "imports": "Does this code import {module}? Answer yes or no.",
    "overrides": "Does this code define {method}? Answer yes or no.",
}


def next_turn(question: str, seen: Sequence[str], style: Style) -> str | None:
    """The next reply, or None if the question is of another family."""
    asked = _asked(question)
    if asked is None:
        return None
    kind, fields = asked
    choices = dict(re.findall(r"^([A-D])\. (.*)$", question, re.MULTILINE))
    parts, result = style.name("parts"), style.name("result")
    first = f'{parts} = dict(p.split("\\n", 1) for p in context.split("\\n=== ")[1:])'
    if style.chance("list files", 0.3):
        first += f"\nprint(len({parts}), list({parts})[:3])"
    if kind in ("calls", "imports", "snippet", "overrides"):
        cells = _each_choice(kind, fields, choices, style)
    else:
        cells = _one_place(kind, fields, choices, style)
    show = f"print({result})"
    if style.chance("look at choice", 0.3):
        show += f"\nprint({choices!r}.get({result}))"
    cells = [first, *cells[:-1], f"{cells[-1]}\n{show}", style.finish(result)]
    cells = merged(cells, style, style.pick("turns", (2, 3, 4, 1, 5)))
    return play(cells, repr(style.pick("guess", "ABCD")), seen, style)


def leaf(prompt: str) -> str | None:
    """What a sub-call about a piece of code is answered with; None for other prompts."""
    code, _, ask = prompt.rpartition("\n\n")
    if match := re.fullmatch(r"What is the default of the parameter (\w+)\?", ask):
        found = re.search(rf"\b{match[1]}\s*(?::[^=]+)?=\s*('[^']*'|\"[^\"]*\"|[-\w.]+)", code)
        return found[1] if found else "none"
    if ask == _ASK["raises"]:
        found = re.search(r"^ *raise (\w+)", code, re.MULTILINE)
        return found[1] if found else "none"
    if match := re.fullmatch(r"Does this code (call|import|define) ([\w.]+)\? Answer yes.*", ask):
        return "yes" if re.search(_pattern(match[1], match[2]), code, re.MULTILINE) else "no"
    return None


def _pattern(what: str, name: str) -> str:
    if what == "call":
        return rf"\b{name}\("
    if what == "define":
        return rf"^ +def {name}\("
    escaped = name.replace(".", r"\.")
    return rf"^ *from {escaped} import|^ *import (?:.*, )?{escaped}(?= as|,|\s*#|$)"


def _asked(question: str) -> tuple[str, dict[str, str]] | None:
    line = question.partition("\n")[0]
    for kind, wordings in WORDINGS.items():
        for wording in wordings:
            pattern = re.sub(r"\\\{(\w+)\\\}", r"(?P<\1>.+)", re.escape(wording))
            if match := re.fullmatch(pattern, line):
                return kind, match.groupdict()
    return None


def _cut(name: str, text: str, style: Style) -> str:
    """Code that cuts the function ``name`` out of ``text`` into ``body``."""
    way = style.pick("cut", ("tree", "pattern", "lines"))
    if way == "tree":
        return (
            "import ast\n"
            f"tree = ast.parse({text})\n"
            "defs = (ast.FunctionDef, ast.AsyncFunctionDef)\n"
            f"nodes = [n for n in ast.walk(tree) if isinstance(n, defs) and n.name == {name!r}]\n"
            f"body = ast.get_source_segment({text}, nodes[0])"
        )
    if way == "pattern":
        return (
            "import re\n"
            f'rule = r"^( *)(?:async )?def {name}\\(.*\\n(?:\\1 +.*\\n|\\n)*"\n'
            f"body = re.search(rule, {text}, re.M)[0].strip()"
        )
    return (
        f"rest = {text}.splitlines()\n"
        f'at = next(i for i, s in enumerate(rest) if "def {name}(" in s)\n'
        'edge = len(rest[at]) - len(rest[at].lstrip(" "))\n'
        "end = at + 1\n"
        "while end < len(rest) and (not rest[end].strip() or rest[end][:edge + 1].isspace()):\n"
        "    end += 1\n"
        'body = "\\n".join(rest[at:end]).strip()'
    )


def _one_place(
    kind: str, fields: dict[str, str], choices: dict[str, str], style: Style
) -> list[str]:
    """Cut out the one function that is asked about and read the answer there."""
    parts, result = style.name("parts"), style.name("result")
    name = fields.get("name") or fields["call"].partition("(")[0]
    cut = _cut(name, f"{parts}[{fields['path']!r}]", style)
    if style.chance("look at body", 0.3):
        cut += "\nprint(body[:300])"
    if kind == "value":
        run = style.pick("run", ("plain", "space", "def"))
        if run == "plain":
            read = f"exec(body)\ntold = repr({fields['call']})"
        elif run == "space":
            read = f"space = {{}}\nexec(body, space)\ntold = repr(eval({fields['call']!r}, space))"
        else:
            read = "def run(code, call):\n    space = {}\n    exec(code, space)\n"
            read += f"    return repr(eval(call, space))\ntold = run(body, {fields['call']!r})"
    elif style.pick("read", ("ask", "ask", "code")) == "ask":
        ask = _ASK[kind].format(**fields)
        cutoff = f"body[:{_WINDOW}]"
        if kind == "raises":  # the statement may stand far down in a long function
            cutoff = f'body[max(0, body.find("raise ") - {_WINDOW // 2}):][:{_WINDOW}]'
        read = f'told = llm_query({cutoff} + "\\n\\n{ask}").strip()'
    elif kind == "raises":
        read = 'import re\ntold = re.findall(r"^ *raise (\\w+)", body, re.M)[0]'
    else:
        read = (
            "import ast, textwrap\n"
            "args = ast.parse(textwrap.dedent(body)).body[0].args\n"
            "named = [a.arg for a in args.args][-len(args.defaults):]\n"
            "told = ast.unparse(dict(zip(named, args.defaults))"
            f"[{fields['parameter']!r}])"
        )
    if kind == "default":
        # 'x' and "x" are the same default.
        same = f"{result} = [k for k, v in choices.items() if v == told.replace('\"', \"'\")][0]"
    else:
        same = f"{result} = [k for k, v in choices.items() if v == told][0]"
    return [cut, read, f"choices = {choices!r}\n{same}"]


def _each_choice(
    kind: str, fields: dict[str, str], choices: dict[str, str], style: Style
) -> list[str]:
    """Look at the code of each choice and keep the one for which it holds."""
    parts, result = style.name("parts"), style.name("result")
    told = f"choices = {choices!r}"
    if kind == "snippet":
        line = repr(fields["line"])
        way = style.pick("snippet", ("test", "offset", "loop"))
        if way == "offset":
            find = f"at = context.index({line})\nhead = context.rindex('\\n=== ', 0, at)\n"
            find += "path = context[head + 5:at].split('\\n')[0]\n"
            find += f"{result} = [k for k, v in choices.items() if v == path]\n"
            find += f"{result} = {result}[0] if {result} else "
            find += f"[k for k, v in choices.items() if {line} in {parts}[v]][0]"
        elif way == "loop":
            find = f"for k, v in choices.items():\n    if {line} in {parts}[v]:\n"
            find += f"        {result} = k"
        else:
            find = f"{result} = next(k for k, v in choices.items() if {line} in {parts}[v])"
        return [told, find]
    if kind == "imports":
        code = f"{parts}[v]"
        get = f"codes = {{k: {code} for k, v in choices.items()}}"
    else:
        word = "class" if kind == "overrides" else "def"
        opens = r"\b" if word == "class" else r"\("
        get = (
            "import re\n"
            f'rule = r"^( *)(?:async )?{word} NAME{opens}.*\\n(?:\\1 +.*\\n|\\n)*"\n'
            "codes = {}\n"
            "for k, v in choices.items():\n"
            '    name, path = v[:-1].split(" (")\n'
            f'    codes[k] = re.search(rule.replace("NAME", name), {parts}[path], re.M)[0]'
        )
    what, name = {
        "calls": ("call", fields.get("called", "")),
        "imports": ("import", fields.get("module", "")),
        "overrides": ("define", fields.get("method", "")),
    }[kind]
    ask = _ASK[kind].format(**fields)
    windows = f"[c[i:i + {_WINDOW}] for i in range(0, len(c), {_WINDOW - 200})]"
    way = style.pick("test", ("code", "batch", "one by one"))
    if way == "code":
        rule = _pattern(what, name)
        find = f'{result} = [k for k, c in codes.items() if re.search(r"{rule}", c, re.M)][0]'
        get = get if get.startswith("import re") else f"import re\n{get}"
    elif way == "batch":
        find = (
            f"asks = [(k, w) for k, c in codes.items() for w in {windows}]\n"
            f'said = llm_query_batched([w + "\\n\\n{ask}" for k, w in asks])\n'
            f'{result} = [k for (k, w), s in zip(asks, said) if s.strip() == "yes"][0]'
        )
    else:
        find = (
            "for k, c in codes.items():\n"
            f"    for w in {windows}:\n"
            f'        if llm_query(w + "\\n\\n{ask}").strip() == "yes":\n'
            f"            {result} = k"
        )
    return [f"{told}\n{get}", find]
