"""How the tiny base is pretrained: its batches and its steps; and that the same seed gives the same
weights, killed in between or not."""

from __future__ import annotations

import copy
import random
import re
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from rlm_executor.errors import InputError
from scripts.tiny_base import model as model_module
from scripts.tiny_base import pretrain
from scripts.tiny_base.batches import Batch, Plan, make_batch
from scripts.tiny_base.mixture import WINDOW, Mixture, Pace, recall
from scripts.tiny_base.model import build_model, build_tokenizer
from scripts.tiny_base.pointers import BINDS, HEADS, Aims
from train.attention import ROW_BY_ROW, attend_rows

SOURCE = ["import os\n\ndef first(path, count):\n    return os.listdir(path)[:count]\n" * 40]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> PreTrainedTokenizerFast:
    folder: Path = tmp_path_factory.mktemp("tokenizer")
    return build_tokenizer(Mixture(SOURCE), folder / "tokenizer.json")


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("step", [1, 30, 90])
def test_a_step_is_whole_samples_end_to_end(tokenizer, step: int, rows: int):
    plan = Plan(100 * rows * WINDOW, step_tokens=rows * WINDOW)
    made_batch = batch(tokenizer, plan, step)
    ids, positions, ends, learned, weights, aims, samples = made_batch
    assert ids.shape == positions.shape == (rows * WINDOW,)
    assert (ids == tokenizer.pad_token_id).float().mean() < 0.2
    assert 0.05 < len(learned) / len(ids) < 0.7
    assert learned.shape == weights.shape and (weights > 0).all()
    assert not (ids[learned + 1] == tokenizer.pad_token_id).any()
    assert set(range(0, rows * WINDOW + 1, WINDOW)) <= set(ends.tolist())
    starts = torch.bucketize(torch.arange(len(ids)), ends, right=True) - 1
    assert torch.equal(positions, torch.arange(len(ids)) - ends[starts])
    assert (positions[learned + 1] > 0).all()  # predicted from the same sample
    assert [start for _, start, _ in samples] == [0, *(end for *_, end in samples[:-1])]
    assert samples[-1][2] == len(learned) and all(start < end for _, start, end in samples)
    for head, told in enumerate(aims):
        real = told.weights > 0
        assert real.any() and (told.begins <= told.places).all()
        whole = told.places + WINDOW * torch.arange(rows)[:, None]
        assert torch.equal(told.places[real] - told.begins[real], positions[whole[real]])
        right = told.right[real]
        assert (
            (right < told.places[real, None]) & ((right < 0) | (right >= told.begins[real, None]))
        ).all()
        assert (right[:, 0] >= 0).all()
        if head != BINDS:
            assert set(whole[real].tolist()) <= set(learned.tolist())


def test_a_sample_is_learned_as_if_it_were_alone(tokenizer):
    """What the model answers, and the loss of the pointers, in a step and for each sample alone."""
    torch.manual_seed(0)
    made_model = build_model(tokenizer)
    all_of_it = batch(tokenizer, Plan(2 * WINDOW, step_tokens=2 * WINDOW), 0)
    at_once = step_of(made_model, all_of_it)
    alone: list[torch.Tensor] = []
    total = torch.zeros(HEADS, 2)
    for begin, end in zip(all_of_it.ends[:-1].tolist(), all_of_it.ends[1:].tolist(), strict=True):
        mine = (all_of_it.learned >= begin) & (all_of_it.learned < end)
        if not mine.any():  # padding
            continue
        row, first = divmod(begin, WINDOW)
        aims = []
        for told in all_of_it.aims:
            here = (told.begins[row] == first) & (told.weights[row] > 0)
            pointers = {
                place: (0, weight, [aim - first for aim in right if aim >= 0])
                for place, weight, right in zip(
                    (told.places[row][here] - first).tolist(), told.weights[row][here].tolist(),
                    told.right[row][here].tolist(), strict=True,
                )
            }  # fmt: skip
            aims.append(Aims.of([pointers]))
        learned = all_of_it.learned[mine] - begin
        one = Batch(
            all_of_it.ids[begin:end], all_of_it.positions[begin:end],
            torch.tensor([0, end - begin], dtype=torch.int32), learned, all_of_it.weights[mine],
            tuple(aims), [("", 0, len(learned))],
        )  # fmt: skip
        told_alone = step_of(made_model, one)
        alone.append(told_alone.wrong)
        for head, loss in enumerate(told_alone.losses[1:]):
            share = float(aims[head].weights.sum())
            total[head] += torch.tensor([float(loss) * share, share])
    assert not at_once.wrong.all() and torch.equal(torch.cat(alone), at_once.wrong)
    torch.testing.assert_close(at_once.losses[1:], total[:, 0] / total[:, 1])


