"""What may pass: checks of a request's head against smuggling, and which header fields travel on in each direction.

Every function here is pure; the tables follow RFC 9110 and RFC 9112. Names are lower-case bytes.
"""

from __future__ import annotations

import ipaddress
import re
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from kiwi_id.values import Network

Header = tuple[bytes, bytes]
Headers = list[Header]


class BadRequest(Exception):
    """A request that is answered here and never passed on: ``status``, a stable ``code`` and a ``message`` for a person.

    ``retry_after``, in seconds, says that the same request may be good later.
    """

    def __init__(self, status: int, code: str, message: str, *, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.retry_after = status, code, message, retry_after


# Bare LF and bare CR (RFC 9112 §2.2), obsolete line folding (§5.2), and control characters, on which two parsers could disagree.
# Looked for as bytes come, before the head is complete and can be parsed.
_FORBIDDEN = re.compile(rb"(?<!\r)\n|\r[^\n]|\r\n[ \t]|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_LENGTH = re.compile(rb"[0-9]{1,18}")
_HOST = re.compile(rb"(?:[A-Za-z0-9._~!$&'()*+,;=%-]*|\[[0-9A-Fa-f:.]+\])(?::[0-9]{0,5})?")
# One parameter of Forwarded and what stands behind it (RFC 7239 §4), without escapes, which no address or host needs.
_PARAMETER = re.compile(rb'[ \t]*([A-Za-z-]+)=("[^"\\]*"|[^\s;,"]+)[ \t]*([;,]|\Z)')
_PORTS = {b"http": b"80", b"https": b"443"}
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{8,128}")

_HOP_BY_HOP = frozenset(
    b"connection keep-alive proxy-connection proxy-authenticate proxy-authorization te trailer transfer-encoding upgrade".split()
)
# A client may not have these taken out by naming them in Connection: they say what the message is, or are ours to judge.
_ESSENTIAL = frozenset(b"host content-length content-type authorization cookie set-cookie cache-control".split())
# Overwritten, whoever sent them: Kanidm takes the leftmost X-Forwarded-For for the truth (server/core/src/https/extractors).
_FORWARDING = frozenset(
    b"forwarded x-forwarded-for x-forwarded-proto x-forwarded-host x-forwarded-port x-forwarded-server x-forwarded-prefix"
    b" x-real-ip x-client-ip true-client-ip".split()
)
_DROPPED = _HOP_BY_HOP | _FORWARDING | {b"x-request-id"}
_DROPPED_FROM_ANSWERS = _DROPPED - _FORWARDING
# What a trailer may never carry: framing, routing, authentication (RFC 9110 §6.5.1).
_NOT_IN_TRAILERS = _DROPPED | _ESSENTIAL | frozenset(b"content-encoding content-range expect www-authenticate location".split())


def check_head(head: bytes | bytearray, start: int = 0, end: int = 1 << 62) -> None:
    """Check raw bytes of a request head, complete or not, for what no parser should have to interpret. Raises BadRequest.

    ``head`` may hold more: only ``start`` to ``end`` is looked at, with the two bytes before, so that a head that trickles in is
    not gone through from its beginning at each byte.
    """
    if _FORBIDDEN.search(head, max(0, start - 2), end):
        raise BadRequest(400, "malformed_request", "The request has a bare CR or LF, a folded header or a control character.")


def check_framing(version: bytes, headers: Iterable[Header]) -> None:
    """Check that the length of a request is beyond doubt (RFC 9112 §6). Raises BadRequest."""
    if version not in (b"1.0", b"1.1"):
        raise BadRequest(505, "version_not_supported", "Only HTTP/1.0 and HTTP/1.1 are spoken here.")
    codings = [value for name, value in headers if name == b"transfer-encoding"]
    lengths = [value for name, value in headers if name == b"content-length"]
    chunked = bool(codings)
    if chunked and lengths:
        raise BadRequest(400, "ambiguous_length", "The request has both Content-Length and Transfer-Encoding.")
    if chunked and version == b"1.0":
        raise BadRequest(400, "ambiguous_length", "HTTP/1.0 has no Transfer-Encoding.")
    if chunked and (len(codings) > 1 or codings[0].lower() != b"chunked"):
        raise BadRequest(501, "unknown_coding", "The only transfer coding that is understood here is chunked.")
    if len(lengths) > 1 or (lengths and not _LENGTH.fullmatch(lengths[0])):
        raise BadRequest(400, "ambiguous_length", "Content-Length must be there once and be one number.")


def origin_form(method: bytes, target: bytes, host: bytes | None) -> tuple[bytes, bytes | None]:
    """Return the request target as path and query (RFC 9112 §3.2), and the host that is asked for.

    Of a target with a host of its own a server has to believe that one (§3.2.2); where Host names another, somebody before us may
    have believed Host, so that is refused. Raises BadRequest for it, and for what a front does not serve.
    """
    if method == b"CONNECT":
        raise BadRequest(400, "connect_refused", "This is no forward proxy: CONNECT is not served.")
    if host is not None and not _HOST.fullmatch(host):
        raise BadRequest(400, "bad_host", "The Host header is not a host name with an optional port.")
    if target.startswith(b"/"):
        if b"#" in target:
            raise BadRequest(400, "bad_target", "A request target has no fragment.")
        return target, host
    scheme, colon, rest = target.partition(b"://")
    if colon and scheme.lower() in _PORTS:
        authority, slash, path = rest.partition(b"/")
        own = _without_port(authority, scheme)
        if not own or b"#" in path or not _HOST.fullmatch(authority):
            raise BadRequest(400, "bad_target", "The request target is not an address with a host and no fragment.")
        if host is None or own == _without_port(host, scheme):
            return slash + path or b"/", authority if host is None else host
        raise BadRequest(400, "other_host", "The request target names another host than the Host header.")
    raise BadRequest(400, "bad_target", "The request target must be a path.")


def _without_port(host: bytes, scheme: bytes) -> bytes:
    """Return a host without the port that its scheme has anyhow, in lower case: what is compared (RFC 9110 §4.2.3)."""
    name, colon, port = host.lower().rpartition(b":")
    return name if colon and port in (b"", _PORTS[scheme.lower()]) else host.lower()


def request_id(headers: Iterable[Header]) -> bytes:
    """Return the request's own ``X-Request-Id`` when it is well-formed, else a new one."""
    for name, value in headers:
        if name == b"x-request-id" and _REQUEST_ID.fullmatch(value):
            return value
    return secrets.token_hex(8).encode()


@dataclass(frozen=True, slots=True)
class Origin:
    """Who asks, as far as we believe it: ``client`` an IP address, ``scheme`` http or https, ``host`` as the browser sees it."""

    client: str
    scheme: str
    host: bytes


def find_origin(peer: str, scheme: str, headers: Sequence[Header], host: bytes | None, trusted: tuple[Network, ...]) -> Origin:
    """Tell who asks: the peer itself, or, when it is a trusted proxy, the client that it forwards for.

    X-Forwarded-For is read from the right, past trusted proxies, to the first address that is not one: what stands further left
    was written by the client and proves nothing. Forwarded (RFC 7239) is read in the same way when there is no X-Forwarded-For: a
    proxy that writes the one passes the other on as the client wrote it. Unreadable values are not believed.
    """
    if not (trusted and is_trusted(peer, trusted)):
        return Origin(peer, scheme, host or b"")
    client, forwarded = peer, {}
    chain: list[str] = []
    standard: list[bytes] = []
    for name, value in headers:
        if name == b"x-forwarded-for":
            chain += [part.strip() for part in value.decode("latin-1").split(",")]
        elif name in (b"x-forwarded-proto", b"x-forwarded-host"):
            forwarded[name] = value.rpartition(b",")[2].strip()
        elif name == b"forwarded":
            standard.append(value)
    if standard and not chain and (elements := _forwarded(b",".join(standard))):
        chain = [element.get(b"for", b"").decode("latin-1") for element in elements]
        forwarded = {b"x-forwarded-" + name: value for name, value in elements[-1].items()}
    for hop in reversed(chain):
        address = plain_address(hop)
        if address is None:
            break
        client = address
        if not is_trusted(address, trusted):
            break
    proto = forwarded.get(b"x-forwarded-proto", b"").lower()
    outer = forwarded.get(b"x-forwarded-host", b"")
    return Origin(
        client,
        proto.decode() if proto in (b"http", b"https") else scheme,
        outer if outer and _HOST.fullmatch(outer) else host or b"",
    )


def _forwarded(value: bytes) -> list[dict[bytes, bytes]]:
    elements: list[dict[bytes, bytes]] = [{}]
    at = 0
    while at < len(value):
        found = _PARAMETER.match(value, at)
        if found is None:
            return []
        elements[-1][found[1].lower()] = found[2].strip(b'"')
        if found[3] == b",":
            elements.append({})
        at = found.end()
    return elements


def plain_address(text: str) -> str | None:
    """Return an IP address in its canonical form without port, brackets or IPv4-in-IPv6 mapping, or None when it is none."""
    text = text.strip('"')
    if "%" in text:  # a scope may be any text at all (ipaddress checks nothing of it), and this one comes from elsewhere
        return None
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return str(mapped or address)


def neighbourhood(address: str) -> str:
    """Return what is counted as one client: an IPv4 address, or the /64 of an IPv6 one, all of which one machine may use."""
    return str(ipaddress.IPv6Network((address, 64), strict=False)) if ":" in address else address


@lru_cache(maxsize=1024)
def is_trusted(peer: str, trusted: tuple[Network, ...]) -> bool:
    """Tell whether ``peer`` lies in one of the trusted networks."""
    try:
        address = ipaddress.ip_address(peer)
    except ValueError:  # a Unix socket's peer, or a scoped link-local address
        return False
    return any(address in network for network in trusted)


def to_upstream(headers: Iterable[Header], origin: Origin, request_id: bytes) -> Headers:
    """Return the request headers for kanidmd: end-to-end fields as they were, forwarding fields ours (RFC 9110 §7.6)."""
    dropped = _named_in_connection(headers)
    out = [header for header in headers if header[0] not in dropped]
    if not any(name == b"host" for name, _ in out):
        out.append((b"host", origin.host))  # HTTP/1.0 has none; our HTTP/1.1 must (RFC 9112 §3.2)
    client = origin.client.encode()
    shown = b'"[%s]"' % client if b":" in client else client
    out += [
        (b"x-forwarded-for", client),
        (b"x-forwarded-proto", origin.scheme.encode()),
        (b"x-forwarded-host", origin.host),
        (b"forwarded", b"for=%s;proto=%s;host=%s" % (shown, origin.scheme.encode(), _quoted(origin.host))),
        (b"via", b"1.1 kiwi-id"),
        (b"x-request-id", request_id),
    ]
    return out


def to_client(headers: Iterable[Header], request_id: bytes) -> Headers:
    """Return the response headers for the client: hop-by-hop fields out, our request id in."""
    named = _named_in_connection(headers)
    dropped = _DROPPED_FROM_ANSWERS if named is _DROPPED else named - _FORWARDING
    out = [header for header in headers if header[0] not in dropped]
    out.append((b"x-request-id", request_id))
    return out


def trailers(headers: Iterable[Header]) -> Headers:
    """Return the trailer fields that may pass, in either direction."""
    return [header for header in headers if header[0] not in _NOT_IN_TRAILERS]


def _named_in_connection(headers: Iterable[Header]) -> frozenset[bytes] | set[bytes]:
    named: set[bytes] = set()
    for name, value in headers:
        if name == b"connection" and (lowered := value.lower()) not in (b"close", b"keep-alive"):
            named.update(part.strip() for part in lowered.split(b","))
    return _DROPPED | (named - _ESSENTIAL) if named else _DROPPED


def _quoted(host: bytes) -> bytes:
    return b'"%s"' % host if not host or not re.fullmatch(rb"[A-Za-z0-9.-]+", host) else host
