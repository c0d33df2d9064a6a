"""What is remembered of clients and their redirect URIs: enough to send a browser to Kanidm's login, never to a relying party."""

from __future__ import annotations

import base64
import hashlib

import pytest
from trio.testing import MockClock

from kiwi_id.issuer.context import REDIRECT_CACHE_SECONDS
from kiwi_id.issuer.http import Response
from kiwi_id.issuer.keys import KeySet
from tests.issuer.unit.issuer import World, came, header, key

_NOISE = base64.b64encode(hashlib.shake_256(b"x").digest(20000)).decode()


def _take_away(world: World) -> None:
    """Take the client's only address away, as an administrator does in Kanidm."""
    world.kanidm.clients["mail"].uris = ()


def _asked_about(world: World) -> int:
    """Return how often Kanidm was asked whether an authorization request is right, since the last time."""
    number = sum(path == "/oauth2/authorise" for _, path in world.kanidm.calls)
    world.kanidm.calls.clear()
    return number


def _is_login(answer: Response) -> bool:
    return answer.status == 303 and header(answer, "location").startswith("/ui/oauth2?")


async def test_kanidm_is_not_asked_again_before_a_login() -> None:
    """Whoever has no session is sent on at once when the same request was found right a moment ago: Kanidm judges it there."""
    world = World()
    for number in (1, 0, 0):
        assert _is_login(await world.authorize(state=f"state {number}", nonce=f"nonce {number}"))
        assert _asked_about(world) == number
    world.log_in("mail")
    for _ in range(2):
        assert "code" in came(await world.authorize())
        assert _asked_about(world) == 1
    assert _is_login(await world.authorize(prompt="login"))
    assert _asked_about(world) == 0
    # Of another client and another address nothing is known by that.
    for change in ({"redirect_uri": "https://evil.example/cb"}, {"client_id": "wiki"}):
        assert (await world.authorize(**change)).status == 400
        assert _asked_about(world) == 1


@pytest.mark.parametrize("change", [{"prompt": "none"}, {"response_type": "token"}, {"prompt": "bad"}, {"state": _NOISE}])
async def test_nothing_is_sent_to_an_address_from_memory(change: dict[str, str]) -> None:
    """Errors go to the relying party: so Kanidm is asked each time, and an address that was taken away gets none."""
    world = World()
    for _ in range(2):
        await world.authorize()
        assert "error" in came(await world.authorize(**change))
    _take_away(world)
    assert _is_login(await world.authorize())  # to Kanidm, where this request ends
    assert (await world.authorize(**change)).status == 400
    assert (await world.authorize()).status == 400  # that answer has contradicted what was remembered


async def test_a_session_is_answered_by_kanidm_alone() -> None:
    """With a session a code is at stake: an address that was taken away gets none."""
    world = World()
    world.log_in("mail")
    await world.authorize()
    _take_away(world)
    assert (await world.authorize()).status == 400


async def test_it_is_forgotten_soon(autojump_clock: MockClock) -> None:
    """After some seconds, and at a reload, Kanidm is asked again."""
    world = World()
    await world.authorize()
    autojump_clock.jump(REDIRECT_CACHE_SECONDS - 1)
    uris = world.kanidm.clients["mail"].uris
    _take_away(world)
    assert _is_login(await world.authorize())
    autojump_clock.jump(2)
    assert (await world.authorize()).status == 400
    world.kanidm.clients["mail"].uris = uris
    assert _is_login(await world.authorize())
    world.use(KeySet(key(world.kind), []))
    _take_away(world)
    assert (await world.authorize()).status == 400
