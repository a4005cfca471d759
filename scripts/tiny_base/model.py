"""The tiny base before training: its tokenizer and its shape."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AttentionInterface,
    AttentionMaskInterface,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from rlm_executor.files import write_text_atomic
from scripts.tiny_base.mixture import WINDOW, Mixture
from train.attention import attend_rows, no_mask, register

VOCABULARY = 2048
SHORT_ROWS = "short_rows"  # attention, on a CPU
# Qwen3's own, byte for byte as TRL ships it.
TEMPLATE = Path(__file__).resolve().parents[2] / "assets" / "tiny-base" / "chat_template.jinja"
# Qwen3's 26 added tokens, in the order of its ids.
SPECIAL_TOKENS = (
    "<|endoftext|> <|im_start|> <|im_end|> <|object_ref_start|> <|object_ref_end|> <|box_start|> "
    "<|box_end|> <|quad_start|> <|quad_end|> <|vision_start|> <|vision_end|> <|vision_pad|> "
    "<|image_pad|> <|video_pad|> <tool_call> </tool_call> <|fim_prefix|> <|fim_middle|> "
    "<|fim_suffix|> <|fim_pad|> <|repo_name|> <|file_sep|> <tool_response> </tool_response> "
    "<think> </think>"
).split()
CONTROL = SPECIAL_TOKENS[:14]  # the others are text that a server shows, in Qwen3 as here
# A word is the same tokens wherever it stands, since its blank is a token of its own: what is
# copied from prose into quotes or code need not be spelled anew. Digits stand alone, and
# lines begin and end with tokens of their own.
SPLIT = r"\p{L}+|\p{N}|\n+|[^\p{L}\p{N}\n]+"


def build_tokenizer(mixture: Mixture, path: Path) -> PreTrainedTokenizerFast:
    """Train (or read from ``path``) the byte-level BPE; add Qwen3's specials and template."""
    if not path.exists():
        rng = random.Random(1)
        samples = Mixture(mixture.source, 1)
        corpus = [
            "\n".join(text for _, text in samples.sample(0.9, rng.choice((256, 1024)))[1])
            for _ in range(9000)
        ]
        corpus += [text[:20_000] for text in mixture.source[::3]]
        bpe = Tokenizer(models.BPE())
        bpe.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(SPLIT), behavior="isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
        bpe.decoder = decoders.ByteLevel()
        bpe.train_from_iterator(
            corpus,
            trainers.BpeTrainer(
                vocab_size=VOCABULARY,
                min_frequency=20,
                special_tokens=SPECIAL_TOKENS,
                initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            ),
        )
        write_text_atomic(path, bpe.to_str(pretty=True))
    told = json.loads(path.read_text(encoding="utf-8"))
    for token in told["added_tokens"]:
        token["special"] = token["content"] in CONTROL
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(told)),
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=CONTROL[1:],
        model_max_length=WINDOW,
        chat_template=TEMPLATE.read_text(encoding="utf-8"),
        clean_up_tokenization_spaces=False,
    )


def build_model(
    tokenizer: PreTrainedTokenizerFast, attention: str = SHORT_ROWS
) -> Qwen3ForCausalLM:
    """The architecture: Qwen3 with grouped queries and tied embeddings, as up to 4B.

    Tied, since what can be read can then be written: copying needs no second table of words.
    """
    register()
    AttentionInterface.register(SHORT_ROWS, attend_short_rows)
    AttentionMaskInterface.register(SHORT_ROWS, no_mask)
    model = Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=VOCABULARY,
            hidden_size=256,
            intermediate_size=512,
            num_hidden_layers=8,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=64,
            rope_parameters={"rope_type": "default", "rope_theta": 100_000.0},
            max_position_embeddings=WINDOW,
            tie_word_embeddings=True,
            attn_implementation=attention,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=None,
        )
    )
    begin_with_recall(model)
    return model


def attend_short_rows(
    module: torch.nn.Module, *qkv: torch.Tensor, **how: Any
) -> tuple[torch.Tensor, None]:
    """``attend_rows``, short rows in float32: a CPU's bf16 kernel is twice as slow on 75 tokens."""
    *parts, mask = qkv
    if how.get("max_length_q", 0) > 512:
        return attend_rows(module, *qkv, **how)
    with torch.autocast(parts[0].device.type, enabled=False):
        return attend_rows(module, *(part.float() for part in parts), mask, **how)


@torch.no_grad()
def begin_with_recall(model: Qwen3ForCausalLM) -> None:
    """Set the first two layers up as an induction circuit; the next two copy what they look at.

    Copying and looking up stand on one circuit (Olsson et al. 2022, arXiv 2209.11895): a head that
    tells each token what stood before it, and one that finds where this token stood before and
    reads what followed. From random weights it takes more than a million tokens to form; weights
    can be set to it beforehand (as in mimetic initialization, Trockman and Kolter 2023, arXiv
    2305.09828), and 3 tokens in 4 of ``mixture.recall`` are right before the first step. The
    seed's random numbers fill the rest, and all of it is trained.
    """
    config = model.config
    size, half = config.head_dim, config.head_dim // 2
    for layer in model.model.layers:
        layer.self_attn.o_proj.weight.zero_()
        layer.mlp.down_proj.weight.zero_()
    # Dimension 0 is the same for every token: what a head does whatever it reads hangs on it.
    model.model.embed_tokens.weight[:, 0] = 0.06
    before, finds, reads = (
        torch.linalg.qr(torch.randn(config.hidden_size - 1, size))[0] for _ in range(3)
    )
    first, second = (layer.self_attn for layer in model.model.layers[:2])
    heads = range(config.num_attention_heads // config.num_key_value_heads)  # of the first key head
    for attention, gain in ((first, 1.3), (second, 2.0)):
        attention.q_norm.weight.fill_(gain)
        attention.k_norm.weight.fill_(gain)
        for projection in (attention.q_proj, attention.k_proj):
            projection.weight.mul_(0.15)

    # The first layer looks one token back: key and query turn against each other by one step, in
    # the four fastest pairs of the rotary positions.
    base = config.rope_parameters["rope_theta"]
    angles = base ** (-torch.arange(4) / half)
    first.k_proj.weight[:4, 0] = angles.cos()
    first.k_proj.weight[half : half + 4, 0] = angles.sin()
    first.v_proj.weight[:size, 1:] = finds.T
    first.o_proj.weight[1:, :size] = 0.04 * before
    # The second matches this token with what stood before others, in the 16 slowest pairs, which
    # hardly turn within the window, and copies what it finds there.
    slow = torch.cat([torch.arange(half // 2, half), torch.arange(half + half // 2, size)])
    second.k_proj.weight[slow, 1:] = before.T[: len(slow)]
    second.v_proj.weight[:size, 1:] = reads.T
    second.o_proj.weight[1:, :size] = 0.5 * reads
    # The third and fourth copy what they look at; where, is learned (``pointers.Pointers``).
    for layer, into in ((2, before), (3, reads)):
        attention = model.model.layers[layer].self_attn
        attention.v_proj.weight[:size, 1:] = reads.T
        attention.o_proj.weight[1:, :size] = (0.5 if layer == 3 else 0.1) * into
        attention.q_norm.weight.fill_(1.4)
        attention.k_norm.weight.fill_(1.4)
    for head in heads:
        first.q_proj.weight[head * size : head * size + 4, 0] = 1.0
        second.q_proj.weight[head * size + slow, 1:] = finds.T[: len(slow)]
