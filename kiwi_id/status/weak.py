"""Settings that work and are weaker than they need be. A warning is for what nobody should have; a fresh instance has none."""

from __future__ import annotations

import ipaddress
import itertools
import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from datetime import datetime
from pathlib import Path
from typing import Any

from kiwi_id.config import Config
from kiwi_id.kanidm.server_toml import ServerToml
from kiwi_id.status.notices import Notice

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
OLD_KEY_DAYS = 365.0
"""Age from which on a signing key that nobody rotates is worth a warning."""
OVERDUE_DAYS = 2.0
RSA_2048_UNTIL = 2030
"""NIST SP 800-57 part 1, table 4: 112 bits of security, which RSA 2048 has, are acceptable through 2030."""


def look(config: Config, server: ServerToml | None, parts: Mapping[str, Any], now: datetime, *, uid: int) -> Iterator[Notice]:
    """Yield what is weak; ``parts`` are those of :func:`kiwi_id.status.files.look`, ``uid`` is whom Kiwi ID runs as."""
    yield from _network(config)
    yield from _limits(config)
    yield from _keys(config, parts["keys"], now)
    yield from _readable(config, server, parts["backup"])
    yield from _changeable(config, uid)
    if config.log_level == "trace":
        fix = 'Set log_level = "info" when you have seen what you were looking for.'
        yield Notice("warning", "log_level", "log_level is trace: the log grows fast, and tells what people do step by step", fix)
    if uid == 0 and not config.upstream_user:
        text = "kanidmd runs as root, as Kiwi ID does: who breaks into one has the secrets of both"
        yield Notice("hint", "one_user", text, 'Set upstream_user; docs/configuration.md, "kanidmd as another user".')


def _network(config: Config) -> Iterator[Notice]:
    host = config.listen_addr.host
    if config.tls_cert is None and (public := public_address(host, own_addresses())):
        text = f"plain HTTP on {public}, which is no private address: passwords and tokens can be read on the way"
        yield Notice("warning", "plain_http", text, "Set tls_cert and tls_key, or listen on the private bridge (listen_addr).")
    if any(network.prefixlen == 0 for network in config.trusted_proxies):
        text = "trusted_proxies takes in every address: anybody can claim to come from any other"
        yield Notice("warning", "trusted_proxies", text, "Name the proxies that there are.")
    if not config.allowed_hosts:
        text = "requests for any host name are served (allowed_hosts is empty)"
        yield Notice("hint", "allowed_hosts", text, "Where browsers reach this address directly, name your hosts.")


def public_address(host: str, own: Sequence[IPAddress]) -> str:
    """Return the public address on which ``host`` is heard, or nothing; ``own`` are the machine's, names are not looked up."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return ""
    if address.is_unspecified:
        return next((str(one) for one in own if one.is_global), "")
    return host if address.is_global else ""


def own_addresses(proc: Path = Path("/proc")) -> list[IPAddress]:
    """Return the addresses of this machine, as the kernel lists them."""
    found: list[IPAddress] = []
    try:
        lines = (proc / "net/fib_trie").read_text().splitlines()
        found += [
            ipaddress.ip_address(before.split()[-1])
            for before, line in itertools.pairwise(lines)
            if line.strip() == "/32 host LOCAL" and before.split()
        ]
        rows = (proc / "net/if_inet6").read_text().split("\n")
        found += [ipaddress.ip_address(int(row[:32], 16).to_bytes(16)) for row in rows if row]
    except (OSError, ValueError):  # no such kernel, or a sandbox
        pass
    return list(dict.fromkeys(found))


def _limits(config: Config) -> Iterator[Notice]:
    without = [f"protection.{field.name}" for field in fields(config.protection) if getattr(config.protection, field.name) is None]
    if without:
        text = f"no limit on guessing: {', '.join(without)}"
        yield Notice("warning", "no_login_limits", text, "Remove those lines: the defaults hurt nobody (docs/protection.md).")


def _keys(config: Config, keys: Mapping[str, Any], now: datetime) -> Iterator[Notice]:
    current = next((key for key in keys.get("set", ()) if key["state"] == "current"), None)
    if current is None:
        return
    kind = f"RSA {current['bits']}" if current["algorithm"] == "RS256" else str(current["algorithm"])
    rotation = keys["rotation_days"]
    if rotation is None and current["age_days"] > OLD_KEY_DAYS:
        text = f"the signing key ({kind}) is {current['age_days']:.0f} days old, and nothing rotates it"
        fix = 'Set jwt_key_rotation, such as "90d"; or once: kiwi-id keys generate, a day later kiwi-id keys rotate.'
        yield Notice("warning", "key_age", text, fix)
    elif rotation is not None and current["age_days"] > rotation + OVERDUE_DAYS:
        text = f"the signing key ({kind}) is {current['age_days']:.0f} days old, though it is to be rotated every {rotation:g} days"
        fix = f"May Kiwi ID write to {config.jwt_private_key.parent}? See its log."
        yield Notice("warning", "key_rotation_overdue", text, fix)
    if kind == "RSA 2048" and now.year > RSA_2048_UNTIL:
        text = f"the signing key is RSA 2048, which NIST accepts through {RSA_2048_UNTIL} only"
        yield Notice("warning", "key_size", text, "kiwi-id keys generate --kind es256, a day later kiwi-id keys rotate.")


def _readable(config: Config, server: ServerToml | None, backup: Mapping[str, Any]) -> Iterator[Notice]:
    """Yield files that every user of the machine can read; keys and tokens that others can read are refused elsewhere."""
    last = backup.get("last")
    token = config.kanidm_token
    if os.path.lexists(token) and token.stat().st_mode & 0o077:
        fix = f"Who has read it is Kanidm's administrator: kiwi-id bootstrap --recover --revoke-others; or chmod 600 {token}"
        yield Notice("warning", "token_readable", "others can read the token of Kiwi ID's account, so it is not used", fix)
    files = {
        "the secret of forward-auth": config.forward_auth_secret_file,
        "the log": config.log_file,
        "Kanidm's database": server.db_path if server else None,
        "the last backup": Path(last["path"]) if last else None,
    }
    for what, file in files.items():
        if file is not None and _world_readable(file):
            yield Notice("warning", "world_readable", f"every user of this machine can read {what}", f"chmod o= {file}")


def _changeable(config: Config, uid: int) -> Iterator[Notice]:
    """Yield what Kiwi ID's own user can change and root goes by: config.toml names programs that root's commands run."""
    if uid == 0 or os.geteuid() != 0:
        return
    for file in (config.path, config.upstream_config):
        try:
            owners = {file.stat().st_uid, file.parent.stat().st_uid}
        except OSError:
            continue
        if uid in owners:
            text = (
                f"Kiwi ID's own user can change {file.name}, and root goes by it: who breaks into Kiwi ID has root's next command"
            )
            fix = f"chown root {file} && chown root {file.parent} && chmod 1775 {file.parent} (systemd/README.md)"
            yield Notice("warning", "changeable", text, fix)


def _world_readable(file: Path) -> bool:
    """Tell whether any user can read a file: by its own mode, and those of the directories that lead to it."""
    try:
        return bool(file.stat().st_mode & stat.S_IROTH) and all(
            parent.stat().st_mode & stat.S_IXOTH for parent in Path(os.path.realpath(file)).parents
        )
    except OSError:
        return False
