"""Keys that verify tokens, and the set in which the token's ``kid`` finds one.

How a key verifies is pinned by the configuration and by the key's own kind; a token chooses no more
than which of the configured keys it is (RFC 8725 sections 3.1 and 3.2).
"""

from __future__ import annotations

import base64
import binascii
import hmac
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from jwt.algorithms import HMACAlgorithm, get_default_algorithms

MIN_RSA_BITS: Final = 2048
"""RFC 7518 sections 3.3 and 3.5."""

MIN_SECRET_BYTES: Final[Mapping[str, int]] = {"HS256": 32, "HS384": 48, "HS512": 64}
"""RFC 7518 section 3.2: a secret is at least as long as the hash's output."""

MAX_KID_CHARS: Final = 256
"""Of a key's name: those that are looked for are remembered for a while, and logged."""

KINDS: Final[Mapping[str, tuple[str, ...]]] = {
    "secret": tuple(MIN_SECRET_BYTES),
    "RSA": ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"),
    "secp256r1": ("ES256",),
    "secp384r1": ("ES384",),
    "secp521r1": ("ES512",),
    "Ed": ("EdDSA",),
}
"""What a key of each kind can verify; for elliptic curves RFC 7518 section 3.4 fixes the curve."""

PUBLIC_KEY_ALGORITHMS: Final = tuple(
    name for kind, names in KINDS.items() if kind != "secret" for name in names
)

_HASHES: Final[Mapping[str, str]] = {"HS256": "sha256", "HS384": "sha384", "HS512": "sha512"}
"""RFC 7518 section 3.2."""

_VERIFIERS: Final = get_default_algorithms()
_HMAC: Final = HMACAlgorithm(HMACAlgorithm.SHA256)


class UnusableKey(ValueError):
    """A key that cannot verify, with what to do; neither text repeats any of the key."""

    def __init__(self, why: str, todo: str) -> None:
        self.why, self.todo = why, todo
        super().__init__(why)


class UnknownKid(ValueError):
    """No key of the set has this ``kid``, and none without a name could stand in."""

    def __init__(self, kid: str) -> None:
        self.kid = kid
        super().__init__(f"no key has the token's kid, {kid!r}")


@dataclass(frozen=True, slots=True)
class Key:
    """A public key, or a secret's bytes. ``kid`` is ``None`` when it has no name."""

    kid: str | None
    algorithms: tuple[str, ...]
    material: Any = field(repr=False)

    def verifies(self, algorithm: str, signed: bytes, signature: bytes) -> bool:
        """Whether it made this signature. ``algorithm`` is one of its own."""
        hashed = _HASHES.get(algorithm)
        if hashed is not None:  # in one step: every new token of a storm of connects comes here
            made = hmac.digest(self.material, signed, hashed)
            return hmac.compare_digest(made, signature)
        return _VERIFIERS[algorithm].verify(signed, self.material, signature)


class KeySet:
    """Keys by name. Of two for the same name and algorithm the first counts: :attr:`surplus`."""

    __slots__ = ("_found", "kids", "surplus")

    def __init__(self, keys: Iterable[Key] = ()) -> None:
        self._found: dict[tuple[str | None, str], Key] = {}
        self.surplus: list[Key] = []
        for key in keys:
            names = [(key.kid, algorithm) for algorithm in key.algorithms]
            if any(name in self._found for name in names):
                self.surplus.append(key)
            for name in names:
                self._found.setdefault(name, key)
        self.kids = frozenset(kid for kid, _ in self._found)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, KeySet) and self._found == other._found

    __hash__ = None  # type: ignore[assignment]  # compared, never a key of a dict

    def __len__(self) -> int:
        return len({id(key) for key in self._found.values()})

    @property
    def algorithms(self) -> tuple[str, ...]:
        """What some key of it verifies."""
        return tuple(dict.fromkeys(algorithm for _, algorithm in self._found))

    def find(self, kid: str | None, algorithm: object) -> Key:
        """The one key that may have signed a token with this header.

        The key of that name; a key without a name stands in for names that nobody has.

        :raises UnknownKid: the named key is not here.
        :raises ValueError: the header names no key, or not an algorithm of the key.
        """
        name = kid if kid in self.kids else None
        if name is None and None not in self.kids:
            if kid is None:
                raise ValueError("the token names no key")
            if len(kid) > MAX_KID_CHARS:
                raise ValueError("the token's kid is too long")
            raise UnknownKid(kid)
        key = self._found.get((name, algorithm)) if isinstance(algorithm, str) else None
        if key is None:
            raise ValueError("algorithm is not allowed")
        return key


