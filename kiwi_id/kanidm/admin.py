"""Typed client of Kanidm's admin socket: the only way to a first password, and it needs no password itself.

The protocol (``server/core/src/admin.rs``) is bare JSON in both directions, one value per message and no framing: an answer is
complete when it parses. Kanidm lets in root and the user it runs as, and simply drops the connection of anyone else.
"""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

import trio

from kiwi_id.errors import Exit, KiwiError

ANSWER_LIMIT = 64 * 1024
"""Bytes that an answer may have; a password needs about 80. Bounds what a wrong socket can make us hold."""


class AdminSocketUnavailable(KiwiError):
    """The admin socket is not there, or refuses us, or does not answer in time. Exit code 69."""

    exit_code = Exit.UNAVAILABLE


class AdminRequestRefused(KiwiError):
    """Kanidm understood the request and answered that it failed. Exit code 1."""

    exit_code = Exit.FAILURE


async def recover_account(socket: Path, name: str, *, timeout: float = 30.0) -> str:
    """Reset the account ``name`` (such as ``idm_admin``) to a new generated password and return that password.

    Kanidm removes the account's passkeys and its old credential. ``socket`` is ``adminbindpath`` of server.toml; ``timeout``
    seconds bound everything. Raises AdminSocketUnavailable, or AdminRequestRefused when there is no such account.
    """
    answer = await _ask(socket, {"RecoverAccount": {"name": name}}, timeout)
    match answer:
        case {"RecoverAccount": {"password": str(password)}}:
            return password
        case _:  # "Error" is all that Kanidm says; its log has the reason
            raise AdminRequestRefused(
                f"{socket}: Kanidm could not recover the account '{name}'. Accounts that are always there: 'admin', "
                "'idm_admin'; Kanidm's log says more."
            )


async def _ask(socket: Path, request: dict[str, Any], timeout: float) -> Any:
    """Send one request and return the answer's JSON value. Raises AdminSocketUnavailable."""
    try:
        with trio.fail_after(timeout):
            return await _exchange(socket, json.dumps(request).encode())
    except trio.TooSlowError:
        raise AdminSocketUnavailable(f"{socket}: no answer on Kanidm's admin socket within {timeout:g} s.") from None
    except (OSError, trio.BrokenResourceError) as error:
        raise AdminSocketUnavailable(_plain(socket, error)) from None


async def _exchange(socket: Path, request: bytes) -> Any:
    async with await trio.open_unix_socket(str(socket)) as stream:
        await stream.send_all(request)
        received = bytearray()
        while len(received) <= ANSWER_LIMIT:
            chunk = await stream.receive_some(4096)
            if not chunk:
                raise AdminSocketUnavailable(
                    f"{socket}: the admin socket closed without an answer. Kanidm answers only root and the user it runs as: "
                    "run this as one of them."
                )
            received += chunk
            try:
                return json.loads(received)
            except (ValueError, RecursionError):  # not whole yet, perhaps in the middle of a character: read on
                continue
        raise AdminSocketUnavailable(f"{socket}: more than {ANSWER_LIMIT} bytes that are not an answer; is this Kanidm's socket?")


def _plain(socket: Path, error: Exception) -> str:
    """Say which of the usual reasons it is, looking at the path once more."""
    if isinstance(error, FileNotFoundError):
        return (
            f"{socket}: no such socket. Is kanidmd running, and is this the 'adminbindpath' of its server.toml "
            "(/var/run/kanidmd/sock when it has none)?"
        )
    if isinstance(error, PermissionError):
        return f"{socket}: permission denied. Kanidm answers only root and the user it runs as: run this as one of them."
    try:
        is_socket = stat.S_ISSOCK(socket.stat().st_mode)
    except OSError:
        is_socket = True
    if not is_socket:
        return f"{socket}: not a socket. Give the 'adminbindpath' of Kanidm's server.toml."
    if isinstance(error, ConnectionRefusedError):
        return f"{socket}: nobody listens on it: a kanidmd that has ended left it behind. Start Kanidm."
    return f"{socket}: the admin socket failed: {getattr(error, 'strerror', None) or error}."
