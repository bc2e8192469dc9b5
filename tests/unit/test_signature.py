"""Standard Webhooks' signatures, judged by the official package."""

from __future__ import annotations

import base64
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks import Webhook, WebhookVerificationError

from gateway.webhooks.signature import secret_key, signed

OLD, NEW = ("whsec_" + base64.b64encode(bytes([n]) * 32).decode() for n in (1, 2))
BODY = '{"text": "Grüße"}'.encode()


def headers(*secrets: str, body: bytes = BODY, age: int = 0) -> dict[str, str]:
    keys = [secret_key(secret) for secret in secrets]
    return signed(keys, message_id="m1", epoch_seconds=int(time.time()) - age, body=body)


@given(st.dictionaries(st.text(), st.text()))
def test_the_official_package_verifies_it(value: dict[str, str]) -> None:
    body = str(value).encode(errors="replace")
    Webhook(NEW).verify(body, headers(NEW, body=body), json_parse=False)


@pytest.mark.parametrize("known", [OLD, NEW])
def test_while_a_secret_is_replaced_either_verifies(known: str) -> None:
    assert Webhook(known).verify(BODY, headers(NEW, OLD)) == {"text": "Grüße"}


@pytest.mark.parametrize(
    ("body", "changed"),
    [
        (BODY + b" ", {}),
        (BODY, {"webhook-id": "m2"}),
        (BODY, {"webhook-timestamp": str(int(time.time()) + 9)}),
    ],
)
def test_what_was_changed_on_the_way_is_found(body: bytes, changed: dict[str, str]) -> None:
    with pytest.raises(WebhookVerificationError):
        Webhook(NEW).verify(body, {**headers(NEW), **changed})


def test_another_secret_does_not_verify() -> None:
    with pytest.raises(WebhookVerificationError):
        Webhook(OLD).verify(BODY, headers(NEW))


def test_an_old_signature_can_be_told() -> None:
    with pytest.raises(WebhookVerificationError, match="old"):
        Webhook(NEW).verify(BODY, headers(NEW, age=600))


def test_the_example_of_the_specification() -> None:
    """Of the reference implementations' own tests."""
    found = signed(
        [secret_key("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")],
        message_id="msg_p5jXN8AQM9LWM0D4loKWxJek",
        epoch_seconds=1614265330,
        body=b'{"test": 2432232314}',
    )
    assert found == {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }


@pytest.mark.parametrize(
    ("secret", "why"),
    [
        ("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "begins with whsec_"),
        ("whsec_not base64!", "base64"),
        ("whsec_" + base64.b64encode(b"x" * 23).decode(), "24 to 64 bytes, not 23"),
        ("whsec_" + base64.b64encode(b"x" * 65).decode(), "24 to 64 bytes, not 65"),
    ],
)
def test_what_is_no_secret_is_refused_without_repeating_it(secret: str, why: str) -> None:
    with pytest.raises(ValueError, match=why) as caught:
        secret_key(secret)
    assert secret.removeprefix("whsec_") not in str(caught.value)
