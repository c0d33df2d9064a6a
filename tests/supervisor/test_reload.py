"""SIGHUP and ``kiwi-id reload``: everything that can change changes, a broken file changes nothing, nobody is disturbed."""

from __future__ import annotations

import os
import signal
import socket
import ssl
import threading
import time
from collections.abc import Callable

from kiwi_id.instance import certs, keys
from tests.supervisor.kiwi import Kiwi, catches, eventually

Make = Callable[..., Kiwi]


def _reload(kiwi: Kiwi, count: int = 1) -> dict[str, object]:
    kiwi.signal(signal.SIGHUP)
    return kiwi.wait_log("reloaded", count)


def test_hup_changes_log_level_limits_proxies_and_timeouts(kiwi: Kiwi) -> None:
    """One HUP puts log level, limits, trusted proxies and timeouts in force, names them in the log, and tells kanidmd."""
    kiwi.start_ready()
    long, forwarded = {"X-Long": "x" * 3000}, {"X-Forwarded-For": "198.51.100.7"}
    assert kiwi.get("/x", long)[0] == 200
    assert "198.51.100.7" not in kiwi.get("/headers", forwarded)[1]
    changes = {"health_check_timeout": "1s", "trusted_proxies": '=["127.0.0.1"]', "shutdown_timeout": "9s", "log_level": "trace"}
    kiwi.set(**changes)
    with kiwi.config.open("a") as file:
        file.write('[limits]\nmax_header_bytes = "2KiB"\n')
    record = _reload(kiwi)
    assert set(record["changed"]) == {*changes, "limits.max_header_bytes"}  # type: ignore[call-overload]
    assert record["needs_restart"] == []
    assert kiwi.get("/x", long)[0] == 431
    assert "198.51.100.7" in kiwi.get("/headers", forwarded)[1]
    kiwi.wait_event("signal", name="SIGHUP")
    os.kill(kiwi.child_pid(), signal.SIGSTOP)  # the new health_check_timeout: without it, ten seconds
    assert kiwi.wait_log("ending the child to restart it")["reason"] == "no successful probe for 1 s"
    kiwi.wait_log("child ready", 2)
    assert kiwi.stop() == 0


def test_log_level_and_format_change(kiwi: Kiwi) -> None:
    """After a reload to the level error nothing less is written, and back again everything; the format changes, too."""
    kiwi.set(log_level="error")
    kiwi.start()
    eventually(lambda: kiwi.events("probe"), "readiness")
    assert kiwi.text() == ""
    kiwi.set(log_level="debug")
    assert kiwi.cli("reload", "--wait").returncode == 0
    assert kiwi.logs(msg="reloaded")
    kiwi.set(log_format="console")
    assert kiwi.cli("reload", "--wait").returncode == 0
    assert "reloader: reloaded changed=" in kiwi.text().splitlines()[-1]


def test_what_needs_a_restart_is_named(kiwi: Kiwi) -> None:
    """A new listen_addr is not in force after a reload, and says so in the log and to the person who asked."""
    kiwi.start_ready()
    kiwi.set(listen_addr="127.0.0.1:9")
    done = kiwi.cli("reload", "--wait")
    assert done.returncode == 0
    assert "need a restart of Kiwi ID to change: listen_addr" in done.stdout
    assert kiwi.logs(msg="these keys differ from those in force, and need a restart of Kiwi ID", keys=["listen_addr"])
    assert "need a restart of Kiwi ID to change: listen_addr" in kiwi.cli("reload", "--wait").stdout  # it still does
    kiwi.set(listen_addr=f"127.0.0.1:{kiwi.port}")
    assert "restart" not in kiwi.cli("reload", "--wait").stdout  # taken back


def test_a_config_that_cannot_be_read_hides_no_running_kiwi_id(kiwi: Kiwi) -> None:
    """Also a config of junk bytes leads to the instance when it names its runtime_dir; without one the guess is admitted."""
    kiwi.start_ready()
    good = kiwi.config.read_bytes()
    kiwi.config.write_bytes(b"# \xff\n" + good)
    done = kiwi.cli("reload", "--wait")
    assert done.returncode == 78
    assert "bytes that are not UTF-8" in done.stderr
    kiwi.config.unlink()
    done = kiwi.cli("reload", "--wait")
    assert done.returncode == 69
    assert "cannot be read" in done.stderr
    assert "name the socket by --socket" in done.stderr
    assert kiwi.cli("reload", "--wait", "--socket", str(kiwi.places.runtime_dir / "control.sock")).returncode == 78
    assert kiwi.get()[0] == 200


