"""The code flow with PKCE through the front, from the login page to verified tokens."""

from __future__ import annotations

from urllib.parse import parse_qs, urlsplit

import jwt

from kiwi_id import demo
from kiwi_id.kanidm.rest import Kanidm
from tests.kanidm.browser import Browser, Request
from tests.kanidm.instance import Instance

ALICE, BOB = demo.USERS
TINA_PASSWORD = "harbour-cinnamon-glacier-41"


async def _verified(browser: Browser, client_id: str, id_token: str) -> dict[str, object]:
    """Verify an ID token against what discovery and key set say, fetched through the front; return its claims."""
    discovery = (await browser.http.get(f"/oauth2/openid/{client_id}/.well-known/openid-configuration")).json()
    assert discovery["issuer"].startswith(browser.origin)
    keys = jwt.PyJWKSet.from_dict((await browser.http.get(discovery["jwks_uri"])).json())
    key = keys[jwt.get_unverified_header(id_token)["kid"]]
    claims: dict[str, object] = jwt.decode(
        id_token, key, algorithms=["ES256"], audience=client_id, issuer=discovery["issuer"], options={"verify_iat": False}
    )
    return claims


async def test_password_consent_and_token(kiwi: Instance) -> None:
    """Password, consent, code and tokens work through the front, and the second time the browser goes straight through."""
    async with kiwi.browser() as browser:
        request = kiwi.request()
        page = await browser.authorize(request)
        assert "<title>Login</title>" in page.text
        location = await browser.consent(await browser.sign_in(ALICE.name, ALICE.password))
        tokens = await browser.token(request, location, kiwi.secret())
        claims = await _verified(browser, request.client_id, tokens["id_token"])
        assert claims["nonce"] == request.nonce
        assert claims["preferred_username"] == "alice@localhost"

        userinfo = await browser.http.get(
            f"/oauth2/openid/{request.client_id}/userinfo", headers={"authorization": f"Bearer {tokens['access_token']}"}
        )
        assert userinfo.status_code == 200
        assert userinfo.json()["sub"] == claims["sub"]
        assert userinfo.json()["email"] == "alice@example.com"

        again = kiwi.request()
        answer = await browser.authorize(again)
        assert answer.status_code == 303
        assert (await browser.token(again, answer.headers["location"], kiwi.secret()))["token_type"].lower() == "bearer"


async def test_public_client_on_localhost(kiwi: Instance) -> None:
    """The public demo client gets tokens without a secret, on any port of http://localhost."""
    async with kiwi.browser() as browser:
        request = Request("kiwi-demo-public", "http://localhost:3000/any")
        await browser.authorize(request)
        location = await browser.consent(await browser.sign_in(BOB.name, BOB.password))
        tokens = await browser.token(request, location, None)
        assert (await _verified(browser, request.client_id, tokens["id_token"]))["nonce"] == request.nonce


async def test_wrong_password_gives_no_session(kiwi: Instance) -> None:
    """A wrong password shows Kanidm's own refusal and sets no session cookie, also through the front."""
    async with kiwi.browser() as browser:
        await browser.authorize(kiwi.request())
        await browser.send("POST", "/ui/login/begin", data={"username": "bob", "password": "", "totp": ""})
        answer = await browser.send("POST", "/ui/login/pw", data={"password": "not-the-password-of-bob"})
        assert answer.status_code == 200
        assert "Login Failed" in answer.text
        assert "bearer" not in browser.cookies


async def test_password_and_totp(kiwi: Instance) -> None:
    """A person with a password and a one-time password signs in with both, and comes back with a code."""
    kanidm: Kanidm
    async with kiwi.rest() as kanidm, kiwi.browser() as browser:
        await kanidm.login("idm_admin", await kiwi.administrator())
        await kanidm.create_person("tina", "Tina Totp")
        await kanidm.add_members("kiwi_users", "tina")
        update = await kanidm.update_credentials("tina")
        await update.password(TINA_PASSWORD)
        totp = await update.add_totp("phone")
        await update.commit()

        request = kiwi.request()
        await browser.authorize(request)
        location = await browser.consent(await browser.sign_in("tina", TINA_PASSWORD, totp))
        assert parse_qs(urlsplit(location).query)["state"] == [request.state]
        tokens = await browser.token(request, location, kiwi.secret())
        claims = await _verified(browser, request.client_id, tokens["id_token"])
        assert claims["preferred_username"] == "tina@localhost"
