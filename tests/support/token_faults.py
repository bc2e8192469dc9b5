"""Everything that can be wrong with a token, and what protocol section 5 says to it.

Said once more and without the program's own tables: the faults by hand, the verdict as a few rules.
"""

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import jwt
from cryptography.hazmat.primitives.asymmetric import rsa

from tests.support.keys import (
    EC_KEY,
    ED_KEY,
    OTHER_EC_KEY,
    RSA_KEY,
    b64,
    by_hand,
    jwk,
    public_pem,
)

AUDIENCE, ISSUER, TYPE = "runcast", "https://login.example", "at+jwt"
RSA_PEM, EC_PEM = public_pem(RSA_KEY.public_key()), public_pem(EC_KEY.public_key())
STRANGE_RSA_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)

HEADER: Final[dict[str, Any]] = {"alg": "ES256", "typ": TYPE, "kid": "ec"}
PLACES: Final = ("authorization", "subprotocol", "jwt-auth", "query", "query, not allowed")

Forge = Callable[[], str]


def claims(**changed: Any) -> dict[str, Any]:
    """Those of a good token; ``None`` leaves one out."""
    now = int(time.time())
    good = {
        "sub": "alice", "iat": now, "exp": now + 600, "aud": AUDIENCE, "iss": ISSUER, "jti": "j1",
    }  # fmt: skip
    return {name: value for name, value in {**good, **changed}.items() if value is not None}


def forged(
    told: Mapping[str, Any] | None = None,
    *,
    key: Any = EC_KEY,
    alg: str = "ES256",
    alg_told: str | None = "as signed",
    **header: Any,
) -> str:
    """Signed with ``key`` by ``alg``; of the header, what is None is left out."""
    header["alg"] = alg if alg_told == "as signed" else alg_told
    said = {name: value for name, value in {**HEADER, **header}.items() if value is not None}
    payload = json.dumps(claims() if told is None else dict(told)).encode()
    text = f"{b64(json.dumps(said).encode())}.{b64(payload)}"
    signer = jwt.PyJWS().get_algorithm_by_name(alg)
    return f"{text}.{b64(signer.sign(text.encode(), key))}"


def without_signature(alg: object) -> str:
    said = json.dumps({**HEADER, "alg": alg}).encode()
    return f"{b64(said)}.{b64(json.dumps(claims()).encode())}."


def hmac_by(pem: bytes, kid: str | None) -> str:
    """The classic confusion: the public key is known, and taken for a secret."""
    said = {"alg": "HS256", "typ": TYPE} | ({} if kid is None else {"kid": kid})
    return by_hand(said, json.dumps(claims()).encode(), pem)


def another_signature() -> str:
    text = forged().rpartition(".")[0]
    return f"{text}.{forged(claims(sub='bob')).rpartition('.')[2]}"


def another_payload() -> str:
    header, _, signature = forged().split(".")
    return f"{header}.{b64(json.dumps(claims(sub='bob')).encode())}.{signature}"


