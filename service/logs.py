"""Logging: lines for people, or one JSON object a line for machines. Inputs are never logged."""

import json
import logging
import sys
import time

FIELDS = "fields"
"""Attribute of a record with what belongs to its message: logger.info("…", extra={FIELDS: {"status": 200}})."""


class JsonFormatter(logging.Formatter):
    """One object a line; a traceback is one of its strings."""

    converter = staticmethod(time.gmtime)

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": f"{self.formatTime(record, '%Y-%m-%dT%H:%M:%S')}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, FIELDS, {}),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


class TextFormatter(logging.Formatter):
    """Time, level, message, and the fields as key=value; strings as literals, so that no client can break a line."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:
        fields = getattr(record, FIELDS, {})
        return " ".join([super().formatMessage(record), *(f"{key}={value!r}" for key, value in fields.items())])


def configure(level: str, form: str) -> None:
    """Send every record to standard error; what uvicorn says of requests and of its own stages, we say ourselves."""
    # A record need not find out what no line of ours says: file and line, thread, process (Python's logging HOWTO).
    logging._srcfile = None
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if form == "json" else TextFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.getLogger("uvicorn.access").disabled = True
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
