"""Who a request is from: one authentication for all modes, without a bypass (protocol section 5).

Everything here fails closed. What went wrong goes into the log and never to the peer: a refusal
that explains itself helps whoever forges tokens.
"""

from __future__ import annotations

import hashlib
import hmac
import math
import secrets
from collections import OrderedDict
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

import jwt
import orjson
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from jwt.algorithms import HMACAlgorithm
from multidict import MultiMapping

from broker.channels import Mode, Owner, check_id
from broker.config import Settings, require_verification_key
from broker.errors import ConfigurationError
from gateway.credentials import AuthError, bearer

MAX_TOKEN_BYTES: Final = 8192
"""Longer than any token that fits into one request header of common proxies."""
MAX_CACHED_TOKENS: Final = 4096
"""Some 2 MB; a reconnect storm then costs one hash per socket instead of one signature."""
LATEST_TIME: Final = 253_402_300_799
"""The end of the year 9999: a later time is a mistake, and no calendar can show it."""
MIN_RSA_BITS: Final = 2048
OPERATOR_ROLE: Final = "operator"

_NO_LIMITS: Final[Mapping[str, int]] = {}

_KEY_ALGORITHMS: Final = {
    "RSA": ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"),
    "secp256r1": ("ES256",),
    "secp384r1": ("ES384",),
    "secp521r1": ("ES512",),
    "Ed": ("EdDSA",),
}
"""What a public key of each kind can verify; for elliptic curves RFC 7518 fixes the curve."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """What a verified token says. Times are seconds since the epoch.

    ``modes`` is ``None`` when the token does not restrict them; ``token_hash`` may be logged;
    ``limits`` are those that the token itself sets, by name.
    """

    owner: Owner
    subject: str
    expires_at: float
    issued_at: float | None
    jti: str | None
    modes: frozenset[Mode] | None
    operator: bool
    token_hash: str
    limits: Mapping[str, int]


class Verifier:
    """Verifies tokens with the one configured key and the algorithms pinned for it.

    A token's header chooses neither: not by ``alg``, ``kid``, ``jwk`` nor ``jku``.

    :raises ConfigurationError: no usable key is configured.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        algorithms = require_verification_key(settings)
        self._key: Any
        if settings.jwt_public_key_file is not None:
            self._key, algorithms = _public_key(settings.jwt_public_key_file, algorithms)
        elif settings.jwt_secret is not None:
            self._key = settings.jwt_secret.get_secret_value()
        self._algorithms = list(algorithms)
        self._jws = jwt.PyJWS(algorithms=self._algorithms)
        if isinstance(self._key, str):
            self._key = _prepare(self._jws, self._key)
        self._verified: OrderedDict[str, Identity] = OrderedDict()

    @property
    def algorithms(self) -> tuple[str, ...]:
        """What is accepted with this key."""
        return tuple(self._algorithms)

    def verify(self, token: str, now: float) -> Identity:
        """The identity of a token that is valid at ``now``.

        :raises AuthError: it is not; why, stands in ``log_reason``.
        """
        try:
            raw = token.encode("ascii")
        except UnicodeEncodeError:
            raise AuthError("unauthorized", "not a token: beyond ASCII") from None
        digest = hashlib.sha256(raw).hexdigest()
        identity = self._verified.get(digest)
        if identity is None:
            try:
                identity = self._check(raw, digest, now)
            except ValueError as error:
                raise AuthError("unauthorized", str(error), digest) from None
            self._verified[digest] = identity
            if len(self._verified) > MAX_CACHED_TOKENS:
                self._verified.popitem(last=False)
        if now >= identity.expires_at + self._settings.jwt_leeway_seconds:
            del self._verified[digest]
            raise AuthError("unauthorized", "expired", digest)
        return identity

    async def authenticate(self, token: str, now: float) -> Identity:
        """The same, once the key that the token names is there."""
        return self.verify(token, now)

    def _check(self, raw: bytes, digest: str, now: float) -> Identity:
        """``ValueError`` says what is wrong, in words that do not repeat the token."""
        if not 0 < len(raw) <= MAX_TOKEN_BYTES:
            raise ValueError(f"not a token: {len(raw)} bytes")
        try:
            payload = self._jws.decode(raw, key=self._key, algorithms=self._algorithms)
        except jwt.InvalidAlgorithmError:
            raise ValueError("algorithm is not allowed") from None
        except jwt.InvalidSignatureError:
            raise ValueError("signature does not match") from None
        except jwt.PyJWTError as error:
            raise ValueError(f"not a token: {type(error).__name__}") from None
        claims = orjson.loads(payload)
        if not isinstance(claims, dict):
            raise ValueError("claims are not an object")
        expires_at = _time(claims, "exp")
        if expires_at is None:
            raise ValueError("exp is missing")
        not_before = _time(claims, "nbf")
        if not_before is not None and not_before > now + self._settings.jwt_leeway_seconds:
            raise ValueError("not valid yet")
        self._check_addressee(claims)
        subject = _id(claims, "sub")
        if subject is None:
            raise ValueError("sub is missing")
        return Identity(
            owner=Owner(_id(claims, "tenant") or "", subject),
            subject=subject,
            expires_at=expires_at,
            issued_at=_time(claims, "iat"),
            jti=_id(claims, "jti"),
            modes=_modes(claims),
            operator=claims.get("role") == OPERATOR_ROLE,
            token_hash=digest,
            limits=_limits(claims),
        )

    def _check_addressee(self, claims: dict[str, Any]) -> None:
        audience = self._settings.jwt_audience
        if audience is not None:
            named = claims.get("aud")
            if audience not in (named if isinstance(named, list) else [named]):
                raise ValueError("aud is not this gateway")
        issuer = self._settings.jwt_issuer
        if issuer is not None and claims.get("iss") != issuer:
            raise ValueError("iss is not the configured one")