def test_new_tls_files_serve_new_connections_and_leave_open_ones(make: Make) -> None:
    """After a reload the listener presents the new certificate; a connection from before goes on."""
    kiwi = make(tls=True)
    chain, key = kiwi.directory / "front.pem", kiwi.directory / "front-key.pem"
    certs.make_loopback(chain, key)
    kiwi.set(tls_cert=str(chain), tls_key=str(key))
    kiwi.start_ready()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE

    def connect() -> ssl.SSLSocket:
        return context.wrap_socket(socket.create_connection(("127.0.0.1", kiwi.port), 30))

    def get(stream: ssl.SSLSocket) -> bytes:
        stream.sendall(b"GET /x HTTP/1.1\r\nHost: localhost\r\n\r\n")
        return stream.recv(65536)

    with connect() as old:
        before = old.getpeercert(binary_form=True)
        assert get(old).startswith(b"HTTP/1.1 200 ")
        certs.make_loopback(chain, key)
        _reload(kiwi)
        with connect() as new:
            after = new.getpeercert(binary_form=True)
            assert after == ssl.PEM_cert_to_DER_cert(chain.read_text())
            assert after != before
            assert get(new).startswith(b"HTTP/1.1 200 ")
        assert get(old).startswith(b"HTTP/1.1 200 ")


def test_a_new_loopback_certificate_is_taken_by_kanidmd_and_the_pin(kiwi: Kiwi) -> None:
    """Before and after kanidmd has taken the new certificate, probes succeed: a renewal never makes it unhealthy."""
    kiwi.start_ready()
    certs.make_loopback(kiwi.places.chain, kiwi.places.key)
    assert _reload(kiwi)["child_reloaded"] is True
    kiwi.wait_event("signal", name="SIGHUP")
    kiwi.wait_event("probe", len(kiwi.events("probe")) + 3)
    assert not kiwi.logs(msg="child unhealthy")
    os.kill(kiwi.child_pid(), signal.SIGKILL)
    kiwi.wait_log("child ready", 2)


def test_a_new_signing_key_is_taken(kiwi: Kiwi) -> None:
    """A whole new key pair is accepted by a reload, which says so; a file in the keys directory with another name is told."""
    kiwi.start_ready()
    assert "Changed: nothing of config.toml." in kiwi.cli("reload", "--wait").stdout
    keys.generate_pair(kiwi.places.jwt_private_key, kiwi.places.jwt_public_key, kind="es256")
    directory = kiwi.places.jwt_private_key.parent / "jwt-keys"
    directory.mkdir(mode=0o700, exist_ok=True)
    stranger = directory / "next.pem"
    stranger.write_text("a key, perhaps")
    told = kiwi.cli("reload", "--wait").stdout
    assert "the signing key, now " in told
    assert "a key less, " in told
    assert kiwi.logs(msg="a file in the keys directory is not used")[-1]["where"] == str(stranger)
    assert "next.pem: found a name that says no key" in " ".join(kiwi.cli("check").stdout.split())


def _unknown_key(kiwi: Kiwi) -> str:
    kiwi.config.write_text("lisen_addr = 1\n" + kiwi.config.read_text())
    return "Did you mean 'listen_addr'?"


def _no_toml(kiwi: Kiwi) -> str:
    kiwi.config.write_text(kiwi.config.read_text() + "\nlog_level = [")
    return "TOML syntax error"


def _half_a_key_pair(kiwi: Kiwi) -> str:
    keys.generate_pair(kiwi.directory / "new.pem", kiwi.places.jwt_public_key, kind="eddsa")
    return f"{kiwi.places.jwt_public_key}: found a key that is not the public half"


def _no_server_toml(kiwi: Kiwi) -> str:
    kiwi.places.upstream_config.unlink()
    return f"{kiwi.places.upstream_config}: found no such file"


def _empty_chain(kiwi: Kiwi) -> str:
    kiwi.places.chain.write_text("nothing\n")
    return f"{kiwi.places.chain}: found no certificate"


def _broken_chain(kiwi: Kiwi) -> str:
    kiwi.places.chain.write_text("-----BEGIN CERTIFICATE-----\nnot one\n-----END CERTIFICATE-----\n")
    return "To mend:\n  /"


def _no_tls_file(kiwi: Kiwi) -> str:
    kiwi.set(tls_cert="/nowhere/cert.pem", tls_key="/nowhere/key.pem")
    return "/nowhere/cert.pem: tls_cert: found files that cannot be used together"


def _no_log_directory(kiwi: Kiwi) -> str:
    kiwi.set(log_file="/proc/nowhere/kiwi.log")
    return "/proc/nowhere/kiwi.log: log_file: found No such file"


def test_a_broken_file_changes_nothing_and_is_reported(kiwi: Kiwi) -> None:
    """For each way to break a file: 78 and the reason for who asked, records in the log, everything else as before.

    The good change beside the broken one is not taken either, and kanidmd gets no HUP.
    """
    kiwi.set(log_level="info")
    kiwi.start_ready()
    files = [kiwi.config, kiwi.places.jwt_public_key, kiwi.places.upstream_config, kiwi.places.chain]
    good = {file: file.read_text() for file in files}
    breaks = [_unknown_key, _no_toml, _half_a_key_pair, _no_server_toml, _empty_chain, _broken_chain]
    breaks += [_no_tls_file, _no_log_directory]
    for number, break_file in enumerate(breaks, 1):
        kiwi.set(log_level="trace", trusted_proxies='=["127.0.0.1"]')
        said = break_file(kiwi)
        done = kiwi.cli("reload", "--wait")
        assert done.returncode == 78, break_file
        assert "the last good configuration is in force" in done.stderr
        assert said in done.stderr
        assert len(kiwi.logs(msg="reload failed; the last good configuration stays in force")) == number
        assert "198.51.100.7" not in kiwi.get("/headers", {"X-Forwarded-For": "198.51.100.7"})[1]
        for file, text in good.items():
            file.write_text(text)
    assert not kiwi.logs(level="debug")
    assert not kiwi.events("signal")
    assert kiwi.ask()["last_reload"]["ok"] is False
    _reload(kiwi)  # and the mended files are taken
    assert kiwi.ask()["last_reload"]["ok"] is True


