"""Refreshing: rotation, races between several tabs of one client, theft, and less scope."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from kiwi_id.issuer.replay import Memory
from tests.issuer.flows.checks import refused
from tests.issuer.flows.tab import Client
from tests.issuer.flows.world import ALICE, World


async def test_refresh_rotates(world: World) -> None:
    """A refresh gives new tokens of the same login: sub, sid, auth_time stay, without a nonce (OIDC Core §12.2)."""
    async with world.tab() as tab:
        asked = world.asked()
        first = await tab.tokens(asked, ALICE)
        claims = world.verified(first["id_token"])
        before = first
        for _ in range(3):
            answer = await tab.refresh(world.demo, before["refresh_token"])
            assert answer.status_code == 200, answer.text
            after = answer.json()
            assert after["refresh_token"] != before["refresh_token"]
            assert after["access_token"] != before["access_token"]
            now = world.verified(after["id_token"])
            for name in ("sub", "sid", "auth_time", "aud", "azp", "iss"):
                assert now[name] == claims[name], name
            assert "nonce" not in now
            await tab.assert_alive(world.demo, after)
            before = after


async def test_same_refresh_twice(world: World) -> None:
    """A refresh token that a racing client sends several times at once, or again a moment later, gets the very same answer."""
    async with world.tab() as tab:
        tokens = await tab.tokens(world.asked(), ALICE)
        answers: list[Any] = []

        async def refresh() -> None:
            answer = await tab.refresh(world.demo, tokens["refresh_token"])
            assert answer.status_code == 200, answer.text
            answers.append(answer.json())

        async with trio.open_nursery() as nursery:
            for _ in range(8):
                nursery.start_soon(refresh)
        await refresh()
        assert all(answer == answers[0] for answer in answers)
        await tab.assert_alive(world.demo, answers[0])
        # Who else has the token gets nothing from that memory.
        assert refused(await tab.refresh(Client("kiwi-demo", "wrong-secret", ""), tokens["refresh_token"]), "invalid_client", 401)
        assert refused(await tab.refresh(world.other, tokens["refresh_token"]), "invalid_grant")
        assert refused(await tab.refresh(world.public, tokens["refresh_token"]), "invalid_grant")
        await tab.assert_alive(world.demo, answers[0])


async def test_reuse_after_the_grace_ends_the_session(world: World) -> None:
    """A refresh token that comes again once the grace is over is taken for stolen: everything of its session is dead."""
    async with world.tab() as tab:
        tokens = await tab.tokens(world.asked(), ALICE)
        # At once: Kanidm tells old from new by whole seconds, so Kiwi ID asks it in the next one.
        newer = (await tab.refresh(world.demo, tokens["refresh_token"])).json()
        bystander = await tab.more_tokens(world.asked())
        await trio.sleep(11)
        await tab.assert_alive(world.demo, newer)
        assert refused(await tab.refresh(world.demo, tokens["refresh_token"]), "invalid_grant")
        await tab.assert_dead(world.demo, newer)
        await tab.assert_alive(world.demo, bystander)


@pytest.mark.parametrize("how", ["revoked", "signed out", "signed out at Kanidm", "ended from elsewhere"])
async def test_an_ended_session_is_not_answered_within_the_grace(world: World, how: str) -> None:
    """A refresh token that was used a moment ago gets no answer, not even the remembered one, once its session has ended."""
    async with world.tab() as tab:
        tokens = await tab.tokens(world.asked(), ALICE)
        answer = await tab.refresh(world.demo, tokens["refresh_token"])
        assert (await tab.refresh(world.demo, tokens["refresh_token"])).content == answer.content
        if how == "revoked":
            await tab.post("/oauth2/revoke", {"token": answer.json()["access_token"]}, world.demo)
        elif how == "signed out":
            await tab.send("GET", "/oauth2/logout", params={"id_token_hint": tokens["id_token"]})
        elif how == "signed out at Kanidm":
            await tab.send("GET", "/ui/logout")
        else:
            async with world.instance.rest() as rest:
                await rest.login(ALICE.name, ALICE.password)
                sid = world.verified(tokens["id_token"])["sid"]
                await rest.call("DELETE", f"/v1/account/{ALICE.name}/_user_auth_token/{sid}")
        assert refused(await tab.refresh(world.demo, tokens["refresh_token"]), "invalid_grant")
        await tab.assert_dead(world.demo, answer.json())


def test_the_memory_of_refreshes_ends() -> None:
    """Within the window all share one record; after it the token is asked about anew; other credentials share nothing."""
    memory = Memory()
    first, record = memory.join_refresh("token", "client", window=60)
    assert first
    assert memory.join_refresh("token", "client", window=60) == (False, record)
    assert memory.join_refresh("token", "somebody else", window=60)[0]
    memory = Memory()
    assert memory.join_refresh("token", "client", window=-1)[0]
    assert memory.join_refresh("token", "client", window=-1)[0]


async def test_narrowed_scope(world: World) -> None:
    """A refresh may ask for less, and gets tokens and claims of that only; it may not ask for more (RFC 6749 §6)."""
    async with world.tab() as tab:
        tokens = await tab.tokens(world.asked(scope="openid email"), ALICE)
        assert refused(await tab.refresh(world.demo, tokens["refresh_token"], scope="openid email groups"), "invalid_scope")
        narrow = (await tab.refresh(world.demo, tokens["refresh_token"], scope="openid")).json()
        assert narrow["scope"] == "openid"
        assert "email" in world.verified(tokens["id_token"])
        for token in (narrow["id_token"], narrow["access_token"]):
            assert "email" not in world.verified(token)
        assert "email" not in (await tab.userinfo(narrow["access_token"])).json()
