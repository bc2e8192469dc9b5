"""New ids, with this process's clock and randomness."""

from __future__ import annotations

import os
import time

from broker.ids import RANDOM_BYTES, ulid


def new_id() -> str:
    """A new run, thread or node id."""
    return ulid(time.time_ns() // 1_000_000, os.urandom(RANDOM_BYTES))
