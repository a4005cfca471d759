"""Scripted runs for the dialects of `rlms`: those that are equal, and those that differ by intent.

`END` stands for a reply that ends the run in either family's way.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from rlm_executor.rlms_dialect import RlmsDialect
from rlm_executor.rlms_texts import RlmsTexts
from tests.rlm_executor.scripted import block, finish

BIRDS = "sparrow\nheron\n\nwren\n"
END = "END"
ENDS = {"answer": finish("'done'"), "final": "FINAL(all is done)"}
PROTOCOLS = {"0.1.1": "final", "0.1.3": "answer"}


@dataclass(frozen=True)
class Scripted:
    """One run: what is asked, and what the root says in turn."""

    replies: list[str]
    context: Any = BIRDS
    question: str = "How many birds?"
    max_turns: int = 30
    max_depth: int = 1
    system: str = ""  # in the place of that of `rlms`

    def of(self, protocol: str) -> Scripted:
        """With the family's own end."""
        return replace(
            self, replies=[ENDS[protocol] if said == END else said for said in self.replies]
        )


def stand_in(protocol: str) -> RlmsDialect:
    """A dialect with words of our own in the place of the package's."""
    texts = RlmsTexts(
        **{field.name: f"<{field.name}>" for field in fields(RlmsTexts)}
        | {"metadata_role": "user", "turn_role": "user", "landing_role": "assistant"}
    )
    texts = replace(texts, metadata="{question} {type} {chars} {lengths}", later="{turn}/{turns}")
    return RlmsDialect(name="rlms", version="0", protocol=protocol, **asdict(texts))


