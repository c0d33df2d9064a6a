"""PKCE (RFC 7636): checked by us for every client that uses it, and demanded of those whose configuration says so."""

from __future__ import annotations

import pytest

from tests.issuer.flows.checks import refused
from tests.issuer.flows.tab import arrived
from tests.issuer.flows.world import ALICE, World


@pytest.mark.parametrize("which", ["demo", "public", "other", "app"])
async def test_pkce(world: World, which: str) -> None:
    """With a challenge only the right verifier gets tokens, and a wrong or missing one does not use the code up."""
    async with world.tab() as tab:
        asked = world.asked(getattr(world, which))
        came = await tab.log_in(asked, ALICE)
        for verifier in (None, "", "short", asked.challenge, "x" * 43, asked.verifier + "x", "ü" * 43, asked.verifier[:-1] + "*"):
            assert refused(await tab.redeem(asked, came, code_verifier=verifier), "invalid_grant")
        assert (await tab.redeem(asked, came)).status_code == 200


@pytest.mark.parametrize("which", ["demo", "public", "other", "app"])
async def test_without_pkce(world: World, which: str) -> None:
    """Any client may do without PKCE, whatever Kanidm demands of it; a verifier from nowhere is refused (RFC 9700 §2.1.1)."""
    async with world.tab() as tab:
        asked = world.asked(getattr(world, which), code_challenge=None, code_challenge_method=None)
        came = await tab.log_in(asked, ALICE)
        assert refused(await tab.redeem(asked, came, code_verifier=asked.verifier), "invalid_grant")
        assert (await tab.redeem(asked, came)).status_code == 200


async def test_require_pkce(world: World) -> None:
    """A client with require_pkce in config.toml is refused without a challenge, logged in or not, and served with one."""
    async with world.tab() as tab:
        bare = {"code_challenge": None, "code_challenge_method": None}
        for turn in range(2):
            came = arrived(await tab.authorize(world.asked(world.strict, **bare)))
            assert came.parameters["error"] == "invalid_request"
            assert "PKCE" in came.parameters["error_description"]
            if turn == 0:
                asked = world.asked(world.strict)
                assert (await tab.redeem(asked, await tab.log_in(asked, ALICE))).status_code == 200
