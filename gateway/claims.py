"""What a signed token may say, and what becomes of it: the rules of protocol section 5.

Pure. Every ``ValueError`` says what is wrong in words that do not repeat the token.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from broker.channels import Mode, Owner, check_id

LATEST_TIME: Final = 253_402_300_799
"""The end of the year 9999: a later time is a mistake, and no calendar can show it."""

OPERATOR_ROLE: Final = "operator"

OTHER_TYPES: Final = frozenset({
    "application/dpop+jwt", "application/logout+jwt", "application/oauth-authz-req+jwt",
    "application/secevent+jwt", "application/token-introspection+jwt",
})  # fmt: skip
"""Tokens that login services sign with the same keys, and that say they are no access tokens
(RFC 8725 section 3.11)."""

_NO_LIMITS: Final[Mapping[str, int]] = {}


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What the configuration asks of tokens. ``audiences``: one of them; none = not looked at."""

    audiences: tuple[str, ...] = ()
    issuer: str | None = None
    token_type: str | None = None
    leeway_seconds: int = 0
    max_age_seconds: int = 2592000


def check_header(header: Mapping[str, Any], rules: Rules) -> None:
    """Refuse what the header says about itself; of the key it says no more than its name.

    ``jku``, ``jwk``, ``x5u`` and ``x5c`` are not looked at: a token does not bring its own key.
    """
    if "crit" in header:  # RFC 7515 section 4.1.11; none is understood
        raise ValueError("it has critical header fields")
    if header.get("b64", True) is not True:  # RFC 7797 section 7
        raise ValueError("its payload is not base64url")
    told = header.get("typ", "JWT")
    if not isinstance(told, str):
        raise ValueError("typ is not a string")
    named = _media_type(told)
    if rules.token_type is None:
        if named in OTHER_TYPES:
            raise ValueError("typ is that of another kind of token")
    elif named != _media_type(rules.token_type) or "typ" not in header:
        raise ValueError("typ is not the configured one")


def identity(claims: object, rules: Rules, *, now: float, token_hash: str) -> Identity:
    """Who the claims are about, when they are valid at ``now``. Their expiry is the caller's."""
    if not isinstance(claims, dict):
        raise ValueError("claims are not an object")
    expires_at, issued_at = _check_times(claims, rules, now)
    _check_addressee(claims, rules)
    subject = _id(claims, "sub")
    if subject is None:
        raise ValueError("sub is missing")
    return Identity(
        owner=Owner(_id(claims, "tenant") or "", subject),
        subject=subject,
        expires_at=expires_at,
        issued_at=issued_at,
        jti=_id(claims, "jti"),
        modes=_modes(claims),
        operator=claims.get("role") == OPERATOR_ROLE,
        token_hash=token_hash,
        limits=_limits(claims),
    )


def _check_times(claims: dict[str, Any], rules: Rules, now: float) -> tuple[float, float | None]:
    latest = now + rules.leeway_seconds
    expires_at = _time(claims, "exp")
    if expires_at is None:
        raise ValueError("exp is missing")
    not_before = _time(claims, "nbf")
    if not_before is not None and not_before > latest:
        raise ValueError("not valid yet")
    issued_at = _time(claims, "iat")
    if issued_at is not None and issued_at > latest:
        raise ValueError("iat is in the future")
    # A revocation is remembered for only so long.
    if expires_at - (now if issued_at is None else issued_at) > rules.max_age_seconds:
        raise ValueError(f"it is valid for longer than {rules.max_age_seconds} s")
    return expires_at, issued_at


def _check_addressee(claims: dict[str, Any], rules: Rules) -> None:
    if rules.audiences:
        told = claims.get("aud")
        named = told if isinstance(told, list) else [told]
        if not any(each in rules.audiences for each in named):
            raise ValueError("aud is not this gateway")
    if rules.issuer is not None and claims.get("iss") != rules.issuer:
        raise ValueError("iss is not the configured one")


def _media_type(name: str) -> str:
    """In full and in lower case: ``application/`` may be left out (RFC 7515 section 4.1.9)."""
    return (name if "/" in name else f"application/{name}").lower()


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
