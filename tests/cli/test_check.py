"""``kiwi-id check`` as a process: each thing that would stop a start is found, and nothing is changed by looking."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from kiwi_id import config
from kiwi_id.cli.check import table
from kiwi_id.errors import Exit
from kiwi_id.instance import certs, keys, layout
from kiwi_id.instance.checks import Finding
from kiwi_id.instance.ports import free_port
from kiwi_id.values import Address

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def instance(tmp_path: Path) -> Path:
    """A whole instance with a fake kanidmd of a tested version; returns its root."""
    binary = tmp_path / "kanidmd"
    binary.write_text("#!/bin/sh\necho 'kanidmd 1.5.0 abc'\n")
    binary.chmod(0o755)
    listen, upstream = Address("127.0.0.1", free_port()), Address("127.0.0.1", free_port())
    options = layout.Options(upstream_bin=binary, key_type="es256", listen=listen, upstream=upstream)
    layout.create(tmp_path / "i", options)
    return tmp_path / "i"


def run(instance: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Run the real command on the instance."""
    command = [sys.executable, "-m", "kiwi_id", "check", "--config", str(instance / "etc/kiwi/config.toml"), *options]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)


def check(instance: Path, *options: str) -> dict[str, Any]:
    """Run it with --json; exit code and 'ok' must agree, and nothing may be on stderr."""
    done = run(instance, "--json", *options)
    assert done.stderr == ""
    report: dict[str, Any] = json.loads(done.stdout)
    assert done.returncode == (Exit.OK if report["ok"] else Exit.CONFIG)
    return report


def bad(instance: Path, *options: str, status: str = "wrong") -> list[tuple[str, str]]:
    """Return (area, message) of each finding of ``status``."""
    findings = check(instance, *options)["findings"]
    return [(finding["area"], finding["message"]) for finding in findings if finding["status"] == status]


def edit(file: Path, old: str, new: str) -> None:
    """Replace text that must be there."""
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


def test_a_good_instance(instance: Path) -> None:
    """Every area is reported as ok, exit code 0, and no file has changed."""
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in instance.rglob("*") if path.is_file()}
    report = check(instance)
    assert {finding["status"] for finding in report["findings"]} == {"ok"}
    areas = ["config", "server.toml", "binary", "signing keys", "listener TLS", "upstream TLS", "ports", "ports"]
    areas += ["privileges", "privileges", "directories"]
    assert [finding["area"] for finding in report["findings"]] == areas
    assert {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in instance.rglob("*") if path.is_file()} == before


def test_the_table_for_people(instance: Path) -> None:
    """One aligned line for each finding, the sum last, no colour codes when it is no terminal."""
    done = run(instance)
    assert done.returncode == Exit.OK
    assert "signing keys  ok     " in done.stdout
    assert done.stdout.endswith("Nothing wrong, 0 warnings: Kiwi ID can start.\n")
    assert "\x1b" not in done.stdout


def test_table_folds_long_messages_and_marks_with_colour() -> None:
    """Lines stay within the width, continued under their text; a path is never broken."""
    path = "/var/lib/" + "x" * 70
    text = table([Finding("ports", "wrong", f"one two three four {path} five six")], width=60, colour=True)
    assert "\x1b[31mWRONG\x1b[0m" in text
    assert path in text
    assert "\n              five six" in text
    assert "1 wrong, 0 warnings: Kiwi ID would not start." in text


