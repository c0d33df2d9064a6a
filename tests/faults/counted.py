"""The stand-in for kanidmd, with every request that may change something written down as it arrives: method and request id."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from kiwi_id.devserver.__main__ import main
from kiwi_id.devserver.app import Site
from kiwi_id.devserver.http import Request, Response

ROOT = Path(__file__).parent.parent.parent
ARRIVALS = "arrivals"


def install(target: Path) -> None:
    """Write it as an executable."""
    lines = [
        f"#!{sys.executable}",
        "import sys",
        f"sys.path.insert(0, {str(ROOT)!r})",
        "from tests.faults.counted import run",
        f"run({str(target.with_name(ARRIVALS))!r})",
    ]
    target.write_text("\n".join([*lines, ""]))
    target.chmod(0o755)


def run(arrivals: str) -> None:
    """Be the stand-in."""
    file = os.open(arrivals, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    serve = Site.__call__

    async def count(self: Site, request: Request) -> Response:
        if request.method not in ("GET", "HEAD"):
            # One write, before anything has been done: a kill right after it must not make the request uncounted.
            os.write(file, f"{request.method} {request.headers.get('x-request-id', '-')}\n".encode())
        return await serve(self, request)

    Site.__call__ = count  # type: ignore[method-assign]
    sys.exit(main())
