"""One attack on another project's REPL, in a process of its own: run by ``bench_attacks``.

Runs under the Python that has that project (nothing of ours is imported), reads
``{"setup": code, "attack": code, "after": code}`` from stdin and writes one JSON line: what each of
the three cells printed or raised. The host that an attack may reach is this very process: it holds
a secret in its environment and in its memory, as a caller with an API key does.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
from collections.abc import Callable


def rlms() -> Callable[[str], str]:
    """The default environment of ``rlms``."""
    from rlm.environments.local_repl import LocalREPL

    repl = LocalREPL(context_payload="the attack's own context\n" * 50)

    def run(code: str) -> str:
        done = repl.execute_code(code)
        return f"{done.stdout}\n{done.stderr}"

    return run


def dspy() -> Callable[[str], str]:
    """The interpreter of ``dspy.RLM``: Pyodide in Deno."""
    from dspy.primitives.code_interpreter import CodeExecutionError
    from dspy.primitives.python_interpreter import PythonInterpreter

    interpreter = PythonInterpreter()

    def run(code: str) -> str:
        try:
            return str(interpreter.execute(code))
        except (CodeExecutionError, SyntaxError) as error:  # the code's own mistake
            return f"{type(error).__name__}: {error}"

    return run


def main() -> None:
    """Set the scene, attack, look whether the REPL still works."""
    cells = json.load(sys.stdin)
    results = os.dup(1)  # an attack may write to, or close, what is usually there
    run = {"rlms": rlms, "dspy": dspy}[sys.argv[1]]()
    for name in ("setup", "attack", "after"):
        said = ""
        with contextlib.redirect_stdout(io.StringIO()):
            try:
                said = run(cells[name])
            except Exception as error:  # the REPL is of no use any more, and says so
                said = f"{type(error).__name__}: {error}"
        os.write(results, json.dumps({name: said[:100_000]}).encode() + b"\n")
    os._exit(0)  # threads of the attack may run for ever


if __name__ == "__main__":
    main()