def test_everything_wrong_is_told_in_one_run(instance: Path, tmp_path: Path) -> None:
    """A port that is taken, a swapped binary, an open key, a bind address elsewhere, missing directories: all at once."""
    server = instance / "opt/upstream/etc/server.toml"
    instance_config = config.load(instance / "etc/kiwi/config.toml")
    edit(server, f'bindaddress = "{instance_config.upstream_addr}"', 'bindaddress = "127.0.0.1:1"')
    edit(server, 'domain = "localhost"', 'domain = "other.example"')
    edit(server, "https://localhost", "https://id.other.example")
    (tmp_path / "kanidmd").write_text("#!/bin/sh\necho 'kanidmd 1.5.0 evil'\n")
    (instance / "etc/kiwi/jwt-private.pem").chmod(0o644)
    (instance / "var/log/kiwi").rmdir()
    (instance / "var/lib/upstream").rmdir()
    with socket.create_server(("127.0.0.1", instance_config.listen_addr.port)):
        found = bad(instance)
        warned = bad(instance, status="warning")
    words = {
        "server.toml": "an address that serves upstream_addr",
        "binary": "If you replaced kanidmd on purpose, run 'kiwi-id pin'",
        "signing keys": "mode 0644",
        "ports": "address already in use",
        "directories": "which does not exist",
    }
    for area, text in words.items():
        assert any(text in message for there, message in found if there == area), (area, found)
    assert sum(area == "directories" for area, _ in found) == 1
    assert any("var/log/kiwi, which does not exist" in message for area, message in warned if area == "directories")


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("https://localhost:", "http://localhost:", "must begin with https://"),
        ('domain = "localhost"', 'domain = "example.com"', "the domain itself"),
        ("db_path = ", "# db_path = ", "db_path: found nothing"),
        ("log_level", "log_level = =", "TOML syntax error"),
    ],
)
def test_server_toml(instance: Path, old: str, new: str, words: str) -> None:
    """What our part needs of server.toml; the rest of the check still runs."""
    edit(instance / "opt/upstream/etc/server.toml", old, new)
    found = bad(instance)
    assert [area for area, _ in found] == ["server.toml"]
    assert words in found[0][1]


def test_a_wrong_origin_hides_nothing_else(instance: Path) -> None:
    """What does not fit config.toml, the warnings, and a missing directory are told in the same run."""
    server = instance / "opt/upstream/etc/server.toml"
    edit(server, "https://localhost:", "http://localhost:")
    edit(server, "127.0.0.1:", "127.0.0.2:")
    edit(server, "trust_x_forward_for", "trust_x_forwarded_for")
    (instance / "var/lib/upstream").rmdir()
    assert [area for area, _ in bad(instance)] == ["server.toml", "server.toml", "directories"]
    warned = [message for _, message in bad(instance, status="warning")]
    assert any("is not believed" in message for message in warned)
    assert any("Did you mean 'trust_x_forward_for'?" in message for message in warned)


def test_config_problems_come_all_at_once(instance: Path) -> None:
    """Without a configuration there is nothing else to look at; its problems carry their parts in JSON."""
    (instance / "etc/kiwi/config.toml").write_text('log_level = "loud"\nlisten = 1\n')
    problems = [finding["problem"] for finding in check(instance)["findings"]]
    assert {problem["key"] for problem in problems} == {"log_level", "listen"}
    assert all(problem["where"].rpartition(":")[2] in ("1", "2") for problem in problems)


def test_format_2_needs_kanidm_1_6(instance: Path) -> None:
    """1.5.0 refuses the newer format of server.toml with an error that is easily overlooked."""
    server = instance / "opt/upstream/etc/server.toml"
    server.write_text('version = "2"\n' + server.read_text().replace("trust_x_forward_for = true", ""))
    assert any("kanidmd 1.5.0 does not know" in message for _, message in bad(instance))


def test_untested_binary_and_missing_pin(instance: Path, tmp_path: Path) -> None:
    """Untested: wrong, or a warning when allowed. Not pinned: a warning."""
    (tmp_path / "kanidmd").write_text("#!/bin/sh\necho 'kanidmd 1.7.0'\n")
    (instance / "etc/kiwi/compatibility.toml").unlink()
    assert "untested version" in bad(instance)[0][1]
    assert bad(instance, "--allow-untested") == []
    words = " ".join(message for _, message in bad(instance, "--allow-untested", status="warning"))
    assert "kanidmd 1.7.0, untested but allowed" in words
    assert "without a pin" in words


