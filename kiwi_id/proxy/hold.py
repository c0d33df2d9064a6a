"""The hold: what shuts the gate while the child still serves, before a planned restart.

First to uploads alone, because nobody but their clients knows how long they take, while those that have begun come to their end;
then to all but logins that have begun.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import trio

from kiwi_id.proxy.exchange import Exchange
from kiwi_id.state import ChildStatus

# Steps of a login that has begun: kanidmd keeps it in memory, and the next kanidmd will not know it.
_LOGIN_STEPS = b"/ui/login/"
_LOGIN_ENDS = frozenset({b"/ui/oauth2/resume", b"/ui/oauth2/consent"})
_LOGIN_HEADER, _LOGIN_COOKIE = b"x-kanidm-auth-session-id", b"auth-session-id="


class Hold:
    """Open, but for the time of :meth:`shut`; ``last_login`` is when a step of a login last passed it nevertheless."""

    def __init__(self) -> None:
        self._opened: trio.Event | None = None
        self._opened_to_uploads: trio.Event | None = None
        self.last_login = float("-inf")

    @contextmanager
    def shut(self) -> Iterator[None]:
        """Hold new requests for the time of the block."""
        self._opened = trio.Event()
        try:
            yield
        finally:
            self._opened.set()
            self._opened = None

    @contextmanager
    def shut_to_uploads(self) -> Iterator[None]:
        """Hold new uploads for the time of the block."""
        self._opened_to_uploads = trio.Event()
        try:
            yield
        finally:
            self._opened_to_uploads.set()
            self._opened_to_uploads = None

    def passes(self, exchange: Exchange, *, upload: bool) -> bool:
        """Tell whether a request may pass now."""
        if upload and self._opened_to_uploads is not None:
            return False
        if self._opened is None:
            return True
        if not _continues_login(exchange):
            return False
        self.last_login = trio.current_time()
        return True

    async def wait_serving(self, status: ChildStatus, *, upload: bool) -> bool:
        """Wait until it is open and the child serves; False as soon as that is over for good."""
        while (opened := self._opened_to_uploads if upload and self._opened is None else self._opened) is not None:
            await opened.wait()
        return await status.wait_serving()


def _continues_login(exchange: Exchange) -> bool:
    """Tell whether a request is a step of a login, by page or by API, that kanidmd has in memory (server/core/src/https/v1.rs)."""
    if exchange.path.startswith(_LOGIN_STEPS) or exchange.path in _LOGIN_ENDS:
        return True
    return any(name == _LOGIN_HEADER or (name == b"cookie" and _LOGIN_COOKIE in value) for name, value in exchange.headers)
