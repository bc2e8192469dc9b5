"""Why a bench cannot go on, and what its operator does next."""

from __future__ import annotations

import errno
from collections.abc import Mapping
from typing import Any

from broker.errors import RuncastError


class BenchFailed(RuncastError):
    """There is nothing to measure, or not any more."""

    def __init__(self, *, why: str, todo: str) -> None:
        self.why, self.todo = why, todo
        super().__init__(f"{why.rstrip('.')}. {todo}")


def refusal(told: Mapping[str, Any], *, url: str, own: bool) -> BenchFailed:
    """What a crowd was refused with → what to do about it."""
    status, code, detail = told["status"], told["code"], told["detail"]
    if status is None:
        return _no_connection(told.get("errno"), detail, url=url)
    said = f"{url} refused a connection with HTTP {status}" + (f" ({detail})" if detail else "")
    if status == 0:
        return BenchFailed(
            why=f"{url} is no gateway: {detail}", todo="Give its address as ws://host:port/ws."
        )
    if status == 401 and not own:  # noqa: PLR2004 - HTTP's numbers speak for themselves
        return BenchFailed(
            why=said,
            todo="Give the bench the gateway's own RUNCAST_JWT_SECRET, and RUNCAST_JWT_ALGORITHMS, "
            "_AUDIENCE and _ISSUER if it has them.",
        )
    if status == 429:  # noqa: PLR2004
        todo = "Measure with fewer: --connections. Or raise the limit for as long as you measure"
        limit = "RUNCAST_MAX_CONNECTIONS_PER_USER" if code == "too_many_connections" else "a proxy"
        return BenchFailed(why=said, todo=f"{todo}; it is that of {limit}.")
    if status == 503:  # noqa: PLR2004
        return BenchFailed(why=said, todo="It is not ready: see its /ws/health, and try again.")
    return BenchFailed(why=said, todo="Give the gateway's address as ws://host:port/ws.")


def _no_connection(number: int | None, detail: str, *, url: str) -> BenchFailed:
    if number == errno.EMFILE:
        return BenchFailed(
            why="A process may not open more files",
            todo="Raise the hard limit (ulimit -Hn), or measure with fewer --connections.",
        )
    if number == errno.EADDRNOTAVAIL:
        return BenchFailed(
            why="This machine has no more ports for connections to one address",
            todo="Measure with fewer --connections; some 28,000 are possible.",
        )
    return BenchFailed(
        why=f"{url} cannot be reached: {detail}",
        todo="Start a gateway there, or give another --url; without one the bench starts its own.",
    )
