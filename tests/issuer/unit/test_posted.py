"""issuer/posted.py: a POST without the session's cookie goes on as a GET, sealed, at the same endpoint and nowhere else."""

from __future__ import annotations

import base64
import hashlib

from kiwi_id.issuer.http import Response
from tests.issuer.unit.issuer import World, box_of, came, header

ASKED = {"response_type": "code", "client_id": "mail", "redirect_uri": "https://mail.example/cb", "state": "st", "prompt": "none"}


async def follow(world: World, answer: Response) -> Response:
    """Go where the browser is sent."""
    path, _, query = header(answer, "location").partition("?")
    return await world.send("GET", path, query=query)


async def test_the_session_is_looked_for_once_more() -> None:
    """Posted without the cookie: a redirect to this endpoint, where the session is seen, or there is none; no second redirect."""
    world = World()
    bearer = world.log_in("mail")
    sent = await world.send("POST", "/oauth2/authorize", ASKED, cookie="")
    assert header(sent, "location").startswith("/oauth2/authorize?posted=")
    assert "code" in came(await follow(world, sent))
    assert "code" in came(await world.send("POST", "/oauth2/authorize", ASKED))
    del world.cookies["bearer"]
    assert came(await follow(world, sent))["error"] == "login_required"
    sent = await world.send("POST", "/oauth2/logout", {"client_id": "mail"})
    assert b"no session" in (await follow(world, sent)).body
    world.cookies["bearer"] = bearer
    assert box_of(await follow(world, sent))
    assert bearer not in world.kanidm.ended


async def test_a_posted_id_token_stays_out_of_addresses() -> None:
    """Nothing of the form can be read in the address; the logout goes through, and the clients are told."""
    world = World()
    token = (await world.tokens())["id_token"]
    sent = await world.send("POST", "/oauth2/logout", {"id_token_hint": token}, cookie="")
    assert token.split(".")[1] not in header(sent, "location")
    assert header(sent, "referrer-policy") == "no-referrer"
    answer = await follow(world, sent)
    assert b"Signed out" in answer.body
    assert world.cookies.get("bearer", "") in {"", *world.kanidm.ended}
    assert [notice.client_id for notice in world.told] == ["mail"]


async def test_a_box_is_good_at_its_own_endpoint_only() -> None:
    """One of the other endpoint, a changed one, a page's: "too old"; beside other parameters the name means nothing."""
    world = World()
    world.log_in("mail")
    authorize, logout = [
        header(await world.send("POST", f"/oauth2/{path}", ASKED, cookie=""), "location").partition("=")[2]
        for path in ("authorize", "logout")
    ]
    page = box_of(await world.send("GET", "/oauth2/logout"))
    for path, wrong in (("authorize", logout), ("logout", authorize), ("authorize", authorize[:-1]), ("logout", page)):
        answer = await world.send("GET", f"/oauth2/{path}", {"posted": wrong})
        assert (answer.status, b"too old" in answer.body) == (400, True)
        assert b"<form" not in answer.body
    assert "code" in came(await world.send("GET", "/oauth2/authorize", {**ASKED, "posted": logout}))


async def test_mistakes_are_told_at_once_and_too_much_is_one() -> None:
    """Before any redirect to ourselves: to the client, or as a page; also for what no box holds."""
    world = World()
    noise = base64.b64encode(hashlib.shake_256(b"x").digest(20000)).decode()
    for change in ({"response_type": "token"}, {"state": noise}):
        assert "error" in came(await world.send("POST", "/oauth2/authorize", {**ASKED, **change}))
    for change in ({"redirect_uri": "https://evil.example/"}, {"client_id": "nobody"}):
        answer = await follow_all(world, await world.send("POST", "/oauth2/authorize", {**ASKED, **change}))
        assert answer.status == 400
    form = {"client_id": "mail", "post_logout_redirect_uri": "https://evil.example/"}
    assert (await world.send("POST", "/oauth2/logout", form)).status == 400


async def follow_all(world: World, answer: Response) -> Response:
    """Go on as long as we send the browser to ourselves."""
    while header(answer, "location").startswith("/oauth2/"):
        answer = await follow(world, answer)
    return answer
