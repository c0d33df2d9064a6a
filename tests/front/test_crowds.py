"""Crowds of slow clients, in a process of their own, beside whole logins through the real program over the stand-in."""

from __future__ import annotations

import argparse
import contextlib
import json
import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from bench import hostile, logins
from bench.processes import ROOT, rss_mb
from kiwi_id import control, devserver
from kiwi_id.instance.layout import Places
from tests.supervisor.kiwi import PATIENCE, eventually


@dataclass(frozen=True)
class Running:
    """A Kiwi ID with demo clients, and its directory."""

    it: logins.Running
    directory: Path

    def status(self) -> dict[str, Any]:
        """What it says of itself."""
        # Not by the command: a process for each look would take the time from what is looked at.
        return control.call(Places.under(self.directory / "instance").runtime_dir / "control.sock", "status", timeout=PATIENCE)

    def limit(self, **limits: int | str) -> None:
        """Change limits, by a reload."""
        config = Places.under(self.directory / "instance").config
        table = "\n[limits]\n" + "".join(f"{name} = {json.dumps(value)}\n" for name, value in limits.items())
        config.write_text(config.read_text().partition("\n[limits]\n")[0] + table)
        command = [sys.executable, "-m", "kiwi_id", "reload", "--wait", "--config", str(config)]
        subprocess.run(command, cwd=ROOT, check=True, capture_output=True)

    def beside(self, count: int, *options: str) -> contextlib.AbstractContextManager[dict[str, Any]]:
        """So many slow clients."""
        return hostile.slow_clients(self.it.job["port"], count, *options)

    def logs_in(self) -> None:
        """Eight people log in, from the login page to userinfo; the load process fails when one of them cannot."""
        assert hostile.log_in(self.it, 8, 4)["logins"] == 8


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    """One for all tests here."""
    with tempfile.TemporaryDirectory(prefix="kiwi-crowd-") as name:
        devserver.install(Path(name) / "kanidmd")
        with logins.running(Path(name), Path(name) / "kanidmd", argparse.Namespace(key="es256", plain=True, python="")) as it:
            yield Running(it, Path(name))


def test_a_login_beside_a_thousand_slow_clients(running: Running) -> None:
    """With default limits, and slow clients of every kind, people log in."""
    running.limit()
    with running.beside(1000) as crowd:
        assert crowd["open"] > 900
        # Those that are slow with what is answered at once come and go.
        eventually(lambda: running.status()["connections"] > 700, "most of the slow clients have been accepted")
        running.logs_in()
        assert running.status()["connections"] > 700


def test_ten_thousand_connections(running: Running) -> None:
    """Ten thousand at once, idle, silent and slow, are held; people log in, and each connection costs little."""
    count = min(10_000, resource.getrlimit(resource.RLIMIT_NOFILE)[1] - 1000)
    if count < 10_000:
        print(f"this machine allows {count} connections only")
    # Held, so not closed while the last of them are yet to come: on a busy machine that takes longer than the usual 10 s.
    running.limit(max_connections=count + 100, header_timeout="5m", keep_alive_timeout="5m")
    before = rss_mb(running.it.kiwi)
    with running.beside(count, "--kinds", "silent", "idle", "headers", "--addresses", "40") as crowd:
        assert crowd["open"] > count * 0.95
        eventually(lambda: running.status()["connections"] > count * 0.95, "most of them have been accepted")
        running.logs_in()
        assert rss_mb(running.it.kiwi) - before < count * 0.03, "30 KB for each"
    running.limit()


def test_more_connections_than_are_served(running: Running) -> None:
    """A flood far above max_connections, from many addresses, makes room for itself only: people log in meanwhile."""
    running.limit(max_connections=500)
    before = running.status()["refused"].get("made_room", 0)
    with running.beside(2000, "--kinds", "silent", "headers", "--addresses", "40"):
        running.logs_in()
        assert running.status()["connections"] <= 500 + 10  # who makes room counts until it is closed
    assert running.status()["refused"]["made_room"] - before >= 1500
    running.limit()


def test_a_flood_from_one_address(running: Running) -> None:
    """One address gets max_connections_per_address, whatever it does; everybody else is served."""
    running.limit(max_connections_per_address=200)
    with running.beside(1000, "--kinds", "silent", "idle", "headers", "--addresses", "1"):
        running.logs_in()
        assert running.status()["connections"] <= 200 + 10
    assert running.status()["refused"]["too_many_connections_per_address"] >= 800
    running.limit()


def test_the_log_is_short(running: Running) -> None:
    """After hundreds of refusals of a kind, a few lines tell of them."""
    running.limit(max_connections_per_address=100)
    with running.beside(500, "--kinds", "silent", "--addresses", "1"):
        eventually(lambda: running.status()["refused"].get("too_many_connections_per_address", 0) >= 400, "refusals")
    running.limit()
    lines = [json.loads(line) for line in Places.under(running.directory / "instance").log_file.read_text().splitlines()]
    kinds = [line["kind"] for line in lines if line["msg"] == "refused"]
    assert kinds, "or this proves nothing"
    assert max(kinds.count(kind) for kind in kinds) < 20
