"""Login protection on the way of a request: what is counted, what is refused and how, and that all else passes as it came.

Each test asks for the clock itself, which then stands still but for its jumps: pytest-trio looks nowhere else for one.
"""

from __future__ import annotations

import json

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from kiwi_id.values import Rate
from tests.front.conftest import Lines
from tests.front.upstream import OK, Peer
from tests.protect.conftest import CODE, Guarded, token_of

HERE, THERE = "192.0.2.1", "198.51.100.9"
RIGHT = "right-of-alice"


async def test_guessing_a_password_ends_in_429(guarded: Guarded, mock_clock: MockClock) -> None:
    """After 24 wrong passwords the account is refused from there, and there only; after the time that was told it works again."""
    for _ in range(24):
        assert await guarded.login("alice", "wrong") == 200
    before = guarded.asked
    refused = await guarded.step("begin", username="alice")
    assert (refused.status, guarded.asked) == (429, before)
    assert refused.one(b"retry-after") == b"1200"
    assert refused.one(b"content-type") == b"text/html; charset=utf-8"
    assert refused.one(b"cache-control") == b"no-store"
    assert b"too many wrong logins to this account. Please try again in 20 minutes." in refused.body
    assert b'href="/ui"' in refused.body
    assert await guarded.login("alice", RIGHT, THERE) == 303
    assert await guarded.login("bob", "right-of-bob") == 303
    assert await guarded.login("alice", RIGHT) == 429
    guarded.change(login_failures_per_account_and_address=Rate(24, 240.0))  # the front's fixture gives nobody twenty minutes
    mock_clock.jump(9)
    assert await guarded.login("alice", RIGHT) == 429
    mock_clock.jump(1)
    assert await guarded.login("alice", RIGHT) == 303


@pytest.mark.parametrize("name", ["ALICE", "alice@id.example.com", "Alice@localhost"])
async def test_the_account_by_another_name(guarded: Guarded, mock_clock: MockClock, name: str) -> None:
    """Case and domain make no other account."""
    for _ in range(24):
        await guarded.login("alice", "wrong")
    assert await guarded.login(name, RIGHT) == 429


async def test_a_login_begun_before(guarded: Guarded, mock_clock: MockClock) -> None:
    """Logins that are begun beforehand, by the hundred, do not help: each password is counted and then refused."""
    begun = await guarded.step("begin", username="alice")
    statuses = [(await guarded.step("pw", token=token_of(begun), password="wrong")).status for _ in range(100)]
    assert statuses == [200] * 24 + [429] * 76


async def test_each_factor_is_counted_for_the_account(guarded: Guarded, mock_clock: MockClock) -> None:
    """Wrong codes count as wrong passwords do, a right one does not; the account is known through each step."""
    for _ in range(12):
        token = token_of(await guarded.step("begin", username="alice"))
        token = token_of(await guarded.step("mech_choose", token=token, mech="passwordmfa"))
        token = token_of(await guarded.step("totp", token=token, totp=CODE))
        assert (await guarded.step("pw", token=token, password="wrong")).status == 200
    for _ in range(12):
        token = token_of(await guarded.step("begin", username="alice"))
        assert (await guarded.step("totp", token=token, totp="000000")).status == 200
    assert (await guarded.step("begin", username="alice")).status == 429
    assert guarded.guard.status()["failures"] == {"login": 24, "token": 0}


async def test_passkeys_and_backup_codes(guarded: Guarded, mock_clock: MockClock) -> None:
    """Refused signatures and backup codes are counted as well."""
    for kind in ("passkey", "seckey", "backup_code"):
        for _ in range(8):
            token = token_of(await guarded.step("begin", username="alice"))
            assert (await guarded.step(kind, token=token, cred="{}", backupcode="x")).status == 200
    assert (await guarded.step("begin", username="alice")).status == 429


