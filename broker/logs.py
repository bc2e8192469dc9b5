"""Logging of every Runcast process: structured, on standard error, without anybody's secrets.

An exception is told by its class and where it was raised. Its text is left out: it may repeat what
a user or an agent wrote. Standard output belongs to what a program was asked to print (``--json``
above all).
"""

from __future__ import annotations

import logging
import sys
import traceback
from collections.abc import Callable, Mapping
from typing import Final, Literal

import structlog
from structlog.typing import EventDict, ExcInfo, Processor, WrappedLogger

WITHHELD_KEYS: Final = frozenset(
    {"authorization", "content", "payload", "response", "secret", "text", "ticket", "token"}
)
"""Fields that could hold a credential or what a user or an agent wrote. Their values never get into
a log; log a run id, a length, a ``jti`` or a hash instead."""


MOST_CAUSES: Final = 10
"""Errors of a chain that are told."""

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


def printable(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """For people: what moves a terminal's cursor or turns text around is shown as its escape.

    Headers of strangers are among the values, and may hold any character beyond ASCII.
    """
    for key, value in event.items():
        if isinstance(value, str) and not value.isprintable():
            shown = (
                each if each.isprintable() or each == "\n" else repr(each)[1:-1] for each in value
            )
            event[key] = "".join(shown)
    return event


def without_text(exc_info: ExcInfo) -> str:
    """A traceback with the classes of the errors in place of their texts, the cause first."""
    told: list[str] = []
    error: BaseException | None = exc_info[1]
    while error is not None and len(told) < MOST_CAUSES:
        frames = "".join(traceback.format_tb(error.__traceback__))
        told.append(f"Traceback (most recent call last):\n{frames}{type(error).__qualname__}")
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return "\n\n".join(reversed(told))


class LoopErrors(logging.Filter):
    """asyncio's own reports, without what else stands in them: the errors' texts above all.

    Of a connection that ended there is one line without a traceback: whoever opened it tells why it
    ended. The event loop reports it once more when the end comes in the midst of a TLS handshake:
    as a future that nobody waits for any longer, or as a write on a socket that is closed already.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Keep the record, as one line and perhaps a traceback."""
        error = record.exc_info[1] if record.exc_info else None
        headline = record.getMessage().partition("\n")[0]
        record.msg, record.args = headline, ()
        if isinstance(error, OSError) or (error is not None and headline == TLS_HEADLINE):
            record.msg = f"{headline}: {error}"
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
        structlog.processors.ExceptionRenderer(without_text),
    ]
    renderer: Processor
    if log_format == "json":
        renderer = structlog.processors.JSONRenderer()
    else:
        shared.append(printable)
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
    if not any(isinstance(each, LoopErrors) for each in asyncio_log.filters):
        asyncio_log.addFilter(LoopErrors())
