"""Logging: JSON lines (or colour on a terminal) on stderr, and JSON lines in a file; secrets redacted before they are written.

Built on :mod:`logging`, so that Trio's, Quart's and Hypercorn's own records come out in the same form. Our code logs a constant
message and keyword fields (``log.info("ready", pid=7)``): a constant can be searched for, a field can be counted.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from functools import lru_cache
from json.encoder import encode_basestring
from pathlib import Path
from typing import Any

from kiwi_id.errors import ConfigError, Problem
from kiwi_id.log_sinks import FileSink, Sink, StreamSink, open_file
from kiwi_id.redaction import redact

TRACE = 5
LEVELS = {"error": logging.ERROR, "warn": logging.WARNING, "info": logging.INFO, "debug": logging.DEBUG, "trace": TRACE}
_NAMES = {logging.CRITICAL: "error", **{number: name for name, number in LEVELS.items()}}
_COLOURS = {"error": "31", "warn": "33", "info": "32", "debug": "36", "trace": "90"}

_ROOT, _OURS = logging.getLogger(), logging.getLogger("kiwi_id")
_encode = json.JSONEncoder(ensure_ascii=False, default=str, separators=(",", ":")).encode


class Log:
    """A logger of one component; ``fields`` become members of the JSON line."""

    def __init__(self, component: str) -> None:
        self._component = component
        self._logger = logging.getLogger(f"kiwi_id.{component}")

    def log(self, level: int, message: str, **fields: Any) -> None:
        """Log ``message`` at a numeric level."""
        if self._logger.isEnabledFor(level):
            _emit(self._component, [(level, message)], fields)

    def error(self, message: str, **fields: Any) -> None:
        """Log something that is broken and needs a person."""
        self.log(logging.ERROR, message, **fields)

    def warn(self, message: str, **fields: Any) -> None:
        """Log something that works still but should be looked at."""
        self.log(logging.WARNING, message, **fields)

    def info(self, message: str, **fields: Any) -> None:
        """Log a change of state or a request served."""
        self.log(logging.INFO, message, **fields)

    def debug(self, message: str, **fields: Any) -> None:
        """Log a decision that explains a behaviour."""
        self.log(logging.DEBUG, message, **fields)

    def trace(self, message: str, **fields: Any) -> None:
        """Log each step."""
        self.log(TRACE, message, **fields)

    def crash(self, message: str, error: BaseException, **fields: Any) -> None:
        """Log an unexpected error with its traceback: a bug of ours."""
        if self._logger.isEnabledFor(logging.ERROR):
            info = (type(error), error, error.__traceback__)
            self._logger.error(message, extra={"fields": fields}, exc_info=info)


@lru_cache(maxsize=2)
def _stamp(second: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))


def _parts(record: logging.LogRecord) -> tuple[str, str, str, str, dict[str, Any]]:
    stamp = f"{_stamp(int(record.created))}.{int(record.created * 1000 % 1000):03d}Z"
    level = _NAMES.get(record.levelno, "info")
    ours = record.name.startswith("kiwi_id.")
    component = record.name[8:] if ours else record.name
    fields: dict[str, Any] = dict(getattr(record, "fields", {}))
    message = record.getMessage() if ours else redact(record.getMessage())
    if record.exc_info and record.exc_info[0] is not None:
        # The traceback's own text may quote data (an error may quote bytes of a request), so it is redacted as foreign.
        fields["traceback"] = redact(logging.Formatter().formatException(record.exc_info))
    return stamp, level, component, message, fields


class JsonFormatter(logging.Formatter):
    """One JSON object a line: ``ts`` (RFC 3339, UTC), ``level``, ``component``, ``msg`` and the record's fields."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line without its newline; it is made once, also when stderr and the file both want it."""
        line: str | None = getattr(record, "json_line", None)
        if line is None:
            stamp, level, component, message, fields = _parts(record)
            line = _encode({"ts": stamp, "level": level, "component": component, "msg": message, **fields})
            record.json_line = line
        return line

    @staticmethod
    def lines(component: str, messages: list[tuple[int, str]], fields: dict[str, Any]) -> str:
        """Return the same lines, newlines included, for (numeric level, message) each, without a record for each."""
        now = time.time()
        begin = f'{{"ts":"{_stamp(int(now))}.{int(now * 1000 % 1000):03d}Z","level":"'
        middle = {level: f'{begin}{_NAMES.get(level, "info")}","component":"{component}","msg":' for level, _ in messages}
        end = f",{_encode(fields)[1:]}\n" if fields else "}\n"
        return "".join([middle[level] + encode_basestring(message) + end for level, message in messages])


class ConsoleFormatter(logging.Formatter):
    """A line for a person: time, level, component, message, ``key=value`` fields; with colour when asked."""

    def __init__(self, *, colour: bool) -> None:
        super().__init__()
        self._colour = colour

    def format(self, record: logging.LogRecord) -> str:
        """Return the line (and a traceback's lines) without its newline."""
        stamp, level, component, message, fields = _parts(record)
        traceback = fields.pop("traceback", None)
        tail = "".join(f" {name}={_short(value)}" for name, value in fields.items())
        word = f"{level:<5}"
        if self._colour:
            word = f"\033[{_COLOURS[level]}m{word}\033[0m"
            component, tail = f"\033[1m{component}\033[0m", f"\033[90m{tail}\033[0m"
        line = f"{stamp[11:23]} {word} {component}: {message}{tail}"
        return f"{line}\n{traceback}" if traceback else line


