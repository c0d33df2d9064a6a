"""Asking Kanidm again: whether a session lives, and who its person is by now.

Each session carries a refresh token of Kanidm's. Using it is the one question that Kanidm answers for as long as the session lives,
with the claims of that moment; but it may be used once only, and a browser asks with many requests at once. So one request asks,
all that come with the same cookie share its answer, and the answer is remembered for as long as it is good: for tabs whose cookie
is still the old one, and for proxies that do not hand the new one on.
"""

from __future__ import annotations

import hashlib
import time
from collections import OrderedDict
from dataclasses import dataclass, field, replace

import trio

from kiwi_id.forward_auth.identity import Identity, Unusable
from kiwi_id.forward_auth.rules import Rules
from kiwi_id.forward_auth.session import Session
from kiwi_id.issuer.claims import user_claims
from kiwi_id.issuer.context import Context
from kiwi_id.issuer.tokens import payload
from kiwi_id.kanidm.oauth2 import Surprise
from kiwi_id.logs import Log
from kiwi_id.proxy.caller import Unavailable

log = Log("forward-auth")

# While Kanidm does not answer, a session is believed for as long after its last check as an access token is by every service that
# checks tokens by itself.
STALE = 900.0
# A Kanidm that did not answer is not asked about the same session again so soon (seconds): each question waits for it.
PAUSE = 3.0
_MOST = 20_000


@dataclass
class _Asked:
    until: float
    done: trio.Event = field(default_factory=trio.Event)
    answered: bool = False
    session: Session | None = None
    failure: str = ""


class Renewals:
    """What one process knows of sessions that were renewed or signed out a moment ago. Outlives reloads."""

    def __init__(self) -> None:
        self._asked: OrderedDict[bytes, _Asked] = OrderedDict()
        self._over: OrderedDict[str, float] = OrderedDict()

    def end(self, session: Session, *, memory: float) -> None:
        """Note that a session was signed out; copies of its cookie are refused for ``memory`` seconds, then Kanidm refuses them."""
        now = time.monotonic()
        while self._over and (len(self._over) >= _MOST or next(iter(self._over.values())) < now):
            self._over.popitem(last=False)
        self._over[session.number] = now + memory

    def ended(self, session: Session) -> bool:
        """Tell whether a session was signed out a moment ago, here."""
        return self._over.get(session.number, 0.0) > time.monotonic()

    async def current(self, ctx: Context, rules: Rules, session: Session) -> Session | None:
        """Return a session as it is by now: itself while its last check is young enough, else renewed; None when it has ended.

        Raises Unavailable or Surprise when Kanidm cannot be asked, and the last check is too old to go by.
        """
        if self.ended(session):
            return None
        age = time.time() - session.checked
        if age < rules.recheck:
            return session
        try:
            return await self._renewed(ctx, rules, session)
        except (Unavailable, Surprise):
            if age >= max(STALE, rules.recheck):
                raise
            return session

    def latest(self, session: Session) -> Session:
        """Return the newest that is known of a session: the browser's cookie may be one renewal behind."""
        asked = self._asked.get(_key(session))
        return asked.session if asked is not None and asked.session is not None else session

    async def _renewed(self, ctx: Context, rules: Rules, session: Session) -> Session | None:
        key = _key(session)
        while True:
            self._forget()
            asked = self._asked.get(key)
            if asked is None or (asked.done.is_set() and asked.until < time.monotonic()):
                return await self._ask(ctx, rules, session, key)
            await asked.done.wait()
            if asked.failure:
                raise Unavailable(asked.failure)
            if asked.answered:  # else whoever asked was cancelled
                return asked.session

    async def _ask(self, ctx: Context, rules: Rules, session: Session, key: bytes) -> Session | None:
        asked = self._asked[key] = _Asked(time.monotonic() + rules.recheck)
        self._asked.move_to_end(key)
        try:
            asked.session = await _refresh(ctx, rules, session)
            asked.answered = True
        except (Unavailable, Surprise) as error:
            asked.failure, asked.until = str(error), time.monotonic() + PAUSE
            log.warn("kanidmd could not be asked about a session", error=asked.failure)
            raise
        finally:
            if not (asked.answered or asked.failure):
                del self._asked[key]
            asked.done.set()
        return asked.session

    def _forget(self) -> None:
        now = time.monotonic()
        while self._asked:
            key, asked = next(iter(self._asked.items()))
            if not asked.done.is_set() or (asked.until >= now and len(self._asked) <= _MOST):
                break
            del self._asked[key]


async def _refresh(ctx: Context, rules: Rules, session: Session) -> Session | None:
    form = {"grant_type": "refresh_token", "refresh_token": session.refresh}
    status, answer = await ctx.kanidm.token(form, rules.client_id, rules.secret)
    if status == 401:
        raise Surprise("Kanidm does not take the secret of forward_auth_client")
    if status >= 500:
        raise Surprise(f"status {status} from the token endpoint")
    if status != 200:
        return None
    try:
        # Kanidm's tokens need no check of their own: they came over the pinned connection a moment ago.
        scope = answer.get("scope") or payload(answer["access_token"]).get("scope") or ""
        identity = Identity.of(user_claims(ctx, payload(answer["id_token"])), str(scope))
        return replace(session, identity=identity, refresh=str(answer["refresh_token"]), checked=int(time.time()))
    except Unusable:
        return None
    except KeyError:
        raise Surprise("no ID token or refresh token from the token endpoint") from None


def _key(session: Session) -> bytes:
    return hashlib.sha256(session.refresh.encode()).digest()
