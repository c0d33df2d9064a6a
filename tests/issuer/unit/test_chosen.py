"""Chosen client secrets over the fake Kanidm: who is let in, who is not and how that looks, and when Kanidm is asked."""

from __future__ import annotations

import base64
import time
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import quote_plus

import pytest
import trio
import trio.testing

from kiwi_id.errors import Problem
from kiwi_id.identities.secret_files import Candidate, Read, digest
from kiwi_id.issuer import authentication
from kiwi_id.issuer.chosen import ChosenSecrets, NoAccount
from kiwi_id.issuer.http import Credentials, Response
from kiwi_id.kanidm.oauth2 import KanidmSecret
from kiwi_id.proxy.caller import Unavailable
from tests.issuer.unit.issuer import VERIFIER, World, basic, content

CHOSEN = "Chosen:by+a%20person/=~1"
BEFORE = "the-one-before-that-0123"
SECRET = ("GET", "/v1/oauth2/mail/_basic_secret")


def world(*candidates: Candidate) -> World:
    """An issuer whose client ``mail`` has chosen these secrets, by default the one."""
    made = World()
    made.secrets.use(Read({"mail": candidates or (Candidate(digest(CHOSEN)),)}))
    return made


def raw_basic(name: str, secret: str) -> str:
    """Return Basic credentials whose halves are not form-encoded, as many clients send them."""
    return "Basic " + base64.b64encode(f"{name}:{secret}".encode()).decode()


async def redeem(made: World, secret: str, **headers: str) -> Response:
    """Log in and exchange the code, with this secret or these headers."""
    made.log_in("mail")
    form = {
        "grant_type": "authorization_code",
        "code": await made.code(),
        "redirect_uri": "https://mail.example/cb",
        "code_verifier": VERIFIER,
    }
    if not headers:
        headers = {"authorization": basic("mail", secret)}
    return await made.send("POST", "/oauth2/token", form, **headers)


Ask = Callable[[World, str], Awaitable[Response]]


async def by_post(made: World, secret: str) -> Response:
    """A code exchange, the secret in the form."""
    made.log_in("mail")
    form = {"grant_type": "authorization_code", "code": await made.code(), "code_verifier": VERIFIER}
    form |= {"redirect_uri": "https://mail.example/cb", "client_id": "mail", "client_secret": secret}
    return await made.send("POST", "/oauth2/token", form)


async def by_basic(made: World, secret: str) -> Response:
    """A code exchange by Basic, encoded as the RFC wants it."""
    return await redeem(made, secret)


async def by_raw_basic(made: World, secret: str) -> Response:
    """A code exchange by Basic that is not encoded."""
    return await redeem(made, secret, authorization=raw_basic("mail", secret))


async def by_client_credentials(made: World, secret: str) -> Response:
    """A token for the client itself."""
    return await made.send("POST", "/oauth2/token", {"grant_type": "client_credentials"}, authorization=basic("mail", secret))


def at(path: str) -> Ask:
    """Return a question about a token at one of the endpoints."""

    async def ask(made: World, secret: str) -> Response:
        return await made.send("POST", path, {"token": "unknown"}, authorization=basic("mail", secret))

    return ask


EVERY: list[Any] = [
    pytest.param(by_basic, id="basic"),
    pytest.param(by_raw_basic, id="basic, not encoded"),
    pytest.param(by_post, id="post"),
    pytest.param(by_client_credentials, id="client_credentials"),
    pytest.param(at("/oauth2/introspect"), id="introspect"),
    pytest.param(at("/oauth2/revoke"), id="revoke"),
]


@pytest.mark.parametrize("ask", EVERY)
async def test_the_chosen_secret_counts(ask: Ask) -> None:
    """The chosen secret works wherever a client shows one, however it is sent; Kanidm is asked for its own once."""
    made = world()
    for _ in range(2):
        answer = await ask(made, CHOSEN)
        assert answer.status == 200, answer.body
    assert made.kanidm.calls.count(SECRET) == 1


