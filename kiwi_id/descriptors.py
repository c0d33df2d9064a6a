"""File descriptors: as many as we may have, and limits that fit, so that clients cannot use up what a restart of kanidmd needs."""

from __future__ import annotations

import errno
import resource
from dataclasses import replace

from kiwi_id.config import Limits
from kiwi_id.logs import Log

log = Log("front")

# For everything that is neither a client nor a connection to kanidmd: logs, sockets that listen, pipes, files that are being read,
# a probe, and connections that are being turned away.
RESERVE = 64
# Where there are very few, kanidmd gets this share of them.
_UPSTREAM_SHARE = 4
_FEWEST = 8
# What says that this process, or this machine, has no more to give: nothing of it is the fault of who was asked.
EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS})


def raise_limit() -> int:
    """Raise the soft limit of this process to its hard limit; return it. The soft one is 1,024 for the sake of ``select``."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        except (OSError, ValueError):
            return soft
    return hard


def fit(limits: Limits, available: int | None = None) -> Limits:
    """Return the limits, lowered to what ``available`` descriptors (None: those of this process) allow; says so in the log."""
    if available is None:
        available = raise_limit()
    if available == resource.RLIM_INFINITY:
        return limits
    upstream = min(limits.upstream_connections, max(available // _UPSTREAM_SHARE, _FEWEST))
    clients = min(limits.max_connections, max(available - RESERVE - upstream, _FEWEST))
    if (clients, upstream) != (limits.max_connections, limits.upstream_connections):
        log.warn(
            "limits are lowered to the file descriptors that there are: raise LimitNOFILE (systemd) or 'ulimit -n'",
            descriptors=available,
            max_connections=clients,
            upstream_connections=upstream,
        )
    return replace(limits, max_connections=clients, upstream_connections=upstream)


def exhausted(error: BaseException | None) -> bool:
    """Tell whether an error, or what led to it, comes from a lack of descriptors or memory on our side."""
    # Contexts, too: a ConfigError says in words what an OSError said, and is raised "from None". They may form circles.
    found, waiting = set[int](), [error]
    while waiting:
        each = waiting.pop()
        if each is None or id(each) in found:
            continue
        found.add(id(each))
        if isinstance(each, OSError) and each.errno in EXHAUSTED:
            return True
        waiting += [each.__cause__, each.__context__, *(each.exceptions if isinstance(each, BaseExceptionGroup) else ())]
    return False
