"""Full jitter: clients that lost the same gateway do not come back together."""

from __future__ import annotations

from itertools import islice

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from broker.backoff import full_jitter

relaxed = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

CHANCES = st.lists(st.floats(0, 1, exclude_max=True), min_size=1, max_size=40)


@relaxed
@given(chances=CHANCES, first=st.floats(0.001, 1), most=st.floats(1, 60, exclude_min=True))
def test_every_delay_lies_between_zero_and_a_ceiling_that_doubles_up_to_the_limit(
    chances: list[float], first: float, most: float
) -> None:
    """Delay n is drawn from [0, min(first · 2ⁿ, most))."""
    draws = iter(chances)
    delays = list(
        islice(
            full_jitter(lambda: next(draws), first_seconds=first, most_seconds=most), len(chances)
        )
    )
    for attempt, (delay, chance) in enumerate(zip(delays, chances, strict=True)):
        assert delay == chance * min(first * 2**attempt, most)


def test_the_protocols_figures() -> None:
    """0.25 s doubling to 15 s (protocol section 6)."""
    ceilings = list(islice(full_jitter(lambda: 1.0, first_seconds=0.25, most_seconds=15), 8))
    assert ceilings == [0.25, 0.5, 1, 2, 4, 8, 15, 15]
