"""Weak settings: each is told with what to do, and a fresh instance has none that is worth a warning."""

from __future__ import annotations

import dataclasses
import ipaddress
import os
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from kiwi_id import config
from kiwi_id.config import Config
from kiwi_id.instance import layout
from kiwi_id.kanidm import server_toml
from kiwi_id.kanidm.server_toml import ServerToml
from kiwi_id.status import files, notices, weak
from kiwi_id.values import Address

NOW = datetime.now(UTC)


@dataclasses.dataclass
class World:
    """An instance as ``kiwi-id init`` makes it, settings of which a test changes."""

    config: Config
    server: ServerToml

    def codes(self, level: str = "warning", *, now: datetime = NOW, uid: int = 1000) -> list[str]:
        """Return what is weak, and what else its files call for."""
        parts = files.look(self.config, self.server, now)
        found = [*weak.look(self.config, self.server, parts, now, uid=uid), *notices.of_files(parts)]
        assert all(notice.fix for notice in found)
        return [notice.code for notice in found if notice.level == level]

    def set(self, **values: Any) -> None:
        """Change config.toml's settings."""
        self.config = dataclasses.replace(self.config, **values)


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> World:
    """A fresh instance, with the settings of a KiwiStack machine."""
    root = tmp_path_factory.mktemp("weak")
    options = layout.Options(
        domain="id.example.com", listen=Address("10.10.20.10", 8443), upstream_bin=root / "none", provision=True
    )
    layout.create(root, options)
    places = layout.Places.under(root)
    return World(config.load(places.config), server_toml.load(places.upstream_config))


@pytest.fixture
def world(fresh: World) -> World:
    """A copy of it."""
    return World(fresh.config, fresh.server)


def test_a_fresh_instance_has_no_warning(world: World) -> None:
    """Nor has it a day later; what could be better are hints, and root has one more of them."""
    assert world.codes() == []
    assert world.codes(now=NOW + timedelta(days=1)) == []
    assert world.codes("hint") == ["allowed_hosts", "backup_none"]
    assert "one_user" in world.codes("hint", uid=0)


@pytest.mark.parametrize(
    ("host", "warned"),
    [
        *(("127.0.0.1", False), ("::1", False), ("10.10.20.10", False), ("192.168.1.5", False), ("fd00::5", False)),
        *(("8.8.8.8", True), ("2606:4700::1111", True), ("id.example.com", False)),
    ],
)
def test_plain_http(world: World, host: str, warned: bool) -> None:
    """On a public address it is a warning, and none with TLS; names are not looked up."""
    world.set(listen_addr=Address(host, 8443))
    assert ("plain_http" in world.codes()) is warned
    world.set(tls_cert=world.server.tls_chain, tls_key=world.server.tls_key)
    assert "plain_http" not in world.codes()


def test_every_address_of_the_machine() -> None:
    """Listening on all addresses is heard on the public one, where there is one; the kernel lists the loopback at least."""
    assert ipaddress.ip_address("127.0.0.1") in weak.own_addresses()
    private, public = ipaddress.ip_address("10.0.0.1"), ipaddress.ip_address("8.8.8.8")
    for host in ("0.0.0.0", "::"):  # noqa: S104 - that is what is judged
        assert weak.public_address(host, [private]) == ""
        assert weak.public_address(host, [private, public]) == "8.8.8.8"


def test_own_addresses(tmp_path: Path) -> None:
    """Read as the kernel writes them, both kinds, each once; what cannot be read is none."""
    net = tmp_path / "net"
    net.mkdir()
    assert weak.own_addresses(tmp_path) == []
    (net / "fib_trie").write_text(
        "Main:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 10.0.0.0\n        /24 link UNICAST\n     |-- 10.0.0.7\n        /32 host LOCAL\n"
        "Local:\n     |-- 10.0.0.7\n        /32 host LOCAL\n     |-- 10.0.0.255\n        /32 link BROADCAST\n"
    )
    (net / "if_inet6").write_text("26064700000000000000000000001111 02 40 00 80     eth0\n")
    assert [str(one) for one in weak.own_addresses(tmp_path)] == ["10.0.0.7", "2606:4700::1111"]


def test_settings(world: World) -> None:
    """Tracing, proxies that are everybody, and guessing without a limit."""
    world.set(
        log_level="trace",
        trusted_proxies=(ipaddress.ip_network("0.0.0.0/0"),),
        protection=dataclasses.replace(world.config.protection, login_failures_per_account=None),
    )
    assert world.codes() == ["trusted_proxies", "no_login_limits", "log_level"]


def test_the_age_of_keys(world: World) -> None:
    """A key that nobody rotates is told after a year, one that should have been after two days; RSA 2048 when its time is over."""
    assert world.codes(now=NOW + timedelta(days=364)) == ["backup_none"]
    assert "key_age" in world.codes(now=NOW + timedelta(days=366))
    world.set(jwt_key_rotation=90 * 86400.0)
    assert "key_rotation_overdue" not in world.codes(now=NOW + timedelta(days=91))
    assert "key_rotation_overdue" in world.codes(now=NOW + timedelta(days=93))
    assert "key_size" not in world.codes(now=datetime(2030, 12, 31, tzinfo=UTC))
    assert "key_size" in world.codes(now=datetime(2031, 1, 1, tzinfo=UTC))


def test_a_certificate_of_ours_that_is_not_renewed(world: World) -> None:
    """It is renewed a month ahead; when it was not, that is told."""
    assert "certificate" not in world.codes(now=NOW + timedelta(days=700))
    assert "certificate" in world.codes(now=NOW + timedelta(days=715))


def test_files_that_everybody_can_read(world: World) -> None:
    """Told only where the directories let everybody through as well."""
    with tempfile.TemporaryDirectory() as name:  # pytest's own directories are closed to others
        directory = Path(name)
        log_file = directory / "kiwi.log"
        log_file.touch()
        world.set(log_file=log_file)
        for directory_mode, mode, warned in ((0o755, 0o644, True), (0o755, 0o640, False), (0o700, 0o644, False)):
            directory.chmod(directory_mode)
            log_file.chmod(mode)
            assert ("world_readable" in world.codes()) is warned


def test_a_token_that_others_can_read(world: World) -> None:
    """The token of our account is not used then, which is told with what to do."""
    token = world.config.kanidm_token
    token.write_text("token\n")
    try:
        for mode, warned in ((0o640, True), (0o600, False)):
            token.chmod(mode)
            assert ("token_readable" in world.codes()) is warned
    finally:
        token.unlink()


@pytest.mark.parametrize(("free", "database", "warned"), [(255, 1, True), (257, 1, False), (1023, 512, True), (1025, 512, False)])
def test_a_disk_that_fills(world: World, free: int, database: int, warned: bool) -> None:
    """Told below 256 MiB, or twice the database."""
    parts = files.look(world.config, world.server, NOW)
    parts["disk"] = {"path": "/d", "free": free << 20, "total": 1 << 40, "database": database << 20}
    assert ("disk" in [notice.code for notice in notices.of_files(parts)]) is warned


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
@pytest.mark.parametrize("whose", ["config.toml", "."])
def test_settings_that_kiwi_id_s_user_can_change(world: World, whose: str) -> None:
    """Root goes by them: they are root's, and so is their directory, in which others can replace only what is theirs."""
    path = world.config.path.parent / whose
    try:
        os.chown(path, 1000, -1)
        assert world.codes(uid=1000) == ["changeable"]
        assert world.codes(uid=0) == []
        assert world.codes(uid=1001) == []
    finally:
        os.chown(path, 0, -1)
    assert world.codes(uid=1000) == []