BOTH: dict[str, Scripted] = {
    "plain": Scripted([block("print(context[:7])", "First I look."), block("n = 3"), END]),
    "several_blocks": Scripted(
        [
            block("print('one')") + "\nand\n" + block("x = 1\nprint(x)"),
            block("1 / 0") + "\n" + block("y = x + 1") + "\n" + block("print(y)"),
            END,
        ]
    ),
    "error": Scripted(
        [
            block("print('before')\nundefined"),
            block("raise ValueError('odd\\nvalue')"),
            block("{}['key']"),
            block("raise ValueError"),
            END,
        ]
    ),
    "syntax_error": Scripted(
        [block("x = = 2"), block("def f():\nreturn 1"), block("print('open"), END]
    ),
    "long_output": Scripted(
        [
            block("print('x' * 30000)"),
            block("print('y' * 19900)"),
            block("print('line\\n' * 9000)\n1 / 0"),
            block("print('a' * 25000)") + block("print('b' * 25000)"),
            END,
        ]
    ),
    "no_code": Scripted(["The answer is surely 3.", "", "```\nprint(1)\n```", END]),
    "turn_limit": Scripted([block("print(len(context))"), block("n = 4"), "It is 3."], max_turns=2),
    "turn_limit_after_prose": Scripted(["I wonder.", "It is 3."], max_turns=1),
    "llm_query": Scripted([block("r = llm_query('which?')\nprint(r)"), END]),
    "llm_query_batched": Scripted(
        [block("print(llm_query_batched([f'part {i}' for i in range(5)]))"), END]
    ),
    "rlm_query_flat": Scripted(
        [block("print(rlm_query('deep?'), rlm_query_batched(['a', 'b']))"), END]
    ),
    "rlm_query_deep": Scripted(
        [
            block("r = rlm_query('a task of its own')\nprint(r)"),
            block("print(context)\nprint(rlm_query('deeper'), llm_query('plain'))"),
            END,
            END,
        ],
        max_depth=2,
    ),
    "unicode": Scripted(
        [
            block("print(context)\nname = 'Zoë 🐦'"),
            block("print(llm_query('größer ' + name))"),
            END,
        ],
        context="Ångström 鳥 🐦\nnaïve",
        question="Wieviele Vögel – 鳥?",
    ),
    "variables": Scripted(
        [
            block("a = [1]\nb = {'k': 1}\nc = (1, 2)\nd = {1}\ne = None\ng = 1.5\nh = True"),
            block("def fun():\n    return a\nimport math\nfrom collections import Counter"),
            block("count = Counter('aab')\nfor i in range(3):\n    pass\na = 'again'"),
            block("f = 3\njson = 'j'"),
            END,
        ]
    ),
    "scaffold": Scripted(
        [
            block("context = 'mine'\nllm_query = 3\nSHOW_VARS = 4"),
            block("print(context[:7], llm_query('still here'))"),
            END,
        ]
    ),
    "list_context": Scripted(
        [block("print(len(context), context[1])\nf = 1\njson = 2"), END],
        context=["one", "two words", "", "drei — 3"],
    ),
    "long_list_context": Scripted(
        [block("print(len(context))"), END], context=[f"item {n}" * n for n in range(130)]
    ),
    "list_of_records": Scripted(
        [block("print(context[0])"), END], context=[{"id": 1, "text": "ä"}, {"id": 2, "n": [1]}]
    ),
    "dict_context": Scripted(
        [block("print(list(context))"), END], context={"a": "text", "b": [1, 2], "c": {"d": "é"}}
    ),
    "no_question": Scripted([block("print(context)"), END], question=""),
    "braces": Scripted([block("print({'a': 1})"), END], question="What is {x} in {{y}} {0}?"),
    "fences": Scripted(
        [
            "```python\nprint('not run')\n```",
            "```repl\nprint('never closed')",
            "```repl\n\n```",
            "in a line ```repl\nprint('run')\n``` and on",
            "```repl  \n\n   print('indented')   \n\n```",
            "```repl\ntext = '''\n```\nnot code\n```\n'''\n```",
            "<think>\n```repl\nprint('thought')\n```\n</think>\nDone.",
            END,
        ]
    ),
}
ANSWER: dict[str, Scripted] = {
    "answer_over_two_turns": Scripted(
        [block("answer['content'] = 'half'"), block("answer['ready'] = True")]
    ),
    "answer_then_more_blocks": Scripted([finish("'first'") + block("print('after')")]),
    "answer_as_a_new_dict": Scripted(
        [block("print(answer)"), block("answer = {'content': 42, 'ready': True}")]
    ),
    "answer_not_a_dict": Scripted([block("answer = 'sparrow'"), END]),
}
FINAL: dict[str, Scripted] = {
    "final_text": Scripted([block("print(len(context))"), "So it is clear.\n\nFINAL(three birds)"]),
    "final_nested": Scripted(
        [block("n = 2"), "FINAL(f(x) = (x + 1) * (2), that is (in short) linear)"]
    ),
    "final_at_once": Scripted(["FINAL(3 birds)"]),
    "final_lines": Scripted([block("n = 2"), "  FINAL(first line\nsecond (line)\n)  "]),
    "final_var": Scripted([block("result = 'three'\nanswer = 3"), "FINAL_VAR(result)"]),
    "final_var_quoted": Scripted([block("result = {'n': 3}"), "Now:\nFINAL_VAR('result') at last"]),
    "final_var_beside_code": Scripted([block("result = 'three'") + "\nFINAL_VAR(result)"]),
    "final_var_in_code": Scripted([block("result = 3"), block("print(FINAL_VAR('result'))")]),
    "final_var_of_a_value": Scripted([block("FINAL_VAR(1 + 2)")]),
}


@dataclass(frozen=True)
class Different:
    """A run that differs by intent: what is found on one side only, of all messages and answer."""

    version: str
    run: Scripted
    ours: str
    theirs: str


