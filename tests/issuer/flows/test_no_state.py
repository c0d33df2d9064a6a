"""Nothing is kept on disk or between requests: any Kiwi ID with the same keys goes on where another has stopped."""

from __future__ import annotations

import itertools
import os
import re
import secrets
import signal
from collections.abc import Awaitable, Callable

import httpx
import trio

from tests.issuer.flows.tab import Tab, arrived, field_of, is_kanidm_consent, is_login, is_our_consent, show
from tests.issuer.flows.world import AFTER_LOGOUT, ALICE, World
from tests.kanidm.instance import Instance

Between = Callable[[], Awaitable[Instance]]


def _before_each_request(tab: Tab, between: Between) -> list[str]:
    """Ask ``between``, before every single request of a tab, which instance it goes to; return the list of these requests."""
    seen: list[str] = []

    async def direct(request: httpx.Request) -> None:
        instance = await between()
        seen.append(request.url.path)
        request.url = request.url.copy_with(port=int(instance.origin.rpartition(":")[2]))

    tab.http.event_hooks = {"request": [direct], "response": []}
    return seen


async def _whole_life(world: World, tab: Tab, name: str) -> None:
    """Everything that can happen to a login, request by request, from the authorization to the logout."""
    person = await world.person(name)
    state = secrets.token_urlsafe(1800)
    asked = world.asked(world.other, state=state, prompt="login", response_mode="form_post")
    page = await tab.sign_in_as(person, await tab.authorize(asked))
    assert is_kanidm_consent(page), show(page)
    page = await tab.agree(page)
    came = arrived(page)
    assert came.parameters["state"] == state
    tokens = (await tab.redeem(asked, came)).json()
    await tab.assert_alive(world.other, tokens)
    tokens = (await tab.refresh(world.other, tokens["refresh_token"])).json()
    await tab.assert_alive(world.other, tokens)
    assert (await tab.introspect(world.other, tokens["refresh_token"]))["active"] is True
    # Once more with our own consent page, at a second client.
    again = world.asked(prompt="consent")
    page = await tab.authorize(again)
    assert is_our_consent(page)
    came = arrived(await tab.send("POST", "/oauth2/consent", data={"box": field_of(page, "box"), "decision": "allow"}))
    second = (await tab.redeem(again, came)).json()
    world.verified(second["id_token"])
    assert (await tab.post("/oauth2/revoke", {"token": tokens["access_token"]}, world.other)).status_code == 200
    await tab.assert_dead(world.other, tokens)
    await tab.assert_alive(world.demo, second)
    page = await tab.send("GET", "/oauth2/logout", params={"client_id": "kiwi-demo", "post_logout_redirect_uri": AFTER_LOGOUT})
    done = await tab.send("POST", "/oauth2/logout", data={"box": field_of(page, "box"), "decision": "yes"})
    assert done.headers["location"] == AFTER_LOGOUT
    await tab.assert_dead(world.demo, second)


async def test_two_processes_take_turns(world: World) -> None:
    """Two Kiwi IDs with the same keys over one kanidmd, and each request of a whole login goes to the other one than the last."""
    turns = itertools.cycle([world.instance, await world.replica()])

    async def other() -> Instance:
        return next(turns)

    async with world.tab() as tab:
        seen = _before_each_request(tab, other)
        await _whole_life(world, tab, "wanderer")
        # And the other way round: an odd number of requests in between.
        if len(seen) % 2 == 0:
            next(turns)
        await _whole_life(world, tab, "wanderer2")


async def test_restarted_between_any_two_requests(world: World) -> None:
    """Kiwi ID is stopped and started before every request of a whole login, with kanidmd left alone; nothing is lost."""
    replica = await world.replica()

    async def restarted() -> Instance:
        await world.restart(replica)
        return replica

    async with world.tab() as tab:
        seen = _before_each_request(tab, restarted)
        await _short_life(world, tab, "phoenix")
        assert len(seen) >= 10


