"""Tokens signed here: for development, the demo and the bench. Login services sign the others."""

from __future__ import annotations

import secrets
from collections.abc import Collection
from typing import Any

import jwt

from broker.channels import Mode, check_id
from gateway.claims import OPERATOR_ROLE


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
    token_type: str | None = None,
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
    headers = None if token_type is None else {"typ": token_type}
    return jwt.encode(claims, secret, algorithm=alg, headers=headers)