def test_keys_and_certificates_that_do_not_match(instance: Path, tmp_path: Path) -> None:
    """Exchanged halves of signing keys and of TLS files are found."""
    keys.generate_pair(tmp_path / "x", instance / "etc/kiwi/jwt-public.pem", kind="es256")
    certs.make_loopback(tmp_path / "y", instance / "opt/upstream/etc/loopback-key.pem")
    assert [area for area, _ in bad(instance)] == ["signing keys", "listener TLS", "upstream TLS"]


def test_an_ended_certificate_of_the_listener_is_a_warning(instance: Path, tmp_path: Path) -> None:
    """Kiwi ID starts and serves with it, so nothing says otherwise; what clients make of it, and what to do, is told.

    One that it shares with the loopback, as 'kiwi-id init' has it, is renewed at the start, and no matter.
    """
    ours = config.load(instance / "etc/kiwi/config.toml")
    assert ours.tls_cert
    assert ours.tls_key
    certs.make_loopback(ours.tls_cert, ours.tls_key, now=datetime.now(UTC) - certs.VALIDITY)
    assert (bad(instance), bad(instance, status="warning")) == ([], [])
    chain, key = tmp_path / "c.pem", tmp_path / "k.pem"
    certs.make_loopback(chain, key, now=datetime.now(UTC) - certs.VALIDITY - timedelta(days=1))
    file = instance / "etc/kiwi/config.toml"
    settings = file.read_text()
    edit(file, f'tls_cert = "{config.load(file).tls_cert}"', f'tls_cert = "{chain}"')
    edit(file, f'tls_key = "{config.load(file).tls_key}"', f'tls_key = "{key}"')
    assert file.read_text() != settings
    assert bad(instance) == []
    ((area, message),) = bad(instance, status="warning")
    assert area == "listener TLS"
    assert "a certificate that ended" in message
    assert "Renew it, then: kiwi-id reload. It is served all the same" in message


def test_an_address_of_another_machine(instance: Path) -> None:
    """The bridge's address is missing on this machine (192.0.2.0/24 is nobody's, RFC 5737)."""
    listen = config.load(instance / "etc/kiwi/config.toml").listen_addr
    edit(instance / "etc/kiwi/config.toml", f'listen_addr = "{listen}"', 'listen_addr = "192.0.2.1:8443"')
    ((area, message),) = bad(instance)
    assert area == "ports"
    assert "No interface of this machine has the address" in message


@contextlib.contextmanager
def control(path: Path, answer: Callable[[bytes], bytes]) -> Iterator[None]:
    """Serve one connection on a Unix socket with ``answer``, as the supervisor's control socket does."""
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()

        def serve() -> None:
            client, _ = server.accept()
            with client, client.makefile("rb") as lines:
                client.sendall(answer(lines.readline()))

        thread = threading.Thread(target=serve)
        thread.start()
        yield
        thread.join()


def test_ports_in_use_by_a_running_kiwi_id_are_fine(instance: Path) -> None:
    """With a supervisor that answers on the control socket, taken ports are its own, and the check of a live machine is green."""
    made = config.load(instance / "etc/kiwi/config.toml")
    asked: list[bytes] = []

    def answer(line: bytes) -> bytes:
        asked.append(line)
        return b'{"ok": true, "pid": 4711}\n'

    with socket.create_server(("127.0.0.1", made.listen_addr.port)), control(made.control_socket, answer):
        report = check(instance)
    assert report["ok"]
    messages = [finding["message"] for finding in report["findings"] if finding["area"] == "ports"]
    assert messages[0] == f"{made.listen_addr}: in use by a running Kiwi ID (process 4711)"
    assert json.loads(asked[0]) == {"command": "status"}


