"""Logging of every Runcast process: structured, on standard error, without anybody's secrets.

Standard output belongs to what a program was asked to print (``--json`` above all).
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Mapping
from typing import Final, Literal

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

WITHHELD_KEYS: Final = frozenset(
    {"authorization", "content", "payload", "response", "secret", "text", "ticket", "token"}
)
"""Fields that could hold a credential or what a user or an agent wrote. Their values never get into
a log; log a run id, a length, a ``jti`` or a hash instead."""


TLS_HEADLINE: Final = "Fatal error on SSL protocol"
"""What asyncio and uvloop both call an error below a TLS connection."""


def withhold(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """The last guard: a careless call loses the value, not the user his secret."""
    for key in WITHHELD_KEYS & event.keys():
        event[key] = "(withheld)"
    return event


def find_trace(found: Callable[[], Mapping[str, str]]) -> None:
    """Have every further line of this process bear what ``found()`` returns: the current trace."""
    _TRACE.found = found


class _Trace:
    """How the current trace is found, once somebody traces."""

    found: Callable[[], Mapping[str, str]] | None = None


_TRACE: Final = _Trace()


def with_trace(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Add ``trace_id`` and ``span_id`` of the span that the line is written in."""
    if _TRACE.found is not None:
        event.update(_TRACE.found())
    return event


class TransportErrors(logging.Filter):
    """asyncio's own reports of a connection that ended, without their tracebacks.

    Whoever opened the connection tells why it ended. The event loop reports it once more when the
    end comes in the midst of a TLS handshake: as a future that nobody waits for any longer, or as
    a write on a socket that is closed already.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Keep the record as one line."""
        error = record.exc_info[1] if record.exc_info else None
        headline = record.getMessage().partition("\n")[0]
        if isinstance(error, OSError) or (error is not None and headline == TLS_HEADLINE):
            record.msg, record.args = f"{headline}: {error}", ()
            record.exc_info = record.exc_text = None
            record.levelno, record.levelname = logging.WARNING, "WARNING"
        return True


def configure_logging(
    log_format: Literal["console", "json"] = "console",
    level: Literal["debug", "info", "warning", "error"] = "info",
) -> None:
    """Set up structlog and the standard library's logging for this process; may be repeated.

    Libraries' own records join at ``warning`` and above. Access logs stay off: their lines hold the
    query string.
    """
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        with_trace,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        withhold,
    ]
    renderer: Processor
    if log_format == "json":
        shared.append(structlog.processors.format_exc_info)
        renderer = structlog.processors.JSONRenderer()
    else:
        # Not the pretty tracebacks: they print local variables, and with them tokens and content.
        renderer = structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
        )
    structlog.configure(
        processors=[*shared, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.ExtraAdder()],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    logging.getLogger("aiohttp.access").disabled = True
    asyncio_log = logging.getLogger("asyncio")
    if not any(isinstance(each, TransportErrors) for each in asyncio_log.filters):
        asyncio_log.addFilter(TransportErrors())
