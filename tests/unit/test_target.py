"""Where webhooks may go, and every refusal at start with what to do about it."""

from __future__ import annotations

from pathlib import Path

import pytest

from broker.config import Settings, load_settings
from broker.errors import ConfigurationError
from gateway.webhooks.target import Target

SECRET = "whsec_" + "A" * 43 + "="
HTTPS = "https://backend.example/hook"


def settings(url: str = HTTPS, **overrides: object) -> Settings:
    return load_settings(None, **{"webhook_url": url, "webhook_secrets": SECRET, **overrides})


def refusal(url: str = HTTPS, **overrides: object) -> ConfigurationError:
    with pytest.raises(ConfigurationError) as caught:
        Target.of(settings(url, **overrides))
    return caught.value


def test_without_an_address_there_is_no_webhook() -> None:
    assert Target.of(load_settings()) is None


def test_an_https_address_is_posted_to_with_tls() -> None:
    target = Target.of(settings())
    assert target is not None
    assert (target.url, target.host) == (HTTPS, "backend.example")
    assert target.tls is not None
    assert target.tls.check_hostname


def test_every_secret_signs_the_first_first() -> None:
    other = "whsec_" + "B" * 43 + "="
    target = Target.of(settings(webhook_secrets=f"{other}, {SECRET}"))
    assert target is not None
    assert [key[:1] for key in target.keys] == [b"\x04", b"\x00"]


@pytest.mark.parametrize("host", ["127.0.0.1:9", "localhost", "[::1]:9", "127.1.2.3"])
def test_without_tls_it_may_be_on_this_machine(host: str) -> None:
    target = Target.of(settings(f"http://{host}/hook"))
    assert target is not None
    assert target.tls is None


@pytest.mark.parametrize(
    "host", ["backend.example", "10.0.0.1", "localhost.example", "127.0.0.1.example", "0.0.0.0"]
)
def test_without_tls_it_may_be_elsewhere_only_if_that_is_said(host: str) -> None:
    refused = refusal(f"http://{host}/hook")
    assert refused.setting == "RUNCAST_WEBHOOK_URL"
    assert "RUNCAST_WEBHOOK_ALLOW_HTTP" in refused.todo
    assert Target.of(settings(f"http://{host}/hook", webhook_allow_http=True)) is not None


@pytest.mark.parametrize("url", ["ftp://backend.example", "backend.example/hook", "https:///hook"])
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        settings(url)
    assert "https://backend.example" in str(caught.value)


def test_nothing_is_posted_without_a_signature() -> None:
    refused = refusal(webhook_secrets="")
    assert refused.setting == "RUNCAST_WEBHOOK_SECRETS"
    assert "openssl rand" in refused.todo


@pytest.mark.parametrize("secret", ["hunter2", "whsec_hunter2", "whsec_aHVudGVyMg=="])
def test_what_is_no_secret_is_refused_and_not_shown(secret: str) -> None:
    assert "hunter2" not in str(refusal(webhook_secrets=secret))
    assert "hunter2" not in repr(settings(webhook_secrets=secret))


def test_an_event_that_there_is_not_is_refused() -> None:
    refused = refusal(webhook_events="agent_completed,agent_delta")
    assert refused.setting == "RUNCAST_WEBHOOK_EVENTS"
    assert "agent_delta" in refused.why


def test_authorities_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    empty = tmp_path / "empty.pem"
    empty.write_text("")
    for path in (empty, tmp_path / "missing.pem"):
        assert refusal(webhook_ca_file=path).setting == "RUNCAST_WEBHOOK_CA_FILE"


def test_an_address_with_a_password_is_not_shown() -> None:
    assert "hunter2" not in repr(settings("https://user:hunter2@backend.example/hook"))
