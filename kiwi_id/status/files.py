"""What the files of an instance tell, whether it runs or not: keys, certificates, the latest backup, disk, account, state file.

Each part is there or says in words why it cannot be told (``error``): who asks may not be allowed to read everything.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

from kiwi_id.backup import record
from kiwi_id.config import Config
from kiwi_id.errors import KiwiError
from kiwi_id.identities import word
from kiwi_id.instance import certs
from kiwi_id.instance.access import is_stranger
from kiwi_id.issuer.keys import PUBLISH_AHEAD, RETIRED_LIFETIME, KeyState, load
from kiwi_id.kanidm.server_toml import ServerToml
from kiwi_id.provisioner import mistakes_of

Part = dict[str, Any]
_CLOSED: Part = {"error": "cannot be looked at as this user"}
_CLOCKS = timedelta(minutes=5)  # a clock that was set right since is no reason to doubt


def look(config: Config, server: ServerToml | None, now: datetime) -> dict[str, Any]:
    """Return the parts by name; ``server`` is None when server.toml cannot be used. Never raises KiwiError or OSError."""
    return {
        "domain": server.domain if server else None,
        "keys": _CLOSED if is_stranger(config) else _guarded(lambda: keys(config, now)),
        "certificates": certificates(config, server, now),
        "backup": _CLOSED if is_stranger(config) else _guarded(lambda: backup(config, server, now)),
        "disk": _guarded(lambda: disk(server)),
        "account": {"token_file": str(config.kanidm_token), "token": _exists(config.kanidm_token)},
        "identities": {
            "file": str(config.identities_file),
            "exists": _exists(config.identities_file) or _exists(config.identities_file.with_suffix(".d")),
            "apply_on_start": config.apply_on_start,
            "mistakes": [problem.as_dict() for problem in mistakes_of(config)],
            "applied": word.left(config),
        },
    }


def _guarded(part: Callable[[], Part]) -> Part:
    try:
        return part()
    except KiwiError as error:
        return {"error": error.diagnostics()}
    except OSError as error:
        return {"error": f"{error.filename or ''}: {(error.strerror or str(error)).lower()}".removeprefix(": ")}


def keys(config: Config, now: datetime) -> Part:
    """Return the key set, next key first. Raises ConfigError."""
    found = load(config.jwt_private_key, config.jwt_public_key, config.keys_dir).keys
    rows = []
    for key in sorted(found, key=lambda key: (list(KeyState).index(key.state), -key.since.timestamp())):
        row: Part = {"kid": key.kid, "algorithm": key.alg, "bits": getattr(key.private, "key_size", None), "state": key.state.value}
        row |= {"since": stamp(key.since), "age_days": round((now - key.since) / timedelta(days=1), 1)}
        if key.state is KeyState.NEXT:
            row["ready"] = stamp(key.since + PUBLISH_AHEAD)
        elif key.state is KeyState.RETIRED:
            row["published_until"] = stamp(key.since + RETIRED_LIFETIME)
        elif config.jwt_key_rotation is not None:
            row["rotates"] = stamp(key.since + timedelta(seconds=config.jwt_key_rotation))
        rows.append(row)
    return {"set": rows, "rotation_days": config.jwt_key_rotation and config.jwt_key_rotation / 86400}


def certificates(config: Config, server: ServerToml | None, now: datetime) -> Part:
    """Return the end of each certificate in use: ``listener`` (None without TLS) and ``kanidmd``."""
    files = {"listener": config.tls_cert, "kanidmd": server.tls_chain if server else None}
    return {name: _guarded(partial(_certificate, file, now)) if file else None for name, file in files.items()}


def _certificate(file: Path, now: datetime) -> Part:
    try:
        leaf = certs.load_chain(file)[0]
    except ValueError as error:
        return {"error": f"{file}: {error}"}
    left = (leaf.not_valid_after_utc - now) / timedelta(days=1)
    return {
        "file": str(file),
        "not_after": stamp(leaf.not_valid_after_utc),
        "days_left": round(left, 1),
        "renewed_by_kiwi_id": certs.is_ours(leaf),
    }


def backup(config: Config, server: ServerToml | None, now: datetime) -> Part:
    """Return the latest backup and how it stands against ``backup_interval``. Raises OSError.

    ``doubt`` says in words why nobody can tell how old it is, else it is None.
    """
    interval = config.backup_interval
    part: Part = {"last": None, "age_hours": None, "interval_hours": interval and interval / 3600, "late": False, "doubt": None}
    since = instance_since(config)
    try:
        found = record.read(server.db_path) if server else None
    except ValueError:
        found = None
        part["doubt"] = f"{record.file_of(server.db_path) if server else ''} is not what 'kiwi-id backup' notes"
    if found is not None:
        since = datetime.fromisoformat(found.made)
        part["last"] = found.as_dict() | {"there": _exists(Path(found.path))}
        part["age_hours"] = round((now - since) / timedelta(hours=1), 1)
        if since - now > _CLOCKS:
            part["doubt"] = f"the last backup was made at {stamp(since)}, which is to come: a clock was wrong then, or is now"
    # One that is missed is late, one that is an hour behind is not.
    part["late"] = interval is not None and since is not None and now - since > timedelta(seconds=2 * interval)
    return part


def instance_since(config: Config) -> datetime | None:
    """Return since when the instance is there, by the oldest of the files that ``kiwi-id init`` writes."""
    files = (config.path, config.upstream_config, config.compatibility_file, config.jwt_private_key)
    times = [file.stat().st_mtime for file in files if _exists(file)]
    return datetime.fromtimestamp(min(times), UTC) if times else None


def disk(server: ServerToml | None) -> Part:
    """Return the room on the database's file system, in bytes. Raises OSError."""
    if server is None:
        return {"error": "server.toml cannot be used"}
    directory = server.db_path.parent
    usage = shutil.disk_usage(directory)
    files = (server.db_path.with_name(server.db_path.name + end) for end in ("", "-wal", "-shm"))
    size = sum(file.stat().st_size for file in files if _exists(file))
    return {"path": str(directory), "free": usage.free, "total": usage.total, "database": size}


def stamp(moment: datetime) -> str:
    """Return a moment as RFC 3339 in UTC, to the second."""
    return f"{moment.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"


def _exists(path: Path) -> bool:
    """Tell whether something is there; False also where we may not look (``Path.exists`` would raise)."""
    return os.path.lexists(path)
