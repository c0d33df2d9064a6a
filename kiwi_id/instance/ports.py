"""TCP ports of the loopback, for instances that are made for a trial, a test or a bench."""

from __future__ import annotations

import socket

_given: set[int] = set()


def free_port() -> int:
    """Return a port that nobody listens on now, and that this process has not been given before.

    The system alone may name the same one twice in a row, and an instance's two addresses would be one.
    """
    while True:
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            port: int = sock.getsockname()[1]
        if port not in _given:
            _given.add(port)
            return port
