"""When a curve of losses comes to a loss."""

from __future__ import annotations

import pytest

from scripts.bench_train import seconds_to

CURVE = [(10.0, 3.0), (20.0, 2.0), (30.0, 2.1), (40.0, 1.0)]


@pytest.mark.parametrize(
    ("loss", "seconds"), [(3.5, 10.0), (3.0, 10.0), (2.5, 15.0), (2.0, 20.0), (1.0, 40.0)]
)
def test_the_first_moment_counts(loss: float, seconds: float) -> None:
    assert seconds_to(loss, CURVE) == seconds


def test_a_loss_that_is_never_reached() -> None:
    with pytest.raises(ValueError, match="ends above 0.5"):
        seconds_to(0.5, CURVE)
