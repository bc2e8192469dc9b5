"""Where a chat client has its tokens from: one, or a function that gives a fresh one each time."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable

import structlog

log = structlog.get_logger(__name__)

Token = str | Callable[[], str | Awaitable[str]]


class TokenSource:
    """Tokens for one client's connections; ``renewable``: there may be another one."""

    def __init__(self, token: Token) -> None:
        self._token = token
        self.renewable = callable(token)

    async def give(self) -> str:
        """The token; raises what the function raises."""
        if isinstance(self._token, str):
            return self._token
        given = self._token()
        return await given if inspect.isawaitable(given) else given

    async def try_give(self) -> str | None:
        """The token; None, and a line in the log, when the function raises."""
        try:
            return await self.give()
        except Exception:
            log.exception("token_not_given")
            return None
