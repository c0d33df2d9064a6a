"""The stand-in's process behaves like kanidmd 1.5.0: exit codes, signals, admin socket, what survives a kill -9."""

import contextlib
import hashlib
import json
import signal
import socket
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio

from kiwi_id import devserver
from kiwi_id.devserver.misc import pattern

from .client import Kanidm
from .servers import STAND_IN, Server, make_certificate

MEBIBYTE = 1024 * 1024


async def run(*arguments: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[bytes]:
    """Run a command to its end with its output captured."""
    return await trio.run_process(arguments, capture_stdout=True, capture_stderr=True, check=False, cwd=cwd)


async def test_version_is_on_stdout_and_the_warning_on_stderr() -> None:
    """`version` prints what kanidmd prints; that it is a stand-in does not get into what programs parse."""
    finished = await run(*STAND_IN, "version")
    assert (finished.returncode, finished.stdout) == (0, b"kanidmd 1.5.0\n")
    assert b"stand-in" in finished.stderr


@pytest.mark.parametrize("arguments", [["--version"], [], ["bogus"], ["server", "--bogus"]])
async def test_wrong_usage_exits_2(arguments: list[str]) -> None:
    """Like kanidmd 1.5.0, which has no --version, wrong usage is exit code 2 with a word on stderr."""
    finished = await run(*STAND_IN, *arguments)
    assert (finished.returncode, finished.stdout) == (2, b"")
    assert b"error:" in finished.stderr


async def test_installed_script_runs_anywhere(directory: Path) -> None:
    """`install` writes a program that works from another directory, with a bare interpreter and nothing installed."""
    target = directory / "kanidmd"
    devserver.install(target)
    devserver.install(target)
    assert target.read_text(encoding="utf-8").startswith(f"#!{sys.executable}\n")
    finished = await run(target, "version", cwd=Path("/"))
    assert (finished.returncode, finished.stdout) == (0, b"kanidmd 1.5.0\n")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        ("bogus = 1", "unknown field `bogus`"),
        ("role = 1", "role is 1; a string is expected"),
        ('role = "boss"', "allowed are WriteReplica"),
        ("= broken", "cannot parse"),
    ],
)
async def test_bad_server_toml_is_refused(server: Server, spoil: str, message: str) -> None:
    """What 1.5.0 does not know, or cannot read, ends the start with 1 and a message that names it."""
    server.configure(spoil)
    server.launch()
    assert await server.exited() == 1
    assert message in server.log.read_text(encoding="utf-8")


@pytest.mark.parametrize("key", ["domain", "origin", "db_path", "tls_chain", "tls_key"])
async def test_missing_key_is_named(server: Server, key: str) -> None:
    """Each required key that is missing is named."""
    file = server.directory / "server.toml"
    lines = file.read_text(encoding="utf-8").splitlines()
    file.write_text("\n".join(line for line in lines if not line.startswith(key)), encoding="utf-8")
    server.launch()
    assert await server.exited() == 1
    assert f"missing required key {key}" in server.log.read_text(encoding="utf-8")


async def test_version_2_of_server_toml_is_accepted(server: Server) -> None:
    """The later form of the file, with its own way to trust a proxy, starts the stand-in too."""
    server.configure('[http_client_address_info]\nx-forward-for = ["127.0.0.1"]')
    file = server.directory / "server.toml"
    file.write_text('version = "2"\n' + file.read_text(encoding="utf-8"), encoding="utf-8")
    await server.start()
    async with server.client() as client:
        answer = await client.get("/v1/self", headers={"x-forwarded-for": "nonsense"})
    assert (answer.status_code, answer.text) == (400, "X-Forwarded-For contains invalid ip addr")


async def test_taken_port_exits_1(running: Server, directory: Path) -> None:
    """A second one on the same port ends with 1 and leaves the first alone."""
    (directory / "second").mkdir()
    second = Server(directory / "second")
    second.port = running.port
    second.configure()
    second.launch()
    assert await second.exited() == 1
    assert "Failed to bind" in second.log.read_text(encoding="utf-8")
    async with running.client() as client:
        assert (await client.get("/status")).json() is True


