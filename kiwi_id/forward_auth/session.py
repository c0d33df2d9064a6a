"""The browser's session: a sealed cookie that holds whom to tell of, and what Kanidm can be asked about it with.

There is no table of sessions: any Kiwi ID with the same keys reads the cookie, and a restart ends nothing.
"""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass, field

from kiwi_id.forward_auth.identity import Identity
from kiwi_id.forward_auth.rules import Rules
from kiwi_id.issuer.box import NotOurs, Sealer
from kiwi_id.issuer.http import Header, OAuthError, Request
from kiwi_id.issuer.keys import KeySet

# What is Kiwi ID's among the cookies at an application's host: both kinds of session, and a login under way (:mod:`.login`). In no
# spelling, for servers behind may compare in other ways than we.
_OURS = (b"__host-kiwi-session", b"__secure-kiwi-session", b"__host-kiwi-login")
# A browser drops a cookie of more than 4,096 bytes with its name and attributes, without a word.
MOST = 3900


class TooLarge(Exception):
    """A session that fits in no cookie: its person is in hundreds of groups."""


@dataclass(frozen=True)
class Session:
    """A session. ``host`` is the only one that it counts for (empty: all below the domain); times in Unix seconds.

    ``refresh`` is Kanidm's refresh token, ``sid`` Kanidm's session, ``number`` the same over all renewals of this one.
    """

    identity: Identity
    host: str
    refresh: str = field(repr=False)
    sid: str
    begun: int
    checked: int
    number: str = field(default_factory=lambda: secrets.token_urlsafe(9))


class Sessions:
    """Seals sessions into cookies and opens them."""

    def __init__(self, rules: Rules, keys: KeySet) -> None:
        self._rules, self._sealer = rules, Sealer("forward-auth session", keys)
        self.cookie = "__Secure-kiwi-session" if rules.domain else "__Host-kiwi-session"
        self._attributes = "; Path=/; Secure; HttpOnly; SameSite=Lax" + (f"; Domain={rules.domain}" if rules.domain else "")

    def found(self, request: Request, host: str) -> Session | None:
        """Return the session of a request to ``host``, or None. A cookie of another host counts for nothing."""
        value = request.cookie(self.cookie)
        if not value:
            return None
        try:
            box = self._sealer.open(value)
        except NotOurs:
            return None
        session = Session(
            identity=Identity(box["u"], box["p"], box["n"], box["m"], tuple(box["g"]), tuple(box["s"])),
            host=box["h"],
            refresh=box["r"],
            sid=box["i"],
            begun=box["b"],
            checked=box["c"],
            number=box["k"],
        )
        # A server behind one host sees that host's cookie, and could send it to another. A change of lifetime counts at once.
        ours = session.host == ("" if self._rules.domain else host)
        return session if ours and session.begun + self._rules.lifetime > time.time() else None

    def set_cookie(self, session: Session) -> Header:
        """Return the header that gives a session to the browser. Raises TooLarge."""
        left = max(int(session.begun + self._rules.lifetime - time.time()), 1)
        identity = session.identity
        box = {
            "u": identity.subject,
            "p": identity.user,
            "n": identity.name,
            "m": identity.email,
            "g": identity.groups,
            "s": identity.scopes,
            "h": session.host,
            "r": session.refresh,
            "i": session.sid,
            "b": session.begun,
            "c": session.checked,
            "k": session.number,
        }
        try:
            cookie = f"{self.cookie}={self._sealer.seal(box, lifetime=left)}; Max-Age={left}{self._attributes}"
        except OAuthError:
            raise TooLarge from None
        if len(cookie) > MOST:
            raise TooLarge
        return (b"set-cookie", cookie.encode())

    def clear_cookie(self) -> Header:
        """Return the header that takes the session from the browser."""
        return (b"set-cookie", f"{self.cookie}=; Max-Age=0{self._attributes}".encode())


def cookies_of_others(request: Request) -> Header:
    """Return the header that holds the request's cookies without ours, as they came, for the application; possibly empty.

    Left out is every cookie whose name begins like one of ours. Pairs are told apart as :meth:`Request.cookie` does it.
    """
    pairs = [pair.strip() for name, value in request.headers if name == b"cookie" for pair in value.split(b";")]
    return (b"cookie", b"; ".join(pair for pair in pairs if pair and not pair.lower().startswith(_OURS)))
