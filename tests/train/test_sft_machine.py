"""What makes the CPU quick is exact: attention row by row, projection of labelled positions.

And what this training can't do is refused at the start.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    GptOssConfig,
    LlamaConfig,
    MistralConfig,
    PreTrainedConfig,
    Qwen2Config,
    Qwen3Config,
    Qwen3NextConfig,
)

from rlm_executor.errors import EnvironmentFault, InputError
from train import attention, machine
from train.inputs import license_line
from train.model import check_attention, check_method

LENGTHS = (7, 1, 12)


@pytest.fixture
def ready() -> machine.Machine:
    found = machine.Machine("cpu", 1, 1, torch.float32, False, machine.ROW_BY_ROW)
    found.prepare()
    return found


def end_to_end(vocabulary: int) -> tuple[list[torch.Tensor], dict[str, torch.Tensor]]:
    """Rows, and the same rows laid end to end as TRL's collator lays them."""
    torch.manual_seed(1)
    rows = [torch.randint(0, vocabulary, (length,)) for length in LENGTHS]
    return rows, {
        "input_ids": torch.cat(rows)[None],
        "position_ids": torch.cat([torch.arange(length) for length in LENGTHS])[None],
        "cu_seq_lens_q": torch.tensor([0, *LENGTHS]).cumsum(0).to(torch.int32),
    }


def test_rows_side_by_side_do_not_see_each_other(ready, tiny_base: Path):
    model = AutoModelForCausalLM.from_pretrained(
        tiny_base, dtype=torch.float32, attn_implementation=machine.ROW_BY_ROW
    )
    alone = AutoModelForCausalLM.from_pretrained(
        tiny_base, dtype=torch.float32, attn_implementation="eager"
    )
    rows, batch = end_to_end(model.config.vocab_size)
    with torch.no_grad():
        together = model(**batch, use_cache=False).logits[0].split(LENGTHS)
        for row, logits in zip(rows, together, strict=True):
            assert torch.allclose(logits, alone(row[None]).logits[0], atol=1e-5)


def test_scoring_labelled_positions_only_changes_neither_loss_nor_gradient(
    ready, tiny_base: Path, monkeypatch: pytest.MonkeyPatch
):
    import trl.trainer.utils as trl_utils

    def loss_and_gradient() -> tuple[torch.Tensor, torch.Tensor, torch.Size]:
        model = AutoModelForCausalLM.from_pretrained(
            tiny_base, dtype=torch.float32, attn_implementation=machine.ROW_BY_ROW
        )
        scored: list[torch.Size] = []
        head = trl_utils._ChunkedLogProbFunction

        class Watched:
            @staticmethod
            def apply(hidden, *rest):
                scored.append(hidden.shape)
                return head.apply(hidden, *rest)

        monkeypatch.setattr(trl_utils, "_ChunkedLogProbFunction", Watched)
        trl_utils.add_fused_lm_head(model)
        rows, batch = end_to_end(model.config.vocab_size)
        labels = torch.cat([torch.cat([torch.full((4,), -100), row[4:]]) for row in rows])
        labels = labels[: sum(LENGTHS)][None]
        loss = model(**batch, labels=labels, fused_lm_head=True).loss
        loss.backward()
        monkeypatch.setattr(trl_utils, "_ChunkedLogProbFunction", head)
        return loss.detach(), model.model.layers[0].mlp.up_proj.weight.grad, scored[0]

    loss, gradient, shape = loss_and_gradient()
    monkeypatch.setattr(trl_utils, "_use_triton", lambda device: False)
    stock_loss, stock_gradient, stock_shape = loss_and_gradient()
    assert shape[0] < stock_shape[0] == sum(LENGTHS) - 1
    assert torch.allclose(loss, stock_loss, atol=1e-6)
    assert torch.allclose(gradient, stock_gradient, atol=1e-7)


def test_threads_of_a_plain_launch(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(machine.os, "sched_getaffinity", lambda pid: set(range(8)))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # accelerate's doing
    assert machine.cpu_threads(1) == 8
    assert machine.cpu_threads(4) == 2
    assert machine.cpu_threads(16) == 1
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert machine.cpu_threads(1) == 3


def test_bf16_only_where_the_cpu_multiplies_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    assert not machine.find_machine("tree").bf16
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    found = machine.find_machine("tree")
    assert found.bf16 and found.device == "cpu" and found.dtype == torch.float32
    assert "products=bf16" in str(found)


def as_the_kernel(
    query, key, value, ends_q, ends_k, max_q, max_k, *, scale, window_size, enable_gqa
):
    """What torch documents of ``varlen_attn``, computed plainly: the kernel itself needs a GPU."""
    assert window_size == (-1, 0) and enable_gqa
    assert max_q == int(ends_q.diff().max()) and max_k == int(ends_k.diff().max())
    key, value = (part.repeat_interleave(2, 1) for part in (key, value))
    seen = []
    for row in range(len(ends_q) - 1):
        q = query[ends_q[row] : ends_q[row + 1]].transpose(0, 1)
        k, v = (part[ends_k[row] : ends_k[row + 1]].transpose(0, 1) for part in (key, value))
        mask = torch.ones(q.shape[1], k.shape[1], dtype=torch.bool).tril(k.shape[1] - q.shape[1])
        seen.append(
            torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale)
        )
    return torch.cat(seen, 1).transpose(0, 1)


