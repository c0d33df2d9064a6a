"""Asking Kanidm again: when, how often, and what its answers, or none, mean for a session."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from kiwi_id.forward_auth import renewal
from kiwi_id.forward_auth.session import Session
from kiwi_id.identities.secret_files import Candidate, Read, digest
from kiwi_id.kanidm.oauth2 import OAuth2, Surprise
from kiwi_id.proxy.caller import Unavailable
from tests.forward_auth.issuer import HOST, RULES, ForwardAuth, aged
from tests.issuer.unit.fake_kanidm import Answer

CLOCK = "kiwi_id.forward_auth.renewal.time"


class Later:
    """The module's clock, of which one hand is moved: what was remembered is old, and sessions are as they were."""

    def __init__(self, seconds: float) -> None:
        self._seconds, self.time = seconds, time.time

    def monotonic(self) -> float:
        """Return the moved time."""
        return time.monotonic() + self._seconds


class Wire:
    """Kanidm's answers as a test wants them: held back until ``open``, or an exception, or a status."""

    def __init__(self, made: ForwardAuth) -> None:
        self._kanidm, self.calls = made.kanidm, 0
        self.open, self.arrived = trio.Event(), trio.Event()
        self.failure: Exception | None = None
        self.status = 0
        made.issuer.ctx.kanidm = OAuth2(self)

    async def __call__(self, *asked: Any) -> Answer:
        """Answer one request."""
        self.calls += 1
        self.arrived.set()
        await self.open.wait()
        if self.failure is not None:
            raise self.failure
        return Answer(self.status) if self.status else await self._kanidm(*asked)


async def test_a_young_session_asks_nobody() -> None:
    """Until the recheck nothing is asked: that is the hot path."""
    made = ForwardAuth()
    session = await made.session()
    made.kanidm.calls.clear()
    assert await made.current(aged(session, RULES.recheck - 2)) is not None
    assert made.kanidm.calls == []


async def test_an_old_session_is_renewed_with_what_is_true_by_now() -> None:
    """One question; the session goes on with the same number and begin, another refresh token, and the claims of now."""
    made = ForwardAuth()
    session = aged(await made.session(), 400)
    made.kanidm.clients["fa"].claims = {"groups": ["other@id.example"], "preferred_username": "alice2@id.example"}
    before = made.asked()
    new = await made.current(session)
    assert made.asked() == before + 1
    assert new is not None
    assert (new.identity.groups, new.identity.user) == (("other",), "alice2@id.example")
    assert (new.number, new.begun, new.sid, new.host) == (session.number, session.begun, session.sid, session.host)
    assert new.refresh != session.refresh
    assert new.checked > session.checked + 390


async def test_requests_at_once_share_one_question() -> None:
    """A browser asks with many requests at once, and a refresh token may be used once only."""
    made = ForwardAuth()
    session = aged(await made.session(), 400)
    wire, results = Wire(made), list[Session | None]()

    async def ask() -> None:
        results.append(await made.current(session))

    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(ask)
        await wire.arrived.wait()
        await trio.testing.wait_all_tasks_blocked()
        wire.open.set()
    assert wire.calls == 1
    assert len(results) == 20
    assert len({id(result) for result in results}) == 1
    assert results[0] is not None


async def test_the_old_cookie_gets_the_same_answer_for_a_while() -> None:
    """For tabs that have not seen the new cookie, and proxies that do not hand it on."""
    made = ForwardAuth()
    session = aged(await made.session(), 400)
    new = await made.current(session)
    asked = made.asked()
    assert await made.current(session) is new
    assert made.asked() == asked
    assert made.renewals.latest(session) is new


