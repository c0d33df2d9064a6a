"""Starts a Kanidm, the stand-in or a real one, as a real process in a directory of its own."""

import datetime
import json
import os
import ssl
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import trio
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from kiwi_id.instance.ports import free_port

__all__ = ["STAND_IN", "Server", "make_certificate", "running", "version_of"]

STAND_IN = (sys.executable, "-m", "kiwi_id.devserver")
ROOT = Path(__file__).resolve().parent.parent.parent
_READY_SECONDS = 30
_EXIT_SECONDS = 30


def version_of(kanidmd: Path) -> str:
    """The version that a kanidmd says it has, such as "1.5.0"."""
    return subprocess.run([kanidmd, "version"], capture_output=True, text=True, check=True).stdout.split()[1]


def make_certificate(directory: Path) -> None:
    """Write a self-signed EC certificate for the tests' names, as chain.pem and key.pem, into `directory`."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "id.example.com")])
    now = datetime.datetime.now(datetime.UTC)
    names = x509.SubjectAlternativeName([x509.DNSName("id.example.com"), x509.DNSName("localhost")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(names, critical=False)
        .sign(key, hashes.SHA256())
    )
    (directory / "chain.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (directory / "key.pem").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )


class Server:
    """One Kanidm with its files in `directory`; `start` and `stop` it as often as needed."""

    def __init__(self, directory: Path, command: Sequence[str] = STAND_IN, settings: str = "") -> None:
        self.directory = directory
        self.port = free_port()
        self.url = f"https://localhost:{self.port}"
        self.socket = directory / "sock"
        self.log = directory / "log"
        self._command = [*command, "server", "-c", str(directory / "server.toml")]
        self._process: subprocess.Popen[bytes] | None = None
        make_certificate(directory)
        self.configure(settings)

    def configure(self, settings: str = "") -> None:
        """Write server.toml, with further lines in `settings`."""
        where = self.directory
        (where / "server.toml").write_text(
            'domain = "id.example.com"\norigin = "https://id.example.com"\n'
            f'db_path = "{where / "kanidm.db"}"\ntls_chain = "{where / "chain.pem"}"\ntls_key = "{where / "key.pem"}"\n'
            f'bindaddress = "127.0.0.1:{self.port}"\nadminbindpath = "{self.socket}"\n{settings}\n',
            encoding="utf-8",
        )

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """The process that `launch` made."""
        assert self._process is not None
        return self._process

    def launch(self, **variables: str) -> None:
        """Start the process, with further environment variables, and return at once."""
        environment = {key: value for key, value in os.environ.items() if not key.startswith("KANIDM_")} | variables
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, cwd=ROOT, env=environment
            )

    async def start(self, **variables: str) -> None:
        """Start the process and wait until it answers."""
        self.launch(**variables)
        with trio.fail_after(_READY_SECONDS):
            while True:
                assert self.process.poll() is None, self.log.read_text(encoding="utf-8")
                try:
                    async with self.client() as client:
                        await client.get("/status")
                except httpx.TransportError:
                    await trio.sleep(0.02)
                else:
                    return

    async def exited(self) -> int:
        """Wait for the process to end; its exit code, negative for a signal."""
        with trio.fail_after(_EXIT_SECONDS):
            return await trio.to_thread.run_sync(self.process.wait, abandon_on_cancel=True)

    async def stop(self) -> None:
        """End the process, if it runs."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
        if self._process is not None:
            with trio.CancelScope(shield=True):
                await self.exited()

    async def restart(self) -> None:
        """Kill the process without warning and start it again over the same database."""
        await self.stop()
        await self.start()

    async def logged(self, text: str) -> str:
        """Wait until the log holds `text`; returns the whole log."""
        with trio.fail_after(_EXIT_SECONDS):
            while True:
                log = self.log.read_text(encoding="utf-8")
                if text in log:
                    return log
                await trio.sleep(0.01)

    def trust(self) -> ssl.SSLContext:
        """A TLS context that trusts the certificate now on disk, and no other."""
        return ssl.create_default_context(cafile=self.directory / "chain.pem")

    def client(self) -> httpx.AsyncClient:
        """A client that keeps no cookies: tests send those that they mean."""
        return httpx.AsyncClient(base_url=self.url, verify=self.trust(), timeout=20)

    async def admin(self, request: Any, pieces: int = 1) -> Any:
        """Send one request to the admin socket, in so many pieces, and return the answer."""
        data = json.dumps(request).encode()
        size = -(-len(data) // pieces)
        async with await trio.open_unix_socket(str(self.socket)) as stream:
            for start in range(0, len(data), size):
                await stream.send_all(data[start : start + size])
            with trio.fail_after(5):
                return json.loads(await stream.receive_some(65536))

    async def recover(self, name: str) -> str:
        """Give an account a new password through the admin socket."""
        return str((await self.admin({"RecoverAccount": {"name": name}}))["RecoverAccount"]["password"])


@asynccontextmanager
async def running(command: Sequence[str]) -> AsyncIterator[Server]:
    """Run a Kanidm with an empty database in a directory of its own."""
    with tempfile.TemporaryDirectory(prefix="kiwi-") as directory:
        server = Server(Path(directory), command)
        try:
            await server.start()
            yield server
        finally:
            await server.stop()