@pytest.mark.parametrize("ask", EVERY)
async def test_kanidms_own_counts_no_more(ask: Ask) -> None:
    """The secret that Kanidm has made is refused like any wrong one, and with nothing chosen it works."""
    own = World().kanidm.clients["mail"].secret or ""
    assert (await ask(World(), own)).status == (200 if ask is not by_raw_basic else 401)  # it has a '+', which decodes to a space
    answer = await ask(world(), own)
    assert (answer.status, content(answer)["error"]) == (401, "invalid_client")


@pytest.mark.parametrize("ask", EVERY)
async def test_wrong_ones_look_alike(ask: Ask) -> None:
    """A wrong secret is answered in the same bytes, and by the same calls of Kanidm, whether or not a secret was chosen."""
    answers, calls = [], []
    for made in (World(), world(), world(Candidate(digest(BEFORE), time.time() - 1))):
        answer = await ask(made, "wrong")
        answers.append((answer.status, answer.headers, answer.body))
        calls.append(made.kanidm.calls)
    assert answers[0][0] == 401
    assert answers[1:] == [answers[0]] * 2
    assert calls[1:] == [calls[0]] * 2


async def test_two_for_a_while() -> None:
    """In a rotation both secrets count, until the time at which the old one ends; a refresh goes on from one to the other."""
    made = world(Candidate(digest(CHOSEN)), Candidate(digest(BEFORE), time.time() + 60))
    answer = await redeem(made, BEFORE)
    assert answer.status == 200
    form = {"grant_type": "refresh_token", "refresh_token": content(answer)["refresh_token"]}
    assert (await made.send("POST", "/oauth2/token", form, authorization=basic("mail", CHOSEN))).status == 200
    made.secrets.use(Read({"mail": (Candidate(digest(CHOSEN)), Candidate(digest(BEFORE), time.time() - 1))}))
    assert (await redeem(made, BEFORE)).status == 401
    assert (await redeem(made, CHOSEN)).status == 200


async def test_introspection_believes_no_rotated_secret() -> None:
    """A secret that was taken out is refused at once, although credentials that were good are remembered for a while."""
    made = world(Candidate(digest(CHOSEN)), Candidate(digest(BEFORE)))
    ask = at("/oauth2/introspect")
    assert (await ask(made, BEFORE)).status == 200
    made.secrets.use(Read({"mail": (Candidate(digest(CHOSEN)),)}))
    assert (await ask(made, BEFORE)).status == 401
    assert (await ask(made, CHOSEN)).status == 200


@pytest.mark.parametrize("ask", EVERY)
async def test_a_secret_that_kanidm_has_reset(ask: Ask) -> None:
    """When Kanidm's secret was reset, the next request asks for the new one and is answered as if nothing had been."""
    made = world()
    assert (await ask(made, CHOSEN)).status == 200
    made.kanidm.clients["mail"].secret = "made-anew-by-kanidm"
    if ask not in (by_basic, by_post, by_raw_basic, by_client_credentials):
        forget_the_authenticated()
    answer = await ask(made, CHOSEN)
    assert answer.status == 200, answer.body
    assert made.kanidm.calls.count(SECRET) == 2
    assert (await ask(made, "made-anew-by-kanidm")).status == 401


def forget_the_authenticated() -> None:
    """Let the ten seconds pass for which good credentials are believed."""
    authentication._authenticated.clear()


async def test_a_revocation_with_a_secret_of_before() -> None:
    """A session is ended although Kanidm's secret was reset after the credentials were found good."""
    made = world()
    tokens = content(await redeem(made, CHOSEN))
    assert (await at("/oauth2/revoke")(made, CHOSEN)).status == 200
    made.kanidm.clients["mail"].secret = "made-anew-by-kanidm"
    form = {"token": tokens["refresh_token"]}
    assert (await made.send("POST", "/oauth2/revoke", form, authorization=basic("mail", CHOSEN))).status == 200
    assert made.kanidm.dead


