"""The plan: everything that must be right before the first process is started, read, checked and bound; all problems at once."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Awaitable, Callable

import trio

from kiwi_id import control
from kiwi_id.compatibility import PinChecker
from kiwi_id.config import Config
from kiwi_id.errors import ConfigError, Problem
from kiwi_id.kanidm import server_toml
from kiwi_id.kanidm.pin import UpstreamPin
from kiwi_id.kanidm.server_toml import ServerToml
from kiwi_id.logs import Log
from kiwi_id.proxy import listener
from kiwi_id.proxy.listener import Listener
from kiwi_id.reloader import Prepare

log = Log("supervisor")

# The loopback certificate is looked at this often, seconds; it is renewed a month before it ends.
CERTIFICATE_CHECK = 6 * 3600.0


class Plan:
    """What a start needs, checked. Raises ConfigError with every problem found; what was bound is then closed again."""

    server: ServerToml
    pin: UpstreamPin
    binary: PinChecker
    tls: ssl.SSLContext | None
    sockets: list[socket.socket]
    control: trio.SocketListener

    def __init__(self, config: Config, binary: Callable[[], PinChecker]) -> None:
        """``binary`` returns the checked binary or raises ConfigError; it is called once, and may have begun long before."""
        self.config = config
        self.sockets = []
        problems: list[Problem] = []

        def attempt(step: Callable[[], None]) -> None:
            try:
                step()
            except ConfigError as error:
                problems.extend(error.problems)

        def read_server() -> None:
            self.server = server_toml.load(config.upstream_config)
            if mismatch := server_toml.check_against(self.server, config):
                raise ConfigError(mismatch)
            self.pin = UpstreamPin(self.server.tls_chain)
            for warning in server_toml.warnings(self.server, config):
                log.warn("server.toml: " + warning.key, **warning.as_dict())

        def check_binary() -> None:
            self.binary = binary()

        def read_tls() -> None:
            self.tls = listener.tls_context(config)

        def bind() -> None:
            self.sockets = listener.bind(config.listen_addr)

        for step in (read_server, check_binary, read_tls, bind):
            attempt(step)
        if problems:
            for sock in self.sockets:
                sock.close()
            raise ConfigError(problems)

    def listen_control(self) -> None:
        """Bind the control socket; after the lock has been taken, because it replaces a socket file that is there."""
        self.control = control.listen(self.config.control_socket)

    def prepare_tls(self, front: Listener) -> Prepare:
        """Return the reload step that reads the listener's TLS files."""

        def prepare(new: Config) -> Callable[[], None]:
            context = listener.tls_context(new)

            def apply() -> None:
                front.tls = context

            return apply

        return prepare

    def prepare_keys(self, new: Config) -> Callable[[], None]:
        """Check the signing key pair (a reload step). Raises ConfigError."""
        from kiwi_id.instance.keys import check_pair  # noqa: PLC0415 - cryptography is heavy, and wanted late

        if problems := check_pair(new.jwt_private_key, new.jwt_public_key, prove=False):
            raise ConfigError(problems)
        return lambda: None

    def prepare_pin(self, new: Config) -> Callable[[], None]:
        """Read server.toml and the pinned chain anew (a reload step). Raises ConfigError."""
        server = server_toml.load(self.config.upstream_config)
        if mismatch := server_toml.check_against(server, new):
            raise ConfigError(mismatch)
        apply_pin = self.pin.prepare(server.tls_chain)

        def apply() -> None:
            apply_pin()
            self.server = server

        return apply

    async def keep_certificates(self, wait_serving: Callable[[], Awaitable[None]], reload: Callable[[], None]) -> None:
        """Renew the loopback certificate that ``kiwi-id init`` made, when it is due, for ever; others are left alone.

        ``reload`` asks for a reload, which has kanidmd (and the listener, when it shares the file) take the new one.
        """
        from kiwi_id.instance.certs import renew_if_due  # noqa: PLC0415 - as above

        while True:
            chain = self.server.tls_chain
            try:
                if await trio.to_thread.run_sync(renew_if_due, chain, self.server.tls_key):
                    log.info("renewed the loopback certificate", chain=str(chain))
                    self.pin.reload(chain)  # whatever else is wrong with the files when the reload comes
                    await wait_serving()
                    reload()
            except (OSError, ConfigError) as error:
                log.error("cannot renew the loopback certificate", chain=str(chain), error=str(error))
            await trio.sleep(CERTIFICATE_CHECK)
