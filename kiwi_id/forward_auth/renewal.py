"""Asking Kanidm again: whether a session lives, and who its person is by now.

Each session carries a refresh token of Kanidm's. Using it is the one question that Kanidm answers for as long as the session lives,
with the claims of that moment; but it may be used once only, and a browser asks with many requests at once. So one request asks,
all that come with the same cookie share its answer, and the answer is remembered for as long as it is good: for tabs whose cookie
is still the old one, and for proxies that do not hand the new one on.

Kanidm is asked in a task of its own, which goes on when nobody waits any more: an answer that is not read to its end would leave us
with a refresh token that is used up, and the session would be over.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections import OrderedDict
from dataclasses import dataclass, field, replace

import trio

from kiwi_id.forward_auth.identity import Identity, Unusable
from kiwi_id.forward_auth.rules import Rules
from kiwi_id.forward_auth.session import Session
from kiwi_id.issuer.claims import user_claims
from kiwi_id.issuer.context import Context
from kiwi_id.issuer.http import Credentials
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
# How long a request waits for an answer that it can do without (seconds): for a session that is believed without, or a sign-out.
PATIENCE = 3.0
_MOST = 20_000


@dataclass
class _Asked:
    """A question to Kanidm: when it was put (Trio's clock), and what came of it when ``done``, which is good ``until`` then."""

    until: float
    begun: float = field(default_factory=trio.current_time)
    done: trio.Event = field(default_factory=trio.Event)
    session: Session | None = None
    error: Exception | None = None


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
        if age >= max(STALE, rules.recheck):  # there is no answer without Kanidm's: this waits for it as all requests do
            return await self._renewed(ctx, rules, session, math.inf)
        try:
            return await self._renewed(ctx, rules, session, PATIENCE)
        except (Unavailable, Surprise):
            return session

    def latest(self, session: Session) -> Session:
        """Return the newest that is known of a session: the browser's cookie may be one renewal behind."""
        asked = self._asked.get(_key(session))
        return asked.session if asked is not None and asked.session is not None else session

    async def revoke(self, ctx: Context, rules: Rules, session: Session) -> None:
        """End a session in Kanidm; wait for that no longer than PATIENCE. Until it has come about, the session is refused here."""
        done = trio.Event()

        async def ask() -> None:
            try:
                await ctx.kanidm.revoke(session.refresh, rules.client_id, await _secret(ctx, rules))
            except Exception as error:  # noqa: BLE001 - what leaves a system task ends the process
                self.end(session, memory=rules.lifetime)
                log.warn("a session could not be ended in Kanidm", error=str(error))
            finally:
                done.set()

        trio.lowlevel.spawn_system_task(ask)
        with trio.move_on_after(PATIENCE):
            await done.wait()

    async def _renewed(self, ctx: Context, rules: Rules, session: Session, patience: float) -> Session | None:
        key = _key(session)
        self._forget()
        asked = self._asked.get(key)
        if asked is None or (asked.done.is_set() and asked.until < time.monotonic()):
            asked = self._asked[key] = _Asked(time.monotonic() + rules.recheck)
            self._asked.move_to_end(key)
            trio.lowlevel.spawn_system_task(self._ask, ctx, rules, session, asked)
        # From the question on, not from now on: else each request to a Kanidm that hangs would wait anew.
        with trio.move_on_at(asked.begun + patience):
            await asked.done.wait()
        if not asked.done.is_set():
            raise Unavailable("kanidmd does not answer in time")
        if asked.error is not None:
            raise asked.error
        return asked.session

    async def _ask(self, ctx: Context, rules: Rules, session: Session, asked: _Asked) -> None:
        try:
            asked.session = await _refresh(ctx, rules, session)
        except Exception as error:  # noqa: BLE001 - what leaves a system task ends the process; whoever waits raises it
            asked.error, asked.until = error, time.monotonic() + PAUSE
            log.warn("kanidmd could not be asked about a session", error=str(error))
        except trio.Cancelled:
            asked.error = Unavailable("Kiwi ID is stopping")
            raise
        finally:
            asked.done.set()

    def _forget(self) -> None:
        now = time.monotonic()
        while self._asked:
            key, asked = next(iter(self._asked.items()))
            if not asked.done.is_set() or (asked.until >= now and len(self._asked) <= _MOST):
                break
            del self._asked[key]


async def _refresh(ctx: Context, rules: Rules, session: Session) -> Session | None:
    form = {"grant_type": "refresh_token", "refresh_token": session.refresh}
    status, answer = await ctx.kanidm.token(form, rules.client_id, await _secret(ctx, rules))
    if status == 401:
        raise Surprise("the secret of forward_auth_client is not the right one")
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


async def _secret(ctx: Context, rules: Rules) -> str | None:
    """Return the secret that Kanidm knows our client by: another than the configured one, when that was chosen for it."""
    return (await ctx.secrets.inward(Credentials(rules.client_id, rules.secret, basic=False))).secret


def _key(session: Session) -> bytes:
    return hashlib.sha256(session.refresh.encode()).digest()
