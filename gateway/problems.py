"""What goes wrong in a request, as RFC 9457 problems: refusals by their code, the rest logged."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from typing import Final

import structlog
from aiohttp import web

from broker.errors import BrokerUnavailable
from gateway.credentials import AuthError
from gateway.handshake import BadRequest
from gateway.http_api import problem
from gateway.session import FrameError

log = structlog.get_logger(__name__)

FRAME_ERRORS: Final = {
    "run_not_found": 404, "unknown_agent": 404, "not_allowed": 403, "message_too_large": 413,
    "rate_limited": 429, "queue_full": 429, "broker_unavailable": 503, "internal": 500,
}  # fmt: skip
"""Error code of a frame → the status of the same over HTTP; the others are 400."""


@web.middleware
async def as_problems(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Errors of aiohttp and of ours as RFC 9457 problems; what is unexpected is logged here."""
    # aiohttp's task is that of the connection: it may have had another user's request before.
    structlog.contextvars.unbind_contextvars("user")
    try:
        return await handler(request)
    except AuthError as error:
        log.info("request_refused", reason=error.log_reason, token_hash=error.token_hash)
        return problem(error.status, error.code, str(error))
    except BadRequest as refused:
        return problem(
            refused.status,
            refused.code,
            refused.detail,
            retry_after_seconds=refused.retry_after_seconds,
            more=refused.more,
        )
    except FrameError as error:
        retry = math.ceil((error.retry_after_ms or 1000) / 1000)
        status = FRAME_ERRORS.get(error.code, 400)
        return problem(status, error.code, error.message, retry_after_seconds=retry)
    except BrokerUnavailable:
        return problem(503, "broker_unavailable", "Redis cannot be reached; try again.")
    except web.HTTPException as error:
        if error.status < web.HTTPBadRequest.status_code:
            raise
        told = problem(error.status, error.reason.lower().replace(" ", "_"), error.reason)
        if "Allow" in error.headers:  # of a 405 (RFC 9110 section 15.5.6)
            told.headers["Allow"] = error.headers["Allow"]
        return told
    except Exception:
        resource = request.match_info.route.resource
        log.exception("request_failed", route=resource.canonical if resource is not None else None)
        return problem(500, "internal", "It was logged.")
