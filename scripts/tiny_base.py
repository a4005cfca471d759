"""Pretrain the tiny base, the stand-in for Qwen3-8B: from random weights, on a CPU.

    python -m scripts.tiny_base --out assets/tiny-base --tokens 14000000

Writes a ``Qwen3ForCausalLM`` in bf16 with its tokenizer (own byte-level BPE, Qwen3's special
tokens, the stock Qwen3 chat template) and a card with mixture, tokens, seed, command and measured
skills. The samples come from ``scripts/tiny_base_skills.py``. Killed at any moment, the same
command goes on from the last checkpoint. Optimizer: Muon on the hidden matrices, AdamW on the
rest. The curriculum (``Mixture``) begins with copying a few words in rows of 256 tokens; once that
has formed come the other skills, pieces of random tokens to recall, rows of 1,024 tokens and some
of the whole window.
"""

from __future__ import annotations

import argparse
import importlib.resources
import json
import random
import sysconfig
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from rlm_executor.cli import run_cli
from rlm_executor.errors import InputError
from rlm_executor.files import sha256_text, write_text_atomic
from scripts import tiny_base_skills as skills
from scripts.tiny_base_measure import measure, products, show, write_card

VOCABULARY, WINDOW = 2048, 4096
# Qwen3's 26 added tokens, in the order of its ids.
SPECIAL_TOKENS = (
    "<|endoftext|> <|im_start|> <|im_end|> <|object_ref_start|> <|object_ref_end|> <|box_start|> "
    "<|box_end|> <|quad_start|> <|quad_end|> <|vision_start|> <|vision_end|> <|vision_pad|> "
    "<|image_pad|> <|video_pad|> <tool_call> </tool_call> <|fim_prefix|> <|fim_middle|> "
    "<|fim_suffix|> <|fim_pad|> <|repo_name|> <|file_sep|> <tool_response> </tool_response> "
    "<think> </think>"
).split()
# A word is the same tokens wherever it stands, since its blank is a token of its own: what is
# copied from prose into quotes or code need not be spelled anew. Digits stand alone.
SPLIT = r"\p{L}+|\p{N}|[^\p{L}\p{N}]+"
STEP_TOKENS = 8192
FIRST = 0.12  # share of the tokens in which copying has to form, on short samples


