"""Files of the configuration that are none: FIFOs and devices are refused in words, and hang no check, no reload and no stop."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from kiwi_id.errors import Exit
from tests.supervisor.kiwi import Kiwi

Make = Callable[..., Kiwi]


def _fifo(path: Path) -> None:
    os.mkfifo(path, 0o600)


def _device(path: Path) -> None:
    path.symlink_to("/dev/zero")


@contextmanager
def odd(path: Path, make: Callable[[Path], None]) -> Iterator[None]:
    """Put something else in the place of a file, for a while."""
    kept = path.with_name(path.name + ".kept")
    path.rename(kept)
    make(path)
    try:
        yield
    finally:
        path.unlink()
        kept.rename(path)


@pytest.mark.parametrize("make_odd", [_fifo, _device], ids=["fifo", "device"])
def test_odd_files_hang_nothing(make: Make, make_odd: Callable[[Path], None]) -> None:
    """Each file that config.toml or server.toml names, and both themselves: 78 and the word, for check and reload alike."""
    kiwi = make(tls=True)
    kiwi.start_ready()
    assert kiwi.cli("reload", "--wait").returncode == Exit.OK  # the start has read all its files
    places = kiwi.places
    word = "fifo" if make_odd is _fifo else "device"
    files = [places.jwt_private_key, places.jwt_public_key, places.chain, places.upstream_config, places.config]
    for file in files:
        with odd(file, make_odd):
            if file != places.config:  # without it, nobody knows where the instance is
                reloaded = kiwi.cli("reload", "--wait")
                assert reloaded.returncode == Exit.CONFIG, file
                assert word in reloaded.stderr.lower()
                assert str(file) in reloaded.stderr
            checked = kiwi.cli("check")
            assert checked.returncode == Exit.CONFIG, file
            assert word in (checked.stdout + checked.stderr).lower()
    assert kiwi.cli("reload", "--wait").returncode == Exit.OK
    assert kiwi.ask()["last_reload"]["ok"] is True
    with odd(places.jwt_private_key, make_odd):
        kiwi.cli("reload", "--wait")
        assert kiwi.stop() == 0


@pytest.mark.parametrize("make_odd", [_fifo, _device], ids=["fifo", "device"])
def test_odd_files_in_the_keys_directory_and_for_a_secret(make: Make, make_odd: Callable[[Path], None]) -> None:
    """A next or retired key that is none, a client's secret that is none, and a start with them: told, and nothing hangs."""
    kiwi = make()
    kiwi.start_ready()
    assert kiwi.cli("reload", "--wait").returncode == Exit.OK
    directory = kiwi.places.jwt_private_key.parent / "jwt-keys"
    directory.mkdir(exist_ok=True, mode=0o700)
    odd_key = directory / f"20300101T000000Z-{'A' * 43}.next.pem"
    make_odd(odd_key)
    assert kiwi.cli("reload", "--wait").returncode == Exit.CONFIG
    assert kiwi.cli("check").returncode == Exit.CONFIG
    odd_key.unlink()
    secret = kiwi.directory / "secret"
    make_odd(secret)
    kiwi.set(forward_auth_client="wiki", forward_auth_secret_file=str(secret))
    kiwi.set(forward_auth_hosts='=["wiki.localhost"]', trusted_proxies='=["127.0.0.1"]')
    assert kiwi.cli("reload", "--wait").returncode == Exit.CONFIG
    assert kiwi.stop() == 0
    # At a start, too.
    kiwi.set(forward_auth_client="", forward_auth_hosts="=[]")
    kiwi.places.jwt_private_key.unlink()
    make_odd(kiwi.places.jwt_private_key)
    assert kiwi.cli("run").returncode == Exit.CONFIG
