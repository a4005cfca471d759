"""Real HTTP through the endpoint, the loop and its sandbox to a real vLLM with base and adapter.

The weights may be random, so a scripted root writes the code where code must be right; its
sub-calls, and everything in the other tests, are the served models' own.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn

from rlm_executor import DIALECTS, LM, Limits, OpenAILM, RLMCard, Sampling, ScriptedLM
from rlm_executor.files import read_jsonl
from serve.config import GatewayConfig
from serve.engine import Engine, free_port
from serve.gateway import build_app

pytestmark = [pytest.mark.real_vllm, pytest.mark.slow]

GREEDY = Sampling(temperature=0, top_p=1, top_k=0, chat_template_kwargs={"enable_thinking": False})
CARD = RLMCard(
    dialect=DIALECTS["answer-compact"],
    sampling=GREEDY,
    sub_sampling=GREEDY,
    limits=Limits(max_turns=2, max_tokens_per_turn=64, sub_max_tokens=16, observation_chars=400),
    root_window=4096,
    sub_window=4096,
)
TWO_LEAVES = """Ask about both lines.
```repl
replies = llm_query_batched([f"Repeat: {line}" for line in context.splitlines()])
answer["content"] = replies
answer["ready"] = True
```"""
Gateway = Callable[..., contextlib.AbstractContextManager[httpx.Client]]


@pytest.fixture
def gateway(vllm_engine: Engine, vllm_lora: str, tmp_path: Path) -> Gateway:
    """An endpoint on a port of its own, with a scripted root or the served adapter."""

    @contextlib.contextmanager
    def run(root: str | None = None, card: RLMCard = CARD) -> Iterator[httpx.Client]:
        def make_lm(name: str) -> LM:
            if name == vllm_lora and root is not None:
                return ScriptedLM(lambda _: root, model=name)
            return OpenAILM(vllm_engine.base_url, name)

        port = free_port("127.0.0.1")
        app = build_app(
            GatewayConfig(root=vllm_lora),
            vllm_engine.base_url,
            card=card,
            sub="base",
            make_lm=make_lm,
            kept=tmp_path,
            say=lambda _: None,
        )
        server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="warning"))
        thread = threading.Thread(target=server.run)
        thread.start()
        try:
            while not server.started:
                assert thread.is_alive()
                time.sleep(0.02)
            with httpx.Client(
                base_url=f"http://127.0.0.1:{port}", timeout=300, trust_env=False
            ) as client:
                yield client
        finally:
            server.should_exit = True
            thread.join()

    return run


def chat(client: httpx.Client, model: str, *texts: str, **more: Any) -> httpx.Response:
    messages = [{"role": "user", "content": text} for text in texts]
    return client.post("/v1/chat/completions", json={"model": model, "messages": messages, **more})


def running(engine: Engine) -> float:
    text = httpx.get(f"{engine.base_url.removesuffix('/v1')}/metrics", timeout=60).text
    lines = [line for line in text.splitlines() if line.startswith("vllm:num_requests_running")]
    return sum(float(line.rpartition(" ")[2]) for line in lines)


async def test_base_and_adapter_keep_apart_in_one_batch(vllm_base_url: str, vllm_lora: str) -> None:
    """Of itself vLLM's CPU build gives the base's requests in a mixed batch the last adapter."""
    async with httpx.AsyncClient(base_url=vllm_base_url, timeout=300) as client:

        async def mean_logprob(model: str, number: int) -> float:
            request = {
                "model": model,
                "messages": [{"role": "user", "content": f"Repeat: otter {number}"}],
                "temperature": 0,
                "max_tokens": 24,
                "ignore_eos": True,
                "logprobs": True,
            }
            choice = (await client.post("chat/completions", json=request)).json()["choices"][0]
            logprobs: list[float] = [token["logprob"] for token in choice["logprobs"]["content"]]
            return sum(logprobs) / len(logprobs)

        numbers = range(100, 108)
        alone = [await mean_logprob("base", number) for number in numbers]
        adapted = [await mean_logprob(vllm_lora, number) for number in numbers]
        mixed = await asyncio.gather(
            *(mean_logprob(model, n) for n in numbers for model in ("base", vllm_lora))
        )
    assert max(abs(one - other) for one, other in zip(alone, adapted, strict=True)) > 0.1
    assert mixed[0::2] == pytest.approx(alone, abs=0.02)
    assert mixed[1::2] == pytest.approx(adapted, abs=0.02)


@pytest.mark.parametrize("served", ["base", "rlm"])
def test_served_weights_are_the_trained_ones(
    served: str, vllm_base_url: str, base_folder: Path, adapter_folder: Path
) -> None:
    """What vLLM computes is what transformers and PEFT compute, token by token."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    request = {
        "model": served,
        "messages": [{"role": "user", "content": "Repeat: otter 4839201, heron 77"}],
        "temperature": 0,
        "max_tokens": 32,
        "ignore_eos": True,
        "logprobs": True,
        "return_token_ids": True,
    }
    body = httpx.post(f"{vllm_base_url}/chat/completions", json=request, timeout=300).json()
    prompt, choice = body["prompt_token_ids"], body["choices"][0]
    model = AutoModelForCausalLM.from_pretrained(base_folder, dtype=torch.float32)
    if served == "rlm":
        model = PeftModel.from_pretrained(model, adapter_folder)
    ids = torch.tensor([prompt + choice["token_ids"]])
    with torch.no_grad():
        scores = model.eval()(ids).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
    expected = scores.gather(1, ids[0, len(prompt) :, None])[:, 0].tolist()
    said = [token["logprob"] for token in choice["logprobs"]["content"]]
    assert said == pytest.approx(expected, abs=0.001)


