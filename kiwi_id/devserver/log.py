"""Log lines on stdout in the manner of kanidmd: a tree per request, and the whole request URI in it.

The real server writes OAuth2 query strings into its log (server/core/src/https/trace.rs). The stand-in does the same on
purpose: the redaction in Kiwi ID's supervisor is tested on these lines. Nothing else secret is ever written.
"""

import sys

__all__ = ["event", "request"]

_NOBODY = "00000000-0000-0000-0000-000000000000"
_MARKS = {"INFO": "ｉ [info]", "WARN": "🚧 [warn]", "ERROR": "🚨 [error]"}


def _write(text: str) -> None:
    # One write for a whole tree, so that trees of concurrent requests do not mix.
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except (BrokenPipeError, ValueError):
        # Whoever read our log is gone; serving goes on, as with the real server.
        pass


def event(level: str, text: str) -> None:
    """Write one line outside of any request. `level` is INFO, WARN or ERROR."""
    _write(f"{_NOBODY} {level:<8} {_MARKS[level]}: {text}\n")


def request(method: str, uri: str, status: int, seconds: float, opid: str) -> None:
    """Write the tree of one answered request; `uri` is logged whole, query included, as kanidmd 1.5.0 does."""
    took = f"{seconds * 1000:.3f}ms"
    lines = f"{opid} INFO     request [ {took} | 100.00% ] method: {method} | uri: {uri} | version: HTTP/1.1\n"
    level, note = "INFO", ""
    if status >= 500:
        level, note = "ERROR", "error handling request"
    elif status >= 400:
        level, note = ("INFO" if status == 404 else "WARN"), "client error"
    elif status >= 300:
        note = "client redirection sent"
    if note:
        fields = f'latency: {took} | status_code: {status} | kopid: "{opid}" | msg: "{note}"'
        lines += f"{opid} {level:<8} ┕━ {_MARKS[level]}:  | {fields}\n"
    _write(lines)
