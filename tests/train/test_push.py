"""Pushing with the real client of the Hub to a stand-in on loopback, in processes of their own."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from rlm_executor import RLMCard
from rlm_executor.errors import ConfigError, InputError
from tests.train.hub import TOKEN, Hub, Repository, sha256
from train import push

ROOT = Path(__file__).resolve().parents[2]
ADAPTER, SHARD = b"adapter" * 3000, b"shard" * 90_000
CARD = "---\nlicense: apache-2.0\n---\n# What it is\n"
MODEL = {"adapter_model.safetensors", "adapter_config.json", "rlm.json", "README.md"}
MERGED = {"model-1.safetensors", "model-2.safetensors", "config.json", "rlm.json", "README.md"}
DATASET = {"dataset/turns.parquet", "dataset/trajectories.parquet", "README.md", "funnel.json"}
DATASET |= {"rlm.json"}


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub() as hub:
        yield hub


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run with a trained folder, a merged one and a dataset; their bytes mean nothing here."""
    run = tmp_path / "run"
    write(run / "sft", "adapter_model.safetensors", ADAPTER)
    write(run / "sft", "adapter_config.json", b'{"base_model_name_or_path": "tiny-base"}')
    write(run / "merged", "model-1.safetensors", b"first" * 20_000)
    write(run / "merged", "model-2.safetensors", SHARD)
    write(run / "merged", "config.json", b'{"dtype": "bfloat16"}')
    write(run / "data", "dataset/turns.parquet", b"turns" * 1000)
    write(run / "data", "dataset/trajectories.parquet", b"runs" * 1000)
    write(run / "data", "funnel.json", b'{"attempts": 3}')
    write(run / "data", "journals/a.jsonl", b'{"secret": "what the teacher said"}')
    write(run / "data", "attempts.jsonl", b"{}")
    write(run / "sft", ".cache/x", b"hidden")
    for name in ("sft", "merged", "data"):
        RLMCard().save(run / name)
        write(run / name, "README.md", CARD.encode())
    return run


def write(folder: Path, name: str, data: bytes) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def call(hub_url: str, run: Path, *more: str, **changes: str) -> tuple[int, str]:
    """Exit code and all that was printed; the token is never in it."""
    # LFS, whose files the stand-in can look into; of Xet it only counts what comes.
    own = {"HF_ENDPOINT": hub_url, "HF_TOKEN": TOKEN, "HF_HUB_DISABLE_XET": "1"}
    own |= {"HF_HOME": str(run.parent / "home"), "HF_HUB_OFFLINE": "0", "NO_PROXY": "127.0.0.1"}
    command = [sys.executable, "-m", "train.push", "--run", str(run), *more]
    ended = subprocess.run(
        command, cwd=ROOT, env={**os.environ, **own, **changes}, capture_output=True, text=True
    )
    said = ended.stdout + ended.stderr
    assert TOKEN not in said and "Traceback" not in said, said.replace(TOKEN, "(the token)")
    return ended.returncode, said


