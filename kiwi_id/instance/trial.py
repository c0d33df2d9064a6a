"""The instance behind ``kiwi-id dev``: made in a moment, on localhost, over a real kanidmd or the stand-in.

The origin is ``https://localhost:PORT``. Browsers trust the name without DNS, keep Kanidm's ``Secure`` cookies for its domain and
allow passkeys on it even with a self-signed certificate (tried with Chromium 156 on Kanidm 1.5.0 and 1.10.5); and unlike
``id.localhost`` every program resolves it, so that services developed against it can fetch discovery and keys.
"""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from pathlib import Path

from kiwi_id import compatibility, config
from kiwi_id.config import Config
from kiwi_id.errors import ConfigError, Problem
from kiwi_id.instance import layout
from kiwi_id.instance.ports import claim, free_port
from kiwi_id.kanidm import server_toml
from kiwi_id.kanidm.server_toml import ServerToml
from kiwi_id.values import Address

DEFAULT_PORT = 8443


@dataclass(frozen=True, slots=True)
class Trial:
    """An instance that can be started. ``stand_in`` tells that no Kanidm is in it."""

    root: Path
    config: Config
    server: ServerToml
    stand_in: bool

    @property
    def front(self) -> str:
        """Where it is reached, by address: the listener is bound to IPv4, and ``localhost`` may mean ``::1`` first."""
        return f"https://{self.config.listen_addr}"

    @property
    def certificate(self) -> Path:
        """The certificate of its listener, which is its own authority."""
        return self.config.tls_cert or self.server.tls_chain


def prepare(root: Path, *, port: int | None = None, upstream_bin: Path | None = None, stand_in: bool = False) -> Trial:
    """Make an instance under ``root``, or take the one that is there; return it.

    ``port`` is that of the origin (default: 8443 when it is free, else a free one). ``upstream_bin`` is a kanidmd, by default
    ``$KIWI_TEST_KANIDMD`` or the one in ``/opt/upstream/bin``; where there is none, or with ``stand_in``, the stand-in is used.
    Raises ConfigError, also when the options contradict the instance that is there.
    """
    script = root / "stand-in" / "kanidmd"
    file = layout.Places.under(root).config
    if file.exists():
        wanted = script if stand_in else upstream_bin and upstream_bin.absolute()
        _check_kept(root, config.load(file), port, wanted)
    else:
        binary = None if stand_in else _find(upstream_bin)
        if binary is None:
            _install_stand_in(script)
        options = layout.Options(
            listen=Address("127.0.0.1", _choose_port(port)),
            upstream=Address("127.0.0.1", free_port()),
            upstream_bin=binary or script,
            listener_tls=True,
        )
        layout.create(root, options)
    settings = config.load(file)
    if settings.upstream_bin == script:
        _install_stand_in(script)  # it names the interpreter and the checkout, which may have moved since
        compatibility.write_pin(settings)
    return Trial(root, settings, server_toml.load(settings.upstream_config), settings.upstream_bin == script)


def _find(option: Path | None) -> Path | None:
    """Return the real kanidmd to use, None when there is none. Raises ConfigError when one was named that is not there."""
    variable = os.environ.get("KIWI_TEST_KANIDMD")
    for name, path in (("--upstream-bin", option), ("KIWI_TEST_KANIDMD", Path(variable) if variable else None)):
        if path is not None:
            if not os.access(path, os.X_OK):
                raise ConfigError([Problem(name, "", f"{path}, no program that can be run", "the path of a kanidmd", "")])
            return path.absolute()
    return layout.DEFAULT_BIN if os.access(layout.DEFAULT_BIN, os.X_OK) else None


def _check_kept(root: Path, kept: Config, port: int | None, binary: Path | None) -> None:
    """Refuse what contradicts a kept instance: Kanidm's origin, and whose database it is, cannot simply change."""
    problems: list[Problem] = []
    fix = "Leave the option out, or choose another directory."
    if port not in (None, kept.listen_addr.port):
        problems.append(Problem("--port", "", str(port), f"{kept.listen_addr.port}, which {root} was made with", fix))
    if binary not in (None, kept.upstream_bin):
        allowed = f"{kept.upstream_bin}, which {root} was made with"
        problems.append(Problem("--upstream-bin, --stand-in", "", str(binary), allowed, fix))
    if problems:
        raise ConfigError(problems)


def _install_stand_in(target: Path) -> None:
    from kiwi_id import devserver  # noqa: PLC0415  # not for production, so only who asks for it imports it

    target.parent.mkdir(parents=True, exist_ok=True)
    devserver.install(target)


def _choose_port(wanted: int | None) -> int:
    """Return ``wanted``, by default DEFAULT_PORT when it is free, else any free one. Raises ConfigError when it is taken."""
    if wanted is None and not claim(DEFAULT_PORT):  # of another trial, which need not listen yet
        return free_port()
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # or a port stays taken for a minute after each run
        try:
            probe.bind(("127.0.0.1", wanted or DEFAULT_PORT))
            probe.listen()  # SO_REUSEADDR lets a bind pass beside a listener, but not a second listener
        except OSError as error:
            if wanted is None:
                return free_port()
            found = f"{wanted}: {error.strerror}"
            raise ConfigError([Problem("--port", "", found, "a port that is free", "Stop what uses it.")]) from None
    return wanted or DEFAULT_PORT
