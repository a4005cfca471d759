"""The limit on what is in flight: never passed, never stuck, down with refusals and up again."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlm_executor.lm import Usage
from rlm_executor.pacing import Attempts, Pace


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_the_limit_is_halved_once_a_second_and_grows_back() -> None:
    clock = Clock()
    pace = Pace(8, clock=clock)
    for _ in range(5):
        pace.refused()
    assert pace.limit == 4
    clock.now = 0.9
    pace.refused()
    assert pace.limit == 4
    for second in range(1, 6):
        clock.now = float(second)
        pace.refused()
    assert pace.limit == 1
    pace.succeeded()
    assert pace.limit == 2
    for _ in range(100):
        pace.succeeded()
    assert pace.limit == 8


async def test_waiters_come_in_order_and_a_cancelled_one_leaves_its_slot() -> None:
    pace, came = Pace(1), list[int]()

    async def worker(number: int) -> None:
        async with pace:
            came.append(number)
            await asyncio.sleep(0)

    async with pace:
        tasks = [asyncio.create_task(worker(number)) for number in range(4)]
        await asyncio.sleep(0)
        tasks[1].cancel()  # while it waits
    tasks[0].cancel()  # after it was given the slot, before it ran
    await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 5)
    assert came == [2, 3]
    assert pace.in_flight == 0


async def test_a_slot_is_not_given_to_who_was_cancelled_just_now() -> None:
    pace, came = Pace(1), list[int]()

    async def worker(number: int) -> None:
        async with pace:
            came.append(number)

    async with pace:
        tasks = [asyncio.create_task(worker(number)) for number in range(2)]
        await asyncio.sleep(0)
        tasks[0].cancel()  # and has not run since
    await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 5)
    assert came == [1]
    assert pace.in_flight == 0


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["come", "leave", "cancel", "refuse", "succeed", "run", "second"]),
        st.integers(0, 30),
    ),
    max_size=60,
)


@settings(max_examples=300, deadline=None)
@given(most=st.integers(1, 5), steps=STEPS)
def test_never_over_the_limit_and_nobody_waits_for_ever(
    most: int, steps: list[tuple[str, int]]
) -> None:
    clock = Clock()
    pace = Pace(most, clock=clock)
    inside: list[asyncio.Event] = []
    tasks: list[asyncio.Task[None]] = []

    async def worker() -> None:
        async with pace:
            assert pace.in_flight <= most
            leave = asyncio.Event()
            inside.append(leave)
            try:
                await leave.wait()
            finally:
                inside.remove(leave)

    async def play() -> None:
        for step, number in steps:
            before = pace.in_flight
            if step == "come":
                tasks.append(asyncio.create_task(worker()))
            elif step == "leave" and inside:
                inside[number % len(inside)].set()
            elif step == "cancel" and tasks:
                tasks[number % len(tasks)].cancel()
            elif step == "refuse":
                pace.refused()
            elif step == "succeed":
                pace.succeeded()
            elif step == "run":
                await asyncio.sleep(0)
            elif step == "second":
                clock.now += 1
            assert len(inside) <= pace.in_flight <= max(pace.limit, before) <= most
        for _ in range(8):  # all that can happen by itself
            await asyncio.sleep(0)
        assert len(inside) == pace.in_flight
        waiting = sum(not task.done() for task in tasks) - len(inside)
        assert not waiting or len(inside) >= pace.limit
        for _ in range(4 * len(tasks) + 4):  # all leave, one after the other
            for leave in inside:
                leave.set()
            await asyncio.sleep(0)
        assert all(task.done() for task in tasks)
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert {type(result) for result in results} <= {type(None), asyncio.CancelledError}
        assert pace.in_flight == 0

    asyncio.run(play())


@pytest.mark.parametrize(
    ("sent", "usage", "failed", "told", "unknown"),
    [
        (False, None, 0, Usage(), 0),  # it waited for its turn
        (False, None, 1, None, 1),  # it waited to try again after a timeout
        (True, None, 0, None, 1),
        (True, Usage(5, 2, 1), 0, Usage(5, 2, 1), 0),
        (True, Usage(5, 2, 1), 2, Usage(5, 2, 1), 2),
    ],
)
def test_what_a_cancelled_call_had_used(
    sent: bool, usage: Usage | None, failed: int, told: Usage | None, unknown: int
) -> None:
    attempts = Attempts()
    for _ in range(failed):
        attempts.sent()
        attempts.ended(known=False)
    if sent:
        attempts.sent()
        attempts.usage = usage
    assert attempts.cancelled() == told
    assert attempts.unknown == unknown
