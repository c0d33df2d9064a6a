"""The load of ``bench.logins``: browsers and relying parties in a process of its own, each doing one login after the other.

Reads one JSON object (see ``Job``) from standard input, prints one JSON line: ``logins``, ``seconds``, ``cpu_seconds`` of its own
and, for each step, the median time (``steps``) and all times (``times``) in microseconds. As cheap as Python allows: what the load
costs, both contenders pay alike.
"""

from __future__ import annotations

import asyncio
import base64
import json
import ssl
import statistics
import sys
import time
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

VERIFIER = "bench-verifier-of-sufficient-length-0123456789abcdef"
CHALLENGE = "MBAp2cv5jubrSD1mNwgq1UMSsuLVbjU7ZUd3syponHM"


@dataclass
class Job:
    """What to do: ``kiwi`` or the native issuer, with a live session or the password typed, by whom and how often each.

    A number of logins and not a time: kanidmd takes longer for people who have many sessions, so equal work is fair, and equal
    time would punish the faster one.
    """

    port: int
    tls: bool
    kiwi: bool
    live: bool
    client_id: str
    secret: str
    redirect_uri: str
    people: list[list[str]]
    logins: int


class Connection(asyncio.Protocol):
    """One keep-alive connection; one request at a time."""

    def __init__(self) -> None:
        self._buffer = b""
        self._waiting: asyncio.Future[tuple[int, bytes, bytes]] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        """Hand an answer over when it is whole."""
        self._buffer += data
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0 or self._waiting is None:
            return
        head = self._buffer[:end]
        _, found, rest = head.lower().partition(b"\r\ncontent-length:")
        length = int(rest.split(b"\r\n", 1)[0]) if found else 0
        if b"\r\ntransfer-encoding:" in head.lower():
            raise SystemExit("bench: a chunked answer, which this load does not read")
        if len(self._buffer) >= end + 4 + length:
            body, self._buffer = self._buffer[end + 4 : end + 4 + length], self._buffer[end + 4 + length :]
            self._waiting.set_result((int(head[9:12]), head, body))

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell whoever waits."""
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_exception(ConnectionError(f"connection lost: {exc}"))

    async def ask(
        self, method: str, target: str, headers: str = "", form: dict[str, str] | None = None
    ) -> tuple[int, bytes, bytes]:
        """Send a request; return status, head and body of the answer. Raises ConnectionError."""
        if self.transport.is_closing():
            raise ConnectionError("the connection was closed before this request")
        body = b"" if form is None else urlencode(form).encode()
        if form is not None:
            headers += f"content-type: application/x-www-form-urlencoded\r\ncontent-length: {len(body)}\r\n"
        self._waiting = asyncio.get_running_loop().create_future()
        self.transport.write(f"{method} {target} HTTP/1.1\r\nhost: localhost\r\n{headers}\r\n".encode() + body)
        return await self._waiting


def location(head: bytes) -> str:
    """Return the Location of an answer."""
    for line in head.split(b"\r\n"):
        if line[:9].lower() == b"location:":
            return line[9:].strip().decode()
    raise SystemExit(f"bench: no redirect but {head[:200]!r}")


class Person:
    """A browser and the relying party that it logs in to."""

    def __init__(self, job: Job, name: str, password: str, connection: Connection) -> None:
        self.job, self.name, self.password, self.connection = job, name, password, connection
        self.cookies: dict[str, str] = {}
        self.steps: dict[str, list[float]] = {}
        self._began = 0.0
        self._basic = base64.b64encode(f"{job.client_id}:{job.secret}".encode()).decode()
        query = {
            "response_type": "code",
            "client_id": job.client_id,
            "redirect_uri": job.redirect_uri,
            "scope": "openid profile email groups",
            "state": "bench",
            "nonce": "bench",
            "code_challenge": CHALLENGE,
            "code_challenge_method": "S256",
        }
        self._authorize = ("/oauth2/authorize?" if job.kiwi else "/ui/oauth2?") + urlencode(query)

    async def step(self, name: str, method: str, target: str, headers: str = "", form: dict[str, str] | None = None) -> Any:
        """Do one request with the browser's cookies (unless ``headers`` are given) and note its time."""
        if not headers and self.cookies:
            headers = "cookie: " + "; ".join(f"{key}={value}" for key, value in self.cookies.items()) + "\r\n"
        began = time.perf_counter()
        status, head, body = await self.connection.ask(method, target, headers, form)
        self.steps.setdefault(name, []).append(time.perf_counter() - began)
        if b"set-cookie:" in head:
            for line in head.split(b"\r\n"):
                if line[:11].lower() == b"set-cookie:":
                    key, _, value = line[11:].split(b";", 1)[0].strip().decode().partition("=")
                    self.cookies[key] = value
        return status, head, body

    async def sign_in(self) -> str:
        """Type name and password; return where the browser goes after that."""
        self.cookies.clear()
        target = self._authorize
        if self.job.kiwi:
            _, head, _ = await self.step("authorize", "GET", target)
            target = location(head)
        await self.step("login page", "GET", target)
        await self.step("name", "POST", "/ui/login/begin", form={"username": self.name, "password": "", "totp": ""})
        status, head, body = await self.step("password", "POST", "/ui/login/pw", form={"password": self.password})
        if status != 303:
            raise SystemExit(f"bench: the password was not taken: {status} {body[-600:]!r}")
        status, head, body = await self.step("resume", "GET", location(head))
        if status == 200:  # the first time: consent
            token = body.partition(b'name="consent_token"')[2].partition(b'value="')[2].partition(b'"')[0].decode()
            _, head, _ = await self.step("consent", "POST", "/ui/oauth2/consent", form={"consent_token": token})
        return location(head)

    async def log_in(self, *, typed: bool) -> None:
        """Do one whole login: code, tokens, userinfo."""
        if typed:
            back = await self.sign_in()
        else:
            _, head, _ = await self.step("authorize", "GET", self._authorize)
            back = location(head)
        form = {
            "grant_type": "authorization_code",
            "code": parse_qs(urlsplit(back).query)["code"][0],
            "redirect_uri": self.job.redirect_uri,
            "code_verifier": VERIFIER,
        }
        status, _, body = await self.step("token", "POST", "/oauth2/token", f"authorization: Basic {self._basic}\r\n", form)
        if status != 200:
            raise SystemExit(f"bench: no tokens: {status} {body!r}")
        userinfo = "/oauth2/userinfo" if self.job.kiwi else f"/oauth2/openid/{self.job.client_id}/userinfo"
        bearer = f"authorization: Bearer {json.loads(body)['access_token']}\r\n"
        status, _, body = await self.step("userinfo", "GET", userinfo, bearer)
        if status != 200 or b'"sub"' not in body:
            raise SystemExit(f"bench: no userinfo: {status} {body!r}")