def is_operator(headers: MultiMapping[str], settings: Settings) -> bool:
    """Whether the bearer is the operator key; never when none is configured."""
    offered = bearer(headers)
    if offered is None or settings.operator_key is None:
        return False
    key = settings.operator_key.get_secret_value()
    return hmac.compare_digest(offered.encode("utf-8", "surrogateescape"), key.encode())


def issue_token(
    *,
    secret: str,
    alg: str,
    user: str,
    ttl_seconds: float,
    now: float,
    tenant: str | None = None,
    operator: bool = False,
    modes: Collection[Mode] | None = None,
    audience: str | None = None,
    issuer: str | None = None,
) -> str:
    """A signed token for development, the demo and the bench, with a ``jti`` of its own.

    :raises ValueError: ``user`` or ``tenant`` can be no id.
    """
    claims: dict[str, Any] = {
        "sub": check_id(user),
        "iat": int(now),
        "exp": int(now + ttl_seconds),
        "jti": secrets.token_hex(8),
    }
    if tenant is not None:
        claims["tenant"] = check_id(tenant)
    if operator:
        claims["role"] = OPERATOR_ROLE
    if modes is not None:
        claims["modes"] = sorted(mode.value for mode in modes)
    if audience is not None:
        claims["aud"] = audience
    if issuer is not None:
        claims["iss"] = issuer
    return jwt.encode(claims, secret, algorithm=alg)


class _Prepared(HMACAlgorithm):
    """Verifies with a key that was prepared: that takes longer than to verify."""

    def prepare_key(self, key: str | bytes) -> bytes:
        """It is what :func:`_prepare` gave."""
        return cast("bytes", key)


