"""Forward-auth whose own client has a chosen secret, over a running Kiwi ID."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import trio

from kiwi_id import bootstrap, config
from kiwi_id.kanidm.admin import recover_account
from tests.forward_auth.browser import show
from tests.forward_auth.test_flows import COOKIE, KEY, ask
from tests.forward_auth.world import ALICE, CLIENT, World

CHOSEN = "Chosen:by+a%20person/=~&1"


@pytest.fixture
def chosen(world: World) -> Iterator[World]:
    """A world whose secret file holds a chosen secret, and is named as that by the state file."""
    settings = config.load(world.places.config)

    async def account() -> None:
        password = await recover_account(world.server.admin_socket, "idm_admin")
        await bootstrap.bootstrap(settings, world.server, password=password)

    trio.run(account)
    state = settings.identities_file
    state.write_text(f'[clients.{CLIENT}]\nlanding = "{world.wiki}/"\nsecret_file = "{world.secret_file}"\n')
    world.secret_file.write_text(CHOSEN + "\n")
    assert world.reload().returncode == 0
    yield world
    world.secret_file.write_text(world.secret)
    state.write_text("")
    assert world.reload().returncode == 0


async def test_login_renewal_and_sign_out(chosen: World) -> None:
    """A login, the question whether a session lives, and a sign-out work, with one file for both, and no secret is logged."""
    begun = len(chosen.log())
    async with chosen.browser() as browser:
        page = await browser.visit(f"{chosen.wiki}/", ALICE)
        assert page.status_code == 200, show(page)
        old = chosen.aged(browser.jar[KEY], 400)
        answer = await ask(chosen, old)
        assert (answer.status_code, answer.headers["set-cookie"].startswith(f"{COOKIE}=")) == (200, True)
        renewed = browser.jar[KEY] = answer.headers["set-cookie"].partition("=")[2].partition(";")[0]
        await browser.go(f"{chosen.wiki}/auth/logout")
        assert KEY not in browser.jar
        assert (await ask(chosen, renewed)).status_code == 401
    log = chosen.log()[begun:]
    assert "/auth/logout" in log
    assert "a session could not be ended in Kanidm" not in log
    assert "the secret of forward_auth_client is not the right one" not in log
    assert CHOSEN not in log
    assert chosen.secret not in log
