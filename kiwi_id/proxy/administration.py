"""Which requests administer Kanidm: everything below a few paths, but for what people without rights over others need.

Kanidm 1.5 to 1.10 (server/core/src/https: ``v1.rs``, ``v1_oauth2.rs``, ``v1_domain.rs``, ``v1_scim.rs``, ``apidocs``, ``views``). A
list of what is administration was rejected: there a GET makes tokens that reset a password, shows a client's secret, or ends a
synchronisation, and a later Kanidm may have more of them. So what is not known to be harmless is closed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from urllib.parse import unquote_to_bytes

# Segments that lead elsewhere, or nowhere.
_ODD = frozenset({b"", b".", b".."})
# Where Kanidm has anything that administers it.
_AREAS = frozenset({b"v1", b"scim", b"docs", b"ui"})

# ``{}`` is one segment: an account, a group, an attribute. Secrets are never in what these show ("hidden",
# server/lib/src/valueset/secret.rs), and none of them makes anything.
READS = (
    # One's own session and entry; the end of it; public keys.
    *("/v1/self", "/v1/self/_uat", "/v1/self/_applinks", "/v1/auth/valid", "/v1/logout", "/v1/jwk/{}"),
    # People and groups, as far as Kanidm lets this session see them: what the kanidm command and POSIX clients read.
    *("/v1/person", "/v1/person/{}", "/v1/person/_search/{}", "/v1/person/{}/_attr/{}", "/v1/person/{}/_certificate"),
    *("/v1/person/{}/_credential/_status", "/v1/person/{}/_ssh_pubkeys", "/v1/person/{}/_ssh_pubkeys/{}"),
    *("/v1/account/{}/_unix/_token", "/v1/account/{}/_ssh_pubkeys", "/v1/account/{}/_ssh_pubkeys/{}"),
    "/v1/account/{}/_user_auth_token",
    *("/v1/group", "/v1/group/{}", "/v1/group/_search/{}", "/v1/group/{}/_attr/{}", "/v1/group/{}/_unix/_token"),
    "/ui/api/user_settings/add_email",
)
# Pages: all but those of the administration, and what they call. None of them makes anything when it is read.
_PAGE = rb"/ui(?:/(?!(?i:admin|api)(?:/|\Z))[^/]+(?:/[^/]+)*)?"

_LOGIN = ("begin", "mech_choose", "pw", "totp", "passkey", "seckey", "backup_code")
_RESET = ("add_totp", "add_password", "change_password", "add_passkey", "set_unixcred", "add_ssh_publickey")
_OWN = (
    *("delete_alt_creds", "delete_unixcred", "add_totp", "remove_totp", "remove_passkey", "finish_passkey", "cancel_mfareg"),
    *("remove_ssh_publickey", "cu_cancel", "cu_commit", "user_settings/edit_profile", "user_settings/confirm_profile"),
)
# What a person does to the own account. Credentials are changed in a session of their own, which only the account's session or a
# link of an administrator's has begun.
WRITES = (
    *(f"/ui/login/{step}" for step in _LOGIN),
    *("/ui/oauth2/consent", "/ui/oauth2/device", "/ui/recover", "/ui/revoke", "/ui/radius/generate"),
    *(f"/ui/reset/{kind}" for kind in _RESET),
    *(f"/ui/api/{what}" for what in _OWN),
    *(f"/v1/credential/{step}" for step in ("_exchange_intent", "_status", "_update", "_commit", "_cancel")),
)


def _any_of(paths: Iterable[str], *more: bytes) -> re.Pattern[bytes]:
    patterns = [re.escape(path).encode().replace(rb"\{\}", rb"[^/]+") for path in paths]
    return re.compile(rb"(?:%s)/?" % b"|".join([*patterns, *more]))


_NOTHING = re.compile(rb"(?!)")
_OPEN = dict.fromkeys((b"GET", b"HEAD", b"OPTIONS"), _any_of(READS, _PAGE)) | {b"POST": _any_of(WRITES)}


def is_admin(method: bytes, path: bytes) -> bool:
    """Tell whether a request administers Kanidm, or may.

    Kanidm compares paths as they come. That nothing depends on its never doing otherwise, a path that would lead elsewhere without
    its escapes, doubled slashes or dot segments is closed when any of its segments might be the beginning of an administrator's.
    """
    decoded = unquote_to_bytes(path).replace(b"\\", b"/")
    parts = decoded.removesuffix(b"/").split(b"/")[1:]
    if not _ODD.isdisjoint(parts) or decoded.count(b"/") != path.count(b"/"):
        return any(part.lower() in _AREAS for part in parts)
    if not parts or parts[0].lower() not in _AREAS:
        return False
    is_open = _OPEN.get(method, _NOTHING)
    return not (is_open.fullmatch(path) and is_open.fullmatch(decoded))
