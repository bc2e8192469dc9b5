"""The OpenAPI document: every HTTP path of a gateway, with what it takes, answers and refuses.

``docs/reference/openapi.json`` belongs to this module: ``python docs/generate.py`` writes it. Paths
and their prose come from the gateway's own route tables; what they take and answer stands in
``docs.openapi_operations`` and ``docs.openapi_answers``. A path that does not is a KeyError.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

from docs import schema_asyncapi, schema_frames
from docs.openapi_answers import SCHEMAS
from docs.openapi_operations import CONNECTIONS, OPERATIONS, WEBSOCKET, Operation
from gateway import http_api, scrape
from gateway.app import API_ROUTES, FILES, event_stream, operators_page, page, static, websocket
from gateway.connection import PROTOCOL
from gateway.handshake import ROUTES, STREAM_PATH

COMPONENTS: Final = "#/components/schemas/"

_TITLES: Final = {
    101: "Switching protocols: WebSocket frames follow", 200: "OK", 201: "Made", 202: "Accepted",
    204: "There is none",
    400: "Bad request", 401: "No valid token", 403: "Not allowed", 404: "Not found",
    409: "Not as it stands",
    413: "Too large", 426: "Not a WebSocket handshake", 429: "Too many",
    500: "A defect; it was logged", 503: "Not now",
}  # fmt: skip

_PATTERN: Final = re.compile(r"\{(\w+):[^}]+\}")
_PROSE: Final = re.compile(r"^``[^`]+``:? ?")


def document() -> dict[str, Any]:
    """The whole document."""
    paths: dict[str, dict[str, Any]] = {}
    for method, path, handler in routes():
        paths.setdefault(path, {})[method.lower()] = _operation(
            method, path, handler, _told(method, path)
        )
    into = schema_frames.embedded(COMPONENTS)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Runcast",
            "version": f"{PROTOCOL}.0.0",
            "description": "Made by docs/generate.py from the code's tables: do not edit. "
            "Frames of sockets and event streams: asyncapi.json.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "http://localhost:8080"}],
        "paths": paths,
        "components": {
            "schemas": {
                **into({name: _frames()[name] for name in _used()}),
                **into(SCHEMAS),
            },
            "securitySchemes": {
                "token": {
                    "type": "http", "scheme": "bearer", "bearerFormat": "JWT",
                    "description": "A user's.",
                },
                "operator": {
                    "type": "http", "scheme": "bearer",
                    "description": "RUNCAST_OPERATOR_KEY, or a JWT with the role operator.",
                },
                "worker": {
                    "type": "http", "scheme": "bearer", "description": "RUNCAST_WORKER_KEY.",
                },
                "metrics": {
                    "type": "http", "scheme": "bearer", "description": "RUNCAST_METRICS_KEY.",
                },
                "ticket": {"type": "apiKey", "in": "query", "name": "ticket"},
            },
        },
    }  # fmt: skip


def _told(method: str, path: str) -> Operation:
    """Where one path is two things, the second has its method in its name."""
    return OPERATIONS.get(f"{method} {path}") or OPERATIONS[WEBSOCKET if path in ROUTES else path]


def routes() -> list[tuple[str, str, Any]]:
    """Method, path as OpenAPI writes it, handler: of all that a gateway serves."""
    made: list[tuple[str, str, Any]] = [("GET", path, websocket) for path in ROUTES]
    made += [
        ("GET", STREAM_PATH, event_stream),
        ("GET", "/ws/health", http_api.health),
        ("GET", "/ws/config", http_api.config),
        ("GET", "/ws/stats", http_api.stats),
        ("GET", scrape.PATH, scrape.metrics),
        ("GET", "/livez", http_api.livez),
        ("GET", "/readyz", http_api.readyz),
        ("GET", "/", page),
        ("GET", "/console", operators_page),
        ("GET", "/static/{name}", static),
    ]
    made += [(method, _PATTERN.sub(r"{\1}", path), handler) for method, path, handler in API_ROUTES]
    return made


def _operation(method: str, path: str, handler: Any, told: Operation) -> dict[str, Any]:
    summary = (inspect.getdoc(handler) or "").partition("\n")[0].rstrip(".")
    if path in ROUTES:
        summary = "A WebSocket (RFC 6455)"
    made: dict[str, Any] = {
        "operationId": _operation_id(method, path),
        "summary": _PROSE.sub("", summary).replace("``", ""),
        "tags": [told.tag],
        "security": [{name: []} for name in told.security],
        "parameters": [*_in_path(path), *_in_query(path, told), *told.headers],
        "responses": {
            **{str(status): _answer(status, each, told) for status, each in told.answers.items()},
            **{str(status): _refusal(status, codes) for status, codes in told.refused.items()},
        },
    }
    if told.body is not None:
        made["requestBody"] = {
            "required": "required" in told.body,
            "content": {"application/json": {"schema": told.body}},
        }
    into: dict[str, Any] = schema_frames.embedded(COMPONENTS)(made)
    return into


def _operation_id(method: str, path: str) -> str:
    return f"{method.lower()}{re.sub('[^a-z_]+', '_', path).rstrip('_') or '_page'}"


def _in_path(path: str) -> list[dict[str, Any]]:
    found = []
    for name in re.findall(r"\{(\w+)\}", path):
        if path.startswith("/static/"):
            schema: dict[str, Any] = {"enum": sorted(FILES)}
        else:
            schema = schema_frames.ref("id")
        found.append({"name": name, "in": "path", "required": True, "schema": schema})
    return found


def _in_query(path: str, told: Operation) -> list[dict[str, Any]]:
    fields: Mapping[str, Any] = told.query
    if told.tag == CONNECTIONS:
        fields = schema_asyncapi.query(ROUTES.get(path))["properties"]
    return [
        {"name": name, "in": "query", "required": False, "schema": schema}
        for name, schema in fields.items()
    ]


def _answer(status: int, content: Mapping[str, Any], told: Operation) -> dict[str, Any]:
    made: dict[str, Any] = {"description": _TITLES[status]}
    if content:
        made["content"] = {kind: {"schema": schema} for kind, schema in content.items()}
    if told.then:
        made["links"] = {
            _operation_id(method, path): {
                "operationId": _operation_id(method, path),
                "parameters": {"id": "$response.body#/run_id"},
            }
            for method, path, _ in routes()
            if path in told.then
        }
    return made


def _refusal(status: int, codes: Iterable[str]) -> dict[str, Any]:
    narrower = {"properties": {"status": {"const": status}, "code": {"enum": sorted(codes)}}}
    schema = {"allOf": [schema_frames.ref("problem"), narrower]}
    made: dict[str, Any] = {
        "description": _TITLES[status],
        "content": {"application/problem+json": {"schema": schema}},
    }
    headers: dict[str, dict[str, Any]] = {
        401: {"WWW-Authenticate": {"const": "Bearer"}},
        426: {"Upgrade": {"const": "websocket"}, "Sec-WebSocket-Version": {"const": "13"}},
        429: {"Retry-After": {"type": "integer", "minimum": 1}},
        503: {"Retry-After": {"type": "integer", "minimum": 1}},
    }.get(status, {})
    if headers:
        made["headers"] = {
            name: {"required": True, "schema": schema} for name, schema in headers.items()
        }
    return made


def _frames() -> dict[str, Any]:
    return schema_frames.definitions()


def _used() -> list[str]:
    """The definitions of frames that bodies need, themselves or by way of others."""
    found: dict[str, None] = {}

    def look(part: Any) -> None:
        if isinstance(part, dict):
            name = str(part.get("$ref", "")).rpartition("/")[2]
            if name in _frames() and name not in found:
                found[name] = None
                look(_frames()[name])
            for each in part.values():
                look(each)
        elif isinstance(part, list):
            for each in part:
                look(each)

    look(SCHEMAS)
    look([[each.body, dict(each.query), dict(each.answers)] for each in OPERATIONS.values()])
    return ["id", *(name for name in found if name != "id")]
