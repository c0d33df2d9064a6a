"""States too long to ride beside the rest of Kanidm's cookie: each rides, sealed, in a cookie of our own until its login ends.

Many logins are never finished, so only the latest few are kept: browsers would send all of them with every request, until no
server took it any more.
"""

from __future__ import annotations

import re
import secrets
import time

from kiwi_id.issuer.context import Context
from kiwi_id.issuer.http import Header, OAuthError, Request

# Sealed, this many random characters make 3.6 KB, and browsers drop cookies over 4,096 bytes.
LONGEST = 2600
# Logins with a long state that one browser may have under way.
MOST = 3
COOKIE = "__Host-kiwi-state-"

_NAME = re.compile(rf"\s*({COOKIE}[A-Za-z0-9_-]{{1,40}})=")


def park(ctx: Context, request: Request, state: str, *, lifetime: float) -> tuple[str, list[Header]]:
    """Return the key under which a state is parked, and the headers that do it. Raises OAuthError: too long."""
    if len(state) > LONGEST:
        raise OAuthError("invalid_request", f"The state is longer than {LONGEST} characters.")
    # Names that sort by age: which ones are the oldest must not depend on how a browser orders its cookies.
    key = f"{int(time.time()):010d}-{secrets.token_urlsafe(6)}"
    cookie = f"{COOKIE}{key}={ctx.parked.seal({'s': state}, lifetime=lifetime)}; Path=/; Max-Age={int(lifetime)}; {_ATTRIBUTES}"
    pairs = [pair for name, value in request.headers if name == b"cookie" for pair in value.decode("latin-1").split(";")]
    known = sorted({found[1] for pair in pairs if (found := _NAME.match(pair))}, reverse=True)
    return key, [(b"set-cookie", cookie.encode()), *(_gone(name) for name in known[MOST - 1 :])]


def fetch(ctx: Context, request: Request, key: str) -> tuple[str, Header]:
    """Return a parked state, and the header that clears it away. Raises NotOurs."""
    return str(ctx.parked.open(request.cookie(COOKIE + key))["s"]), _gone(COOKIE + key)


def _gone(name: str) -> Header:
    return (b"set-cookie", f"{name}=; Path=/; Max-Age=0; {_ATTRIBUTES}".encode())


_ATTRIBUTES = "Secure; HttpOnly; SameSite=Lax"
