"""Who asks: a client's credentials and the life of a session, both of which Kanidm alone can judge.

Kanidm has no call for credentials; its token endpoint checks them before it looks at the grant, so an impossible grant tells.
"""

from __future__ import annotations

import hashlib
import time

from kiwi_id.issuer.context import Context
from kiwi_id.issuer.http import Credentials, OAuthError

# How long an answer of Kanidm's is believed, seconds: services introspect in rows.
_REMEMBERED = 10.0
_MOST = 1000

_authenticated: dict[bytes, float] = {}
_public: dict[bytes, tuple[float, bool]] = {}


def _refused() -> OAuthError:
    return OAuthError("invalid_client", "The client is unknown, or its secret is wrong.", status=401)


async def authenticate(ctx: Context, who: Credentials) -> None:
    """Check a client's credentials. Raises OAuthError."""
    await refuse_needless_secret(ctx, who)
    if await ctx.client(who.client_id) is None:
        raise _refused()
    key = _key(ctx, who.client_id, who.secret or "")
    now = time.monotonic()
    if _authenticated.get(key, 0.0) > now:
        return
    if not await _accepts(ctx, who.client_id, who.secret):
        raise _refused()
    if len(_authenticated) >= _MOST:
        _authenticated.clear()
    _authenticated[key] = now + _REMEMBERED


async def refuse_needless_secret(ctx: Context, who: Credentials) -> None:
    """Refuse a secret that a public client sends: it has none, and Kanidm takes any. Raises OAuthError.

    RFC 6749 §5.2: failed client authentication is ``invalid_client``. An empty secret counts as none (§2.3.1).
    """
    if not who.secret or await ctx.client(who.client_id) is None:
        return
    key, now = _key(ctx, who.client_id, ""), time.monotonic()
    until, public = _public.get(key, (0.0, False))
    if until <= now:
        public = await _accepts(ctx, who.client_id, None)
        if len(_public) >= _MOST:
            _public.clear()
        _public[key] = (now + _REMEMBERED, public)
    if public:
        raise _refused()


async def _accepts(ctx: Context, client_id: str, secret: str | None) -> bool:
    asked = {"grant_type": "authorization_code", "code": "none", "redirect_uri": ctx.issuer + "/none", "code_verifier": "none"}
    status, _ = await ctx.kanidm.token(asked, client_id, secret)
    return status != 401


def _key(ctx: Context, client_id: str, secret: str) -> bytes:
    return hashlib.sha256(f"{ctx.issuer}\0{client_id}\0{secret}".encode("utf-8", "surrogatepass")).digest()


async def lives(ctx: Context, inner: str, client_id: str, who: Credentials) -> bool:
    """Ask Kanidm whether the session behind one of its access tokens, issued to ``client_id``, lives."""
    if who.client_id == client_id:
        status, answer = await ctx.kanidm.introspect(inner, who.client_id, who.secret)
        return status == 200 and answer.get("active") is True
    # Kanidm 1.5.0 lets a client ask about its own tokens only; about another's, userinfo tells the same.
    return await ctx.kanidm.userinfo(client_id, inner) is not None
