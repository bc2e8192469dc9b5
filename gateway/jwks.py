"""A key set that is fetched, kept fresh and kept in memory: from a JWKS URL, or from a file.

A gateway starts without it as well, and then refuses tokens as not verifiable *now*: an outage of
the login service is no reason to let anybody in, nor to call a good token bad.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Protocol

import aiohttp
import structlog

from gateway.freshness import Bounds, Freshness, fresh_seconds
from gateway.jwk import MAX_SET_BYTES, NoKeySet, Published, read_key_set
from gateway.keys import KeySet

log = structlog.get_logger(__name__)

FETCH_SECONDS: Final = 5.0
"""For the whole of one fetch; who waits for an unknown key waits no longer."""

FILE_BOUNDS: Final = Bounds(
    least_seconds=5.0, usual_seconds=5.0, most_seconds=5.0, look_seconds=1.0
)
"""A file is read again every five seconds: nothing says when it changes, and reading is cheap."""

_SPREAD: Final = random.SystemRandom().random


class Unreachable(Exception):
    """The document cannot be had; the text says why, for the log and for ``runcast check``."""


class Origin(Protocol):
    """Where a key set comes from."""

    bounds: Bounds
    secrets: bool
    """Whether secrets may be in it: not where others can read it."""

    async def fetch(self) -> tuple[bytes, float | None]:
        """The document, and for how many seconds it is fresh. :class:`Unreachable`."""


class JwksUrl:
    """A key set that a login service publishes. Redirects are not followed."""

    bounds = Bounds()
    secrets = False

    def __init__(self, url: str) -> None:
        self._url = url

    async def fetch(self) -> tuple[bytes, float | None]:
        """At most :data:`MAX_SET_BYTES` and one more; never a compressed body."""
        headers = {"Accept": "application/jwk-set+json, application/json",
                   "Accept-Encoding": "identity"}  # fmt: skip
        limit = aiohttp.ClientTimeout(total=FETCH_SECONDS)
        try:
            # One session for one fetch: the next is minutes away, and nothing is left to close.
            async with (
                aiohttp.ClientSession(timeout=limit, auto_decompress=False) as http,
                http.get(self._url, headers=headers, allow_redirects=False) as response,
            ):
                if response.status != 200:  # noqa: PLR2004
                    raise Unreachable(f"it answers HTTP {response.status}")
                document = b""
                while len(document) <= MAX_SET_BYTES:
                    piece = await response.content.read(MAX_SET_BYTES + 1 - len(document))
                    if not piece:
                        break
                    document += piece
                told = response.headers
                age = fresh_seconds(told.get("Cache-Control", ""), told.get("Age", ""))
                return document, age
        except TimeoutError:
            raise Unreachable(f"no answer within {FETCH_SECONDS:g} s") from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise Unreachable(str(error) or type(error).__name__) from None


class JwksFile:
    """A key set in a file, which may hold secrets too."""

    bounds = FILE_BOUNDS
    secrets = True

    def __init__(self, path: Path) -> None:
        self._path = path

    async def fetch(self) -> tuple[bytes, float | None]:
        """The file as it is now."""
        return await asyncio.to_thread(self.read), None

    def read(self) -> bytes:
        """The same, without a loop."""
        try:
            with self._path.open("rb") as file:
                return file.read(MAX_SET_BYTES + 1)
        except OSError as error:
            raise Unreachable(f"{self._path}: {error.strerror}") from None


class FetchedKeys:
    """The keys of one origin. ``clock`` is the one that tokens are judged by."""

    def __init__(
        self,
        origin: Origin,
        pinned: tuple[str, ...],
        *,
        stale_seconds: float,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._origin, self._pinned, self._clock = origin, pinned, clock
        self._freshness = Freshness(origin.bounds, stale_seconds=stale_seconds, random=_SPREAD)
        self._ignored: tuple[tuple[str, str], ...] = ()
        self._flight: asyncio.Task[None] | None = None
        self._refreshing: asyncio.Task[None] | None = None
        self.keys = KeySet()
        self.usable_until = self._freshness.usable_until
        self.why = "it was not fetched yet"
        """Why the last fetch failed, if it did. It names addresses: for the log only."""
        self.on_change: Callable[[], None] = lambda: None

    async def start(self) -> None:
        """Fetch it, and keep it fresh from now on. A fetch that fails is logged, no more."""
        await self.refresh()
        self._refreshing = asyncio.create_task(self._refresh_for_ever(), name="key set")

    async def stop(self) -> None:
        """End what is under way."""
        tasks = [task for task in (self._refreshing, self._flight) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def refresh(self, looked_for: str | None = None) -> None:
        """Fetch it once, however many ask for it meanwhile."""
        if self._flight is None:
            self._flight = asyncio.create_task(self._fetch(looked_for), name="key set fetch")
        await asyncio.shield(self._flight)

    async def look_for(self, kid: str | None) -> bool:
        """Fetch it because of a key that is not there; False when that may not be now."""
        if self._flight is None and not self._freshness.may_look(self._clock()):
            return False
        await self.refresh(kid)
        return True

    def lacks(self, kid: str, now: float) -> bool:
        """Whether it is known that this key is not there."""
        return self._freshness.lacks(kid, now)

    def health(self) -> dict[str, Any]:
        """For ``/ws/health``: nothing of it is secret."""
        now = self._clock()
        if now >= self.usable_until:
            detail = "the key set cannot be fetched, so there are no keys"
            return {"ok": False, "detail": detail, "keys": 0}
        if self._freshness.failing:
            left = round(self.usable_until - now)
            detail = f"the key set cannot be fetched; what it held counts for {left} s more"
            return {"ok": False, "detail": detail, "keys": len(self.keys)}
        ok = len(self.keys) > 0
        detail = "fetched" if ok else "the key set has no key that can be used"
        return {"ok": ok, "detail": detail, "keys": len(self.keys)}

    async def _refresh_for_ever(self) -> None:
        while True:
            wait = self._freshness.due_at - self._clock()
            if wait > 0:
                # Not longer than the set may be fresh, should the clock be set back meanwhile.
                await asyncio.sleep(min(wait, self._origin.bounds.most_seconds))
            else:
                await self.refresh()

    async def _fetch(self, looked_for: str | None) -> None:
        try:
            document, fresh_for = await self._origin.fetch()
            read = read_key_set(document, self._pinned, secrets=self._origin.secrets)
        except (Unreachable, NoKeySet) as error:
            self._failed(str(error))
        except Exception:
            log.exception("key_set_failed")
            self._failed("it was logged")
        else:
            self._take(read, fresh_for, looked_for)
        finally:
            self._flight = None

    def _failed(self, why: str) -> None:
        self.why = why
        self._freshness.failed(self._clock())
        log.warning("key_set_not_fetched", why=why, keys=len(self.keys))

    def _take(self, read: Published, fresh_for: float | None, looked_for: str | None) -> None:
        missing = looked_for is not None and looked_for not in read.keys.kids
        self.why = ""
        self._freshness.fetched(self._clock(), fresh_for, looked_for if missing else None)
        self.usable_until = self._freshness.usable_until
        if read.ignored != self._ignored:
            self._ignored = read.ignored
            for name, why in read.ignored:
                log.warning("key_ignored", kid=name, why=why)
        if read.keys != self.keys:
            self.keys = read.keys
            kids = sorted(kid for kid in read.keys.kids if kid is not None)
            log.info("key_set_changed", kids=kids, keys=len(read.keys))
            self.on_change()
