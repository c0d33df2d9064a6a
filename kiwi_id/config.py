"""config.toml: the strict, frozen :class:`Config`, with every problem of a file told at once.

Strictness is the point: a key with a typo that is silently ignored is a security setting that is silently off. Each key is one
row of ``KEYS``, which holds its parser, its default and whether a reload can change it; the tables in docs/configuration.md
and the starting file of ``kiwi-id init`` are made from the same rows.
"""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

from kiwi_id import values
from kiwi_id.errors import ConfigError, Problem
from kiwi_id.values import Address, Network, Refused

DEFAULT_PATH = Path("/etc/kiwi/config.toml")


@dataclass(frozen=True, slots=True)
class Key:
    """One key: how to parse it, its default as written in TOML, whether SIGHUP can change it, and what it is for."""

    parse: Callable[[Any], Any]
    default: Any
    reloadable: bool
    help: str


_seconds = partial(values.duration, low=0.05)

KEYS: dict[str, Key] = {
    "listen_addr": Key(values.address, "10.10.20.10:8443", False, "address on the private bridge that others connect to"),
    "upstream_addr": Key(values.https_address, "https://127.0.0.1:8443", False, "where kanidmd listens (bindaddress)"),
    "upstream_bin": Key(values.path, "/opt/upstream/bin/kanidmd", False, "the kanidmd program"),
    "upstream_config": Key(values.path, "/opt/upstream/etc/server.toml", False, "Kanidm's own configuration"),
    "health_check_interval": Key(_seconds, "5s", True, "time between two probes of kanidmd"),
    "health_check_timeout": Key(_seconds, "60s", True, "without a successful probe for so long, kanidmd is restarted"),
    "jwt_private_key": Key(values.path, "/etc/kiwi/jwt-private.pem", True, "the instance's signing key"),
    "jwt_public_key": Key(values.path, "/etc/kiwi/jwt-public.pem", True, "its public half, for services that check tokens"),
    "log_level": Key(values.one_of("error", "warn", "info", "debug", "trace"), "info", True, "least severe level logged"),
    "log_format": Key(values.one_of("auto", "json", "console"), "auto", True, "on stderr: JSON, or colour on a terminal"),
    "log_file": Key(values.optional_path, "", True, "also write JSON lines here; reopened on SIGHUP"),
    "tls_cert": Key(values.optional_path, "", True, "certificate chain of the listener; empty: plain HTTP"),
    "tls_key": Key(values.optional_path, "", True, "private key of tls_cert"),
    "trusted_proxies": Key(values.networks, [], True, "peers whose X-Forwarded-* and Forwarded headers are believed"),
    "runtime_dir": Key(values.path, "/run/kiwi", False, "lock file and control socket"),
    "shutdown_timeout": Key(_seconds, "30s", True, "from SIGTERM to the end of everything"),
    "restart_limit": Key(partial(values.integer, low=1, high=1000), 5, True, "short lives of kanidmd in a row until giving up"),
    "allow_untested": Key(values.boolean, False, False, "start a kanidmd version that this release was not tested with"),
}

LIMIT_KEYS: dict[str, Key] = {
    "max_connections": Key(partial(values.integer, low=1, high=1 << 20), 4096, True, "open connections of clients"),
    "max_header_bytes": Key(partial(values.size, low=1024, high=1 << 20), "64KiB", True, "request line and headers"),
    "max_body_bytes": Key(partial(values.size, low=1024), "64MiB", True, "a request body (Kanidm's own limits are lower)"),
    "header_timeout": Key(_seconds, "10s", True, "from the first byte of a request to the end of its headers"),
    "body_timeout": Key(_seconds, "30s", True, "without a byte of a body moving, in either direction"),
    "keep_alive_timeout": Key(_seconds, "75s", True, "an idle client connection"),
    "tls_handshake_timeout": Key(_seconds, "10s", True, "a TLS handshake of a client"),
    "upstream_timeout": Key(_seconds, "60s", True, "from the end of a request to the head of Kanidm's answer"),
    "upstream_connections": Key(partial(values.integer, low=1, high=65536), 256, True, "connections to kanidmd at once"),
    "gate_timeout": Key(_seconds, "20s", True, "a request waits so long while kanidmd is not ready, then 503"),
    "gate_requests": Key(partial(values.integer, low=0, high=1 << 20), 1024, True, "requests that may wait so at once"),
}