def test_a_problem_that_two_parts_meet_is_told_once(kiwi: Kiwi) -> None:
    """Issuer and pin both read server.toml: what is wrong with it is one line for who asked, and one record in the log."""
    kiwi.start_ready()
    kiwi.places.upstream_config.unlink()
    done = kiwi.cli("reload", "--wait")
    assert done.returncode == 78
    assert done.stderr.count("found no such file") == 1
    assert len(kiwi.logs(msg="reload refused")) == 1


def test_a_bug_in_a_reload_ends_nothing(kiwi: Kiwi) -> None:
    """An exception that nobody foresaw is logged with its traceback, reported to who asked, and Kiwi ID serves on."""
    bug = (
        "import sys, kiwi_id.plan\n"
        "kiwi_id.plan.Plan.prepare_pin = lambda self, new: 1 // 0\n"
        "from kiwi_id.cli import main\n"
        "sys.exit(main())\n"
    )
    kiwi.start_ready(program=("-c", bug))
    done = kiwi.cli("reload", "--wait")
    assert done.returncode == 78
    assert "internal error (ZeroDivisionError)" in done.stderr
    assert kiwi.logs(msg="internal error while reloading", level="error")
    assert kiwi.get()[0] == 200
    assert kiwi.stop() == 0


def test_requests_in_flight_are_not_disturbed(kiwi: Kiwi) -> None:
    """A request that runs during a reload, which swaps limits and the pin, is answered as if nothing had been."""
    kiwi.start_ready()
    answers: list[tuple[int, str]] = []
    client = threading.Thread(target=lambda: answers.append(kiwi.get("/slow?s=1")))
    client.start()
    kiwi.wait_event("request")
    with kiwi.config.open("a") as file:
        file.write("[limits]\nupstream_connections = 1\n")
    certs.make_loopback(kiwi.places.chain, kiwi.places.key)
    _reload(kiwi)
    client.join()
    assert answers == [(200, "life 0")]


def test_the_child_gets_its_hup_only_when_ready(kiwi: Kiwi) -> None:
    """A HUP kills a booting kanidmd, so an early one is kept from it; the reload itself is done, and says that."""
    kiwi.behave({"held": True, "early_hup": True})
    kiwi.start()
    kiwi.wait_event("start")
    kiwi.wait_log("listening")
    done = kiwi.cli("reload", "--wait")
    assert done.returncode == 0
    assert "kanidmd was not ready and was not told" in done.stdout
    kiwi.go()
    kiwi.wait_log("ready", component="supervisor")
    assert kiwi.child_signals() == []
    assert _reload(kiwi, 2)["child_reloaded"] is True
    kiwi.wait_event("signal", name="SIGHUP")


def test_a_hup_during_the_very_early_start_is_not_lost(kiwi: Kiwi) -> None:
    """A HUP before the signal task runs is held: the files may have been read already, before the change it tells of."""
    for count, pause in enumerate((0.0, 0.05, 0.1, 0.15), 1):
        kiwi.start()
        eventually(lambda: catches(kiwi.process.pid, signal.SIGHUP), "a handler for HUP")
        time.sleep(pause)
        kiwi.signal(signal.SIGHUP)
        kiwi.wait_log("reloaded", count)
        assert kiwi.stop() == 0


def test_hups_in_a_row_become_few_reloads_and_none_is_lost(kiwi: Kiwi) -> None:
    """A hundred HUPs end in a reload that has read the newest files, and do not queue up a hundred of them."""
    kiwi.start_ready()
    for number in range(100):
        kiwi.set(health_check_timeout=f"{100 + number}s")
        kiwi.signal(signal.SIGHUP)
    kiwi.wait_event("signal", name="SIGHUP")
    eventually(lambda: _settled(kiwi), "the reloads' end")
    kiwi.set(health_check_timeout="5m")
    assert kiwi.ask("reload")["changed"] == ["health_check_timeout"]
    kiwi.set(health_check_timeout="199s")
    assert kiwi.ask("reload")["changed"] == ["health_check_timeout"]
    assert len(kiwi.logs(msg="reloaded")) < 100


def _settled(kiwi: Kiwi) -> bool:
    before = len(kiwi.logs(msg="reloaded"))
    outcome = kiwi.ask("reload")
    return outcome["changed"] == [] and len(kiwi.logs(msg="reloaded")) == before + 1
