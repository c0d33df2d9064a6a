"""The shape of one recorded exchange: what must stay the same between two servers of one Kanidm version.

A shape holds names, types and kinds of values. It never holds a token, a secret, or any of Kanidm's HTML.
"""

import base64
import json
import re
from html.parser import HTMLParser
from typing import Any
from urllib.parse import parse_qsl, urlsplit

__all__ = ["shape", "shapes"]

Exchange = dict[str, Any]

# Headers whose value is part of the shape, and headers that only have to be there.
_VALUES = ("content-type", "www-authenticate", "cache-control", "allow", "access-control-allow-origin")
_PRESENT = (
    "content-security-policy",
    "permissions-policy",
    "pragma",
    "referrer-policy",
    "strict-transport-security",
    "x-content-type-options",
    "x-kanidm-auth-session-id",
    "x-kanidm-opid",
    "x-kanidm-version",
)
# JSON members whose strings are facts of the protocol, not data of one installation.
_LITERAL = re.compile(
    r"error|token_type|issued_token_type|scope|scopes|aud|azp|client_id|preferred_username|username|name|email|type_|class"
    r"|ext_cred_portal|mfaregstate|warnings|choose|continue|kty|crv|alg|use|issuer|.*_endpoint|jwks_uri|.*_supported"
    r"|spn|displayname|(direct)?memberof|.*_state|purpose|ui_hints|iss|mail_primary|typ|conflicting_attributes|plugin|attrunique"
    r"|oauth2_rs_(scope_map|origin.*|basic_secret|token_key)|es256_private_key_der|service_documentation"
)
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_JOSE = re.compile(r"eyJ[A-Za-z0-9_-]*(\.[A-Za-z0-9_-]*)+")


def shapes(exchanges: list[Exchange]) -> dict[str, dict[str, Any]]:
    """Shapes by label, in the order of the recording."""
    found = {}
    for exchange in exchanges:
        assert exchange["label"] not in found, f"two exchanges are labelled {exchange['label']!r}"
        found[exchange["label"]] = shape(exchange)
    return found


def shape(exchange: Exchange) -> dict[str, Any]:
    """The shape of one exchange `{label, method, url, status, headers, body, ...}`."""
    url = urlsplit(exchange["url"])
    headers = [(name.lower(), value) for name, value in exchange["headers"]]
    first = dict(reversed(headers))
    kept: dict[str, Any] = {name: first[name] for name in _VALUES if name in first}
    kept |= {name: _link(first[name]) for name in ("location", "hx-redirect") if name in first}
    kept |= {name: True for name in _PRESENT if name in first}
    cookies = dict(_cookie(value) for name, value in headers if name == "set-cookie")
    return {
        "request": {
            "method": exchange["method"],
            "path": url.path,
            "query": sorted(name for name, _ in parse_qsl(url.query, keep_blank_values=True)),
        },
        "status": exchange["status"],
        "headers": dict(sorted(kept.items())),
        "cookies": dict(sorted(cookies.items())),
        "body": _body(first.get("content-type", ""), exchange["body"]),
    }


def _link(location: str) -> str:
    url = urlsplit(location)
    query = "&".join(f"{name}={_kind(value)}" for name, value in parse_qsl(url.query, keep_blank_values=True))
    return url._replace(query=query).geturl()


def _cookie(header: str) -> tuple[str, dict[str, Any]]:
    pair, *attributes = header.split("; ")
    name, _, value = pair.partition("=")
    shown = sorted("Expires" if item.startswith("Expires=") else item for item in attributes)
    return name, {"attributes": shown, "value": _jose(value) if value else "empty"}


def _body(content_type: str, body: str) -> Any:
    if content_type.startswith("text/html"):
        page = _Page()
        page.feed(body)
        return page.shape()
    if not body:
        return "empty"
    try:
        return {"json": _json(json.loads(body), "")}
    except ValueError:
        return {"text": body}


def _json(value: Any, member: str) -> Any:
    if isinstance(value, dict):
        return {key: _json(item, key) for key, item in sorted(value.items())}
    if isinstance(value, list):
        # How many there are, and in which order, is data; which kinds there are is shape.
        items = {json.dumps(item, sort_keys=True): item for item in (_json(item, member) for item in value)}
        return [items[key] for key in sorted(items)]
    if isinstance(value, str):
        return f"={value}" if _LITERAL.fullmatch(member) and not _secret(value) else _jose(value)
    if value is None or isinstance(value, bool):
        return value
    return type(value).__name__


def _secret(value: str) -> bool:
    return bool(_JOSE.fullmatch(value)) or value.startswith("gAAAA")


def _kind(value: str) -> str:
    if value.startswith("gAAAA"):
        return "fernet"
    if _JOSE.fullmatch(value):
        return "jose"
    return value if len(value) < 20 else "text"


def _jose(value: str) -> Any:
    """The kind of a string; of a JWS also its header and the shape of its claims."""
    if _UUID.fullmatch(value):
        return "uuid"
    if value.startswith("gAAAA"):
        return "fernet"
    if not _JOSE.fullmatch(value):
        return "string"
    parts = value.split(".")
    header = _json(_unb64(parts[0]), "")
    if len(parts) != 3:
        return {"jwe": header}
    return {"jws": header, "claims": _json(_unb64(parts[1]), "")}


def _unb64(text: str) -> Any:
    return json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))


class _Page(HTMLParser):
    """Title, forms with their fields, and the error code of a page."""

    def __init__(self) -> None:
        super().__init__()
        self._title = ""
        self._forms: list[dict[str, Any]] = []
        self._code: str | None = None
        self._in: str = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self._in = tag
        if tag == "form":
            self._forms.append({"action": found.get("action"), "method": found.get("method"), "fields": {}})
        elif tag == "input" and self._forms and found.get("name"):
            self._forms[-1]["fields"][found["name"]] = found.get("type", "text")

    def handle_data(self, data: str) -> None:
        if self._in == "title":
            self._title += data.strip()
        if match := re.search(r"Error Code: (\w+)", data):
            self._code = match[1]

    def shape(self) -> dict[str, Any]:
        """The page's shape."""
        return {"title": self._title, "forms": self._forms, "error": self._code}
