"""Listening sockets that a service manager hands over: socket activation, as of ``sd_listen_fds(3)``.

The manager keeps the socket open while Kiwi ID is restarted: clients connect all the same, and wait in its backlog until the next
process accepts them. So no connection is ever refused, and a port below 1024 needs no capability of ours.
"""

from __future__ import annotations

import os
import socket
from collections.abc import MutableMapping

from kiwi_id.errors import ConfigError, Problem
from kiwi_id.logs import Log

log = Log("supervisor")

FIRST = 3
"""SD_LISTEN_FDS_START: the descriptors follow standard error."""

NAMES = frozenset({"front", "kiwi-id.socket", "unknown", ""})
"""FileDescriptorName= of our unit, systemd's default for it, and what a holder that gives no names is understood to mean."""


def take(environ: MutableMapping[str, str] = os.environ) -> list[socket.socket]:
    """Return the listening sockets handed over to this very process, or none. Raises ConfigError for anything else handed over.

    The variables are removed, and the descriptors are not inherited further: kanidmd must never accept our clients.
    """
    pid, count, names = (environ.pop(name, "") for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"))
    if pid != str(os.getpid()) or not count.isdigit():
        return []  # meant for another process, which started us (a shell does not remove them)
    named = names.split(":") if names else [""] * int(count)
    if int(count) > len(named):
        log.warn("more sockets were handed over than have a name: the others are not used", count=int(count), names=named)
    found: list[socket.socket] = []
    problems: list[Problem] = []
    for descriptor, name in zip(range(FIRST, FIRST + int(count)), named, strict=False):
        try:
            os.set_inheritable(descriptor, False)
            found.append(_front(descriptor, name))
        except (OSError, ValueError) as error:
            reason = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else str(error)
            what = f"descriptor {descriptor}{f' ({name})' if name else ''}, which cannot be used: {reason.lower()}"
            fix = "Compare with systemd/kiwi-id.socket."
            problems.append(Problem("LISTEN_FDS", "", what, "listening TCP sockets named 'front'", fix))
    if problems:
        for sock in found:
            sock.close()
        raise ConfigError(problems)
    return found


def _front(descriptor: int, name: str) -> socket.socket:
    """Return the descriptor as a socket of the front. Raises ValueError and OSError; the descriptor then stays open."""
    if name not in NAMES:
        raise ValueError("Kiwi ID knows no socket of that name")
    sock = socket.socket(fileno=descriptor)
    try:
        if sock.family not in (socket.AF_INET, socket.AF_INET6) or sock.type != socket.SOCK_STREAM:
            raise ValueError("not a TCP socket")
        if not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            raise ValueError("a socket that does not listen")
        sock.setblocking(False)
    except BaseException:
        sock.detach()
        raise
    return sock
