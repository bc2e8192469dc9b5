"""The JSON body of a request."""

from __future__ import annotations

from typing import Any

import orjson
from aiohttp import web

from gateway.handshake import BadRequest


async def read_object(request: web.Request, *valid: str) -> dict[str, Any]:
    """The body's fields; an empty body has none. :class:`BadRequest` for anything else."""
    fields = await read_any(request)
    unknown = fields.keys() - set(valid)
    if unknown:
        raise BadRequest("unknown_field", f"{', '.join(sorted(unknown))}: valid are {_list(valid)}")
    return fields


async def read_any(request: web.Request) -> dict[str, Any]:
    """The same, of whatever names."""
    try:
        raw = await request.read()
    except web.HTTPRequestEntityTooLarge:
        raise BadRequest("message_too_large", "a body has too many bytes", status=413) from None
    except web.RequestPayloadError:
        raise BadRequest("bad_body", "the body is not encoded as Content-Encoding says") from None
    except ConnectionResetError:
        raise BadRequest("gone", "The client went away.") from None
    try:
        fields = orjson.loads(raw or b"{}")
    except orjson.JSONDecodeError:
        fields = None
    if not isinstance(fields, dict):
        raise BadRequest("bad_body", "the body is a JSON object, or empty")
    return fields


def _list(names: tuple[str, ...]) -> str:
    return ", ".join(sorted(names))
