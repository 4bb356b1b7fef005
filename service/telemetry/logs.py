"""Logs: one event a line, as JSON for machines or coloured for people."""

import logging
import re
import sys
from contextlib import suppress
from typing import TextIO, cast

import structlog
from aiohttp.http_exceptions import HttpProcessingError

# Their lines repeat ours, or name the arguments of jobs, or hold documents.
_QUIET = ("arq", "aiohttp.access", "asyncio", "sqlalchemy", "pymongo")


def configure(log_format: str, level: str, *watch: structlog.typing.Processor) -> None:
    """Send structlog's and the standard library's lines to stdout in one format; repeatable.

    Who watches sees each event first, with its traceback still an exception.
    """
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        *watch,
    ]
    renderer: structlog.typing.Processor
    if log_format == "json":
        shared += [structlog.processors.format_exc_info, _without_addresses]
        renderer = structlog.processors.JSONRenderer()
    else:
        renderer = structlog.dev.ConsoleRenderer(
            colors=sys.stdout.isatty(),
            exception_formatter=structlog.dev.plain_traceback,  # the default prints local variables
        )
    structlog.configure(
        processors=[*shared, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(cast("TextIO", _Output(sys.stdout))),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(cast("TextIO", _Output(sys.stdout)))
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    logging.basicConfig(handlers=[handler], level=level, force=True)
    for name in _QUIET:
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
        logger.setLevel(logging.WARNING)
    logging.getLogger("aiohttp.server").addFilter(_without_traceback)


class _Output:
    """A stream that may be gone, or full: what was to be logged has happened all the same."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, line: str) -> None:
        with suppress(OSError, ValueError):
            self._stream.write(line)

    def flush(self) -> None:
        with suppress(OSError, ValueError):
            self._stream.flush()


def _without_addresses(
    _logger: object, _method: str, event: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    """Cut the addresses in a traceback: whoever raised did not know that it would be logged."""
    if "exception" in event:
        event["exception"] = without_addresses(event["exception"])
    return event


def _without_traceback(record: logging.LogRecord) -> bool:
    """Tell in one line of a request that is no HTTP; a port scan would fill the log."""
    error = record.exc_info[1] if record.exc_info else None
    if isinstance(error, HttpProcessingError):
        record.exc_info = None
        record.levelno, record.levelname = logging.WARNING, "WARNING"
    return True


# A scheme without a bound would be looked for anew at each word of a long one, which takes minutes.
# Within an address there may be ' and ), and a signature behind them; at its end they are of the text around it.
_URL = re.compile(r"([\w+.-]{1,30}://)(?:[^\s/?#@]*@)?([\w.:\[\]-]*)(?:[^\s\"<>]*[^\s\"<>'),])?")


def without_addresses(text: str) -> str:
    """Leave of each URL its scheme and its host."""
    return _URL.sub(r"\1\2/…", text)