def as_in_torch_2_11(query, key, value, ends_q, ends_k, max_q, max_k, *, scale, window_size):
    """The kernel before it knew groups of queries."""
    key, value = key[:, ::2], value[:, ::2]
    parts = (query, key, value, ends_q, ends_k, max_q, max_k)
    return as_the_kernel(*parts, scale=scale, window_size=window_size, enable_gqa=True)


def test_the_kernel_for_all_rows_is_asked_for_the_same(ready, monkeypatch: pytest.MonkeyPatch):
    import torch.nn.attention.varlen as varlen

    assert not attention.varlen_works("cpu")  # as it is: it says so, and is not taken
    monkeypatch.setattr(varlen, "varlen_attn", as_the_kernel)
    assert attention.varlen_works("cpu")
    monkeypatch.setattr(varlen, "varlen_attn", as_in_torch_2_11)
    assert attention.varlen_works("cpu")
    whole = [torch.randn(1, heads, 8, 64) for heads in (4, 2, 2)]
    assert attention.attend_varlen(torch.nn.Identity(), *whole, None)[0].dtype == torch.float32
    monkeypatch.setattr(
        varlen, "varlen_attn", lambda *parts, **rest: 1.1 * as_the_kernel(*parts, **rest)
    )
    assert not attention.varlen_works("cpu")


def test_rows_end_to_end_and_alone_through_the_kernel(ready, monkeypatch: pytest.MonkeyPatch):
    import torch.nn.attention.varlen as varlen

    monkeypatch.setattr(varlen, "varlen_attn", as_the_kernel)
    parts = [torch.randn(1, heads, sum(LENGTHS), 16).bfloat16() for heads in (4, 2, 2)]
    ends = torch.tensor([0, *LENGTHS]).cumsum(0).to(torch.int32)
    for batch in ({"cu_seq_lens_q": ends}, {}):
        one, other = (
            attend(torch.nn.Module(), *parts, None, **batch)[0]
            for attend in (attention.attend_rows, attention.attend_varlen)
        )
        assert one.shape == other.shape and torch.allclose(one, other, atol=0.02)


def shape(kind: type[PreTrainedConfig], **fields: Any) -> PreTrainedConfig:
    sizes = {"num_hidden_layers": 2, "hidden_size": 64, "num_attention_heads": 4}
    return kind(**sizes, **fields)


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        (Qwen3Config, {}),
        (LlamaConfig, {}),
        (Qwen2Config, {"use_sliding_window": False, "sliding_window": 64}),
        (MistralConfig, {"sliding_window": None}),
        (MistralConfig, {"sliding_window": 512}),  # no row is longer
    ],
)
def test_bases_of_full_attention_are_taken(kind, fields):
    check_attention(shape(kind, **fields), 512, "a base")


@pytest.mark.parametrize(
    ("kind", "fields", "told"),
    [
        (MistralConfig, {"sliding_window": 511}, "sliding_attention .window 511"),
        (
            Qwen2Config,
            {"use_sliding_window": True, "sliding_window": 64, "max_window_layers": 1},
            "sliding_attention",
        ),
        (Gemma2Config, {}, "soft-capped scores"),
        (Gemma3TextConfig, {"sliding_window": 64}, "sliding_attention"),
        (Qwen3NextConfig, {}, "linear_attention"),
        (GptOssConfig, {}, "attention sinks"),
    ],
)
def test_bases_of_other_attention_are_refused(kind, fields, told):
    with pytest.raises(InputError, match=f"^base a base has .*{told}"):
        check_attention(shape(kind, **fields), 512, "a base")


def test_an_adapter_is_not_trained_sharded(ready, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    check_method("full", ready)
    with pytest.raises(EnvironmentFault, match="lora is not trained sharded"):
        check_method("lora", ready)


def test_one_process_with_several_gpus_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    gpu = machine.Machine("cuda", 1, 1, torch.bfloat16, True, attention.VARLEN)
    with pytest.raises(EnvironmentFault, match="sees 2 GPUs; launch with"):
        check_method("lora", gpu)
    check_method("lora", replace(gpu, processes=2))


@pytest.mark.parametrize(
    ("name", "card", "line"),
    [
        ("tiny", "---\nlicense: mit\n---\n# x", "license: mit\n"),
        ("tiny", "---\ntags: [a]\nlicense: llama3.1\n---\n", "license: llama3.1\n"),
        ("tiny", "# x\nlicense: mit\n", ""),
        ("tiny", "---\ntags: [a]\n---\nlicense: mit\n", ""),
        ("meta/Llama", None, ""),
        ("Qwen/Qwen3-8B", None, "license: apache-2.0\n"),
    ],
)
def test_the_licence_is_the_bases(tmp_path, name, card, line):
    if card is not None:
        (tmp_path / "README.md").write_text(card)
    assert license_line(name, tmp_path) == line