async def test_the_rest_api(guarded: Guarded, mock_clock: MockClock) -> None:
    """/v1/auth is counted as the pages are, in the same buckets, and refused in JSON."""
    for _ in range(12):
        token = token_of(await guarded.rest({"init2": {"username": "alice", "issue": "token", "privileged": False}}))
        token = token_of(await guarded.rest({"begin": "password"}, token=token))
        assert b"denied" in (await guarded.rest({"cred": {"password": "wrong"}}, token=token)).body
        assert await guarded.login("alice", "wrong") == 200
    for step in ({"init2": {"username": "alice", "issue": "token", "privileged": False}}, {"init": "alice@x"}):
        refused = await guarded.rest(step)
        assert refused.status == 429
        assert refused.one(b"retry-after") == b"1200"
        assert json.loads(refused.body)["error"]["code"] == "too_many_failures"
    refused = await guarded.rest({"cred": {"password": RIGHT}}, token=token)
    assert refused.status == 429
    token = token_of(await guarded.rest({"init2": {"username": "alice", "issue": "token"}}, client=THERE))
    token = token_of(await guarded.rest({"begin": "password"}, token=token, client=THERE))
    assert b"success" in (await guarded.rest({"cred": {"password": RIGHT}}, token=token, client=THERE)).body


async def test_names_that_do_not_exist(guarded: Guarded, mock_clock: MockClock) -> None:
    """Asking for names is a failure of the address, on the pages and in the REST API; others there can wait, strangers need not."""
    for number in range(150):
        assert (await guarded.step("begin", username=f"nobody-{number}")).status == 200
        assert (await guarded.rest({"init2": {"username": f"nobody-{number}", "issue": "token"}})).status == 404
    refused = await guarded.step("begin", username="alice")
    assert refused.status == 429
    assert b"from your network" in refused.body
    assert refused.one(b"retry-after") == b"12"
    assert await guarded.login("alice", RIGHT, THERE) == 303


async def test_another_cookie_beside_the_right_one(guarded: Guarded, mock_clock: MockClock) -> None:
    """Whoever shows a login of an account of his own together with the victim's is counted for both."""
    own, victim = [token_of(await guarded.step("begin", username=name)) for name in ("bob", "alice")]
    for _ in range(24):
        fields = ["content-type: application/x-www-form-urlencoded", f"cookie: auth-session-id={victim}; auth%2Dsession-id={own}"]
        assert b"denied" in (await guarded.post("/ui/login/pw", "password=wrong", *fields)).body
    assert await guarded.login("alice", RIGHT) == 429
    assert await guarded.login("bob", "right-of-bob") == 429


async def test_a_login_that_nobody_remembers(guarded: Guarded, mock_clock: MockClock) -> None:
    """After a restart the account is not known: the address pays, and who succeeds does not."""
    guarded.change(login_failures_per_address=Rate(3, 3600.0))
    for _ in range(5):
        assert (await guarded.step("pw", token="head.alice.sig", password=RIGHT)).status == 303
    for expected in (200, 200, 200, 429):
        assert (await guarded.step("pw", token="head.alice.sig", password="wrong")).status == expected


