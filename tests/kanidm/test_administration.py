"""``admin_networks`` over the real kanidmd: every route that it has, and what people still can do who are not in the list."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from subprocess import check_output

import httpx
import pytest

from kiwi_id import demo
from kiwi_id.kanidm.pin import client_context
from kiwi_id.proxy.administration import is_admin
from tests.front.kanidm_routes import Route, routes
from tests.kanidm.instance import Instance


@pytest.fixture(scope="module")
def closed(make: Callable[..., Instance]) -> Instance:
    """An instance that is administered from elsewhere."""
    return make(['admin_networks = ["192.0.2.0/24"]'])


@pytest.fixture
def its_routes(kanidmd: Path) -> list[Route]:
    """The routes that this kanidmd has, by the table."""
    found = re.search(r"1\.(\d+)\.", check_output([kanidmd, "version"], text=True))
    assert found
    mine = "1.5" if int(found[1]) < 10 else "1.10"
    return [route for route in routes() if route.version in ("both", mine)]


def direct(kiwi: Instance) -> httpx.AsyncClient:
    """Return a client of kanidmd itself."""
    port = kiwi.server.bind_addresses[0].port
    return httpx.AsyncClient(
        base_url=f"https://127.0.0.1:{port}", verify=client_context(kiwi.server.tls_chain), trust_env=False, timeout=60
    )


async def test_the_table_has_every_documented_route(closed: Instance, its_routes: list[Route]) -> None:
    """What the API's own description names is in the table; where it names a route that there is not, that one is closed."""
    known = {(route.method, route.path) for route in its_routes}
    async with direct(closed) as http:
        paths = (await http.get("/docs/v1/openapi.json")).json()["paths"]
    named = {(method.upper(), re.sub(r"\{[^}]*\}", "{}", path)) for path, methods in paths.items() for method in methods}
    assert len(named) > 100
    unknown = {(method, path) for method, path in named - known if not is_admin(method.encode(), path.encode())}
    assert not unknown


async def test_every_row_is_a_route(closed: Instance, its_routes: list[Route]) -> None:
    """A route of the table is one that this kanidmd answers: neither as a path nor as a method that it does not have."""
    async with direct(closed) as http:
        nothing = await http.get("/no/such/path")
        for route in its_routes:
            answer = await http.request(route.method, route.filled())
            assert answer.status_code != 405, route
            if route.path.startswith("/ui/images/"):
                continue  # there are none yet, and 1.5.0 says so as it says that there is no route
            assert (answer.status_code, answer.content) != (nothing.status_code, nothing.content), route


async def test_every_row_through_the_front(closed: Instance, its_routes: list[Route]) -> None:
    """Closed routes are refused by us, whoever asks; open ones are answered by what is behind."""
    async with closed.browser() as browser:
        for route in its_routes:
            if not route.path.startswith(("/v1", "/scim", "/docs", "/ui")):
                continue
            answer = await browser.http.request(route.method, route.filled())
            refused = answer.status_code == 403 and answer.json()["error"]["code"] == "admin_closed"
            assert refused is route.closed, route


async def test_people_from_elsewhere(closed: Instance) -> None:
    """Whoever is no administrator logs in, reads the own profile and begins to change the own credentials, from anywhere."""
    alice = demo.USERS[0]
    async with closed.browser() as browser:
        request = closed.request()
        await browser.authorize(request)
        location = await browser.consent(await browser.sign_in(alice.name, alice.password))
        tokens = await browser.token(request, location, closed.secret())
        assert tokens["id_token"]
        for page in ("/ui/apps", "/ui/profile", "/ui/update_credentials", "/ui/enrol"):
            answer = await browser.send("GET", page)
            assert answer.status_code == 200, page
        assert (await browser.send("GET", "/v1/self")).json()["youare"]["attrs"]["name"] == [alice.name]
        assert (await browser.send("GET", "/v1/person/alice/_credential/_update_intent")).status_code == 403