async def test_unusable_files_exit_1(server: Server) -> None:
    """Bad TLS files, a missing database directory, and somebody else's database each end the start with 1."""
    (server.directory / "key.pem").write_text("no key", encoding="utf-8")
    server.launch()
    assert await server.exited() == 1
    assert "key.pem" in server.log.read_text(encoding="utf-8")
    make_certificate(server.directory)
    with sqlite3.connect(server.directory / "foreign.db") as database:
        database.execute("CREATE TABLE id2entry (id INTEGER)")
    database.close()
    file = server.directory / "server.toml"
    file.write_text(file.read_text(encoding="utf-8").replace("kanidm.db", "foreign.db"), encoding="utf-8")
    server.launch()
    assert await server.exited() == 1
    assert "is not a database of the stand-in" in server.log.read_text(encoding="utf-8")
    file.write_text(file.read_text(encoding="utf-8").replace("foreign.db", "gone/foreign.db"), encoding="utf-8")
    server.launch()
    assert await server.exited() == 1
    assert "DB folder" in server.log.read_text(encoding="utf-8")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_stop_exits_0_and_cuts_what_is_in_flight(running: Server, number: signal.Signals) -> None:
    """A stop is clean for the process and hard for connections: an answer under way is cut off."""
    async with running.client() as client, client.stream("GET", f"/scim/v1/Sync?bytes={MEBIBYTE}&pause=0.5") as answer:
        assert answer.status_code == 200
        running.process.send_signal(number)
        assert await running.exited() == 0
        with pytest.raises(httpx.TransportError):
            await answer.aread()
    assert "Signal received" in running.log.read_text(encoding="utf-8")


async def test_signals_that_kanidmd_ignores(running: Server) -> None:
    """ALRM, USR1 and USR2 change nothing."""
    for number in (signal.SIGALRM, signal.SIGUSR1, signal.SIGUSR2):
        running.process.send_signal(number)
    async with running.client() as client:
        assert (await client.get("/status")).json() is True


async def test_hup_before_serving_kills(server: Server) -> None:
    """There is no handler before the server serves, so an early HUP is the end of it."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # under nohup it is ignored, which children inherit
    try:
        server.launch()
    finally:
        signal.signal(signal.SIGHUP, before)
    server.process.send_signal(signal.SIGHUP)
    assert await server.exited() == -signal.SIGHUP


async def test_term_after_hup_is_lost(running: Server) -> None:
    """The trap of 1.5.0: HUP takes the new certificate, then a TERM within five seconds is lost; a later one works."""
    make_certificate(running.directory)
    running.process.send_signal(signal.SIGHUP)
    await running.logged("TLS acceptor reloaded")
    running.process.send_signal(signal.SIGTERM)
    async with running.client() as client:
        assert (await client.get("/status")).json() is True
    await running.logged("Reload complete")
    async with running.client() as client:
        assert (await client.get("/status")).json() is True
    running.process.send_signal(signal.SIGTERM)
    assert await running.exited() == 0


async def test_hup_with_bad_files_keeps_the_old_certificate(running: Server) -> None:
    """A bad reload is logged and changes nothing."""
    client = running.client()
    (running.directory / "key.pem").write_text("no key", encoding="utf-8")
    running.process.send_signal(signal.SIGHUP)
    await running.logged("the old certificate stays")
    async with client:
        assert (await client.get("/status")).json() is True


async def test_notify_socket_is_told(server: Server) -> None:
    """READY is sent when it serves, and RELOADING with the monotonic time on HUP, as kanidmd does for systemd."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        path = server.directory / "notify"
        sock.bind(str(path))
        sock.settimeout(10)
        await server.start(NOTIFY_SOCKET=str(path))
        assert (await trio.to_thread.run_sync(sock.recv, 4096)).startswith(b"READY=1")
        server.process.send_signal(signal.SIGHUP)
        assert (await trio.to_thread.run_sync(sock.recv, 4096)).startswith(b"RELOADING=1\nMONOTONIC_USEC=")


