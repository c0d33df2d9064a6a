"""The REST client over the stand-in everywhere, and over the real kanidmd where there is one: the same calls, the same outcome."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from kiwi_id import demo
from kiwi_id.errors import Exit
from kiwi_id.kanidm import server_toml
from kiwi_id.kanidm.admin import AdminRequestRefused, recover_account
from kiwi_id.kanidm.pin import client_context
from kiwi_id.kanidm.rest import Kanidm, KanidmRefused, KanidmUnreachable, LoginDenied, Totp
from tests.devserver.servers import STAND_IN, Server, make_certificate, running

PASSWORD = "harbour-cinnamon-glacier-41"


@pytest.fixture(params=["stand-in", pytest.param("real", marks=pytest.mark.kanidm)])
def command(request: pytest.FixtureRequest) -> Sequence[str]:
    """The program to run; apart from ``server``, because a skip inside an asynchronous fixture loses its reason."""
    return STAND_IN if request.param == "stand-in" else [str(request.getfixturevalue("kanidmd"))]


@pytest.fixture
async def server(command: Sequence[str]) -> AsyncIterator[Server]:
    """A running Kanidm with an empty database."""
    async with running(command) as server:
        yield server


@pytest.fixture
async def kanidm(server: Server) -> AsyncIterator[Kanidm]:
    """A client that is signed in as idm_admin, over the pinned chain."""
    async with client(server) as kanidm:
        await kanidm.login("idm_admin", await recover_account(server.socket, "idm_admin"))
        yield kanidm


def client(server: Server) -> Kanidm:
    """Return a client that is not signed in."""
    return Kanidm(server.url, client_context(server.directory / "chain.pem"))


async def test_entries_are_made_once(kanidm: Kanidm) -> None:
    """People, groups and clients are created when absent and left alone when there: every call may be repeated."""
    for first in (True, False):
        assert await kanidm.create_person("dora", "Dora Example", mail=["dora@example.com"]) is first
        assert await kanidm.create_group("readers") is first
        await kanidm.add_members("readers", "dora")
        assert await kanidm.create_client("reader", "Reader", "https://reader.example.com/") is first
        await kanidm.add_redirect_uris("reader", "https://reader.example.com/callback")
        await kanidm.set_scopes("reader", "readers", ["openid", "email"])
        assert await kanidm.create_client("phone", "Phone", "https://phone.example.com/", public=True) is first
    person, oauth2 = await kanidm.get("person", "dora"), await kanidm.get("oauth2", "reader")
    assert person is not None
    assert oauth2 is not None
    assert person["mail"] == ["dora@example.com"]
    assert "readers@id.example.com" in person["memberof"]
    assert oauth2["oauth2_rs_origin"] == ["https://reader.example.com/callback"]
    assert oauth2["oauth2_rs_scope_map"] == ['readers@id.example.com: {"email", "openid"}']
    assert await kanidm.get("person", "nobody") is None


async def test_client_secrets(kanidm: Kanidm) -> None:
    """A confidential client has a secret that stays; a public one, and one that is not there, is refused in words."""
    await kanidm.create_client("reader", "Reader", "https://reader.example.com/")
    await kanidm.create_client("phone", "Phone", "https://phone.example.com/", public=True)
    secret = await kanidm.client_secret("reader")
    assert len(secret) >= 40
    assert await kanidm.client_secret("reader") == secret
    for name in ("phone", "nothing"):
        with pytest.raises(KanidmRefused, match=name):
            await kanidm.client_secret(name)


async def test_password_of_a_person(server: Server, kanidm: Kanidm) -> None:
    """A person without credentials may not sign in; with a password they may, and a wrong one is denied, each in words."""
    await kanidm.allow_password_only()
    await kanidm.create_person("dora", "Dora Example")
    assert not await kanidm.has_credentials("dora")
    async with client(server) as other:
        with pytest.raises(LoginDenied, match="it has no credential"):
            await other.login("dora", PASSWORD)
        await kanidm.set_password("dora", PASSWORD)
        assert await kanidm.has_credentials("dora")
        assert await other.login("dora", PASSWORD)
        assert (await other.call("GET", "/v1/self"))["youare"]["attrs"]["name"] == ["dora"]
        with pytest.raises(LoginDenied, match="did not accept the password of 'dora'"):
            await other.login("dora", "wrong")
        with pytest.raises(KanidmRefused):  # the session before is gone, not used by mistake
            await other.call("GET", "/v1/self")
        with pytest.raises(LoginDenied, match="no account 'nobody'"):
            await other.login("nobody", PASSWORD)


async def test_weak_password(kanidm: Kanidm) -> None:
    """Kanidm's reason for refusing a password is passed on; the password is not."""
    await kanidm.create_person("dora", "Dora Example")
    with pytest.raises(KanidmRefused, match="passwordquality") as refused:
        await kanidm.set_password("dora", "hunter22")
    assert "hunter22" not in str(refused.value)
    assert refused.value.status == 400
    assert refused.value.exit_code == Exit.FAILURE


