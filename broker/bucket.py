"""Token buckets: what may be done so many times in a while, all at once at most.

Pure. A bucket is kept as one number, the time at which it will be full again, so nothing has to be
written while it fills. Whole microseconds, so nothing is rounded either.
``redis/scripts/bucket.lua`` is the same arithmetic, for buckets that a fleet shares.
"""

from __future__ import annotations

from typing import NamedTuple


class Bucket(NamedTuple):
    """``capacity`` tokens, and a new one every ``interval_us``; without capacity never any."""

    capacity: int
    interval_us: int

    @classmethod
    def per(cls, count: int, seconds: int, *, burst: int | None = None) -> Bucket:
        """``count`` in that time, and never more; as many at once, or ``burst``."""
        capacity = count if burst is None or not count else burst
        return cls(capacity, -(-seconds * 1_000_000 // max(count, 1)))


def take(bucket: Bucket, full_at: int, now: int, *, tokens: int = 1) -> tuple[int, int]:
    """The bucket's new ``full_at``, and 0; or the old one, and how long to wait for the tokens.

    ``full_at`` is 0 for a bucket that was never used. A clock that went backwards costs at most
    what the bucket takes to fill: it cannot be emptier than empty.
    """
    whole = bucket.capacity * bucket.interval_us
    after = min(max(full_at, now), now + whole) + tokens * bucket.interval_us
    wait = after - now - whole
    return (full_at, wait) if wait > 0 else (after, 0)
