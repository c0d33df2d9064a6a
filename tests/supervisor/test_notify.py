"""sd_notify, heard on a datagram socket of the test's own: READY, RELOADING, STOPPING, STATUS and the watchdog."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable, Iterator

import pytest

from kiwi_id.notify import Notifier
from tests.supervisor.kiwi import PATIENCE, Kiwi

Make = Callable[..., Kiwi]


class Manager:
    """The service manager's end: ``wait`` returns the next datagram that begins so, ``seen`` holds all so far."""

    def __init__(self, name: str) -> None:
        self.environ = {"NOTIFY_SOCKET": name}
        self.seen: list[dict[str, str]] = []
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind("\0" + name[1:] if name.startswith("@") else name)
        self.socket.settimeout(PATIENCE)

    def next(self) -> dict[str, str]:
        """Return the next datagram as a mapping."""
        datagram = self.socket.recv(65536).decode()
        self.seen.append(dict(line.split("=", 1) for line in datagram.split("\n")))
        return self.seen[-1]

    def wait(self, key: str, value: str = "1") -> dict[str, str]:
        """Return the next datagram with this assignment."""
        while (found := self.next()).get(key) != value:
            pass
        return found

    def said(self, key: str) -> bool:
        """Tell whether any datagram so far has had this key."""
        return any(key in datagram for datagram in self.seen)


@pytest.fixture
def manager(kiwi: Kiwi) -> Iterator[Manager]:
    """A service manager on an abstract socket, as systemd's user manager may have; the other tests use a path."""
    made = Manager(f"@kiwi-test-{os.getpid()}-{time.monotonic_ns()}")
    yield made
    made.socket.close()


def test_the_life_of_a_service_is_told(kiwi: Kiwi, manager: Manager) -> None:
    """READY after kanidmd's first real answer and not before, RELOADING and READY around a reload, STOPPING at the end."""
    kiwi.behave({"ready_after": 0.5})
    kiwi.start(environ=manager.environ)
    ready = manager.wait("READY")
    assert time.monotonic() >= kiwi.events("ready")[0]["at"]
    assert ready["STATUS"] == "kanidmd 1.5.0 is ready, restarted 0 times"

    asked = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    kiwi.signal(signal.SIGHUP)
    reloading = manager.next()
    assert reloading["RELOADING"] == "1"
    assert asked <= int(reloading["MONOTONIC_USEC"]) <= time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    assert manager.next()["READY"] == "1"

    kiwi.set(log_level="loud")
    kiwi.signal(signal.SIGHUP)
    assert manager.next()["RELOADING"] == "1"
    failed = manager.next()  # READY all the same: 'systemctl reload' waits for it
    assert (failed["READY"], failed["STATUS"]) == ("1", "reload failed, the last good configuration is in force")

    kiwi.signal(signal.SIGTERM)
    manager.wait("STOPPING")
    assert kiwi.wait() == 0
    assert not manager.said("WATCHDOG")  # nobody asked for it


def test_a_hup_during_the_start_does_not_claim_readiness(kiwi: Kiwi, manager: Manager) -> None:
    """A reload before the first readiness sends neither RELOADING nor READY: the units that wait for us would start too early."""
    kiwi.behave({"held": True, "early_hup": True})
    kiwi.start(environ=manager.environ)
    kiwi.wait_event("start")
    kiwi.wait_log("listening")
    kiwi.signal(signal.SIGHUP)
    kiwi.wait_log("reloaded")
    kiwi.go()
    manager.wait("READY")
    assert not manager.said("RELOADING")
    assert manager.seen[-1]["STATUS"] == "kanidmd 1.5.0 is ready, restarted 0 times"
    assert len(kiwi.events("ready")) == 1


def test_restarts_and_failures_are_told_in_the_status_line(kiwi: Kiwi, manager: Manager) -> None:
    """'systemctl status' shows what kanidmd does now, and at the end why Kiwi ID gave up."""
    kiwi.set(restart_limit="=1")
    kiwi.behave({"exit_after": [1, 1.3]}, {"exit": 1})
    kiwi.start(environ=manager.environ)
    manager.wait("READY")
    manager.wait("STATUS", "kanidmd 1.5.0 is backoff, restarted 1 times")
    manager.wait("STOPPING")
    while "giving up" not in manager.next().get("STATUS", ""):
        pass
    assert kiwi.wait() == 69


@pytest.mark.parametrize("tls", [False, True], ids=["http", "https"])
def test_the_watchdog_is_fed_by_probes_of_the_listener(make: Make, tls: bool) -> None:
    """WATCHDOG=1 comes again and again while the listener answers, with TLS and without, and also while kanidmd is down."""
    kiwi = make(tls=tls)
    manager = Manager(str(kiwi.directory / "notify"))
    kiwi.behave({}, {"never_ready": True})
    kiwi.start(environ={**manager.environ, "WATCHDOG_USEC": "900000"})
    manager.wait("READY")
    for _ in range(3):
        manager.wait("WATCHDOG")
    os.kill(kiwi.child_pid(), signal.SIGKILL)
    kiwi.wait_log("child starting", 2)
    for _ in range(3):
        manager.wait("WATCHDOG")
    assert kiwi.stop() == 0
    manager.socket.close()


def test_a_dead_listener_starves_the_watchdog(kiwi: Kiwi) -> None:
    """When connections are accepted and not served, no WATCHDOG=1 vouches for us, however well the event loop turns."""
    manager = Manager(str(kiwi.directory / "notify"))
    kiwi.set(shutdown_timeout="1s")
    bug = (
        "import sys, trio, kiwi_id.proxy.listener as listener\n"
        "async def serve(self, stream):\n"
        "    await trio.sleep_forever()\n"
        "listener.Listener._serve = serve\n"
        "from kiwi_id.cli import main\n"
        "sys.exit(main())\n"
    )
    kiwi.start(program=("-c", bug), environ={**manager.environ, "WATCHDOG_USEC": "600000"})
    manager.wait("READY")
    kiwi.wait_log("no keep-alive: the listener does not answer its own probe", 4)
    assert kiwi.stop() == 0
    manager.wait("STOPPING")
    assert not manager.said("WATCHDOG")
    manager.socket.close()


def test_the_notifier_takes_its_variables_out_of_the_environment() -> None:
    """kanidmd must not inherit them; a watchdog that is meant for another process is none of ours."""
    environ = {"NOTIFY_SOCKET": "/nowhere", "WATCHDOG_USEC": "2000000", "WATCHDOG_PID": str(os.getpid()), "KEPT": "1"}
    assert Notifier(environ).watchdog_period == 2.0
    assert environ == {"KEPT": "1"}
    assert Notifier({"WATCHDOG_USEC": "2000000", "WATCHDOG_PID": "1"}).watchdog_period == 0.0
    assert Notifier({"WATCHDOG_USEC": "soon"}).watchdog_period == 0.0


def test_a_notifier_without_a_listener_does_not_fail(kiwi: Kiwi) -> None:
    """A socket that is gone is a warning, and the service serves."""
    kiwi.start_ready(environ={"NOTIFY_SOCKET": "/nowhere/notify"})
    assert kiwi.logs(msg="cannot notify the service manager", level="warn")
    assert kiwi.get()[0] == 200


def test_a_status_of_several_lines_cannot_become_an_assignment(kiwi: Kiwi) -> None:
    """A message with a line break stays one STATUS: its second line would be an assignment of its own, such as READY=1."""
    manager = Manager(str(kiwi.directory / "notify"))
    Notifier(dict(manager.environ)).status("first\nREADY=1")
    assert manager.next() == {"STATUS": "first READY=1"}
    manager.socket.close()