def batch(tokenizer: PreTrainedTokenizerFast, plan: Plan, step: int) -> Batch:
    mixture = Mixture(SOURCE)
    mixture.vocabulary = range(3, len(tokenizer))
    return make_batch(mixture, tokenizer, plan, step, Pace()).to(torch.device("cpu"))


def step_of(model, one: Batch) -> pretrain.Told:
    """What ``optimize`` tells of a step that moves nothing."""
    return pretrain.optimize(pretrain.Weights(copy.deepcopy(model)), one, scale=0.0)


def test_what_a_step_told_is_heard_after_the_delay():
    done = pretrain.Progress(torch.zeros(4))
    for step in range(5):
        wrong = torch.tensor([False, False, step == 1])
        told = pretrain.Told([("copy", 0, 2), ("fill", 2, 3)], wrong, torch.tensor([step]), None)
        done.hear(told, delay=2)
    assert [losses for (losses,) in done.losses] == [0, 1, 2] and len(done.told) == 2
    assert done.pace.exact["copy"] == pytest.approx(1 - 0.97**3)
    assert done.pace.exact["fill"] == pytest.approx((1 - 0.97) * 0.97**2 + 0.03)


@pytest.mark.slow
@pytest.mark.parametrize("gpu", [False, True])
@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.by_hand)])
def test_a_killed_pretraining_ends_with_the_same_weights(
    tokenizer, tmp_path, monkeypatch, capsys, workers, gpu
):
    """Cut after a checkpoint, then gone on with: the weights of an undisturbed run.

    ``gpu``: with the copy that computes there and what is told later, on this CPU.
    """
    monkeypatch.setattr(pretrain, "SAVE_SECONDS", -1)  # after each step
    monkeypatch.setattr(pretrain, "is_gpu", lambda _: gpu)
    monkeypatch.setattr(pretrain, "DELAY", 2)
    plan = Plan(5 * WINDOW, workers=workers)

    def run(folder: Path, stop_after: int | None = None) -> dict[str, torch.Tensor]:
        torch.manual_seed(0)
        mixture = Mixture(SOURCE)
        mixture.vocabulary = range(3, len(tokenizer))
        model = build_model(tokenizer, ROW_BY_ROW)
        steps = 0

        def look() -> str:
            nonlocal steps
            steps += 1
            if steps == stop_after:
                raise KeyboardInterrupt
            return ""

        pretrain.train(model, tokenizer, mixture, plan, folder / "checkpoint.pt", look)
        return model.state_dict()

    for folder in ("whole", "cut"):
        (tmp_path / folder).mkdir()
    whole = run(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut", stop_after=4)
    again = run(tmp_path / "cut")
    assert "goes on from step 3" in capsys.readouterr().out
    assert all(torch.equal(weight, again[name]) for name, weight in whole.items())


def test_the_copy_follows_the_weights(tokenizer, monkeypatch):
    monkeypatch.setattr(pretrain, "is_gpu", lambda _: True)
    torch.manual_seed(0)
    weights = pretrain.Weights(build_model(tokenizer, ROW_BY_ROW))
    before = [parameter.clone() for parameter in weights.own]
    pretrain.optimize(weights, batch(tokenizer, Plan(WINDOW), 0), scale=1.0)
    for mine, theirs in zip(weights.own, weights.computed, strict=True):
        assert mine.dtype == torch.float32 and torch.equal(theirs, mine.bfloat16())
    moved = [not torch.equal(*pair) for pair in zip(weights.own, before, strict=True)]
    assert moved[0] and sum(moved) > len(moved) / 2  # behind zeros nothing moves at first


def test_a_checkpoint_of_other_settings_is_refused(tokenizer, tmp_path):
    path, model = tmp_path / "checkpoint.pt", build_model(tokenizer)
    mixture = Mixture(SOURCE)
    mixture.vocabulary = range(3, len(tokenizer))
    pretrain.train(model, tokenizer, mixture, Plan(1), path, str)
    for other, plan in ((SOURCE, Plan(8192)), ([SOURCE[0] + "# more\n"], Plan(1))):
        with pytest.raises(InputError, match="(plan|corpus).*another --work"):
            pretrain.train(model, tokenizer, Mixture(other), plan, path, str)
    torch.save({"plan": Plan(1)}, path)  # an older version's
    with pytest.raises(InputError, match="another --work"):
        pretrain.train(model, tokenizer, mixture, Plan(1), path, str)
    with pytest.raises(InputError, match="multiple of 4096"):
        Plan(4096, step_tokens=1000)


@pytest.mark.parametrize("length", [90, 600])
def test_short_rows_are_attended_to_as_rows_are(length: int):
    torch.manual_seed(0)
    query, key, value = (torch.randn(1, heads, length, 64) for heads in (4, 2, 2))
    lengths = [20, length - 20]
    how = {
        "cu_seq_lens_q": torch.tensor([0, *lengths]).cumsum(0),
        "max_length_q": max(lengths),
        "scaling": 0.125,
    }
    qkv = query, key, value, None
    expected = attend_rows(torch.nn.Identity(), *qkv, **how)[0]
    assert torch.equal(
        model_module.attend_short_rows(torch.nn.Identity(), *qkv, **how)[0], expected
    )
    with torch.autocast("cpu", torch.bfloat16):
        rounded = model_module.attend_short_rows(torch.nn.Identity(), *qkv, **how)[0]
    torch.testing.assert_close(rounded.float(), expected, atol=0.03, rtol=0)


def test_the_model_copies_before_its_first_step(tokenizer):
    """The two layers that begin as an induction circuit find what followed a token before."""
    torch.manual_seed(0)
    model = build_model(tokenizer)
    rng, right, asked = random.Random(0), 0, 0
    for _ in range(10):
        ids, learned = recall(rng, range(3, len(tokenizer)), 240)
        with torch.no_grad():
            guess = model(torch.tensor([ids])).logits[0].argmax(-1).tolist()
        for place, on in enumerate(learned):
            asked += on
            right += on and guess[place - 1] == ids[place]
    assert right / asked > 0.65


def test_the_copy_that_computes_on_a_gpu_is_the_model_in_bf16(tokenizer):
    torch.manual_seed(0)
    model = build_model(tokenizer, "sdpa")
    half = pretrain.in_bf16(model)
    assert {p.dtype for p in half.parameters()} == {torch.bfloat16}
    assert all(torch.equal(a, b) for a, b in zip(model.buffers(), half.buffers(), strict=True))
    ids = torch.randint(3, 2048, (1, 1500)).repeat(1, 2)  # far: a rounded frequency would tell
    with torch.no_grad():
        expected, found = (m(ids).logits.float().log_softmax(-1) for m in (model, half))
        stock = copy.deepcopy(model).to(torch.bfloat16)
        rounded = stock(ids).logits.float().log_softmax(-1)
    assert (found - expected).abs().mean() < 0.03 < (rounded - expected).abs().mean()


def test_a_checkpoint_is_of_the_code_that_trains_not_of_what_tells_of_it():
    assert all(path.exists() for path in pretrain.TELLING)
    names = "|".join(path.stem for path in pretrain.TELLING)
    trains = set(Path(pretrain.__file__).parent.glob("*.py")) - pretrain.TELLING
    for path in trains - {Path(pretrain.__file__).with_name("__main__.py")}:
        assert not re.search(rf"import.*\b({names})\b|tiny_base\.({names})\b", path.read_text())
