"""Logging of every Runcast process: structured, on standard error, without anybody's secrets.

Standard output belongs to what a program was asked to print (``--json`` above all).
"""

from __future__ import annotations

import logging
import sys
from typing import Final, Literal

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

WITHHELD_KEYS: Final = frozenset(
    {"authorization", "content", "payload", "response", "secret", "text", "ticket", "token"}
)
"""Fields that could hold a credential or what a user or an agent wrote. Their values never get into
a log; log a run id, a length, a ``jti`` or a hash instead."""


def withhold(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """The last guard: a careless call loses the value, not the user his secret."""
    for key in WITHHELD_KEYS & event.keys():
        event[key] = "(withheld)"
    return event


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
