"""The tiny base before training: its tokenizer and its shape."""

from __future__ import annotations

import json
import random
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from scripts.tiny_base.mixture import WINDOW, Mixture

VOCABULARY = 2048
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
# copied from prose into quotes or code need not be spelled anew. Digits stand alone.
SPLIT = r"\p{L}+|\p{N}|[^\p{L}\p{N}]+"

ROPE_THETA = 5_000_000.0  # of Qwen3's models of 2025-07: half of the pairs hardly turn in 4,096
BACK, WIDTH = 4, 48  # tokens that the copying circuit compares, and directions for each
CONSTANT, BEHIND_SCALE = 0.06, 0.05
LAST = (1.0, 1.0, 0.8, 0.7)


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
        bpe.save(str(path))
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


def build_model(tokenizer: PreTrainedTokenizerFast) -> Qwen3ForCausalLM:
    """The architecture: Qwen3 with grouped queries and tied embeddings, as up to 4B.

    Tied, since what can be read can then be written: copying needs no second table of words.
    """
    model = Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=VOCABULARY,
            hidden_size=256,
            intermediate_size=512,
            num_hidden_layers=6,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=64,
            rope_parameters={"rope_type": "default", "rope_theta": ROPE_THETA},
            max_position_embeddings=WINDOW,
            tie_word_embeddings=True,
            attn_implementation="sdpa",
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=None,
        )
    )
    begin_with_recall(model)
    return model


@torch.no_grad()
def begin_with_recall(model: Qwen3ForCausalLM) -> None:
    """Set three layers up as a copying circuit over four tokens; the rest writes nothing yet.

    Copying and looking up stand on one circuit (Olsson et al. 2022, arXiv 2209.11895): heads that
    tell each token what stood before it, and heads that find where the last tokens stood before
    and read what followed. From random weights it takes more than a million tokens to form; weights
    can be set to it beforehand (as in mimetic initialization, Trockman and Kolter 2023, arXiv
    2305.09828). One token back, as it forms by itself, does not tell apart what is spelled in few
    tokens, digits above all; with four, 0.97 of the tokens of held-out numbers and made-up words
    are right before the first step. The seed's random numbers fill the rest; all of it is trained.

    The residual stream is split: what a token is (``itself``, 63 directions), and what stood one
    to four tokens before it (``behind``, 48 each). Dimension 0 is the same for every token: what a
    head does whatever it reads hangs on it.
    """
    config = model.config
    layers, size, half = model.model.layers, config.head_dim, config.head_dim // 2
    for layer in layers:
        layer.self_attn.o_proj.weight.zero_()
        layer.mlp.down_proj.weight.zero_()
    model.model.embed_tokens.weight[:, 0] = CONSTANT
    model.model.norm.weight.fill_(5.0)  # tied embeddings are short: else no token is ever likely
    directions = torch.linalg.qr(torch.randn(config.hidden_size - 1, config.hidden_size - 1))[0]
    itself, *behind = directions.split([directions.shape[0] - BACK * WIDTH] + [WIDTH] * BACK, dim=1)
    reads = torch.nn.functional.pad(itself, (0, size - itself.shape[1]))

    # The first layer looks one to four tokens back, a head each: key and query turn against each
    # other by as many steps. The fast pairs of the rotary positions hit one place, the slower ones
    # rule out those a whole turn away.
    first = layers[0].self_attn
    _sharpen(first, 3.0)
    weight = torch.tensor([1.4] * 4 + [0.8] * 8)
    pairs = len(weight)
    angles = config.rope_parameters["rope_theta"] ** (-torch.arange(pairs) / half)
    for start in range(0, config.num_key_value_heads * size, size):
        first.k_proj.weight[start : start + pairs, 0] = weight
        first.v_proj.weight[start : start + WIDTH, 1:] = itself[:, :WIDTH].T
    for head in range(BACK):
        start, turned = head * size, (head + 1) * angles
        first.q_proj.weight[start : start + pairs, 0] = weight * turned.cos()
        first.q_proj.weight[start + half : start + half + pairs, 0] = -weight * turned.sin()
        first.o_proj.weight[1:, start : start + WIDTH] = BEHIND_SCALE * behind[head]

    # The second and the last match the last four tokens with what stood before others, in the
    # slow half of the pairs, which hardly turns within the window, and copy what they find: the
    # second as a hint to the layers between, the last as the answer.
    slow = torch.cat([torch.arange(half // 2, half), torch.arange(half + half // 2, size)])
    into = [torch.linalg.qr(torch.randn(WIDTH, len(slow)))[0].T for _ in range(BACK)]
    spelled = [itself[:, :WIDTH] * BEHIND_SCALE / config.initializer_range, *behind[:-1]]
    near, far = (1.0, 0.6, 0.3, 0.2), (1.0, 1.0, 0.9, 0.8)  # weights of the four tokens
    for index, scale, heads in ((1, 0.01, (near, far)), (-1, 0.7, (LAST, LAST))):
        attention = layers[index].self_attn
        _sharpen(attention, 3.0)
        attention.k_proj.weight[slow, 1:] = sum(
            turn @ basis.T for turn, basis in zip(into, behind, strict=True)
        )
        attention.v_proj.weight[:size, 1:] = reads.T
        for head, weights in enumerate(heads):
            attention.q_proj.weight[head * size + slow, 1:] = sum(
                w * turn @ basis.T for w, turn, basis in zip(weights, into, spelled, strict=True)
            )
            attention.o_proj.weight[1:, head * size : (head + 1) * size] = scale * reads

    # A head of each layer between writes a little of what it looks at; where, is learned.
    mixed = itself @ torch.linalg.qr(torch.randn(itself.shape[1], itself.shape[1]))[0]
    for layer in layers[2:-1]:
        layer.self_attn.v_proj.weight[:size, 1:] = reads.T
        layer.self_attn.o_proj.weight[1:, : mixed.shape[1]] = 0.01 * mixed
        layer.self_attn.q_norm.weight.fill_(1.4)
        layer.self_attn.k_norm.weight.fill_(1.4)


def _sharpen(attention: torch.nn.Module, gain: float) -> None:
    """Attention that looks at one place; the random part of what it asks becomes small."""
    for norm, projection in (
        (attention.q_norm, attention.q_proj),
        (attention.k_norm, attention.k_proj),
    ):
        norm.weight.fill_(gain)
        projection.weight.mul_(0.15)