HOLD = """
import socket, sys, time
held = socket.create_server(("127.0.0.1", int(sys.argv[1])))
open("/proc/self/comm", "w").write(sys.argv[2])
print("held", flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize(("name", "fine"), [("systemd", True), ("nginx", False)])
def test_a_port_that_systemd_holds(instance: Path, name: str, fine: bool) -> None:
    """With socket activation the port is taken before the start, and that is as it should be; by another program it is not."""
    listen = config.load(instance / "etc/kiwi/config.toml").listen_addr
    command = [sys.executable, "-c", HOLD, str(listen.port), name]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as holder:
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline() == b"held\n"
            report = check(instance)
        finally:
            holder.kill()
    assert report["ok"] is fine
    message = next(finding["message"] for finding in report["findings"] if finding["area"] == "ports")
    assert ("held by systemd" in message) is fine
    assert ("address already in use" in message) is not fine


def test_another_program_on_the_control_socket_is_not_kiwi_id(instance: Path) -> None:
    """Whatever answers something else does not make a taken port ours."""
    made = config.load(instance / "etc/kiwi/config.toml")
    with (
        socket.create_server(("127.0.0.1", made.listen_addr.port)),
        control(made.control_socket, lambda _: b"SSH-2.0\n"),
    ):
        assert [area for area, _ in bad(instance)] == ["ports"]


def test_runtime_dir_need_not_exist_yet(instance: Path) -> None:
    """/run is empty after a boot: its parent is what must be writable."""
    (instance / "run/kiwi").rmdir()
    assert bad(instance) == []


def test_directories_that_may_not_be_written(instance: Path) -> None:
    """Read-only directories are found before kanidmd trips over them; one for logs alone stops no start, and is a warning."""
    (instance / "var/log/kiwi").chmod(0o555)
    directory = instance / "var/lib/upstream"
    directory.chmod(0o555)
    if os.access(directory, os.W_OK):
        pytest.skip("this user may write everywhere (root with CAP_DAC_OVERRIDE)")
    ((_, wrong),) = bad(instance)
    assert "var/lib/upstream, where this user may not write" in wrong
    assert any("var/log/kiwi, where this user may not write" in message for _, message in bad(instance, status="warning"))


@pytest.fixture
def modes_count() -> list[str]:
    """What to put before a command so that even root is kept out by a mode; nothing for another user."""
    if os.getuid() != 0:
        return []
    if shutil.which("setpriv") is None:
        pytest.skip("root may enter every directory, and there is no setpriv to take that away")
    # Not another user: the Python that runs the tests may lie where only root can read it.
    before = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-dac_override,-dac_read_search"]
    if subprocess.run([*before, "true"], capture_output=True, check=False).returncode:
        pytest.skip("root may enter every directory, and setpriv cannot take that away here")
    return before


@contextlib.contextmanager
def closed(*directories: Path) -> Iterator[None]:
    """Let nobody enter the directories, not even their owner."""
    modes = [directory.stat().st_mode for directory in directories]
    for directory in directories:
        directory.chmod(0)
    try:
        yield
    finally:
        for directory, mode in zip(directories, modes, strict=True):
            directory.chmod(mode)


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("var/lib/upstream", "var/lib/upstream, where this user may not write"),
        ("var/lib", "var/lib/upstream, which this user cannot look at: permission denied"),
        ("var/log/kiwi", "var/log/kiwi, where this user may not write"),
        ("var/log", "var/log/kiwi, which this user cannot look at: permission denied"),
        ("run/kiwi", "run/kiwi, where this user may not write"),
        ("run", "run, where this user may not write"),
        ("opt/upstream/bin", "bin/kanidmd: found permission denied"),
        ("opt/upstream/etc", "server.toml: found Permission denied"),
        ("etc/kiwi", "config.toml cannot be looked at" if os.getuid() else "config.toml: found Permission denied"),
    ],
)
def test_directories_that_may_not_be_entered(instance: Path, modes_count: list[str], place: str, words: str) -> None:
    """For a user who is kept out of a directory, that is a finding like any other, and exit code 78 if it would stop a start."""
    binary = instance / "opt/upstream/bin/kanidmd"
    (instance.parent / "kanidmd").rename(binary)
    edit(instance / "etc/kiwi/config.toml", str(instance.parent / "kanidmd"), str(binary))
    (instance / "var/log/kiwi/kiwi-id.log").touch()
    (instance / "var/lib/upstream/kanidm.db").touch()
    command = [*modes_count, sys.executable, "-m", "kiwi_id", "check", "--json"]
    with closed(instance / place):
        done = subprocess.run(
            [*command, "--config", str(instance / "etc/kiwi/config.toml")],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert (done.stderr, done.returncode) == ("", Exit.OK if place.startswith("var/log") else Exit.CONFIG)
    assert any(words in finding["message"] for finding in json.loads(done.stdout)["findings"]), done.stdout


def test_init_where_directories_may_not_be_entered(instance: Path, modes_count: list[str]) -> None:
    """'kiwi-id init' looks for a kanidmd and for what is there already: being kept out is told in words."""
    (instance / "etc/kiwi/config.toml").unlink()
    command = [*modes_count, sys.executable, "-m", "kiwi_id", "init", str(instance), "--key-type", "es256"]
    with closed(instance / "opt/upstream/bin", instance / "var/lib"):
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert "Traceback" not in done.stderr
    assert done.returncode == Exit.CONFIG
    assert "ermission denied" in done.stderr


def test_directory_of_the_admin_socket(instance: Path) -> None:
    """kanidmd does not make it and ends when it is missing, so one that is not runtime_dir must be there."""
    edit(instance / "opt/upstream/etc/server.toml", "run/kiwi/kanidmd.sock", "run/kanidmd/sock")
    ((area, message),) = bad(instance)
    assert area == "directories"
    assert f"adminbindpath: found {instance}/run/kanidmd, which does not exist" in message


def test_a_database_held_by_another_kiwi_id(instance: Path) -> None:
    """The lock beside the database would stop the start, so it is told, with the holder."""
    with (instance / "var/lib/upstream/kanidm.db.kiwi-lock").open("w") as lock:
        lock.write("4711\n")
        lock.flush()
        assert bad(instance) == []  # left by one that has ended
        fcntl.flock(lock, fcntl.LOCK_EX)
        ((area, message),) = bad(instance)
    assert area == "directories"
    assert "the lock of another Kiwi ID (process 4711)" in message


@pytest.mark.kanidm
def test_the_database_of_a_real_kanidmd_is_not_touched(tmp_path: Path, kanidmd: Path) -> None:
    """'kanidmd configtest' would create and migrate it; check must not."""
    listen, upstream = Address("127.0.0.1", free_port()), Address("127.0.0.1", free_port())
    options = layout.Options(upstream_bin=kanidmd, key_type="es256", listen=listen, upstream=upstream)
    layout.create(tmp_path / "i", options)
    assert bad(tmp_path / "i", "--allow-untested") == []
    assert list((tmp_path / "i/var/lib/upstream").iterdir()) == []


def test_chosen_secrets(instance: Path) -> None:
    """Clients with a chosen secret are named; a file that cannot be used, and a lack of our account, are warnings."""
    etc = layout.Places.under(instance).config.parent
    (etc / "secret").write_text("chosen-by-a-person-0123")
    (etc / "secret").chmod(0o644)
    (etc / "identities.toml").write_text(
        f'[clients.mail]\nlanding = "https://x/"\nsecret_file = "{etc}/secret"\n[clients.wiki]\nlanding = "https://y/"\n'
    )
    found = [words for area, words in bad(instance, status="warning") if area == "chosen secrets"]
    assert f"{etc}/identities.toml:1: clients.mail.secret_file: found {etc}/secret with mode 0644" in found[0]
    assert "no account of Kiwi ID's in Kanidm. Make it: kiwi-id bootstrap" in found[1]
    (etc / "secret").chmod(0o600)
    edit(etc / "config.toml", "# bootstrap = false", "bootstrap = true")
    assert ("chosen secrets", "of mail") in bad(instance, status="ok")
