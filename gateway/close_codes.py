"""Why a socket is closed, and whether its client should come back (protocol section 6)."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Final, NamedTuple


class Reconnect(StrEnum):
    """What the client does next."""

    NO = "no"
    TOLD = "after the told delay"
    RENEWED = "with a new token"
    CURSOR = "yes, with cursor"
    LATER = "yes, later"
    BACK_OFF = "yes, back off"


class CloseCode(NamedTuple):
    """One row of the table. ``name`` is also the reason sent, far below the 123 bytes allowed."""

    code: int
    name: str
    reconnect: Reconnect


NORMAL: Final = CloseCode(1000, "normal", Reconnect.NO)
GOING_AWAY: Final = CloseCode(1001, "going away", Reconnect.TOLD)
TOO_LARGE: Final = CloseCode(1009, "message too large", Reconnect.NO)
MISUSE: Final = CloseCode(4400, "protocol misuse", Reconnect.NO)
UNAUTHORIZED: Final = CloseCode(4401, "token missing, bad, expired or revoked", Reconnect.RENEWED)
FORBIDDEN: Final = CloseCode(4403, "forbidden", Reconnect.NO)
TOO_SLOW: Final = CloseCode(4408, "too slow", Reconnect.CURSOR)
TAKEN_OVER: Final = CloseCode(4409, "taken over", Reconnect.NO)
TOO_MANY: Final = CloseCode(4429, "too many connections or messages", Reconnect.LATER)
UNAVAILABLE: Final = CloseCode(4503, "broker unavailable", Reconnect.BACK_OFF)

CLOSE_CODES: Final[Mapping[int, CloseCode]] = {
    row.code: row
    for row in (
        NORMAL, GOING_AWAY, TOO_LARGE, MISUSE, UNAUTHORIZED, FORBIDDEN, TOO_SLOW, TAKEN_OVER,
        TOO_MANY, UNAVAILABLE,
    )
}  # fmt: skip

NEVER_SENT: Final = frozenset({1004, 1005, 1006, 1015})
LARGEST: Final = 4999
"""RFC 6455 section 7.4: what nobody may put into a close frame, and what lies above everything that
has a meaning."""

PROTOCOL_ERROR: Final = 1002

LOST: Final = "lost"
"""How a socket is counted that ended without a close frame of either side (RFC 6455: 1006)."""

OTHER: Final = "other"
"""And one that its client closed with a code of its own."""

COUNTED: Final = (*(str(code) for code in CLOSE_CODES), LOST, OTHER)
"""What closes are counted by. The codes of clients are not bounded, so they are not among it."""


def counted(code: int) -> str:
    """By what a close with this code is counted: one of :data:`COUNTED`."""
    return str(code) if code in CLOSE_CODES else OTHER


def answer_to(code: int, reason: str) -> CloseCode:
    """The answer to a peer's close frame: its own code, if that may be sent; 0 = it had none."""
    if not code:
        return NORMAL
    if code in NEVER_SENT or code > LARGEST:
        return CloseCode(PROTOCOL_ERROR, "illegal close code", Reconnect.NO)
    return CloseCode(code, reason, Reconnect.NO)
