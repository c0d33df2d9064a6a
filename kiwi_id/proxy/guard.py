"""By which names this front is asked (``allowed_hosts``), and from where Kanidm may be administered (``admin_networks``)."""

from __future__ import annotations

import re
from collections.abc import Iterable

from kiwi_id.proxy.administration import is_admin
from kiwi_id.proxy.exchange import Exchange
from kiwi_id.proxy.rules import BadRequest, is_trusted
from kiwi_id.values import Network

# What an orchestrator asks, by whatever address it knows us.
PROBES = frozenset({b"/livez", b"/readyz", b"/healthz"})
_PORT = re.compile(rb":[0-9]*\Z")


def bare(host: bytes) -> bytes:
    """Return a Host without port, in lower case, without the dot that a DNS name may end with."""
    return _PORT.sub(b"", host).lower().removesuffix(b".")


class Guard:
    """Refuses requests for another host with 421, and administration from elsewhere with 403.

    ``hosts`` are names without port (a port proves nothing: gateways listen on others than we do); an empty one of the two lists
    means that nothing is refused for its sake.
    """

    def __init__(self, hosts: Iterable[str], admin_networks: tuple[Network, ...]) -> None:
        self._hosts = frozenset(bare(host.encode()) for host in hosts)
        self._admin_networks = admin_networks

    def check(self, exchange: Exchange) -> None:
        """Judge a request by what we believe of it, behind trusted proxies too. Raises BadRequest."""
        host, path = exchange.origin.host, exchange.path
        if self._hosts and bare(host) not in self._hosts and path not in PROBES:
            message = "This server does not serve that host name. Whoever runs it can add the name to allowed_hosts."
            raise BadRequest(421, "misdirected_request", message)
        if (
            self._admin_networks
            and is_admin(exchange.method, path)
            and not is_trusted(exchange.origin.client, self._admin_networks)
        ):
            message = "Administration is not open to your address. Whoever runs this server can add it to admin_networks."
            raise BadRequest(403, "admin_closed", message)
