"""Logs: one event per line, as JSON for machines or coloured for people."""

import logging
import re
import sys
import time
from functools import lru_cache
from typing import TextIO, cast

import structlog
from aiohttp.http_exceptions import HttpProcessingError

from service.json_text import json_text

# Their lines repeat ours, or show the arguments of jobs, or contain documents.
_QUIET = ("arq", "aiohttp.access", "asyncio", "sqlalchemy", "pymongo")
# The scheme has a bound: without one, the search restarts at each letter of a long word, for minutes. An
# address may contain ' and ), and a signature behind them; at its end they belong to the text around it.
_URL = re.compile(r"([\w+.-]{1,30}://)(?:[^\s/?#@]*@)?([\w.:\[\]-]*)(?:[^\s\"<>]*[^\s\"<>'),])?")


def configure(
    log_format: str, level: str, *watch: structlog.typing.Processor, is_final: bool = False
) -> None:
    """Send the lines of structlog and of the standard library to stdout in one format.

    The processors in `watch` see each event first, while its traceback is still an exception. A later call changes
    everything, unless this one `is_final`: then loggers are not made anew for each line, a fifth of its time.
    """
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        _add_time,
        *watch,
    ]
    renderer: structlog.typing.Processor
    if log_format == "json":
        shared += [structlog.processors.format_exc_info, _without_addresses]
        renderer = _to_json
    else:
        renderer = structlog.dev.ConsoleRenderer(
            colors=sys.stdout.isatty(),
            exception_formatter=structlog.dev.plain_traceback,  # the default prints local variables
        )
    structlog.configure(
        processors=[*shared, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(cast("TextIO", _Output(sys.stdout))),
        cache_logger_on_first_use=is_final,
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


def _add_time(_logger: object, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    event["timestamp"] = written_time(time.time_ns() // 1000)
    return event


def _to_json(_logger: object, _method: str, event: structlog.typing.EventDict) -> str:
    return json_text(event, repr)


class _Output:
    """An output stream that may be closed or full: a failed write is ignored."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, line: str) -> None:
        try:  # noqa: SIM105 `suppress` takes as long as the write
            self._stream.write(line)
        except (OSError, ValueError):
            pass

    def flush(self) -> None:
        try:  # noqa: SIM105 likewise
            self._stream.flush()
        except (OSError, ValueError):
            pass


def _without_addresses(
    _logger: object, _method: str, event: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    """Cut the addresses in a traceback, because the raiser of an error did not write for the log."""
    if "exception" in event:
        event["exception"] = without_addresses(event["exception"])
    return event


def _without_traceback(record: logging.LogRecord) -> bool:
    """Log one line for a request that is not HTTP; tracebacks of a port scan would fill the log."""
    error = record.exc_info[1] if record.exc_info else None
    if isinstance(error, HttpProcessingError):
        record.exc_info = None
        record.levelno, record.levelname = logging.WARNING, "WARNING"
    return True


def without_addresses(text: str) -> str:
    """Shorten each URL to its scheme and its host: the rest may hold tokens, passwords and names."""
    return _URL.sub(r"\1\2/…", text)


def written_time(microseconds: int) -> str:
    """Return a time since 1970 as ISO-8601 in UTC."""
    seconds, rest = divmod(microseconds, 1_000_000)
    return f"{_written_second(seconds)}.{rest:06}Z"


@lru_cache(maxsize=1)  # many lines have the same second
def _written_second(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
