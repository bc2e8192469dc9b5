"""Key sets as login services publish them: JWK and JWK Set (RFC 7517)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import jwt
import orjson

from gateway.keys import MAX_KID_CHARS, Key, KeySet, UnusableKey, public_key, secret_key

MAX_SET_BYTES: Final = 256 * 1024
"""A hundred times a usual set: whoever answers with more does not answer with keys."""

MAX_KEYS: Final = 64
"""Far more than any rotation needs; each is parsed at every fetch."""

_ADVICE: Final = "Publish it as a signing key, or leave it: it is ignored."
_PRIVATE: Final = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth"})


class NoKeySet(ValueError):
    """What was read is not a key set."""


@dataclass(frozen=True, slots=True)
class Published:
    """What a document holds. ``ignored``: what cannot be used, with the reason, for the log."""

    keys: KeySet
    ignored: tuple[tuple[str, str], ...]


def read_key_set(document: bytes, pinned: tuple[str, ...], *, secrets: bool) -> Published:
    """The keys that verify with one of ``pinned``. ``secrets``: whether ``oct`` keys may be there.

    A key that cannot be used is passed over: a set may be made for others as well (RFC 7517
    section 5). Of two keys for the same name and algorithm the first counts.

    :raises NoKeySet: the document is no key set, or beyond the limits above.
    """
    if len(document) > MAX_SET_BYTES:
        raise NoKeySet(f"it is longer than {MAX_SET_BYTES} bytes")
    try:
        held = orjson.loads(document)
    except orjson.JSONDecodeError:
        raise NoKeySet("it is not JSON") from None
    listed = held.get("keys") if isinstance(held, dict) else None
    if not isinstance(listed, list):
        raise NoKeySet('it has no list "keys"')
    if len(listed) > MAX_KEYS:
        raise NoKeySet(f"it has {len(listed)} keys; at most {MAX_KEYS} are read")
    ignored: list[tuple[str, str]] = []
    keys = KeySet(_usable(listed, pinned, ignored, secrets=secrets))
    ignored += [(_named(key.kid), "an earlier key has the same kid") for key in keys.surplus]
    return Published(keys, tuple(ignored))


def jwk_key(jwk: dict[str, Any], pinned: tuple[str, ...], *, secrets: bool) -> Key:
    """One JWK as a key. Its own ``alg`` narrows what it verifies.

    :raises UnusableKey: it is not for verifying signatures, not safe, or not understood.
    """
    kid = jwk.get("kid")
    if kid is not None and (not isinstance(kid, str) or len(kid) > MAX_KID_CHARS):
        raise UnusableKey(f"its kid is not a string of at most {MAX_KID_CHARS}", _ADVICE)
    if jwk.get("use", "sig") != "sig":
        raise UnusableKey("its use is not sig", _ADVICE)
    operations = jwk.get("key_ops", ["verify"])
    if not isinstance(operations, list) or "verify" not in operations:
        raise UnusableKey("its key_ops do not have verify", _ADVICE)
    if _PRIVATE & jwk.keys():
        raise UnusableKey("it is a private key, and no longer private", "Replace it.")
    secret = jwk.get("kty") == "oct"
    if secret and not secrets:
        raise UnusableKey("it is a secret, and published", "Replace it by a key pair.")
    alg = jwk.get("alg")
    narrowed = pinned if alg is None else tuple(name for name in pinned if name == alg)
    if not narrowed:
        raise UnusableKey("its alg is not one of RUNCAST_JWT_ALGORITHMS", _ADVICE)
    material = _material(jwk)
    make = secret_key if secret else public_key
    return make(kid, material, narrowed)


def _material(jwk: dict[str, Any]) -> Any:
    # PyJWT would take the kind from ``alg``; here ``kty`` and ``crv`` alone say what it is.
    described = {name: value for name, value in jwk.items() if name != "alg"}
    try:
        return jwt.PyJWK(described, "EdDSA" if jwk.get("kty") == "OKP" else None).key
    except Exception:  # noqa: BLE001 - many kinds of error, and their texts hold the key
        raise UnusableKey("its kty or its numbers are not understood", _ADVICE) from None


def _usable(
    listed: list[Any], pinned: tuple[str, ...], ignored: list[tuple[str, str]], *, secrets: bool
) -> Iterator[Key]:
    for number, jwk in enumerate(listed, 1):
        if not isinstance(jwk, dict):
            ignored.append((f"number {number}", "it is not an object"))
            continue
        try:
            yield jwk_key(jwk, pinned, secrets=secrets)
        except UnusableKey as error:
            kid = jwk.get("kid")
            name = _named(kid) if isinstance(kid, str) else f"number {number}"
            ignored.append((name, error.why))


def _named(kid: str | None) -> str:
    return "without a kid" if kid is None else kid[:MAX_KID_CHARS]
