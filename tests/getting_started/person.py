"""What people do on the scratch machine, in a browser above all: ``python -m tests.getting_started.person DEED …``.

Everything goes through the names of the document, over TLS that is checked by the machine's own authorities.
"""

from __future__ import annotations

import html
import imaplib
import json
import re
import ssl
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import httpx
import trio

from kiwi_id.kanidm.rest import CredentialUpdate, Kanidm, Totp
from tests.kanidm.browser import Browser, Request

AUTHORITIES = Path("/etc/ssl/certs/ca-certificates.crt")
ORIGIN = "https://id.example.com"
WEBMAIL = "https://mail.example.com:9443"
ALICE = "alice@example.com"
# Three words that Kanidm's quality check accepts.
PASSWORD = "orchard-lantern-voyage-73"
SECONDS = 30
KEPT = Path("/root/token")


def app(name: str) -> Path:
    """Where the authenticator app of somebody keeps the secret that Kanidm gave them."""
    return Path(f"/root/{name}.authenticator")


async def set_password(name: str, link: str) -> str:
    """Follow a reset link: set a password, and scan the code for one-time passwords."""
    [token] = parse_qs(urlsplit(link).query)["token"]
    assert link == f"{ORIGIN}/ui/reset?token={token}"
    async with Kanidm(ORIGIN, ssl.create_default_context(cafile=str(AUTHORITIES))) as kanidm:
        session, _status = await kanidm.call("POST", "/v1/credential/_exchange_intent", token)
        update = CredentialUpdate(kanidm, name, session)
        await update.password(PASSWORD)
        totp = await update.add_totp("phone")
        await update.commit()
    app(name).write_text(f"{totp.secret.hex()} {totp.algorithm} {totp.step} {totp.digits}")
    return ""


async def sign_in(browser: Browser, name: str, address: str) -> str:
    """Go through Kanidm's login and consent from an authorization request; return where the browser is sent at the end."""
    secret, algorithm, step, digits = app(name).read_text().split()
    page = await browser.send("GET", address.removeprefix(ORIGIN))
    assert page.status_code == 303, page.text
    if page.headers["location"].startswith("/ui/"):
        page = await browser.send("GET", page.headers["location"])
        if "<title>Consent Required</title>" not in page.text:  # not signed in yet
            page = await browser.sign_in(name, PASSWORD, Totp(bytes.fromhex(secret), algorithm, int(step), int(digits)))
    return await browser.consent(page) if page.status_code == 200 else str(page.headers["location"])


async def read_mail(name: str) -> str:
    """Open the webmail, sign in where it sends one, come back; return what is on its page then, a line each."""
    context = ssl.create_default_context(cafile=str(AUTHORITIES))
    async with httpx.AsyncClient(base_url=WEBMAIL, verify=context, timeout=SECONDS, trust_env=False) as webmail:
        page = await _patiently(webmail, "/")
        assert page.headers["location"] == "/login"
        page = await webmail.get("/login")
        assert page.status_code == 302, page.text
        async with Browser(ORIGIN, AUTHORITIES) as browser:
            address = await sign_in(browser, name, page.headers["location"])
        assert address.startswith(f"{WEBMAIL}/callback?")
        page = await webmail.get(address, follow_redirects=True)
    return "\n".join(html.unescape(text) for text in re.findall(r"<(?:h1|li)>(.*?)</", page.text)) or page.text


async def _patiently(client: httpx.AsyncClient, path: str) -> httpx.Response:
    """Open a page, and again as long as nobody listens there yet."""
    with trio.move_on_after(SECONDS):
        while True:
            with suppress(httpx.ConnectError):
                return await client.get(path)
            await trio.sleep(0.05)
    raise AssertionError(f"nobody listens at {client.base_url}")


async def try_mailbox(secret: str) -> str:
    """Show the mail server tokens of many kinds; return as JSON which of them opened the mailbox, and keep a good one."""
    async with Browser(ORIGIN, AUTHORITIES) as browser:
        tokens = await _tokens(browser, Request("webmail", f"{WEBMAIL}/callback"), secret)
        others = await _tokens(browser, Request("wiki", "https://wiki.example.com/callback"), None)
    good = tokens["access_token"]
    KEPT.write_text(good)  # noqa: ASYNC240 - nothing else is going on here
    head, claims, signature = good.split(".")
    opened = {
        "access token": _opens(ALICE, good),
        "by XOAUTH2": _opens(ALICE, good, "XOAUTH2"),
        "in capitals": _opens(ALICE.upper(), good),
        "of somebody else": _opens("bob@example.com", good),
        "ID token": _opens(ALICE, tokens["id_token"]),
        "of another application": _opens(ALICE, others["access_token"]),
        "signature of another token": _opens(ALICE, ".".join((head, claims, others["access_token"].split(".")[2]))),
        "without a signature": _opens(ALICE, f"{head}.{claims}."),
        "no token": _opens(ALICE, "x"),
        "two lines": _opens(f"{ALICE}\n{good}", signature),
    }
    return json.dumps(opened)


async def try_kept() -> str:
    """Show the mail server the token that was kept."""
    return json.dumps(_opens(ALICE, KEPT.read_text()))  # noqa: ASYNC240


async def _tokens(browser: Browser, request: Request, secret: str | None) -> dict[str, str]:
    page = str(httpx.URL(f"{ORIGIN}/oauth2/authorize", params=request.parameters))
    return await browser.token(request, await sign_in(browser, "alice", page), secret)


def _opens(address: str, token: str, mechanism: str = "OAUTHBEARER") -> bool:
    """Tell whether the mail server lets one in, and then to the one message that alice has (RFC 7628 §3.1)."""
    who = f"user={address}" if mechanism == "XOAUTH2" else f"n,a={address},"
    words = f"{who}\x01auth=Bearer {token}\x01\x01".encode()
    context = ssl.create_default_context(cafile=str(AUTHORITIES))
    with imaplib.IMAP4_SSL("mail.example.com", ssl_context=context, timeout=SECONDS) as imap:
        try:
            imap.authenticate(mechanism, lambda challenge: words if not challenge else b"\x01")
        except imaplib.IMAP4.error as error:
            if "AUTHENTICATIONFAILED" not in str(error):
                raise
            return False
        assert imap.select("INBOX") == ("OK", [b"1"])
    return True


DEEDS: dict[str, Callable[..., Awaitable[str]]] = {
    "set-password": set_password,
    "read-mail": read_mail,
    "try-mailbox": try_mailbox,
    "try-kept": try_kept,
}

if __name__ == "__main__":
    print(trio.run(DEEDS[sys.argv[1]], *sys.argv[2:]))
