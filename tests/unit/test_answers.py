"""What answers mean."""

from __future__ import annotations

import pytest

from gateway.webhooks.answers import Verdict, verdict, wait_seconds


@pytest.mark.parametrize(
    ("statuses", "said"),
    [
        ((200, 201, 202, 204, 299), Verdict.DELIVERED),
        ((410, 413), Verdict.ASIDE),
        ((None, 100, 199, 300, 301, 302, 307, 308, 304), Verdict.AGAIN),
        ((400, 401, 403, 404, 405, 408, 409, 415, 422, 425, 429), Verdict.AGAIN),
        ((500, 501, 502, 503, 504, 599, 600), Verdict.AGAIN),
    ],
)
def test_each_status(statuses: tuple[int | None, ...], said: Verdict) -> None:
    assert {verdict(status) for status in statuses} == {said}


@pytest.mark.parametrize(
    ("status", "header", "seconds"),
    [
        (429, "7", 7.0),
        (503, " 7 ", 7.0),
        (503, "100000", 300.0),
        (429, "0", 0.0),
        (429, None, 0.0),
        (500, "7", 0.0),
        (None, None, 0.0),
        (429, "Wed, 21 Oct 2037 07:28:00 GMT", 0.0),
        (429, "-7", 0.0),
        (429, "1e9", 0.0),
        (429, "\u0667", 0.0),
    ],
)
def test_how_long_a_receiver_may_ask_to_wait(
    status: int | None, header: str | None, seconds: float
) -> None:
    assert wait_seconds(status, header, most=300.0) == seconds