async def test_a_used_code_with_another_secret() -> None:
    """A code that comes twice, first by the old chosen secret and then by the new, ends what it gave."""
    made = world(Candidate(digest(CHOSEN)), Candidate(digest(BEFORE)))
    made.log_in("mail")
    code = await made.code()
    form = {"grant_type": "authorization_code", "code": code, "redirect_uri": "https://mail.example/cb", "code_verifier": VERIFIER}
    assert (await made.send("POST", "/oauth2/token", form, authorization=basic("mail", BEFORE))).status == 200
    again = await made.send("POST", "/oauth2/token", form, authorization=basic("mail", CHOSEN))
    assert content(again)["error"] == "invalid_grant"
    assert made.kanidm.dead


async def test_a_client_that_is_missing_or_public_in_kanidm() -> None:
    """With no secret in Kanidm even the right one is refused; and a public client may not gain by it, nor lose."""
    made = world()
    made.secrets.use(Read({name: (Candidate(digest(CHOSEN)),) for name in ("mail", "spa", "gone")}))
    for name in ("gone", "spa"):
        for secret in (CHOSEN, "wrong"):
            answer = await made.send(
                "POST", "/oauth2/token", {"grant_type": "client_credentials"}, authorization=basic(name, secret)
            )
            assert (answer.status, content(answer)["error"]) == (401, "invalid_client"), (name, secret)
    made.log_in("spa")
    uri = "https://spa.example/cb"
    answer = await made.redeem(await made.code(client_id="spa", redirect_uri=uri), "spa")
    assert answer.status == 200


async def test_no_secret_at_all() -> None:
    """A client that must show a secret and shows none, or an empty one, is refused."""
    made = world()
    made.log_in("mail")
    form = {"grant_type": "authorization_code", "code": await made.code(), "redirect_uri": "https://mail.example/cb"}
    form |= {"code_verifier": VERIFIER, "client_id": "mail"}
    assert (await made.send("POST", "/oauth2/token", form)).status == 401
    assert (await made.send("POST", "/oauth2/token", form, authorization=basic("mail", ""))).status == 401


async def test_a_file_that_breaks() -> None:
    """A client whose file breaks keeps what it had; one whose file is broken from the start is nobody; the rest changes."""
    made = World()
    problem = Problem("/etc/kiwi/identities.toml:1", "clients.mail.secret_file", "nothing", "a secret", "")
    broken = Read({"mail": (), "wiki": (Candidate(digest(BEFORE)),)}, frozenset({"mail"}), [problem])
    assert made.secrets.use(broken) == ["the chosen secret of mail", "the chosen secret of wiki"]
    for secret in (CHOSEN, made.kanidm.clients["mail"].secret or ""):
        assert (await redeem(made, secret)).status == 401
    assert made.secrets.use(Read({"mail": (Candidate(digest(CHOSEN)),)})) == [
        "the chosen secret of mail",
        "the chosen secret of wiki",
    ]
    assert made.secrets.use(broken) == ["the chosen secret of wiki"]
    assert made.secrets.problems == [problem]
    assert (await redeem(made, CHOSEN)).status == 200
    assert made.secrets.use(Read(None, problems=[problem])) == []
    some = {"mail": (), "new": (Candidate(digest(BEFORE)),)}
    assert made.secrets.use(Read(some, frozenset({"mail"}), [problem], partial=True)) == ["the chosen secret of new"]
    assert made.secrets.clients == {"mail", "wiki", "new"}
    assert made.secrets.use(Read({"mail": (Candidate(digest(CHOSEN)),), "wiki": (Candidate(digest(BEFORE)),)})) == [
        "the chosen secret of new"
    ]
    assert (await redeem(made, CHOSEN)).status == 200
    assert made.secrets.use(Read({})) == ["the chosen secret of mail", "the chosen secret of wiki"]
    assert (await redeem(made, made.kanidm.clients["mail"].secret or "")).status == 200