def _short(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return f'"{text}"' if " " in text else text


class _Output(logging.Handler):
    """One output. What goes wrong with it ends no login; see :mod:`kiwi_id.log_sinks`."""

    def __init__(self, sink: Sink, formatter: logging.Formatter) -> None:
        super().__init__()
        self.sink = sink
        self.setFormatter(formatter)

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record."""
        self.sink.write(self.format(record) + "\n")

    def write_all(self, text: str) -> None:
        """Write several lines at once: one system call for what kanidmd printed at once."""
        self.acquire()
        try:
            self.sink.write(text)
        finally:
            self.release()

    def close(self) -> None:
        """Close the output."""
        self.sink.close()
        super().close()


def _tell(message: str, fields: dict[str, object]) -> None:
    """Log, at whatever level is set, what became of log lines."""
    _emit("logs", [(logging.WARNING if "lines" in fields else logging.ERROR, message)], fields)


def relay(component: str, lines: list[tuple[int, str]]) -> None:
    """Log lines of another program, (numeric level, text) each, as they came; cheaper than one call for each.

    kanidmd prints several lines for each request, so this is a part of what every request costs.
    """
    threshold = logging.getLogger(f"kiwi_id.{component}").getEffectiveLevel()
    lines = [line for line in lines if line[0] >= threshold]
    if lines:
        _emit(component, lines, {})


def _emit(component: str, messages: list[tuple[int, str]], fields: dict[str, Any]) -> None:
    """Hand messages, all with the same fields, to whatever is configured.

    A record and the rest of :mod:`logging` cost more than all else about a line, and each request has one: JSON goes without them.
    """
    made = ""
    for handler in (*_OURS.handlers, *_ROOT.handlers):
        if isinstance(handler, _Output) and isinstance(handler.formatter, JsonFormatter):
            made = made or handler.formatter.lines(component, messages, fields)
            handler.write_all(made)
        else:  # a terminal, or a test's own
            for level, message in messages:
                record = logging.LogRecord(f"kiwi_id.{component}", level, "", 0, message, (), None)
                record.fields = fields
                handler.handle(record)


class _Sparingly(logging.Filter):
    """Lets one record in ten seconds through, without its traceback.

    Trio's accept loop logs ten a second while there is no descriptor for another client.
    """

    _next = float("-inf")

    def filter(self, record: logging.LogRecord) -> bool:
        """Tell whether the record is logged."""
        record.exc_info = None
        if time.monotonic() < self._next:
            return False
        self._next = time.monotonic() + 10.0
        return True


def check_file(file: Path | None) -> None:
    """Check that ``file``, when it is another than the one in use, can be written to, creating it when missing. Raises ConfigError.

    The one in use is not held against a reload: its disk may be full, and what is to be reloaded may be a certificate.
    """
    if file is None or any(isinstance(handler, _Output) and handler.sink.name == str(file) for handler in _ROOT.handlers):
        return
    try:
        os.close(open_file(file))
    except OSError as error:
        fix = "Create the directory and let this user write to it, or leave log_file empty."
        problem = Problem(str(file), "log_file", error.strerror or str(error), "a file that can be written to", fix)
        raise ConfigError([problem]) from None


def _file_output(file: Path, old: list[logging.Handler]) -> logging.Handler:
    """Return the output to a file that has just been opened; when it cannot be, the one to the same file that is open already."""
    sink = FileSink(file, _tell)
    if not sink.is_open:
        for handler in old:
            found = handler.sink if isinstance(handler, _Output) else None
            if isinstance(found, FileSink) and found.is_open and found.name == sink.name:
                _tell("the log file cannot be opened anew; the open one goes on", {"to": sink.name, "reason": sink.reason})
                return handler
    return _Output(sink, JsonFormatter())


def configure(level: str, style: str = "auto", file: Path | None = None) -> None:
    """Set up (or, on a reload, replace) all log output; ``file`` is opened anew each time, so that it can be rotated.

    ``style``: ``json``, ``console``, or ``auto`` (console on a terminal). When ``file`` cannot be opened, that is logged, and it is
    tried again later: logins go on without it.
    """
    logging.addLevelName(TRACE, "TRACE")
    # Where in the source a record was made, and by which thread or task, stands in none of our lines and costs more than they do.
    logging._srcfile = None  # documented: "Optimization" in the HOWTO of logging
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    terminal = sys.stderr.isatty()
    console = style == "console" or (style == "auto" and terminal)
    formatter = ConsoleFormatter(colour=terminal) if console else JsonFormatter()
    old = _ROOT.handlers[:]
    handlers: list[logging.Handler] = [_file_output(file, old)] if file is not None else []
    handlers.append(_Output(StreamSink(sys.stderr, _tell), formatter))
    _ROOT.handlers[:] = handlers
    for handler in old:
        if handler not in handlers:
            handler.close()
    # Libraries at warning and above only: their debug output quotes headers, that is, cookies and tokens.
    _ROOT.setLevel(logging.WARNING)
    _OURS.setLevel(LEVELS[level])
    accepting = logging.getLogger("trio.serve_listeners")
    accepting.filters[:] = [_Sparingly()]