def _prepare(jws: jwt.PyJWS, secret: str) -> bytes:
    """The secret as its algorithms take it. ``jws`` does not prepare it again from now on."""
    key = secret.encode()
    for name in jws.get_algorithms():
        algorithm = jws.get_algorithm_by_name(name)
        if isinstance(algorithm, HMACAlgorithm):
            try:
                key = algorithm.prepare_key(secret)
            except jwt.InvalidKeyError as error:
                raise ConfigurationError(
                    setting="RUNCAST_JWT_SECRET",
                    why=str(error),
                    todo="Use a random secret, or RUNCAST_JWT_PUBLIC_KEY_FILE for a public key.",
                ) from None
            jws.unregister_algorithm(name)
            jws.register_algorithm(name, _Prepared(algorithm.hash_alg))
    return key


def _time(claims: dict[str, Any], name: str) -> float | None:
    """A NumericDate (RFC 7519 section 2), or ``None`` when absent."""
    value = claims.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{name} is not a number of seconds")
    if not 0 <= value <= LATEST_TIME:
        raise ValueError(f"{name} is not a time in seconds; perhaps it is in milliseconds")
    return float(value)


def _id(claims: dict[str, Any], name: str) -> str | None:
    value = claims.get(name)
    if value is None:
        return None
    if not isinstance(value, str):
        raise ValueError(f"{name} is not a string")
    try:
        return check_id(value)
    except ValueError as error:
        raise ValueError(f"{name} {error}") from None


def _modes(claims: dict[str, Any]) -> frozenset[Mode] | None:
    """The allowed modes; names that this version does not know allow nothing."""
    named = claims.get("modes")
    if named is None:
        return None
    if not isinstance(named, list) or not all(isinstance(name, str) for name in named):
        raise ValueError("modes is not a list of names")
    return frozenset(mode for mode in Mode if mode.value in named)


def _limits(claims: dict[str, Any]) -> Mapping[str, int]:
    """Limits that are the user's own; a name that this version does not know limits nothing."""
    named = claims.get("limits")
    if named is None:
        return _NO_LIMITS
    if not isinstance(named, dict):
        raise ValueError("limits is not an object")
    for name, most in named.items():
        if isinstance(most, bool) or not isinstance(most, int) or most < 0:
            raise ValueError(f"limits: {name!r} is not a whole number")
    return named


def _public_key(path: Path, algorithms: tuple[str, ...]) -> tuple[Any, tuple[str, ...]]:
    """The key in the file, and those of ``algorithms`` that such a key can verify."""

    def refuse(why: str, todo: str) -> ConfigurationError:
        return ConfigurationError(setting="RUNCAST_JWT_PUBLIC_KEY_FILE", why=why, todo=todo)

    try:
        key = load_pem_public_key(path.read_bytes())
    except OSError as error:
        raise refuse(f"{path}: {error.strerror}", "Check the path and who may read it.") from None
    except Exception:  # noqa: BLE001 - the loader's errors are many, each means the same here
        todo = "Write the public key as PEM: openssl pkey -in private.pem -pubout"
        raise refuse(f"{path} holds no public key in PEM form", todo) from None
    if isinstance(key, rsa.RSAPublicKey):
        kind = "RSA"
        if key.key_size < MIN_RSA_BITS:
            raise refuse(f"the RSA key has {key.key_size} bits", f"Use {MIN_RSA_BITS} or more.")
    elif isinstance(key, ec.EllipticCurvePublicKey):
        kind = key.curve.name
    elif isinstance(key, ed25519.Ed25519PublicKey | ed448.Ed448PublicKey):
        kind = "Ed"
    else:
        kind = type(key).__name__
    possible = _KEY_ALGORITHMS.get(kind, ())
    usable = tuple(algorithm for algorithm in algorithms if algorithm in possible)
    if not usable:
        choice = ", ".join(possible) or "a key of another kind: RSA, P-256, P-384, P-521, Ed25519"
        raise refuse(
            f"its {kind} key cannot verify {', '.join(algorithms)}",
            f"Set RUNCAST_JWT_ALGORITHMS to one of {choice}." if possible else f"Use {choice}.",
        )
    return key, usable
