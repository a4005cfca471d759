"""Which checkpoint is gone on from: the newest that is whole and of the same run."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path

import pytest

from rlm_executor.errors import InputError
from train import checkpoints


def make(folder: Path, step: int, fingerprint: str = "ours") -> Path:
    path = folder / f"checkpoint-{step}"
    path.mkdir(parents=True)
    (path / "adapter_model.safetensors").write_bytes(bytes(100 + step))
    (path / "optimizer.pt").write_bytes(bytes(200))
    checkpoints.mark_complete(path, fingerprint, seconds=step * 2.0)
    return path


def test_newest_whole_one(tmp_path: Path):
    assert checkpoints.latest(tmp_path / "nothing", "ours") is None
    make(tmp_path, 9)
    newest = make(tmp_path, 10)
    assert checkpoints.latest(tmp_path, "ours") == (newest, 20.0)
    assert checkpoints.step_of(newest) == 10


def test_a_shard_in_a_folder_of_its_own_counts(tmp_path: Path):
    make(tmp_path, 9)
    newest = make(tmp_path, 10)
    shard = newest / "optimizer_0" / "part"
    shard.parent.mkdir()
    shard.write_bytes(bytes(50))
    checkpoints.mark_complete(newest, "ours", seconds=20.0)
    assert checkpoints.latest(tmp_path, "ours") == (newest, 20.0)
    shard.write_bytes(bytes(49))
    assert checkpoints.latest(tmp_path, "ours") == (newest.with_name("checkpoint-9"), 18.0)


@pytest.mark.parametrize("damage", ["no marker", "torn marker", "short file", "file missing"])
def test_a_torn_one_is_passed_over(tmp_path: Path, damage: str):
    whole, torn = make(tmp_path, 9), make(tmp_path, 10)
    if damage == "no marker":
        (torn / checkpoints.MARKER).unlink()
    elif damage == "torn marker":
        (torn / checkpoints.MARKER).write_text('{"finger')
    elif damage == "short file":
        (torn / "optimizer.pt").write_bytes(bytes(150))
    else:
        (torn / "optimizer.pt").unlink()
    assert checkpoints.latest(tmp_path, "ours") == (whole, 18.0)


def test_one_of_another_config_dataset_or_base_does_not_count(tmp_path: Path):
    make(tmp_path, 10, "theirs")
    assert checkpoints.latest(tmp_path, "ours") is None


def test_all_others_are_deleted(tmp_path: Path):
    kept = make(tmp_path, 9)
    make(tmp_path, 10)
    (tmp_path / "README.md").write_text("of the trainer")
    checkpoints.keep_only(tmp_path, kept)
    assert list(tmp_path.iterdir()) == [kept]
    checkpoints.keep_only(tmp_path, None)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_named_whoever_meets_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def failing(text: str) -> None:
        with checkpoints.naming_full_disk(tmp_path):
            raise RuntimeError(text)

    with pytest.raises(OSError) as caught:
        failing("I/O error: No space left on device (os error 28)")  # safetensors
    assert caught.value.errno == errno.ENOSPC
    torch_says = "[enforce fail at inline_container.cc:672] . unexpected pos 40768 vs 40656"
    with pytest.raises(RuntimeError):
        failing(torch_says)  # there is room: something else is wrong
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(9, 9, 0))
    with pytest.raises(OSError) as caught:
        failing(torch_says)
    assert caught.value.errno == errno.ENOSPC


def test_steps_of_another_size_are_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint-3"
    path.mkdir()
    checkpoints.mark_complete(path, "ours-8", seconds=1.0)
    with pytest.raises(InputError, match="start as many processes as before, or delete"):
        checkpoints.latest(tmp_path, "ours-3")
    assert checkpoints.latest(tmp_path, "ours-8") == (path, 1.0)
    assert checkpoints.latest(tmp_path, "others-3") is None
