"""The issuer's key set over HTTP, for who has no way to get a file: fetched in the background, never while a token is checked.

With the standard library only, whose HTTP client is imported when a :class:`JwksUrl` is made.
"""

from __future__ import annotations

import logging
import threading
import time
import weakref
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from kiwi_id.verify import keys
from kiwi_id.verify.errors import KeysError
from kiwi_id.verify.keys import Keys

if TYPE_CHECKING:
    import ssl

REFRESH_SECONDS = 300.0  # how long Kiwi ID lets its key set be cached; a new key is in it for a day before it signs
AGAIN_SECONDS = 10.0  # at most so often because of an unknown key, which anybody can name
TIMEOUT_SECONDS = 5.0
MAX_BODY = 256 * 1024

_LOG = logging.getLogger("kiwi_id.verify")


class JwksUrl:
    """The keys at the ``jwks_uri`` of an issuer, such as ``https://id.example.com/oauth2/keys``; give it to a Verifier as ``keys``.

    The first set is fetched at once, which takes up to ``timeout`` seconds and raises KeysError when it fails. From then on a
    daemon thread fetches it every ``refresh`` seconds, and soon after a token has named an unknown key; what fails is logged, and
    leaves the last good keys in place. ``ca_file`` has the certificates to trust instead of the system's. Only https is taken, but
    from this very machine; redirects are not followed, for they would let somebody else name the keys. Raises KeysError.
    """

    def __init__(
        self, url: str, *, refresh: float = REFRESH_SECONDS, timeout: float = TIMEOUT_SECONDS, ca_file: str | Path | None = None
    ) -> None:
        _check(url)
        if not (refresh > 0 and timeout > 0):
            raise KeysError(f"{url}: refresh and timeout must be more than 0 seconds")
        self.url, self._refresh, self._timeout = url, refresh, timeout
        self._context = _context(ca_file)
        self._data = self._fetch()
        self._keys = keys.read(self._data, url)
        self._fetched = time.monotonic()
        self._refused = ""
        self._closed = False
        self._wake = threading.Event()
        self._starting = threading.Lock()
        self._thread = self._start()

    def current(self) -> Keys:
        """Return the keys that were fetched last. A process that was forked after the first fetch starts its own thread here."""
        if not self._thread.is_alive() and not self._closed:
            with self._starting:
                if not self._thread.is_alive():
                    self._wake = threading.Event()
                    self._thread = self._start()
        return self._keys

    def missed(self) -> None:
        """Note that a token named a key that is not there: the set is fetched again soon, if that has not just been done."""
        if time.monotonic() - self._fetched >= AGAIN_SECONDS:
            self._wake.set()

    def refresh(self) -> None:
        """Fetch the set now. Raises KeysError, and keeps the last good keys then."""
        self._fetched = time.monotonic()
        data = self._fetch()
        if data != self._data:
            self._keys, self._data = keys.read(data, self.url), data
            _LOG.info("%s: fetched anew, %d keys", self.url, len(self._keys.by_kid))

    def close(self) -> None:
        """End the background thread; the keys stay as they are."""
        self._closed = True
        self._wake.set()

    def _start(self) -> threading.Thread:
        # The thread knows this object only weakly, so that it ends when nobody else does.
        arguments = (weakref.ref(self), self._wake, self._refresh)
        thread = threading.Thread(target=_keep_fresh, args=arguments, name="kiwi-id-jwks", daemon=True)
        thread.start()
        return thread

    def _try_refresh(self) -> bool:
        """Refresh once for the background thread; return whether it goes on."""
        if self._closed:
            return False
        try:
            self.refresh()
            self._refused = ""
        except KeysError as error:
            if str(error) != self._refused:  # once in words, not every five minutes
                _LOG.warning("%s; the keys fetched before stay in use", error)
            self._refused = str(error)
        return True

    def _fetch(self) -> bytes:
        from kiwi_id.verify.fetch import fetch  # noqa: PLC0415 - 25 ms that only this way of getting keys costs

        return fetch(self.url, self._context, timeout=self._timeout, most=MAX_BODY)


def _keep_fresh(source: weakref.ref[JwksUrl], wake: threading.Event, refresh: float) -> None:
    while True:
        wake.wait(refresh)
        wake.clear()
        found = source()
        if found is None or not found._try_refresh():
            return
        del found


def _check(url: str) -> None:
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
    except ValueError:
        raise KeysError("keys: not a URL") from None
    if "@" in parts.netloc:
        raise KeysError("keys: a URL with a password; a key set is public")
    loopback = host in ("localhost", "127.0.0.1", "::1")
    if not host or parts.scheme not in ("https", "http"):
        raise KeysError(f"{url}: not an https URL")
    if parts.scheme == "http" and not loopback:
        raise KeysError(f"{url}: without TLS anybody on the way could put in keys of his own; allowed: https, or http on loopback")


def _context(ca_file: str | Path | None) -> ssl.SSLContext:
    import ssl  # noqa: PLC0415 - 25 ms that only this way of getting keys costs

    try:
        return ssl.create_default_context(cafile=str(ca_file) if ca_file is not None else None)
    except OSError as error:
        raise KeysError(f"{ca_file}: {error.strerror or 'no certificates that can be read'}") from None
