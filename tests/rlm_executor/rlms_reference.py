"""The package `rlms` itself, on scripted models: run as a program beside the tests.

    PYTHONPATH=UNPACKED_WHEEL python rlms_reference.py < runs.json > outcomes.json

Each run is {context, question, replies, max_turns, max_depth, system}, its outcome {calls, answer}:
the messages of every call in order, root and sub, and what the run gave back. A root gives its
replies in turn, its children with it; a plain call gets its prompt back in capitals.
"""

import copy
import importlib
import json
import socketserver
import sys
import types

for absent, names in {"dotenv": ["load_dotenv"]}.items():  # of a client: nothing here needs it
    try:
        importlib.import_module(absent)
    except ModuleNotFoundError:
        sys.modules[absent] = types.ModuleType(absent)
        for name in names:
            setattr(sys.modules[absent], name, lambda: None)

import rlm.core.rlm as core  # noqa: E402
from rlm.clients.base_lm import BaseLM  # noqa: E402
from rlm.core.types import ModelUsageSummary, UsageSummary  # noqa: E402

socketserver.BaseServer.serve_forever.__defaults__ = (0.01,)  # else each run takes 0.5 s to end


class Recording(BaseLM):
    """A client that keeps what it is sent."""

    def __init__(self, replies):
        super().__init__(model_name="root")
        self.replies, self.calls = list(replies), []

    def completion(self, prompt):
        if isinstance(prompt, str):
            self.calls.append([{"role": "user", "content": prompt}])
            if prompt == "fail":
                raise RuntimeError("no answer")
            return prompt.upper()
        self.calls.append(copy.deepcopy(prompt))
        return self.replies.pop(0)

    async def acompletion(self, prompt):
        return self.completion(prompt)

    def get_usage_summary(self):
        return UsageSummary(model_usage_summaries={})

    def get_last_usage(self):
        return ModelUsageSummary(total_calls=1, total_input_tokens=0, total_output_tokens=0)


def outcome(run):
    """One run."""
    client = Recording(run["replies"])
    core.get_client = lambda backend, kwargs: client
    prompt = {"custom_system_prompt": run["system"], "orchestrator": False}
    loop = core.RLM(
        **(prompt if run["system"] else {}),
        backend="openai",
        backend_kwargs={"model_name": "root"},
        max_depth=run["max_depth"],
        max_iterations=run["max_turns"],
    )
    try:
        answer = loop.completion(run["context"], root_prompt=run["question"] or None).response
    except (Exception, SystemExit) as error:
        answer = f"({type(error).__name__}: {error})"
    return {"calls": client.calls, "answer": answer}


if __name__ == "__main__":
    outcomes = {name: outcome(run) for name, run in json.load(sys.stdin).items()}
    json.dump(outcomes, sys.stdout)