async def test_bodies_pass_whole(guarded: Guarded, mock_clock: MockClock) -> None:
    """What was read here arrives at Kanidm byte for byte, in one piece, chunked, and after 100-continue."""
    form = b"username=alice&password=" + b"x" * 30_000
    await guarded.post("/ui/login/begin", form)
    chunked = b"%x\r\n%s\r\n%x\r\n%s\r\n0\r\n\r\n" % (10, form[:10], len(form) - 10, form[10:])
    await guarded.post("/ui/login/begin", chunked, "transfer-encoding: chunked")
    bodies = [request.partition(b"\r\n\r\n")[2] for request in guarded.front.kanidm.requests]
    assert bodies[0] == form
    assert form[:10] in bodies[1]
    assert b"x" * 29_990 in bodies[1]
    client = await guarded.front.connect()
    await client.send(b"POST /ui/login/begin HTTP/1.1\r\nhost: h\r\nexpect: 100-continue\r\ncontent-length: 14\r\n\r\n")
    assert (await client.until(b"\r\n\r\n")).startswith(b"HTTP/1.1 100")
    await client.send(b"username=alice")
    assert (await client.until(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
    assert guarded.front.kanidm.requests[-1].endswith(b"\r\n\r\nusername=alice")


async def test_what_is_no_login_step(guarded: Guarded, mock_clock: MockClock) -> None:
    """Too much, and what is no JSON, is refused here; other methods and JSON that is no step are Kanidm's to judge."""
    assert (await guarded.post("/ui/login/begin", b"x" * 65_537)).status == 413
    assert (await guarded.post("/v1/auth", b"[" * 60_000)).status == 400
    assert guarded.asked == 0
    guarded.front.kanidm.answer = OK
    assert (await guarded.post("/v1/auth", b'{"step":{"new":1}}')).status == 200
    for path in ("/ui/login/begin", "/ui/login/pw", "/v1/auth", "/oauth2/token", "/v1/account/bob/_unix/_auth", "/other"):
        assert (await guarded.front.ask(f"GET {path} HTTP/1.1\r\nhost: h\r\n\r\n".encode())).status == 200
    assert guarded.asked == 7


async def test_posix_passwords(guarded: Guarded, mock_clock: MockClock) -> None:
    """The check for PAM is counted for the account in its path, and its address as everywhere."""
    for _ in range(24):
        assert (await guarded.post("/v1/account/Alice@localhost/_unix/_auth", '{"value":"wrong"}')).body == b"null"
    assert (await guarded.post("/v1/account/Alice@localhost/_unix/_auth", '{"value":"right-of-alice"}')).status == 429
    assert (await guarded.post("/v1/account/bob/_unix/_auth", '{"value":"right-of-bob"}')).status == 200
    assert await guarded.login("alice", RIGHT) == 429


async def test_kanidmd_that_fails_is_nobodys_failure(guarded: Guarded, mock_clock: MockClock) -> None:
    """Logins and token requests that end in 502 because kanidmd dies are not counted, nor are pages without a login."""
    guarded.change(login_failures_per_address=Rate(1, 3600.0), token_failures_per_address=Rate(1, 3600.0))
    for _ in range(5):
        assert (await guarded.step("pw", password="right-of-alice")).status == 200  # InvalidSessionState
    guarded.front.kanidm.script = _die
    guarded.front.pool.child_ended()
    for _ in range(5):
        assert (await guarded.step("pw", token="head.alice.sig", password="wrong")).status == 502
        assert (await guarded.token("wiki", "wrong")).status == 502
    assert guarded.guard.status()["failures"] == {"login": 0, "token": 0}


async def _die(peer: Peer) -> None:
    await peer.read_request()
    peer.reset()


async def test_leaving_before_the_answer_is_a_try(guarded: Guarded, mock_clock: MockClock) -> None:
    """A password that was sent to Kanidm is counted although nobody waits to hear; a token request is not."""
    begun = token_of(await guarded.step("begin", username="alice"))
    guarded.front.kanidm.script = _silent
    guarded.front.pool.child_ended()
    for path, cookie in (("/ui/login/pw", f"auth-session-id={begun}"), ("/oauth2/token", "a=b")):
        client = await guarded.front.connect()
        await client.send(f"POST {path} HTTP/1.1\r\nhost: h\r\ncookie: {cookie}\r\ncontent-length: 3\r\n\r\na=b".encode())
        await wait_all_tasks_blocked(0.05)
        mock_clock.jump(0.1)
        await wait_all_tasks_blocked(0.05)
        client.reset()
        await wait_all_tasks_blocked(0.05)
    assert guarded.guard.status()["failures"] == {"login": 1, "token": 0}


async def _silent(peer: Peer) -> None:
    await peer.read_request()
    await peer.gone()


@pytest.mark.parametrize("path", ["/oauth2/token", "/oauth2/introspect", "/oauth2/revoke", "/oauth2/token/introspect"])
async def test_wrong_secrets_end_in_429(guarded: Guarded, mock_clock: MockClock, path: str) -> None:
    """Guessing a client's secret ends in 429, in the form of RFC 6749; elsewhere, and for others, it goes on."""
    for _ in range(120):
        assert (await guarded.token("wiki", "wrong", path)).status == 401
    refused = await guarded.token("wiki", "right-of-wiki", path)
    assert refused.status == 429
    assert refused.one(b"retry-after") == b"5"
    assert refused.one(b"access-control-allow-origin") == b"*"
    answer = json.loads(refused.body)
    assert answer["error"] == "temporarily_unavailable"
    assert "try again in 5 seconds" in answer["error_description"]
    assert (await guarded.token("wiki", "right-of-wiki", path, THERE)).status == 200
    assert (await guarded.token("mail", "wrong", path)).status == 401
    mock_clock.jump(5)
    assert (await guarded.token("wiki", "right-of-wiki", path)).status == 200


async def test_a_busy_relying_party(guarded: Guarded, mock_clock: MockClock) -> None:
    """One whose requests succeed is served while a neighbour behind the same address is cut for its wrong ones."""
    assert (await guarded.token("wiki", "right-of-wiki")).status == 200
    statuses = set()
    for number in range(700):
        statuses.add((await guarded.token(f"guess-{number}", "wrong")).status)
        if number % 10 == 0:
            assert (await guarded.token("wiki", "right-of-wiki")).status == 200
    assert statuses == {401, 429}
    assert (await guarded.token("wiki", "right-of-wiki")).status == 200


async def test_introspection_by_anybody_makes_nobody_known(guarded: Guarded, mock_clock: MockClock) -> None:
    """Kanidm from 1.10 on answers without asking who asks: that is no proof, unless the issuer has answered."""
    guarded.change(token_failures_per_address=Rate(1, 3600.0))
    guarded.front.kanidm.answer = OK
    assert (await guarded.token("mail", "anything", "/oauth2/token/introspect")).status == 200
    guarded.front.kanidm.answer = b"HTTP/1.1 401 x\r\ncontent-length: 0\r\n\r\n"
    assert (await guarded.token("guess", "wrong")).status == 401
    assert (await guarded.token("mail", "anything", "/oauth2/token/introspect")).status == 429


async def test_a_household_in_ipv6(guarded: Guarded, mock_clock: MockClock) -> None:
    """All addresses of a /64 are one; the next network is another."""
    for number in range(24):
        assert await guarded.login("alice", "wrong", f"2001:db8:0:1::{number:x}") == 200
    assert await guarded.login("alice", RIGHT, "2001:db8:0:1:ffff::1") == 429
    assert await guarded.login("alice", RIGHT, "2001:db8:0:2::1") == 303


async def test_an_address_that_is_only_claimed(guarded: Guarded, mock_clock: MockClock) -> None:
    """Without trusted proxies, X-Forwarded-For makes nobody another client."""
    guarded.front.trust()
    for number in range(24):
        assert await guarded.login("alice", "wrong", f"198.51.100.{number}") == 200
    assert await guarded.login("alice", RIGHT, "203.0.113.5") == 429


async def test_other_limits_keep_the_counts(guarded: Guarded, mock_clock: MockClock) -> None:
    """A reload neither forgives nor forgets; limits that are off refuse nobody."""
    for _ in range(10):
        await guarded.login("alice", "wrong")
    guarded.change(login_failures_per_account_and_address=Rate(10, 3600.0))
    assert await guarded.login("alice", RIGHT) == 429
    guarded.change(login_failures_per_account_and_address=Rate(11, 3600.0))
    assert await guarded.login("alice", "wrong") == 200
    assert await guarded.login("alice", RIGHT) == 429
    guarded.change(**dict.fromkeys(("login_failures_per_account_and_address", "login_failures_per_account")))
    for _ in range(60):
        assert await guarded.login("alice", "wrong") == 200
    assert await guarded.login("alice", RIGHT) == 303


async def test_a_flood_of_refusals_is_no_flood_of_lines(guarded: Guarded, mock_clock: MockClock, lines: Lines) -> None:
    """Each refusal is counted, few are logged, and nothing that was typed is: not a password, nor a name that does not exist."""
    for _ in range(24):
        await guarded.login("alice", "wrong-and-secret")
    for _ in range(300):
        assert await guarded.login("alice", "wrong-and-secret") == 429
    for _ in range(400):
        await guarded.step("begin", username="typed-password-here")
    status = guarded.guard.status()
    assert status["refused"]["login_failures_per_account_and_address"] == 300
    assert status["refused"]["login_failures_per_address"] > 50
    assert status["entries"] > 0
    warned = [record for record in lines.records if record["msg"] == "refused"]
    assert len(warned) < 25
    assert {record.get("account") for record in warned} == {"alice", None}
    everything = "\n".join(lines.text)
    assert "wrong-and-secret" not in everything
    assert "typed-password" not in everything
    assert "alice" in everything


async def test_parallel_guesses(guarded: Guarded, mock_clock: MockClock) -> None:
    """Of many at once from one address, as many are let through as in a row."""
    results: list[int] = []

    async def guess() -> None:
        results.append((await guarded.post("/v1/account/bob/_unix/_auth", '{"value":"wrong"}')).status)

    guarded.change(login_failures_per_address=Rate(5, 3600.0))
    async with trio.open_nursery() as nursery:
        for _ in range(40):
            nursery.start_soon(guess)
    assert sorted(results) == [200] * 5 + [429] * 35
