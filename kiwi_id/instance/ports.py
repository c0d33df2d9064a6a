"""TCP ports of the loopback, for instances that are made for a trial, a test or a bench.

A port is chosen here and bound by another program a moment later: nobody may take it in between.

- The kernel gives ports to outgoing connections, and to whoever binds port 0, from a range of its own (ip(7),
  ``ip_local_port_range``). Ours lie outside it.
- Several processes may choose at the same time. Each claims blocks of ports for as long as it lives, by a Unix socket of the
  abstract namespace (unix(7)): there is one such namespace for each network namespace, as there is for ports, and a claim goes
  with its process however that ends.
"""

from __future__ import annotations

import atexit
import socket
from collections.abc import Iterator
from pathlib import Path

LOWEST = 10000  # below, ports that people know are many
BLOCK = 64

_KERNELS = Path("/proc/sys/net/ipv4/ip_local_port_range")
_claims: list[socket.socket] = []


def free_port() -> int:
    """Return a port that nobody listens on now, and that neither this process nor another one has been given before.

    "Another one" means those that are running. Raises OSError when all ports are taken.
    """
    for port in _PORTS:
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:  # somebody else's, or a connection of it still waits for its end
                continue
        return port
    raise OSError("all ports of 127.0.0.1 are taken")


def claim(port: int) -> bool:
    """Claim one port in particular against other processes that do so; returns False when one of them has, and runs.

    Tells nothing of who listens there.
    """
    return _claim(f"port-{port}")


def blocks(first: int, last: int) -> list[range]:
    """Return the blocks of ports outside the kernel's range; all blocks, when it takes everything."""
    below = [range(start, start + BLOCK) for start in range(first - BLOCK, LOWEST - 1, -BLOCK)]
    above = [range(start, start + BLOCK) for start in range(last + 1, 65536 - BLOCK + 1, BLOCK)]
    return below + above or [range(start, start + BLOCK) for start in range(LOWEST, 65536 - BLOCK + 1, BLOCK)]


def _claimed() -> Iterator[int]:
    first, last = map(int, _KERNELS.read_text().split())
    for block in blocks(first, last):
        if _claim(f"ports-{block.start}"):
            yield from block


def _claim(name: str) -> bool:
    held = socket.socket(socket.AF_UNIX)
    try:
        held.bind(f"\0kiwi-id-{name}")
    except OSError:
        held.close()
        return False
    _claims.append(held)
    return True


_PORTS = _claimed()


@atexit.register
def _give_back() -> None:
    for held in _claims:  # else Python warns of each at its end
        held.close()
