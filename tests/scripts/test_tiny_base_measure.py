"""What the tiny base is measured on, and what its card says of it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast

from scripts.tiny_base import card, cases, measure
from scripts.tiny_base.mixture import Mixture
from scripts.tiny_base.model import build_model, build_tokenizer

SOURCE = ["import os\n\ndef first(path, count):\n    return os.listdir(path)[:count]\n" * 40]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> PreTrainedTokenizerFast:
    folder: Path = tmp_path_factory.mktemp("tokenizer")
    return build_tokenizer(Mixture(SOURCE), folder / "tokenizer.json")


def test_cases_are_the_same_each_time_and_of_the_stated_length(tokenizer):
    for row in cases.ROWS:
        first = list(cases.cases(row, tokenizer, SOURCE, 3))
        assert first == list(cases.cases(row, tokenizer, SOURCE, 3))
        for sample, ids in first:
            answer = len(tokenizer(sample[-1][1])["input_ids"])
            assert row.shortest <= len(ids) - answer <= row.longest


def test_lines_are_compared_at_their_places():
    assert measure.share_of_lines("a\nb\nc", "a\nb\nd") == pytest.approx(2 / 3)
    assert measure.share_of_lines("b\na", "a\nb") == 0
    assert measure.share_of_lines("a", "a\nb") == 0.5


def test_the_card_is_written_from_the_figures_beside_it(tmp_path):
    base = card.LAB_BOOK.parents[2] / "assets" / "tiny-base"
    for name in ("training.json", "skills.json"):
        shutil.copy(base / name, tmp_path)
    card.write_card(tmp_path)
    assert (tmp_path / "README.md").read_bytes() == (base / "README.md").read_bytes()


def test_a_column_is_the_mean_of_its_first_cases():
    scores = {"copy": [True, False, False], "things": [0.5, 1.0, 0.0]}
    assert measure.column(scores, 2) == {"cases": 2, "figures": {"copy": 0.5, "things": 0.75}}


def test_a_measurement_that_was_stopped_goes_on_with_the_next_row(
    tokenizer, tmp_path, monkeypatch, capsys
):
    rows = [row for row in cases.ROWS if row.longest <= 512]
    monkeypatch.setattr(measure, "ROWS", rows)
    path, model = tmp_path / "work" / "measured.json", build_model(tokenizer)
    begun = measure.Finished(path, "these weights")
    begun.add(rows[0].name, [0.25])
    kept = measure.Finished(path, "these weights")
    scores = measure.measure(model, tokenizer, SOURCE, 1, finished=kept)
    assert scores[rows[0].name] == [0.25] and list(scores) == [row.name for row in rows]
    assert measure.Finished(path, "these weights").rows == scores
    assert "begins anew" not in capsys.readouterr().out
    assert measure.Finished(path, "other weights").rows == {}
    assert f"begins anew: {path}" in capsys.readouterr().out