def test_prompts_are_rendered_without_thinking(gateway: Gateway, base_folder: Path) -> None:
    from transformers import AutoTokenizer

    messages = [{"role": "user", "content": "Which number?"}]
    expected = AutoTokenizer.from_pretrained(base_folder).apply_chat_template(
        messages, add_generation_prompt=True, enable_thinking=False, return_dict=False
    )
    with gateway() as client:
        body = chat(client, "base", "Which number?", max_tokens=1, return_token_ids=True).json()
    assert body["prompt_token_ids"] == expected


@pytest.mark.real_sandbox
def test_the_loop_asks_the_base_from_its_code(
    gateway: Gateway, vllm_base_url: str, tmp_path: Path
) -> None:
    lines = ["otter 4839201", "heron 77"]
    with gateway(TWO_LEAVES) as client:
        body = chat(client, "rlm", "\n".join(lines), "Repeat both lines.").json()
        direct = [
            chat(client, "base", f"Repeat: {line}", temperature=0, max_tokens=16).json()
            for line in lines
        ]
    said = "\n".join(reply["choices"][0]["message"]["content"] for reply in direct)
    assert body["choices"][0]["message"]["content"] == said
    assert (body["rlm"]["stop_reason"], body["rlm"]["calls"]) == ("answered", 2)
    sub = body["rlm"]["usage"]["sub"]
    assert sub["prompt_tokens"] == sum(reply["usage"]["prompt_tokens"] for reply in direct)
    assert sub["completion_tokens"] == sum(reply["usage"]["completion_tokens"] for reply in direct)
    assert body["usage"]["total_tokens"] == sum(
        body["rlm"]["usage"][who][kind]
        for who in ("root", "sub")
        for kind in ("prompt_tokens", "completion_tokens")
    )
    (row,) = read_jsonl(tmp_path / "requests.jsonl")
    assert row["id"] == body["id"] and "question" not in row


@pytest.mark.real_sandbox
def test_the_adapter_is_the_root(gateway: Gateway) -> None:
    with gateway() as client:
        answer = chat(client, "rlm", "otter 4839201", "Which number?")
    body = answer.json()
    assert answer.status_code == 200 and body["model"] == "rlm"
    # Random weights write no code: the run ends at its limit, after a landing turn.
    assert body["rlm"]["stop_reason"] in ("max_turns", "answered")
    assert body["rlm"]["usage"]["root"]["calls"] == body["rlm"]["turns"] >= 1
    assert body["usage"]["completion_tokens"] > 0


@pytest.mark.real_sandbox
def test_a_client_that_goes_away_stops_the_generation(
    gateway: Gateway, vllm_engine: Engine, tmp_path: Path
) -> None:
    endless = CARD.model_copy(
        update={
            "limits": Limits(max_turns=1000, max_tokens_per_turn=2000),
            "sampling": Sampling(temperature=1, top_k=0, top_p=1),
        }
    )
    with gateway(card=endless) as client:
        with pytest.raises(httpx.ReadTimeout):
            client.post(
                "/v1/chat/completions",
                json={"model": "rlm", "messages": [{"role": "user", "content": "question"}]},
                timeout=3,
            )
        deadline = time.monotonic() + 60
        while not read_jsonl(tmp_path / "requests.jsonl") or running(vllm_engine):
            assert time.monotonic() < deadline, "it still generates"
            time.sleep(0.2)
    (row,) = read_jsonl(tmp_path / "requests.jsonl")
    assert row["stop_reason"] == "cancelled or failed"


def test_other_models_stream_as_vllm_does(gateway: Gateway) -> None:
    request = {
        "model": "base",
        "messages": [{"role": "user", "content": "the"}],
        "stream": True,
        "max_tokens": 8,
        "ignore_eos": True,
    }
    with gateway() as client, client.stream("POST", "/v1/chat/completions", json=request) as reply:
        events = [line[6:] for line in reply.iter_lines() if line.startswith("data: ")]
    assert events[-1] == "[DONE]" and len(events) > 4
    assert json.loads(events[0])["object"] == "chat.completion.chunk"


def test_vllms_refusals_pass_through(gateway: Gateway) -> None:
    with gateway() as client:
        assert chat(client, "nobody", "x").status_code == 404
        too_long = chat(client, "base", "word " * 9000)
    assert too_long.status_code == 400
    assert "context length" in too_long.json()["error"]["message"]


def test_models_and_health(gateway: Gateway, vllm_lora: str) -> None:
    with gateway() as client:
        assert client.get("/health").json() == {"status": "ok", "loop": True}
        listed = client.get("/v1/models").json()["data"]
    assert [model["id"] for model in listed] == ["rlm", "base"]
    assert listed[1]["max_model_len"] == 4096
