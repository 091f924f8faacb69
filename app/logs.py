"""
One event per line: a name and fields, as JSON or as text for a terminal.

A filter takes secrets out of every event: what looks like a token, a ticket, a password in an address, a phone
number or an e-mail address. What other libraries log by the standard library's loggers is filtered and rendered alike;
our own events do not pass through those: each delivery ends in one, and there it cost as much as a push does to encrypt.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Mapping, MutableMapping
from typing import Any, Final, Literal

import structlog

#: Where the words of an exception end and those of the next one begin (traceback, chained exceptions).
_END = r"(?=\n\n(?:The above exception|During handling)|\Z)"

_SECRETS: tuple[tuple[re.Pattern[str], str], ...] = (
    # PostgreSQL quotes the row that it refuses, and asyncpg the value: a message, an address, whatever it was.
    (re.compile(r"\n(DETAIL|CONTEXT): .*?" + _END, re.DOTALL), r"\n\1: [redacted]"),
    (
        re.compile(r"(invalid input (?:syntax|value|for query argument)[^:\n]*: ).*?" + _END, re.DOTALL),
        r"\1[redacted]",
    ),
    (re.compile(r"(?i)\b(token|ticket|positions|secret|password|api_key)=[^&\s\"']+"), r"\1=[redacted]"),
    (re.compile(r"\bey[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*"), "[redacted token]"),
    (re.compile(r"\bck_[A-Za-z0-9]+_[A-Za-z0-9_-]+"), "[redacted api key]"),
    (re.compile(r"(?i)\bbearer[ .][A-Za-z0-9._~+/=-]{8,}"), "bearer [redacted]"),
    (re.compile(r"://[^\s/@:]*:[^\s/@]+@"), "://[redacted]@"),
    (re.compile(r"[\w.+-]+@[\w-]+\.[\w.-]+"), "[redacted address]"),
    (re.compile(r"(?<![\w-])\+\d{7,15}\b"), "[redacted number]"),
)

#: What each of them begins with or cannot do without. Identifiers and names of channels have none of it.
_SUSPECT: Final = re.compile(r"[\n=@+]|invalid input |\bey|\bck_|(?i:bearer)")


def redact(text: str) -> str:
    """The text without what opens a door or names a person."""
    if _SUSPECT.search(text) is None:
        return text
    for pattern, instead in _SECRETS:
        text = pattern.sub(instead, text)
    return text


def _redacted(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> Mapping[str, Any]:
    return {name: _clean(value) for name, value in event.items()}


def _clean(value: Any) -> Any:
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, dict):
        return {name: _clean(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_clean(inner) for inner in value]
    return value


class _Lines:
    """
    Where events of ours end: a line each on standard error, by whoever they are from.

    A line that cannot be written is lost, as one of the standard library's loggers is: what it tells of goes on.
    """

    def __init__(self, name: str = "") -> None:
        self.name = name

    def write(self, line: str) -> None:
        if sys.stderr is None:  # the process was started without
            return
        try:
            sys.stderr.write(line + "\n")
            sys.stderr.flush()
        except (OSError, ValueError):  # its reader is gone, its disk is full; it is closed
            pass

    debug = info = warning = error = critical = exception = write


def configure(level: str, form: Literal["json", "text"]) -> None:
    """Send every event of this process, and every record of the standard library's loggers, to standard error."""
    shared: list[structlog.types.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
        structlog.processors.format_exc_info,
        _redacted,
    ]
    renderer: structlog.types.Processor = (
        structlog.processors.JSONRenderer()
        if form == "json"
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    threshold = logging.getLevelNamesMapping()[level.upper()]
    structlog.configure(
        processors=[*shared, renderer],
        logger_factory=_Lines,
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(threshold)
    for noisy in ("apscheduler", "alembic", "asyncio"):
        logging.getLogger(noisy).setLevel(max(logging.WARNING, root.level))
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
        logger.setLevel(logging.WARNING)
