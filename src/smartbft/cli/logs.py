"""Structured logs on stderr. Only the command line configures logging; the library just logs."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime

LOG_FORMATS = ("text", "json")

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


def configure_logging(level: str, log_format: str = "text", **context: object) -> None:
    """Send records of `level` and above to stderr.

    Args:
        level: ``debug``, ``info``, ``warning`` or ``error``.
        log_format: ``text`` (``key=value`` pairs) or ``json`` (one object a line).
        context: fields of every record, e.g. ``replica=2``.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter(context) if log_format == "json" else TextFormatter(context))
    root = logging.getLogger()
    for old in list(root.handlers):
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level.upper())
    logging.getLogger("asyncio").setLevel(logging.WARNING)


class _Formatter(logging.Formatter):
    def __init__(self, context: dict[str, object]) -> None:
        super().__init__()
        self._context = context

    def fields(self, record: logging.LogRecord) -> dict[str, object]:
        """The fields of a record, the fixed ones first."""
        time = datetime.fromtimestamp(record.created, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        extra = {key: value for key, value in vars(record).items() if key not in _STANDARD}
        found = {"time": time, "level": record.levelname.lower(), "logger": record.name, **self._context}
        found |= {"message": record.getMessage(), **extra}
        if record.exc_info:
            found["exception"] = self.formatException(record.exc_info)
        return found


class JsonFormatter(_Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        """A record as JSON; values that JSON lacks as text."""
        return json.dumps(self.fields(record), default=str)


class TextFormatter(_Formatter):
    """``key=value`` pairs; values with spaces, quotes or line breaks are quoted, so that a record is one line."""

    def format(self, record: logging.LogRecord) -> str:
        """A record as one line of text."""
        return " ".join(f"{key}={_quote(str(value))}" for key, value in self.fields(record).items())


def _quote(text: str) -> str:
    return text if text and text.isprintable() and not set(text) & set(' "=') else json.dumps(text)
