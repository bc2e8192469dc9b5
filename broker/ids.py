"""Ids of runs, messages, connections and nodes: ULIDs, sortable by time and unguessable enough."""

from __future__ import annotations

from typing import Final

_ALPHABET: Final = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_PAIRS: Final = [one + other for one in _ALPHABET for other in _ALPHABET]
_SHIFTS: Final = range(120, -1, -10)
RANDOM_BYTES: Final = 10
"""How much randomness one id takes."""


def ulid(epoch_ms: int, randomness: bytes) -> str:
    """26 characters of Crockford's base 32: 48 bits of time, 80 bits of ``randomness``."""
    if len(randomness) != RANDOM_BYTES:
        raise ValueError(f"an id takes {RANDOM_BYTES} random bytes, not {len(randomness)}")
    number = (epoch_ms << 80) | int.from_bytes(randomness, "big")
    return "".join([_PAIRS[(number >> shift) & 1023] for shift in _SHIFTS])