FAULTS: Final[dict[str, Forge]] = {
    "expired": lambda: forged(claims(iat=None, exp=int(time.time()) - 1)),
    "not yet valid": lambda: forged(claims(nbf=int(time.time()) + 60)),
    "issued in the future": lambda: forged(claims(iat=int(time.time()) + 60)),
    "valid for a year": lambda: forged(claims(exp=int(time.time()) + 31536000)),
    "valid for a year, no iat": lambda: forged(claims(iat=None, exp=int(time.time()) + 31536000)),
    "key of somebody else": lambda: forged(key=OTHER_EC_KEY),
    "RSA key of somebody else": lambda: forged(key=STRANGE_RSA_KEY, alg="RS256", kid="rsa"),
    "signature of another token": another_signature,
    "payload of another token": another_payload,
    "no signature": lambda: forged().rpartition(".")[0] + ".",
    "alg none": lambda: without_signature("none"),
    "alg None": lambda: without_signature("None"),
    "alg NONE": lambda: without_signature("NONE"),
    "alg nOnE": lambda: without_signature("nOnE"),
    "alg none, signed": lambda: forged(alg_told="none"),
    "alg null": lambda: without_signature(None),
    "alg list": lambda: without_signature(["ES256"]),
    "alg missing": lambda: forged(alg_told=None),
    "HS256 by the RSA public key": lambda: hmac_by(RSA_PEM, "rsa"),
    "HS256 by the EC public key": lambda: hmac_by(EC_PEM, "ec"),
    "HS256 by a public key, no kid": lambda: hmac_by(RSA_PEM, None),
    "HS256 by an empty key": lambda: hmac_by(b"", "ec"),
    "not pinned": lambda: forged(key=RSA_KEY, alg="PS256", kid="rsa"),
    "kid of another kind": lambda: forged(kid="rsa"),
    "key that is not configured": lambda: forged(key=ED_KEY, alg="EdDSA", kid="ed"),
    "unknown kid": lambda: forged(kid="2019"),
    "kid of a path": lambda: forged(kid="../../../../dev/null"),
    "kid missing": lambda: forged(kid=None),
    "kid a number": lambda: forged(kid=7),
    "its own key": lambda: forged(key=OTHER_EC_KEY, jwk=jwk(OTHER_EC_KEY)),
    "its own key set": lambda: forged(key=OTHER_EC_KEY, jku="http://127.0.0.1:1/", x5u="http://x"),
    "critical": lambda: forged(crit=["exp"]),
    "critical b64": lambda: forged(crit=["b64"], b64=True),
    "payload not encoded": lambda: forged(crit=["b64"], b64=False),
    "aud of another": lambda: forged(claims(aud="another")),
    "aud missing": lambda: forged(claims(aud=None)),
    "iss of another": lambda: forged(claims(iss="https://evil.example")),
    "iss missing": lambda: forged(claims(iss=None)),
    "typ of another": lambda: forged(typ="JWT"),
    "typ missing": lambda: forged(typ=None),
    "sub missing": lambda: forged(claims(sub=None)),
    "sub a list": lambda: forged(claims(sub=["alice"])),
    "exp missing": lambda: forged(claims(exp=None)),
    "exp a string": lambda: forged(claims(exp="9999999999")),
    "signature padded": lambda: forged() + "==",
    "four segments": lambda: forged() + ".x",
    "five segments": lambda: f"{b64(b'{}')}.x.{forged()}",
    "two segments": lambda: forged().rpartition(".")[0],
    "swapped segments": lambda: ".".join(reversed(forged().split("."))),
    "too long": lambda: forged(claims(filler="x" * 8192)),
    "garbage": lambda: "garbage",
    "dots": lambda: "..",
    "empty": lambda: "",
}
"""What is wrong → such a token."""

GOOD: Final[dict[str, Forge]] = {
    "good": forged,
    "good, by the other key": lambda: forged(key=RSA_KEY, alg="RS256", kid="rsa"),
    "good, spelled in full": lambda: forged(typ="application/AT+JWT"),
    "good, of several audiences": lambda: forged(claims(aud=["x", AUDIENCE])),
    "good, with a key that is not looked at": lambda: forged(jwk=jwk(OTHER_EC_KEY), jku="http://x"),
}
"""What must be let in: a gateway that refuses everything would pass all of the above."""

ACCEPTED, UNAUTHORIZED, NOT_IN_QUERY = "accepted", "unauthorized", "query_token_not_allowed"
NOT_HTTP: Final = "not HTTP"
"""The gateway's HTTP parser takes no line of more than 8190 bytes: 400, before it is a request."""


def verdict(what: str, place: str) -> str:
    """What such a token gets in this place."""
    if what == "too long":
        return NOT_HTTP
    if place == "query, not allowed" and what != "none":
        return NOT_IN_QUERY
    return ACCEPTED if what in GOOD else UNAUTHORIZED


@dataclass(frozen=True)
class Offer:
    """A token in its place: what the request line and its headers have."""

    query: str = ""
    headers: tuple[str, ...] = ()


def offer(tokens: tuple[str, ...], place: str) -> Offer:
    """All of them in this one place."""
    if place == "authorization":
        return Offer(headers=tuple(f"Authorization: Bearer {each}" for each in tokens))
    if place.startswith("query"):
        return Offer(query="".join(f"&token={each}" for each in tokens))
    name = "runcast.v3" if place == "subprotocol" else "jwt-auth"
    if place == "jwt-auth":
        tokens = tuple(b64(each.encode()) for each in tokens)
    return Offer(
        headers=(f"Sec-WebSocket-Protocol: {', '.join([name, *(f'jwt.{t}' for t in tokens)])}",)
    )


def offers() -> dict[str, tuple[str, ...]]:
    """What is wrong, or right → the tokens of a request, made now."""
    made = {what: (forge(),) for what, forge in {**FAULTS, **GOOD}.items()}
    return {**made, "none": (), "two tokens": (forged(), forged())}