async def test_admin_socket_recovers_accounts(kanidm: Server) -> None:
    """JSON without framing: a request may come in pieces; an unknown account is "Error"; each recovery is a new password."""
    assert await kanidm.admin({"RecoverAccount": {"name": "nobody"}}) == "Error"
    answer = await kanidm.admin({"RecoverAccount": {"name": "idm_admin"}}, pieces=3)
    first = answer["RecoverAccount"]["password"]
    second = await kanidm.recover("idm_admin")
    assert first != second
    async with Kanidm(kanidm) as client:
        assert await client.login("idm_admin", second)


async def test_deeply_nested_json_harms_nobody(running: Server) -> None:
    """JSON nested deeper than the parser goes is refused at the socket and over HTTP, and the server goes on."""
    nested = b"[" * 60_000
    async with await trio.open_unix_socket(str(running.socket)) as stream:
        await stream.send_all(nested)
        with trio.fail_after(10), contextlib.suppress(trio.BrokenResourceError):
            assert await stream.receive_some() == b""
    async with running.client() as client:
        headers = {"content-type": "application/json"}
        assert (await client.post("/v1/auth", content=nested, headers=headers)).status_code == 400
    assert await running.recover("admin")


async def test_socket_of_an_earlier_life_is_replaced(running: Server) -> None:
    """After a kill -9 the socket file is still there; the next start takes its place."""
    await running.stop()
    assert running.socket.exists()
    await running.start()
    assert len(await running.recover("admin")) == 48


async def test_what_survives_a_kill(kanidm: Server) -> None:
    """Accounts, clients, sessions and tokens survive kill -9; a login and a consent in progress do not."""
    async with Kanidm(kanidm) as client:
        await client.setup()
        bearer = await client.login("alice", client.password)
        step: dict[str, Any] = {"init2": {"username": "alice", "issue": "token"}}
        begun = await client.http.post("/v1/auth", json={"step": step})
        headers = {"authorization": f"Bearer {bearer}"}
        code = await client.code(bearer)
        tokens = (await client.exchange(code)).json()
        consent = await client.authorise(bearer, scope="openid email")
        ticket = {"token": consent.json()["ConsentRequested"]["consent_token"]}
        await client.aclose()
        await kanidm.restart()
    async with Kanidm(kanidm) as client:
        await client.admin_login()
        assert (await client.http.get("/v1/person/alice", headers=client.headers)).json()["attrs"]["name"] == ["alice"]
        assert (await client.http.get("/v1/self", headers=headers)).status_code == 200
        assert (await client.userinfo(tokens["access_token"])).json()["name"] == "Alice"
        assert (await client.refresh(tokens["refresh_token"])).status_code == 200
        assert (await client.http.get("/oauth2/authorise/permit", params=ticket, headers=headers)).status_code == 500
        session = {"x-kanidm-auth-session-id": begun.headers["x-kanidm-auth-session-id"]}
        answer = await client.http.post("/v1/auth", json={"step": {"begin": "password"}}, headers=session)
        assert answer.status_code == 500


async def test_writes_survive_a_kill_at_any_time(running: Server) -> None:
    """Killed in the middle of many writes, the database opens again and holds every write that was answered."""
    answered: list[str] = []
    enough = trio.Event()

    def write(headers: dict[str, str]) -> None:
        # In a thread with httpx's blocking client: its asynchronous one warns of its own generators when a send is cut off.
        with httpx.Client(base_url=running.url, verify=running.trust(), headers=headers) as http:
            for number in range(1000):
                try:
                    answer = http.post("/v1/group", json={"attrs": {"name": [f"group{number}"]}})
                except httpx.TransportError:
                    return
                assert answer.status_code == 200
                answered.append(f"group{number}")
                if number == 10:
                    trio.from_thread.run_sync(enough.set)

    async with Kanidm(running) as client, trio.open_nursery() as nursery:
        await client.admin_login()
        nursery.start_soon(trio.to_thread.run_sync, write, client.headers)
        await enough.wait()
        running.process.kill()
    assert len(answered) < 1000
    await running.restart()
    async with Kanidm(running) as client:
        await client.admin_login()
        groups = (await client.http.get("/v1/group", headers=client.headers)).json()
    assert set(answered) <= {group["attrs"]["name"][0] for group in groups}