DIFFERENT: dict[str, Different] = {
    "kept at an exception": Different(
        "0.1.3",
        Scripted([block("x = 1\n1 / 0"), END]),
        "['answer', 'context_0', 'context', 'x']",
        "['answer', 'context_0', 'context']",
    ),
    "live globals": Different(
        "0.1.3",
        Scripted(
            [block("k = 1\ndef get():\n    return k"), block("k = 2"), block("print(get())")]
            + [END]
        ),
        "\n2\n",
        "\n1\n",
    ),
    "whole Python": Different(
        "0.1.1",
        Scripted([block("class A:\n    n = 7\nprint(A.n, frozenset({8}), eval('9'))"), END]),
        "7 frozenset({8}) 9",
        "__build_class__ not found",
    ),
    "private names": Different(
        "0.1.3", Scripted([block("_n = 5"), block("print(_n)"), END]), "\n5\n", "NameError"
    ),
    "del": Different(
        "0.1.3",
        Scripted([block("n = 5"), block("del n"), block("print('n' in dir())"), END]),
        "\nFalse\n",
        "\nTrue\n",
    ),
    "exits": Different(
        "0.1.3",
        Scripted([block("import sys\nsys.exit(3)"), END]),
        "\n\nSystemExit: 3\n\n",
        "(SystemExit: 3)",
    ),
    "stderr in place": Different(
        "0.1.3",
        Scripted([block("import sys\nprint('e', file=sys.stderr)\nprint('o')"), END]),
        "\ne\no\n",
        "\no\n\n\n\ne\n",
    ),
    "failed sub-calls": Different(
        "0.1.3",
        Scripted([block("r = llm_query('fail')\nprint('got', r)"), END]),
        "ServerUnavailable: no answer",
        "got Error:",
    ),
    "SHOW_VARS": Different(
        "0.1.3",
        Scripted([block("n = 5"), block("print(SHOW_VARS())"), END]),
        "- n: int 5",
        "'n': 'int'",
    ),
    "ready before content": Different(
        "0.1.3",
        Scripted([block("answer['ready'] = True\nanswer['content'] = 'three'")]),
        "answer: three",
        "answer: <end>",
    ),
    "answer.update": Different(
        "0.1.3",
        Scripted([block("answer.update(content='three', ready=True)"), finish("'lost'")]),
        "answer: three",
        "answer: lost",
    ),
    "empty answers": Different(
        "0.1.3",
        Scripted([block("answer['ready'] = True"), finish("'three'")]),
        "answer: three",
        "answer: <end>",
    ),
    "answer beside an error": Different(
        "0.1.3",
        Scripted([finish("'early'")[:-4] + "\n1 / 0\n```", finish("'late'")]),
        "answer: late",
        "answer: early",
    ),
    "landing": Different(
        "0.1.1",
        Scripted(["I wonder.", "Well:\nFINAL(3 birds)"], max_turns=1),
        "answer: 3 birds",
        "answer: Well:",
    ),
    "unseen output": Different(
        "0.1.1",
        Scripted([block("print(len(context))") + "\nFINAL(5 birds)", "FINAL(3 birds)"]),
        "answer: 3 birds",
        "answer: 5 birds",
    ),
    "unknown variable": Different(
        "0.1.1",
        Scripted(["FINAL_VAR(result)", END]),
        "(FINAL_VAR(result) gives no answer: Error: there is no variable 'result'.",
        "\n7 messages, 2 calls",
    ),
    "FINAL of a variable": Different(
        "0.1.1",
        Scripted([block("result = 'three'"), "FINAL(result)"]),
        "answer: three",
        "answer: result",
    ),
    "parts of variables": Different(
        "0.1.1",
        Scripted([block("r = {'k': ['three']}"), "FINAL_VAR(r['k'][0])", END]),
        "answer: three",
        "answer: all is done",
    ),
    "full stop": Different(
        "0.1.1", Scripted(["**FINAL(3 birds)**.", END]), "answer: 3 birds", "answer: all is done"
    ),
    "text behind": Different(
        "0.1.1",
        Scripted(["FINAL(3 birds)\nThat is all (I think)"]),
        "answer: 3 birds<end>",
        "answer: 3 birds)\nThat is all (I think<end>",
    ),
    "last one wins": Different(
        "0.1.1",
        Scripted([block("n = 3\nno = 4"), "FINAL_VAR(no)\nNo, rather:\nFINAL_VAR(n)"]),
        "answer: 3",
        "answer: 4",
    ),
    "FINAL in code": Different(
        "0.1.1",
        Scripted([block("n = 'three'\nFINAL(n)")]),
        "answer: three",
        "answer: n",
    ),
    "own cell": Different(
        "0.1.1",
        Scripted([block("n = 'three'\nr = FINAL_VAR('n')"), END]),
        "answer: three",
        "answer: all is done",
    ),
    "lists": Different(
        "0.1.1",
        Scripted([block("n = ['a', 'b']"), "FINAL_VAR(n)"]),
        "answer: a\nb",
        "answer: ['a', 'b']",
    ),
    "thinking": Different(
        "0.1.1",
        Scripted(["<think>\nFINAL(1)\n</think>\nLet me see.", END]),
        "answer: all is done",
        "answer: 1",
    ),
    "chat contexts": Different(
        "0.1.3",
        Scripted([END], context=[{"role": "user", "content": "sparrow"}]),
        "list of 38 total",
        "list of 7 total",
    ),
    "one call for equal prompts": Different(
        "0.1.3",
        Scripted([block("print(llm_query_batched(['a', 'a']))"), END]),
        "3 calls",
        "4 calls",
    ),
}
