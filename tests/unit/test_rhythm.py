"""Beats: the same moments for everybody who waits for a beat of the same period."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.rhythm import beat, seconds_until

PERIODS = st.sampled_from((0.25, 0.5, 1.0, 5.0))
MOMENTS = st.floats(min_value=0, max_value=1e7)
PHASES = st.floats(min_value=0, max_value=1, exclude_max=True)


@pytest.mark.parametrize(
    ("now", "left"), [(0.0, 1.0), (12.0, 1.0), (12.25, 0.75), (12.5, 0.5), (12.75, 1.25)]
)
def test_it_is_the_next_one_but_for_one_that_comes_at_once(now: float, left: float) -> None:
    assert seconds_until(1.0, now, 0.0) == pytest.approx(left)


@given(PERIODS, MOMENTS, PHASES)
def test_it_is_neither_soon_nor_far(period: float, now: float, phase: float) -> None:
    assert period / 2 <= seconds_until(period, now, phase) < 1.5 * period


@given(PERIODS, MOMENTS, PHASES)
def test_all_of_a_period_have_the_same_beats(period: float, now: float, phase: float) -> None:
    """Those of a longer one are among those of a shorter one."""
    for longer in (period, 2 * period, 4 * period):
        at = now + seconds_until(longer, now, phase) - phase
        assert abs(at / period - round(at / period)) * period < 1e-6 * max(1.0, now)


@given(PERIODS, MOMENTS, PHASES, st.floats(min_value=-0.4, max_value=0.4))
def test_who_is_a_little_early_or_late_skips_none(
    period: float, now: float, phase: float, off: float
) -> None:
    """A timer that fires early has no second beat at once; one that fires late keeps in step."""
    due = now + seconds_until(period, now, phase)
    following = due + off * period + seconds_until(period, due + off * period, phase)
    assert following - due == pytest.approx(period, abs=1e-5)


async def test_those_who_wait_go_on_together() -> None:
    """In one turn of the event loop, whenever each of them began."""
    loop, woken = asyncio.get_running_loop(), []

    async def wait(begun_after: float) -> None:
        await asyncio.sleep(begun_after)  # each begins at a moment of its own
        late = await beat(0.25)
        assert late >= 0
        woken.append(loop.time())

    await asyncio.gather(*(wait(delay) for delay in (0.0, 0.01, 0.02)))
    apart = max(woken) - min(woken)
    assert min(apart % 0.25, 0.25 - apart % 0.25) < 0.05
