"""Recursive language models: the context is a variable, the model writes code, code calls models.

In three lines:

    from rlm_executor import RLM, OpenAILM, RLMCard, Context

    lm = OpenAILM("http://localhost:8000/v1", "base")
    result = RLM(lm, lm, RLMCard()).complete("Who is Mara?", Context.from_file(Path("book.txt")))
    print(result.answer, result.stop_reason)

``RLM`` is the loop (``rlm``), ``RLMCard`` how a trained model is spoken to (``card``), ``LM`` what
a model is (``lm``), ``Trajectory`` what a run leaves (``trajectory``).
"""

from rlm_executor.budget import Budget, Limits, Price
from rlm_executor.card import RLMCard
from rlm_executor.context import Context
from rlm_executor.dialect import DIALECTS, Dialect
from rlm_executor.lm import LM, CachedLM, Completion, Message, Sampling, ScriptedLM, Usage
from rlm_executor.openai_lm import OpenAILM
from rlm_executor.replaying import replay, replay_sync, resume
from rlm_executor.result import RLMResult
from rlm_executor.rlm import RLM
from rlm_executor.rlms_dialect import RlmsDialect
from rlm_executor.trajectory import Trajectory, Turn

__all__ = [
    "DIALECTS",
    "LM",
    "RLM",
    "Budget",
    "CachedLM",
    "Completion",
    "Context",
    "Dialect",
    "Limits",
    "Message",
    "OpenAILM",
    "Price",
    "RLMCard",
    "RLMResult",
    "RlmsDialect",
    "Sampling",
    "ScriptedLM",
    "Trajectory",
    "Turn",
    "Usage",
    "replay",
    "replay_sync",
    "resume",
]
