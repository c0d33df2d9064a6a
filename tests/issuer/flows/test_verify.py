"""A service that checks the tokens of a running Kiwi ID with kiwi_id.verify, as docs/verify.md says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import trio

from kiwi_id.instance import layout
from kiwi_id.instance.keys import Kind
from kiwi_id.verify import (
    BadSignature,
    JwksUrl,
    KeysError,
    MalformedToken,
    UnknownKey,
    Verifier,
    WrongAudience,
    WrongIssuer,
    WrongType,
)
from tests.issuer.flows.world import ALICE, World
from tests.kanidm.instance import ROOT, Instance


def service(keys: Path | JwksUrl, world: World, audience: str = "kiwi-demo") -> Verifier:
    """Return what a service makes at its start."""
    return Verifier(keys, issuer=world.issuer, audience=audience)


def public_key(instance: Instance) -> Path:
    """The public key file of an instance."""
    return layout.Places.under(instance.directory).jwt_public_key


async def test_an_access_token(world: World, tmp_path: Path) -> None:
    """With the PEM file, the key set in a file and the key set over HTTPS an access token passes, and its claims say who it is."""
    async with world.tab() as tab:
        tokens = await tab.tokens(world.asked(), ALICE)
        (tmp_path / "keys.json").write_bytes((await tab.http.get("/oauth2/keys")).content)
        me = (await tab.userinfo(tokens["access_token"])).json()
    remote = await trio.to_thread.run_sync(lambda: JwksUrl(f"{world.issuer}/oauth2/keys", ca_file=world.instance.ca))
    for keys in (public_key(world.instance), tmp_path / "keys.json", remote):
        claims = service(keys, world).verify(tokens["access_token"])
        assert (claims.subject, claims.name, claims.email) == (me["sub"], "Alice Demo", "alice@example.com")
        assert {"kiwi_users", "mail_users"} <= claims.groups == set(me["groups"])
        assert claims.scopes == {"openid", "profile", "email", "groups"}
        assert (claims.client_id, claims.audience, claims.issuer) == ("kiwi-demo", ("kiwi-demo",), world.issuer)
        assert (claims.expires - claims.issued_at).total_seconds() == tokens["expires_in"] == 900
    remote.close()


async def test_what_else_the_issuer_gives_is_no_access_token(world: World) -> None:
    """ID token, refresh token and logout token, each of the same key or server, are refused, and each for what it is."""
    check = service(public_key(world.instance), world)
    async with world.tab() as tab:
        tokens = await tab.tokens(world.asked(), ALICE)
        claims = Verifier(public_key(world.instance), issuer=world.issuer, audience="kiwi-demo", token_type="JWT").verify(
            tokens["id_token"]
        )
        assert check.verify(tokens["access_token"]).subject == claims.subject
        with pytest.raises(WrongType, match="'JWT'"):
            check.verify(tokens["id_token"])
        with pytest.raises(MalformedToken):
            check.verify(tokens["refresh_token"])
        await tab.send("GET", "/oauth2/logout", params={"id_token_hint": tokens["id_token"]})
        logout = (await world.receiver.wait("/demo", 1, claims.raw["sid"]))[0]
        with pytest.raises(WrongType, match=r"'logout\+jwt'"):
            check.verify(logout)


async def test_tokens_for_others(world: World) -> None:
    """A token that another client got is not this service's, and one of this issuer is not another's."""
    async with world.tab() as tab:
        token = (await tab.tokens(world.asked(world.other), ALICE))["access_token"]
    with pytest.raises(WrongAudience, match=r"for \('flow-other',\), not for \['kiwi-demo'\]"):
        service(public_key(world.instance), world).verify(token)
    with pytest.raises(WrongIssuer):
        Verifier(public_key(world.instance), issuer=f"{world.issuer}/", audience="flow-other").verify(token)
    assert service(public_key(world.instance), world, "flow-other").verify(token)


@pytest.mark.parametrize("kind", ["es256", "eddsa"])
async def test_other_kinds_of_keys(world: World, kind: Kind) -> None:
    """The same with a P-256 and an Ed25519 key; with another instance's key no token passes."""
    replica = await world.replica(kind=kind)
    async with world.tab(replica) as tab:
        tokens = await tab.tokens(world.asked(), ALICE)
    assert service(public_key(replica), world).verify(tokens["access_token"]).name == "Alice Demo"
    with pytest.raises(WrongType):
        service(public_key(replica), world).verify(tokens["id_token"])
    with pytest.raises(UnknownKey):
        service(public_key(world.instance), world).verify(tokens["access_token"])


async def test_a_rotation(world: World) -> None:
    """While keys are rotated and one is taken back, services with the key set follow: old tokens stay good until their key goes."""
    replica = await world.replica(kind="eddsa")

    async def keys(*arguments: str) -> None:
        command = [sys.executable, "-m", "kiwi_id", "keys", *arguments, "--config", str(replica.config)]
        await trio.run_process(command, cwd=ROOT, stdin=subprocess.DEVNULL, capture_stdout=True)

    remote = await trio.to_thread.run_sync(lambda: JwksUrl(f"{replica.origin}/oauth2/keys", ca_file=replica.ca))
    by_url, by_pem = service(remote, world), service(public_key(replica), world)
    async with world.tab(replica) as tab:
        before = (await tab.tokens(world.asked(), ALICE))["access_token"]
        assert by_url.verify(before) == by_pem.verify(before)
        (old,) = remote.current().by_kid
        await keys("rotate", "--force")
        after = (await tab.more_tokens(world.asked()))["access_token"]
        with pytest.raises(UnknownKey):
            by_url.verify(after)
        await trio.to_thread.run_sync(remote.refresh)
        assert by_url.verify(after)
        assert by_url.verify(before)
        await keys("retire", "--force", old)
        await trio.to_thread.run_sync(remote.refresh)
        assert by_url.verify(after)
        with pytest.raises(UnknownKey):
            by_url.verify(before)
    remote.close()


async def test_a_token_with_a_changed_end(world: World) -> None:
    """A real token with a character of its signature changed is a forgery; without ca_file the server is not believed."""
    async with world.tab() as tab:
        token = (await tab.tokens(world.asked(), ALICE))["access_token"]
    with pytest.raises(BadSignature):
        service(public_key(world.instance), world).verify(f"{token[:-2]}{'A' if token[-2] != 'A' else 'B'}{token[-1]}")
    with pytest.raises(KeysError, match="certificate verify failed"):
        await trio.to_thread.run_sync(JwksUrl, f"{world.issuer}/oauth2/keys")
