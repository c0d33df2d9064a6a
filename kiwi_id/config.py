"""config.toml: the strict, frozen :class:`Config`, with every problem of a file told at once.

Strictness is the point: a key with a typo that is silently ignored is a security setting that is silently off. Each key is one
row of :mod:`kiwi_id.config_keys`.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from kiwi_id import toml, values
from kiwi_id.config_keys import CLIENT_KEYS, KEYS, LIMIT_KEYS, PROTECTION_KEYS, ClientSettings, Config, Key, Limits, Protection
from kiwi_id.errors import ConfigError, ConfigMissing, Problem
from kiwi_id.instance.files import read_file
from kiwi_id.values import Refused

__all__ = ["CLIENT_KEYS", "KEYS", "LIMIT_KEYS", "PROTECTION_KEYS", "ClientSettings", "Config", "Key", "Limits", "Protection"]

DEFAULT_PATH = Path("/etc/kiwi/config.toml")


def config_path(option: str | None, environ: Mapping[str, str] = os.environ) -> Path:
    """Return the config file to use: ``--config``, else ``KIWI_CONFIG``, else ``/etc/kiwi/config.toml``."""
    return Path(option or environ.get("KIWI_CONFIG") or DEFAULT_PATH).absolute()


def load(file: Path) -> Config:
    """Read and check ``file``.

    Raises ConfigError with every problem found: unreadable file, TOML syntax, unknown keys (with the nearest known name),
    wrong types and ranges, and settings that contradict each other.
    """
    try:
        text = read_file(file).decode("utf-8")
    except FileNotFoundError:
        fix = "Run 'kiwi-id init /' to write one, or name another by --config or KIWI_CONFIG."
        raise ConfigMissing([Problem(str(file), "", "no such file", "a readable TOML file", fix)]) from None
    except (OSError, UnicodeDecodeError) as error:
        found = error.strerror or str(error) if isinstance(error, OSError) else "bytes that are not UTF-8"
        raise ConfigError([Problem(str(file), "", found, "a readable TOML file in UTF-8", "")]) from None
    return parse(text, file)


def control_socket_of(file: Path) -> tuple[Path, str]:
    """Return the control socket of the instance of ``file``, even when the file is broken now, and a word on a guess.

    ``kiwi-id reload --wait`` must reach the running Kiwi ID to be told by it what is wrong with the file. The word is empty when
    the file says where the socket is.
    """
    try:
        return load(file).control_socket, ""
    except ConfigError:
        try:
            text = read_file(file).decode("utf-8", errors="replace")
        except OSError as error:
            text, why = "", f"{file} cannot be read ({error.strerror})"
        else:
            why = f"{file} is broken"
        if found := re.search(r'^\s*runtime_dir\s*=\s*"(/[^"]+)"', text, re.MULTILINE):
            return Path(found[1]) / "control.sock", ""
        word = f"{why} and names no runtime_dir, so the default one was tried; name the socket by --socket"
        return Path(KEYS["runtime_dir"].default) / "control.sock", word


def parse(text: str, file: Path) -> Config:
    """Check the text of a config file; ``file`` names it in errors and becomes ``Config.path``. Raises ConfigError."""
    table, lines = toml.parse(text, file), toml.line_numbers(text)
    problems: list[Problem] = []

    def take(holder: dict[str, Any], name: str, title: str) -> dict[str, Any]:
        inner = holder.pop(name, {})
        if isinstance(inner, dict):
            return inner
        where = f"{file}:{lines.get(title, lines.get(name, 1))}"
        problems.append(Problem(where, title, values.shown(inner), f"a [{title}] table", ""))
        return {}

    limits_table, clients_table = take(table, "limits", "limits"), take(table, "clients", "clients")
    protection_table = take(table, "protection", "protection")
    known = {**dict.fromkeys([*KEYS, "limits", "protection", "clients"], ""), **dict.fromkeys(LIMIT_KEYS, "limits.")}
    known |= dict.fromkeys(PROTECTION_KEYS, "protection.")
    found = _check(table, KEYS, "", known, file, lines, problems)
    limits = _check(limits_table, LIMIT_KEYS, "limits.", known, file, lines, problems)
    protection = _check(protection_table, PROTECTION_KEYS, "protection.", known, file, lines, problems)
    clients: dict[str, ClientSettings] = {}
    for name in list(clients_table):
        prefix = f"clients.{name}."
        inner = _check(
            take(clients_table, name, prefix[:-1]), CLIENT_KEYS, prefix, dict.fromkeys(CLIENT_KEYS, prefix), file, lines, problems
        )
        if inner.keys() == CLIENT_KEYS.keys():
            clients[name] = ClientSettings(**inner)
    if not problems:
        problems += _contradictions(found, limits, file, lines)
    if problems:
        raise ConfigError(problems)
    return Config(path=file, limits=Limits(**limits), protection=Protection(**protection), clients=clients, **found)


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
    if found["forward_auth_client"]:
        for key, why in (
            ("forward_auth_hosts", "Name the hosts that it protects."),
            ("trusted_proxies", "Name the proxy that asks: nobody else is answered."),
        ):
            if not found[key]:
                refuse("forward_auth_client", f"a client, and no {key}", f"'{key}' beside it", why)
        domain = found["forward_auth_domain"]
        for host in found["forward_auth_hosts"] if domain else ():
            if not f".{host.partition(':')[0]}".endswith(f".{domain}"):
                fix = "Leave forward_auth_domain empty: each host then has a cookie of its own."
                refuse("forward_auth_hosts", f"{host}, which is not below {domain}", "hosts below forward_auth_domain", fix)
    elif found["forward_auth_hosts"]:
        refuse("forward_auth_hosts", "hosts, and no client", "'forward_auth_client' beside it", "Name the client, or remove them.")
    return problems


def changes(old: Config, new: Config) -> tuple[list[str], list[str]]:
    """Return the names of keys that differ, as (those a reload changes, those that need a restart of Kiwi ID)."""
    live = [f"limits.{f.name}" for f in fields(Limits) if getattr(old.limits, f.name) != getattr(new.limits, f.name)]
    live += [
        f"protection.{f.name}" for f in fields(Protection) if getattr(old.protection, f.name) != getattr(new.protection, f.name)
    ]
    live += [f"clients.{name}" for name in sorted({*old.clients, *new.clients}) if old.clients.get(name) != new.clients.get(name)]
    fixed: list[str] = []
    for name, key in KEYS.items():
        if getattr(old, name) != getattr(new, name):
            (live if key.reloadable else fixed).append(name)
    return live, fixed