async def _short_life(world: World, tab: Tab, name: str) -> None:
    """Authorize, login, consent, code, token, refresh and userinfo, each once."""
    person = await world.person(name)
    asked = world.asked(world.public)
    came = arrived(await tab.agree(await tab.sign_in_as(person, await tab.authorize(asked))))
    assert came.parameters["state"] == asked.state
    tokens = (await tab.redeem(asked, came)).json()
    tokens = (await tab.refresh(world.public, tokens["refresh_token"])).json()
    await tab.assert_alive(world.public, tokens)


async def test_restarted_together_with_kanidm(world: World) -> None:
    """Kiwi ID is restarted with its kanidmd between authorization, login, code, refresh and userinfo; all that holds.

    Kanidm itself forgets a login or a consent that is half done (facts §3: its cookie and consent keys are made at each start).
    The user sees a page of Kanidm's then; the session is not lost, and the same authorization request goes on from there.
    """
    person = await world.person("sleeper")
    first = world.instance

    async with world.tab() as tab:
        asked = world.asked()
        answer = await tab.ask(asked)
        await world.restart(first)
        page = await tab.follow(answer)
        assert is_login(page)
        await tab.send("POST", "/ui/login/begin", data={"username": person.name, "password": "", "totp": ""})
        await world.restart(first)
        lost = await tab.send("POST", "/ui/login/pw", data={"password": person.password})
        assert "bearer" not in tab.cookies, show(lost)
        page = await tab.sign_in_as(person, await tab.follow(answer))
        assert is_kanidm_consent(page)
        await world.restart(first)
        page = await tab.agree(page)
        assert not page.headers.get("location", "").startswith("https://app."), show(page)
        page = await tab.follow(answer)  # the browser's *back*, or the application's own second try
        assert is_kanidm_consent(page), show(page)
        page = await tab.agree(page)
        await world.restart(first)
        came = arrived(page)
        assert came.parameters["state"] == asked.state
        tokens = (await tab.redeem(asked, came)).json()
        await world.restart(first)
        await tab.assert_alive(world.demo, tokens)
        tokens = (await tab.refresh(world.demo, tokens["refresh_token"])).json()
        await world.restart(first)
        await tab.assert_alive(world.demo, tokens)
        assert "code" in arrived(await tab.ask(world.asked(), prompt="none")).parameters


async def test_nothing_is_written(world: World) -> None:
    """A whole login leaves no file of ours changed but the logs: there is no store that a restart could miss."""

    def files() -> dict[str, tuple[int, int]]:
        ours = [
            path for path in world.instance.directory.rglob("*") if path.is_file() and not re.search(r"\.log|kanidm\.db", path.name)
        ]
        return {str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in ours}

    before = await trio.to_thread.run_sync(files)
    async with world.tab() as tab:
        tokens = await tab.tokens(world.asked(), ALICE)
        await tab.refresh(world.demo, tokens["refresh_token"])
        await tab.send("GET", "/oauth2/logout", params={"id_token_hint": tokens["id_token"]})
    assert await trio.to_thread.run_sync(files) == before


async def test_kanidmd_killed_before_any_call(world: World) -> None:
    """kanidmd is killed right before code, userinfo, refresh and introspection: each waits for the new one, or is asked again."""
    async with world.tab() as tab:
        asked = world.asked()
        came = await tab.log_in(asked, ALICE)

        async def patiently(call: Callable[[], Awaitable[httpx.Response]]) -> httpx.Response:
            await world.instance.wait_ready()
            os.kill(world.instance.kanidmd_pid(), signal.SIGKILL)
            answer = await call()
            if answer.status_code == 503:  # kanidmd has never received it
                assert answer.headers["retry-after"]
                answer = await call()
            elif answer.status_code == 502:  # it may have been received, so we do not repeat it; whoever asked may
                answer = await call()
            return answer

        answer = await patiently(lambda: tab.redeem(asked, came))
        assert answer.status_code == 200, answer.text
        tokens = answer.json()
        assert (await patiently(lambda: tab.userinfo(tokens["access_token"]))).status_code == 200
        answer = await patiently(lambda: tab.refresh(world.demo, tokens["refresh_token"]))
        assert answer.status_code == 200, answer.text
        sent = {"token": answer.json()["access_token"]}
        answer = await patiently(lambda: tab.post("/oauth2/introspect", sent, world.demo))
        assert answer.json()["active"] is True
        await world.instance.wait_ready()
