"""Label sets and layouts of labelled lines: what a context says of them, and the two splits."""

from __future__ import annotations

import datetime
import random

import pytest

from data_gen.tasks.skins import SKINS, SKINS_HELD_OUT, Entry
from data_gen.tasks.worlds import TRAIN_SETS, UNSEEN_SETS, draw_world


@pytest.mark.parametrize("held_out", [False, True])
def test_every_label_has_texts_and_every_glossary_its_words(held_out: bool):
    rng = random.Random(1)
    for _ in range(60):
        world = draw_world(rng, held_out)
        for label in world.labels:
            text = world.text(rng, label)
            assert text
            if world.terms:
                own = world.terms[world.labels.index(label)]
                assert any(word in text for word in own)
                assert all(word in world.glossary for word in own)
        assert world.seen or held_out
        assert world.name == "glossary" or world.seen == (world.name in TRAIN_SETS)


def test_no_training_world_has_an_unseen_set():
    names = {draw_world(random.Random(seed), False).name for seed in range(300)}
    assert names == {*TRAIN_SETS, "glossary"}
    assert not set(TRAIN_SETS) & set(UNSEEN_SETS)


def test_layouts_hold_all_fields_and_share_no_form():
    entry = Entry(datetime.date(2023, 4, 5), "77123", "a note", "red")
    lines = [skin.render(entry) for skin in (*SKINS, *SKINS_HELD_OUT)]
    assert len(set(lines)) == len(lines)
    for line, skin in zip(lines, (*SKINS, *SKINS_HELD_OUT), strict=True):
        assert all(part in line for part in ("77123", "a note", skin.day(entry.date)))
        assert "red" not in line
