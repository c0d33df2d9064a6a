"""The examples of docs/middleware.md, each taken out of the page, started as it stands, and called over the network."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import wsproto
from wsproto.events import AcceptConnection, RejectConnection, RejectData, Request, TextMessage

from tests.verify.middleware.minted import STRANGER, public_pem, token

ROOT = Path(__file__).parent.parent.parent.parent
PAGE = ROOT / "docs" / "middleware.md"
SECONDS = 30
EXAMPLES = [
    ("Starlette", "asyncio"),
    ("Starlette", "trio"),
    ("FastAPI", "asyncio"),
    ("FastAPI", "trio"),
    ("Quart", "asyncio"),
    ("Quart", "trio"),
    ("Flask", "wsgi"),
    ("Django", "wsgi"),
]


@dataclass
class Served:
    """A running example: where it answers, and what it has written so far."""

    url: str
    port: int
    output: Path

    def get(self, path: str, *authorization: str) -> httpx.Response:
        """Call it with these Authorization headers."""
        headers = [("authorization", value) for value in authorization]
        return httpx.get(self.url + path, headers=headers, timeout=SECONDS, trust_env=False)


def example(title: str) -> str:
    """Return the one Python block of a section."""
    section = PAGE.read_text().split(f"\n## {title}\n")[1].split("\n## ")[0]
    (block,) = re.findall(r"^```python\n(.*?)^```$", section, re.DOTALL | re.MULTILINE)
    return str(block)


@contextmanager
def served(directory: Path, code: str, kind: str) -> Iterator[Served]:
    """Run an example with the tests' key where the page has an installation's; every warning of it is an error."""
    (directory / "jwt-public.pem").write_bytes(public_pem())
    assert code.count('"/etc/kiwi/jwt-public.pem"') == 1
    file = directory / "example.py"
    file.write_text(code.replace("/etc/kiwi/jwt-public.pem", str(directory / "jwt-public.pem")))
    output = directory / "output.log"
    command = [sys.executable, "-W", "error", "-m", "tests.verify.middleware.serve", str(file), kind]
    with (
        output.open("wb") as log,
        subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, text=True) as process,
    ):
        try:
            assert process.stdout
            line = process.stdout.readline()
            assert line, output.read_text()
            yield Served(f"http://127.0.0.1:{int(line)}", int(line), output)
        finally:
            process.kill()
            with output.open("a") as log_again:
                log_again.write(process.stdout.read() if process.stdout else "")


@pytest.fixture(scope="module", params=EXAMPLES, ids="-".join)
def app(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Each example, on each event loop that it is for."""
    title, kind = request.param
    code = example(title)
    if (title, kind) == ("Quart", "trio"):  # "With QuartTrio it is the same"
        code = code.replace(
            "from quart import Quart, request", "from quart import request\nfrom quart_trio import QuartTrio as Quart"
        )
    directory = tmp_path_factory.mktemp("example")
    with served(directory, code, kind) as running:
        yield running


def test_the_claims_arrive(app: Served) -> None:
    """With a good token the application answers, and knows who calls."""
    answer = app.get("/inbox", f"Bearer {token()}")
    assert answer.status_code == 200, app.output.read_text()
    assert answer.json() == {"inbox of": "Alice Demo"}


def test_the_refusals(app: Served) -> None:
    """Each refusal of RFC 6750 §3, with its challenge; without a token, no error in it."""
    answer = app.get("/inbox")
    assert (answer.status_code, answer.headers["www-authenticate"]) == (401, 'Bearer realm="Kiwi ID"')
    now = int(time.time())
    for bad in ("nonsense", token(STRANGER), token(aud="calendar"), token(exp=now - 60), token(iss="https://id.example.org")):
        answer = app.get("/inbox", f"Bearer {bad}")
        assert answer.status_code == 401
        assert 'error="invalid_token"' in answer.headers["www-authenticate"]
        assert bad not in answer.text + str(answer.headers)
    answer = app.get("/inbox", f"Bearer {token(scope='openid')}")
    assert answer.status_code == 403
    assert answer.headers["www-authenticate"].endswith('scope="mail_read"')
    answer = app.get("/inbox", f"Bearer {token(groups=['kiwi_users'])}")
    assert answer.status_code == 403
    assert 'error="insufficient_scope"' in answer.headers["www-authenticate"]
    assert answer.headers["cache-control"] == "no-store"
    for values in ([f"Bearer {token()}"] * 2, ["Bearer a b"]):
        answer = app.get("/inbox", *values)
        assert answer.status_code == 400
        assert 'error="invalid_request"' in answer.headers["www-authenticate"]