@dataclass(frozen=True, slots=True)
class Limits:
    """The ``[limits]`` table; times in seconds, sizes in bytes. See ``LIMIT_KEYS`` for each."""

    max_connections: int
    max_header_bytes: int
    max_body_bytes: int
    header_timeout: float
    body_timeout: float
    keep_alive_timeout: float
    tls_handshake_timeout: float
    upstream_timeout: float
    upstream_connections: int
    gate_timeout: float
    gate_requests: int


@dataclass(frozen=True, slots=True)
class Config:
    """A checked config.toml; times in seconds. ``path`` is the file it came from. See ``KEYS`` for each field."""

    path: Path
    listen_addr: Address
    upstream_addr: Address
    upstream_bin: Path
    upstream_config: Path
    health_check_interval: float
    health_check_timeout: float
    jwt_private_key: Path
    jwt_public_key: Path
    log_level: str
    log_format: str
    log_file: Path | None
    tls_cert: Path | None
    tls_key: Path | None
    trusted_proxies: tuple[Network, ...]
    runtime_dir: Path
    shutdown_timeout: float
    restart_limit: int
    allow_untested: bool
    limits: Limits

    @property
    def compatibility_file(self) -> Path:
        """The instance's own pin of the kanidmd binary, beside config.toml."""
        return self.path.parent / "compatibility.toml"

    @property
    def control_socket(self) -> Path:
        """The Unix socket on which a running Kiwi ID answers ``kiwi-id reload`` and ``kiwi-id status``."""
        return self.runtime_dir / "control.sock"


def config_path(option: str | None, environ: Mapping[str, str] = os.environ) -> Path:
    """Return the config file to use: ``--config``, else ``KIWI_CONFIG``, else ``/etc/kiwi/config.toml``."""
    return Path(option or environ.get("KIWI_CONFIG") or DEFAULT_PATH).absolute()


def load(file: Path) -> Config:
    """Read and check ``file``.

    Raises ConfigError with every problem found: unreadable file, TOML syntax, unknown keys (with the nearest known name),
    wrong types and ranges, and settings that contradict each other.
    """
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        fix = "Run 'kiwi-id init /' to write one, or name another by --config or KIWI_CONFIG."
        raise ConfigError([Problem(str(file), "", "no such file", "a readable TOML file", fix)]) from None
    except (OSError, UnicodeDecodeError) as error:
        found = error.strerror or str(error) if isinstance(error, OSError) else "bytes that are not UTF-8"
        raise ConfigError([Problem(str(file), "", found, "a readable TOML file in UTF-8", "")]) from None
    return parse(text, file)


def control_socket_of(file: Path) -> Path:
    """Return the control socket of the instance of ``file``, even when the file is broken now.

    ``kiwi-id reload --wait`` must reach the running Kiwi ID to be told by it what is wrong with the file.
    """
    try:
        return load(file).control_socket
    except ConfigError:
        try:
            found = re.search(r'^\s*runtime_dir\s*=\s*"(/[^"]+)"', file.read_text(encoding="utf-8"), re.MULTILINE)
        except (OSError, UnicodeDecodeError):
            found = None
        return Path(found[1] if found else KEYS["runtime_dir"].default) / "control.sock"


def parse(text: str, file: Path) -> Config:
    """Check the text of a config file; ``file`` names it in errors and becomes ``Config.path``. Raises ConfigError."""
    try:
        table = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # besides TOMLDecodeError: integers and nestings beyond Python's own limits
        line = re.search(r"line (\d+)", str(error))
        where = f"{file}:{line[1]}" if line else str(file)
        raise ConfigError([Problem(where, "", f"a TOML syntax error: {error}", "TOML", "")]) from None
    lines = line_numbers(text)
    problems: list[Problem] = []
    limits_table = table.pop("limits", {})
    if not isinstance(limits_table, dict):
        where = f"{file}:{lines.get('limits', 1)}"
        problems.append(Problem(where, "limits", values.shown(limits_table), "a [limits] table", ""))
        limits_table = {}
    known = {**dict.fromkeys([*KEYS, "limits"], ""), **dict.fromkeys(LIMIT_KEYS, "limits.")}
    found = _check(table, KEYS, "", known, file, lines, problems)
    limits = _check(limits_table, LIMIT_KEYS, "limits.", known, file, lines, problems)
    if not problems:
        problems += _contradictions(found, limits, file, lines)
    if problems:
        raise ConfigError(problems)
    return Config(path=file, limits=Limits(**limits), **found)


