"""TCP ports for what a test starts."""

from __future__ import annotations

import socket

_given: set[int] = set()


def free_port() -> int:
    """Return a TCP port of the loopback that nobody listens on now, and that this run of the tests has not been given before.

    The system alone may name the same one twice in a row, and an instance's two addresses would be one.
    """
    while True:
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            port: int = sock.getsockname()[1]
        if port not in _given:
            _given.add(port)
            return port