def test_open_paths(app: Served) -> None:
    """The path for health checks needs no token and looks at none."""
    assert app.get("/health").json() == {"ok": True}
    assert app.get("/health", "Bearer nonsense").json() == {"ok": True}
    assert app.get("/health/../inbox").status_code in (401, 404)


def test_tokens_in_other_places_do_not_count(app: Served) -> None:
    """Neither the query string nor a header of another name lets anybody in (RFC 6750 §2.3 is not offered)."""
    assert app.get(f"/inbox?access_token={token()}").status_code == 401
    headers = {"kiwi": token(), "kiwi.claims": token(), "x-authorization": f"Bearer {token()}"}
    assert httpx.get(app.url + "/inbox", headers=headers, timeout=SECONDS, trust_env=False).status_code == 401


def test_guests(app: Served, request: pytest.FixtureRequest) -> None:
    """Where an example has a page for everybody: a stranger is let in, a member is known, a bad token is refused."""
    title = request.node.callspec.params["app"][0]
    if title not in ("FastAPI", "Flask"):
        assert app.get("/").status_code == 401
        return
    assert app.get("/").json() == {"hello": "stranger"}
    assert app.get("/", f"Bearer {token()}").json() == {"hello": "Alice Demo"}
    assert app.get("/", "Bearer nonsense").status_code == 401


def test_no_token_in_any_log(tmp_path: Path) -> None:
    """With the server's access log on: neither a good nor a bad token is in what the process writes."""
    good, bad = token(), token(STRANGER)
    with served(tmp_path, example("Starlette"), "asyncio") as app:
        assert app.get("/inbox", f"Bearer {good}").status_code == 200
        assert app.get("/inbox", f"Bearer {bad}").status_code == 401
    written = app.output.read_text()
    assert "/inbox" in written
    for secret in (good, bad):
        assert not [part for part in secret.split(".") if part in written]


def test_fastapi_tells_of_the_scheme(tmp_path: Path) -> None:
    """The OpenAPI document names the scheme and says which routes need it."""
    with served(tmp_path, example("FastAPI"), "asyncio") as app:
        document = app.get("/openapi.json").json()
    assert document["components"]["securitySchemes"]["Kiwi-ID"]["scheme"] == "bearer"
    assert document["paths"]["/inbox"]["get"]["security"] == [{"Kiwi-ID": ["mail_read"]}]
    assert "security" not in document["paths"]["/health"]["get"]
    # OpenAPI 3.1 §4.8.7: what a component's key must be.
    for components in document["components"].values():
        assert all(re.fullmatch(r"[a-zA-Z0-9._-]+", key) for key in components)


@pytest.mark.parametrize("loop", ["asyncio", "trio"])
def test_websockets(tmp_path: Path, loop: str) -> None:
    """A WebSocket with a good token is accepted and knows its caller; any other gets the challenge instead of a handshake."""
    with served(tmp_path, example("Starlette"), loop) as app:
        assert open_websocket(app.port, "/live", f"Bearer {token()}") == (101, b'{"inbox of":"Alice Demo"}')
        status, _ = open_websocket(app.port, "/live")
        assert status == 401
        assert open_websocket(app.port, "/live", f"Bearer {token(scope='openid')}")[0] == 403


def open_websocket(port: int, path: str, *authorization: str) -> tuple[int, bytes]:
    """Ask for a WebSocket; return the status and the first message, or the body of the refusal."""
    connection = wsproto.WSConnection(wsproto.ConnectionType.CLIENT)
    status, content = 0, b""
    with socket.create_connection(("127.0.0.1", port), timeout=SECONDS) as sock:
        headers = [(b"authorization", value.encode()) for value in authorization]
        sock.sendall(connection.send(Request(host="127.0.0.1", target=path, extra_headers=headers)))
        while data := sock.recv(65536):
            connection.receive_data(data)
            for event in connection.events():
                if isinstance(event, AcceptConnection):
                    status = 101
                elif isinstance(event, RejectConnection):
                    status = event.status_code
                elif isinstance(event, TextMessage):
                    return status, event.data.encode()
                elif isinstance(event, RejectData):
                    content += bytes(event.data)
                    if event.body_finished:
                        return status, content
    return status, content
