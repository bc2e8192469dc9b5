"""Who a request is from: one authentication for all modes, without a bypass (protocol section 5).

Everything here fails closed. What went wrong goes into the log and never to the peer: a refusal
that explains itself helps whoever forges tokens.
"""

from __future__ import annotations

import hashlib
import hmac
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Final

import orjson
from multidict import MultiMapping
from pydantic import SecretStr

from broker.config import Settings
from gateway import claims, compact
from gateway.claims import Identity, Rules
from gateway.credentials import AuthError, KeyMissing, bearer
from gateway.key_source import KeySource, key_source
from gateway.keys import UnknownKid

MAX_TOKEN_BYTES: Final = 8192
"""Longer than any token that fits into one request header of common proxies."""
MAX_CACHED_TOKENS: Final = 4096
"""Some 2 MB; a reconnect storm then costs one hash per socket instead of one signature."""


class Verifier:
    """Verifies tokens with the configured keys and the algorithms pinned for each.

    A token's header says no more than which of them: not by ``alg``, ``jwk``, ``jku`` nor ``x5u``.
    ``source`` is the configured one unless given.

    :raises ConfigurationError: no usable key is configured.
    """

    def __init__(self, settings: Settings, *, source: KeySource | None = None) -> None:
        self._settings = settings
        self._source = key_source(settings) if source is None else source
        self._rules = Rules(
            audiences=settings.jwt_audience,
            issuer=settings.jwt_issuer,
            token_type=settings.jwt_type,
            leeway_seconds=settings.jwt_leeway_seconds,
            max_age_seconds=settings.jwt_max_age_seconds,
        )
        self._verified: OrderedDict[str, Identity] = OrderedDict()
        self._source.on_change = self._verified.clear

    async def start(self) -> None:
        """Have the keys fetched, if they are not here, and kept fresh until :meth:`stop`."""
        await self._source.start()

    async def stop(self) -> None:
        """End that."""
        await self._source.stop()

    @property
    def algorithms(self) -> tuple[str, ...]:
        """What is accepted with the keys at hand."""
        return self._source.keys.algorithms

    def health(self) -> dict[str, Any] | None:
        """Whether the keys can be fetched; None when they need not be."""
        return self._source.health()

    def verify(self, token: str, now: float) -> Identity:
        """The identity of a token that is valid at ``now`` by the keys at hand.

        :raises AuthError: it is not; why, stands in ``log_reason``.
        :raises KeyMissing: that cannot be said with these keys.
        """
        try:
            raw = token.encode("ascii")
        except UnicodeEncodeError:
            raise AuthError("unauthorized", "not a token: beyond ASCII") from None
        digest = hashlib.sha256(raw).hexdigest()
        if now >= self._source.usable_until:
            raise KeyMissing(None, "there are no keys that still count", digest)
        identity = self._verified.get(digest)
        if identity is None:
            try:
                identity = self._check(raw, digest, now)
            except UnknownKid as error:
                if self._source.lacks(error.kid, now):
                    raise AuthError("unauthorized", str(error), digest) from None
                raise KeyMissing(error.kid, str(error), digest) from None
            except ValueError as error:
                raise AuthError("unauthorized", str(error), digest) from None
            self._verified[digest] = identity
            if len(self._verified) > MAX_CACHED_TOKENS:
                self._verified.popitem(last=False)
        if now >= identity.expires_at + self._rules.leeway_seconds:
            del self._verified[digest]
            raise AuthError("unauthorized", "expired", digest)
        return identity

    async def authenticate(self, token: str, now: float) -> Identity:
        """The same, after the keys were fetched once if the token's is not among them."""
        try:
            return self.verify(token, now)
        except KeyMissing as missing:
            if not await self._source.look_for(missing.kid):
                raise
        return self.verify(token, now)

    def forget(self, matches: Callable[[Identity], bool]) -> None:
        """Verify these tokens again when they come again: they were revoked, for example."""
        for digest in [each for each, known in self._verified.items() if matches(known)]:
            del self._verified[digest]

    def _check(self, raw: bytes, digest: str, now: float) -> Identity:
        """``ValueError`` says what is wrong, in words that do not repeat the token."""
        if not 0 < len(raw) <= MAX_TOKEN_BYTES:
            raise ValueError(f"not a token: {len(raw)} bytes")
        header, payload, signed, signature = compact.parts(raw)
        claims.check_header(header, self._rules)
        key = self._source.keys.find(header.get("kid"), header.get("alg"))
        if not key.verifies(header["alg"], signed, signature):
            raise ValueError("signature does not match")
        told = orjson.loads(payload)
        return claims.identity(told, self._rules, now=now, token_hash=digest)


def bears(headers: MultiMapping[str], key: SecretStr | None) -> bool:
    """Whether the bearer is this key, compared in constant time; never when there is none."""
    offered = bearer(headers)
    if offered is None or key is None:
        return False
    raw = offered.encode("utf-8", "surrogateescape")
    return hmac.compare_digest(raw, key.get_secret_value().encode())
