"""What may stand in an entry: attribute names, values, and which class allows them (a small part of Kanidm's schema)."""

import re
from urllib.parse import urlsplit

from kiwi_id.devserver.http import ApiError

__all__ = ["ANY", "REQUIRED", "SINGLE", "check", "loopback", "normal_url", "parse_url"]

REQUIRED = {
    "person": ("displayname",),
    "service_account": ("displayname",),
    "oauth2_resource_server": ("displayname", "oauth2_rs_origin_landing"),
}
"""Attributes that each class needs besides its name."""

_POLICY = (
    "allow_primary_cred_fallback",
    "auth_password_minimum_length",
    "authsession_expiry",
    "credential_type_minimum",
    "limit_search_max_filter_test",
    "limit_search_max_results",
    "privilege_expiry",
)
_KNOWN = {
    *_POLICY,
    "account_expire",
    "account_valid_from",
    "class",
    "description",
    "displayname",
    "entry_managed_by",
    "gidnumber",
    "legalname",
    "loginshell",
    "mail",
    "member",
    "name",
    "oauth2_allow_insecure_client_disable_pkce",
    "oauth2_allow_localhost_redirect",
    "oauth2_jwt_legacy_crypto_enable",
    "oauth2_prefer_short_username",
    "oauth2_rs_origin",
    "oauth2_rs_origin_landing",
    "oauth2_strict_redirect_uri",
    "ssh_publickey",
}
SINGLE = frozenset(_KNOWN - {"class", "mail", "member", "oauth2_rs_origin", "ssh_publickey"})
"""Attributes that have one value."""
ANY = ["*"]
"""Classes of an entry of which it is not known yet what it will be: any attribute may stand there."""
# An attribute that is here may stand only in entries of one of those classes.
_CLASS_OF: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(_POLICY, ("account_policy",)),
    "gidnumber": ("posixaccount", "posixgroup"),
    "legalname": ("person",),
    "loginshell": ("posixaccount",),
    "mail": ("group", "person", "service_account"),
    "member": ("group",),
    "oauth2_allow_insecure_client_disable_pkce": ("oauth2_resource_server_basic",),
    "oauth2_allow_localhost_redirect": ("oauth2_resource_server_public",),
}
_BOOLS = re.compile(r"oauth2_(allow_|jwt_legacy|prefer_short|strict_)")
_INAME = re.compile(r"[a-z0-9][a-z0-9._-]*")


def parse_url(text: str) -> str | None:
    """A URL in the normal form of Rust's `url` crate, or None when it is no absolute URL."""
    try:
        parts = urlsplit(text.strip())
        port = parts.port
    except ValueError:
        return None
    if not parts.scheme or not re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]*", parts.scheme):
        return None
    scheme = parts.scheme.lower()
    if scheme not in ("http", "https"):
        return text
    if not parts.hostname or re.search(r"\s", text):
        return None
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    if port is not None and port != {"http": 80, "https": 443}[scheme]:
        host += f":{port}"
    return parts._replace(scheme=scheme, netloc=host, path=parts.path or "/").geturl()


def normal_url(text: str) -> str:
    """`parse_url`, or Kanidm's error for an attribute that holds something else."""
    url = parse_url(text)
    if url is None:
        raise ApiError(400, {"invalidattribute": "Invalid Url (whatwg/url) syntax"})
    return url


def loopback(url: str) -> bool:
    """Whether a URL's host is this machine itself."""
    return urlsplit(url).hostname in ("localhost", "127.0.0.1", "::1")


def check(classes: list[str], attr: str, values: list[str]) -> list[str]:
    """The values in the form that is stored; raises ApiError for a name, class or value that Kanidm refuses."""
    if attr not in _KNOWN:
        raise ApiError(400, {"invalidattributename": attr})
    needed = _CLASS_OF.get(attr, ())
    if values and needed and classes is not ANY and not set(needed) & set(classes):
        raise ApiError(400, {"schemaviolation": {"attributenotvalidforclass": attr}})
    if attr in ("oauth2_rs_origin", "oauth2_rs_origin_landing"):
        return [normal_url(value) for value in values]
    if _BOOLS.match(attr) and not all(value in ("true", "false") for value in values):
        raise ApiError(400, {"invalidattribute": "Invalid boolean syntax"})
    if attr == "mail":
        # The first is the primary one, the others have no order.
        return [*values[:1], *sorted(values[1:])]
    if attr == "name":
        values = [value.lower() for value in values]
        if not all(_INAME.fullmatch(value) for value in values):
            raise ApiError(400, {"schemaviolation": {"invalidattributesyntax": "name"}})
    return values
