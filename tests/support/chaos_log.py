"""The logs as they are in the end, read from Redis without the program's own code."""

import json
from collections.abc import Iterable, Sequence
from typing import Any
from urllib.parse import unquote

import redis

from tests.support.history import Entry, Place, marker_of


def read_logs(urls: Iterable[str], prefix: str) -> dict[Place, list[Entry]]:
    """Every channel's entries, oldest first. ``urls``: each server that holds some of them."""
    logs: dict[Place, list[Entry]] = {}
    for url in urls:
        with redis.Redis.from_url(url, socket_timeout=30) as client:
            for key in client.scan_iter(match=f"{prefix}:*:log:*", count=1000):
                entries: Sequence[Any] = client.xrange(key)
                logs[_place(key)] = [_entry(*entry) for entry in entries]
    return logs


def _place(key: bytes) -> Place:
    scope, _tenant, user, *name = key.decode().partition(":log:")[2].split(":")
    return Place(scope, unquote(user), unquote(name[0]) if name else "")


def _entry(entry_id: bytes, fields: dict[bytes, bytes]) -> Entry:
    event = json.loads(fields[b"e"].partition(b"\n")[2])
    return Entry(
        id=entry_id.decode(),
        run_id=event["run_id"],
        seq=event.get("seq"),
        type=event["type"],
        thread=event["thread_id"],
        marker=marker_of(event),
    )
