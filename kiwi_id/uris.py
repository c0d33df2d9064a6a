"""URIs that Kiwi ID itself sends requests to: stricter than those that only a browser is sent to, for nobody corrects ours."""

from __future__ import annotations

import ipaddress
import re
from typing import Any
from urllib.parse import urlsplit

from kiwi_id.values import Refused

_ALLOWED = (
    'an https URL without user, password and fragment, such as "https://mail.example.com/logout"; '
    "http only for localhost, 127.0.0.0/8 and [::1]"
)
# RFC 3986 §3.1–3.3 as far as http(s) has it: what is not spelt so, two parsers could read in two ways.
_URL = re.compile(
    r"(?P<scheme>https?)://(?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?P<port>:[0-9]{1,5})?"
    r"(?P<rest>[/?](?:[A-Za-z0-9._~!$&'()*+,;=:@/?-]|%[0-9A-Fa-f]{2})*)?",
    re.IGNORECASE,
)
# RFC 1123 §2.1, and the underscore, which names in container networks have.
_LABEL = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)", re.IGNORECASE)


def optional_endpoint(value: Any) -> str:
    """Check the URL of a relying party's endpoint that we post to; the empty string means *none*. Raises Refused."""
    if value == "":
        return ""
    match = _URL.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise Refused(_found(value), _ALLOWED)
    host, port = match["host"].lower(), match["port"]
    if problem := _bad_host(host):
        raise Refused(_found(value), _ALLOWED, problem)
    if port and not 0 < int(port[1:]) < 65536:
        raise Refused(_found(value), _ALLOWED, "A port is a number from 1 to 65535.")
    if match["scheme"].lower() == "http" and not _is_loopback(host):
        raise Refused(_found(value), _ALLOWED, "A logout token must not travel readable: give an https URL.")
    return str(value)


def _found(value: Any) -> str:
    """Say what was found without the text, which may hold a password."""
    if not isinstance(value, str):
        return f"a {type(value).__name__}"
    try:
        scheme = urlsplit(value).scheme
    except ValueError:
        scheme = ""
    what = f"a URI of the scheme '{scheme}'" if re.fullmatch(r"[a-z][a-z0-9+.-]{0,30}", scheme) else "no absolute URI"
    return f"{what} that cannot be used ({len(value)} characters)" if scheme else f"{what} ({len(value)} characters)"


def _bad_host(host: str) -> str:
    """Return what is wrong with a host, or nothing."""
    labels = host.split(".")
    if host.startswith("[") or labels[-1].isdigit():
        try:
            ipaddress.IPv6Address(host[1:-1]) if host.startswith("[") else ipaddress.IPv4Address(host)
        except ValueError as error:
            return f"{error}."
        return ""
    if len(host) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        return "A host name has labels of 1 to 63 letters, digits and hyphens, with one dot between two of them."
    if any(label.startswith("xn--") for label in labels):
        import idna  # noqa: PLC0415 - Trio and httpx bring it, and by it httpx reads such a name

        try:
            idna.decode(host)
        except UnicodeError:
            return "A label that begins with xn-- must be the punycode of a name (RFC 5890)."
    return ""


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
