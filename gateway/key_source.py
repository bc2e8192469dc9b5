"""Where a gateway's keys come from: exactly one of three settings, refused when it cannot work."""

from __future__ import annotations

import ipaddress
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Protocol
from urllib.parse import SplitResult, unquote, urlsplit

from broker.config import Settings
from broker.errors import ConfigurationError
from gateway.jwk import NoKeySet, read_key_set
from gateway.jwks import FetchedKeys, JwksFile, JwksUrl, Origin, Unreachable
from gateway.keys import (
    MIN_SECRET_BYTES,
    PUBLIC_KEY_ALGORITHMS,
    KeySet,
    UnusableKey,
    pem_key,
    secret_key,
)

SHARED: Final = "RUNCAST_JWT_SECRET"
FILE: Final = "RUNCAST_JWT_PUBLIC_KEY_FILE"
URL: Final = "RUNCAST_JWT_JWKS_URL"

_SECRETS: Final = tuple(MIN_SECRET_BYTES)
_PUBLIC_DEFAULT: Final = ("RS256", "ES256", "EdDSA")


class KeySource(Protocol):
    """The keys, as the verifier asks for them."""

    keys: KeySet
    usable_until: float
    """Until when, by the clock that tokens are judged by."""
    on_change: Callable[[], None]
    """Called when :attr:`keys` is another set, so that nothing outlives its key."""

    async def start(self) -> None:
        """Have them here, if they can be had, and keep them fresh until :meth:`stop`."""

    async def stop(self) -> None:
        """End that."""

    async def look_for(self, kid: str | None) -> bool:
        """Look where the keys come from for one that is not here; False: not now."""

    def lacks(self, kid: str, now: float) -> bool:
        """Whether it is certain that there is no such key."""

    def health(self) -> dict[str, Any] | None:
        """A check of ``/ws/health``; None when nothing can fail."""


class FixedKeys:
    """Keys that stay as they are until the next start."""

    usable_until = math.inf

    def __init__(self, keys: KeySet) -> None:
        self.keys = keys
        self.on_change: Callable[[], None] = lambda: None

    async def start(self) -> None:
        """Nothing to do."""

    async def stop(self) -> None:
        """Nothing to do."""

    async def look_for(self, kid: str | None) -> bool:
        """There is nowhere to look."""
        del kid
        return False

    def lacks(self, kid: str, now: float) -> bool:
        """What is not here is nowhere."""
        del kid, now
        return True

    def health(self) -> dict[str, Any] | None:
        """They cannot fail, so there is nothing to check."""
        return None


def key_source(settings: Settings) -> KeySource:
    """The configured keys, read, or ready to be fetched.

    :raises ConfigurationError: no usable key is configured.
    """
    pinned = require_verification_key(settings)
    if settings.jwt_secret is not None:
        secret = settings.jwt_secret.get_secret_value().encode()
        return FixedKeys(KeySet([secret_key(None, secret, pinned)]))
    if settings.jwt_public_key_file:
        return FixedKeys(_pem_keys(settings.jwt_public_key_file, pinned))
    origin = _origin(settings.jwt_jwks_url or "")
    if isinstance(origin, JwksFile):
        _require_readable(origin, pinned)
    return FetchedKeys(origin, pinned, stale_seconds=settings.jwt_jwks_stale_seconds)


def require_verification_key(settings: Settings) -> tuple[str, ...]:
    """The pinned algorithms of the one configured source, without reading files or addresses.

    :raises ConfigurationError: there is no source or more than one, the algorithms are not its
        kind, the secret is too short for them, or it is in truth a public key (whoever knows that
        could then sign), or the address of a key set can be changed on its way.
    """
    given = {
        SHARED: settings.jwt_secret is not None,
        FILE: bool(settings.jwt_public_key_file),
        URL: settings.jwt_jwks_url is not None,
    }
    chosen = [name for name, there in given.items() if there]
    if len(chosen) > 1:
        raise ConfigurationError(
            setting=chosen[0],
            why=f"{' and '.join(chosen[1:])} is configured as well",
            todo="Keep the one that your tokens are signed with and remove the other.",
        )
    if settings.jwt_secret is not None:
        return _require_secret(settings.jwt_secret.get_secret_value(), settings.jwt_algorithms)
    if settings.jwt_public_key_file:
        algorithms = settings.jwt_algorithms or _PUBLIC_DEFAULT
        return _require_algorithms(algorithms, PUBLIC_KEY_ALGORITHMS, "a public key")
    if settings.jwt_jwks_url is not None:
        secrets = _SECRETS if _origin(settings.jwt_jwks_url).secrets else ()
        algorithms = settings.jwt_algorithms or (*secrets[:1], *_PUBLIC_DEFAULT)
        return _require_algorithms(algorithms, (*secrets, *PUBLIC_KEY_ALGORITHMS), "this key set")
    raise ConfigurationError(
        setting=SHARED,
        why="there is no key to verify tokens with",
        todo="Set it to the secret that your login service signs with (32 bytes or more), or "
        f"{FILE} to its public key, or {URL} to its key set. To just try: runcast demo.",
    )


