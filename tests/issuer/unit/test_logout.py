"""issuer/logout.py over a fake Kanidm: who is signed out, who is asked first, who is told, and where the browser may go."""

from __future__ import annotations

from typing import Any

import jwt
import pytest

from kiwi_id.issuer.logout import EVENT, TOKEN_LIFETIME
from tests.issuer.unit.fake_kanidm import ALICE, BOB
from tests.issuer.unit.issuer import ISSUER, World, box_of, header, key

OUT = "https://mail.example/out"


async def test_a_hint_of_this_session_signs_out_at_once_and_tells_the_clients() -> None:
    """Kanidm's session ends, the browser goes back with its state, and each client gets a logout token."""
    world = World()
    got = await world.tokens()
    bearer = world.cookies["bearer"]
    answer = await world.send(
        "GET", "/oauth2/logout", {"id_token_hint": got["id_token"], "post_logout_redirect_uri": OUT, "state": "a&b"}
    )
    assert (answer.status, header(answer, "location")) == (303, OUT + "?state=a%26b")
    assert bearer in world.kanidm.ended
    (notice,) = world.told
    assert (notice.client_id, notice.uri) == ("mail", "https://mail.example/bcl")


async def test_the_logout_token() -> None:
    """Back-Channel Logout 1.0 §2.4: iss, aud, iat, exp, jti, events, sub and sid; no nonce; a type of its own; short-lived."""
    world = World()
    got = await world.tokens()
    sid = jwt.decode(got["id_token"], options={"verify_signature": False})["sid"]
    await world.send("GET", "/oauth2/logout", {"id_token_hint": got["id_token"]})
    token = world.told[0].token
    claims = jwt.decode(token, key().private.public_key(), ["EdDSA"], audience="mail", issuer=ISSUER)
    assert jwt.get_unverified_header(token) == {"alg": "EdDSA", "typ": "logout+jwt", "kid": key().kid}
    assert set(claims) == {"iss", "sub", "aud", "iat", "exp", "jti", "sid", "events"}
    assert (claims["sub"], claims["sid"], claims["events"]) == (ALICE, sid, {EVENT: {}})
    assert claims["exp"] - claims["iat"] == TOKEN_LIFETIME <= 120


async def test_clients_of_one_session_are_all_told_and_of_another_none() -> None:
    """The sealed cookie names the clients of this session; it is worth nothing with another session, or changed."""
    world = World()
    world.log_in("mail", "wiki")
    await world.code()
    await world.code(client_id="wiki", redirect_uri="https://wiki.example/cb")
    cookie = world.cookies["__Host-kiwi-clients"]
    page = await world.send("GET", "/oauth2/logout")
    await world.send("POST", "/oauth2/logout", {"box": box_of(page), "decision": "yes"})
    assert {notice.client_id for notice in world.told} == {"mail", "wiki"}
    assert "__Host-kiwi-clients" not in world.cookies
    world.told.clear()
    for kept in (cookie, cookie[:-1], "x", "\xff"):
        world.log_in("mail", uuid=BOB)
        world.cookies["__Host-kiwi-clients"] = kept
        page = await world.send("GET", "/oauth2/logout")
        await world.send("POST", "/oauth2/logout", {"box": box_of(page), "decision": "yes"})
    assert world.told == []


async def test_without_a_good_hint_the_user_is_asked() -> None:
    """RP-Initiated Logout 1.0 §2 and §6: none, or one of another session; "no" changes nothing."""
    world = World()
    old = await world.tokens()
    bearer = world.log_in("mail")
    sent: list[dict[str, str]] = [{}, {"id_token_hint": old["id_token"]}, {"client_id": "mail", "post_logout_redirect_uri": OUT}]
    for parameters in sent:
        page = await world.send("GET", "/oauth2/logout", parameters)
        assert page.status == 200
        assert b"alice@id.example" in page.body
        assert (await world.send("POST", "/oauth2/logout", {"box": box_of(page), "decision": "no"})).status == 200
    assert bearer not in world.kanidm.ended


@pytest.mark.parametrize(
    "parameters",
    [
        {"post_logout_redirect_uri": OUT},
        {"client_id": "mail", "post_logout_redirect_uri": OUT + "/"},
        {"client_id": "mail", "post_logout_redirect_uri": "https://evil.example/"},
        {"client_id": "wiki", "post_logout_redirect_uri": OUT},
        {"client_id": "nobody", "post_logout_redirect_uri": OUT},
        {"id_token_hint": "junk", "post_logout_redirect_uri": OUT, "client_id": "mail"},
    ],
)
async def test_only_registered_addresses(parameters: dict[str, str]) -> None:
    """RP-Initiated Logout 1.0 §3: exact match with the client's own; else a page, and no redirect, whoever is signed in."""
    for signed_in in (False, True):
        world = World()
        if signed_in:
            world.log_in("mail")
        answer = await world.send("GET", "/oauth2/logout", parameters)
        assert answer.status == 400
        assert header(answer, "location") == ""
        assert b"evil" not in answer.body


async def test_a_hint_of_another_client_is_refused_and_a_changed_box_too() -> None:
    """RP-Initiated Logout 1.0 §2: client_id must be the hint's; every change of the box is noticed."""
    world = World()
    got = await world.tokens()
    assert (await world.send("GET", "/oauth2/logout", {"id_token_hint": got["id_token"], "client_id": "wiki"})).status == 400
    box = box_of(await world.send("GET", "/oauth2/logout"))
    changed: Any
    for changed in (box[:-2], box + "A", "", "x" * 17000):
        form = {"box": changed, "decision": "yes"} if changed else {"box": "A", "decision": "yes"}
        assert (await world.send("POST", "/oauth2/logout", form)).status == 400
    assert not world.kanidm.ended
