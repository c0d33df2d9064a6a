"""``kiwi-id health``: the container engine's question, asked through the listener itself."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.supervisor import conftest
from tests.supervisor.kiwi import Kiwi

kiwi, make = conftest.kiwi, conftest.make  # the fixtures


@pytest.mark.parametrize("tls", [False, True], ids=["http", "https"])
def test_health_of_a_healthy_instance(make: Callable[..., Kiwi], tls: bool) -> None:
    """0 and the probe's answer, over plain HTTP and over TLS; --quiet prints nothing."""
    one = make(tls=tls)
    one.start_ready()
    for probe in ("health", "ready", "live"):
        done = one.cli("health", "--probe", probe)
        assert (done.returncode, done.stderr) == (0, "")
        assert json.loads(done.stdout)["status"] == "ok"
    done = one.cli("health", "--quiet")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_health_while_kanidmd_boots(kiwi: Kiwi) -> None:
    """1, with the reason on stderr, as long as Kanidm does not answer; alive it is all the same."""
    kiwi.behave({"never_ready": True})
    kiwi.start()
    kiwi.wait_log("listening")
    done = kiwi.cli("health")
    assert (done.returncode, done.stdout) == (1, "")
    assert json.loads(done.stderr) == {"status": "degraded", "upstream": "unhealthy"}
    done = kiwi.cli("health", "--probe", "ready")
    assert done.returncode == 1
    assert json.loads(done.stderr) == {"status": "waiting", "upstream": "starting"}
    assert kiwi.cli("health", "--probe", "live").returncode == 0


def test_health_without_a_running_kiwi_id(kiwi: Kiwi) -> None:
    """1, which is what container engines take for unhealthy, and the address that did not answer; also for a broken config."""
    done = kiwi.cli("health")
    assert done.returncode == 1
    assert f"no answer on 127.0.0.1:{kiwi.port}: " in done.stderr
    assert "Connection refused" in done.stderr
    kiwi.config.write_text("nonsense")
    assert kiwi.cli("health").returncode == 1


def test_health_waits_for_a_start(kiwi: Kiwi) -> None:
    """With --wait it asks until kanidmd serves, as a script does that has just started Kiwi ID; out of patience it ends with 1."""
    with ThreadPoolExecutor() as pool:
        asking = pool.submit(kiwi.cli, "health", "--wait", "60s")
        assert "no answer" in kiwi.cli("health", "--wait", "100ms").stderr
        assert not asking.done()
        kiwi.start()
        done = asking.result()
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout) == {"status": "ok", "upstream": "healthy"}
    done = kiwi.cli("health", "--wait", "60")
    assert done.returncode == 64
    assert "1m30s" in done.stderr