def main() -> None:
    """Pretrain, measure and write the folder."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("assets/tiny-base"))
    parser.add_argument("--tokens", type=int, default=14_000_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--python-source", type=Path, help="folder of .py files (default: stdlib)")
    parser.add_argument("--work", type=Path, default=Path("runs/tiny-base"), help="checkpoints")
    args = parser.parse_args()

    torch.manual_seed(args.seed)
    source = read_source(args.python_source or Path(sysconfig.get_paths()["stdlib"]))
    mixture = Mixture(source, args.seed)
    args.work.mkdir(parents=True, exist_ok=True)
    tokenizer = build_tokenizer(mixture, args.work / "tokenizer.json")
    model = build_model(tokenizer)
    mixture.vocabulary = range(len(SPECIAL_TOKENS), len(tokenizer))
    log: list[dict[str, float]] = []
    train(model, tokenizer, mixture, args.tokens, args.work / "checkpoint.pt", log)
    args.out.mkdir(parents=True, exist_ok=True)
    model.to(torch.bfloat16).save_pretrained(args.out)
    tokenizer.save_pretrained(args.out)
    # What is measured is what was written: weights rounded to bf16, products in float32.
    measured = measure(model.float(), tokenizer, mixture.skills, cases=200, exactly=True)
    print(show(measured))
    write_card(args.out, model, measured, log, args.tokens, args.seed, mixture.sha256)
    write_text_atomic(args.out / "skills.json", json.dumps(measured, indent=2) + "\n")


def read_source(folder: Path) -> list[str]:
    """Texts of the Python files of ``folder`` (top level and one below), tests left out."""
    files = sorted(
        path
        for pattern in ("*.py", "*/*.py")
        for path in folder.glob(pattern)
        if not {"test", "tests", "site-packages", "idlelib", "lib2to3", "encodings"}
        & set(path.parts)
    )
    texts = [path.read_text(encoding="utf-8", errors="ignore") for path in files]
    if not texts:
        raise InputError(f"no .py files in {folder.name}; give another --python-source")
    return texts


class Mixture:
    """Samples and row lengths at each point of the curriculum; the same seed gives the same."""

    def __init__(self, source: list[str], seed: int) -> None:
        self.rng = random.Random(seed)
        self.sha256 = sha256_text("".join(source))
        self.source = source
        self.skills = skills.Skills(source)
        self.vocabulary: Sequence[int] = ()

    def row_length(self, progress: float) -> int:
        """Tokens of the rows of one step."""
        if progress < FIRST:
            return 256
        if progress < 2 * FIRST:
            return 512
        return WINDOW if progress > 0.4 and self.rng.random() < 0.1 else 1024

    def encoded(
        self, tokenizer: PreTrainedTokenizerFast, progress: float, row: int
    ) -> tuple[list[int], list[bool]]:
        """One sample as ids, and which of them are learned."""
        if self.rng.random() < (0.0 if progress < FIRST else 0.07):
            length = self.rng.randint(24, row - 8) if row < WINDOW else 2000
            return skills.recall(self.rng, self.vocabulary, length)
        # Some prompts are learned too: the model should know text, not only answers.
        return skills.encode(tokenizer, self.sample(progress, row), self.rng.random() < 0.15)

    def sample(self, progress: float, row: int) -> skills.Sample:
        """One conversation or text that should fit a row of ``row`` tokens."""
        rng = self.rng
        if row >= 1024 and rng.random() < (0.03 if row == 1024 else 0.25):
            return skills.direct(rng, 640 if row == 1024 else 2048)
        shares = (
            (0.46, 0.18, 0.10, 0.18, 0.06, 0.0, 0.0, 0.02)
            if progress < FIRST
            else (0.07, 0.08, 0.12, 0.14, 0.46, 0.06, 0.03, 0.04)
        )
        kinds = (skills.copy, skills.fill, self.skills.substitute, skills.look_up, skills.label,
                 skills.extract, skills.compare, None)  # fmt: skip
        skill = rng.choices(kinds, shares)[0]
        if skill is None:
            return self.skills.text(rng, rng.randint(300, min(2 * row, 3000)))
        parts = skill(rng, progress)
        if skill is skills.label:  # its form is fixed: the labels, then the lines
            return [("user", f"{parts[0]}\n\n{parts[1]}"), ("assistant", parts[2])]
        return self.skills.spread(rng, parts, progress)


def build_tokenizer(mixture: Mixture, path: Path) -> PreTrainedTokenizerFast:
    """Train (or read from ``path``) the byte-level BPE; add Qwen3's specials and template."""
    if not path.exists():
        rng = random.Random(1)
        samples = Mixture(mixture.source, 1)
        corpus = [
            "\n".join(text for _, text in samples.sample(0.9, rng.choice((256, 1024))))
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
    template = (importlib.resources.files("trl") / "chat_templates" / "qwen3.jinja").read_text()
    return PreTrainedTokenizerFast(
        tokenizer_file=str(path),
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=SPECIAL_TOKENS[1:14],
        model_max_length=WINDOW,
        chat_template=template,
        clean_up_tokenization_spaces=False,
    )


def build_model(tokenizer: PreTrainedTokenizerFast) -> Qwen3ForCausalLM:
    """The architecture: Qwen3 with grouped queries and tied embeddings, as up to 4B.

    Tied, since what can be read can then be written: copying needs no second table of words.
    """
    return Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=VOCABULARY,
            hidden_size=256,
            intermediate_size=704,
            num_hidden_layers=5,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=64,
            rope_parameters={"rope_type": "default", "rope_theta": 100_000.0},
            max_position_embeddings=WINDOW,
            tie_word_embeddings=True,
            attn_implementation="sdpa",
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=None,
        )
    )


