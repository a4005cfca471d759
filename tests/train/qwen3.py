"""The real Qwen3 tokenizer without a model hub: Qwen's own ranks, out of a wheel that pip fetches.

    tokenizer = real_tokenizer()     # a few MB once, kept in the user's cache

Qwen2, 2.5 and 3 share the ranks, which the package dashscope carries; the split pattern is that of
transformers' Qwen2Tokenizer, the added tokens are those of Qwen3-8B's tokenizer_config.json, and
the chat template is the one that comes with TRL. ``test_law`` compares some published ids.
"""

from __future__ import annotations

import base64
import importlib.util
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from transformers import AddedToken, PreTrainedTokenizerBase, Qwen2Tokenizer

from rlm_executor.errors import EnvironmentFault
from rlm_executor.files import sha256_file
from rlm_executor.rlms_texts import cache_folder

PACKAGE, RANKS = "dashscope==2.0.2", "dashscope/resources/qwen.tiktoken"
SHA256 = "b2b1b8dfb5cc5f024bafc373121c6aba3f66f9a5a0269e243470a1de16a33186"  # of the ranks
FETCH_SECONDS = 120
VISION = ("object_ref", "box", "quad", "vision")
CONTROL = (  # from 151643 on
    *("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
    *(f"<|{name}_{end}|>" for name in VISION for end in ("start", "end")),
    *("<|vision_pad|>", "<|image_pad|>", "<|video_pad|>"),
)
ORDINARY = (  # stay in the text of a reply
    *("<tool_call>", "</tool_call>", "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>"),
    *("<|fim_pad|>", "<|repo_name|>", "<|file_sep|>", "<tool_response>", "</tool_response>"),
    *("<think>", "</think>"),
)


def real_tokenizer() -> PreTrainedTokenizerBase:
    """Qwen3's tokenizer with the stock chat template.

    Raises:
        EnvironmentFault: the wheel can't be fetched.
    """
    ranks = {
        base64.b64decode(token): int(rank)
        for token, rank in map(bytes.split, _ranks_file().read_bytes().splitlines())
    }
    letters = _byte_letters()
    vocabulary = {_written(token, letters): rank for token, rank in ranks.items()}
    merges = [tuple(_written(part, letters) for part in pair) for pair in _merges(ranks)]
    tokenizer = Qwen2Tokenizer(vocab=vocabulary, merges=merges)  # this adds <|endoftext|>
    tokenizer.add_tokens([AddedToken(name, special=True, normalized=False) for name in CONTROL])
    tokenizer.add_tokens([AddedToken(name, special=False, normalized=False) for name in ORDINARY])
    tokenizer.eos_token = "<|im_end|>"
    tokenizer.chat_template = stock_template()
    return tokenizer


def stock_template() -> str:
    """Qwen3's chat template."""
    spec = importlib.util.find_spec("trl")
    assert spec is not None and spec.origin is not None
    return (Path(spec.origin).parent / "chat_templates" / "qwen3.jinja").read_text(encoding="utf-8")


def _ranks_file() -> Path:
    """The cached ranks, known by their sha256, or fetched."""
    kept = cache_folder() / "qwen.tiktoken"
    if kept.is_file() and sha256_file(kept) == SHA256:
        return kept
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    command += ["--disable-pip-version-check", "--only-binary=:all:"]
    with tempfile.TemporaryDirectory() as folder:
        try:
            done = subprocess.run(
                [*command, "--dest", folder, PACKAGE],
                capture_output=True,
                text=True,
                timeout=FETCH_SECONDS,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise EnvironmentFault(f"{PACKAGE} could not be fetched ({error})") from error
        wheels = [*Path(folder).glob("*.whl")]
        if done.returncode or len(wheels) != 1:
            why = (done.stderr.strip() or "pip said nothing").splitlines()[-1]
            raise EnvironmentFault(f"{PACKAGE} could not be fetched ({why})")
        with zipfile.ZipFile(wheels[0]) as archive:
            content = archive.read(RANKS)
    kept.parent.mkdir(parents=True, exist_ok=True)
    partial = kept.with_name(f".{kept.name}.{os.getpid()}.partial")
    partial.write_bytes(content)
    assert sha256_file(partial) == SHA256, "these are not the ranks that are known here"
    partial.replace(kept)
    return kept


def _merges(ranks: dict[bytes, int]) -> list[tuple[bytes, bytes]]:
    """In order: a token is the join of the two parts that are left by all merges before it."""
    merges = []
    for token, rank in ranks.items():
        parts = [token[place : place + 1] for place in range(len(token))]
        while len(parts) > 2:
            joins = [
                (ranks.get(one + other, rank), place)
                for place, (one, other) in enumerate(zip(parts, parts[1:], strict=False))
            ]
            lowest, place = min(joins)
            if lowest >= rank:
                break
            parts[place : place + 2] = [parts[place] + parts[place + 1]]
        if len(parts) == 2:
            merges.append((parts[0], parts[1]))
    return merges


def _byte_letters() -> dict[int, str]:
    """The printable letter that stands for each byte in a byte-level vocabulary (GPT-2's)."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in shown]
    return {
        **{byte: chr(byte) for byte in shown},
        **{byte: chr(256 + place) for place, byte in enumerate(hidden)},
    }


def _written(token: bytes, letters: dict[int, str]) -> str:
    return "".join(letters[byte] for byte in token)
