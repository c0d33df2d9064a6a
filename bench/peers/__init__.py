"""What Kiwi ID is measured against: small proxies, each as its manual advises, all with one command line.

``python -m bench.peers.NAME LISTEN UPSTREAM CHAIN [CERT KEY]``: listen on ``LISTEN`` (host:port; with TLS when a certificate and
its key are named) and pass everything to ``UPSTREAM`` (an https URL), trusting the certificate in ``CHAIN``. Peers keep
connections on both sides alive, forward no hop-by-hop header, and log nothing. They check less than Kiwi ID does, which is in
their favour.
"""

from __future__ import annotations

import ssl
import sys
from dataclasses import dataclass
from pathlib import Path

# Connections to the upstream at once: Kiwi ID's default (limits.upstream_connections).
UPSTREAM_CONNECTIONS = 256
HOP_BY_HOP = frozenset({"connection", "keep-alive", "transfer-encoding", "te", "trailer", "upgrade"})


@dataclass(frozen=True)
class Arguments:
    """A peer's command line."""

    host: str
    port: int
    upstream: str
    chain: Path
    cert: str = ""
    key: str = ""

    @property
    def tls(self) -> ssl.SSLContext | None:
        """The listener's TLS, when it has any."""
        if not self.cert:
            return None
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(self.cert, self.key)
        return context


def arguments() -> Arguments:
    """Read the command line."""
    listen, upstream, chain, *tls = sys.argv[1:]
    host, _, port = listen.rpartition(":")
    return Arguments(host, int(port), upstream, Path(chain), *tls)
