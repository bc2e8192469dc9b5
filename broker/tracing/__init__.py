"""Tracing, if it is on. Nothing of OpenTelemetry is imported until then."""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.errors import ConfigurationError

if TYPE_CHECKING:
    from broker.config import Settings
    from broker.tracing.tracer import Tracing


def start(settings: Settings, *, service: str, instance: str) -> Tracing | None:
    """As ``RUNCAST_TRACING`` says; None when it is off.

    ``service``: what this process is called, unless ``OTEL_SERVICE_NAME`` says so. Raises
    :class:`ConfigurationError` when the packages for it are not installed.
    """
    if settings.tracing == "off":
        return None
    try:
        from broker.tracing import tracer  # noqa: PLC0415 - it needs an extra, and only now
    except ImportError as error:
        raise ConfigurationError(
            setting="RUNCAST_TRACING",
            why=f"it is {settings.tracing}, and {error}",
            todo='Install it with: pip install "runcast[otel]", or set it to off.',
        ) from error
    follow = settings.tracing == "follow"
    return tracer.Tracing(service=service, instance=instance, follow=follow)


async def flush(tracing: Tracing | None) -> None:
    """Have what has ended sent, within a few seconds; what is left then is lost."""
    if tracing is not None:
        await tracing.flush()
