"""What a receiver's answer means for the event that was posted to it.

It is not told from an answer whether the event or the receiver is at fault: one that is being
deployed says 404, one with a bug 400 or 422, one with a wrong secret 401. So all of these are tried
again, which costs that thread time and no event; what can never become right is put aside at once.
"""

from __future__ import annotations

import re
from enum import Enum
from typing import Final


class Verdict(Enum):
    """What is done next."""

    DELIVERED = "delivered"
    AGAIN = "again"
    ASIDE = "aside"


NEVER: Final = {
    410: "the receiver is gone for good",
    413: "the event is too large for the receiver",
}
"""Status → why the same event will never be taken."""

ASKED_TO_WAIT: Final = frozenset({429, 503})
"""What ``Retry-After`` counts with (RFC 9110, RFC 6585)."""

_SECONDS: Final = re.compile(r"[0-9]{1,9}")


def verdict(status: int | None) -> Verdict:
    """``None``: there was no answer. A redirection is not followed, and so no delivery."""
    if status is None:
        return Verdict.AGAIN
    if 200 <= status < 300:  # noqa: PLR2004 - a class of HTTP
        return Verdict.DELIVERED
    return Verdict.ASIDE if status in NEVER else Verdict.AGAIN


def wait_seconds(status: int | None, retry_after: str | None, *, most: float) -> float:
    """How long the receiver asks to be left alone; at most so long, and 0 if it does not say.

    A date is not read: a receiver's clock is not ours.
    """
    if status not in ASKED_TO_WAIT or retry_after is None:
        return 0.0
    found = _SECONDS.fullmatch(retry_after.strip())
    return min(float(found[0]), most) if found else 0.0
