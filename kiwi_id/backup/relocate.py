"""Where the files of a backup go: to where they lay, or into the tree of another root, with config.toml and server.toml to match.

A setting is changed by the line that it stands on, so that comments and everything else stay as people wrote them; the outcome is
read again and compared.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path

from kiwi_id import config
from kiwi_id.backup import BackupError
from kiwi_id.backup.collect import CONFIG, SERVER
from kiwi_id.backup.manifest import Manifest
from kiwi_id.config import Config
from kiwi_id.instance import layout
from kiwi_id.instance.templates import toml_value
from kiwi_id.kanidm import server_toml
from kiwi_id.kanidm.server_toml import ServerToml

_SERVER_PATHS = {"db_path": "db_path", "tls_chain": "tls_chain", "tls_key": "tls_key", "adminbindpath": "admin_socket"}
_OWN_TYPE = ("path", "limits", "protection", "clients")


@dataclass(frozen=True, slots=True)
class Plan:
    """What a restore is to write: the texts of both settings files, read and checked, and where each member goes."""

    config: Config
    server: ServerToml
    config_text: str
    server_text: str
    places: Mapping[str, Path]


class Mover:
    """Tells the new place of each path of an instance that moves from ``old`` to ``new``."""

    def __init__(self, manifest: Manifest, new: Path) -> None:
        """Raises BackupError when the instance lies in no tree that could be moved."""
        if not manifest.root:
            raise BackupError("the files of this backup lie in no tree of kiwi-id init, so they go where they came from only")
        self._old, self._new = Path(manifest.root), new
        self._members = {member.path for member in manifest.members}

    def __call__(self, path: Path) -> Path:
        """Return where ``path`` is now. What lay outside of the tree is taken into it, if it is in the backup, else left."""
        if path.is_relative_to(self._old):
            return self._new / path.relative_to(self._old)
        return self._new / path.relative_to("/") if str(path) in self._members else path


def plan(manifest: Manifest, texts: Mapping[str, str], root: Path | None, binary: Path | None) -> Plan:
    """Decide where everything goes; ``texts`` are those of config.toml and server.toml, by role.

    ``root`` None: to where it came from. ``binary``: another kanidmd than the one that config.toml names. Raises BackupError and
    ConfigError.
    """
    old_path = Path(next(member.path for member in manifest.members if member.role == CONFIG))
    old = config.parse(texts[CONFIG], old_path)
    same = root is None or str(root) == manifest.root
    move = (lambda path: path) if same or root is None else Mover(manifest, root)
    config_path = move(old_path)
    wanted: dict[str, Path] = {}
    for field in fields(Config):
        value = getattr(old, field.name)
        if field.name not in _OWN_TYPE and isinstance(value, Path):
            wanted[field.name] = move(value)
    wanted["upstream_bin"] = binary or _binary(old.upstream_bin, wanted["upstream_bin"], root)
    config_text = _set(texts[CONFIG], {name: value for name, value in wanted.items() if value != getattr(old, name)})
    new = config.parse(config_text, config_path)
    _compare({name: getattr(new, name) for name in wanted}, wanted, config_path)

    old_server = server_toml.parse(texts[SERVER], old.upstream_config)
    settings = {key: move(getattr(old_server, name)) for key, name in _SERVER_PATHS.items()}
    changed = {key: value for key, value in settings.items() if value != getattr(old_server, _SERVER_PATHS[key])}
    server_text = _set(texts[SERVER], changed)
    server = server_toml.parse(server_text, new.upstream_config)
    _compare({key: getattr(server, name) for key, name in _SERVER_PATHS.items()}, settings, server.path)
    return Plan(new, server, config_text, server_text, {member.path: move(Path(member.path)) for member in manifest.members})


def _binary(old: Path, moved: Path, root: Path | None) -> Path:
    """Return the kanidmd to use: it is in no backup, so another tree may have one, or use the one of the machine."""
    return next((path for path in (moved, old) if path.exists()), layout.find_binary(root or Path("/")) or moved)


def _set(text: str, changes: Mapping[str, Path]) -> str:
    """Return a TOML text with these top-level keys set, on their own line or, where they have none, at the top."""
    table = re.search(r"^[ \t]*\[", text, re.MULTILINE)
    top, rest = (text[: table.start()], text[table.start() :]) if table else (text, "")
    for key, value in changes.items():
        line = f"{key} = {toml_value(str(value))}"
        top, count = re.subn(rf"^[ \t]*{key}[ \t]*=.*$", line.replace("\\", r"\\"), top, count=1, flags=re.MULTILINE)
        if not count:
            top = f"{line}\n{top}"
    return top + rest


def _compare(found: Mapping[str, Path], wanted: Mapping[str, Path], file: Path) -> None:
    for key, value in wanted.items():
        if found[key] != value:
            raise BackupError(f'{file}: {key} cannot be set to {value}; write it in the plain form {key} = "…" and back up again')
