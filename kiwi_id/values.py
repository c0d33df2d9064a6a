"""The value types of config.toml: durations, addresses, networks, sizes; each parser says what it allows when it refuses."""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
# ASCII digits only (\d also matches other scripts'), and few of them: int() refuses thousands with an error of its own.
_DURATION_PART = re.compile(r"([0-9]{1,18}(?:\.[0-9]{1,18})?)(ms|s|m|h|d)")
_SIZE = re.compile(r"([0-9]{1,18})\s*(|B|KiB|MiB|GiB)")
_SIZES = {"": 1, "B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}


class Refused(Exception):
    """A value that cannot be used: ``found`` (safe to print), ``allowed`` and ``fix`` are words for a person."""

    def __init__(self, found: str, allowed: str, fix: str = "") -> None:
        super().__init__(f"found {found}; allowed: {allowed}")
        self.found, self.allowed, self.fix = found, allowed, fix


@dataclass(frozen=True, slots=True)
class Address:
    """A TCP address; ``host`` is an IP address or name without brackets, ``port`` 0–65535 (0: let the kernel choose)."""

    host: str
    port: int

    @property
    def reachable_host(self) -> str:
        """The host to connect to: the loopback, when this one means "every address"."""
        return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)  # noqa: S104 - compared, not bound

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Rate:
    """``count`` at once, and as many again in each ``period`` (seconds)."""

    count: int
    period: float


def shown(value: object) -> str:
    """Return ``value`` with its TOML type, shortened to fit a line, for the *found* part of an error."""
    names = {bool: "boolean", int: "integer", float: "float", str: "string", list: "array", dict: "table"}
    try:
        # JSON spells them as TOML does; and its escapes keep a line break or an escape sequence from the line and the terminal.
        spelt_alike = isinstance(value, str | bool | list | dict)
        text = json.dumps(value, ensure_ascii=False, default=str) if spelt_alike else str(value)
    except ValueError:  # Python prints no integer beyond that; TOML's 0x… may have any length
        text = "a number of more than 4300 digits"
    text = text if len(text) <= 60 else text[:57] + "…"
    return f"{text} ({names.get(type(value), type(value).__name__)})"


def duration(value: Any, *, low: float = 0.0, high: float = 86400.0 * 3650) -> float:
    """Parse ``"5s"``, ``"1m30s"``, ``"250ms"`` into seconds; ``low`` and ``high`` bound it, in seconds. Raises Refused."""
    allowed = f'a string such as "250ms", "5s", "1m30s", "2h", from {_plain(low)} to {_plain(high)}'
    if isinstance(value, int | float) and not isinstance(value, bool):
        raise Refused(shown(value), allowed, f'Write it with a unit: "{value}s".' if abs(value) < high else "")
    if not isinstance(value, str):
        raise Refused(shown(value), allowed)
    position, seconds, previous = 0, 0.0, float("inf")
    while position < len(value):
        part = _DURATION_PART.match(value, position)
        # Units must fall (1m30s, not 30s1m), so that "5m5m" or "5s1h" is a typo that is told, not a sum.
        if part is None or _UNITS[part[2]] >= previous:
            raise Refused(shown(value), allowed)
        previous = _UNITS[part[2]]
        seconds += float(part[1]) * previous
        position = part.end()
    if not value or not low <= seconds <= high:
        raise Refused(shown(value), allowed)
    return seconds


def optional_duration(value: Any, *, low: float) -> float | None:
    """Like :func:`duration`; the empty string means *none*. Raises Refused."""
    return None if value == "" else duration(value, low=low)


def optional_rate(value: Any) -> Rate | None:
    """Parse ``"24/8h"``: 24 at once, and 24 more in each eight hours; the empty string means *no limit*. Raises Refused."""
    if value == "":
        return None
    allowed = 'a number and a time, from 1 to 1000000 in 1s to 30d, such as "24/8h", or "" for no limit'
    number, slash, time = value.partition("/") if isinstance(value, str) else ("", "", "")
    if not (slash and re.fullmatch(r"[0-9]{1,7}", number) and 1 <= int(number) <= 1_000_000):
        raise Refused(shown(value), allowed)
    try:
        return Rate(int(number), duration(time, low=1.0, high=30 * 86400.0))
    except Refused:
        raise Refused(shown(value), allowed) from None


