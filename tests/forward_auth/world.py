"""A Kiwi ID with a client for forward-auth, over the stand-in or the real kanidmd, on plain HTTP as a gateway sees it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import trio

from kiwi_id import config, demo
from kiwi_id.forward_auth.rules import Rules
from kiwi_id.forward_auth.session import Sessions
from kiwi_id.instance import layout
from kiwi_id.instance.ports import free_port
from kiwi_id.issuer.http import Request
from kiwi_id.issuer.rotation import Keyring
from kiwi_id.kanidm import server_toml
from kiwi_id.kanidm.admin import recover_account
from kiwi_id.kanidm.pin import client_context
from kiwi_id.kanidm.rest import Kanidm
from kiwi_id.values import Address
from tests.forward_auth.browser import Browser
from tests.issuer.flows.tab import Person
from tests.kanidm.instance import ROOT, START_SECONDS, STOP_SECONDS

ALICE, BOB = (Person(user.name, user.password) for user in demo.USERS)
CLIENT = "forward-auth"
DOMAIN = "kiwi.localhost"
REMOTE = ("remote-user", "remote-name", "remote-email", "remote-groups")


class World:
    """A running Kiwi ID. ``port`` is that of the public side: of the proxy before it, or nobody's when the tests play the proxy."""

    def __init__(self, kanidmd: Path, directory: Path, port: int | None = None) -> None:
        self.directory, self.kanidmd = directory, kanidmd
        self.port, self.listen = port or free_port(), free_port()
        self.issuer = f"https://id.{DOMAIN}:{self.port}"
        self.wiki, self.files = f"https://wiki.{DOMAIN}:{self.port}", f"https://files.{DOMAIN}:{self.port}"
        self.places = layout.Places.under(directory)
        options = layout.Options(
            domain=f"id.{DOMAIN}",
            origin=self.issuer,
            listen=Address("127.0.0.1", self.listen),
            upstream=Address("127.0.0.1", free_port()),
            upstream_bin=kanidmd,
            listener_tls=False,
        )
        layout.create(directory, options)
        self.bare_config = self.places.config.read_text()
        self.server = server_toml.load(self.places.upstream_config)
        self.process = self._spawn()
        try:
            trio.run(self._provision)
            self.configure()
        except BaseException:
            self.process.kill()
            self.process.wait()
            raise

    def _spawn(self) -> subprocess.Popen[bytes]:
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("KIWI_", "KANIDM_"))}
        command = [sys.executable, "-m", "kiwi_id", "run", "--config", str(self.places.config)]
        with (self.directory / "stderr.log").open("ab") as log:
            return subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment)

    async def _provision(self) -> None:
        await self.wait_ready()
        await demo.provision(self.server, f"https://{self.server.bind_addresses[0]}")
        async with await self.rest() as rest:
            for name, public in ((CLIENT, False), ("forward-public", True)):
                await rest.create_client(name, "Forward auth", f"{self.wiki}/auth/callback", public=public)
                await rest.add_redirect_uris(name, f"{self.files}/auth/callback", f"{self.issuer}/auth/callback")
                await rest.set_scopes(name, "kiwi_users", demo.SCOPES)
                await rest.call("POST", f"/v1/oauth2/{name}/_sup_scopemap/mail_users", ["mail"])
            self.secret = await rest.client_secret(CLIENT)
        self.secret_file = self.directory / "forward-auth-secret"
        self.secret_file.write_text(self.secret + "\n")
        self.secret_file.chmod(0o600)

    async def rest(self) -> Kanidm:
        """Return a REST client, signed in as the administrator of people and clients."""
        password = await recover_account(self.server.admin_socket, "idm_admin")
        rest = Kanidm(f"https://{self.server.bind_addresses[0]}", client_context(self.server.tls_chain))
        await rest.login("idm_admin", password)
        return rest

    def configure(
        self, *, client: str | None = CLIENT, domain: str = "", trusted: str = "127.0.0.1", more: Sequence[str] = ()
    ) -> None:
        """Write config.toml with forward-auth (``client`` None: without), and put it in force by a reload."""
        lines = [f'trusted_proxies = ["{trusted}"]', *more]
        if client:
            hosts = [urlsplit(url).netloc for url in (self.wiki, self.files)]
            lines += [f'forward_auth_client = "{client}"', f"forward_auth_hosts = {json.dumps(hosts)}"]
        if client == CLIENT:
            lines.append(f'forward_auth_secret_file = "{self.secret_file}"')
        if domain:
            lines.append(f'forward_auth_domain = "{domain}"')
        self.places.config.write_text("\n".join([*lines, self.bare_config]))
        answer = self.reload()
        assert answer.returncode == 0, answer.stdout + answer.stderr

    def reload(self) -> subprocess.CompletedProcess[str]:
        """Reload as an administrator does, and wait for it."""
        command = [sys.executable, "-m", "kiwi_id", "reload", "--wait", "--config", str(self.places.config)]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)

    def sessions(self) -> Sessions:
        """Return what seals and opens the sessions of this instance, with its own keys and configuration."""
        settings = config.load(self.places.config)
        return Sessions(Rules.of(settings, self.issuer), Keyring.of(settings).load())

    def aged(self, cookie: str, seconds: float, **change: Any) -> str:
        """Return a session's cookie as it would be had Kanidm last been asked so long ago; ``change``: other fields."""
        sessions = self.sessions()
        host = "" if "Secure" in sessions.cookie else urlsplit(self.wiki).netloc
        request = Request("GET", "/", b"", [(b"cookie", f"{sessions.cookie}={cookie}".encode())], b"", "", b"")
        session = sessions.found(request, change.pop("at", host))
        assert session is not None
        _, line = sessions.set_cookie(replace(session, checked=session.checked - int(seconds), **change))
        return line.decode().partition("=")[2].partition(";")[0]

    def log(self) -> str:
        """What Kiwi ID has written so far."""
        return (self.directory / "stderr.log").read_text(errors="replace")

    async def wait_ready(self) -> None:
        """Wait until /readyz answers 200."""
        async with httpx.AsyncClient(trust_env=False, timeout=5) as client:
            with trio.move_on_after(START_SECONDS):
                while self.process.poll() is None:
                    try:
                        if (await client.get(f"http://127.0.0.1:{self.listen}/readyz")).status_code == 200:
                            return
                    except httpx.TransportError:
                        pass
                    await trio.sleep(0.05)
        raise AssertionError(f"not ready; exit status {self.process.poll()}; log:\n{self.log()[-4000:]}")

    async def restart(self) -> None:
        """Stop Kiwi ID and start it again."""
        await trio.to_thread.run_sync(self.close)
        self.process = self._spawn()
        await self.wait_ready()

    def close(self) -> None:
        """Stop Kiwi ID."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        self.process.wait(STOP_SECONDS)

    # -- the tests as the proxy -----------------------------------------------------------------------------------------------

    async def ask(self, path: str, host: str, headers: dict[str, str], method: str = "GET") -> httpx.Response:
        """Send one request to Kiwi ID as the proxy does."""
        async with httpx.AsyncClient(trust_env=False, timeout=30) as client:
            url = f"http://127.0.0.1:{self.listen}{path}"
            return await client.request(method, url, headers={"host": host, "accept": "*/*", **headers})

    async def wire(self, method: str, url: str, headers: dict[str, str], form: dict[str, str] | None) -> httpx.Response:
        """Do as Caddy and Traefik do: ask ``/auth/verify``, then serve the application, or hand the answer on."""
        parts = urlsplit(url)
        target = parts.path + (f"?{parts.query}" if parts.query else "")
        forwarded = {"x-forwarded-proto": "https", "x-forwarded-host": parts.netloc, "x-forwarded-for": "192.0.2.9"}
        to_kiwi = parts.hostname == f"id.{DOMAIN}" or parts.path in ("/auth/login", "/auth/callback", "/auth/logout")
        async with httpx.AsyncClient(trust_env=False, timeout=30) as client:
            base = f"http://127.0.0.1:{self.listen}"
            if to_kiwi:
                return await client.request(
                    method, base + target, headers={**headers, "host": parts.netloc, **forwarded}, data=form
                )
            about = {**forwarded, "x-forwarded-method": method, "x-forwarded-uri": target}
            answer = await client.get(base + "/auth/verify", headers={**headers, "host": parts.netloc, **about})
        if not answer.is_success:
            return answer
        told = {name: answer.headers.get(name) for name in REMOTE}
        cookies = [("set-cookie", line) for line in answer.headers.get_list("set-cookie")]
        return httpx.Response(200, headers=cookies, json={"url": url, **told})

    def browser(self) -> Browser:
        """Return a new browser."""
        return Browser(self.wire)
