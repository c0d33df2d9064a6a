"""Starting: the order, readiness, and every reason not to start."""

from __future__ import annotations

import os
import re
import signal
import socket
from collections.abc import Callable

import pytest

from kiwi_id.instance import certs
from tests.supervisor.kiwi import Kiwi, alive, eventually

Make = Callable[..., Kiwi]


def test_start_order_is_the_documented_one(kiwi: Kiwi) -> None:
    """The child is spawned before the front listens, and Kiwi ID is ready only after the child has really answered."""
    kiwi.start_ready()
    messages = [(record["component"], record["msg"]) for record in kiwi.logs()]
    order = [("child", "child starting"), ("front", "listening"), ("child", "child ready"), ("supervisor", "ready")]
    assert [message for message in messages if message in order] == order
    assert kiwi.get("/readyz")[0] == 200
    assert kiwi.get("/hello") == (200, "life 0")
    assert kiwi.stop() == 0


def test_a_request_before_readiness_waits_and_is_served(kiwi: Kiwi) -> None:
    """The front listens while kanidmd boots: a request that comes then is answered by kanidmd, not refused."""
    kiwi.behave({"held": True})
    kiwi.start()
    kiwi.wait_log("listening")
    assert kiwi.get("/readyz")[0] == 503
    with kiwi.connection() as client:
        client.request("GET", "/hello")
        eventually(lambda: kiwi.ask()["waiting"] == 1, "the request waits")
        kiwi.go()
        assert client.getresponse().read() == b"life 0"


def test_a_kanidmd_that_presents_another_certificate_is_never_ready(kiwi: Kiwi, make: Make) -> None:
    """Readiness is an answer over the *pinned* TLS: a program that answers with another certificate is not kanidmd."""
    other = make()
    kiwi.set(health_check_timeout="1s")
    kiwi.behave({"never_ready": True})
    # The other instance's scripted kanidmd answers on our upstream port, with its own certificate.
    server = other.places.upstream_config
    server.write_text(server.read_text().replace(str(other.upstream_port), str(kiwi.upstream_port)))
    other.set(upstream_addr=f"https://127.0.0.1:{kiwi.upstream_port}")
    certs.make_loopback(other.places.chain, other.places.key)
    other.start_ready()
    kiwi.start()
    assert kiwi.wait() == 69
    assert not kiwi.logs(msg="child ready")


@pytest.mark.parametrize("behaviour", [{"never_ready": True}, {"hang": True}], ids=["silent", "hanging"])
def test_no_answer_in_time_ends_with_69_and_the_last_lines(kiwi: Kiwi, behaviour: dict[str, bool]) -> None:
    """Without an answer within health_check_timeout Kiwi ID ends with 69 and shows the child's last 20 lines, no more."""
    kiwi.set(health_check_timeout="3s")  # time enough, also on a busy machine, to print its lines
    kiwi.behave({**behaviour, "print": [f"line {number}." for number in range(30)]})
    kiwi.start()
    assert kiwi.wait() == 69
    words = kiwi.text().partition("kiwi-id run: ")[2]
    assert "did not answer within health_check_timeout (3 s)" in words
    assert re.findall(r"line (\d+)\.", words) == [str(number) for number in range(10, 30)]
    assert len(kiwi.events("start")) == 1
    assert not alive(kiwi.events("start")[0]["pid"])


def test_everything_that_is_wrong_is_told_at_once(kiwi: Kiwi) -> None:
    """A taken port, a missing binary and a missing server.toml together: exit 78, each named, and no process started."""
    kiwi.set(upstream_bin="/nowhere/kanidmd", upstream_config="/nowhere/server.toml")
    with socket.create_server(("127.0.0.1", kiwi.port)):
        kiwi.start()
        assert kiwi.wait() == 78
    words = kiwi.text().partition("kiwi-id run: ")[2]
    assert "/nowhere/kanidmd: found no such file" in words
    assert "/nowhere/server.toml: found no such file" in words
    assert f"127.0.0.1:{kiwi.port}: listen_addr: found Address already in use" in words
    assert "Another program listens there" in words
    assert len(words.strip().splitlines()) == 3


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"listen_addr": "192.0.2.1:8443"}, "This machine has no such address yet"),
        ({"runtime_dir": "/proc/nowhere"}, "runtime_dir"),
        ({"log_level": "loud"}, '"error", "warn", "info", "debug", "trace"'),
        ({"tls_cert": "/nowhere/c.pem", "tls_key": "/nowhere/k.pem"}, "/nowhere/c.pem: tls_cert: found files that cannot be used"),
    ],
    ids=["address", "runtime-dir", "log-level", "tls"],
)
def test_a_bad_setting_ends_with_78_and_says_which(kiwi: Kiwi, settings: dict[str, str], said: str) -> None:
    """A setting that cannot work ends the start with 78, the key's name and what to do, and leaves no process."""
    kiwi.set(**settings)
    kiwi.start()
    assert kiwi.wait() == 78
    assert said in kiwi.text()
    assert "Traceback" not in kiwi.text()
    assert not kiwi.events("start")