class Slow:
    """What asks Kanidm, held back until ``open``; ``failure`` is raised in place of an answer."""

    def __init__(self) -> None:
        self.calls = 0
        self.open = trio.Event()
        self.failure: Exception | None = None
        self.same = False

    async def __call__(self, client_id: str) -> str | None:
        """Answer."""
        self.calls += 1
        await self.open.wait()
        if self.failure is not None:
            raise self.failure
        return "kanidms-1" if self.same else f"kanidms-{self.calls}"

    def secrets(self) -> ChosenSecrets:
        """Return the chosen secret of ``mail`` over it."""
        made = ChosenSecrets(self)
        made.use(Read({"mail": (Candidate(digest(CHOSEN)),)}))
        return made


WHO = Credentials("mail", CHOSEN, basic=False)


async def test_many_at_once_ask_once(autojump_clock: trio.testing.MockClock) -> None:
    """Logins that come together share one question; when who asked is gone, the next goes on."""
    slow = Slow()
    secrets, got = slow.secrets(), []
    leaving = trio.CancelScope()

    async def ask(scope: trio.CancelScope) -> None:
        with scope:
            got.append((await secrets.inward(WHO)).secret)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask, leaving)
        await trio.testing.wait_all_tasks_blocked()
        for _ in range(20):
            nursery.start_soon(ask, trio.CancelScope())
        await trio.testing.wait_all_tasks_blocked()
        assert slow.calls == 1
        leaving.cancel()
        await trio.testing.wait_all_tasks_blocked()
        assert slow.calls == 2
        slow.open.set()
    assert got == ["kanidms-2"] * 20


@pytest.mark.parametrize("failure", [Unavailable("kanidmd is not ready"), NoAccount("no account")])
async def test_a_failure_is_shared(failure: Exception) -> None:
    """All who wait hear of the failure, nobody waits for a second one in a row; the next request asks again."""
    slow = Slow()
    secrets, failed = slow.secrets(), []
    slow.failure = failure

    async def ask() -> None:
        with pytest.raises(type(failure)):
            await secrets.inward(WHO)
        failed.append(1)

    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(ask)
        await trio.testing.wait_all_tasks_blocked()
        slow.open.set()
    assert (slow.calls, len(failed)) == (1, 5)
    slow.failure = None
    assert (await secrets.inward(WHO)).secret == "kanidms-2"


async def test_nobody_asks_for_a_wrong_secret() -> None:
    """Only who has shown the right secret has Kanidm asked for its own."""
    slow = Slow()
    secrets = slow.secrets()
    for secret in ("wrong", "", None):
        assert (await secrets.inward(Credentials("mail", secret, basic=True))).secret != CHOSEN
    assert slow.calls == 0


async def test_a_secret_that_did_not_change() -> None:
    """A refusal is asked about once: when Kanidm's secret is still the same, the refusal stands."""
    slow = Slow()
    secrets = slow.secrets()
    slow.open.set()
    held = (await secrets.inward(WHO)).secret
    assert isinstance(held, KanidmSecret)
    slow.same = True
    assert await secrets.renew("mail", held) is None
    assert slow.calls == 2
    slow.same = False
    assert await secrets.renew("mail", held) == "kanidms-3"
    assert await secrets.renew("mail", held) == "kanidms-3"  # of another request, which still had the one before
    assert slow.calls == 3


async def test_nothing_of_a_secret_is_printed() -> None:
    """What may stand in a traceback or a log shows no secret."""
    slow = Slow()
    slow.open.set()
    secrets = slow.secrets()
    inward = await secrets.inward(Credentials("mail", CHOSEN, basic=True, as_sent=quote_plus(CHOSEN)))
    shown = repr([inward, inward.secret, vars(secrets), WHO])
    assert "kanidms-1" not in shown
    assert CHOSEN not in shown
    assert quote_plus(CHOSEN) not in shown
