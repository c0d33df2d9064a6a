"""``kiwi-id dev`` as a whole, over the stand-in: from nothing to a login, and back to nothing."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.kanidm.browser import Browser, Request

ROOT = Path(__file__).parent.parent
SECONDS = 90


@contextmanager
def dev(*options: str, temporary: Path) -> Iterator[tuple[subprocess.Popen[str], dict[str, Any]]]:
    """Run ``kiwi-id dev --json``; give the process and what it printed, once it is ready. A process that stays is killed."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("KIWI_", "KANIDM_"))}
    environment["TMPDIR"] = str(temporary)
    process = subprocess.Popen(
        [sys.executable, "-m", "kiwi_id", "dev", "--json", *options],
        cwd=ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            assert process.stdout
            assert process.stderr
            line = process.stdout.readline()
            assert line, process.stderr.read()
            yield process, json.loads(line)
        finally:
            if process.poll() is None:
                process.kill()


def descendants(pid: int) -> set[int]:
    """All processes below ``pid``."""
    found: set[int] = set()
    for file in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in file.read_text().split():
            found |= {int(child)} | descendants(int(child))
    return found


@pytest.fixture
def temporary() -> Iterator[Path]:
    """An empty directory with a short path, for the sockets in it; it must be empty again at the end."""
    directory = Path(f"/tmp/kd{os.getpid()}")
    directory.mkdir()
    yield directory
    left = list(directory.iterdir())
    shutil.rmtree(directory)
    assert not left, f"left behind: {left}"


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM], ids=lambda how: how.name)
def test_from_nothing_to_a_login_and_back(temporary: Path, how: signal.Signals) -> None:
    """What is printed logs in through the front and gives a token; Ctrl-C or SIGTERM ends every process and removes every file."""
    with dev("--stand-in", temporary=temporary) as (process, facts):
        assert facts["stand_in"] is True
        trio.run(log_in, facts)
        everything = descendants(process.pid)
        assert len(everything) == 2  # the supervisor and its kanidmd
        process.send_signal(how)
        assert process.wait(SECONDS) == 0
    assert not [pid for pid in everything if Path(f"/proc/{pid}").exists()]
    assert not Path(facts["directory"]).exists()


async def log_in(facts: dict[str, Any]) -> None:
    """Log every user in at one of the clients and get tokens, with nothing but what was printed."""
    async with Browser(facts["origin"], Path(facts["certificate"])) as browser:
        for user, client in zip(facts["users"], facts["clients"], strict=True):
            browser.cookies.clear()
            request = Request(client["client_id"], client["redirect_uris"][0])
            assert (await browser.authorize(request)).status_code == 200
            page = await browser.sign_in(user["name"], user["password"])
            tokens = await browser.token(request, await browser.consent(page), client["secret"])
            assert tokens["id_token"]
        discovery = await browser.http.get(facts["discovery"])
        assert discovery.status_code == 200
        assert discovery.json()["issuer"].startswith(facts["origin"])


def test_kept_instance(temporary: Path) -> None:
    """With --dir everything stays, and the next run has the same port, secret and sessions."""
    directory = temporary / "kept"
    secrets, cookies = [], dict[str, str]()

    async def visit(facts: dict[str, Any]) -> None:
        async with Browser(facts["origin"], Path(facts["certificate"])) as browser:
            browser.cookies.update(cookies)
            if not cookies:
                await browser.send("GET", "/ui/login")
                await browser.sign_in(facts["users"][0]["name"], facts["users"][0]["password"])
                cookies["bearer"] = browser.cookies["bearer"]
            answer = await browser.http.get("/v1/self", headers={"authorization": f"Bearer {cookies['bearer']}"})
            assert answer.status_code == 200

    for _ in range(2):
        with dev("--stand-in", "--dir", str(directory), temporary=temporary) as (process, facts):
            trio.run(visit, facts)
            secrets.append((facts["origin"], facts["clients"][0]["secret"]))
            process.send_signal(signal.SIGINT)
            assert process.wait(SECONDS) == 0
    assert secrets[0] == secrets[1]
    assert (directory / "etc/kiwi/config.toml").exists()
    shutil.rmtree(directory)


def test_killed_dev_leaves_no_process(temporary: Path) -> None:
    """When ``kiwi-id dev`` itself is killed, supervisor and kanidmd end as well; only the directory stays."""
    with dev("--stand-in", temporary=temporary) as (process, facts):
        everything = descendants(process.pid)
        process.kill()
        process.wait(SECONDS)

        async def gone() -> None:
            with trio.fail_after(SECONDS):
                for pid in everything:
                    try:
                        descriptor = os.pidfd_open(pid)
                    except ProcessLookupError:
                        continue
                    await trio.lowlevel.wait_readable(descriptor)
                    os.close(descriptor)

        trio.run(gone)
    shutil.rmtree(facts["directory"])
