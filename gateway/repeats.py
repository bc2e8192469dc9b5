"""Events known again by what they say, when a log that was rewritten repeats them. Pure.

A failover gives what a worker sends again new ids, so a cursor tells nothing about it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

REMEMBERED: Final = 2000
"""Of the latest events; as many as a log usually retains."""

_TOLD_BY: Final = ("message_id", "request_id")


class Repeats:
    """The latest events of one client."""

    def __init__(self) -> None:
        self._seen: dict[tuple[Any, ...], None] = {}

    def is_new(self, event: Mapping[str, Any]) -> bool:
        """Whether it is none of those before; true for one that says nothing to be known by."""
        payload = event.get("payload")
        fields = payload if isinstance(payload, dict) else {}
        told = [event.get("seq"), *map(fields.get, _TOLD_BY), event.get("timestamp")]
        if all(each is None for each in told):
            return True
        key = (event.get("run_id"), event.get("type"), event.get("attempt"), *map(str, told))
        if key in self._seen:
            return False
        self._seen[key] = None
        if len(self._seen) > REMEMBERED:
            del self._seen[next(iter(self._seen))]
        return True
