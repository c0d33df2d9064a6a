"""No log tells a secret. The world's end looks for every secret of every test; here is proof that it can find one."""

from __future__ import annotations

from kiwi_id.instance import layout
from tests.issuer.flows.world import ALICE, World


async def test_no_secret_in_any_log(world: World) -> None:
    """A whole login, good and bad, leaves neither codes, tokens, cookies, boxes, verifiers nor queries in the logs."""
    async with world.tab() as tab:
        asked = world.asked()
        came = await tab.log_in(asked, ALICE)
        tokens = (await tab.redeem(asked, came)).json()
        await tab.redeem(asked, came)
        await tab.more_tokens(world.asked(world.public, response_mode="form_post"))
        await tab.userinfo(tokens["access_token"] + "x")
        await tab.http.get("/oauth2/userinfo", params={"access_token": tokens["access_token"]})
        await tab.post("/oauth2/introspect", {"token": tokens["access_token"], "client_secret": "wrong-" + asked.verifier})
        world.note(came.parameters["code"], tokens["access_token"], tokens["refresh_token"], tokens["id_token"], asked.verifier)
        await tab.send("GET", "/oauth2/logout", params={"id_token_hint": tokens["id_token"]})
    assert len(world.secrets) > 20
    assert world.leaks() == []
    for file in (world.instance.directory / "stderr.log", layout.Places.under(world.instance.directory).log_file):
        text = file.read_text()
        assert not any(f"{name}=" in text for name in ("code_challenge", "id_token_hint", "redirect_uri"))
    # The search would find what is there.
    world.secrets.add("/oauth2/userinfo")
    try:
        assert world.leaks()
    finally:
        world.secrets.discard("/oauth2/userinfo")
