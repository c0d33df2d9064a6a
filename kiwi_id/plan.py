"""The plan: everything that must be right before the first process is started, read, checked and bound; all problems at once."""

from __future__ import annotations

import errno
import hashlib
import socket
import ssl
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial

import trio

from kiwi_id import control, inherited, room
from kiwi_id.clock import Clock
from kiwi_id.compatibility import Binary, PinChecker
from kiwi_id.config import Config
from kiwi_id.errors import ConfigError, KiwiError, Problem
from kiwi_id.instance import access
from kiwi_id.kanidm import server_toml
from kiwi_id.kanidm.pin import UpstreamPin
from kiwi_id.kanidm.server_toml import ServerToml
from kiwi_id.logs import Log
from kiwi_id.privileges import Account, acting_as, check_may_change, find_account
from kiwi_id.proxy import listener
from kiwi_id.values import Address

log = Log("supervisor")

Waiter = Callable[[], Awaitable[bool]]

# Certificate and keys are looked at this often, seconds: the one is renewed a month ahead, the others live for weeks.
RENEWAL_CHECK = 3600.0
# How long an address in use is waited for at the start, seconds: a service manager does not start us again for it (exit 78).
BIND_PATIENCE = 2.0
_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS})


class Plan:
    """What a start needs, checked. Raises ConfigError with every problem found; what was bound is then closed again."""

    server: ServerToml
    pin: UpstreamPin
    binary: PinChecker
    tls: ssl.SSLContext | None
    sockets: list[socket.socket]
    control: trio.SocketListener | None
    started_with: tuple[str, str]
    """Checksums of the binary and the server.toml with which kanidmd was started last."""

    def __init__(self, config: Config, binary: Callable[[], PinChecker]) -> None:
        """``binary`` returns the checked binary or raises ConfigError; it is called once, and may have begun long before."""
        self.config = config
        self.sockets = []
        self.inherited = False
        self.account: Account | None = None
        problems: list[Problem] = []

        def attempt(step: Callable[[], None]) -> None:
            try:
                step()
            except ConfigError as error:
                problems.extend(error.problems)

        def read_server() -> None:
            self.server = self.read_server(config)
            self._database = self.server.db_path
            self.pin = UpstreamPin(self.server.tls_chain)
            for warning in server_toml.warnings(self.server, config):
                log.warn("server.toml: " + warning.key, **warning.as_dict())

        def check_binary() -> None:
            self.binary = binary()

        def read_tls() -> None:
            self.tls = listener.tls_context(config)

        def bind() -> None:
            self.sockets = self._bind(config)

        def separate() -> None:
            self.account = find_account(config.upstream_user, config.upstream_group, config.path)
            if self.account is not None and hasattr(self, "server"):
                self._separate(self.account)

        for step in (read_server, separate, check_binary, read_tls, bind):
            attempt(step)
        if problems:
            for sock in self.sockets:
                sock.close()
            raise ConfigError(problems)

    def _bind(self, config: Config) -> list[socket.socket]:
        """Take the sockets that were handed over, else bind the listener.

        An address in use is waited for a moment, because a predecessor may just be ending.
        """
        if sockets := inherited.take():
            self.inherited = True
            addresses = [str(Address(*sock.getsockname()[:2])) for sock in sockets]
            if str(config.listen_addr) not in addresses:
                log.warn(
                    "the sockets handed over decide, not listen_addr", listening=addresses, listen_addr=str(config.listen_addr)
                )
            return sockets
        ends = time.monotonic() + BIND_PATIENCE
        while True:
            try:
                return listener.bind(config.listen_addr)
            except listener.AddressInUse as error:
                if time.monotonic() < ends:
                    time.sleep(0.1)
                    continue
                with suppress(control.NotRunning):
                    pid = control.call(config.control_socket, "status", timeout=2)["pid"]
                    fix = f"This very instance is running already, as process {pid}: 'kiwi-id status' shows it."
                    raise ConfigError([replace(problem, fix=fix) for problem in error.problems]) from None
                raise

    def _separate(self, account: Account) -> None:
        """See to it that kanidmd can run as another user, and not read what is ours. Raises ConfigError."""
        check_may_change(account, self.config.path)
        try:
            access.make_socket_directory(self.config, self.server, account)
        except OSError as error:
            found = Problem(
                str(self.server.admin_socket.parent), "adminbindpath", error.strerror or str(error), "a new directory", ""
            )
            raise ConfigError([found]) from None
        if found_all := access.problems(self.config, self.server, account):
            raise ConfigError(found_all)

    def listen_control(self) -> None:
        """Bind the control socket; after the lock has been taken, because it replaces a socket file that is there."""
        try:
            self.control = control.listen(self.config.control_socket)
        except ConfigError as error:
            # A wrong runtime_dir is a mistake to be told. A disk that is full or read-only for now must not end every login.
            cause = error.__context__
            if not isinstance(cause, OSError) or cause.errno not in _NO_ROOM:
                raise
            self.control = None
            log.error("no control socket: 'kiwi-id status' and the like will not work, SIGHUP does", error=str(error))

    def read_server(self, new: Config) -> ServerToml:
        """Read server.toml and check it against a config. Raises ConfigError."""
        return server_toml.load(self.config.upstream_config, new)

    def prepare_pin(self, new: Config) -> Callable[[], None]:
        """Read server.toml and the pinned chain anew (a reload step). Raises ConfigError."""
        server = self.read_server(new)
        apply_pin = self.pin.prepare(server.tls_chain)

        def apply() -> None:
            apply_pin()
            self.server = server

        return apply

    async def lacking_room(self) -> str:
        """Return what is wrong with the directories in which kanidmd makes files, when that may pass by itself, or ""."""
        needs = {self.server.db_path.parent: room.FOR_DATABASE, self.server.admin_socket.parent: room.FOR_SOCKET}
        return await trio.to_thread.run_sync(room.lack, needs, partial(acting_as, self.account))

    def note_start(self) -> Binary:
        """Check the binary that is about to be started, and remember with what it is; blocks. Raises ConfigError."""
        binary = self.binary.verify()
        self.started_with = (binary.sha256, self._server_checksum())
        return binary

    def upstream_changed(self) -> bool:
        """Tell whether the binary or server.toml has changed since kanidmd was started; blocks. Raises ConfigError."""
        return (self.binary.verify().sha256, self._server_checksum()) != self.started_with

    def _server_checksum(self) -> str:
        try:
            return hashlib.sha256(self.config.upstream_config.read_bytes()).hexdigest()
        except OSError:  # whoever reads it for what it says tells
            return ""

    def prepare_restart(self, new: Config) -> Callable[[], None]:
        """Check what another kanidmd would be started with (a reload step). Raises ConfigError: the old one then goes on."""
        self.binary.verify()
        server = self.read_server(new)
        if server.db_path != self._database:
            fix = "Restart Kiwi ID itself: its lock is beside the database with which it was started."
            raise ConfigError([Problem(str(server.path), "db_path", str(server.db_path), str(self._database), fix)])
        if self.account is not None and (found := access.problems(self.config, server, self.account)):
            raise ConfigError(found)
        return lambda: None

    async def keep_fresh(self, config: Callable[[], Config], wait_serving: Waiter, reload: Callable[[], None]) -> None:
        """Renew what grows old, for ever: the loopback certificate that ``kiwi-id init`` made, and the signing key when asked to.

        ``reload`` asks for a reload, which puts the new files in force everywhere (kanidmd, and the listener when it shares one).
        """
        clock = Clock()
        while True:
            try:
                if await trio.to_thread.run_sync(self._renew_certificate):
                    log.info("renewed the loopback certificate", chain=str(self.server.tls_chain))
                    self.pin.reload(self.server.tls_chain)  # whatever else is wrong with the files when the reload comes
                    await wait_serving()
                    reload()
                if clock.believed() and await trio.to_thread.run_sync(self._rotate_keys, config()):
                    log.info("the key set has changed by its age")
                    reload()
            except (OSError, KiwiError) as error:
                log.error("cannot renew the loopback certificate or the signing key", error=str(error))
            await clock.wait(RENEWAL_CHECK)

    def _renew_certificate(self) -> bool:
        from kiwi_id.instance.certs import renew_if_due  # noqa: PLC0415 - cryptography is heavy, and wanted late

        return renew_if_due(self.server.tls_chain, self.server.tls_key)

    def _rotate_keys(self, config: Config) -> bool:
        from kiwi_id.issuer.rotation import Keyring  # noqa: PLC0415 - as above

        keyring = Keyring.of(config)
        now = datetime.now(UTC)
        if config.jwt_key_rotation is None:
            return bool(keyring.expire(now))
        return keyring.keep(now, timedelta(seconds=config.jwt_key_rotation))
