"""How often a process of the SDK tries again while Redis is away."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Final

from broker.backoff import full_jitter

FIRST_SECONDS: Final = 0.1
MOST_SECONDS: Final = 0.5
"""Longest wait between two tries: when Redis is back, what waits is published well within a second.
A try at a connection that is down costs nothing, so it need not be longer."""


def delays() -> Iterator[float]:
    """Seconds to wait before each further try; take new ones after a success."""
    return full_jitter(random.random, first_seconds=FIRST_SECONDS, most_seconds=MOST_SECONDS)
