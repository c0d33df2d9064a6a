"""The tree of an instance: deciding first, with every problem told and nothing touched, then writing what is missing.

With ``/`` it is the layout of a KiwiStack machine; under any other directory the same tree, with paths into it, which needs no
root. What exists is the truth: a kept config.toml decides where the other files lie, a kept server.toml where its TLS files are.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from kiwi_id import __version__, compatibility, config
from kiwi_id.config import Config
from kiwi_id.errors import ConfigError, Problem
from kiwi_id.instance import certs, keys, owners, templates
from kiwi_id.instance.files import write_atomic
from kiwi_id.kanidm import server_toml
from kiwi_id.kanidm.server_toml import ServerToml
from kiwi_id.values import Address, Refused

Action = Literal["written", "kept", "replaced"]

SOCKET_PATH_MAX = 107 - len(".new")
"""Longest path of a socket of ours in bytes: 108 with the final NUL (unix(7)), less the suffix under which it is first bound."""
DEFAULT_BIN = Path("/opt/upstream/bin/kanidmd")


@dataclass(frozen=True, slots=True)
class Options:
    """What the caller wants; None leaves the choice to the layout.

    ``domain`` and ``origin``: Kanidm's; outside ``/`` the domain defaults to ``localhost``, for trials. ``listen`` and
    ``upstream``: where Kiwi ID and kanidmd listen. ``listener_tls``: serve HTTPS with the loopback certificate (by default only
    for an origin on localhost). ``key_type``: kind of the signing keys. ``provision``: have Kiwi ID make its account in Kanidm and
    apply the state file by itself. ``force``: replace files that exist, keeping the old ones
    as ``NAME.bak``; signing keys only when ``key_type`` is given, for a new key ends every token's validity; and TLS files only
    when Kiwi ID made them.
    """

    domain: str | None = None
    origin: str | None = None
    listen: Address | None = None
    upstream: Address | None = None
    upstream_bin: Path | None = None
    key_type: keys.Kind | None = None
    listener_tls: bool | None = None
    provision: bool = False
    force: bool = False


_PLACES = {
    "config": "etc/kiwi/config.toml",
    "jwt_private_key": "etc/kiwi/jwt-private.pem",
    "jwt_public_key": "etc/kiwi/jwt-public.pem",
    "upstream_bin": "opt/upstream/bin/kanidmd",
    "upstream_config": "opt/upstream/etc/server.toml",
    "chain": "opt/upstream/etc/loopback-chain.pem",
    "key": "opt/upstream/etc/loopback-key.pem",
    "database": "var/lib/upstream/kanidm.db",
    "log_file": "var/log/kiwi/kiwi-id.log",
    "runtime_dir": "run/kiwi",
    "version": "opt/kiwi/version",
    "launcher": "opt/kiwi/bin/kiwi-id",
}


@dataclass(frozen=True, slots=True)
class Places:
    """Where the files of an instance lie; make it with :meth:`under`."""

    root: Path
    config: Path
    jwt_private_key: Path
    jwt_public_key: Path
    upstream_bin: Path
    upstream_config: Path
    chain: Path
    key: Path
    database: Path
    log_file: Path
    runtime_dir: Path
    version: Path
    launcher: Path

    @classmethod
    def under(cls, root: Path) -> Places:
        """Return the places of the instance whose tree begins at ``root``, an absolute path."""
        return cls(root, **{name: root / place for name, place in _PLACES.items()})


def create(root: Path, options: Options) -> list[tuple[Action, Path]]:
    """Write what an instance under ``root`` lacks; return every file, and every directory made, with what was done to it.

    Running it again changes nothing. Without a kanidmd on the machine there is no pin, and everything else is written. Raises
    ConfigError with every problem; those that can be known beforehand are raised before anything is written.
    """
    plan = _Plan(root.absolute(), options)
    try:
        return plan.carry_out()
    except OSError as error:
        where = str(error.filename or root)
        fix = "Run it as a user who may write there, or choose another directory: kiwi-id init DIR."
        raise ConfigError([Problem(where, "", error.strerror or str(error), "a writable place", fix)]) from None


def find_binary(root: Path) -> Path | None:
    """Return the kanidmd to use: under ``root``, else ``/opt/upstream/bin``, else on PATH; None when there is none."""
    for candidate in (Places.under(root).upstream_bin, DEFAULT_BIN):
        with suppress(PermissionError):  # a directory that this user may not enter
            if candidate.is_file():
                return candidate
    on_path = shutil.which("kanidmd")
    return Path(on_path).absolute() if on_path else None


class _Plan:
    """All decisions of one run; making it raises ConfigError, and touches nothing."""

    def __init__(self, root: Path, options: Options) -> None:
        self.options, self.places = options, Places.under(root)
        self.done: list[tuple[Action, Path]] = []
        self.config_text = self.server_text = ""
        kept = None if options.force or not _exists(self.places.config) else config.load(self.places.config)
        server_file = kept.upstream_config if kept else self.places.upstream_config
        server = None if options.force or not _exists(server_file) else server_toml.load(server_file)
        self.config = kept or self._new_config(server)
        self.server = server or self._new_server(self.config)
        problems = self._problems()
        if problems:
            raise ConfigError(problems)
        self.binary = _exists(self.config.upstream_bin)
        self.pin = (options.force and self.binary) or not _exists(self.config.compatibility_file)
        if self.pin and self.binary:
            compatibility.identify(self.config.upstream_bin)  # one that does not run is told before anything is written

    def _new_config(self, server: ServerToml | None) -> Config:
        options, places = self.options, self.places
        trial = places.root != Path("/")
        binary = options.upstream_bin or find_binary(places.root) or places.upstream_bin
        settings: dict[str, str | bool] = {
            "listen_addr": str(options.listen or ("127.0.0.1:8443" if trial else config.KEYS["listen_addr"].default)),
            "upstream_addr": f"https://{options.upstream or ('127.0.0.1:8444' if trial else server_toml.DEFAULT_BIND)}",
            "upstream_bin": str(binary.absolute()),
            **{name: str(getattr(places, name)) for name in ("upstream_config", "jwt_private_key", "jwt_public_key")},
            "log_file": str(places.log_file),
        }
        if trial:
            settings["runtime_dir"] = str(places.runtime_dir)
        if server is not None and options.upstream is None:
            settings["upstream_addr"] = f"https://{server.bind_addresses[0]}"
        tls = options.listener_tls
        if tls is None:
            tls = options.domain is None and server is None and trial
        if tls:
            settings["tls_cert"] = str(server.tls_chain if server else places.chain)
            settings["tls_key"] = str(server.tls_key if server else places.key)
        if options.provision:
            settings |= {"bootstrap": True, "apply_on_start": True}
        self.config_text = templates.config_toml(settings)
        return config.parse(self.config_text, places.config)

    def _new_server(self, instance: Config) -> ServerToml:
        options, places = self.options, self.places
        domain = options.domain
        if domain is None and places.root != Path("/"):
            domain = "localhost"
        if domain is None:
            fix = "Give --domain id.example.com: accounts and passkeys are bound to it, so there is no default."
            raise ConfigError([Problem("--domain", "", "nothing", "the DNS name of this Kanidm", fix)])
        default = f"https://localhost:{instance.listen_addr.port}" if domain == "localhost" else f"https://{domain}"
        where = "--domain"
        try:
            domain = server_toml.domain_of(domain)
            where = "--origin"
            origin = server_toml.origin_of(domain, options.origin or default)
        except Refused as refused:
            raise ConfigError([Problem(where, "", refused.found, refused.allowed, refused.fix)]) from None
        target = instance.upstream_addr
        bind = target if target.host != "localhost" else Address("127.0.0.1", target.port)  # Kanidm takes addresses only
        self.server_text = templates.server_toml(
            domain=domain,
            origin=origin,
            bind=str(bind),
            database=places.database,
            chain=places.chain,
            key=places.key,
            admin_socket=instance.runtime_dir / "kanidmd.sock",
        )
        return server_toml.parse(self.server_text, instance.upstream_config)

    def _problems(self) -> list[Problem]:
        problems = server_toml.check_against(self.server, self.config)
        socket = self.config.control_socket
        if len(os.fsencode(socket)) > SOCKET_PATH_MAX:
            fix = "Choose a directory with a shorter path, or a shorter runtime_dir."
            problems.append(Problem(str(socket), "", "a path too long for a socket", f"{SOCKET_PATH_MAX} bytes", fix))
        private, public = self.config.jwt_private_key, self.config.jwt_public_key
        if not self._renew_keys and _exists(public) and not _exists(private):
            fix = "Restore the private key, or make a new pair: kiwi-id init --force --key-type rs256."
            problems.append(Problem(str(private), "", "no such file, but its public half exists", "both or none", fix))
        chain, key = self.server.tls_chain, self.server.tls_key
        if not self.options.force and _exists(chain) != _exists(key):
            lost, other = (key, chain) if _exists(chain) else (chain, key)
            fix = "Restore it, or remove the other (or use --force) to have both made anew."
            problems.append(Problem(str(lost), "", f"no such file, but {other} exists", "both or none", fix))
        return problems

    @property
    def _renew_keys(self) -> bool:
        return self.options.force and self.options.key_type is not None

    def carry_out(self) -> list[tuple[Action, Path]]:
        places, instance, server = self.places, self.config, self.server
        self._directory(places.root, 0o755)
        self._directory(server.db_path.parent, 0o700)
        if instance.log_file:
            self._directory(instance.log_file.parent, 0o750)
        self._directory(instance.runtime_dir, 0o750)
        for file in (places.config, instance.upstream_config, places.upstream_bin, places.launcher):
            self._directory(file.parent, 0o755)
        self._text(places.config, self.config_text, 0o644)
        self._text(instance.upstream_config, self.server_text, 0o644)
        self._certificates(server.tls_chain, server.tls_key)
        self._keys(instance.jwt_private_key, instance.jwt_public_key)
        if self.binary or not self.pin:
            self._file(instance.compatibility_file, self.pin, lambda: compatibility.write_pin(instance))
        self._text(places.version, f"{__version__}\n", 0o644)
        self._text(places.launcher, templates.launcher(Path(compatibility.__file__).parent.parent), 0o755)
        return self.done

    def _certificates(self, chain: Path, key: Path) -> None:
        whole = _exists(chain) and _exists(key)
        renew = not whole or (self.options.force and certs.is_loopback_file(chain))
        before = {path: _exists(path) for path in (chain, key)}
        if renew:
            for path in before:
                self._directory(path.parent, 0o755)
                _back_up(path)
            certs.make_loopback(chain, key)
        for path, existed in before.items():
            self.done.append(("kept" if not renew else "replaced" if existed else "written", path))

    def _keys(self, private: Path, public: Path) -> None:
        if not self._renew_keys and _exists(private):
            self.done.append(("kept", private))
            self._file(public, not _exists(public), lambda: keys.derive_public(private, public))
            return
        before = {path: _exists(path) for path in (private, public)}
        for path in before:
            self._directory(path.parent, 0o755)
            _back_up(path)
        keys.generate_pair(private, public, kind=self.options.key_type or "rs256")
        self.done.extend(("replaced" if existed else "written", path) for path, existed in before.items())

    def _text(self, path: Path, text: str, mode: int) -> None:
        replace = bool(text) and (self.options.force or not _exists(path))
        self._file(path, replace, lambda: write_atomic(path, text.encode(), mode))

    def _file(self, path: Path, write: bool, writer: Callable[[], object]) -> None:
        existed = _exists(path)
        if write:
            self._directory(path.parent, 0o755)
            _back_up(path)
            writer()
        self.done.append(("kept" if not write else "replaced" if existed else "written", path))

    def _directory(self, path: Path, mode: int) -> None:
        """Make ``path`` with exactly ``mode``, and its missing parents with 0755; a directory that exists keeps its mode."""
        if path.is_dir():
            return
        self._directory(path.parent, 0o755)
        owners.make_directory(path, mode)
        self.done.append(("written", path))


def _exists(path: Path) -> bool:
    return os.path.lexists(path)  # Path.exists follows links; a dangling link is somebody's, not nothing


def _back_up(path: Path) -> None:
    """Keep the old file as ``NAME.bak``: a second name for the same inode, which keeps its mode and leaves ``path`` in place."""
    if _exists(path):
        old = path.with_name(path.name + ".bak")
        old.unlink(missing_ok=True)
        old.hardlink_to(path)
