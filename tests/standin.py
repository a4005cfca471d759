"""A tiny Qwen3 with random weights, and random LoRA adapters for it: what vLLM serves in tests.

    build_base(folder)                       # a model folder of about 4M parameters
    build_adapter(base, folder, seed=1)      # a PEFT adapter for it

The real tiny base (``assets/tiny-base``) is used where it exists; this one only has its shape, its
kind of tokenizer and the stock Qwen3 chat template, so its text is noise.
"""

from __future__ import annotations

import importlib.util
import json
import sysconfig
from collections.abc import Iterator
from pathlib import Path

SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<think>",
    "</think>",
    "<tool_call>",
    "</tool_call>",
    "<tool_response>",
    "</tool_response>",
)
VOCAB_SIZE = 2048
WINDOW = 4096
# Kept small so that training the vocabulary takes a second; any English and Python will do.
CORPUS_MODULES = ("argparse.py", "json/decoder.py", "textwrap.py", "this.py", "random.py")


def _corpus() -> Iterator[str]:
    library = Path(sysconfig.get_path("stdlib"))
    for name in CORPUS_MODULES:
        yield (library / name).read_text(encoding="utf-8")


def _chat_template() -> str:
    spec = importlib.util.find_spec("trl")  # without importing it: that takes seconds
    assert spec is not None and spec.origin is not None
    return (Path(spec.origin).parent / "chat_templates" / "qwen3.jinja").read_text(encoding="utf-8")


def build_tokenizer(folder: Path) -> None:
    """Write a byte-level BPE tokenizer with Qwen3's special tokens and chat template."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE - len(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_corpus(), trainer)
    # Qwen3 marks the control tokens special; <think> and the tool tags are ordinary added tokens.
    tokenizer.add_special_tokens(list(SPECIAL_TOKENS[:3]))
    tokenizer.add_tokens(list(SPECIAL_TOKENS[3:]))
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        model_max_length=WINDOW,
    )
    fast.chat_template = _chat_template()
    fast.save_pretrained(folder)


def build_base(folder: Path, seed: int = 0) -> Path:
    """Write a random Qwen3 of about 4M parameters with its tokenizer into ``folder``."""
    import torch
    from transformers import AutoTokenizer, Qwen3Config, Qwen3ForCausalLM

    folder.mkdir(parents=True, exist_ok=True)
    build_tokenizer(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    torch.manual_seed(seed)
    config = Qwen3Config(
        vocab_size=VOCAB_SIZE,
        hidden_size=256,
        intermediate_size=768,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=128,
        max_position_embeddings=WINDOW,
        tie_word_embeddings=True,
        eos_token_id=tokenizer.convert_tokens_to_ids("<|im_end|>"),
        pad_token_id=tokenizer.convert_tokens_to_ids("<|endoftext|>"),
        bos_token_id=None,
    )
    Qwen3ForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    return folder


def build_adapter(base: Path, folder: Path, *, seed: int = 1, rank: int = 8) -> Path:
    """Write a LoRA adapter with random weights, so that its replies differ from the base's."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    model = get_peft_model(
        AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16),
        LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear", task_type="CAUSAL_LM"),
    )
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.5)
    model.save_pretrained(folder)
    settings = folder / "adapter_config.json"
    config = json.loads(settings.read_text(encoding="utf-8"))
    config["base_model_name_or_path"] = "tiny-base"  # no path of a machine in an artefact
    settings.write_text(json.dumps(config, indent=2), encoding="utf-8")
    return folder
