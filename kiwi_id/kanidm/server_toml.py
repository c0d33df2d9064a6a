"""Reading Kanidm's server.toml: only what Kiwi ID itself needs, in the formats of Kanidm 1.5.0 to 1.11.

Kanidm is strict about the rest of the file and says so itself. What is refused here is what would make *our* part fail: the
address we proxy to, the certificate we pin, the origin our issuer stands on, the database our lock lies beside. The keys are
those of Kanidm's server/core/src/config.rs (``ServerConfig``, from 1.6 also ``ServerConfigV2``).
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from kiwi_id import toml, values
from kiwi_id.config import Config
from kiwi_id.errors import ConfigError, Problem
from kiwi_id.instance.files import read_file
from kiwi_id.kanidm.reach import is_loopback, reaches, source_of
from kiwi_id.values import Address, Network, Refused

DEFAULT_BIND = Address("127.0.0.1", 8443)
"""Kanidm's own default of ``bindaddress`` (proto/src/constants.rs, all versions)."""
DEFAULT_ADMIN_SOCKET = "/var/run/kanidmd/sock"
"""Where builds for Linux put the admin socket without ``adminbindpath`` (libs/profiles/release_linux.toml)."""

# Every key of any version; one that is in none of them is a typo that Kanidm will refuse.
_KNOWN = frozenset().union(
    ("version", "domain", "origin", "db_path", "db_fs_type", "db_arc_size", "tls_chain", "tls_key", "tls_client_ca", "bindaddress"),
    ("ldapbindaddress", "role", "log_level", "online_backup", "trust_x_forward_for", "http_client_address_info", "replication"),
    ("ldap_client_address_info", "adminbindpath", "thread_count", "maximum_request_size_bytes", "migration_path"),
    ("otel_grpc_url", "otel_grpc_endpoint"),
)
_DOMAIN = re.compile(r"(?=.{1,253}$)[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?(?:\.[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?)*")


@dataclass(frozen=True, slots=True)
class ServerToml:
    """What Kiwi ID needs of server.toml.

    ``origin`` is normalised as a browser writes it: lower case, no final slash, no ``:443``. ``forwarded`` tells whether Kanidm
    believes X-Forwarded-For; ``forwarded_from`` from which peers (None: from all). ``proxy_from`` lists peers that must send a
    PROXY protocol header, which Kiwi ID does not speak. ``version`` is the format: 1 (flat, 1.5.0 and later) or 2 (1.6 and later).
    Each of ``unknown_keys`` is followed by its place and, when there is one that may be meant, a known key.
    """

    path: Path
    domain: str
    origin: str
    db_path: Path
    tls_chain: Path
    tls_key: Path
    bind_addresses: tuple[Address, ...]
    admin_socket: Path
    forwarded: Literal["none", "x-forward-for"]
    version: Literal[1, 2]
    forwarded_from: tuple[Network, ...] | None = None
    proxy_from: tuple[Network, ...] = ()
    ldap: bool = False
    role: str = "WriteReplica"
    unknown_keys: tuple[tuple[str, ...], ...] = ()


def load(path: Path, config: Config | None = None) -> ServerToml:
    """Read and check ``path``, and whether it fits ``config``.

    Raises ConfigError with every problem: unreadable, not TOML, missing or unusable settings, and see :func:`check_against`.
    """
    return _whole(*_read(path), config)


def parse(text: str, path: Path) -> ServerToml:
    """Check the text of a server.toml; ``path`` names it in errors. Raises ConfigError with every problem."""
    return _whole(*_Reader(text, path).server(), None)


def examine(path: Path, config: Config) -> tuple[ServerToml | None, list[Problem], list[Problem]]:
    """Return what can be known of ``path`` beside ``config``: the settings, what stops a start, and :func:`warnings`.

    The settings are there when whoever only looks can use them: ``domain`` and ``origin`` may be empty, being refused.
    """
    try:
        server, problems = _read(path)
    except ConfigError as error:
        return None, error.problems, []
    refused = {problem.key for problem in problems}
    warned = [warning for warning in warnings(server, config) if warning.key not in refused]
    usable = refused <= {"domain", "origin"}
    return server if usable else None, problems + check_against(server, config), warned


def _whole(server: ServerToml, problems: list[Problem], config: Config | None) -> ServerToml:
    if problems := problems + (check_against(server, config) if config else []):
        raise ConfigError(problems)
    return server


def _read(path: Path) -> tuple[ServerToml, list[Problem]]:
    fix = "Run 'kiwi-id init /' to write one, or set upstream_config in config.toml."
    try:
        return _Reader(read_file(path).decode("utf-8"), path).server()
    except FileNotFoundError:
        raise ConfigError([Problem(str(path), "", "no such file", "Kanidm's server.toml", fix)]) from None
    except (OSError, UnicodeDecodeError) as error:
        found = error.strerror or str(error) if isinstance(error, OSError) else "bytes that are not UTF-8"
        raise ConfigError([Problem(str(path), "", found, "a readable TOML file in UTF-8", "")]) from None