async def run(job: Job) -> dict[str, Any]:
    """Run the job."""
    context = None
    if job.tls:
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    loop = asyncio.get_running_loop()
    people = []
    for name, password in job.people:
        _, connection = await loop.create_connection(Connection, "127.0.0.1", job.port, ssl=context)
        person = Person(job, name, password, connection)
        # At once: a connection that says nothing while others log in on a busy machine would be closed for that.
        await person.log_in(typed=True)  # gives consent, and the session
        if job.live:
            await person.log_in(typed=False)
        person.steps.clear()
        people.append(person)

    async def work(person: Person) -> None:
        for _ in range(job.logins):
            await person.log_in(typed=not job.live)

    began, spent = time.perf_counter(), time.process_time()
    await asyncio.gather(*(work(person) for person in people))
    took, spent = time.perf_counter() - began, time.process_time() - spent
    steps: dict[str, list[float]] = {}
    for person in people:
        for name, times in person.steps.items():
            steps.setdefault(name, []).extend(times)
    return {
        "logins": job.logins * len(people),
        "seconds": took,
        "cpu_seconds": spent,
        "steps": {name: statistics.median(times) * 1e6 for name, times in steps.items()},
        "times": {name: [round(each * 1e6, 1) for each in times] for name, times in steps.items()},
    }


def main() -> None:
    """Read the job and run it."""
    print(json.dumps(asyncio.run(run(Job(**json.load(sys.stdin))))))


if __name__ == "__main__":
    main()
