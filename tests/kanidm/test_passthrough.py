"""What Kanidm serves besides logins passes the front untouched: assets, documents, odd methods, large bodies."""

from __future__ import annotations

import contextlib
import http.client
import re
import ssl
from collections.abc import AsyncIterator

import pytest
import trio

from kiwi_id import demo
from tests.kanidm.instance import Instance

MEBIBYTE = 1 << 20


async def test_assets_of_the_login_page(kiwi: Instance) -> None:
    """Every script, style sheet and picture that the login page names comes with the right type and, where given, its length."""
    async with kiwi.browser() as browser:
        page = await browser.http.get("/ui/login")
        assets = set(re.findall(r'(?:src|href)="(/pkg/[^"]+)"', page.text))
        assert len(assets) >= 5
        for asset in sorted(assets):
            answer = await browser.http.get(asset)
            assert answer.status_code == 200, asset
            assert answer.content, asset
            kind = {"css": "text/css", "js": "javascript", "png": "image/png", "svg": "image/svg+xml"}
            suffix = asset.partition("?")[0].rpartition(".")[2]
            assert kind.get(suffix, "") in answer.headers["content-type"], asset


async def test_conditional_and_compressed(kiwi: Instance) -> None:
    """Validators reach Kanidm (304 has no body), and the raw bytes of an asset are the same as from kanidmd itself."""
    path = "/pkg/img/favicon.png"
    async with kiwi.browser() as browser:
        front = await browser.http.get(path)
        if modified := front.headers.get("last-modified"):
            again = await browser.http.get(path, headers={"if-modified-since": modified})
            assert again.status_code == 304
            assert not again.content
        direct = await browser.http.get(f"https://localhost:{kiwi.server.bind_addresses[0].port}{path}")
        assert front.content == direct.content
        assert front.headers["content-type"] == direct.headers["content-type"]


async def test_documents(kiwi: Instance) -> None:
    """The API's description and its viewer are reachable below /docs."""
    async with kiwi.browser() as browser:
        description = await browser.http.get("/docs/v1/openapi.json")
        assert description.status_code == 200
        assert "/v1/person" in description.json()["paths"]
        viewer = await browser.http.get("/docs/swagger-ui/")
        assert viewer.status_code == 200
        assert "swagger" in viewer.text.lower()


async def test_native_redirects(kiwi: Instance) -> None:
    """Kanidm's own redirects keep their status and target, and the origin's port is not lost on the way."""
    async with kiwi.browser() as browser:
        root = await browser.http.get("/")
        assert (root.status_code, root.headers["location"]) == (303, "/ui")
        password = await browser.http.get("/.well-known/change-password")
        assert password.status_code == 303


async def test_delete_with_a_body(kiwi: Instance) -> None:
    """DELETE with a JSON body removes exactly the named value: Kanidm would purge the attribute if the body were lost."""
    async with kiwi.rest() as rest:
        await rest.login("idm_admin", await kiwi.administrator())
        await rest.create_group("delete_some")
        await rest.add_members("delete_some", "alice", "bob")
        await rest.call("DELETE", "/v1/group/delete_some/_attr/member", ["alice"])
        group = await rest.get("group", "delete_some")
        assert group is not None
        assert group["member"] == ["bob@localhost"]


async def test_kanidm_headers_pass(kiwi: Instance) -> None:
    """Version, operation id and the sign-in's session header, which Kanidm's client needs, come through."""
    async with kiwi.browser() as browser:
        body = {"step": {"init2": {"username": "alice", "issue": "token", "privileged": False}}}
        answer = await browser.http.post("/v1/auth", json=body)
        assert answer.status_code == 200
        for name in ("x-kanidm-version", "x-kanidm-opid", "x-kanidm-auth-session-id"):
            assert answer.headers[name]


@pytest.mark.parametrize("chunked", [False, True], ids=["content-length", "chunked"])
async def test_large_scim_body(kiwi: Instance, chunked: bool) -> None:
    """A SCIM synchronisation of 30 MiB is streamed up and understood; only its last bytes make the document whole."""
    name = f"sync{'-chunked' if chunked else ''}"
    async with kiwi.rest() as rest, kiwi.browser() as browser:
        await rest.login("admin", await kiwi.administrator("admin"))
        await rest.call("POST", "/v1/sync_account", {"attrs": {"name": [name]}})
        token = await rest.call("POST", f"/v1/sync_account/{name}/_sync_token", "test")
        head = b'{"from_state":"Refresh","to_state":{"Active":{"cookie":"AAAA"}},"entries":[],"retain":"Ignore"'

        async def body() -> AsyncIterator[bytes]:
            yield head
            for _ in range(30):
                yield b" " * MEBIBYTE
            yield b"}"

        headers = {"authorization": f"Bearer {token}", "content-type": "application/json"}
        if not chunked:
            headers["content-length"] = str(len(head) + 30 * MEBIBYTE + 1)
        answer = await browser.http.post("/scim/v1/Sync", content=body(), headers=headers)
        assert answer.status_code == 200, answer.text
        state = await browser.http.get("/scim/v1/Sync", headers={"authorization": f"Bearer {token}"})
        assert state.json() == {"Active": {"cookie": "AAAA"}}


async def test_small_chunked_body(kiwi: Instance) -> None:
    """A small body without a length arrives as well as a large one, also when the front has all of it at hand."""

    async def body() -> AsyncIterator[bytes]:
        yield b'{"step":{"init2":{"username":"alice",'
        yield b'"issue":"token","privileged":false}}}'

    async with kiwi.browser() as browser:
        answer = await browser.http.post("/v1/auth", content=body(), headers={"content-type": "application/json"})
        assert answer.status_code == 200
        assert answer.json()["state"] == {"choose": ["password"]}


def _post_too_much(kiwi: Instance) -> int:
    """Post three MiB where Kanidm takes two; return the status, 0 when the connection was closed before one could be read."""
    # Not httpx: it leaves the rest of a body that is refused early to the garbage collector, which warns.
    context = ssl.create_default_context(cafile=str(kiwi.ca))
    connection = http.client.HTTPSConnection("localhost", int(kiwi.origin.rpartition(":")[2]), timeout=30, context=context)
    with contextlib.closing(connection):
        try:
            connection.request("POST", "/v1/auth", b" " * (3 * MEBIBYTE), {"content-type": "application/json"})
            return connection.getresponse().status
        except (ConnectionError, http.client.HTTPException, ssl.SSLError):
            return 0


async def test_body_over_the_limit_is_refused(kiwi: Instance) -> None:
    """A body over Kanidm's limit ends in its 413 or a closed connection, never in a hang, and the next request works."""
    assert await trio.to_thread.run_sync(_post_too_much, kiwi) in (413, 0)
    async with kiwi.rest() as rest:
        assert await rest.login(demo.USERS[0].name, demo.USERS[0].password)
