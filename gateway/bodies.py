"""The JSON body of a request, of which no field is ignored."""

from __future__ import annotations

from typing import Any

import orjson
from aiohttp import web

from gateway.handshake import BadRequest


async def read_object(request: web.Request, *valid: str) -> dict[str, Any]:
    """The body's fields; an empty body has none. :class:`BadRequest` for anything else."""
    try:
        raw = await request.read()
    except web.HTTPRequestEntityTooLarge:
        raise BadRequest("message_too_large", "a body has too many bytes", status=413) from None
    try:
        fields = orjson.loads(raw or b"{}")
    except orjson.JSONDecodeError:
        fields = None
    if not isinstance(fields, dict):
        raise BadRequest("bad_body", "the body is a JSON object, or empty")
    unknown = fields.keys() - set(valid)
    if unknown:
        raise BadRequest("unknown_field", f"{', '.join(sorted(unknown))}: valid are {_list(valid)}")
    return fields


def _list(names: tuple[str, ...]) -> str:
    return ", ".join(sorted(names))
