"""Where webhooks go: an address that only the configuration can name, and how it is reached."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Final
from urllib.parse import urlsplit

from broker.config import Settings
from broker.errors import ConfigurationError
from broker.events import LIFECYCLE
from gateway.webhooks.signature import secret_key

URL: Final = "RUNCAST_WEBHOOK_URL"
SECRETS: Final = "RUNCAST_WEBHOOK_SECRETS"


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """``keys`` sign, all of them; ``tls`` is None for http; ``host`` may be written into logs."""

    url: str
    host: str
    keys: tuple[bytes, ...]
    tls: ssl.SSLContext | None

    @classmethod
    def of(cls, settings: Settings) -> Target | None:
        """As configured; None without a webhook. ConfigurationError for what cannot work."""
        if settings.webhook_url is None:
            return None
        for event in settings.webhook_events:
            if event not in LIFECYCLE:
                raise ConfigurationError(
                    setting="RUNCAST_WEBHOOK_EVENTS",
                    why=f"there is no lifecycle event {event!r}",
                    todo=f"Name some of {', '.join(LIFECYCLE)}.",
                )
        parts = urlsplit(settings.webhook_url)
        host = parts.hostname or ""
        if parts.scheme == "http" and not (settings.webhook_allow_http or _is_loopback(host)):
            raise ConfigurationError(
                setting=URL,
                why="it is http:// and not on this machine: everybody on the way could read it",
                todo="Use https://, or set RUNCAST_WEBHOOK_ALLOW_HTTP=true if the way is yours.",
            )
        return cls(
            url=settings.webhook_url,
            host=host,
            keys=_keys(settings),
            tls=_tls(settings) if parts.scheme == "https" else None,
        )


def _keys(settings: Settings) -> tuple[bytes, ...]:
    todo = "Make one with: echo whsec_$(openssl rand -base64 32)"
    if not settings.webhook_secrets:
        why = "it is not set, and nothing is posted without a signature"
        raise ConfigurationError(setting=SECRETS, why=why, todo=todo)
    try:
        return tuple(secret_key(each.get_secret_value()) for each in settings.webhook_secrets)
    except ValueError as error:
        raise ConfigurationError(setting=SECRETS, why=str(error), todo=todo) from None


def _tls(settings: Settings) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=settings.webhook_ca_file)
    except OSError as error:  # ssl.SSLError is one
        raise ConfigurationError(
            setting="RUNCAST_WEBHOOK_CA_FILE",
            why=error.strerror or str(error),
            todo="Name a PEM file with the certificates of authorities.",
        ) from None


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
