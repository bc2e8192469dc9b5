"""The close codes are one table; its rows are those of protocol section 6."""

from __future__ import annotations

import pytest

from gateway import close_codes
from gateway.close_codes import CLOSE_CODES, CloseCode, Reconnect
from gateway.frames import MAX_REASON_BYTES, ws_close


def test_the_table_is_the_protocols() -> None:
    """Code, name and what the client does next, row by row."""
    assert {row.code: (row.name, row.reconnect.value) for row in CLOSE_CODES.values()} == {
        1000: ("normal", "no"),
        1001: ("going away", "after the told delay"),
        1009: ("message too large", "no"),
        4400: ("protocol misuse", "no"),
        4401: ("token missing, bad, expired or revoked", "with a new token"),
        4403: ("forbidden", "no"),
        4408: ("too slow", "yes, with cursor"),
        4409: ("taken over", "no"),
        4429: ("too many connections or messages", "yes, later"),
        4503: ("broker unavailable", "yes, back off"),
    }


def test_every_row_is_in_the_table_under_its_own_code() -> None:
    """A constant outside the table would have no documented meaning."""
    rows = [value for value in vars(close_codes).values() if isinstance(value, CloseCode)]
    assert {row.code for row in rows} == set(CLOSE_CODES)
    assert all(CLOSE_CODES[row.code] is row for row in rows)


@pytest.mark.parametrize("row", CLOSE_CODES.values(), ids=lambda row: row.name)
def test_every_code_may_be_sent(row: CloseCode) -> None:
    """RFC 6455 section 7.4: defined codes that an endpoint may set, or the private range."""
    assert row.code in (1000, 1001, 1009) or 4000 <= row.code <= 4999
    assert len(row.name.encode()) <= MAX_REASON_BYTES
    assert ws_close(row.code, row.name)[4:] == row.name.encode()


def test_every_reaction_is_used() -> None:
    """A reaction that no code asks for would be a row that is missing."""
    assert {row.reconnect for row in CLOSE_CODES.values()} == set(Reconnect)


@pytest.mark.parametrize(
    ("code", "answered"),
    [(0, 1000), (1000, 1000), (1001, 1001), (3000, 3000), (4999, 4999),
     (1004, 1002), (1005, 1002), (1006, 1002), (1015, 1002), (5000, 1002), (65535, 1002)],
)  # fmt: skip
def test_a_peers_code_is_echoed_only_when_it_may_be_sent(code: int, answered: int) -> None:
    """Bug: 1006, and whatever lies above 4999, went back as it came."""
    assert close_codes.answer_to(code, "why").code == answered
