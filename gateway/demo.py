"""What ``runcast demo`` shows: its two users, the questions that it offers, and their tokens.

The gateway serves it at ``GET /demo/session`` and ``POST /demo/token``, and only when it was
started as a demo: the tokens are signed with a key that was made for this one start.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from gateway.tokens import issue_token

USERS: Final = ({"id": "alice", "name": "Alice"}, {"id": "bob", "name": "Bob"})
AGENTS: Final = ("analyst",)
"""What the demo's worker declares (``agents_sdk.demo``)."""
TOKEN_SECONDS: Final = 900
"""Short enough that a page left open shows the refresh at work."""

SAMPLES: Final = (
    {
        "title": "Sales by month",
        "content": "month,units,revenue\n"
        "Jan,120,2400.50\nFeb,98,1985.20\nMar,143,2931.75\nApr,131,2702.10\nMay,155,3240.00\n",
    },
    {"title": "A few numbers", "content": "12 15 11 19 14 87 13"},
    {
        "title": "Prose",
        "content": "The quick brown fox jumps over the lazy dog. The dog sleeps on. Tomorrow the "
        "fox will come again, and the dog will sleep again, and everybody will be content.",
    },
    {
        "title": "Bad numbers: a tool fails",
        "content": "city,degrees\nOslo,4\nRome,mild\nCairo,29\n",
    },
    {
        "title": "A slow answer, to stop",
        "content": "slowly: 3 1 4 1 5 9 2 6 5 3 5 8 9 7 9 3 2 3 8 4 6 2 6 4 3 3 8 3 2 7 9 5",
    },
)
"""Offered on the page; the first is asked when the demo starts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoConfig:
    """One start of the demo. ``secret`` is the key of its tokens, HS256."""

    secret: str = field(repr=False)
    clock: Callable[[], float] = time.time

    def session(self) -> dict[str, Any]:
        """The body of ``GET /demo/session``."""
        return {"users": list(USERS), "agents": list(AGENTS), "samples": list(SAMPLES)}

    def token(self, user: str) -> dict[str, str] | None:
        """The body of ``POST /demo/token``; ``None`` for who is no user of the demo."""
        if user not in {known["id"] for known in USERS}:
            return None
        now = int(self.clock())
        token = issue_token(
            secret=self.secret, alg="HS256", user=user, ttl_seconds=TOKEN_SECONDS, now=now
        )
        expires_at = datetime.fromtimestamp(now + TOKEN_SECONDS, UTC)
        return {"token": token, "expires_at": expires_at.isoformat().replace("+00:00", "Z")}