def error_line(said: str) -> str:
    lines = [line for line in said.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, said
    return lines[0]


@pytest.mark.parametrize(
    "what, kind, names",
    [("model", "model", MODEL), ("merged", "model", MERGED)] + [("dataset", "dataset", DATASET)],
)
def test_the_right_files_go_to_a_private_repository_of_the_right_kind(hub, run, what, kind, names):
    code, said = call(hub.url, run, "--repo", "me/mine", "--what", what, "--send")
    assert code == 0 and f"sent: {hub.url}/me/mine/commit/" in said, said
    assert [*hub.repos] == [(kind, "me/mine")]
    repo = hub.repos[kind, "me/mine"]
    assert repo.private and set(repo.files) == names
    folder = run / push.OUTPUT[what]
    assert all(data == (folder / name).read_bytes() for name, data in repo.files.items())
    assert repo.files["README.md"].decode() == CARD


def test_public_only_when_asked_and_never_by_surprise(hub, run):
    assert call(hub.url, run, "--repo", "me/open", "--send", "--public")[0] == 0
    assert not hub.repos["model", "me/open"].private
    code, said = call(hub.url, run, "--repo", "me/open", "--send")
    assert code == 2 and "me/open exists and is public; give --public" in error_line(said)
    hub.repos["model", "me/closed"] = Repository(private=True)
    code, said = call(hub.url, run, "--repo", "me/closed", "--send", "--public")
    assert code == 2 and "me/closed exists and is private" in error_line(said)
    assert hub.repos["model", "me/closed"].files == {}


def test_a_dry_run_lists_and_asks_nothing(hub, run):
    hub.refuse = 500
    code, said = call(hub.url, run, "--repo", "me/rows", "--what", "dataset")
    assert code == 0 and "5 files" in said and "nothing was sent" in said and hub.repos == {}
    assert "(dataset, private)" in said and "journals" not in said and "attempts" not in said
    size = len(b"turns" * 1000)
    assert f"{size:>14,} bytes  dataset/turns.parquet" in said


def test_unchanged_files_are_not_sent_again(hub, run):
    call(hub.url, run, "--repo", "me/mine", "--send")
    write(run / "sft", "adapter_config.json", b'{"base_model_name_or_path": "other"}')
    code, said = call(hub.url, run, "--repo", "me/mine", "--send")
    assert code == 0 and hub.repos["model", "me/mine"].commits[1:] == [["adapter_config.json"]]
    assert hub.received == [(sha256(ADAPTER), len(ADAPTER))]


def test_by_xet_as_users_send_and_nothing_twice(hub, run):
    code, said = call(hub.url, run, "--repo", "me/mine", "--send", HF_HUB_DISABLE_XET="0")
    repo = hub.repos["model", "me/mine"]
    assert code == 0 and repo.private and hub.received == [], said
    assert repo.xet == {"adapter_model.safetensors": sha256(ADAPTER)}
    assert set(repo.files) | set(repo.xet) == MODEL and len(hub.blocks) == 1
    code, said = call(hub.url, run, "--repo", "me/mine", "--send", HF_HUB_DISABLE_XET="0")
    assert code == 0 and len(hub.blocks) == 1 and len(repo.commits) == 1, said


@pytest.mark.by_hand  # the client tries six times, with pauses, before it gives up
def test_after_a_cut_connection_only_what_is_missing_goes(hub, run):
    hub.cut = len(SHARD)
    code, said = call(hub.url, run, "--repo", "me/big", "--what", "merged", "--send")
    assert code == 2 and "run the same command again" in error_line(said)
    assert "connection" in said and hub.cuts == 6
    assert hub.repos["model", "me/big"].files == {}  # nothing half
    first = sha256(b"first" * 20_000)
    assert [oid for oid, _ in hub.received] == [first]
    hub.cut = None
    code, said = call(hub.url, run, "--repo", "me/big", "--what", "merged", "--send")
    assert code == 0, said
    assert [oid for oid, _ in hub.received] == [first, sha256(SHARD)]
    assert set(hub.repos["model", "me/big"].files) == MERGED


@pytest.mark.parametrize(
    "status, told",
    [(401, "does not know this token (401)"), (403, "may not write to me/mine (403)")],
)
def test_a_refusal_is_one_line(hub, run, status, told):
    hub.refuse = status
    code, said = call(hub.url, run, "--repo", "me/mine", "--send")
    assert code == 2 and told in error_line(said)


def test_what_a_server_repeats_of_the_token_is_taken_out(hub, run):
    hub.refuse = 418
    code, said = call(hub.url, run, "--repo", "me/mine", "--send")
    assert code == 2 and "refused: " in error_line(said) and "..." in error_line(said)


def test_a_wrong_token_no_token_no_network_and_offline(hub, run):
    send = ("--repo", "me/mine", "--send")
    code, said = call(hub.url, run, *send, HF_TOKEN="hf_wrong")
    assert code == 2 and "(401)" in error_line(said)
    code, said = call(hub.url, run, *send, HF_TOKEN="")
    assert code == 2 and "no Hub token; set HF_TOKEN" in error_line(said)
    code, said = call("http://127.0.0.1:9", run, *send)
    assert code == 2 and "connection to the Hub failed" in error_line(said)
    code, said = call(hub.url, run, *send, HF_HUB_OFFLINE="1")
    assert code == 2 and "HF_HUB_OFFLINE is set" in error_line(said)
    assert hub.repos == {}


@pytest.mark.parametrize(
    "text, what",
    [
        ('"base": "' + "/" + 'srv/models/tiny"', "an absolute path"),
        ("made in " + "/" + "data/x.json", "an absolute path"),
        ("C:\\\\Users\\\\me", "an absolute path"),
        ("http://gpu-box:8000/v1", "a host's name or address"),
        ("https://me:pw@example.org", "a host's name or address"),
        ("teacher at 10.0.0.7", "a host's name or address"),
        ("token hf_" + "a1" * 12, "a secret"),
        ('"api_key": "0123456789abcdef"', "a secret"),
        ("it is what the environment holds: correct-horse-battery", "a secret"),
    ],
)
def test_what_tells_of_the_machine_is_named_with_its_line(run, text, what, monkeypatch):
    monkeypatch.setenv("SOME_API_KEY", "correct-horse-battery")
    write(run / "sft", "README.md", f"{CARD}{text}\n".encode())
    with pytest.raises(InputError) as refused:
        push.main(["--run", str(run)])
    assert f"README.md:5: {what};" in str(refused.value)
    assert text not in str(refused.value)  # a secret is not repeated


def test_the_name_of_this_host_is_found(run, monkeypatch):
    monkeypatch.setattr(platform, "node", lambda: "trainbox7.lab")
    write(run / "sft", "adapter_config.json", b'{\n"on": "trainbox7"}')
    with pytest.raises(InputError, match="adapter_config.json:2: a host's name"):
        push.main(["--run", str(run)])


def test_a_found_text_is_not_sent(hub, run):
    write(run / "data", "funnel.json", b'{"teacher": "http://gpu-box:8000/v1"}')
    code, said = call(hub.url, run, "--repo", "me/rows", "--what", "dataset", "--send")
    assert code == 2 and "funnel.json:1:" in error_line(said) and hub.repos == {}


def test_ordinary_texts_pass(run):
    text = (
        "and/or, 3/4, </think>, /no_think, s/a/b/, https://arxiv.org/abs/2512.24601, 1.2.3\n"
        "http://127.0.0.1:8000/v1 and http://localhost:8000/v1, max_tokens: 4096, `/v1/models`\n"
        f"sha256 {'0a' * 32}, token ids that a server renders, {{{{ '</tool_call>' }}}}\n"
    )
    for path in (run / "sft" / "README.md", run / "sft" / "adapter_config.json"):
        path.write_text(text)
    template = ROOT / "assets" / "tiny-base" / "chat_template.jinja"
    write(run / "sft", "chat_template.jinja", template.read_bytes())
    write(run / "sft", "tokenizer.json", b'{"vocab": {"/usr/lo' + b'cal": 7}}')
    push.main(["--run", str(run)])


def test_wrong_arguments_and_unfinished_stages(run):
    for repo in ("mine", "a/b/c", "me/", "me/a b"):
        with pytest.raises(ConfigError, match="is no name on the Hub; give owner/name"):
            push.main(["--run", str(run), "--repo", repo])
    with pytest.raises(InputError, match="no repository given"):
        push.main(["--run", str(run), "--send"])
    (run / "merged" / "README.md").unlink()
    with pytest.raises(InputError, match="no README.md, its card; run `make merge`"):
        push.main(["--run", str(run), "--what", "merged"])
    write(run / "data", "rlm.json", json.dumps({"limits": 3}).encode())
    with pytest.raises(InputError, match="is not an RLM card"):
        push.main(["--run", str(run), "--what", "dataset"])
    with pytest.raises(InputError, match="no adapter_model.safetensors in .*`make train`"):
        push.main(["--run", str(run), "--output", "nothing"])
