"""One post to the webhook, and what came of it."""

from __future__ import annotations

from dataclasses import dataclass

import aiohttp

from gateway.dialects.cloudevents import CONTENT_TYPE
from gateway.webhooks.target import Target


@dataclass(frozen=True, slots=True)
class Answer:
    """``status``: None without an answer; ``detail`` then says why, and else repeats it."""

    status: int | None
    detail: str
    retry_after: str | None = None


class Poster:
    """The connections to one receiver: few, kept open between posts, and none before the first."""

    def __init__(self, target: Target, *, timeout_seconds: float, most: int) -> None:
        self._target, self._most = target, most
        self._timeout = aiohttp.ClientTimeout(total=timeout_seconds)
        self._session: aiohttp.ClientSession | None = None

    async def post(self, body: bytes, headers: dict[str, str]) -> Answer:
        """Post once. Redirections are not followed: they would lead where nobody configured."""
        session = self._session or self._open()
        try:
            async with session.post(
                self._target.url,
                data=body,
                headers={"Content-Type": CONTENT_TYPE, **headers},
                allow_redirects=False,
            ) as response:
                return Answer(
                    response.status, f"HTTP {response.status}", response.headers.get("Retry-After")
                )
        except TimeoutError:
            return Answer(None, f"no answer within {self._timeout.total:g} s")
        except (aiohttp.ClientError, OSError, ValueError) as error:
            # An aiohttp error's text can hold the address, and that a password.
            return Answer(None, type(error).__name__)

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()

    def _open(self) -> aiohttp.ClientSession:
        connector = aiohttp.TCPConnector(limit=self._most, ssl=self._target.tls or True)
        self._session = aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=self._timeout,
            headers={"User-Agent": "Runcast"},
        )
        return self._session
