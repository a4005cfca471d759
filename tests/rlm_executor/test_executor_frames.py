"""The wire: whatever is packed comes back, and damage is a ValueError, nothing worse."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlm_executor.journal import Delta, apply_delta
from rlm_executor.sandbox import frames


@given(st.integers(0, 2**64 - 1), st.lists(st.text(max_size=30), max_size=5))
@settings(max_examples=50, deadline=None)
def test_a_frame_comes_back_as_it_was_packed(number: int, texts: list[str]) -> None:
    data = frames.pack(frames.CALL, number, *texts)
    taken = iter([data[: frames.HEADER.size], data[frames.HEADER.size :]])
    kind, got, fields = frames.read_frame(lambda size: next(taken))
    clean = [text.encode("utf-8", "replace").decode() for text in texts]
    assert (kind, got, fields) == (frames.CALL, number, clean)


@given(st.binary(max_size=60))
@settings(max_examples=50, deadline=None)
def test_damaged_fields_are_refused(body: bytes) -> None:
    try:
        fields = frames.fields_of(body)
    except ValueError:
        return
    assert sum(len(field.encode()) for field in fields) >= 0


def test_an_absurd_length_is_refused_before_it_is_read() -> None:
    with pytest.raises(ValueError, match="announced"):
        frames.unpack(frames.HEADER.pack(b"C", 1, 1 << 40))


@given(st.lists(st.lists(st.integers(0, 3), max_size=6), min_size=1, max_size=5))
@settings(max_examples=50, deadline=None)
def test_deltas_rebuild_every_step(steps: list[list[int]]) -> None:
    writer = Delta()
    reader: list[int] = []
    for step in steps:
        reader = apply_delta(reader, writer.to(step))
        assert reader == step
        writer.then([9])
        reader = [*reader, 9]


def test_a_delta_of_a_growing_list_holds_only_what_is_new() -> None:
    writer = Delta()
    writer.to(["a"])
    writer.then(["b"])
    assert writer.to(["a", "b", "c"]) == {"keep": 2, "add": ["c"]}