def secret_key(kid: str | None, secret: bytes, pinned: tuple[str, ...]) -> Key:
    """A secret for those of ``pinned`` that it is long enough for.

    :raises UnusableKey: it is too short, or in truth a public key: whoever knows that could sign.
    """
    todo = "Use random bytes: openssl rand -base64 64 | tr -d '\\n'"
    for form in (secret, _decoded(secret)):
        try:
            _HMAC.prepare_key(form or secret)
        except jwt.InvalidKeyError:
            why = "it is a key in PEM, DER, SSH or JWK form, not a secret"
            raise UnusableKey(why, todo) from None
    needed = {name: MIN_SECRET_BYTES[name] for name in pinned if name in MIN_SECRET_BYTES}
    if not needed:
        todo = f"Set RUNCAST_JWT_ALGORITHMS to one of {', '.join(MIN_SECRET_BYTES)}."
        raise UnusableKey(f"a secret cannot verify {', '.join(pinned)}", todo)
    algorithms = tuple(name for name, least in needed.items() if len(secret) >= least)
    if not algorithms:
        why = f"it has {len(secret)} bytes and {', '.join(needed)} needs {min(needed.values())}"
        raise UnusableKey(why, todo)
    return Key(kid, algorithms, secret)


def public_key(kid: str | None, material: object, pinned: tuple[str, ...]) -> Key:
    """A public key for those of ``pinned`` that its kind can verify.

    :raises UnusableKey: it is weak, of a kind that verifies no token, or private.
    """
    kind = type(material).__name__
    if isinstance(material, rsa.RSAPublicKey):
        kind = "RSA"
        if material.key_size < MIN_RSA_BITS:
            why = f"the RSA key has {material.key_size} bits"
            raise UnusableKey(why, f"Use {MIN_RSA_BITS} or more.")
    elif isinstance(material, ec.EllipticCurvePublicKey):
        kind = material.curve.name
    elif isinstance(material, ed25519.Ed25519PublicKey | ed448.Ed448PublicKey):
        kind = "Ed"
    possible = KINDS.get(kind, ())
    algorithms = tuple(name for name in pinned if name in possible)
    if not algorithms:
        todo = "Use a key of another kind: RSA, P-256, P-384, P-521, Ed25519."
        if possible:
            todo = f"Set RUNCAST_JWT_ALGORITHMS to one of {', '.join(possible)}."
        raise UnusableKey(f"its {kind} key cannot verify {', '.join(pinned)}", todo)
    return Key(kid, algorithms, material)


def pem_key(kid: str | None, pem: bytes, pinned: tuple[str, ...]) -> Key:
    """The one public key in a PEM file.

    :raises UnusableKey: there is none, or more than one, or it is not usable.
    """
    if pem.count(b"-----BEGIN ") > 1:
        raise UnusableKey("it holds more than one PEM", "Put every key into a file of its own.")
    loaded: Callable[[bytes], object] = load_pem_public_key
    try:
        material = loaded(pem)
    except Exception:  # noqa: BLE001 - the loader's errors are many, each means the same here
        todo = "Write the public key as PEM: openssl pkey -in private.pem -pubout"
        raise UnusableKey("it holds no public key in PEM form", todo) from None
    return public_key(kid, material, pinned)


def _decoded(secret: bytes) -> bytes:
    """What the secret is in base64, if it is: a DER is often written so."""
    with suppress(binascii.Error, ValueError):
        return base64.b64decode(b"".join(secret.split()), validate=True)
    return b""
