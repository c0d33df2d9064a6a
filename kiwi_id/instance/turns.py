"""One at a time: the locks of the commands that change Kanidm, between a running Kiwi ID and whoever works by hand.

Files of mode 0600 in ``runtime_dir``, for their locks alone. A lock on a file or directory that everybody can open, such as
config.toml, could be taken by everybody, for ever.
"""

from __future__ import annotations

import fcntl
from contextlib import suppress

from kiwi_id.config_keys import Config
from kiwi_id.errors import ConfigError, Problem
from kiwi_id.instance import owners


def opened(config: Config, what: str) -> int:
    """Return a descriptor of the lock of ``what``, which ends with its last copy. Raises ConfigError.

    Made by root, the file and its directory belong to whom the signing key belongs to: the user that Kiwi ID runs as.
    """
    file = config.runtime_dir / f"{what}.lock"
    try:
        owner = owners.of(config.jwt_private_key)
        if not config.runtime_dir.is_dir():  # nothing runs, and that is where a start will make it
            config.runtime_dir.parent.mkdir(parents=True, exist_ok=True)
            with suppress(FileExistsError):
                owners.make_directory(config.runtime_dir, 0o750, owner)
        return owners.open_lock(file, owner)
    except OSError as error:
        fix = "Run this as root or as the user that Kiwi ID runs as."
        found = error.strerror or str(error)
        raise ConfigError([Problem(str(error.filename or file), "runtime_dir", found, "a file that can be locked", fix)]) from None


def taken(descriptor: int) -> bool:
    """Take the lock if it is free; return whether it is ours now."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
