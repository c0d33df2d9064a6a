"""A whole Kiwi ID over a real kanidmd in a directory of its own, as a real process."""

from __future__ import annotations

import os
import re
import signal
import ssl
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import trio

from kiwi_id import demo
from kiwi_id.instance import layout
from kiwi_id.instance.ports import free_port
from kiwi_id.kanidm import server_toml
from kiwi_id.kanidm.admin import recover_account
from kiwi_id.kanidm.rest import Kanidm
from kiwi_id.values import Address
from tests.kanidm.browser import Browser, Request

ROOT = Path(__file__).parent.parent.parent
START_SECONDS = 60
STOP_SECONDS = 60


@dataclass
class Instance:
    """A running Kiwi ID at ``origin``; ``demo`` is what its kanidmd holds."""

    directory: Path
    origin: str
    server: server_toml.ServerToml
    process: subprocess.Popen[bytes]
    demo: demo.Demo = field(init=False)

    @property
    def config(self) -> Path:
        """Its config.toml."""
        return layout.Places.under(self.directory).config

    @property
    def ca(self) -> Path:
        """The certificate of its listener, which is its own authority."""
        return self.server.tls_chain

    def browser(self) -> Browser:
        """Return a new browser that trusts this instance's listener."""
        return Browser(self.origin, self.ca)

    def request(self) -> Request:
        """Return a new authorization request of the demo's confidential client."""
        return Request(self.demo.clients[0].client_id, demo.REDIRECT_URI)

    def secret(self) -> str:
        """The secret of the demo's confidential client."""
        secret = self.demo.clients[0].secret
        assert secret is not None
        return secret

    def rest(self) -> Kanidm:
        """Return a REST client that goes through the front; not signed in."""
        return Kanidm(self.origin, ssl.create_default_context(cafile=str(self.ca)))

    async def administrator(self, name: str = "idm_admin") -> str:
        """Reset the password of an administrator and return it."""
        return await recover_account(self.server.admin_socket, name)

    def stderr(self) -> str:
        """What the process wrote to standard error so far, kanidmd's output included."""
        return (self.directory / "stderr.log").read_text(errors="replace")

    def kanidmd_pid(self) -> int:
        """The process id of the running kanidmd, the only child of Kiwi ID."""
        children = Path(f"/proc/{self.process.pid}/task").glob("*/children")
        pids = [int(pid) for file in children for pid in file.read_text().split()]
        assert len(pids) == 1, pids
        return pids[0]

    async def wait_ready(self) -> None:
        """Wait until /readyz answers 200. Fails with the log when the process ends or takes too long."""
        context = ssl.create_default_context(cafile=str(self.ca))
        async with httpx.AsyncClient(verify=context, trust_env=False, timeout=5) as client:
            with trio.move_on_after(START_SECONDS):
                while self.process.poll() is None:
                    try:
                        if (await client.get(f"{self.origin}/readyz")).status_code == 200:
                            return
                    except httpx.TransportError:
                        pass
                    await trio.sleep(0.05)
        raise AssertionError(f"not ready; exit status {self.process.poll()}; log:\n{self.stderr()[-4000:]}")

    def stop(self, how: signal.Signals = signal.SIGTERM) -> int:
        """End the process by the signal ``how`` and return its exit status; one that stays is killed, and fails the test."""
        if self.process.poll() is None:
            self.process.send_signal(how)
        try:
            return self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise AssertionError(f"still alive after {how.name}; log:\n{self.stderr()[-4000:]}") from None


def start(kanidmd: Path, directory: Path, settings: Sequence[str] = (), server_log_level: str = "info") -> Instance:
    """Make an instance in ``directory``, start it, wait until it is ready, and make the demo data.

    ``settings`` are further lines for the top of config.toml, ``server_log_level`` is that of kanidmd itself.
    """
    port = free_port()
    options = layout.Options(
        listen=Address("127.0.0.1", port),
        upstream=Address("127.0.0.1", free_port()),
        upstream_bin=kanidmd,
        listener_tls=True,
    )
    layout.create(directory, options)
    config, server_file = layout.Places.under(directory).config, layout.Places.under(directory).upstream_config
    config.write_text("\n".join([*settings, config.read_text()]))
    server_file.write_text(
        re.sub("^log_level = .*$", f'log_level = "{server_log_level}"', server_file.read_text(), flags=re.MULTILINE)
    )
    server = server_toml.load(server_file)
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("KIWI_", "KANIDM_"))}
    with (directory / "stderr.log").open("wb") as log:
        command = [sys.executable, "-m", "kiwi_id", "run", "--config", str(config)]
        process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment)
    instance = Instance(directory, server.origin, server, process)
    try:
        trio.run(_provision, instance)
    except BaseException:
        process.kill()
        process.wait()
        raise
    return instance


async def _provision(instance: Instance) -> None:
    await instance.wait_ready()
    instance.demo = await demo.provision(instance.server, f"https://{instance.server.bind_addresses[0]}")
