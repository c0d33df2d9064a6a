"""issuer/token.py over a fake Kanidm that takes its time: the same code or refresh token, sent twice, at once or soon after."""

from __future__ import annotations

import time
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from kiwi_id.issuer.http import Response
from kiwi_id.issuer.token import MOST_WAIT, REFRESH_GRACE
from kiwi_id.kanidm.oauth2 import Surprise
from tests.issuer.unit.fake_kanidm import Answer, FakeKanidm
from tests.issuer.unit.issuer import VERIFIER, World, basic, content


class SlowKanidm(FakeKanidm):
    """Takes ``seconds`` for each answer at the token endpoint; knows a used refresh token by whole seconds, as the real one."""

    seconds = 1.0

    def __init__(self) -> None:
        super().__init__()
        self.notices_at_once = False

    async def __call__(self, method: str, target: str, headers: Any, body: bytes = b"") -> Answer:
        """Answer one request."""
        if target == "/oauth2/token":
            await trio.sleep(self.seconds)
        return await super().__call__(method, target, headers, body)


@pytest.fixture
def clock(autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch) -> MockClock:
    """A clock that jumps, and with it the time of day: whole seconds count here, and no test waits for one."""
    began = int(time.time())
    for name in ("time", "monotonic"):
        monkeypatch.setattr(time, name, lambda: began + trio.current_time())
    return autojump_clock


@pytest.fixture
def world() -> World:
    """An issuer over a slow Kanidm."""
    return World(kanidm=SlowKanidm())


async def redeem(world: World, code: str, secret: str | None = None) -> Response:
    """Exchange a code, with another secret than the client's own when told."""
    form = {"grant_type": "authorization_code", "code": code, "redirect_uri": "https://mail.example/cb", "code_verifier": VERIFIER}
    own = world.kanidm.clients["mail"].secret or ""
    return await world.send("POST", "/oauth2/token", form, authorization=basic("mail", secret or own))


async def refresh(world: World, token: str) -> Response:
    """Use a refresh token."""
    return await world.token({"grant_type": "refresh_token", "refresh_token": token})


async def userinfo(world: World, answer: Response) -> int:
    """Return the status of userinfo for the access token in an answer."""
    bearer = f"Bearer {content(answer)['access_token']}"
    return (await world.send("GET", "/oauth2/userinfo", authorization=bearer)).status


# -- codes ----------------------------------------------------------------------------------------------------------------------


async def test_a_code_sent_twice_at_once_ends_what_it_gave(clock: MockClock, world: World) -> None:
    """The second waits for the first; then it is a replay like any later one, and what it says of revocation is true."""
    world.log_in("mail")
    code = await world.code()
    answers: list[Response] = []

    async def exchange() -> None:
        answers.append(await redeem(world, code))

    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(exchange)
    assert sorted(answer.status for answer in answers) == [200, 400, 400, 400, 400]
    assert {content(answer).get("error") for answer in answers} == {None, "invalid_grant"}
    (won,) = [answer for answer in answers if answer.status == 200]
    assert await userinfo(world, won) == 401


@pytest.mark.parametrize("order", [["wrong", ""], ["", "wrong"], ["wrong", "wrong", "", "wrong"]])
async def test_a_wrong_secret_at_the_same_moment_takes_nothing_from_the_rightful_client(
    clock: MockClock, world: World, order: list[str]
) -> None:
    """Whoever comes first: the stranger is told that he is one, and the client gets its tokens and keeps them."""
    world.log_in("mail")
    code = await world.code()
    answers: dict[str, list[Response]] = {"wrong": [], "": []}

    async def exchange(secret: str) -> None:
        answers[secret].append(await redeem(world, code, secret or None))

    async with trio.open_nursery() as nursery:
        for secret in order:
            nursery.start_soon(exchange, secret)
            await trio.sleep(0.1)
    (got,) = answers[""]
    assert got.status == 200
    assert {answer.status for answer in answers["wrong"]} == {401}
    assert {content(answer)["error"] for answer in answers["wrong"]} == {"invalid_client"}
    assert await userinfo(world, got) == 200
    # Nor does a stranger's replay later on end anything; the client's own does.
    assert (await redeem(world, code, "wrong")).status == 401
    assert await userinfo(world, got) == 200
    assert (await redeem(world, code)).status == 400
    assert await userinfo(world, got) == 401


