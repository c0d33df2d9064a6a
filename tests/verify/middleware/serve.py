"""Serves an application for a test, as a process of its own: ``python -m tests.verify.middleware.serve FILE asyncio|trio|wsgi``.

A process, because frameworks change what is global: Django's settings, time zone and logging. Prints the port, then serves until
it is ended.
"""

from __future__ import annotations

import asyncio
import importlib.util
import socket
import sys
from pathlib import Path
from typing import Any
from wsgiref.simple_server import make_server

import hypercorn.asyncio
import hypercorn.trio
import trio
from hypercorn.config import Config


def load(file: Path) -> Any:
    """Return ``app`` of a Python file."""
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[file.stem] = module
    spec.loader.exec_module(module)
    return module.app


def main(file: Path, kind: str) -> None:
    """Serve until killed."""
    app = load(file)
    if kind == "wsgi":
        with make_server("127.0.0.1", 0, app) as server:
            print(server.server_port, flush=True)
            server.serve_forever()
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setblocking(False)
    print(listener.getsockname()[1], flush=True)
    config = Config()
    config.bind = [f"fd://{listener.detach()}"]
    config.accesslog = "-"  # to standard output, where the test looks for tokens
    if kind == "trio":
        trio.run(hypercorn.trio.serve, app, config)
    else:
        asyncio.run(hypercorn.asyncio.serve(app, config))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