def _require_secret(secret: str, configured: tuple[str, ...]) -> tuple[str, ...]:
    algorithms = _require_algorithms(configured or _SECRETS[:1], _SECRETS, "a secret")
    try:
        usable = secret_key(None, secret.encode(), algorithms).algorithms
    except UnusableKey as error:
        raise ConfigurationError(setting=SHARED, why=error.why, todo=_todo(error)) from None
    if usable != algorithms:
        needed = max(MIN_SECRET_BYTES[algorithm] for algorithm in algorithms)
        raise ConfigurationError(
            setting=SHARED,
            why=f"it has {len(secret.encode())} bytes and {', '.join(algorithms)} needs {needed}",
            todo="Make one with: openssl rand -base64 64 | tr -d '\\n'",
        )
    return algorithms


def _todo(error: UnusableKey) -> str:
    return f"{error.todo}; a public key belongs into a file: {FILE}."


def _require_algorithms(
    chosen: tuple[str, ...], possible: tuple[str, ...], key: str
) -> tuple[str, ...]:
    for algorithm in chosen:
        if algorithm not in possible:
            raise ConfigurationError(
                setting="RUNCAST_JWT_ALGORITHMS",
                why=f"{algorithm!r} cannot be verified with {key}",
                todo=f"Choose from {', '.join(possible)}.",
            )
    return chosen


def _pem_keys(named: tuple[str, ...], pinned: tuple[str, ...]) -> KeySet:
    """The keys in the files, each a path or ``kid=path``."""
    keys = []
    for each in named:
        before, sign, after = each.partition("=")
        kid, path = (before, after) if sign and "/" not in before else (None, each)
        try:
            keys.append(pem_key(kid, Path(path).read_bytes(), pinned))
        except OSError as error:
            raise ConfigurationError(
                setting=FILE, why=f"{path}: {error.strerror}",
                todo="Check the path and who may read it.",
            ) from None  # fmt: skip
        except UnusableKey as error:
            raise ConfigurationError(
                setting=FILE, why=f"{path}: {error.why}", todo=error.todo
            ) from None
    found = KeySet(keys)
    if found.surplus:
        raise ConfigurationError(
            setting=FILE,
            why="two keys for the same algorithm have the same name, or none",
            todo="Give every key the kid of its tokens: kid=path,kid=path.",
        )
    return found


def _origin(address: str) -> Origin:
    """Where the set is fetched from; nobody on the way may be able to change it."""
    try:
        url = urlsplit(address)
        port_is_one = url.port is None or url.port > 0
    except ValueError:
        url, port_is_one = SplitResult("", "", "", "", ""), False
    if url.scheme == "file" and url.netloc in ("", "localhost") and url.path not in ("", "/"):
        return JwksFile(Path(unquote(url.path)))
    if url.scheme == "http" and url.hostname and not _is_loopback(url.hostname):
        raise ConfigurationError(
            setting=URL,
            why="over http:// anybody on the way could put in keys of his own",
            todo="Use https://; http:// is for this machine only (127.0.0.1, ::1, localhost).",
        )
    if url.username is not None or url.password is not None:
        raise ConfigurationError(
            setting=URL,
            why="it has a user or password, and would be logged with it",
            todo="Key sets are public; serve this one without a login, or from a file.",
        )
    if url.scheme in ("http", "https") and url.hostname and port_is_one:
        return JwksUrl(address)
    raise ConfigurationError(
        setting=URL,
        why="it is not the address of a key set",
        todo="Use https://login.example/.well-known/jwks.json, or file:///path/keys.json.",
    )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _require_readable(origin: JwksFile, pinned: tuple[str, ...]) -> None:
    """A file is this machine's own: what is wrong with it is told at start."""
    try:
        published = read_key_set(origin.read(), pinned, secrets=True)
    except (Unreachable, NoKeySet) as error:
        raise ConfigurationError(
            setting=URL, why=str(error), todo='Write {"keys": [{"kid": …, "kty": …}]} into it.'
        ) from None
    if not published.keys.kids:
        why = "; ".join(f"{name}: {reason}" for name, reason in published.ignored)
        raise ConfigurationError(
            setting=URL, why=f"no key of it can be used ({why or 'it is empty'})",
            todo="Put in a key that your tokens are signed with.",
        )  # fmt: skip
