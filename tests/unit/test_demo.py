"""What the demo offers."""

from __future__ import annotations

from datetime import datetime

import pytest

from broker.config import Settings
from gateway.auth import Verifier
from gateway.demo import SAMPLES, TOKEN_SECONDS, USERS, DemoConfig

NOW = 1_795_000_000.4
DEMO = DemoConfig(secret="of one start of the demo, 32 bytes", clock=lambda: NOW)


@pytest.mark.parametrize("user", [user["id"] for user in USERS])
def test_its_tokens_are_real(user: str) -> None:
    given = DEMO.token(user)
    assert given is not None
    identity = Verifier(Settings(jwt_secret=DEMO.secret)).verify(given["token"], NOW)
    assert identity.subject == user
    assert not identity.operator
    assert datetime.fromisoformat(given["expires_at"]).timestamp() == identity.expires_at
    assert identity.expires_at == int(NOW) + TOKEN_SECONDS


@pytest.mark.parametrize("user", ["", "Alice", "mallory", "alice "])
def test_nobody_else_gets_one(user: str) -> None:
    assert DEMO.token(user) is None


def test_its_session_names_two_users_and_questions_to_ask() -> None:
    session = DEMO.session()
    assert [user["id"] for user in session["users"]] == ["alice", "bob"]
    assert session["agents"] == ["analyst"]
    assert session["samples"] == list(SAMPLES)
    assert all(sample["title"] and sample["content"] for sample in SAMPLES)


def test_its_secret_is_not_in_its_repr() -> None:
    assert DEMO.secret not in repr(DEMO)