def rows(
    tokenizer: PreTrainedTokenizerFast, mixture: Mixture, total: int, done: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Batches of packed rows: ids and loss weights of shape (rows, row length).

    The answer of one sample weighs as the root of its length: were all tokens equal, a label of
    one token would be lost beside copies of a hundred.
    """
    while done < total:
        progress = done / total
        length = mixture.row_length(progress)
        batch: list[list[int]] = []
        masks: list[list[float]] = []
        ids: list[int] = []
        mask: list[float] = []
        while len(batch) < STEP_TOKENS // length:
            more, learned = mixture.encoded(tokenizer, progress, length)
            more, learned = [*more, tokenizer.pad_token_id], [*learned, False]
            if len(more) > length:
                continue
            if len(ids) + len(more) > length:
                gap = length - len(ids)
                batch.append(ids + [tokenizer.pad_token_id] * gap)
                masks.append(mask + [0.0] * gap)
                ids, mask = [], []
            weight = max(1, sum(learned)) ** -0.5
            ids, mask = ids + more, mask + [weight * on for on in learned]
        done += STEP_TOKENS
        yield torch.tensor(batch), torch.tensor(masks)


def train(
    model: Qwen3ForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    mixture: Mixture,
    total: int,
    checkpoint: Path,
    log: list[dict[str, float]],
) -> None:
    """Warm-up, full rate, linear decay over the second half; a checkpoint every five minutes."""
    hidden = [p for n, p in model.named_parameters() if p.ndim == 2 and "layers" in n]
    others = [p for n, p in model.named_parameters() if not (p.ndim == 2 and "layers" in n)]
    muon = Muon(hidden)
    adam = torch.optim.AdamW(others, lr=3e-3, betas=(0.9, 0.95), weight_decay=0.0)
    step = 0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=False)
        model.load_state_dict(state["model"])
        adam.load_state_dict(state["adam"])
        muon.momenta, step = state["muon"], state["step"]
        mixture.rng.setstate(state["rng"])
        log.extend(state["log"])

    def save() -> None:
        partial = checkpoint.with_suffix(".partial")
        torch.save(
            {"model": model.state_dict(), "adam": adam.state_dict(), "muon": muon.momenta,
             "step": step, "rng": mixture.rng.getstate(), "log": log},
            partial,
        )  # fmt: skip
        partial.replace(checkpoint)

    begun = saved = time.monotonic()
    first, losses = step, []
    for ids, weights in rows(tokenizer, mixture, total, step * STEP_TOKENS):
        progress = step * STEP_TOKENS / total
        scale = min(1.0, (step + 1) / 30) * min(1.0, (1 - progress) / 0.5 + 0.02)
        losses.append(optimize(model, muon, adam, ids, weights, scale))
        step += 1
        if step % 25 == 0:
            seconds = time.monotonic() - begun
            log.append({"tokens": step * STEP_TOKENS, "loss": sum(losses) / len(losses)})
            losses = []
            exact = ""
            if step % 100 == 0:
                exact = show(measure(model, tokenizer, mixture.skills, cases=24))
            print(
                f"step={step} done={progress:.1%} loss={log[-1]['loss']:.3f} "
                f"tok/s={(step - first) * STEP_TOKENS / seconds:.0f} seconds={seconds:.0f} {exact}",
                flush=True,
            )
        if time.monotonic() - saved > 300:
            saved = time.monotonic()
            save()
    save()


def optimize(
    model: Qwen3ForCausalLM,
    muon: Muon,
    adam: torch.optim.AdamW,
    ids: torch.Tensor,
    weights: torch.Tensor,
    scale: float,
) -> float:
    """One step on a batch of rows; its weighted mean loss over the learned tokens."""
    with products():
        output = model.model(input_ids=ids, use_cache=False).last_hidden_state
        # The head runs on learned positions only: three in four tokens are prompt.
        logits = model.lm_head(output[:, :-1][weights[:, 1:] > 0])
    targets, weight = ids[:, 1:][weights[:, 1:] > 0], weights[:, 1:][weights[:, 1:] > 0]
    losses = torch.nn.functional.cross_entropy(logits.float(), targets, reduction="none")
    loss = (losses * weight).sum() / weight.sum()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    adam.param_groups[0]["lr"] = 3e-3 * scale
    adam.step()
    muon.step(0.02 * scale)
    model.zero_grad(set_to_none=True)
    return loss.item()


class Muon:
    """Muon for CPUs: momentum 0.95, Nesterov, five Newton-Schulz steps in float32.

    ``torch.optim.Muon`` orthogonalizes in bfloat16, which a CPU without bf16 units only emulates.
    """

    def __init__(self, parameters: list[torch.nn.Parameter]) -> None:
        self.parameters = parameters
        self.momenta = [torch.zeros_like(p) for p in parameters]

    @torch.no_grad()
    def step(self, learning_rate: float) -> None:
        """One update of every matrix from its gradient."""
        for parameter, momentum in zip(self.parameters, self.momenta, strict=True):
            gradient = parameter.grad
            assert gradient is not None
            momentum.lerp_(gradient, 0.05)
            update = _orthogonal(gradient.lerp(momentum, 0.95))
            update *= max(1.0, parameter.shape[0] / parameter.shape[1]) ** 0.5
            parameter.mul_(1 - learning_rate * 0.01).add_(update, alpha=-learning_rate)


def _orthogonal(matrix: torch.Tensor) -> torch.Tensor:
    """The nearest orthogonal matrix, roughly: quintic Newton-Schulz (Jordan et al. 2024)."""
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if tall else matrix
    x = x / (x.norm() + 1e-7)
    for _ in range(5):
        gram = x @ x.T
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return x.T if tall else x


if __name__ == "__main__":
    run_cli(main)
