"""Which listener a connection arrives at, and from where: between Kiwi ID and Kanidm, known by their configured addresses."""

from __future__ import annotations

import ipaddress

from kiwi_id.values import Address


def source_of(target: Address) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """Return the address that Kanidm sees us come from; on loopback it is the one that we connect to."""
    try:
        return ipaddress.ip_address(target.host)
    except ValueError:
        return ipaddress.ip_address("127.0.0.1")


def reaches(target: Address, bind: Address) -> bool:
    """Tell whether a connection to ``target`` can arrive at a listener on ``bind``."""
    if target.port != bind.port or not target.port:
        return False
    if bind.host in (target.host, "::"):  # Linux: [::] takes IPv4 as well
        return True
    try:
        there, here = ipaddress.ip_address(target.host), ipaddress.ip_address(bind.host)
    except ValueError:  # a name on either side: localhost we know; for others only the resolver does
        names = {target.host, bind.host}
        return "localhost" not in names or any(is_loopback(name) for name in names - {"localhost"})
    return there == here or (here.is_unspecified and here.version == there.version)


def is_loopback(host: str) -> bool:
    """Tell whether ``host``, an IP address or a name, is the loopback."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
