"""Bootstrap cut off at any step: the next one goes on without a second reset and without asking, or says what it cannot know."""

from __future__ import annotations

import re
import stat
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import trio

from kiwi_id import bootstrap
from kiwi_id.errors import Exit
from kiwi_id.kanidm.rest import Kanidm
from tests.bootstrap.world import World, made
from tests.devserver.servers import STAND_IN

MOST = 40


class Cut(BaseException):
    """The process ends here, as far as anything after it is concerned."""


def cut(world: World, monkeypatch: pytest.MonkeyPatch, after: int, *, answered: bool) -> int:
    """Run a bootstrap that ends at its call number ``after``, before or after it is answered; return how many were made."""
    calls = 0
    whole = Kanidm._call

    async def call(self: Kanidm, *arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == after and not answered:
            raise Cut
        answer = await whole(self, *arguments, **options)
        if calls == after:
            raise Cut
        return answer

    async def run() -> None:
        with monkeypatch.context() as patch:
            patch.setattr(Kanidm, "_call", call)
            await bootstrap.bootstrap(world.config, world.server)

    with suppress(Cut):
        trio.run(run)
    return calls


def resets(world: World) -> int:
    """How often an account was reset through the admin socket: each use of it is one, and is logged."""
    return world.kanidmd.log.read_text().count("Allowing admin socket access")


@pytest.mark.parametrize("answered", [False, True])
def test_at_every_call(monkeypatch: pytest.MonkeyPatch, answered: bool) -> None:
    """Whichever call is the last one, a second bootstrap ends the work; idm_admin is reset once, nothing is left over."""
    for after in range(1, MOST):
        with made(STAND_IN) as world:
            finished = cut(world, monkeypatch, after, answered=answered) < after
            if not finished:
                assert not list(world.directory.glob(".kanidm-token*"))
                trio.run(bootstrap.bootstrap, world.config, world.server)
            assert resets(world) == 1
            assert [path.name for path in world.directory.glob("*token*")] == ["kanidm-token"]
            if finished:
                assert after > 10
                return
    raise AssertionError("there is no end to it")


def test_with_the_real_kanidm(kanidmd: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the middle of the work, after the account was made: the new password lies in a file for the owner, and serves to go on."""
    with made([str(kanidmd)]) as world:
        cut(world, monkeypatch, 8, answered=True)
        begun = world.directory / "kanidm-token.begun"
        assert stat.S_IMODE(begun.stat().st_mode) == 0o600
        assert world.run("user", "list").returncode == Exit.CONFIG
        assert '"recovered": true' in world.ok("bootstrap", "--json")
        assert not begun.exists()
        assert world.json("user", "list") == []


def test_between_the_reset_and_its_note(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut off when nobody knows the new password yet: who has set it cannot be told then, so consent is asked for, and why."""

    async def recover(*_: object) -> str:
        await world.kanidmd.recover("idm_admin")
        raise Cut

    async def run() -> None:
        with monkeypatch.context() as patch:
            patch.setattr(bootstrap, "recover_account", recover)
            await bootstrap.bootstrap(world.config, world.server)

    with pytest.raises(Cut):
        trio.run(run)
    done = world.run("bootstrap")
    assert done.returncode == Exit.CONFIG
    assert re.search(r"A bootstrap was cut off at \d{4}-\d\d-\d\dT\S+Z while Kanidm made a new password", done.stderr)
    assert "Somebody has set" not in done.stderr
    assert "--recover" in done.stderr
    assert world.run("bootstrap").stderr == done.stderr
    world.ok("bootstrap", "--recover")
    assert [path.name for path in world.directory.glob("*token*")] == ["kanidm-token"]


def test_another_password_was_set_meanwhile(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut off, and then somebody recovers idm_admin by hand: that password is theirs, and is not reset without their word."""
    cut(world, monkeypatch, 8, answered=True)
    password = world.recover()
    done = world.run("bootstrap")
    assert done.returncode == Exit.CONFIG
    assert not list(world.directory.glob("*token*"))
    while not world.accepts("idm_admin", password):  # locked for a moment after our wrong one
        pass