def _plain(seconds: float) -> str:
    for unit, size in (("d", 86400.0), ("h", 3600.0), ("m", 60.0), ("s", 1.0)):
        if seconds >= size and seconds % size == 0:
            return f"{seconds / size:g}{unit}"
    return f"{seconds * 1000:g}ms"


def size(value: Any, *, low: int = 0, high: int = 1 << 40) -> int:
    """Parse an integer number of bytes, or ``"64KiB"``, ``"30MiB"``, into bytes. Raises Refused."""
    allowed = f'bytes as an integer or a string such as "64KiB" or "30MiB", from {low} to {high}'
    if isinstance(value, str) and (match := _SIZE.fullmatch(value)):
        value = int(match[1]) * _SIZES[match[2]]
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise Refused(shown(value), allowed)
    return value


def integer(value: Any, *, low: int, high: int) -> int:
    """Check an integer within bounds. Raises Refused."""
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise Refused(shown(value), f"an integer from {low} to {high}")
    return value


def boolean(value: Any) -> bool:
    """Check a TOML boolean. Raises Refused."""
    if not isinstance(value, bool):
        raise Refused(shown(value), "true or false, without quotes")
    return value


def one_of(*choices: str) -> Callable[[Any], str]:
    """Return a parser that accepts exactly the given words."""

    def parse(value: Any) -> str:
        if not isinstance(value, str) or value not in choices:
            raise Refused(shown(value), ", ".join(f'"{choice}"' for choice in choices))
        return value

    return parse


def path(value: Any) -> Path:
    """Check an absolute path: a daemon's working directory is nobody's to rely on. Raises Refused."""
    if not isinstance(value, str) or not value.startswith("/") or "\0" in value:
        raise Refused(shown(value), "an absolute path", "Write the path from the root, such as /etc/kiwi/….")
    return Path(value)


def optional_path(value: Any) -> Path | None:
    """Like :func:`path`; the empty string means *none*. Raises Refused."""
    return None if value == "" else path(value)


def address(value: Any, *, any_port: bool = True) -> Address:
    """Parse ``host:port``, with IPv6 hosts in brackets as in ``[::1]:8443``. Raises Refused."""
    allowed = '"host:port", such as "10.10.20.10:8443" or "[::1]:8443"'
    if not isinstance(value, str):
        raise Refused(shown(value), allowed)
    host, colon, port = value.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    inner = host[1:-1] if bracketed else host
    fix = ""
    if ":" in inner and not bracketed and not value.endswith("]"):
        fix = "Put the IPv6 address in brackets."
    elif not (colon and re.fullmatch(r"[0-9]{1,5}", port) and int(port) <= 65535 and (any_port or int(port) > 0)):
        fix = "Give a port number from 1 to 65535 after a colon."
    elif bracketed and ":" not in inner:
        fix = "Brackets are for IPv6 addresses only."
    elif bracketed or re.fullmatch(r"[\d.]+", inner):
        try:
            ipaddress.ip_address(inner)
        except ValueError as error:
            fix = f"{error}."
    elif not re.fullmatch(r"(?!-)[A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63})*", inner):
        fix = "Give a host name or an IP address before the colon."
    if fix:
        raise Refused(shown(value), allowed, fix)
    return Address(inner, int(port))


def https_address(value: Any) -> Address:
    """Parse ``https://host:port`` without path or credentials: Kanidm speaks nothing but TLS. Raises Refused."""
    allowed = '"https://host:port", such as "https://127.0.0.1:8443"'
    if not isinstance(value, str):
        raise Refused(shown(value), allowed)
    found = shown(re.sub(r"//.*@", "//…@", value))  # whoever put a password there must not find it in a log
    try:
        parts = urlsplit(value)
        port = parts.port
    except ValueError as error:  # an unclosed bracket, or a port that is none
        fix = "" if "@" in value else f"{error}."
        raise Refused(found, allowed, fix) from None
    if parts.scheme != "https":
        raise Refused(found, allowed, "Kanidm listens with TLS only: the address must begin with https://.")
    if "@" in parts.netloc or parts.path not in ("", "/") or parts.query or parts.fragment:
        raise Refused(found, allowed, "Leave out user, path and query.")
    return address(parts.netloc if port is not None else parts.netloc.removesuffix(":") + ":443", any_port=False)


