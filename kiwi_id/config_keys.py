"""The keys of config.toml, one row each: parser, default, whether a reload can change it, what it is for; and the types they fill.

The loader (:mod:`kiwi_id.config`), the tables of docs/configuration.md and the file that ``kiwi-id init`` writes are all made from
these rows, so that a key cannot be known to one of them only.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from kiwi_id import uris, values
from kiwi_id.values import Address, Network, Rate, Refused


@dataclass(frozen=True, slots=True)
class Key:
    """One key: how to parse it, its default as written in TOML, whether SIGHUP can change it, and what it is for."""

    parse: Callable[[Any], Any]
    default: Any
    reloadable: bool
    help: str


_seconds = partial(values.duration, low=0.05)
_rotation = partial(values.optional_duration, low=2 * 86400.0)
_interval = partial(values.optional_duration, low=3600.0)
# Each recheck uses up a refresh token, which Kanidm counts in whole seconds. Browsers keep no cookie longer than 400 days.
_recheck = partial(values.duration, low=2.0, high=3600.0)
_lifetime = partial(values.duration, low=60.0, high=30 * 86400.0)


def _account(value: Any) -> str:
    """Check the name of a user or group of the machine (useradd(8)); the empty string means *none*. Raises Refused."""
    if not isinstance(value, str) or (value and not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_.-]{0,31}", value)):
        raise Refused(values.shown(value), 'a name such as "kanidm", or ""')
    return value


KEYS: dict[str, Key] = {
    "listen_addr": Key(values.address, "10.10.20.10:8443", False, "address on the private bridge that others connect to"),
    "upstream_addr": Key(values.https_address, "https://127.0.0.1:8443", False, "where kanidmd listens (bindaddress)"),
    "upstream_bin": Key(values.path, "/opt/upstream/bin/kanidmd", False, "the kanidmd program"),
    "upstream_config": Key(values.path, "/opt/upstream/etc/server.toml", False, "Kanidm's own configuration"),
    "upstream_user": Key(_account, "", False, "user that kanidmd runs as; empty: the user of Kiwi ID"),
    "upstream_group": Key(_account, "", False, "its group; empty: the user's own"),
    "health_check_interval": Key(_seconds, "5s", True, "time between two probes of kanidmd"),
    "health_check_timeout": Key(_seconds, "60s", True, "without a successful probe for so long, kanidmd is restarted"),
    "jwt_private_key": Key(values.path, "/etc/kiwi/jwt-private.pem", True, "the instance's signing key"),
    "jwt_public_key": Key(values.path, "/etc/kiwi/jwt-public.pem", True, "its public half, for services that check tokens"),
    "jwt_keys_dir": Key(values.optional_path, "", True, "next and retired keys; empty: jwt-keys beside jwt_private_key"),
    "jwt_key_rotation": Key(_rotation, "", True, "age at which the signing key is replaced; empty: only by hand"),
    "issuer": Key(values.optional_origin, "", True, "issuer of our tokens; empty: the origin of server.toml"),
    "groups_claim": Key(values.one_of("name", "spn", "uuid"), "name", True, "how groups are named in tokens"),
    "log_level": Key(values.one_of("error", "warn", "info", "debug", "trace"), "info", True, "least severe level logged"),
    "log_format": Key(values.one_of("auto", "json", "console"), "auto", True, "on stderr: JSON, or colour on a terminal"),
    "log_file": Key(values.optional_path, "", True, "also write JSON lines here; reopened on SIGHUP"),
    "tls_cert": Key(values.optional_path, "", True, "certificate chain of the listener; empty: plain HTTP"),
    "tls_key": Key(values.optional_path, "", True, "private key of tls_cert"),
    "trusted_proxies": Key(values.networks, [], True, "peers whose X-Forwarded-* and Forwarded headers are believed"),
    "allowed_hosts": Key(values.hosts, [], True, "host names served beside our own, all others get 421; empty: any"),
    "admin_networks": Key(values.networks, [], True, "from where Kanidm may be administered, else 403; empty: anywhere"),
    "forward_auth_client": Key(values.optional_name, "", True, "OAuth2 client of /auth/verify; empty: no forward-auth"),
    "forward_auth_secret_file": Key(values.optional_path, "", True, "file with that client's secret; empty: a public client"),
    "forward_auth_hosts": Key(values.hosts, [], True, "hosts that /auth/verify protects; a login returns to no other"),
    "forward_auth_domain": Key(values.optional_domain, "", True, "one cookie for all hosts below; empty: one for each host"),
    "forward_auth_recheck": Key(_recheck, "5m", True, "how long a session is believed before Kanidm is asked about it again"),
    "forward_auth_lifetime": Key(_lifetime, "12h", True, "a session of forward-auth from login to the next login"),
    "forward_auth_audiences": Key(values.names, [], True, "clients whose access tokens are taken, too, besides its own"),
    "bootstrap": Key(values.boolean, False, True, "make Kiwi ID's own account in Kanidm at the start, unless that resets anybody"),
    "identities": Key(values.optional_path, "", True, "state file or directory; empty: identities.toml beside config.toml"),
    "apply_on_start": Key(values.boolean, False, True, "apply the state file at each start and reload, if there is one"),
    "backup_interval": Key(_interval, "1d", True, "how often somebody makes a backup, for kiwi-id status; empty: never"),
    "runtime_dir": Key(values.path, "/run/kiwi", False, "lock file and control socket"),
    "shutdown_timeout": Key(_seconds, "30s", True, "from SIGTERM to the end of everything"),
    "restart_limit": Key(partial(values.integer, low=1, high=1000), 5, True, "short lives of kanidmd in a row until giving up"),
    "restart_upstream_on_change": Key(
        values.boolean, False, True, "a reload that finds kanidmd or server.toml changed restarts it"
    ),
    "allow_untested": Key(values.boolean, False, False, "start a kanidmd version that this release was not tested with"),
}

LIMIT_KEYS: dict[str, Key] = {
    "max_connections": Key(partial(values.integer, low=1, high=1 << 20), 4096, True, "open connections of clients"),
    "max_connections_per_address": Key(
        partial(values.integer, low=1, high=1 << 20), 1024, True, "those of one address or IPv6 /64; trusted_proxies are exempt"
    ),
    "max_header_bytes": Key(partial(values.size, low=1024, high=1 << 20), "64KiB", True, "request line and headers"),
    "max_body_bytes": Key(partial(values.size, low=1024), "64MiB", True, "a request body (Kanidm's own limits are lower)"),
    "header_timeout": Key(_seconds, "10s", True, "from the first byte of a request to the end of its headers"),
    "body_timeout": Key(_seconds, "30s", True, "how long a body may stand still or be slower than min_rate"),
    "min_rate": Key(partial(values.size, high=1 << 20), "256B", True, "bytes a second of a body, either way; 0: any"),
    "keep_alive_timeout": Key(_seconds, "75s", True, "an idle client connection"),
    "tls_handshake_timeout": Key(_seconds, "10s", True, "a TLS handshake of a client"),
    "upstream_timeout": Key(_seconds, "60s", True, "from the end of a request to the head of Kanidm's answer"),
    "upstream_connections": Key(partial(values.integer, low=1, high=65536), 256, True, "connections to kanidmd at once"),
    "gate_timeout": Key(_seconds, "20s", True, "a request waits so long while kanidmd is not ready, then 503"),
    "gate_requests": Key(partial(values.integer, low=0, high=1 << 20), 1024, True, "requests that may wait so at once"),
    "gate_bytes": Key(partial(values.size, low=65536), "64MiB", True, "what those may hold together: heads, begun bodies"),
}

_rate = values.optional_rate

PROTECTION_KEYS: dict[str, Key] = {
    "login_failures_per_address": Key(_rate, "300/1h", True, "wrong logins from one address, whatever the accounts"),
    "login_failures_per_account": Key(_rate, "48/1d", True, "wrong logins to one account from addresses that are new to it"),
    "login_failures_per_account_and_address": Key(_rate, "24/8h", True, "wrong logins to one account from one address"),
    "token_failures_per_address": Key(_rate, "600/1h", True, "refused token requests from one address, whatever the clients"),
    "token_failures_per_client": Key(_rate, "120/10m", True, "refused token requests of one client from one address"),
}


CLIENT_KEYS: dict[str, Key] = {
    "post_logout_redirect_uris": Key(values.uris, [], True, "where a browser may be sent after a logout"),
    "backchannel_logout_uri": Key(uris.optional_endpoint, "", True, "told by us when a session ends"),
    "require_pkce": Key(values.boolean, False, True, "refuse this client's authorization requests without PKCE"),
}


@dataclass(frozen=True, slots=True)
class Limits:
    """The ``[limits]`` table; times in seconds, sizes in bytes. See ``LIMIT_KEYS`` for each."""

    max_connections: int
    max_connections_per_address: int
    max_header_bytes: int
    max_body_bytes: int
    header_timeout: float
    body_timeout: float
    min_rate: int
    keep_alive_timeout: float
    tls_handshake_timeout: float
    upstream_timeout: float
    upstream_connections: int
    gate_timeout: float
    gate_requests: int
    gate_bytes: int


@dataclass(frozen=True, slots=True)
class Protection:
    """The ``[protection]`` table; None: no limit. See ``PROTECTION_KEYS`` for each."""

    login_failures_per_address: Rate | None
    login_failures_per_account: Rate | None
    login_failures_per_account_and_address: Rate | None
    token_failures_per_address: Rate | None
    token_failures_per_client: Rate | None


@dataclass(frozen=True, slots=True)
class ClientSettings:
    """A ``[clients.NAME]`` table: what Kanidm does not know of an OAuth2 client. See ``CLIENT_KEYS`` for each."""

    post_logout_redirect_uris: tuple[str, ...] = ()
    backchannel_logout_uri: str = ""
    require_pkce: bool = False


@dataclass(frozen=True, slots=True)
class Config:
    """A checked config.toml; times in seconds. ``path`` is the file it came from. See ``KEYS`` for each field."""

    path: Path
    listen_addr: Address
    upstream_addr: Address
    upstream_bin: Path
    upstream_config: Path
    upstream_user: str
    upstream_group: str
    health_check_interval: float
    health_check_timeout: float
    jwt_private_key: Path
    jwt_public_key: Path
    jwt_keys_dir: Path | None
    jwt_key_rotation: float | None
    issuer: str
    groups_claim: str
    log_level: str
    log_format: str
    log_file: Path | None
    tls_cert: Path | None
    tls_key: Path | None
    trusted_proxies: tuple[Network, ...]
    allowed_hosts: tuple[str, ...]
    admin_networks: tuple[Network, ...]
    forward_auth_client: str
    forward_auth_secret_file: Path | None
    forward_auth_hosts: tuple[str, ...]
    forward_auth_domain: str
    forward_auth_recheck: float
    forward_auth_lifetime: float
    forward_auth_audiences: tuple[str, ...]
    bootstrap: bool
    identities: Path | None
    apply_on_start: bool
    backup_interval: float | None
    runtime_dir: Path
    shutdown_timeout: float
    restart_limit: int
    restart_upstream_on_change: bool
    allow_untested: bool
    limits: Limits
    protection: Protection
    clients: Mapping[str, ClientSettings]

    @property
    def keys_dir(self) -> Path:
        """Where next and retired signing keys are kept."""
        return self.jwt_keys_dir or self.jwt_private_key.parent / "jwt-keys"

    @property
    def kanidm_token(self) -> Path:
        """Where the API token of our own account in Kanidm is kept: beside the signing key, for the same user and nobody else."""
        return self.jwt_private_key.with_name("kanidm-token")

    @property
    def identities_file(self) -> Path:
        """The state file, or the directory of them, that says who and what there is in Kanidm; there need not be any."""
        return self.identities or self.path.with_name("identities.toml")

    @property
    def compatibility_file(self) -> Path:
        """The instance's own pin of the kanidmd binary, beside config.toml."""
        return self.path.parent / "compatibility.toml"

    @property
    def control_socket(self) -> Path:
        """The Unix socket on which a running Kiwi ID answers ``kiwi-id reload`` and ``kiwi-id status``."""
        return self.runtime_dir / "control.sock"
