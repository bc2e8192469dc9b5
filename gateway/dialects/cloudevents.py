"""An event of the log as a CloudEvent (CloudEvents 1.0.2, JSON format, structured mode).

``data`` is the event as every client gets it (protocol section 2). ``id`` names the event for good:
it is made of its owner, run and ``seq``, so it is the same however often the event is sent, and
nobody else's event has it.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final

import orjson

from broker.channels import Owner, encode_id
from broker.codec import Entry
from broker.trace_context import read

CONTENT_TYPE: Final = "application/cloudevents+json; charset=utf-8"

_ID_DIGITS: Final = 32
"""Hexadecimal: 128 bits of the hash."""


@dataclass(frozen=True, slots=True)
class CloudEvent:
    """``id``: letters and digits. ``body``: the whole CloudEvent, JSON.

    ``traceparent``: to which trace the event belongs; None when it does not say.
    """

    id: str
    body: bytes
    traceparent: str | None = None


def cloud_event(entry: Entry, *, prefix: str, position: bytes) -> CloudEvent:
    """One event. ``position``: its id in the stream that gives the order, as ``1763861234567-0``.

    Positions become the extension ``sequence``, whose order is that of its text. ``ValueError``
    when the entry's body is no event.
    """
    event = orjson.loads(entry.body)
    if not isinstance(event, dict) or not entry.body.startswith(b"{"):
        raise ValueError("an event is an object, and begins as one")
    owner, thread = entry.owner.decode(), entry.thread.decode()
    tenant = Owner.from_token(owner).tenant
    event_id = sha256(b"%b %b %b" % (entry.owner, entry.run, entry.seq)).hexdigest()[:_ID_DIGITS]
    told: dict[str, Any] = {
        "specversion": "1.0",
        "id": event_id,
        "source": f"/runcast/{prefix}" + (f"/{encode_id(tenant)}" if tenant else ""),
        "type": f"runcast.{entry.type.decode()}.v3",
        "subject": f"{thread}/{entry.run.decode()}",
        "time": event.get("timestamp"),
        "datacontenttype": "application/json",
        "sequence": _sortable(position),
        "partitionkey": f"{owner}:{thread}",
    }
    if not isinstance(told["time"], str):
        raise ValueError("an event has a timestamp")
    trace = read(event.get("traceparent"))
    traceparent = None if trace is None else trace.traceparent
    if traceparent is not None:
        told["traceparent"] = traceparent
    told["data"] = orjson.Fragment(entry.text())
    return CloudEvent(event_id, orjson.dumps(told), traceparent)


def _sortable(position: bytes) -> str:
    """Both parts of a stream's id with all the digits that they can have."""
    first, _, second = position.partition(b"-")
    return f"{int(first):020d}-{int(second):020d}"