async def test_log_holds_the_query(kanidm: Server) -> None:
    """OAuth2 queries are logged whole, as kanidmd does: this is what Kiwi ID's redaction is tested on."""
    async with kanidm.client() as client:
        await client.get("/ui/oauth2?state=find-me-in-the-log")
    log = await kanidm.logged("find-me-in-the-log")
    line = next(line for line in log.splitlines() if "find-me-in-the-log" in line)
    assert "method: GET | uri: /ui/oauth2?state=find-me-in-the-log | version: HTTP/1.1" in line


async def test_large_bodies_are_streamed(running: Server) -> None:
    """30 MiB go up and down through the SCIM route; 33 MiB are refused as in the real server."""
    data = pattern(30 * MEBIBYTE)
    async with running.client() as client:
        answer = await client.post("/scim/v1/Sync", content=data)
        assert answer.json() == {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        answer = await client.get("/scim/v1/Sync", params={"bytes": len(data)})
        assert answer.content == data
        answer = await client.post("/scim/v1/Sync", content=b"x" * (33 * MEBIBYTE))
        assert answer.status_code == 413


async def test_files_are_conditional_and_compressed(running: Server) -> None:
    """Static files answer 304 to their own date, without a body; the manifest is compressed for who takes it."""
    async with running.client() as client:
        first = await client.get("/pkg/style.css")
        dated = {"if-modified-since": first.headers["last-modified"]}
        again = await client.get("/pkg/style.css", headers=dated)
        assert (again.status_code, again.content) == (304, b"")
        assert "content-length" not in again.headers
        assert (await client.get("/pkg/style.css", headers={"if-modified-since": "nonsense"})).content == first.content
        packed = await client.get("/manifest.webmanifest", headers={"accept-encoding": "gzip"})
        plain = await client.get("/manifest.webmanifest", headers={"accept-encoding": "identity"})
        assert (packed.headers["content-encoding"], plain.headers.get("content-encoding")) == ("gzip", None)
        assert packed.content == plain.content


async def test_a_broken_client_does_not_harm_others(running: Server) -> None:
    """Junk instead of TLS, and a request that is no HTTP, end only their own connection."""
    for data in (b"junk\r\n\r\n", b"\x16\x03\x01"):
        async with await trio.open_tcp_stream("127.0.0.1", running.port) as stream:
            await stream.send_all(data)
            await stream.send_eof()
            with trio.fail_after(10):
                try:
                    while await stream.receive_some():
                        pass
                except trio.BrokenResourceError:
                    pass
    tcp = await trio.open_tcp_stream("127.0.0.1", running.port)
    tls = trio.SSLStream(tcp, running.trust(), server_hostname="localhost", https_compatible=True)
    async with tls:
        await tls.send_all(b"NOT HTTP\r\n\r\n")
        with trio.fail_after(10):
            assert (await tls.receive_some()).startswith(b"HTTP/1.1 400 ")
    async with running.client() as client:
        assert (await client.get("/status")).json() is True


def test_expected_shapes_hold_no_secrets() -> None:
    """The shapes files carry no token and no page of Kanidm's."""
    for file in (Path(__file__).resolve().parent.parent / "data").glob("shapes-*.json"):
        text = file.read_text(encoding="utf-8")
        assert json.loads(text)
        for secret in ("eyJ", "gAAAA", "<html", "<!DOCTYPE"):
            assert secret not in text, f"{file.name} holds {secret}"
