"""What a chat client raises.

::

    ChatError
    ├── Rejected            the gateway answered a frame with an error; the connection goes on
    ├── ConnectionRefused   no connection was made
    ├── Closed              the connection is over for good
    ├── Unanswered          the run asks, and there is nobody to answer
    └── BadFrame            the gateway sent what the protocol does not know
"""

from __future__ import annotations

import contextlib
from http import HTTPStatus
from typing import Any

import aiohttp
import orjson


class ChatError(Exception):
    """Base of all errors below."""


class Rejected(ChatError):
    """The gateway answered a frame with an error. ``retryable``: the same may succeed later."""

    def __init__(self, code: str, message: str, *, retryable: bool = False) -> None:
        self.code, self.message, self.retryable = code, message, retryable
        super().__init__(f"{code}: {message}")


class ConnectionRefused(ChatError):
    """No connection was made. ``status`` is ``None`` when there was no HTTP answer at all.

    ``problem`` is the answer's RFC 9457 body; its ``code`` says what was wrong.
    """

    def __init__(self, status: int | None, problem: dict[str, Any]) -> None:
        self.status, self.problem = status, problem
        why = problem.get("detail") or problem.get("title") or "no reason given"
        super().__init__(f"HTTP {status}: {why}" if status else str(why))


class Closed(ChatError):
    """The connection is over for good: its close code forbids to come back, or it was closed here.

    ``code`` is 1006 when the connection was lost without a close code.
    """

    def __init__(self, code: int, name: str) -> None:
        self.code, self.name = code, name
        super().__init__(f"closed with {code} ({name})")


class Unanswered(ChatError):
    """The run asks its user, and ``runcast chat`` has nobody to ask. The run waits on."""

    def __init__(self, prompt: str, expires_at: str) -> None:
        self.prompt, self.expires_at = prompt, expires_at
        super().__init__(
            f"the run asks {prompt!r} and waits until {expires_at}; answer it from another client, "
            "or give --answer TEXT, once for each question"
        )


class BadFrame(ChatError):
    """A frame that the protocol does not know: the other end is no gateway of version 3."""

    def __init__(self, why: str) -> None:
        self.why = why
        super().__init__(f"not a frame of protocol 3: {why}")


async def raise_refusal(response: aiohttp.ClientResponse) -> None:
    """For ``ClientSession(raise_for_status=…)``: aiohttp itself drops a refused handshake's body.

    :raises ConnectionRefused: what was asked for was refused.
    """
    if response.status < HTTPStatus.BAD_REQUEST:
        return
    problem: dict[str, Any] = {"title": response.reason or ""}
    with contextlib.suppress(aiohttp.ClientError, orjson.JSONDecodeError):
        told = orjson.loads(await response.read())
        if isinstance(told, dict):
            problem = told
    raise ConnectionRefused(response.status, problem)
