"""From vLLM's log to one clear line: why a start failed, and what to do.

    explain(log_text, "ended with exit code 1") -> "vLLM ended with exit code 1: ...; ..."

vLLM wraps the cause in several tracebacks of several processes. Known causes get their fix;
otherwise the innermost error line is quoted. Pure functions.
"""

from __future__ import annotations

import re

_PREFIX = re.compile(
    r"^\([\w-]+ pid=\d+\)\s*(?:(?:ERROR|WARNING|INFO) [\d-]+ [\d:]+ \[[^\]]*\]\s?)?"
)
_ERROR_LINE = re.compile(r"^(?:[\w.]+\.)?\w*(?:Error|Exception|Exit|Interrupt)\b: .+")
_ARGUMENT_LINE = re.compile(r"^\S+: error: .+")
# Lines that only say that some other process failed.
_WRAPPERS = re.compile(
    r"Engine core initialization failed|WorkerProc initialization failed|See root cause above"
)
# What a log line must hold -> what to do about it.
_FIXES: tuple[tuple[str, str], ...] = (
    (r"No module named '?vllm", "vLLM is not installed here; run `make setup`"),
    (
        r"torchvision::nms|torchvision.*does not exist",
        "torchvision does not fit this torch and nothing needs it; run `pip uninstall torchvision`",
    ),
    (
        r"[Aa]ddress already in use",
        "another program has taken the port; set another `engine.port`, or none for any free one",
    ),
    (
        r"greater than the derived max_model_len|larger than.* max_model_len",
        "lower `engine.max_model_len`",
    ),
    (r"LoRA rank \d+ is greater", "the adapter's rank is not one that vLLM was told of"),
    (
        r"(?i)kv[ _-]cache.*memory|memory.*kv[ _-]cache",
        "change `engine.kv_cache_gib` or lower `engine.max_model_len`",
    ),
    (r"No space left on device", "the disk is full; free some space"),
    (
        r"Cannot find an appropriate cached snapshot|offline mode|LocalEntryNotFound",
        "the model is not on this machine; give its folder, or set `engine.offline: false`",
    ),
    (
        r"CUDA out of memory|Cannot allocate memory|MemoryError",
        "not enough memory; lower `engine.kv_cache_gib` or `engine.max_num_seqs`",
    ),
    (r"(?i)lora|adapter", "an adapter does not load; train it again or take it out"),
)


def explain(log: str, what_happened: str) -> str:
    """One line: what happened, the log line that matters, and the fix if it is a known one."""
    lines = [_PREFIX.sub("", line).strip() for line in log.splitlines()]
    line = cause(lines)
    # Only the cause is looked at: the rest of a log mentions everything.
    fix = next((fix for pattern, fix in _FIXES if re.search(pattern, line)), "")
    said = f": {line[:300].rstrip(' .;')}" if line else ""
    return f"vLLM {what_happened}{said}" + (f"; {fix}" if fix else "")


def cause(lines: list[str]) -> str:
    """The first error line that is not about another process, else the last thing said."""
    errors = [
        # Pydantic tells the reason on the next line.
        line if "validation error" not in line else f"{line}: {' '.join(lines[at + 1 : at + 2])}"
        for at, line in enumerate(lines)
        if _ERROR_LINE.match(line) or _ARGUMENT_LINE.match(line)
    ]
    causes = [line for line in errors if not _WRAPPERS.search(line)]
    if causes:
        return causes[-1] if _is_chain(lines) else causes[0]
    said = [line for line in lines if line and not line.startswith(("warnings.warn", "File "))]
    return (errors or said or [""])[-1]


def _is_chain(lines: list[str]) -> bool:
    """Whether one process re-raised: Python then prints the outermost error last."""
    return any("During handling of the above exception" in line for line in lines)


def last_said(log: str) -> str:
    """The last line worth showing while waiting."""
    for line in reversed(log.splitlines()):
        text = _PREFIX.sub("", line).strip()
        if text and not text.startswith(("warnings.warn", "INFO:", "|", "█")):
            return text[:120]
    return ""
