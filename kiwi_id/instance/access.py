"""Who can read and write which file of an instance: what ``upstream_user`` needs, and what it must not have.

Judged by owner and mode along the path, for a user that is not ourselves: ``os.access`` answers for us alone. Access control lists
are not read; where there is one, the mode's group bits are its mask.
"""

from __future__ import annotations

import grp
import os
import pwd
import stat
from pathlib import Path

from kiwi_id.config import Config
from kiwi_id.errors import Problem
from kiwi_id.kanidm.server_toml import ServerToml
from kiwi_id.privileges import Account, acting_as

READ, WRITE, EXECUTE = 4, 2, 1


def may(account: Account, path: Path, wanted: int) -> bool:
    """Tell whether ``account`` may do ``wanted`` (bits of READ, WRITE, EXECUTE) with ``path``, and reach it at all."""
    real = Path(os.path.realpath(path))
    try:
        return all(_allowed(account, parent, EXECUTE) for parent in real.parents) and _allowed(account, real, wanted)
    except OSError:
        return False


def _allowed(account: Account, path: Path, wanted: int) -> bool:
    status = path.stat()
    shift = 6 if status.st_uid == account.uid else 3 if status.st_gid == account.gid else 0
    return (status.st_mode >> shift) & wanted == wanted


def who_can_read(path: Path) -> str:
    """Return in words who can read a file, by its own mode: its owner, its group, everybody."""
    status = path.stat()
    owner, group = user_name(status.st_uid), group_name(status.st_gid)
    words = [f"user {owner}"] if status.st_mode & stat.S_IRUSR else []
    words += [f"group {group}"] if status.st_mode & stat.S_IRGRP else []
    words += ["everybody"] if status.st_mode & stat.S_IROTH else []
    return ", ".join(words) or "nobody"


def is_stranger(config: Config) -> bool:
    """Tell whether we are nobody to an instance: we may neither read its signing key nor write where it runs.

    What such a user cannot see says nothing about the instance. Kiwi ID's own user can do one of both even when the other is wrong.
    """
    return os.geteuid() != 0 and is_closed(config.jwt_private_key) and is_closed(config.runtime_dir, os.W_OK)


def refusal(what: str) -> str:
    """Say that we may not look at something; nothing else that we could see would be true of it."""
    user = user_name(os.geteuid())
    return f"{what} cannot be looked at as this user ({user}): run this as root, or as the user that Kiwi ID runs as"


def is_closed(path: Path, wanted: int = os.R_OK) -> bool:
    """Tell whether this user may not do ``wanted`` with what is there, or may not see whether it is there."""
    try:
        path.stat()
    except PermissionError:
        return True
    except OSError:
        return False
    return not os.access(path, wanted)


def user_name(uid: int) -> str:
    """Return a user's name, or the number when it has none."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def group_name(gid: int) -> str:
    """Return a group's name, or the number when it has none."""
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)


def secrets(config: Config) -> list[Path]:
    """Return the files of Kiwi ID that kanidmd's user must not read, those that exist."""
    files = [config.jwt_private_key, config.kanidm_token, config.forward_auth_secret_file]
    if config.keys_dir.is_dir():
        files += sorted(config.keys_dir.glob("*.pem"))
    return [file for file in files if file is not None and file.exists()]


def problems(config: Config, server: ServerToml, account: Account) -> list[Problem]:
    """Return what ``account`` cannot do and must to be kanidmd, and what it can read and must not."""
    found: list[Problem] = []

    def need(path: Path, wanted: int, what: str, fix: str) -> None:
        if path.exists() and not may(account, path, wanted):
            found.append(Problem(str(path), "", f"{what} by upstream_user {account.name}", "", fix))

    group = group_name(account.gid)
    need(
        config.upstream_bin,
        READ | EXECUTE,
        "a program that cannot be run",
        f"chmod a+rx {config.upstream_bin}, and +x its directories",
    )
    for file in (config.upstream_config, server.tls_chain):
        need(file, READ, "a file that cannot be read", f"chmod 0644 {file}, and +x its directories")
    need(server.tls_key, READ, "a key that cannot be read", f"chgrp {group} {server.tls_key} && chmod 0640 {server.tls_key}")
    database = server.db_path.parent
    fix = f"chown -R {account.name}:{group} {database} && chmod 0700 {database}"
    need(database, READ | WRITE | EXECUTE, "a database directory that cannot be used", fix)
    for file in sorted(database.glob(f"{server.db_path.name}*")) if os.access(database, os.R_OK | os.X_OK) else []:
        need(file, READ | WRITE, "a file of the database that cannot be used", fix)
    sockets = server.admin_socket.parent
    made = sockets.parent == config.runtime_dir and not sockets.exists()
    if not made and not may(account, sockets, WRITE | EXECUTE):
        where = f'"{config.runtime_dir}/upstream/kanidmd.sock"'
        fix = f"Set adminbindpath = {where} in server.toml: Kiwi ID makes that directory for it."
        found.append(Problem(str(sockets), "", f"a directory where {account.name} cannot make its admin socket", "", fix))
    for file in secrets(config):
        if may(account, file, READ):
            what = f"a secret that upstream_user {account.name} can read ({who_can_read(file)})"
            found.append(Problem(str(file), "", what, "", f"chmod 0600 {file}"))
    return found


def make_socket_directory(config: Config, server: ServerToml, account: Account) -> None:
    """Make the directory of the admin socket below ``runtime_dir``, if that is where it is to be: for ``account`` and ourselves.

    Its group is set as it is made: giving it away afterwards would take a right (CAP_CHOWN) that we need for nothing else. Raises
    OSError.
    """
    directory = server.admin_socket.parent
    if directory.parent != config.runtime_dir or directory.exists():
        return
    config.runtime_dir.mkdir(mode=0o750, parents=True, exist_ok=True)
    # kanidmd must get through; what lies in there has modes of its own.
    config.runtime_dir.chmod(stat.S_IMODE(config.runtime_dir.stat().st_mode) | stat.S_IXOTH)
    with acting_as(account, group_only=True):
        directory.mkdir()
        directory.chmod(0o770)
