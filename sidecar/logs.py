"""JSON logs on stderr. Query and document text never goes into them."""

import logging
import sys
import traceback

import structlog

_FRAMES = 20
"""Most frames of a traceback that are logged, the innermost ones."""

log: structlog.stdlib.BoundLogger = structlog.get_logger("sidecar")


def configure(level: str = "info", *, pretty: bool = False) -> None:
    """Log from ``level`` up: one JSON object a line, or with ``pretty`` coloured lines for people."""
    processors: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _frames_only,
    ]
    last = structlog.dev.ConsoleRenderer() if pretty else structlog.processors.JSONRenderer()
    logging.basicConfig(handlers=[_Libraries()], level=logging.WARNING, force=True)
    logging.getLogger("elastic_transport.node_pool").setLevel(logging.ERROR)  # it logs every failed try
    structlog.configure(
        processors=[*processors, last],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
    )


class _Libraries(logging.Handler):
    """Logs records of libraries in the same format: only the first line of the message, without its arguments, since
    the rest may quote a query or a document."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record."""
        said = str(record.msg).partition("\n")[0]
        error = record.exc_info[1] if record.exc_info else None
        log.log(record.levelno, "library", logger=record.name, said=said, exc_info=error)


def _frames_only(_: object, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Log an error's frames and type, but not its message, which may quote a query or a document."""
    told = event.pop("exc_info", None)
    error = told if isinstance(told, BaseException) else sys.exc_info()[1] if told else None
    if error:
        frames = traceback.format_tb(error.__traceback__)[-_FRAMES:]
        event["exception"] = [*(line.strip() for line in frames), type(error).__name__]
    return event
