"""Too few file descriptors: clients are fewer then, and kanidmd is restarted, watched and served all the same."""

from __future__ import annotations

import os
import resource
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from kiwi_id import descriptors
from kiwi_id.config import Limits
from tests.front.conftest import usual_limits
from tests.supervisor.conftest import make  # noqa: F401 - a fixture
from tests.supervisor.kiwi import Kiwi, alive, eventually

Make = Callable[..., Kiwi]


def limits(clients: int, upstream: int) -> Limits:
    """Return limits with these numbers of connections."""
    return replace(usual_limits(), max_connections=clients, upstream_connections=upstream)


@pytest.mark.parametrize(
    ("available", "clients", "upstream"),
    [(4416, 4096, 256), (4415, 4095, 256), (1024, 704, 256), (256, 128, 64), (64, 8, 16), (resource.RLIM_INFINITY, 4096, 256)],
)
def test_limits_fit_into_the_descriptors(available: int, clients: int, upstream: int) -> None:
    """Clients, connections to kanidmd and a reserve together are no more than there are; where there is room nothing changes."""
    fitted = descriptors.fit(limits(4096, 256), available)
    assert (fitted.max_connections, fitted.upstream_connections) == (clients, upstream)


@contextmanager
def crowd(port: int, size: int) -> Iterator[None]:
    """Open connections that say nothing."""
    with ExitStack() as stack:
        for _ in range(size):
            stack.enter_context(socket.create_connection(("127.0.0.1", port), 5))
        yield


def test_clients_cannot_use_up_the_descriptors(make: Make) -> None:  # noqa: F811
    """With 160 descriptors and 300 idle clients a request is answered, and a kanidmd that is killed meanwhile is restarted."""
    kiwi = make()
    kiwi.start_ready(before=["sh", "-c", 'ulimit -n 160; exec "$0" "$@"'])
    (told,) = kiwi.logs(msg="limits are lowered to the file descriptors that there are: raise LimitNOFILE (systemd) or 'ulimit -n'")
    assert (told["descriptors"], told["max_connections"], told["upstream_connections"]) == (160, 56, 40)
    with crowd(kiwi.port, 300):
        assert kiwi.get()[0] == 200
        old = kiwi.child_pid()
        os.kill(old, signal.SIGKILL)
        assert kiwi.get()[0] == 200
        assert kiwi.child_pid() != old
        assert len(list(Path(f"/proc/{kiwi.process.pid}/fd").iterdir())) < 160
    assert kiwi.stop() == 0
    assert not [record for record in kiwi.logs() if "Too many open files" in str(record)]


def test_no_descriptor_at_all(make: Make) -> None:  # noqa: F811
    """When nothing can be opened, kanidmd is neither blamed nor given up: what serves goes on, and what died comes back after."""
    kiwi = make()
    kiwi.start_ready()
    kiwi.set(health_check_interval="50ms", health_check_timeout="300ms")
    assert kiwi.ask("reload")["ok"]  # so everything is loaded
    life = kiwi.child_pid()
    with kiwi.connection() as client:
        client.request("GET", "/x")
        assert client.getresponse().read() == b"life 0"
        before = resource.prlimit(kiwi.process.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(kiwi.process.pid, resource.RLIMIT_NOFILE, (3, before[1]))
        first = kiwi.wait_log("cannot ask kanidmd, for lack of our own")
        eventually(lambda: len(kiwi.logs(msg="cannot ask kanidmd, for lack of our own")) > 10, "ten times the watchdog's patience")
        assert "Too many open files" in first["error"]
        client.request("GET", "/x")
        assert client.getresponse().read() == b"life 0"
        assert alive(life)
        os.kill(life, signal.SIGKILL)
        kiwi.wait_log("kanidmd cannot be started for lack of descriptors, processes or memory; trying again")
        client.request("GET", "/x")
        resource.prlimit(kiwi.process.pid, resource.RLIMIT_NOFILE, before)
        kiwi.set(health_check_timeout="20s")  # or on a busy machine it is ended while it starts, again and again
        assert kiwi.ask("reload")["ok"]
        assert client.getresponse().read() == b"life 1"
    assert kiwi.stop() == 0
    assert not kiwi.logs(msg="child unhealthy")
    assert not [record for record in kiwi.logs() if "traceback" in record]


def test_the_accept_loop_complains_rarely(make: Make) -> None:  # noqa: F811
    """A client that cannot be accepted is said once and not ten times a second, and is served once it can be."""
    kiwi = make()
    kiwi.start_ready()
    assert kiwi.ask("reload")["ok"]  # so everything is loaded
    before = resource.prlimit(kiwi.process.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(kiwi.process.pid, resource.RLIMIT_NOFILE, (3, before[1]))
    with kiwi.connection() as client:
        client.request("GET", "/x")
        eventually(lambda: kiwi.logs(component="trio.serve_listeners"), "the complaint")
        ends = time.monotonic() + 0.5
        eventually(lambda: time.monotonic() > ends, "five tries to accept")
        resource.prlimit(kiwi.process.pid, resource.RLIMIT_NOFILE, before)
        assert client.getresponse().status == 200
    assert kiwi.stop() == 0
    (told,) = kiwi.logs(component="trio.serve_listeners")
    assert "Too many open files" in told["msg"]
    assert "traceback" not in told
