"""``kiwi-id dev`` over the real kanidmd."""

from __future__ import annotations

import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.kanidm.browser import Browser
from tests.test_dev import SECONDS, dev, log_in


@pytest.fixture
def temporary() -> Iterator[Path]:
    """A directory with a short path, for the sockets in it."""
    directory = Path(tempfile.mkdtemp(prefix="kd-"))
    yield directory
    shutil.rmtree(directory)


def test_printed_credentials_log_in_and_sessions_stay(kanidmd: Path, temporary: Path) -> None:
    """Users and clients that are printed get tokens from the real server; a kept instance keeps sessions over a restart."""
    bearer = ""

    async def visit(facts: dict[str, Any]) -> None:
        nonlocal bearer
        async with Browser(facts["origin"], Path(facts["certificate"])) as browser:
            if not bearer:
                await log_in(facts)
                await browser.send("GET", "/ui/login")
                await browser.sign_in(facts["users"][0]["name"], facts["users"][0]["password"])
                bearer = browser.cookies["bearer"]
            answer = await browser.http.get("/v1/self", headers={"authorization": f"Bearer {bearer}"})
            assert answer.status_code == 200

    for _ in range(2):
        options = ["--upstream-bin", str(kanidmd), "--dir", str(temporary / "kept")]
        with dev(*options, temporary=temporary) as (process, facts):
            assert facts["stand_in"] is False
            trio.run(visit, facts)
            process.send_signal(signal.SIGINT)
            assert process.wait(SECONDS) == 0
