"""Recursive language models: the context is a variable, the model writes code, code calls models.

    from rlm_executor import RLM, OpenAILM, RLMCard, Context

    lm = OpenAILM("http://localhost:8000/v1", "base")
    result = RLM(lm, lm, RLMCard()).complete("Who is Mara?", Context.from_file(Path("book.txt")))
    print(result.answer, result.stop_reason)
"""

from rlm_executor.budget import Budget
from rlm_executor.card import Limits, RLMCard
from rlm_executor.context import Context
from rlm_executor.dialect import DIALECTS, Dialect
from rlm_executor.lm import LM, CachedLM, Completion, Message, Sampling, ScriptedLM, Usage
from rlm_executor.openai_lm import OpenAILM
from rlm_executor.rlm import RLM, RLMResult
from rlm_executor.trajectory import Trajectory, replay

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
    "RLMCard",
    "RLMResult",
    "Sampling",
    "ScriptedLM",
    "Trajectory",
    "Usage",
    "replay",
]
