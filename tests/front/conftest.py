"""The front with everything behind it, real but for Kanidm, on sockets of the kernel's choice."""

from __future__ import annotations

import logging
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import fields, replace
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from kiwi_id.config import LIMIT_KEYS, Limits
from kiwi_id.instance.certs import make_loopback
from kiwi_id.kanidm.pin import UpstreamPin
from kiwi_id.logs import JsonFormatter
from kiwi_id.proxy.connection import Settings
from kiwi_id.proxy.exchange import Exchange, Handler
from kiwi_id.proxy.forwarder import Forwarder
from kiwi_id.proxy.gate import Gate
from kiwi_id.proxy.listener import Listener, bind
from kiwi_id.proxy.pool import Pool
from kiwi_id.proxy.router import Router
from kiwi_id.state import ChildState, ChildStatus
from kiwi_id.values import Address
from tests.front.upstream import FakeKanidm
from tests.front.wire import Client, Reply, trusting

Pair = tuple[Path, Path]


def usual_limits() -> Limits:
    """Return the limits of an empty config.toml."""
    return Limits(**{field.name: LIMIT_KEYS[field.name].parse(LIMIT_KEYS[field.name].default) for field in fields(Limits)})


class Front:
    """The front on a port of 127.0.0.1. ``limit`` and ``trust`` change its settings as a reload does."""

    def __init__(self, kanidm: FakeKanidm, pin: UpstreamPin, nursery: trio.Nursery, certificate: Path) -> None:
        self.kanidm, self.pin, self.nursery, self.certificate = kanidm, pin, nursery, certificate
        self.settings = Settings(usual_limits(), ())
        self.status = ChildStatus()
        self.status.transition(ChildState.STARTING, "test")
        self.status.transition(ChildState.READY, "test")
        self.pool = Pool(kanidm.address, pin, size=self.settings.limits.upstream_connections)
        self.status.on_exit.append(self.pool.child_ended)
        self.gate = Gate(self.status, lambda: self.settings)
        self.forwarder = Forwarder(self.pool, self.gate, lambda: self.settings)
        self.ours: dict[bytes, Handler] = {}
        self.clients: list[Client] = []
        self.stopped = trio.Event()
        self.serving = trio.CancelScope()
        self.listener: Listener

    def limit(self, **changes: Any) -> None:
        """Change limits."""
        self.settings = Settings(replace(self.settings.limits, **changes), self.settings.trusted, self.settings.guard)
        self.pool.resize(self.settings.limits.upstream_connections)

    def trust(self, *networks: str) -> None:
        """Set trusted_proxies."""
        self.settings = Settings(self.settings.limits, tuple(ip_network(network) for network in networks), self.settings.guard)

    async def start(self, tls: ssl.SSLContext | None = None, host: str = "127.0.0.1") -> None:
        """Listen and serve."""

        async def handler(exchange: Exchange) -> None:
            await Router(self.ours, self.forwarder)(exchange)

        self.listener = Listener(bind(Address(host, 0)), tls=tls, handler=handler, settings=lambda: self.settings)
        await self.nursery.start(self._run)

    async def _run(self, *, task_status: trio.TaskStatus[None]) -> None:
        with self.serving:
            await self.listener.run(task_status=task_status)
        self.stopped.set()

    async def connect(self) -> Client:
        """Open a connection, with TLS when the listener has it."""
        tcp = await trio.open_tcp_stream(self.listener.addresses[0].host, self.listener.addresses[0].port)
        client = Client(tcp, tcp)
        self.clients.append(client)
        if self.listener.tls is not None:
            client.stream = trio.SSLStream(tcp, trusting(self.certificate), server_hostname="127.0.0.1", https_compatible=True)
            await client.stream.do_handshake()
        return client

    async def busy(self, count: int) -> None:
        """Wait until so many connections have a request in progress."""
        while len(self.listener.connections) - len(self.listener.shared.heads) != count:
            await trio.testing.wait_all_tasks_blocked(0.01)

    async def connect_from(self, source: str) -> Client:
        """Open a connection from one of the loopback's other addresses, without TLS."""
        address = self.listener.addresses[0]
        tcp = await trio.open_tcp_stream(address.host, address.port, local_address=source)
        self.clients.append(Client(tcp, tcp))
        return self.clients[-1]

    async def reader(self, request: bytes) -> Client:
        """Ask from a socket whose kernel takes little that is not read, and read nothing."""
        sock = trio.socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        await sock.connect((self.listener.addresses[0].host, self.listener.addresses[0].port))
        tcp = trio.SocketStream(sock)
        self.clients.append(Client(tcp, tcp))
        await tcp.send_all(request)
        return self.clients[-1]

    async def gone(self) -> None:
        """Close all clients and wait until nothing is left of them."""
        for client in self.clients:
            client.close()
        while self.listener.open or self.listener.connections:
            await trio.testing.wait_all_tasks_blocked(0.01)
        assert not self.listener.shared.heads
        assert not self.listener.shared.readers

    @property
    def refused(self) -> dict[str, int]:
        """What was refused so far, by kind."""
        return self.listener.shared.refusals.counts

    async def ask(self, request: bytes, method: str = "GET") -> Reply:
        """Send one request on a connection of its own."""
        return await (await self.connect()).ask(request, method)


