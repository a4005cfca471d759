"""One run of another project's loop, in a process of its own: run by ``bench_executor``.

    PYTHON -P executed_peer.py rlms|dspy BASE_URL MODEL CONTEXT_FILE|CALLS

Runs under the Python that has that project (nothing of ours is imported). Prints a JSON line:
seconds of the run (imports not counted) and its answer.
"""

from __future__ import annotations

import json
import sys
import time


def rlms(base_url: str, model: str, text: str) -> str:
    """``rlms`` with its default environment and limits."""
    from rlm import RLM

    backend = {"model_name": model, "base_url": base_url, "api_key": "EMPTY"}
    rlm = RLM(backend="openai", backend_kwargs=backend, environment="local", max_iterations=30)
    return rlm.completion(text, root_prompt="How long is it?").response


def rlms_batch(base_url: str, model: str, calls: str) -> str:
    """A batch of its sub-calls, from its REPL."""
    from rlm.clients import get_client
    from rlm.core.lm_handler import LMHandler
    from rlm.environments.local_repl import LocalREPL

    backend = {"model_name": model, "base_url": base_url, "api_key": "EMPTY"}
    handler = LMHandler(get_client("openai", backend))
    handler.start()
    repl = LocalREPL(lm_handler_address=(handler.host, handler.port))
    code = f"print(len(llm_query_batched([str(i) for i in range({calls})])))"
    return repl.execute_code(code).stdout.strip()


def dspy(base_url: str, model: str, text: str) -> str:
    """``dspy.RLM`` with its default interpreter."""
    import dspy as package

    package.configure(
        lm=package.LM(f"openai/{model}", api_base=base_url, api_key="EMPTY", cache=False)
    )
    return str(package.RLM("context, question -> answer")(context=text, question="Length?").answer)


def main() -> None:
    """Import, read, run, print."""
    kind, base_url, model, what = sys.argv[1:]
    if kind == "dspy":
        import dspy as _dspy  # noqa: F401
    else:
        import rlm as _rlm  # noqa: F401
    run = {"rlms": rlms, "rlms_batch": rlms_batch, "dspy": dspy}[kind]
    if not what.isdecimal():
        with open(what, encoding="utf-8") as file:
            what = file.read()
    started = time.perf_counter()
    answer = run(base_url, model, what)
    print(json.dumps({"seconds": time.perf_counter() - started, "answer": answer}))


if __name__ == "__main__":
    main()
