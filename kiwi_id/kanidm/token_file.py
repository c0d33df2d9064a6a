"""The file with the API token of our own account in Kanidm, read; :mod:`kiwi_id.bootstrap` makes it.

Apart from that, because a running Kiwi ID needs the token and not the HTTP client with which the account is made.
"""

from __future__ import annotations

import stat
from pathlib import Path

from kiwi_id.errors import Exit, KiwiError, Problem
from kiwi_id.instance.files import read_file

_ALLOWED = "a file of mode 0600 with the token of Kiwi ID's account in Kanidm"


class NotBootstrapped(KiwiError):
    """There is no token, or none that can be used; the words say what to do. Exit code 78: trying again will not help."""

    exit_code = Exit.CONFIG


def read_token(file: Path) -> str | None:
    """Return what ``file`` holds, None when there is none. Raises NotBootstrapped when it cannot be used as it is."""
    try:
        mode = file.stat().st_mode
        text = read_file(file).decode("ascii").strip()
    except FileNotFoundError:
        return None
    except PermissionError:
        raise NotBootstrapped(
            f"{file}: only root and the user that Kiwi ID runs as may read it: run this as one of them."
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        found = error.strerror or str(error) if isinstance(error, OSError) else "bytes that are no token"
        raise NotBootstrapped(str(Problem(str(file), "", found, _ALLOWED, ""))) from None
    if stat.S_IMODE(mode) & 0o077:
        fix = (
            "Others may have read it: revoke it (kiwi-id bootstrap --ask-password --revoke-others; with --recover in place of "
            f"--ask-password when nobody has the password of idm_admin), or chmod 600 {file}."
        )
        raise NotBootstrapped(str(Problem(str(file), "", f"mode {stat.S_IMODE(mode):04o}", _ALLOWED, fix)))
    return text or None
