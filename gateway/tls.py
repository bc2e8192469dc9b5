"""The certificate of the gateway's own listener, taken up again when its files change.

A renewed certificate is a new context: new handshakes get it, connections that are there keep
theirs. Loading it into the old context would leave a key of another kind in there, and in use.
"""

from __future__ import annotations

import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import structlog
from cryptography import x509

from broker.config import Settings
from broker.errors import ConfigurationError

SOON: Final = timedelta(days=14)
"""A certificate that ends within this should have been renewed."""

log = structlog.get_logger(__name__)

_Stamp = tuple[tuple[int, int, int], ...]


class Certificate:
    """The chain and key that the listener shows; ``context`` is that of the next handshake.

    :raises ConfigurationError: the files cannot be used.
    """

    def __init__(self, chain: Path, key: Path, password: str | None = None) -> None:
        self._chain, self._key, self._password = chain, key, password
        self._stamp = self._stamped()
        self.context = self._load()
        self._tell("certificate_loaded")

    @classmethod
    def of(cls, settings: Settings) -> Certificate | None:
        """As configured; None without TLS."""
        chain, key = settings.tls_certificate_file, settings.tls_key_file
        if chain is None and key is None:
            return None
        if chain is None or key is None:
            missing = "CERTIFICATE" if chain is None else "KEY"
            raise ConfigurationError(
                setting=f"RUNCAST_TLS_{missing}_FILE",
                why="it is not set, and the other one is",
                todo="Set both for TLS, or none of them for plain HTTP.",
            )
        password = settings.tls_key_password
        return cls(chain, key, password.get_secret_value() if password is not None else None)

    def refresh(self) -> None:
        """Take up changed files; when they cannot be used, tell it and go on with the old ones."""
        stamp = self._stamped()
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            self.context = self._load()
        except ConfigurationError as error:
            log.error("certificate_not_renewed", why=str(error))  # noqa: TRY400 - the text says it
        else:
            self._tell("certificate_renewed")

    def _load(self) -> ssl.SSLContext:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.options |= ssl.OP_NO_RENEGOTIATION
        context.set_alpn_protocols(["http/1.1"])
        asked = False

        def password() -> str:
            nonlocal asked
            asked = True
            return self._password or ""

        try:
            context.load_cert_chain(self._chain, self._key, password)
        except OSError as error:  # ssl.SSLError is one
            raise self._unusable(error, encrypted=asked) from None
        return context

    def _unusable(self, error: OSError, *, encrypted: bool) -> ConfigurationError:
        for setting, file in (("CERTIFICATE", self._chain), ("KEY", self._key)):
            try:
                file.read_bytes()
            except OSError as unreadable:
                return ConfigurationError(
                    setting=f"RUNCAST_TLS_{setting}_FILE",
                    why=f"{file}: {unreadable.strerror or unreadable}",
                    todo="Name a file that the gateway's user can read.",
                )
        if encrypted:
            wrong = "cannot be decrypted with this password" if self._password else "is encrypted"
            return ConfigurationError(
                setting="RUNCAST_TLS_KEY_PASSWORD",
                why=f"the key in {self._key} {wrong}",
                todo="Set it to the key's password, or store the key without one: openssl pkey.",
            )
        if isinstance(error, ssl.SSLError) and error.reason == "KEY_VALUES_MISMATCH":
            return ConfigurationError(
                setting="RUNCAST_TLS_KEY_FILE",
                why=f"{self._key} is not the key of the first certificate in {self._chain}",
                todo="Name the two files that were made together, the server's certificate first.",
            )
        return ConfigurationError(
            setting="RUNCAST_TLS_CERTIFICATE_FILE",
            why=f"{self._chain} with the key {self._key}: {_reason(error)}",
            todo="Store both as PEM: the certificate, then those that signed it, and its key.",
        )

    @property
    def expires_at(self) -> datetime:
        """When the certificate in the file ends."""
        return self._first().not_valid_after_utc

    def fault(self, now: datetime) -> str | None:
        """What clients will complain of although the files are in order; None when nothing."""
        first = self._first()
        if now < first.not_valid_before_utc:
            return f"not valid before {first.not_valid_before_utc:%Y-%m-%d %H:%M} UTC"
        if now >= first.not_valid_after_utc:
            return f"expired since {first.not_valid_after_utc:%Y-%m-%d %H:%M} UTC"
        return None

    def ends_soon(self, now: datetime) -> bool:
        """Whether it should have been renewed by now."""
        return self.expires_at - now < SOON

    def _first(self) -> x509.Certificate:
        return x509.load_pem_x509_certificates(self._chain.read_bytes())[0]

    def _tell(self, event: str) -> None:
        now = datetime.now(UTC)
        told = {"expires_at": self.expires_at.isoformat(), "file": str(self._chain)}
        fault = self.fault(now)
        if fault is not None or self.ends_soon(now):
            log.warning(event, **told, why=fault or "it ends soon")
        else:
            log.info(event, **told)

    def _stamped(self) -> _Stamp:
        return tuple(_stamp(file) for file in (self._chain, self._key))


def _stamp(file: Path) -> tuple[int, int, int]:
    try:
        found = file.stat()
    except OSError:
        return (0, 0, 0)
    return (found.st_mtime_ns, found.st_size, found.st_ino)


def _reason(error: OSError) -> str:
    return error.reason if isinstance(error, ssl.SSLError) and error.reason else str(error)
