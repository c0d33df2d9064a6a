"""Reads Kanidm's server.toml the way kanidmd 1.5.0 does (server/core/src/config.rs)."""

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

__all__ = ["ConfigError", "ServerConfig", "load"]

_REQUIRED = ("domain", "origin", "db_path", "tls_chain", "tls_key")
_STRINGS = (
    *_REQUIRED,
    "tls_client_ca",
    "bindaddress",
    "ldapbindaddress",
    "role",
    "log_level",
    "db_fs_type",
    "adminbindpath",
    "otel_grpc_url",
)
_OTHERS = ("online_backup", "trust_x_forward_for", "thread_count", "db_arc_size", "replication")
_V2_ONLY = ("version", "http_client_address_info", "ldap_client_address_info", "maximum_request_size_bytes")
_ROLES = ("WriteReplica", "WriteReplicaNoUI", "ReadOnlyReplica")


class ConfigError(Exception):
    """server.toml cannot be used; the text says which file, which key, what was found and what is allowed."""


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """The part of server.toml that changes what the stand-in does. Paths are as written in the file."""

    domain: str
    origin: str
    db_path: Path
    tls_chain: Path
    tls_key: Path
    bind_host: str
    bind_port: int
    admin_path: Path
    trust_x_forward_for: bool
    ui: bool

    @property
    def secure_cookies(self) -> bool:
        """Whether cookies are marked Secure: Kanidm does so for an https origin."""
        return self.origin.startswith("https://")


def load(path: Path, environ: Mapping[str, str] = os.environ) -> ServerConfig:
    """Read `path` and the `KANIDM_*` overlay of `environ`; raise ConfigError with a message for a person."""
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot parse {path}: {error}") from None
    allowed = {*_STRINGS, *_OTHERS}
    if "version" in data:
        if data["version"] != "2":
            raise ConfigError(f'{path}: version is {data["version"]!r}; only "2" is known')
        allowed |= set(_V2_ONLY)
        allowed.discard("trust_x_forward_for")
    for key in data:
        if key not in allowed:
            raise ConfigError(f"{path}: unknown field `{key}`, expected one of {', '.join(sorted(allowed))}")
    for key in _STRINGS:
        overlay = environ.get(f"KANIDM_{key.upper()}")
        if overlay is not None:
            data[key] = overlay
        if key in data and not isinstance(data[key], str):
            raise ConfigError(f"{path}: {key} is {data[key]!r}; a string is expected")
    return _build(path, data)


def _build(path: Path, data: dict[str, Any]) -> ServerConfig:
    missing = [key for key in _REQUIRED if not data.get(key)]
    if missing:
        raise ConfigError(f"{path}: missing required key {', '.join(missing)}")
    domain = data["domain"]
    origin = urlsplit(data["origin"])
    host = origin.hostname or ""
    if origin.scheme not in ("http", "https") or not (host == domain or host.endswith("." + domain)):
        raise ConfigError(f"{path}: origin {data['origin']!r} is not the domain {domain!r} or a subdomain of it")
    role = data.get("role", "WriteReplica")
    if role not in _ROLES:
        raise ConfigError(f"{path}: role is {role!r}; allowed are {', '.join(_ROLES)}")
    bind_host, bind_port = _address(path, data.get("bindaddress", "127.0.0.1:8443"))
    return ServerConfig(
        domain=domain,
        origin=data["origin"].rstrip("/"),
        db_path=Path(data["db_path"]),
        tls_chain=Path(data["tls_chain"]),
        tls_key=Path(data["tls_key"]),
        bind_host=bind_host,
        bind_port=bind_port,
        admin_path=Path(data.get("adminbindpath", "/var/run/kanidmd/sock")),
        trust_x_forward_for=_trust(path, data),
        ui=role != "WriteReplicaNoUI",
    )


def _trust(path: Path, data: dict[str, Any]) -> bool:
    if "version" in data:
        info = data.get("http_client_address_info", {})
        return isinstance(info, dict) and "x-forward-for" in info
    value = data.get("trust_x_forward_for", False)
    if not isinstance(value, bool):
        raise ConfigError(f"{path}: trust_x_forward_for is {value!r}; true or false is expected")
    return value


def _address(path: Path, text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    if not colon or not port.isdecimal() or int(port) > 65535:
        raise ConfigError(f"{path}: bindaddress is {text!r}; an address such as 127.0.0.1:8443 or [::1]:8443 is expected")
    return host.strip("[]"), int(port)