def origin_of(domain: str | None, origin: Any) -> str:
    """Return ``origin`` normalised, when it can belong to ``domain`` (None: that is refused itself, and not compared).

    Raises Refused otherwise. Kanidm does not start when the origin's host is not its domain or below it
    (server/lib/src/idm/server.rs), and passkeys are bound to it, so addresses are refused as well.
    """
    allowed = f'"https://{domain or "…"}" or a host below it, with an optional port and no path'
    if not isinstance(origin, str):
        raise Refused(values.shown(origin), allowed)
    if "@" in origin:  # not repeated: there may be a password before it
        raise Refused("a URL with a user name", allowed, "Leave out the user.")
    try:
        parts = urlsplit(origin)
        host, port = parts.hostname or "", parts.port
    except ValueError as error:
        raise Refused(values.shown(origin), allowed, f"{error}.") from None
    if parts.scheme != "https" or not host:
        raise Refused(values.shown(origin), allowed, "The origin must begin with https://.")
    if parts.path not in ("", "/") or parts.query or parts.fragment:
        raise Refused(values.shown(origin), allowed, "Leave out path and query.")
    if domain and host != domain and not host.endswith(f".{domain}"):
        raise Refused(values.shown(origin), allowed, "The host must be the domain itself or end with a dot and the domain.")
    return f"https://{host}" if port in (None, 443) else f"https://{host}:{port}"


def domain_of(value: Any) -> str:
    """Check a DNS name in lower case, which is what accounts and passkeys are bound to. Raises Refused."""
    allowed = 'a DNS name in lower case, such as "id.example.com"'
    if not isinstance(value, str) or not _DOMAIN.fullmatch(value):
        raise Refused(values.shown(value), allowed)
    if re.fullmatch(r"[\d.]+", value):
        raise Refused(values.shown(value), allowed, "An IP address cannot be a domain: passkeys need a name.")
    return value


class _Reader:
    """Takes the settings out of one parsed file and keeps every problem on the way."""

    def __init__(self, text: str, path: Path) -> None:
        self.table, self.lines, self.path = toml.parse(text, path), toml.line_numbers(text), path
        self.problems: list[Problem] = []
        self.meant: set[str] = set()

    def server(self) -> tuple[ServerToml, list[Problem]]:
        """Return the settings, empty where one is refused, and the problems."""
        version = self._version()
        domain = self._take("domain", domain_of)
        origin = self._take("origin", lambda value: origin_of(domain, value))
        paths = {key: self._take(key, values.path) for key in ("db_path", "tls_chain", "tls_key")}
        admin = self._take("adminbindpath", values.path, DEFAULT_ADMIN_SOCKET)
        bind = self._take("bindaddress", _addresses, str(DEFAULT_BIND))
        trusted, proxied = self._client_address_info(version)
        role = self.table.get("role")
        server = ServerToml(
            path=self.path,
            domain=domain or "",
            origin=origin or "",
            bind_addresses=bind or (),
            admin_socket=admin,
            forwarded="none" if trusted == () else "x-forward-for",
            version=version,
            forwarded_from=trusted,
            proxy_from=proxied,
            ldap=bool(self.table.get("ldapbindaddress")),
            role=role if isinstance(role, str) else "WriteReplica",
            unknown_keys=tuple((key, self._where(key), *difflib.get_close_matches(key, _KNOWN, n=1)) for key in self._unknown()),
            **paths,
        )
        return server, self.problems

    def _unknown(self) -> list[str]:
        """Return the keys that no Kanidm has, but for those already told of instead of a missing one."""
        return [key for key in self.table if key not in _KNOWN and key not in self.meant]

    def _take(self, key: str, parser: Any, default: str | None = None) -> Any:
        value = self.table.get(key, default)
        if value is None:
            close = difflib.get_close_matches(key, self._unknown(), n=1, cutoff=0.6)
            self.meant.update(close)
            found = f"nothing, but an unknown key '{close[0]}'" if close else "nothing"
            fix = f"Did you mean '{key}'?" if close else f"Add {key} = …."
            where = self._where(close[0] if close else key)
            self.problems.append(Problem(where, key, found, "a value: Kanidm and Kiwi ID need it", fix))
            return None
        try:
            return parser(value)
        except Refused as refused:
            self._add(key, refused)
            return None

    def _where(self, key: str) -> str:
        return f"{self.path}:{self.lines[key]}" if key in self.lines else str(self.path)

    def _add(self, key: str, refused: Refused) -> None:
        self.problems.append(Problem(self._where(key), key, refused.found, refused.allowed, refused.fix))

    def _version(self) -> Literal[1, 2]:
        value = self.table.get("version")
        if value not in (None, "2"):
            self._add("version", Refused(values.shown(value), '"2", or no such key for the older flat format'))
        return 2 if value == "2" else 1

    def _client_address_info(self, version: int) -> tuple[tuple[Network, ...] | None, tuple[Network, ...]]:
        """Return who may send X-Forwarded-For (None: everybody) and who must send a PROXY header."""
        if version == 1:
            trust = self._take("trust_x_forward_for", values.boolean) if "trust_x_forward_for" in self.table else False
            return (None if trust else ()), ()
        info = self.table.get("http_client_address_info", {})
        key = "http_client_address_info"
        if info == "x-forward-for-all-source-trusted":
            return None, ()
        if not isinstance(info, dict):
            self._add(key, Refused(values.shown(info), 'a table with "x-forward-for", "proxy-v2" or "proxy-v1"'))
            return (), ()
        trusted: dict[str, tuple[Network, ...]] = {}
        for kind, peers in info.items():
            try:
                trusted[kind] = values.networks(peers)
            except Refused as refused:
                self._add(key, refused)
        return trusted.get("x-forward-for", ()), trusted.get("proxy-v2", ()) + trusted.get("proxy-v1", ())


