"""Where a client stands: what it has, and what to ask for when it comes back. Pure.

One cursor for the connection's channel; in factory strict mode, where every run has a channel of
its own, one for each run that has not ended.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Final

from broker.cursor import ZERO, Cursor, parse
from broker.events import AGENT_COMPLETED
from gateway.repeats import Repeats

_ASKED_ONCE: Final = ("thread_id", "connection_id", "secret")


class Position:
    """Follows the frames of one client over all its connections.

    :param strict: the connection reads runs' channels, not one of its own.
    :param after: what the client begins with, if anything; the gateway judges it.
    """

    def __init__(
        self, *, strict: bool, after: str | None = None, run_id: str | None = None
    ) -> None:
        asked = {"after": after, "run_id": run_id}
        self._first = {name: value for name, value in asked.items() if value is not None}
        self._strict = strict
        self._cursor: Cursor | None = None
        self._runs: dict[str, Cursor] = {}
        self._roots: dict[str, str] = {}
        self._told: dict[str, str] = {}
        self._repeats, self._resynced = Repeats(), False
        start = None
        with suppress(ValueError):  # then a resync says where the client stands
            start = None if after is None else parse(after)
        if not strict:
            self._cursor = start
        elif run_id is not None:
            self._runs[run_id] = start or ZERO

    @property
    def cursor(self) -> str | None:
        """The connection's cursor, as ``after`` takes it; ``None`` in strict mode."""
        return None if self._cursor is None else str(self._cursor)

    def parameters(self) -> dict[str, str]:
        """What to add to the address of the next connection."""
        asked = dict(self._first)
        if self._cursor is not None and not self._first:
            asked["after"] = str(self._cursor)
        if "thread_id" in self._told:
            asked["thread_id"] = self._told["thread_id"]
        if "secret" in self._told:
            asked["connection"] = self._told["connection_id"]
            asked["secret"] = self._told["secret"]
        return asked

    def attachments(self) -> list[tuple[str, str]]:
        """(run id, after) of the runs to attach to again on a connection that was made anew."""
        if self._first:
            return []
        return [(run_id, str(cursor)) for run_id, cursor in self._runs.items()]

    def attach(self, run_id: str, after: str | None) -> None:
        """The client reads this run's channel from now on; ``ValueError`` for a bad cursor."""
        if self._strict:
            self._runs[run_id] = ZERO if after is None else parse(after)

    def attached(self, run_id: str, cursor: str) -> None:
        """The gateway told where a channel stands that is read from now on, not from a cursor."""
        if run_id in self._runs:
            self._runs[run_id] = max(self._runs[run_id], parse(cursor))

    def detach(self, run_id: str) -> None:
        """The client does not read this run's channel any more."""
        self._runs.pop(run_id, None)
        self._roots = {child: root for child, root in self._roots.items() if root != run_id}

    def take(self, frame: Mapping[str, Any]) -> bool:
        """Move on by one frame from the server; false for an event that the client already has."""
        if "id" in frame:
            # Without a resync no log repeats anything, so what has a new id is a new event.
            return self._event(frame) and (self._repeats.is_new(frame) or not self._resynced)
        payload = frame.get("payload")
        if not isinstance(payload, dict):
            return True
        match frame.get("type"):
            case "connection_established":
                self._established(payload)
            case "live":
                self._reached(payload.get("cursor"))
            case "resync":
                self._resync(payload)
            case "run_accepted" if self._strict:
                self._runs.setdefault(payload["run_id"], ZERO)
        return True

    def _established(self, payload: Mapping[str, Any]) -> None:
        run_id, told = self._first.get("run_id"), payload.get("cursor")
        if run_id is not None and "after" not in self._first and isinstance(told, str):
            self.attached(run_id, told)
        self._first = {}
        self._told = {name: payload[name] for name in _ASKED_ONCE if payload.get(name) is not None}
        # A cursor that was asked for stands: what came after it is still to be replayed.
        if self._cursor is None:
            self._reached(payload.get("cursor"))

    def _reached(self, cursor: object) -> None:
        """The position in the unfiltered log, which a filter's last event may be far behind of."""
        if self._strict or not isinstance(cursor, str):
            return
        reached = parse(cursor)
        if self._cursor is None or reached > self._cursor:
            self._cursor = reached

    def _resync(self, payload: Mapping[str, Any]) -> None:
        """The log goes on from here, which may be before what the client has seen."""
        start = parse(payload["from"])
        self._resynced = True
        run_id = payload.get("run_id")
        if not self._strict:
            self._cursor = start
        elif run_id in self._runs:
            self._runs[run_id] = start

    def _event(self, frame: Mapping[str, Any]) -> bool:
        cursor = parse(frame["id"])
        if not self._strict:
            if self._cursor is not None and cursor <= self._cursor:
                return False
            self._cursor = cursor
            return True
        run_id, parent = frame["run_id"], frame.get("parent_run_id")
        if parent is not None:
            # A sub-agent's run has no channel of its own: its events move the cursor of the run
            # that the client is attached to.
            self._roots[run_id] = self._roots.get(parent, parent)
        root = self._roots.get(run_id, run_id)
        if cursor <= self._runs.get(root, ZERO):
            return False
        if run_id == root and frame["type"] == AGENT_COMPLETED:
            self.detach(root)
        elif root in self._runs:
            self._runs[root] = cursor
        return True
