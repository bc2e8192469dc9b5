"""When a client comes back after it lost its connection. Pure; reads the close-code table."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from broker.backoff import full_jitter
from gateway.client_errors import Closed
from gateway.close_codes import CLOSE_CODES, Reconnect

FIRST_DELAY_SECONDS: Final = 0.25
MOST_DELAY_SECONDS: Final = 15.0
LOST: Final = 1006
"""RFC 6455 section 7.1.5: what an endpoint reports when there was no close frame."""
RETRYABLE_STATUS: Final = frozenset({429, 500, 502, 503, 504})
"""Refusals that are no judgement on the request; all others stay the same next time."""


class Reconnects:
    """The delays before one client's next connections.

    :param random: gives numbers in [0, 1).
    :param new_tokens: whether the client can bring a new token.
    """

    def __init__(self, random: Callable[[], float], *, new_tokens: bool) -> None:
        self._random, self._new_tokens = random, new_tokens
        self._told_seconds = 0.0
        self._delays = self._from_the_start()

    def progress(self) -> None:
        """A connection carries something: the next loss begins with the shortest delay again."""
        self._delays = self._from_the_start()

    def told(self, delay_ms: int) -> None:
        """The gateway drains and says when to come back."""
        self._told_seconds = delay_ms / 1000

    def delay_seconds(self, code: int) -> float:
        """How long to wait after this close code; one that is not in the table is an accident.

        :raises Closed: the table forbids to come back.
        """
        row = CLOSE_CODES.get(code)
        told, self._told_seconds = self._told_seconds, 0.0
        if row is None:
            return next(self._delays)
        if row.reconnect is Reconnect.NO:
            raise closed(code)
        if row.reconnect is Reconnect.RENEWED and not self._new_tokens:
            raise closed(code)
        if row.reconnect is Reconnect.TOLD and told:
            return told
        if row.reconnect is Reconnect.LATER:
            return MOST_DELAY_SECONDS * (1 - self._random() / 2)
        return next(self._delays)

    def _from_the_start(self) -> Iterator[float]:
        return full_jitter(
            self._random, first_seconds=FIRST_DELAY_SECONDS, most_seconds=MOST_DELAY_SECONDS
        )


def closed(code: int) -> Closed:
    """The error for a close code, with its name from the table."""
    row = CLOSE_CODES.get(code)
    return Closed(code, "connection lost" if row is None else row.name)
