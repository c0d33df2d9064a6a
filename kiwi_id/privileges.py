"""Who may do what: the user that kanidmd runs as, and what Kiwi ID itself gives up.

Two users keep two secrets apart. Whoever breaks into kanidmd does not get the signing key, whoever breaks into the front does not
get the database. For the few things that must be done on the other side of that wall, :func:`acting_as` changes what *this thread*
may touch in the file system, and nothing else.
"""

from __future__ import annotations

import ctypes
import errno
import grp
import os
import pwd
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from kiwi_id.errors import ConfigError, Problem
from kiwi_id.logs import Log

log = Log("supervisor")

PR_SET_NO_NEW_PRIVS = 38
PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL = 47, 4
# capability.h: what it takes to start a process as another user, and to end it.
_NEEDED = {"CAP_KILL": 5, "CAP_SETGID": 6, "CAP_SETUID": 7}

# What kanidmd finds of our environment, which may hold secrets of the operator's or of other programs. No KANIDM_*: each of them
# overrides server.toml (server/core/src/config.rs), which is the file that we have checked.
PASSED_ON = frozenset(
    {
        *("PATH", "HOME", "USER", "LOGNAME", "TMPDIR", "TZ", "TZDIR", "LANG", "LANGUAGE", "SSL_CERT_FILE", "SSL_CERT_DIR"),
        *("RUST_LOG", "RUST_BACKTRACE", "RUST_LIB_BACKTRACE", "LD_LIBRARY_PATH", "LD_PRELOAD"),
        # It asks other providers from 1.10 on.
        *("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "all_proxy", "no_proxy"),
    }
)
PASSED_ON_PREFIXES = ("LC_", "OTEL_", "MALLOC_")

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Account:
    """A user of this machine, with the one group that a process of it gets."""

    name: str
    uid: int
    gid: int
    home: str

    @property
    def environ(self) -> dict[str, str]:
        """What a process of this user finds in its environment about itself."""
        return {"HOME": self.home, "USER": self.name, "LOGNAME": self.name}


def passed_on(environ: Mapping[str, str], account: Account | None) -> dict[str, str]:
    """Return the environment of kanidmd: what it needs of ours, and of its own user what is that user's."""
    kept = {name: value for name, value in environ.items() if name in PASSED_ON or name.startswith(PASSED_ON_PREFIXES)}
    return kept | (account.environ if account else {})


def find_account(user: str, group: str, where: Path) -> Account | None:
    """Return the account of ``upstream_user`` and ``upstream_group`` of the file ``where``, None without. Raises ConfigError."""
    if not user:
        return None
    try:
        entry = pwd.getpwnam(user)
    except KeyError:
        fix = f"useradd --system --no-create-home --home-dir / --shell /usr/sbin/nologin {user}"
        raise ConfigError([Problem(str(where), "upstream_user", f'"{user}"', "a user of this machine", fix)]) from None
    gid = entry.pw_gid
    if group:
        try:
            gid = grp.getgrnam(group).gr_gid
        except KeyError:
            found = Problem(str(where), "upstream_group", f'"{group}"', "a group of this machine", f"groupadd --system {group}")
            raise ConfigError([found]) from None
    if entry.pw_uid == 0:
        fix = "Leave upstream_user empty to run kanidmd as the user of Kiwi ID."
        raise ConfigError([Problem(str(where), "upstream_user", f'"{user}", which is root', "an unprivileged user", fix)])
    return Account(user, entry.pw_uid, gid, entry.pw_dir)


def owner_of(directory: Path) -> Account | None:
    """Return whose a directory is, when we are root and it is another's; None otherwise. Raises OSError."""
    status = directory.stat()
    if os.geteuid() != 0 or status.st_uid == 0:
        return None
    try:
        name = pwd.getpwuid(status.st_uid).pw_name
    except KeyError:
        name = str(status.st_uid)
    return Account(name, status.st_uid, status.st_gid, "/")


def check_may_change(account: Account, where: Path) -> None:
    """Check that this process may start another as ``account``, and end it. Raises ConfigError."""
    if missing := _missing_capabilities():
        found = f'"{account.name}", and this process lacks {", ".join(missing)}'
        fix = "Run Kiwi ID as root or with these (systemd: kiwi-id.service.d/upstream-user.conf), or leave upstream_user empty."
        raise ConfigError([Problem(str(where), "upstream_user", found, "the right to change to that user", fix)])


def _missing_capabilities() -> list[str]:
    status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    effective = int(status.partition("CapEff:\t")[2].split()[0], 16)
    return [name for name, number in _NEEDED.items() if not effective >> number & 1]


@contextmanager
def acting_as(account: Account | None, *, group_only: bool = False) -> Iterator[None]:
    """Open and make files as ``account`` would (None: as ourselves), in this thread and until the block ends.

    ``group_only`` keeps our user: what is made then is ours, and of its group. Never over an ``await``: other tasks would get it
    too. setfsuid(2) is the call that concerns the thread alone (and those that it starts meanwhile), where glibc's seteuid would
    change all of them. Raises PermissionError.
    """
    if account is None:
        yield
        return
    # Both return what was before, and never an error; what is now is asked for by a number that is none.
    uid, gid = _libc.setfsuid(-1), _libc.setfsgid(account.gid)
    try:
        if not group_only:
            _libc.setfsuid(account.uid)
        if (_libc.setfsgid(-1), _libc.setfsuid(-1)) != (account.gid, uid if group_only else account.uid):
            raise PermissionError(errno.EPERM, f"cannot act as {account.name}: setfsuid is not permitted")
        yield
    finally:
        _libc.setfsuid(uid)
        _libc.setfsgid(gid)


def gain_nothing_new() -> None:
    """Give up, for this process and all that it starts, what a set-user-id program or one with capabilities would add."""
    if _libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        log.warn("cannot set no_new_privs", error=os.strerror(ctypes.get_errno()))
