"""No secret of a login reaches a log, at the level that tells the most."""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import parse_qs, quote, urlencode, urlsplit

import pytest

from kiwi_id import demo
from kiwi_id.instance import layout
from tests.kanidm.instance import Instance

ALICE = demo.USERS[0]
# With what could end a redaction too early: spaces, and a quotation mark, which Kanidm's log shows escaped.
PASSWORD = 'harbour cinnamon "glacier" 41'


@pytest.fixture(params=["info", "trace"])
def kiwi(make: Callable[..., Instance], request: pytest.FixtureRequest) -> Instance:
    """An instance that logs at the usual level, and one that tells all."""
    return make([f'log_level = "{request.param}"'], request.param)


async def test_no_secret_is_logged(kiwi: Instance) -> None:
    """A login with password, one-time password and consent, token, userinfo, refresh, introspection and logout leave no secret.

    Looked for in standard error, which carries kanidmd's output, and in the log file; kanidmd itself logs whole URIs.
    """
    secrets: dict[str, str] = {"client secret": kiwi.secret(), "alice's password": ALICE.password}
    async with kiwi.rest() as rest, kiwi.browser() as browser:
        secrets["administrator's password"] = await kiwi.administrator()
        secrets["administrator's token"] = await rest.login("idm_admin", secrets["administrator's password"])
        await rest.create_person("tina", "Tina Totp")
        await rest.add_members("kiwi_users", "tina")
        update = await rest.update_credentials("tina")
        await update.password(PASSWORD)
        totp = await update.add_totp("phone")
        await update.commit()
        secrets |= {
            "password": PASSWORD,
            "part of the password": "cinnamon",
            "end of the password": "glacier",
            "totp secret": totp.base32,
            "totp secret, hex": totp.secret.hex(),
        }
        secrets["totp secret, as Rust shows bytes"] = str(list(totp.secret))
        # The code itself is looked for in its form fields only: six digits alone may well be part of some number.
        codes = {totp.code(), totp.code()}

        request = kiwi.request()
        await browser.authorize(request)
        page = await browser.sign_in("tina", PASSWORD, totp)
        codes.add(totp.code())
        location = await browser.consent(page)
        tokens = await browser.token(request, location, kiwi.secret())
        code = parse_qs(urlsplit(location).query)["code"][0]
        client = (request.client_id, kiwi.secret())
        bearer = {"authorization": f"Bearer {tokens['access_token']}"}
        await browser.http.get(f"/oauth2/openid/{request.client_id}/userinfo", headers=bearer)
        introspection = await browser.http.post("/oauth2/token/introspect", data={"token": tokens["access_token"]}, auth=client)
        assert introspection.json()["active"] is True
        refresh = {"grant_type": "refresh_token", "refresh_token": tokens["refresh_token"]}
        refreshed = await browser.http.post("/oauth2/token", data=refresh, auth=client)
        assert refreshed.status_code == 200
        await browser.http.post("/oauth2/token/revoke", data={"token": tokens["access_token"]}, auth=client)
        await browser.send("GET", "/ui/logout")

    secrets |= {"code": code, "verifier": request.verifier, "state": request.state, "nonce": request.nonce}
    secrets |= {"query": urlencode(request.parameters), "challenge": request.parameters["code_challenge"]}
    secrets |= {
        f"{kind} {number}": answer[kind] for number, answer in enumerate((tokens, refreshed.json())) for kind in _kinds(answer)
    }
    secrets |= {f"cookie {number}": value for number, value in enumerate(browser.seen)}
    secrets |= {f"totp in {form}": form.format(value) for value in codes for form in ("totp={}", '"totp":{}', '"totp":"{}"')}

    assert kiwi.stop() == 0
    logs = {"stderr": kiwi.directory / "stderr.log", "log file": layout.Places.under(kiwi.directory).log_file}
    for place, file in logs.items():
        text = file.read_text(errors="replace")
        assert "/oauth2/token" in text, f"{place} does not even tell of the requests"
        found = [name for name, secret in secrets.items() if _contains(text, secret)]
        assert not found, f"in {place}: " + "\n".join(f"{name}: {_context(text, secrets[name])}" for name in found)


def _kinds(answer: dict[str, str]) -> list[str]:
    return [kind for kind in ("access_token", "id_token", "refresh_token") if kind in answer]


def _contains(text: str, secret: str) -> bool:
    return secret in text or quote(secret, safe="") in text


def _context(text: str, secret: str) -> str:
    """Return the line around the first occurrence, so that a failure tells where it came from; test secrets may be shown."""
    at = max(text.find(secret), 0)
    return text[max(at - 300, 0) : at + 60]
