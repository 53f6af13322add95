"""Logs: one JSON object a line on stderr, by structlog. The line of each call is written by the store's thread."""

from __future__ import annotations

import contextlib
import logging
import sys
import traceback
from collections.abc import MutableMapping
from typing import Any

import orjson
import structlog


def configure(level: str) -> None:
    """Set structlog up for the process, and silence what other libraries would print in their own format."""
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _where,
            structlog.processors.JSONRenderer(serializer=_dumps),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=_Stderr,
        cache_logger_on_first_use=True,
    )
    logging.getLogger("quart").setLevel(logging.CRITICAL)
    logging.getLogger("hypercorn").setLevel(logging.CRITICAL)


class _Stderr:
    """Writes lines to standard error. One that cannot be written is let go: a log has nobody else to tell, and the
    process goes on.
    """

    def __init__(self, *_args: object) -> None:
        pass

    def msg(self, line: str) -> None:
        """Write one line."""
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.write(line + "\n")
            sys.stderr.flush()

    log = debug = info = warn = warning = error = critical = exception = msg


def _where(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Turn an exception into its type and the places it passed. Never its text or local variables: they can hold
    a prompt or a key.
    """
    exc = event.pop("exc_info", None)
    if exc is True:
        exc = sys.exc_info()[1]
    if isinstance(exc, BaseException):
        event["exception"] = type(exc).__qualname__
        event["frames"] = [
            f"{frame.filename}:{frame.lineno} {frame.name}" for frame in traceback.extract_tb(exc.__traceback__)
        ]
        if isinstance(exc, BaseExceptionGroup):
            event["exceptions"] = [type(inner).__qualname__ for inner in exc.exceptions]
    return event


def _dumps(event: object, **_: object) -> str:
    return orjson.dumps(event, default=repr).decode()
