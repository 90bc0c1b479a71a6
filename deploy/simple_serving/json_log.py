"""Log lines as JSON objects, one a line, for programs that collect them."""

import json
import logging
from datetime import datetime, timezone

from text_cls.cli import logger

TEXT, JSON = FORMATS = ("text", "json")


class JsonFormatter(logging.Formatter):
    """time (UTC), level and message of a record, and the fields in its `fields`, as those of a request."""

    def format(self, record):
        time = datetime.fromtimestamp(record.created, timezone.utc).isoformat(timespec="milliseconds")
        line = {"time": time, "level": record.levelname, "message": record.getMessage()}
        line |= getattr(record, "fields", {})
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


def write_json():
    """From now on the server's lines, and uvicorn's, are JSON."""
    for name in (logger.name, "uvicorn", "uvicorn.error"):
        for handler in logging.getLogger(name).handlers:
            handler.setFormatter(JsonFormatter())