def uri(value: Any, *, fragment: bool = False) -> str:
    """Check an absolute URI: http(s) with a host, or a scheme of an app (RFC 8252 §7.1); with a ``fragment`` only when asked for.

    Raises Refused.
    """
    allowed = f'an absolute URI{"" if fragment else " without fragment"}, such as "https://mail.example.com/callback"'
    if not isinstance(value, str) or not re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]*:[\x21-\x7e]+", value):
        raise Refused(shown(value), allowed)
    try:
        parts = urlsplit(value)
        bad = ("#" in value and not fragment) or "@" in parts.netloc or (parts.scheme in ("http", "https") and not parts.hostname)
    except ValueError:
        bad = True
    if bad or parts.scheme in ("javascript", "data", "file", "vbscript"):
        raise Refused(f"a URI that cannot be used ({len(value)} characters)", allowed)
    return value


def uris(value: Any) -> tuple[str, ...]:
    """Check an array of URIs. Raises Refused."""
    if not isinstance(value, list):
        raise Refused(shown(value), 'an array of URIs, such as ["https://mail.example.com/"]')
    return tuple(uri(item) for item in value)


def optional_origin(value: Any) -> str:
    """Check an https URL without query, fragment and trailing slash; the empty string means *none*. Raises Refused."""
    if value == "":
        return ""
    checked = uri(value)
    if not checked.startswith("https://") or "?" in checked or checked.endswith("/"):
        raise Refused(shown(value), 'an https URL without query and trailing slash, such as "https://id.example.com"')
    return checked


_LABELS = r"(?!-)[a-z0-9-]{1,63}(?:\.[a-z0-9-]{1,63})*"


def hosts(value: Any) -> tuple[str, ...]:
    """Check an array of host names as browsers send them: lower case, with a port when it is not 443. Raises Refused."""
    allowed = 'an array of host names, with a port when it is not 443, such as ["wiki.example.com", "files.example.com:8443"]'
    if not isinstance(value, list):
        raise Refused(shown(value), allowed)
    found: list[str] = []
    for item in value:
        name = item.lower().removesuffix(":443") if isinstance(item, str) else ""
        if not re.fullmatch(rf"{_LABELS}(?::[0-9]{{1,5}})?", name):
            fix = "Leave out scheme and path." if isinstance(item, str) and "/" in item else ""
            raise Refused(shown(item), allowed, fix)
        found.append(name)
    return tuple(found)


def optional_domain(value: Any) -> str:
    """Check a domain for cookies, of two labels or more (browsers refuse one); the empty string means *none*. Raises Refused."""
    if value == "":
        return ""
    name = value.lower().removeprefix(".") if isinstance(value, str) else ""
    if not re.fullmatch(_LABELS, name) or "." not in name or re.fullmatch(r"[0-9.]+", name):
        raise Refused(shown(value), 'a domain of two labels or more, such as "example.com"')
    return name


def name(value: Any) -> str:
    """Check the name of an OAuth2 client. Raises Refused."""
    if not isinstance(value, str) or not re.fullmatch(r"[A-Za-z0-9._@-]{1,128}", value):
        raise Refused(shown(value), "the name of an OAuth2 client in Kanidm")
    return value


def optional_name(value: Any) -> str:
    """Like :func:`name`; the empty string means *none*. Raises Refused."""
    return "" if value == "" else name(value)


def names(value: Any) -> tuple[str, ...]:
    """Check an array of names of OAuth2 clients. Raises Refused."""
    if not isinstance(value, list):
        raise Refused(shown(value), 'an array of names of OAuth2 clients, such as ["backup"]')
    return tuple(name(item) for item in value)


def networks(value: Any) -> tuple[Network, ...]:
    """Parse an array of addresses or CIDR networks, such as ``["10.10.20.1", "fd00::/8"]``. Raises Refused."""
    allowed = 'an array of addresses or networks, such as ["10.10.20.1", "fd00:20::/64"]'
    if not isinstance(value, list):
        raise Refused(shown(value), allowed)
    found: list[Network] = []
    for item in value:
        try:
            if not isinstance(item, str):
                raise ValueError("not a string")
            found.append(ipaddress.ip_network(item))
        except ValueError as error:
            raise Refused(shown(item), allowed, f"{error}.") from None
    return tuple(found)
