"""What ``bootstrap = true`` does at a start: the same work, told by the log, and never a reason not to start."""

from __future__ import annotations

import json
from typing import Any

import pytest
import trio

from kiwi_id import bootstrap, logs
from tests.bootstrap.world import World


def lines(capfd: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    """Return what was logged since the last call."""
    return [json.loads(line) for line in capfd.readouterr().err.splitlines()]


def test_made_once_and_logged(world: World, capfd: pytest.CaptureFixture[str]) -> None:
    """At the first start it is made, and the log says so without a secret; at the next there is nothing to say."""
    logs.configure("info", "json")
    assert trio.run(bootstrap.at_start, world.config, world.server).state == "made"
    (line,) = lines(capfd)
    assert (line["level"], line["component"], line["account"]) == ("info", "bootstrap", "kiwi_id")
    assert world.token.read_text().strip() not in json.dumps(line)
    assert trio.run(bootstrap.at_start, world.config, world.server).state == "kept"
    assert lines(capfd) == []


def test_nothing_is_reset_and_nothing_ends(world: World, capfd: pytest.CaptureFixture[str]) -> None:
    """Where an administrator is in use, the log says what to do; when kanidmd is gone, the caller is told to try again."""
    logs.configure("info", "json")
    password = world.recover()
    assert trio.run(bootstrap.at_start, world.config, world.server).state == "consent needed"
    (line,) = lines(capfd)
    assert line["level"] == "warn"
    assert "kiwi-id bootstrap --ask-password" in line["error"]
    assert world.accepts("idm_admin", password)
    world.kanidmd.process.kill()
    world.kanidmd.process.wait()
    capfd.readouterr()
    standing = trio.run(bootstrap.at_start, world.config, world.server)
    assert (standing.state, standing.again, lines(capfd)) == ("failed", True, [])
    assert "failed" in standing.error