@pytest.fixture(scope="session")
def loopback(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """Kanidm's certificate and key."""
    directory = tmp_path_factory.mktemp("loopback")
    pair = directory / "chain.pem", directory / "key.pem"
    make_loopback(*pair)
    return pair


@pytest.fixture
async def kanidm(nursery: trio.Nursery, loopback: Pair) -> FakeKanidm:
    """The scripted server, listening."""
    server = FakeKanidm(*loopback)
    await nursery.start(server.run)
    return server


@pytest.fixture
async def make_front(nursery: trio.Nursery, kanidm: FakeKanidm, loopback: Pair) -> AsyncIterator[Callable[..., Awaitable[Front]]]:
    """A function that starts a front."""
    fronts: list[Front] = []

    async def make(tls: ssl.SSLContext | None = None, host: str = "127.0.0.1") -> Front:
        front = Front(kanidm, UpstreamPin(loopback[0]), nursery, loopback[0])
        fronts.append(front)
        await front.start(tls, host)
        return front

    with trio.fail_after(20):
        yield make
    for front in fronts:
        for client in front.clients:
            client.close()
        front.pool.child_ended()


@pytest.fixture
async def front(make_front: Callable[..., Awaitable[Front]]) -> Front:
    """A front without TLS before the scripted server."""
    return await make_front()


class Lines(logging.Handler):
    """Every line that the front logs, as JSON text."""

    def __init__(self) -> None:
        super().__init__(1)
        self.setFormatter(JsonFormatter())
        self.text: list[str] = []
        self.records: list[dict[str, Any]] = []
        self._more = trio.Event()

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the line."""
        self.text.append(self.format(record))
        self.records.append({"msg": record.getMessage(), "name": record.name, **getattr(record, "fields", {})})
        if trio.lowlevel.in_trio_run():
            self._more.set()

    async def requests(self, count: int) -> list[dict[str, Any]]:
        """Return the canonical lines, once there are ``count`` of them: a line is written after its answer was sent."""
        while len(found := [record for record in self.records if record["name"] == "kiwi_id.access"]) < count:
            self._more = trio.Event()
            await self._more.wait()
        assert len(found) == count
        return found


@pytest.fixture
def lines() -> Iterator[Lines]:
    """All that is logged from here on, at the most talkative level."""
    handler, logger = Lines(), logging.getLogger("kiwi_id")
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(1)
    yield handler
    logger.removeHandler(handler)
    logger.setLevel(before)