def test_a_missing_config_is_told(kiwi: Kiwi) -> None:
    """Without a config file: 66, its name and how to make one."""
    kiwi.config.unlink()
    kiwi.start()
    assert kiwi.wait() == 66
    assert f"{kiwi.config}: found no such file" in kiwi.text()
    assert "kiwi-id init" in kiwi.text()


def test_a_swapped_binary_is_refused(kiwi: Kiwi) -> None:
    """Bytes other than those that were pinned are not started: 78, both checksums, and what to do."""
    with kiwi.places.upstream_bin.open("a") as file:
        file.write("# swapped\n")
    kiwi.start()
    assert kiwi.wait() == 78
    assert "kiwi-id pin" in kiwi.text()
    assert not kiwi.events("start")


def test_the_environment_of_the_child_is_scrubbed(kiwi: Kiwi) -> None:
    """kanidmd gets what it needs. KANIDM_* would override server.toml, NOTIFY_SOCKET let it speak for us, others hold secrets."""
    needed = {"TZ": "UTC", "LC_ALL": "C.UTF-8", "RUST_LOG": "info", "SSL_CERT_FILE": "/ca.pem", "HTTPS_PROXY": "http://192.0.2.1"}
    others = (
        "KANIDM_DOMAIN",
        "NOTIFY_SOCKET",
        "WATCHDOG_USEC",
        "AWS_SECRET_ACCESS_KEY",
        "KIWI_CONFIG",
        "PYTHONHASHSEED",
        "SUDO_USER",
    )
    kiwi.start_ready(environ=needed | dict.fromkeys(others, "123456789"))
    [start] = kiwi.events("start")
    assert needed.items() <= start["env"].items()
    assert start["env"]["PATH"] == os.environ["PATH"]
    assert set(start["env"]).isdisjoint(others)
    assert "PYTEST_CURRENT_TEST" not in start["env"]
    assert start["argv"][1:] == ["server", "-c", str(kiwi.places.upstream_config)]
    assert start["group"] == start["pid"]


def test_the_child_dies_with_a_killed_kiwi_id(kiwi: Kiwi) -> None:
    """A kanidmd without a supervisor would hold port and database: the kernel ends it with us, and a new start works at once."""
    kiwi.start_ready()
    child = kiwi.child_pid()
    kiwi.signal(signal.SIGKILL)
    assert kiwi.wait() == -signal.SIGKILL
    kiwi.start()
    kiwi.wait_log("ready", 2, component="supervisor")
    assert not alive(child)
    assert kiwi.stop() == 0


def test_a_second_instance_on_one_database_is_refused(kiwi: Kiwi, make: Make) -> None:
    """Kanidm's own lock protects nothing. Ours names the other process and the file, and the first serves on."""
    other = make()
    server = other.places.upstream_config
    server.write_text(server.read_text().replace(str(other.places.database), str(kiwi.places.database)))
    kiwi.start_ready()
    other.start()
    assert other.wait() == 78
    assert f"in use by another Kiwi ID (process {kiwi.process.pid}" in other.text()
    assert not other.events("start")
    assert kiwi.get()[0] == 200


def test_an_internal_error_ends_with_70_and_leaves_nothing(kiwi: Kiwi) -> None:
    """A bug of ours is logged with its traceback, ends with 70, and takes kanidmd and its grandchildren with it."""
    kiwi.behave({"grandchild": "session"})
    bug = (
        "import sys, trio, kiwi_id.watchdog\n"
        "async def watch(*, task_status, **_):\n"
        "    task_status.started(); await trio.sleep(0.5); raise ZeroDivisionError('a bug')\n"
        "kiwi_id.watchdog.watch = watch\n"
        "from kiwi_id.cli import main\n"
        "sys.exit(main())\n"
    )
    kiwi.start(program=("-c", bug))
    assert kiwi.wait() == 70
    [record] = kiwi.logs(msg="internal error")
    assert "ZeroDivisionError: a bug" in record["traceback"]
    assert not [event for event in kiwi.events() if alive(event["pid"])]
