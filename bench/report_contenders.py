"""The contenders of the report: each started as a process of its own before one upstream, and ended with the block."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench.instance import KIWI_ID, Instance, bench_upstream, make
from bench.peers import nginx
from bench.processes import ROOT, running, wait_port
from bench.report_client import until_200
from kiwi_id.instance.certs import make_loopback
from kiwi_id.instance.ports import free_port

KIWI, KIWI_HTTP, PLAIN, AIOHTTP = "Kiwi ID", "Kiwi ID, plain HTTP", "plain stack", "aiohttp"
NGINX, H11, CONSTANT, DIRECT = "nginx", "h11 on Trio", "Hypercorn, a constant", "direct"
_PEERS = {
    PLAIN: "plain",
    AIOHTTP: "aiohttp_proxy",
    NGINX: "nginx",
    H11: "h11_streams",
    CONSTANT: "hypercorn_constant",
}
# Nothing may be turned away for its number or time out while thousands of connections are opened; for peers alike.
_LIMITS = '\n[limits]\nmax_connections = 16384\nkeep_alive_timeout = "10m"\n'


@dataclass(frozen=True)
class Contender:
    """One way to the upstream: where it listens, and the process whose CPU and memory count."""

    name: str
    port: int
    pid: int
    tls: bool = True


@dataclass(frozen=True)
class Kiwi(Contender):
    """Kiwi ID over the bench's upstream, and where that listens."""

    upstream: int = 0
    upstream_pid: int = 0
    chain: Path = field(default_factory=Path)
    log: Path = field(default_factory=Path)


def missing() -> dict[str, str]:
    """Return the contenders that cannot run here, with the reason."""
    reasons = {}
    if importlib.util.find_spec("aiohttp") is None:
        reasons[AIOHTTP] = "the package aiohttp is not installed (pip install --group bench, or make report)"
    if nginx.find() is None:
        reasons[NGINX] = "there is no nginx on this machine (apt-get install nginx-core)"
    return reasons


class Room:
    """A directory with the certificates of the client side, in which instances and peers are made."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.cert, self.key = directory / "front-chain.pem", directory / "front-key.pem"
        make_loopback(self.cert, self.key)
        self._made = 0

    def instance(self, *, tls: bool = True) -> Instance:
        """Make an instance over the bench's upstream."""
        self._made += 1
        directory = self.directory / f"kiwi-{self._made}"
        directory.mkdir()
        instance = make(directory, bench_upstream(directory))
        config = instance.places.config
        head = f'tls_cert = "{self.cert}"\ntls_key = "{self.key}"\n' if tls else ""
        config.write_text(head + config.read_text(encoding="utf-8") + _LIMITS, encoding="utf-8")
        return instance

    @contextlib.contextmanager
    def kiwi(self, *, tls: bool = True, python: Sequence[str] = ()) -> Iterator[Kiwi]:
        """Run an instance of Kiwi ID, ready and with its issuer loaded; ``python``: options of the interpreter."""
        instance = self.instance(tls=tls)
        log = instance.places.root.parent / "log"
        command = [instance.run[0], *python, *instance.run[1:]]
        with running(command, log) as process:
            wait_port(instance.front, process, log)
            wait_port(instance.upstream, process, log)
            until_200(instance.front, tls, "/readyz", log)
            until_200(instance.front, tls, "/oauth2/keys", log)
            pid = _upstream_pid(instance)
            name = KIWI if tls else KIWI_HTTP
            yield Kiwi(name, instance.front, process.pid, tls, instance.upstream, pid, instance.places.chain, log)

    @contextlib.contextmanager
    def peer(self, name: str, kiwi: Kiwi) -> Iterator[Contender]:
        """Run a peer before the upstream of ``kiwi``."""
        port = free_port()
        log = self.directory / f"{_PEERS[name]}.log"
        command = [sys.executable, "-m", f"bench.peers.{_PEERS[name]}", f"127.0.0.1:{port}", f"https://127.0.0.1:{kiwi.upstream}"]
        with running([*command, str(kiwi.chain), str(self.cert), str(self.key)], log) as process:
            wait_port(port, process, log)
            until_200(port, True, "/oauth2/openid/bench/public_key.jwk", log)
            yield Contender(name, port, process.pid)

    @contextlib.contextmanager
    def all(self, without: Sequence[str]) -> Iterator[list[Contender]]:
        """Run Kiwi ID, the peers that can run here, and the upstream itself."""
        with contextlib.ExitStack() as stack:
            kiwi = stack.enter_context(self.kiwi())
            peers = [stack.enter_context(self.peer(name, kiwi)) for name in _PEERS if name not in without]
            yield [kiwi, *peers, Contender(DIRECT, kiwi.upstream, kiwi.upstream_pid)]


def _upstream_pid(instance: Instance) -> int:
    """Return the pid of Kiwi ID's child, as ``kiwi-id status`` tells it."""
    command = [*KIWI_ID, "status", "--json", "--config", str(instance.places.config)]
    status = json.loads(subprocess.check_output(command, cwd=ROOT))
    return int(status["upstream"]["pid"])