def _addresses(value: Any) -> tuple[Address, ...]:
    """Parse one address or, from Kanidm 1.8 on, a list of them. Raises Refused."""
    items = value if isinstance(value, list) else [value]
    if not items:
        raise Refused("an empty array", "at least one address")
    return tuple(values.address(item, any_port=False) for item in items)


def check_against(server: ServerToml, config: Config) -> list[Problem]:
    """Return what makes ``server`` and ``config`` fail together: we would proxy to where Kanidm does not listen, or is deaf."""
    problems: list[Problem] = []
    target = config.upstream_addr
    if server.bind_addresses and not any(reaches(target, bind) for bind in server.bind_addresses):
        found = f"{', '.join(map(str, server.bind_addresses))}, but upstream_addr in {config.path} is https://{target}"
        fix = f'Set bindaddress = "{target}" here, or upstream_addr = "https://{server.bind_addresses[0]}" there.'
        problems.append(Problem(str(server.path), "bindaddress", found, "an address that serves upstream_addr", fix))
    source = source_of(target)
    if any(source in network for network in server.proxy_from):
        found = f"{source} must send a PROXY header"
        fix = f'Write x-forward-for = ["{source}"] instead of proxy-v1 or proxy-v2.'
        allowed = "x-forward-for: Kiwi ID speaks HTTP to Kanidm, not the PROXY protocol"
        problems.append(Problem(str(server.path), "http_client_address_info", found, allowed, fix))
    for bind in server.bind_addresses:
        if config.listen_addr.port == bind.port and reaches(config.listen_addr, bind):
            found = f"{bind}, which takes listen_addr {config.listen_addr} of {config.path} as well"
            problems.append(Problem(str(server.path), "bindaddress", found, "a loopback address", f'Use "{DEFAULT_BIND}".'))
    return problems


def warnings(server: ServerToml, config: Config) -> list[Problem]:
    """Return what does not stop a start but is likely a mistake, or a risk that somebody should know of."""
    path = str(server.path)
    found: list[Problem] = []
    source = source_of(config.upstream_addr)
    trusted = server.forwarded == "x-forward-for" and (
        server.forwarded_from is None or any(source in network for network in server.forwarded_from)
    )
    if not trusted:
        key = "trust_x_forward_for" if server.version == 1 else "http_client_address_info"
        fix = "trust_x_forward_for = true" if server.version == 1 else f'x-forward-for = ["{source}"]'
        text = f"X-Forwarded-For from {source} is not believed: Kanidm's logs and limits see Kiwi ID instead of the clients"
        found.append(Problem(path, key, text, "", f"Set {fix}."))
    if server.ldap:
        text = "the LDAP listener is on; it bypasses Kiwi ID, and Kanidm 1.5.0 has known denials of service there"
        found.append(Problem(path, "ldapbindaddress", text, "", "Remove it unless something needs LDAP."))
    if server.role.lower().replace("_", "") == "writereplicanoui":
        found.append(Problem(path, "role", f'"{server.role}": no login pages are served', "", "Use WriteReplica."))
    for bind in server.bind_addresses:
        if not is_loopback(bind.host):
            text = f"{bind} can be reached around Kiwi ID"
            found.append(Problem(path, "bindaddress", text, "", f'Bind the loopback: "127.0.0.1:{bind.port}".'))
    for key, where, *meant in server.unknown_keys:
        fix = f"Did you mean '{meant[0]}'?" if meant else "Is it a typo?"
        found.append(Problem(where, key, "a key that no known Kanidm has; Kanidm refuses unknown keys", "", fix))
    return found
