"""Host names and networks in the real program: put into force by a reload, and taken back by one."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.supervisor.kiwi import Kiwi


@pytest.fixture
def kiwi() -> Iterator[Kiwi]:
    """A running instance over the scripted kanidmd; gone when the test ends."""
    one = Kiwi(Path(tempfile.mkdtemp(prefix="kiwi-guard-")))
    yield one.start_ready()
    one.clean_up()


def reload(kiwi: Kiwi, **settings: str) -> None:
    """Change config.toml and reload."""
    kiwi.set(**settings)
    assert kiwi.ask("reload")["ok"]


def test_allowed_hosts(kiwi: Kiwi) -> None:
    """By default any name is served; with a list ours, those in it, and probes by any name: 'kiwi-id health' goes on working."""
    other = {"Host": "kiwi_backend"}
    assert kiwi.get(headers=other)[0] == 200
    reload(kiwi, allowed_hosts='=["sso.example.com"]')
    status, body = kiwi.get(headers=other)
    assert (status, json.loads(body)["error"]["code"]) == (421, "misdirected_request")
    for name in (
        "sso.example.com:1234",
        f"localhost:{kiwi.port}",
        "localhost",
        f"127.0.0.1:{kiwi.port}",
    ):  # the origin is localhost
        assert kiwi.get(headers={"Host": name})[0] == 200
    assert kiwi.get("/.well-known/openid-configuration", headers=other)[0] == 421
    assert kiwi.get("/livez", headers=other)[0] == 200
    for probe in ("live", "ready", "health"):
        assert kiwi.cli("health", "--probe", probe).returncode == 0
    assert kiwi.ask()["refused"] == {"misdirected_request": 2}
    assert "misdirected_request 2" in kiwi.cli("status").stdout
    reload(kiwi, allowed_hosts="=[]")
    assert kiwi.get(headers=other)[0] == 200


def test_admin_networks(kiwi: Kiwi) -> None:
    """By default administration is open; with a list only from there, behind a trusted proxy by the client's own address."""
    assert kiwi.get("/docs")[0] == 200
    reload(kiwi, admin_networks='=["192.0.2.0/24"]')
    status, body = kiwi.get("/docs")
    assert (status, json.loads(body)["error"]["code"]) == (403, "admin_closed")
    assert kiwi.get("/x")[0] == 200
    inside = {"X-Forwarded-For": "192.0.2.7"}
    assert kiwi.get("/docs", headers=inside)[0] == 403
    reload(kiwi, trusted_proxies='=["127.0.0.1"]')
    assert kiwi.get("/docs", headers=inside)[0] == 200
    assert kiwi.get("/docs", headers={"X-Forwarded-For": "192.0.2.7, 203.0.113.5"})[0] == 403
