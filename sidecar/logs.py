"""JSON logs on stderr. Query and document text never goes into them."""

import logging
import sys

import structlog

log: structlog.stdlib.BoundLogger = structlog.get_logger("sidecar")


def configure(level: str = "info", *, pretty: bool = False) -> None:
    """Log from ``level`` on: one JSON object a line, or coloured lines for people with ``pretty``."""
    processors: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    last = structlog.dev.ConsoleRenderer() if pretty else structlog.processors.JSONRenderer()
    structlog.configure(
        processors=[*processors, last],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
    )
