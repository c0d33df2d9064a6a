"""Requests that were posted from another site: they go on as a GET, because browsers keep the session's cookie back with a POST.

Kanidm's ``bearer`` is ``SameSite=Lax`` (server/core/src/https/views/cookies.rs), which a browser sends with a link from another
site, and not with a form. OIDC Core §3.1.2.1 and RP-Initiated Logout 1.0 §2 both ask for POST, and an answer without the session
would not be true: so the form is sealed, and comes back by a redirect that carries the cookie. Sealed and not plain, because
whoever posts may want an ID token kept out of addresses and histories.
"""

from __future__ import annotations

from kiwi_id.issuer.box import NotOurs
from kiwi_id.issuer.context import Context
from kiwi_id.issuer.http import Request, Response, redirect

# As long as a page of ours may be left open, and then reloaded.
LIFETIME = 600.0
_NAME = "posted"


def is_blind(request: Request) -> bool:
    """Tell whether a request may lack a session only because it was posted."""
    return request.method == "POST" and not request.cookie("bearer")


def as_get(ctx: Context, request: Request, parameters: dict[str, str]) -> Response:
    """Send the browser to the same endpoint once more, by GET. Raises OAuthError: too much for a box."""
    box = ctx.posted.seal({"e": request.path, "f": parameters}, lifetime=LIFETIME)
    return redirect(f"{request.path}?{_NAME}={box}")


def parameters_of(ctx: Context, request: Request) -> dict[str, str]:
    """Return the parameters of a request, also when :func:`as_get` has sealed them.

    Raises OAuthError, and NotOurs when the box is none of this endpoint's, or too old.
    """
    parameters = request.parameters()
    if request.method == "POST" or parameters.keys() != {_NAME}:
        return parameters
    box = ctx.posted.open(parameters[_NAME])
    if box["e"] != request.path:
        raise NotOurs
    return dict(box["f"])
