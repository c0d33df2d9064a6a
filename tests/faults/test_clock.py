"""The system's clock is set, far ahead and back, under a running Kiwi ID and in the arithmetic that could do harm."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trio
import trio.testing

from kiwi_id import config, devserver
from kiwi_id.clock import JUMP, LOOK, PROOF, Clock
from kiwi_id.issuer.rotation import Keyring
from tests.supervisor.conftest import make  # noqa: F401 - a fixture
from tests.supervisor.kiwi import Kiwi

# Kiwi ID with a clock that a file moves; everything that asks for the time gets it. Only the watch looks more often than usual.
SHIFTED = """
import datetime, sys, time
from pathlib import Path
shift, real_time = Path({file!r}), time.time
time.time = lambda: real_time() + float(shift.read_text() or 0)
time.time_ns = lambda: int(time.time() * 1e9)
class Shifted(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return cls.fromtimestamp(time.time(), tz)
datetime.datetime = Shifted
from kiwi_id import clock
clock.LOOK = 0.05
from kiwi_id.cli import main
sys.exit(main())
"""
YEARS = 10 * 365.25 * 86400


def test_a_running_kiwi_id_survives_any_clock(make: Callable[..., Kiwi], tmp_path: Path) -> None:  # noqa: F811
    """Ten years ahead, then to 1970, then right again: each is told, requests are served, and its keys stay what they are."""
    devserver.install(tmp_path / "kanidmd")
    kiwi = make(tmp_path / "kanidmd")
    kiwi.set(jwt_key_rotation="30d")
    shift = kiwi.directory / "shift"
    shift.write_text("0")
    kiwi.start_ready(program=["-c", SHIFTED.format(file=str(shift))])
    _, keys = kiwi.get("/oauth2/keys")
    jumps = [YEARS, -YEARS - 1.7e9, 1.7e9]
    now = 0.0
    for number, jump in enumerate(jumps, 1):
        now += jump
        scratch = shift.with_suffix(".new")
        scratch.write_text(str(now))
        scratch.replace(shift)
        told = kiwi.wait_log(CLOCK_SET, count=number)
        assert abs(told["seconds"] - jump) < 60
        assert kiwi.ask("reload")["ok"]
        for path in ("/status", "/readyz", "/.well-known/openid-configuration"):
            assert kiwi.get(path)[0] == 200
        assert kiwi.get("/oauth2/keys")[1] == keys
        assert kiwi.ask()["upstream"]["restarts"] == 0
    assert kiwi.stop() == 0
    assert not [record for record in kiwi.logs() if "traceback" in record]


CLOCK_SET = (
    "the clock was set: tokens, codes and logins under way may be taken for too old or too new; no key is rotated or "
    "removed for its age until it has run on for a day"
)


class Hands:
    """Two clocks that a test moves."""

    def __init__(self) -> None:
        self.wall, self.steady = 1.8e9, 1000.0

    def go(self, seconds: float) -> None:
        """Let time pass."""
        self.wall += seconds
        self.steady += seconds


@pytest.mark.parametrize("jump", [JUMP + 1, -JUMP - 1, YEARS, -1.8e9])
def test_a_clock_that_was_set_is_believed_after_a_day(jump: float) -> None:
    """A jump either way stops what is done by age for a day from then; the passing of time and slow corrections do not."""
    hands = Hands()
    clock = Clock(lambda: hands.wall, lambda: hands.steady)
    assert clock.believed()
    hands.go(1e6)
    hands.wall += JUMP - 1
    assert clock.believed()
    hands.wall += jump
    assert clock.look() == pytest.approx(jump)
    assert clock.look() == 0
    hands.go(PROOF - 1)
    assert not clock.believed()
    hands.go(1)
    assert clock.believed()
    hands.wall -= jump
    assert not clock.believed()


async def test_a_wait_looks_meanwhile(autojump_clock: trio.testing.MockClock) -> None:
    """During an hour's wait a jump is seen within seconds, and the wait is as long as it was to be."""
    looks: list[float] = []
    hands = Hands()

    def wall() -> float:
        looks.append(trio.current_time())
        return hands.wall

    clock = Clock(wall, lambda: hands.steady)
    began = trio.current_time()
    await clock.wait(3600.0)
    assert trio.current_time() - began == pytest.approx(3600.0)
    assert len(looks) == 1 + 3600 / LOOK


def test_a_key_that_was_made_in_the_future_is_no_reason_to_rotate(make: Callable[..., Kiwi]) -> None:  # noqa: F811
    """With a signing key whose file says that it is younger than now, nothing is made, removed or renewed."""
    kiwi = make()
    settings = config.load(kiwi.config)
    ahead = (datetime.now(UTC) + timedelta(days=4000)).timestamp()
    os.utime(settings.jwt_private_key, (ahead, ahead))
    keyring = Keyring.of(settings)
    before = [key.kid for key in keyring.load().keys]
    assert not keyring.keep(datetime.now(UTC), timedelta(days=30))
    assert [key.kid for key in keyring.load().keys] == before
