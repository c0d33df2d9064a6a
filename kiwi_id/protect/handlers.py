"""Login protection on the way of a request: before the handlers of login steps and token endpoints, and nowhere else.

A login's steps are tied together by what Kanidm gives the client to show with the next one. Only the first says for whom it is.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any
from urllib.parse import unquote

import trio

from kiwi_id.config import Protection
from kiwi_id.protect import reading
from kiwi_id.protect.ledger import LOGINS, TOKENS, TWENTIETH, Attempt, Ledger, Over
from kiwi_id.protect.memory import Memory
from kiwi_id.protect.observed import Observed
from kiwi_id.protect.refusal import refuse
from kiwi_id.proxy.exchange import Exchange, Handler
from kiwi_id.proxy.refusals import Refusals

# Kanidm's own routes (server/core/src/https/views/mod.rs, v1.rs): exact, and never percent-decoded.
BEGIN, CHOOSE, REST = b"/ui/login/begin", b"/ui/login/mech_choose", b"/v1/auth"
CREDENTIALS = tuple(b"/ui/login/" + kind for kind in (b"pw", b"totp", b"passkey", b"seckey", b"backup_code"))
TOKEN = b"/oauth2/token"
TOKEN_PATHS = (TOKEN, b"/oauth2/introspect", b"/oauth2/revoke", b"/oauth2/token/introspect", b"/oauth2/token/revoke")
# The check of a POSIX password, for PAM: /v1/account/{id}/_unix/_auth.
_UNIX_START, _UNIX_END = b"/v1/account/", b"/_unix/_auth"
# Form and JSON of a login step, and token requests, are some kilobytes.
MAX_BODY = 65536
# Kanidm ends a login that takes longer than this, seconds; and more of them at once than this it has on no machine.
_LOGIN_LIFETIME, _MOST_LOGINS = 300.0, 16384


class LoginGuard:
    """Counts, and refuses. ``forward`` is the handler behind it for login steps; see :meth:`routes`."""

    def __init__(self, protection: Protection, forward: Handler) -> None:
        self._forward = forward
        self._logins, self._tokens = Ledger(LOGINS, protection), Ledger(TOKENS, protection)
        self._begun: Memory[bytes, tuple[str, ...]] = Memory(_MOST_LOGINS, _LOGIN_LIFETIME)
        self._refusals = Refusals()

    def routes(self) -> dict[bytes, Handler]:
        """Return the paths of login steps and their handlers."""
        return {
            **dict.fromkeys(CREDENTIALS, self._credential),
            BEGIN: self._begin,
            CHOOSE: self._choose,
            REST: self._rest,
        }

    def before_tokens(self, handler: Handler) -> Handler:
        """Return the handler of a token endpoint, guarded."""
        return partial(self._token, handler)

    def otherwise(self, exchange: Exchange) -> Awaitable[None]:
        """Serve what has no path of ours: at the price of one look at it."""
        if exchange.path.endswith(_UNIX_END):
            return self._unix(exchange)
        return self._forward(exchange)

    def change(self, protection: Protection) -> None:
        """Put other limits into force; what was counted stays counted."""
        self._logins.change(protection)
        self._tokens.change(protection)

    def status(self) -> dict[str, Any]:
        """Return what ``kiwi-id status --json`` shows of it."""
        return {
            "failures": {"login": self._logins.failures, "token": self._tokens.failures},
            "refused": self._refusals.counts,
            "entries": len(self._logins) + len(self._tokens) + len(self._begun),
        }

    # -- Kanidm's login pages ------------------------------------------------------------------------------------------------

    async def _begin(self, exchange: Exchange) -> None:
        """Name an account: ``/ui/login/begin``."""
        if exchange.method != b"POST":
            await self._forward(exchange)
            return
        await self._first_step(exchange, reading.account_of_form(await exchange.read_body(MAX_BODY)))

    async def _choose(self, exchange: Exchange) -> None:
        """Choose a mechanism: nothing to guess here, but the next step shows another token."""
        seen = Observed(exchange)
        await self._forward(seen)
        self._go_on(seen, self._names(exchange))

    async def _credential(self, exchange: Exchange) -> None:
        """Show a credential: a password, a code, a passkey's signature."""
        if exchange.method != b"POST":
            await self._forward(exchange)
            return
        await self._guarded(exchange, self._names(exchange), _page_says)

    # -- the REST API --------------------------------------------------------------------------------------------------------

    async def _rest(self, exchange: Exchange) -> None:
        """Any step of ``/v1/auth``."""
        if exchange.method != b"POST":
            await self._forward(exchange)
            return
        try:
            kind, account = reading.step_of(await exchange.read_body(MAX_BODY))
        except ValueError:
            # Kanidm would refuse it as well; should it ever not, it must not get a step that was not understood here.
            await exchange.respond_error(400, "malformed_request", "The body must be JSON.")
            return
        if kind in ("init", "init2"):
            await self._first_step(exchange, account)
        elif kind == "begin":
            await self._choose(exchange)
        else:
            await self._guarded(exchange, self._names(exchange), _json_says)

    async def _unix(self, exchange: Exchange) -> None:
        """Check a POSIX password."""
        path = exchange.path
        if exchange.method != b"POST" or not path.startswith(_UNIX_START):
            await self._forward(exchange)
            return
        name = unquote(path[len(_UNIX_START) : -len(_UNIX_END)].decode("ascii", "replace"))
        await self._guarded(exchange, (reading.account(name),), _unix_says)

    # -- both ----------------------------------------------------------------------------------------------------------------

    async def _first_step(self, exchange: Exchange, account: str) -> None:
        attempt = await self._admit(self._logins, exchange, (account,))
        if attempt is None:
            return
        seen = Observed(exchange)
        try:
            await self._forward(seen)
        finally:
            begun = self._go_on(seen, (account,))
            if exchange.path == REST:
                unknown = seen.status == 404
            else:  # a page without a login in progress, and without one that was taken away
                unknown = seen.status == 200 and not begun and not reading.ends_login(seen.answer)
            if unknown:
                attempt.failed(nameless=True)
            else:
                attempt.void(TWENTIETH)

    async def _guarded(self, exchange: Exchange, names: tuple[str, ...], says: Callable[[Observed], bool | None]) -> None:
        attempt = await self._admit(self._logins, exchange, names)
        if attempt is None:
            return
        seen = Observed(exchange)
        try:
            await self._forward(seen)
        finally:
            right = says(seen)
            if right:
                attempt.passed()
            # A client that left before its answer may have had a password checked: that is a try, whoever read the result.
            elif right is False or (not seen.status and "upstream_ms" in seen.notes):
                attempt.failed()
            else:
                attempt.void()
                self._go_on(seen, names)

    def _names(self, exchange: Exchange) -> tuple[str, ...]:
        """Return for whom the login in progress is: nobody knows after a restart, and for a session that wants more rights."""
        now = trio.current_time()
        found = [self._begun.get(token, now) or () for token in reading.login_tokens(exchange.headers)]
        return tuple(dict.fromkeys(name for names in found for name in names))

    def _go_on(self, seen: Observed, names: tuple[str, ...]) -> bool:
        """Tie the next step to this one; tell whether there is one."""
        tokens = reading.next_tokens(seen.answer) if seen.status == 200 else ()
        if names:
            for token in tokens:
                self._begun.put(token, names, trio.current_time())
        return bool(tokens)

    # -- token endpoints -----------------------------------------------------------------------------------------------------

    async def _token(self, handler: Handler, exchange: Exchange) -> None:
        if exchange.method != b"POST":
            await handler(exchange)
            return
        client = reading.client_of(exchange.headers, await exchange.read_body(MAX_BODY))
        attempt = await self._admit(self._tokens, exchange, (client,) if client else (), oauth=True)
        if attempt is None:
            return
        try:
            await handler(exchange)
        finally:
            if exchange.status == 401:
                attempt.failed()
            elif exchange.status == 200:
                # Kanidm from 1.10 on lets anybody introspect and revoke; at these paths of its own, an answer proves nothing.
                attempt.passed(proven=exchange.path == TOKEN or exchange.notes.get("route") == "issuer")
            else:
                attempt.void(TWENTIETH if 400 <= exchange.status < 500 else 0.0)

    async def _admit(self, ledger: Ledger, exchange: Exchange, names: tuple[str, ...], *, oauth: bool = False) -> Attempt | None:
        """Return the attempt that may be made, or answer 429 and return None."""
        attempt = ledger.attempt(exchange.origin.client, names)
        if isinstance(attempt, Over):
            # Only accounts that Kanidm knows are ever counted, so this is none that somebody has typed a password as; of clients
            # anything is counted that says it is one.
            about = {"account": attempt.name} if attempt.name and not oauth else {}
            self._refusals.count(attempt.limit, exchange.origin.client, seconds=round(attempt.seconds), **about)
            await refuse(exchange, attempt, oauth=oauth)
            return None
        return attempt


def _page_says(seen: Observed) -> bool | None:
    """Tell whether Kanidm's pages took a credential; None when they say neither, such as with the next step."""
    if seen.status == 303 and reading.opens_session(seen.answer):
        return True
    if seen.status == 200 and reading.ends_login(seen.answer) and not reading.next_tokens(seen.answer):
        return False
    return None


def _json_says(seen: Observed) -> bool | None:
    state = reading.state_of(seen.beginning) if seen.status == 200 else ""
    return {"success": True, "denied": False}.get(state)


def _unix_says(seen: Observed) -> bool | None:
    """Kanidm answers ``null`` for a wrong password, and what PAM needs for the right one."""
    if seen.status != 200 or not seen.beginning:
        return None
    return seen.beginning.strip() != b"null"
