"""Tokens that are signed here."""

from __future__ import annotations

from typing import Any

import jwt
import pytest

from broker.channels import Mode, Owner
from broker.config import Settings
from gateway.auth import Verifier
from gateway.credentials import AuthError
from gateway.tokens import issue_token

NOW = 1_795_000_000.0
SECRET = "correct horse battery staple, and more"


def verifier(**settings: Any) -> Verifier:
    return Verifier(Settings(jwt_secret=SECRET, **settings))


def test_of_an_issued_token() -> None:
    token = issue_token(
        secret=SECRET,
        alg="HS256",
        user="ålice:ü",
        ttl_seconds=60,
        tenant="t",
        operator=True,
        now=NOW,
        modes=[Mode.FACTORY],
    )
    identity = verifier().verify(token, NOW + 59)
    assert identity.owner == Owner("t", "ålice:ü")
    assert identity.modes == frozenset({Mode.FACTORY})
    assert identity.operator
    assert identity.jti


def test_an_issued_token_may_have_an_audience_and_an_issuer() -> None:
    asking = verifier(jwt_audience="gw", jwt_issuer="https://login")
    named: dict[str, Any] = {"audience": "gw", "issuer": "https://login"}
    plain: dict[str, Any] = {"secret": SECRET, "alg": "HS256", "user": "alice", "now": NOW}
    plain["ttl_seconds"] = 60
    assert asking.verify(issue_token(**plain, **named), NOW).subject == "alice"
    with pytest.raises(AuthError):
        asking.verify(issue_token(**plain), NOW)


def test_issued_tokens_differ() -> None:
    tokens = {
        issue_token(secret=SECRET, alg="HS256", user="a", ttl_seconds=60, now=NOW) for _ in range(5)
    }
    assert len(tokens) == 5


@pytest.mark.parametrize("user", ["", "a" * 257, "a\nb"])
def test_a_token_for_an_impossible_user_is_not_issued(user: str) -> None:
    with pytest.raises(ValueError, match="must"):
        issue_token(secret=SECRET, alg="HS256", user=user, ttl_seconds=60, now=NOW)


def test_an_issued_token_may_have_a_type() -> None:
    token = issue_token(
        secret=SECRET, alg="HS256", user="a", ttl_seconds=60, now=NOW, token_type="at+jwt"
    )
    assert jwt.get_unverified_header(token)["typ"] == "at+jwt"
    assert verifier(jwt_type="AT+JWT").verify(token, NOW).subject == "a"
