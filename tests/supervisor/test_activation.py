"""Socket activation: the sockets are held by another, and Kiwi ID is restarted under load without a refused connection."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.supervisor.kiwi import Kiwi, alive, eventually
from tests.supervisor.test_restart import Load

ACTIVATE = str(Path(__file__).with_name("activate.py"))


class Holder:
    """Who holds the socket: this process, in the place of systemd."""

    def __init__(self, kiwi: Kiwi) -> None:
        self.kiwi = kiwi
        self.socket = socket.create_server(("127.0.0.1", kiwi.port), backlog=1024)

    def start(self, names: str = "front", *others: int) -> None:
        """Start Kiwi ID with the socket (and other descriptors behind it)."""
        numbers = [self.socket.fileno(), *others]
        before = [sys.executable, ACTIVATE, names, ",".join(map(str, numbers))]
        self.kiwi.start(before=before, pass_fds=numbers)


@pytest.fixture
def holder(kiwi: Kiwi) -> Iterator[Holder]:
    """A holder of the socket of an instance that is not started."""
    made = Holder(kiwi)
    yield made
    made.socket.close()


class FreshLoad(Load):
    """The same without kept connections: one that is idle may be closed at any time, and a client knows that."""

    def _keep_getting(self) -> None:
        self._get()

    def _post(self, name: str) -> None:
        count = 0
        while not self._over.is_set():
            count += 1
            with self._lock:
                self.posted.append(f"{name}-{count}")
            try:
                with self.kiwi.connection() as connection:
                    connection.request("POST", "/slow?s=0.01", body=f"{name}-{count}")
                    self._note("post", connection.getresponse().status)
            except OSError as error:
                self._note("post", repr(error))


def test_no_connection_is_refused_while_it_restarts(holder: Holder) -> None:
    """Stopped and started three times under load, as 'systemctl restart' does: every request is answered with 200.

    Each of them on a connection of its own: those that come while nobody accepts wait in the backlog of the socket.
    """
    kiwi = holder.kiwi
    holder.start()
    load = FreshLoad(kiwi)
    with load.running():
        for _ in range(3):
            load.more(50)
            assert kiwi.stop() == 0
            holder.start()
        load.more(50)
    assert {outcome for _, outcome in load.answers} == {200}, load.answers
    assert len(kiwi.events("post")) == len(load.posted)
    assert kiwi.stop() == 0
    with socket.create_connection(("127.0.0.1", kiwi.port)):  # by the holder's socket: the stop has not shut it
        pass


def test_the_next_serves_while_the_old_drains(holder: Holder) -> None:
    """Started before the old one is told to stop: it accepts at once, answers what needs no kanidmd, and holds the rest.

    The request that runs on the old one is answered by the old kanidmd, one that comes meanwhile by the next.
    """
    kiwi = holder.kiwi
    holder.start()
    kiwi.wait_log("ready", component="supervisor")
    old = kiwi.process
    answers: dict[str, tuple[int, str]] = {}

    def get(path: str) -> threading.Thread:
        thread = threading.Thread(target=lambda: answers.update({path: kiwi.get(path)}))
        thread.start()
        return thread

    slow = get("/slow?s=4")
    kiwi.wait_event("request")
    holder.start()
    kiwi.wait_log("listening", 2)
    old.send_signal(signal.SIGTERM)
    kiwi.wait_log("stopping", component="signals")
    late = get("/late")
    # Both accept for a moment: asked until it is the next that answers, which it does while the old one still drains.
    eventually(lambda: '"waiting"' in kiwi.get("/readyz")[1], "the next one's own answer")
    assert kiwi.get("/.well-known/openid-configuration")[0] == 200
    assert old.poll() is None
    slow.join()
    late.join()
    assert old.wait() == 0
    assert answers == {"/slow?s=4": (200, "life 0"), "/late": (200, "life 1")}
    assert kiwi.ask()["pid"] == kiwi.process.pid
    assert kiwi.stop() == 0


def test_a_stop_while_the_old_one_still_has_the_database(holder: Holder) -> None:
    """TERM to one that waits for its predecessor's lock ends it at once with 0, and the predecessor serves on."""
    kiwi = holder.kiwi
    holder.start()
    kiwi.wait_log("ready", component="supervisor")
    old, child = kiwi.process, kiwi.child_pid()
    holder.start()
    kiwi.wait_log("listening", 2)
    assert kiwi.stop() == 0
    assert alive(child)
    assert kiwi.get() == (200, "life 0")
    old.send_signal(signal.SIGTERM)
    assert old.wait() == 0


