"""When a client comes back: the close-code table, obeyed."""

from __future__ import annotations

import pytest

from gateway.client_errors import Closed
from gateway.close_codes import CLOSE_CODES, Reconnect
from gateway.reconnect import LOST, Reconnects


def reconnects(random: float = 1.0, *, new_tokens: bool = True) -> Reconnects:
    return Reconnects(lambda: random, new_tokens=new_tokens)


def test_delays_double_from_a_quarter_second_to_fifteen() -> None:
    back = reconnects()
    assert [back.delay_seconds(LOST) for _ in range(9)] == [0.25, 0.5, 1, 2, 4, 8, 15, 15, 15]


def test_the_jitter_is_full() -> None:
    assert [reconnects(0.0).delay_seconds(LOST) for _ in range(3)] == [0.0, 0.0, 0.0]


def test_progress_begins_anew() -> None:
    back = reconnects()
    back.delay_seconds(LOST)
    back.delay_seconds(4503)
    back.progress()
    assert back.delay_seconds(LOST) == 0.25


@pytest.mark.parametrize(
    "code", [row.code for row in CLOSE_CODES.values() if row.reconnect is Reconnect.NO]
)
def test_codes_that_forbid_to_come_back(code: int) -> None:
    with pytest.raises(Closed) as caught:
        reconnects().delay_seconds(code)
    assert (caught.value.code, caught.value.name) == (code, CLOSE_CODES[code].name)


def test_the_codes_that_forbid_to_come_back_are_these() -> None:
    forbidding = {row.code for row in CLOSE_CODES.values() if row.reconnect is Reconnect.NO}
    assert forbidding == {1000, 1009, 4400, 4403, 4409}


def test_a_bad_token_needs_a_new_one() -> None:
    assert reconnects(new_tokens=True).delay_seconds(4401) == 0.25
    with pytest.raises(Closed):
        reconnects(new_tokens=False).delay_seconds(4401)


def test_a_draining_gateway_says_when() -> None:
    back = reconnects()
    back.told(1500)
    assert back.delay_seconds(1001) == 1.5
    assert back.delay_seconds(1001) == 0.25


def test_what_was_told_is_not_kept_for_another_loss() -> None:
    back = reconnects()
    back.told(1500)
    assert back.delay_seconds(LOST) == 0.25
    assert back.delay_seconds(1001) == 0.5


@pytest.mark.parametrize(("random", "seconds"), [(0.0, 15.0), (1.0, 7.5)])
def test_too_many_means_later(random: float, seconds: float) -> None:
    assert reconnects(random).delay_seconds(4429) == seconds


@pytest.mark.parametrize("code", [1006, 1011, 1012, 4408, 4503, 4999])
def test_everything_else_backs_off(code: int) -> None:
    assert reconnects().delay_seconds(code) == 0.25
