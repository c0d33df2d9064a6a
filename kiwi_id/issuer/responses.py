"""Authorization responses: how code or error go back to the relying party, in the query, the fragment or a form post."""

from __future__ import annotations

import base64
import hashlib
import html
import re
from urllib.parse import urlencode, urlsplit

from kiwi_id.issuer.context import Context
from kiwi_id.issuer.http import Header, Response, page, redirect

MODES = ("query", "fragment", "form_post")

_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*")
_GOING_ON = "Back to the application"
_SUBMIT = "document.forms[0].submit()"
_SUBMIT_HASH = base64.b64encode(hashlib.sha256(_SUBMIT.encode()).digest()).decode()


def target(redirect_uri: str, mode: str, parameters: dict[str, str]) -> str:
    """Return the URL that carries ``parameters`` to the relying party; a query string of its own is kept whole."""
    if mode == "fragment":
        return f"{redirect_uri}#{urlencode(parameters)}"
    return redirect_uri + ("&" if "?" in redirect_uri else "?") + urlencode(parameters)


def parameters_of(ctx: Context, state: str | None, content: dict[str, str]) -> dict[str, str]:
    """Return the response parameters: ``content``, the client's state as it sent it, and ``iss`` (RFC 9207)."""
    return {**content, **({"state": state} if state is not None else {}), "iss": ctx.issuer}


def authorization_response(
    ctx: Context, redirect_uri: str, mode: str, state: str | None, content: dict[str, str], *headers: Header
) -> Response:
    """Return the response of the authorization endpoint itself, where any kind of page may be shown."""
    parameters = parameters_of(ctx, state, content)
    if mode == "form_post":
        return form_post(redirect_uri, parameters, *headers)
    return redirect(target(redirect_uri, mode, parameters), *headers)


def form_post(redirect_uri: str, parameters: dict[str, str], *headers: Header) -> Response:
    """Return the page that posts itself to the relying party (OAuth 2.0 Form Post Response Mode)."""
    fields = "\n".join(
        f'<input type="hidden" name="{html.escape(name)}" value="{html.escape(value)}">' for name, value in parameters.items()
    )
    content = (
        f'{_going_to(redirect_uri)}\n<form class="choice" method="post" action="{html.escape(redirect_uri)}">\n{fields}\n'
        '<button class="yes" type="submit">Continue</button>\n</form>'
    )
    # Not narrower: browsers hold the relying party's own redirects after the post against this policy, too.
    return page(200, _GOING_ON, content, *headers, form_action="https: http:", script=_SUBMIT, script_hash=_SUBMIT_HASH)


def _going_to(redirect_uri: str) -> str:
    """Say where the browser goes: with a code or, as well, with the news that the user refused."""
    return f"<p>Going on to <strong>{html.escape(place(redirect_uri))}</strong>. If nothing happens by itself:</p>"


def place(uri: str) -> str:
    """Return what tells a person where an address leads: scheme and host, or the scheme and what follows it in an app's own."""
    parts = urlsplit(uri)
    return f"{parts.scheme}://{parts.netloc}" if parts.netloc else uri.partition("?")[0]


def form_action(uri: str) -> str:
    """Return the policy of a form whose answer may redirect to ``uri``: browsers hold redirects against form-action, too.

    An app's own scheme has to be named (Content Security Policy 3 §2.3.1, scheme-source, whose grammar is RFC 3986's). The
    others are not narrowed to one host, because the relying party may redirect further.
    """
    scheme = urlsplit(uri).scheme
    own = f" {scheme}:" if scheme not in ("", "http", "https") and _SCHEME.fullmatch(scheme) else ""
    return f"'self' https: http:{own}"


def hand_over(redirect_uri: str, mode: str, parameters: dict[str, str], *headers: Header) -> Response:
    """Return a page, not a redirect, that leads on to the relying party.

    A consent form of Kanidm's forbids (by its ``form-action``) that the answer to it redirects to ``http:`` or to an app's own
    scheme. A page in between ends that navigation; the next one is the page's own.
    """
    if mode == "form_post":
        return form_post(redirect_uri, parameters, *headers)
    url = target(redirect_uri, mode, parameters)
    content = f'{_going_to(redirect_uri)}\n<p><a href="{html.escape(url)}">Continue</a></p>'
    return page(200, _GOING_ON, content, (b"refresh", b"0; url=" + url.encode()), *headers)


def mistake(title: str, message: str, status: int = 400, *, ours: bool = False) -> Response:
    """Return the page for a request that must not be redirected: its client or redirect URI is not to be trusted.

    ``ours``: not the application's fault, and ``message`` says what to do.
    """
    content = f"<p>{html.escape(message)}</p>"
    if not ours:
        content += (
            '\n<p class="note">You were sent here by an application whose request cannot be answered. '
            "Nothing is wrong with your account; please tell whoever runs that application.</p>"
        )
    return page(status, title, content)