def test_kanidmd_gets_neither_socket_nor_variables(holder: Holder) -> None:
    """A kanidmd that inherited the socket would keep it from ever closing, and could accept passwords from clients."""
    kiwi = holder.kiwi
    holder.start()
    kiwi.wait_log("ready", component="supervisor")
    inode = f"socket:[{os.fstat(holder.socket.fileno()).st_ino}]"
    assert inode in _descriptors(kiwi.process.pid)
    assert inode not in _descriptors(kiwi.child_pid())
    assert not [name for name in kiwi.events("start")[0]["env"] if name.startswith("LISTEN_")]


def _descriptors(pid: int) -> list[str]:
    return [str(entry.readlink()) for entry in Path(f"/proc/{pid}/fd").iterdir()]


def test_variables_for_another_process_are_not_ours(kiwi: Kiwi) -> None:
    """LISTEN_PID of another process, such as the shell that started us: Kiwi ID binds listen_addr itself."""
    kiwi.start_ready(environ={"LISTEN_FDS": "1", "LISTEN_PID": str(os.getpid()), "LISTEN_FDNAMES": "front"})
    assert kiwi.get()[0] == 200
    assert not [name for name in kiwi.events("start")[0]["env"] if name.startswith("LISTEN_")]


def _udp() -> socket.socket:
    return socket.socket(type=socket.SOCK_DGRAM)


def _unix() -> socket.socket:
    return socket.socket(socket.AF_UNIX)


def _silent() -> socket.socket:
    return socket.socket()


@pytest.mark.parametrize(
    ("make_socket", "names", "said"),
    [
        (_udp, "front:front", "descriptor 4 (front), which cannot be used: not a tcp socket"),
        (_unix, "front:front", "not a tcp socket"),
        (_silent, "front:front", "a socket that does not listen"),
        (_silent, "front:other", "descriptor 4 (other), which cannot be used: kiwi id knows no socket of that name"),
    ],
    ids=["udp", "unix", "silent", "name"],
)
def test_what_cannot_be_used_is_told(holder: Holder, make_socket: Callable[[], socket.socket], names: str, said: str) -> None:
    """A descriptor that is no listening TCP socket of ours: 78 and which, before kanidmd is started."""
    with make_socket() as other:
        holder.start(names, other.fileno())
        assert holder.kiwi.wait() == 78
    assert said in holder.kiwi.text()
    assert not holder.kiwi.events("start")


def test_what_has_no_name_is_told(holder: Holder) -> None:
    """More descriptors than names: those that have one are served, and a line says that the others are not."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        holder.start("front", other.fileno())
        holder.kiwi.wait_log("ready", component="supervisor")
    assert holder.kiwi.get()[0] == 200
    (told,) = holder.kiwi.logs(msg="more sockets were handed over than have a name: the others are not used")
    assert (told["count"], told["names"]) == (2, ["front"])


def test_a_descriptor_that_is_not_there_is_told(kiwi: Kiwi) -> None:
    """LISTEN_FDS counts more than there are: 78, not a traceback."""
    script = "import os, sys; os.environ.update(LISTEN_FDS='1', LISTEN_PID=str(os.getpid())); os.execv(sys.argv[1], sys.argv[1:])"
    kiwi.start(before=[sys.executable, "-c", script])
    assert kiwi.wait() == 78
    assert "descriptor 3, which cannot be used: " in kiwi.text()
    assert "Traceback" not in kiwi.text()


def test_a_socket_elsewhere_than_listen_addr_is_served_and_told(kiwi: Kiwi) -> None:
    """The socket unit decides where to listen; the log says that listen_addr differs, since 'kiwi-id health' goes by that."""
    holder = Holder(kiwi)
    kiwi.set(listen_addr="127.0.0.1:1")
    with holder.socket:
        holder.start()
        kiwi.wait_log("ready", component="supervisor")
        assert kiwi.get()[0] == 200
        assert kiwi.logs(msg="the sockets handed over decide, not listen_addr", listen_addr="127.0.0.1:1")