async def test_nobody_waits_for_ever(clock: MockClock, world: World) -> None:
    """When Kanidm does not answer the first, the second is told so, by an exchange and by a refresh alike."""
    got = await world.tokens()
    code = await world.code()
    assert isinstance(world.kanidm, SlowKanidm)
    told: list[str] = []

    async def second(call: Any, argument: str) -> None:
        await trio.sleep(1)
        try:
            await call(world, argument)
        except Surprise as surprise:
            told.append(str(surprise))

    for call, argument in ((redeem, code), (refresh, got["refresh_token"])):
        world.kanidm.seconds = MOST_WAIT + 5
        async with trio.open_nursery() as nursery:
            nursery.start_soon(call, world, argument)
            await second(call, argument)
            nursery.cancel_scope.cancel()
        # Whoever was cut off has used nothing up.
        world.kanidm.seconds = 0.1
        assert (await call(world, argument)).status == 200
    assert told == ["no end of another exchange of the same code", "no end of another refresh by the same token"]


# -- refreshes ------------------------------------------------------------------------------------------------------------------


async def test_late_reuse_is_noticed_whenever_the_first_refresh_was(clock: MockClock, world: World) -> None:
    """Also when that came at once: Kanidm tells old tokens from new ones by whole seconds, so it is asked in the next one."""
    assert isinstance(world.kanidm, SlowKanidm)
    world.kanidm.seconds = 0.0
    token = (await world.tokens())["refresh_token"]
    for _ in range(3):
        before, used = token, await refresh(world, token)
        assert used.status == 200
        token = content(used)["refresh_token"]
    await trio.sleep(REFRESH_GRACE + 1)
    assert (await refresh(world, before)).status == 400
    assert await userinfo(world, used) == 401


async def test_a_refresh_waits_for_no_more_than_the_next_second(
    clock: MockClock, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not at all when the token is older, and not long when the clock was set back by a day."""
    assert isinstance(world.kanidm, SlowKanidm)
    world.kanidm.seconds = 0.0
    got = await world.tokens()
    await trio.sleep(1)
    began = trio.current_time()
    answer = await refresh(world, got["refresh_token"])
    assert answer.status == 200
    assert trio.current_time() == began
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() - 86400)
    await refresh(world, content(answer)["refresh_token"])
    assert trio.current_time() < began + 2


@pytest.mark.parametrize("how", ["revoke", "revoke the new one", "logout", "administrator", "replayed code"])
async def test_an_ended_session_gives_no_remembered_answer(clock: MockClock, world: World, how: str) -> None:
    """Within the grace, too: the answer that was given a moment ago is not given again once its session has ended."""
    world.log_in("mail")
    code = await world.code()
    got = content(await redeem(world, code))
    first = await refresh(world, got["refresh_token"])
    assert (await refresh(world, got["refresh_token"])).body == first.body
    mail = basic("mail", world.kanidm.clients["mail"].secret or "")
    if how.startswith("revoke"):
        token = got["refresh_token"] if how == "revoke" else content(first)["access_token"]
        assert (await world.send("POST", "/oauth2/revoke", {"token": token}, authorization=mail)).status == 200
    elif how == "logout":
        assert (await world.send("GET", "/oauth2/logout", {"id_token_hint": got["id_token"]})).status == 200
    elif how == "administrator":
        world.kanidm.ended.update(world.kanidm.sessions)
    else:
        assert (await redeem(world, code)).status == 400
    again = await refresh(world, got["refresh_token"])
    assert (again.status, content(again)["error"]) == (400, "invalid_grant")