async def test_one_time_password(server: Server, kanidm: Kanidm) -> None:
    """A one-time password can be added to a password; then the password alone is not enough, and the words say what is."""
    await kanidm.create_person("dora", "Dora Example")
    update = await kanidm.update_credentials("dora")
    await update.password(PASSWORD)
    totp = await update.add_totp("phone")
    await update.commit()
    assert (totp.step, totp.digits) == (30, 6)
    async with client(server) as other:
        with pytest.raises(LoginDenied, match="by password alone; only by: passwordmfa") as denied:
            await other.login("dora", PASSWORD)
    assert denied.value.offered == ("passwordmfa",)


async def test_unknown_account_is_not_recovered(server: Server) -> None:
    """The admin socket refuses an account that is not there."""
    with pytest.raises(AdminRequestRefused, match="nobody"):
        await recover_account(server.socket, "nobody")


async def test_demo_is_idempotent(server: Server) -> None:
    """The demo data made twice is the same, secret included, and a person's own new password is not overwritten."""
    settings = server_toml.load(server.directory / "server.toml")
    first = await demo.provision(settings, server.url)
    async with client(server) as kanidm:
        await kanidm.login("idm_admin", await recover_account(server.socket, "idm_admin"))
        await kanidm.set_password("bob", PASSWORD)
    second = await demo.provision(settings, server.url, redirect_uris=["https://localhost:3000/callback"])
    assert second.clients[0].secret == first.clients[0].secret
    assert second.clients[0].redirect_uris == (demo.REDIRECT_URI, "https://localhost:3000/callback")
    async with client(server) as kanidm:
        assert await kanidm.login("alice", demo.USERS[0].password)
        assert await kanidm.login("bob", PASSWORD)


async def test_server_that_is_gone(server: Server) -> None:
    """Without a server the error names the address, and its exit code is 69: it may be tried again."""
    await server.stop()
    async with client(server) as kanidm:
        with pytest.raises(KanidmUnreachable, match=f"{server.url}: POST /v1/auth failed") as unreachable:
            await kanidm.login("admin", PASSWORD)
    assert unreachable.value.exit_code == Exit.UNAVAILABLE


async def test_other_certificate(server: Server) -> None:
    """A server with any other certificate gets neither name nor password."""
    make_certificate(server.directory)  # the running server keeps the one that it has read
    async with client(server) as kanidm:
        with pytest.raises(KanidmUnreachable, match="CERTIFICATE_VERIFY_FAILED"):
            await kanidm.login("admin", PASSWORD)


async def test_server_that_says_nothing(tmp_path: Path, autojump_clock: MockClock) -> None:
    """A call to a server that shakes hands and then is silent ends after the timeout, which the words name."""
    make_certificate(tmp_path)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(tmp_path / "chain.pem", tmp_path / "key.pem")
    listeners = await trio.open_ssl_over_tcp_listeners(0, context, host="127.0.0.1")
    transport = listeners[0].transport_listener
    assert isinstance(transport, trio.SocketListener)
    port = transport.socket.getsockname()[1]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, _silent, listeners)
        async with Kanidm(f"https://127.0.0.1:{port}", client_context(tmp_path / "chain.pem"), timeout=7) as kanidm:
            with pytest.raises(KanidmUnreachable, match="within 7 s"):
                await kanidm.get("person", "alice")
        nursery.cancel_scope.cancel()
    assert autojump_clock.current_time() == pytest.approx(7, abs=0.5)


async def _silent(stream: trio.SSLStream[trio.SocketStream]) -> None:
    await stream.do_handshake()
    await trio.sleep_forever()


# RFC 6238 appendix B, with the seeds of its reference implementation.
@pytest.mark.parametrize(
    ("at", "algorithm", "code"),
    [
        (59, "sha1", "94287082"),
        (59, "sha256", "46119246"),
        (59, "sha512", "90693936"),
        (1111111109, "sha1", "07081804"),
        (20000000000, "sha256", "77737706"),
    ],
)
def test_totp_vectors(at: int, algorithm: str, code: str) -> None:
    """Codes are those of the standard, leading zeros included."""
    lengths = {"sha1": 20, "sha256": 32, "sha512": 64}
    seed = (b"1234567890" * 7)[: lengths[algorithm]]
    assert Totp(seed, algorithm, 30, 8).code(at) == code


def test_totp_secret_as_apps_show_it() -> None:
    """Base32 without padding."""
    assert Totp(b"hello", "sha1", 30, 6).base32 == "NBSWY3DP"
