"""What a worker sends over HTTP: a run, and what it has to say (protocol section 7)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from broker import events
from broker.channels import Owner, Scope
from gateway.handshake import BadRequest, named_id
from gateway.session import MAX_NESTING, too_deep

MAX_EVENTS: Final = 100
"""Events and deltas of one request: they share a pipeline, and nobody waits long for it."""

FIELDS: Final = ("run_id", "user_id", "tenant", "fence", "open", "events")
OPEN_FIELDS: Final = (
    "agent_name", "thread_id", "scope", "content", "metadata", "parent_run_id", "worker",
)  # fmt: skip
SCOPES: Final = (Scope.USER, Scope.THREAD, Scope.RUN)
"""Who may see a run that no client began."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Opening:
    """A run to be opened. ``worker`` tells apart who opens the same one; empty: anybody."""

    agent: str
    thread_id: str | None
    scope: Scope | None
    content: Any
    metadata: dict[str, Any]
    parent_run_id: str | None
    worker: str


@dataclass(frozen=True, slots=True)
class Item:
    """An event, or a delta (without ``seq``), as it was sent."""

    type: str
    seq: int | None
    payload: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """A request. Without ``opening`` it has the ``fence`` that opening the run has answered."""

    owner: Owner
    run_id: str
    fence: int | None
    opening: Opening | None
    items: tuple[Item, ...]

    @property
    def needs_text(self) -> bool:
        """Whether the run's streamed text is to become its response."""
        return any(
            item.type == events.AGENT_COMPLETED and "response" not in item.payload
            for item in self.items
        )


def parse(fields: Mapping[str, Any]) -> Batch:
    """The request in a body that has no fields but :data:`FIELDS`; :class:`BadRequest` if none."""
    tenant = _optional_id(fields, "tenant") or ""
    opening, fence = fields.get("open"), fields.get("fence")
    if (opening is None) == (fence is None):
        raise _bad("either open, or the fence that opening the run has answered")
    if fence is not None and type(fence) is not int:
        raise _bad("fence is a number")
    return Batch(
        owner=Owner(tenant, named_id("user_id", fields.get("user_id"))),
        run_id=named_id("run_id", fields.get("run_id")),
        fence=fence,
        opening=None if opening is None else _opening(opening),
        items=_items(fields.get("events")),
    )


def _opening(fields: object) -> Opening:
    if not isinstance(fields, dict):
        raise _bad("open is an object")
    _check_known("open", fields, OPEN_FIELDS)
    metadata = fields.get("metadata")
    if metadata is not None and not isinstance(metadata, dict):
        raise _bad("open.metadata is an object")
    if too_deep(fields.get("content")) or too_deep(metadata):
        raise _bad(f"open: nested deeper than {MAX_NESTING} levels")
    scope, parent = fields.get("scope"), fields.get("parent_run_id")
    if scope is not None and scope not in SCOPES:
        raise BadRequest("invalid_scope", f"scope: one of {', '.join(SCOPES)}")
    if parent is not None and (scope is not None or fields.get("thread_id") is not None):
        raise _bad("a run with a parent_run_id has its thread and its scope: leave them out")
    return Opening(
        agent=named_id("agent_name", fields.get("agent_name")),
        thread_id=_optional_id(fields, "thread_id"),
        scope=None if scope is None else Scope(scope),
        content=fields.get("content"),
        metadata=metadata or {},
        parent_run_id=_optional_id(fields, "parent_run_id"),
        worker=_optional_id(fields, "worker") or "",
    )


def _items(listed: object) -> tuple[Item, ...]:
    if listed is None:
        return ()
    if not isinstance(listed, list) or not all(isinstance(each, dict) for each in listed):
        raise _bad("events is a list of objects")
    if len(listed) > MAX_EVENTS:
        raise BadRequest(
            "too_many_events", f"{len(listed)}: a request has at most {MAX_EVENTS}", status=413
        )
    items: list[Item] = []
    following = None
    for index, each in enumerate(listed):
        item = _item(index, each)
        if item.seq is not None:
            if following not in (None, item.seq):
                raise _bad(f"events[{index}]: seq rises by one from event to event")
            following = item.seq + 1
        items.append(item)
    return tuple(items)


def _item(index: int, fields: dict[str, Any]) -> Item:
    _check_known(f"events[{index}]", fields, ("type", "seq", "payload"))
    kind, seq, payload = fields.get("type"), fields.get("seq"), fields.get("payload", {})
    if not isinstance(kind, str) or not isinstance(payload, dict):
        raise _bad(f"events[{index}]: type is a string, payload an object")
    if kind == events.AGENT_DELTA:
        if seq is not None:
            raise _bad(f"events[{index}]: an agent_delta has an offset and no seq")
    elif type(seq) is not int or seq < 1:
        raise _bad(f"events[{index}]: seq is a number from 1 on")
    return Item(kind, seq, payload)


def _check_known(where: str, fields: Mapping[str, Any], valid: Sequence[str]) -> None:
    unknown = fields.keys() - set(valid)
    if unknown:
        names = ", ".join(sorted(unknown))
        raise BadRequest("unknown_field", f"{where}: {names}: valid are {', '.join(valid)}")


def _optional_id(fields: Mapping[str, Any], name: str) -> str | None:
    value = fields.get(name)
    return None if value is None else named_id(name, value)


def _bad(why: str) -> BadRequest:
    return BadRequest("bad_body", why)