def _check(
    table: dict[str, Any],
    keys: dict[str, Key],
    prefix: str,
    known: dict[str, str],
    file: Path,
    lines: dict[str, int],
    problems: list[Problem],
) -> dict[str, Any]:
    for name in table:
        if name not in keys:
            where = f"{file}:{lines.get(prefix + name, 1)}"
            problems.append(Problem(where, prefix + name, "an unknown key", "", _nearest(name, prefix, known)))
    result: dict[str, Any] = {}
    for name, key in keys.items():
        try:
            result[name] = key.parse(table.get(name, key.default))
        except Refused as refused:
            where = f"{file}:{lines.get(prefix + name, 1)}"
            problems.append(Problem(where, prefix + name, refused.found, refused.allowed, refused.fix))
    return result


def _nearest(name: str, prefix: str, known: dict[str, str]) -> str:
    if name in known:  # right name, wrong table
        home = f"the table [{known[name][:-1]}]" if known[name] else "the top of the file, before any [table]"
        return f"'{name}' belongs in {home}."
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"Did you mean '{known[close[0]]}{close[0]}'?" if close else "Remove it; docs/configuration.md lists all keys."


def _contradictions(found: dict[str, Any], limits: dict[str, Any], file: Path, lines: dict[str, int]) -> list[Problem]:
    problems: list[Problem] = []

    def refuse(key: str, what: str, allowed: str, fix: str) -> None:
        problems.append(Problem(f"{file}:{lines.get(key, 1)}", key, what, allowed, fix))

    if (found["tls_cert"] is None) != (found["tls_key"] is None):
        have, lack = ("tls_cert", "tls_key") if found["tls_cert"] else ("tls_key", "tls_cert")
        refuse(have, f"'{have}' without '{lack}'", "both, for HTTPS, or neither, for plain HTTP", f"Add '{lack}'.")
    if found["health_check_timeout"] < found["health_check_interval"]:
        what = f"{found['health_check_timeout']:g}s, less than health_check_interval"
        refuse("health_check_timeout", what, "at least one interval", "Raise it, or probe more often.")
    if found["listen_addr"] == found["upstream_addr"] and found["listen_addr"].port:
        what = f"{found['listen_addr']}, the same as upstream_addr"
        refuse("listen_addr", what, "an address of its own", "Kiwi ID and kanidmd cannot share one address.")
    return problems


def line_numbers(text: str) -> dict[str, int]:
    """Map ``key`` and ``table.key`` to their line; tomllib keeps no positions, and an error without a line is half an error."""
    lines: dict[str, int] = {}
    table = ""
    for number, line in enumerate(text.splitlines(), 1):
        if header := re.match(r"\s*\[\s*([\w.-]+)\s*\]", line):
            table = header[1] + "."
            lines.setdefault(header[1], number)
        elif assignment := re.match(r"\s*(?:\"([^\"]+)\"|'([^']+)'|([\w.-]+))\s*=", line):
            lines.setdefault(table + (assignment[1] or assignment[2] or assignment[3]), number)
    return lines


def changes(old: Config, new: Config) -> tuple[list[str], list[str]]:
    """Return the names of keys that differ, as (those a reload changes, those that need a restart of Kiwi ID)."""
    live = [f"limits.{f.name}" for f in fields(Limits) if getattr(old.limits, f.name) != getattr(new.limits, f.name)]
    fixed: list[str] = []
    for name, key in KEYS.items():
        if getattr(old, name) != getattr(new, name):
            (live if key.reloadable else fixed).append(name)
    return live, fixed