async def test_an_old_cookie_after_that_is_kanidms_to_judge(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be a thief's: nothing is remembered for it any more, and Kanidm refuses a refresh token that was used."""
    made = ForwardAuth()
    session = aged(await made.session(), 400)
    assert await made.current(session) is not None
    monkeypatch.setattr(CLOCK, Later(RULES.recheck + 1))
    assert await made.current(session) is None


async def test_a_session_that_has_ended_in_kanidm_has_ended_here() -> None:
    """And is not asked about again and again."""
    made = ForwardAuth()
    session = aged(await made.session(), 400)
    made.kanidm.dead.update(family for _, family, _ in made.kanidm.refresh.values())
    assert await made.current(session) is None
    asked = made.asked()
    assert await made.current(session) is None
    assert made.asked() == asked


async def test_who_has_lost_his_name_has_no_session() -> None:
    """An answer that tells of nobody is no session."""
    made = ForwardAuth()
    session = aged(await made.session(), 400)
    made.kanidm.clients["fa"].claims = {"preferred_username": "al ice"}
    assert await made.current(session) is None


@pytest.mark.parametrize("status", [401, 500, 503])
@pytest.mark.parametrize("age", [400, 1000])
async def test_when_kanidm_cannot_be_asked(status: int, age: float) -> None:
    """A session is believed for 15 minutes after its last check, and then no more; Kanidm is left alone for a moment meanwhile."""
    made = ForwardAuth()
    session = aged(await made.session(), age)
    wire = Wire(made)
    wire.open.set()
    wire.status = status
    for _ in range(5):
        if age < renewal.STALE:
            assert await made.current(session) is session
        else:
            with pytest.raises((Surprise, Unavailable)):
                await made.current(session)
    assert wire.calls == 1


async def test_kanidm_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """After the pause it is asked again, with the same refresh token, which was not used."""
    made = ForwardAuth()
    session = aged(await made.session(), 400)
    wire = Wire(made)
    wire.open.set()
    wire.failure = Unavailable("kanidmd is not ready")
    assert await made.current(session) is session
    wire.failure = None
    assert await made.current(session) is session
    monkeypatch.setattr(CLOCK, Later(renewal.PAUSE + 0.1))
    new = await made.current(session)
    assert new is not None
    assert new is not session
    assert wire.calls == 2


async def test_whoever_asks_may_be_cancelled() -> None:
    """The question goes on, for a refresh token that is sent is used up; those who wait for the answer get it."""
    made = ForwardAuth()
    session = aged(await made.session(), 400)
    wire, results = Wire(made), list[Session | None]()

    async def ask() -> None:
        results.append(await made.current(session))

    async with trio.open_nursery() as nursery:
        first = trio.CancelScope()

        async def cancelled() -> None:
            with first:
                await ask()

        nursery.start_soon(cancelled)
        await wire.arrived.wait()
        first.cancel()
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(ask)
        await trio.testing.wait_all_tasks_blocked()
        assert results == []
        wire.open.set()
    assert wire.calls == 1
    assert len(results) == 1
    assert results[0] not in (None, session)


async def test_a_kanidm_that_hangs(autojump_clock: MockClock) -> None:
    """A session within the grace waits some seconds for it, once; when the answer comes at last, the session is renewed."""
    made = ForwardAuth()
    session = aged(await made.session(), 400)
    wire, begun = Wire(made), trio.current_time()
    assert await made.current(session) is session
    assert trio.current_time() == begun + renewal.PATIENCE
    assert await made.current(session) is session
    assert trio.current_time() == begun + renewal.PATIENCE
    wire.open.set()
    await trio.testing.wait_all_tasks_blocked()
    new = await made.current(session)
    assert new is not None
    assert new.checked > session.checked
    assert wire.calls == 1


async def test_beyond_the_grace_a_kanidm_that_hangs_is_waited_for(autojump_clock: MockClock) -> None:
    """There is no answer without Kanidm's: it is waited for, as long as its requests may take; others of the session wait, too."""
    made = ForwardAuth()
    session = aged(await made.session(), renewal.STALE + 1)
    wire, results = Wire(made), list[Session | None]()

    async def ask() -> None:
        results.append(await made.current(session))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        await trio.sleep(renewal.PATIENCE * 5)
        nursery.start_soon(ask)
        await trio.testing.wait_all_tasks_blocked()
        assert results == []
        wire.open.set()
    assert wire.calls == 1
    assert None not in results
    assert len(results) == 2


async def test_an_error_of_our_own_ends_nothing_else() -> None:
    """What goes wrong in the question is raised where it was asked, and does not end the process."""
    made = ForwardAuth()
    session = aged(await made.session(), 400)
    wire = Wire(made)
    wire.open.set()
    wire.failure = LookupError("a mistake")
    for _ in range(2):
        with pytest.raises(LookupError):
            await made.current(session)


async def test_a_sign_out_from_a_kanidm_that_hangs(monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock) -> None:
    """It waits some seconds; the session is over here at once, and stays so when Kanidm could not be told."""
    made = ForwardAuth()
    session = await made.session()
    wire, begun = Wire(made), trio.current_time()
    answer = await made.login.end(made.request("/auth/logout"), HOST)
    assert answer.status == 303
    assert trio.current_time() == begun + renewal.PATIENCE
    assert await made.current(session) is None
    wire.failure = Unavailable("kanidmd does not answer in time")
    wire.open.set()
    await trio.testing.wait_all_tasks_blocked()
    monkeypatch.setattr(CLOCK, Later(RULES.recheck + 1))
    assert await made.current(session) is None


async def test_a_session_that_was_signed_out_is_over_at_once() -> None:
    """Also for a copy of its cookie, and for the one before it; another session of the same person lives on."""
    made = ForwardAuth()
    session = await made.session()
    other = replace(session, number="other")
    new = await made.current(aged(session, 400))
    assert new is not None
    made.renewals.end(new, memory=RULES.recheck)
    assert await made.current(session) is None
    assert await made.current(new) is None
    assert await made.current(other) is other


async def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many sessions are renewed or signed out, only so many are remembered."""
    monkeypatch.setattr(renewal, "_MOST", 10)
    made = ForwardAuth()
    session = await made.session()
    for number in range(50):
        made.renewals.end(replace(session, number=str(number)), memory=300)
        await made.current(aged(session, 400, refresh=f"none-{number}"))
    assert len(made.renewals._over) <= 11
    assert len(made.renewals._asked) <= 11


async def test_a_chosen_secret() -> None:
    """With a chosen secret for our own client a login, a renewal and a sign-out ask Kanidm with the secret that Kanidm has made."""
    made = ForwardAuth(replace(RULES, secret="chosen-by-a-person-0123"))
    made.issuer.secrets.use(Read({"fa": (Candidate(digest("chosen-by-a-person-0123")),)}))
    session = aged(await made.session(), 400)
    new = await made.current(session)
    assert new is not None
    made.kanidm.clients["fa"].secret = "made-anew-by-kanidm"
    new = await made.current(aged(new, 400))
    assert new is not None
    await made.renewals.revoke(made.issuer.ctx, made.rules, new)
    assert await made.current(aged(new, 400, number="another")) is None


async def test_a_chosen_secret_that_is_not_ours() -> None:
    """A wrong one in forward_auth_secret_file is no end of the session: Kanidm was not asked with the right one."""
    made = ForwardAuth()
    session = aged(await made.session(), 1000)
    made.issuer.secrets.use(Read({"fa": (Candidate(digest("chosen-by-a-person-0123")),)}))
    with pytest.raises(Surprise, match="the secret of forward_auth_client is not the right one"):
        await made.current(session)
