"""The AsyncAPI document: what is said over a WebSocket, and over an event stream.

``docs/reference/asyncapi.json`` belongs to this module: ``python docs/generate.py`` writes it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from broker.channels import Level, Mode
from broker.events import AGENT_DELTA, PAYLOADS
from docs.schema_frames import CLIENT, CONTROL, DIALECT, ECHOES, REPLIES
from gateway.connection import PROTOCOL
from gateway.handshake import CREDENTIALS, EVENTS, PARAMETERS, ROUTES, STREAM_PATH

FRAMES: Final = "./frames.schema.json#/$defs/"
FORMAT: Final = f"application/schema+json;version={DIALECT}"

VALUES: Final = {
    "mode": tuple(Mode), "isolation_level": tuple(Level), "connection_scope": ("true",),
    "events": EVENTS,
}  # fmt: skip
"""Query parameter → its words, where it has a list of them."""

_EVENTS: Final = (*PAYLOADS, *ECHOES, AGENT_DELTA)
_SPOKEN: Final = tuple(name for name in CONTROL if name != "closing")


def document() -> dict[str, Any]:
    """The whole document."""
    sent = [*_EVENTS, *_SPOKEN, *REPLIES]
    streamed = [*_EVENTS, *CONTROL]
    asked = [f"client_{name}" for name in CLIENT]
    channels = {
        _name(path): _channel(path, [*sent, *asked], websocket=True, mode=mode)
        for path, mode in ROUTES.items()
    }
    channels["sse"] = {
        **_channel(STREAM_PATH, streamed, websocket=False, mode=None),
        "description": "Server-sent events: a frame is an event's data, its cursor the event's id. "
        "The header Last-Event-ID counts as after, and more than it.",
    }
    operations = {}
    for path in ROUTES:
        name = _name(path)
        operations[f"{name}_to_client"] = _operation("send", name, sent)
        operations[f"{name}_from_client"] = {
            **_operation("receive", name, asked),
            "reply": {
                "channel": {"$ref": f"#/channels/{name}"},
                "messages": _listed(name, REPLIES),
            },
        }
    operations["sse_to_client"] = _operation("send", "sse", streamed)
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Runcast",
            "version": f"{PROTOCOL}.0.0",
            "description": "Made by docs/generate.py from the code's tables: do not edit. An "
            "action is the gateway's: it sends what a client receives. Frames of legacy mode are "
            "in frames.schema.json, as legacy_server_frame and legacy_client_frame.",
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": "application/json",
        "servers": {
            "gateway": {
                "host": "localhost:8080",
                "protocol": "ws",
                "security": [
                    {"$ref": "#/components/securitySchemes/token"},
                    {"$ref": "#/components/securitySchemes/ticket"},
                ],
            },
            "stream": {
                "host": "localhost:8080",
                "protocol": "http",
                "security": [
                    {"$ref": "#/components/securitySchemes/token"},
                    {"$ref": "#/components/securitySchemes/ticket"},
                ],
            },
        },
        "channels": channels,
        "operations": operations,
        "components": {
            "messages": {
                name: _message(name) for name in dict.fromkeys([*sent, *streamed, *asked])
            },
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"},
                "ticket": {"type": "httpApiKey", "in": "query", "name": "ticket"},
            },
        },
    }


def query(mode: Mode | None) -> dict[str, Any]:
    """The query parameters of a connection, in this mode or in any."""
    fields: dict[str, Any] = {}
    for name, modes in PARAMETERS.items():
        if mode is not None and mode not in modes:
            continue
        fields[name] = {"type": "string"}
        if name in VALUES:
            fields[name]["enum"] = [str(word) for word in VALUES[name]]
        if modes != frozenset(Mode):
            fields[name]["description"] = f"Only in mode {', '.join(sorted(modes))}."
    if mode is not None:
        fields["mode"]["enum"] = [mode.value]
    for name in sorted(CREDENTIALS):
        fields[name] = {"type": "string", "description": "In place of the header."}
    return {"type": "object", "properties": fields, "additionalProperties": False}


def _name(path: str) -> str:
    return path.strip("/").replace("/", "_")


def _channel(
    path: str, names: Iterable[str], *, websocket: bool, mode: Mode | None
) -> dict[str, Any]:
    made: dict[str, Any] = {
        "address": path,
        "servers": [{"$ref": f"#/servers/{'gateway' if websocket else 'stream'}"}],
        "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in names},
    }
    if websocket:
        made["bindings"] = {"ws": {"method": "GET", "query": query(mode)}}
    return made


def _operation(action: str, channel: str, names: Iterable[str]) -> dict[str, Any]:
    made: dict[str, Any] = {
        "action": action,
        "channel": {"$ref": f"#/channels/{channel}"},
        "messages": _listed(channel, names),
    }
    if channel == "sse":
        made["bindings"] = {"http": {"method": "GET", "query": query(None)}}
    return made


def _listed(channel: str, names: Iterable[str]) -> list[dict[str, str]]:
    return [{"$ref": f"#/channels/{channel}/messages/{name}"} for name in names]


def _message(name: str) -> dict[str, Any]:
    return {
        "name": name.removeprefix("client_"),
        "payload": {"schemaFormat": FORMAT, "schema": {"$ref": f"{FRAMES}{name}"}},
    }
