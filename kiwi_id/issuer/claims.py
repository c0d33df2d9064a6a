"""From Kanidm's claims to ours: what stays, what goes, and how groups are called."""

from __future__ import annotations

import re
from typing import Any

from kiwi_id.issuer.context import Context

# Claims of the token as such, which we set ourselves, or that say nothing outside Kanidm.
_PROTOCOL = frozenset(
    {"iss", "aud", "azp", "exp", "nbf", "iat", "jti", "nonce", "at_hash", "sid", "auth_time", "scopes", "scope", "acr", "amr"}
    | {"client_id", "session_id", "parent_session_id"}
)
_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
# In an access token only what a resource server decides by: it travels with every request.
_IN_ACCESS_TOKEN = ("name", "preferred_username", "email", "email_verified", "groups")


def user_claims(ctx: Context, kanidm: dict[str, Any]) -> dict[str, Any]:
    """Return the claims about the user of one of Kanidm's ID tokens or userinfo answers, ``sub`` among them.

    Claim maps of the client come through as they are. ``groups`` of Kanidm names each group twice, by SPN and by UUID
    (oauth2.rs:1674); ours names it once, as config.toml's ``groups_claim`` says.
    """
    claims = {name: value for name, value in kanidm.items() if name not in _PROTOCOL and value is not None}
    if isinstance(claims.get("groups"), list):
        claims["groups"] = group_names([str(group) for group in claims["groups"]], ctx.groups_claim)
    if not isinstance(claims.get("updated_at", 0), int):
        del claims["updated_at"]
    return claims


def group_names(groups: list[str], form: str) -> list[str]:
    """Return each group once, sorted, in the given form: ``name`` (mail_users), ``spn`` (mail_users@domain) or ``uuid``."""
    if form == "uuid":
        return sorted({group for group in groups if _UUID.fullmatch(group)})
    spns = {group for group in groups if not _UUID.fullmatch(group)}
    return sorted(spns if form == "spn" else {group.partition("@")[0] for group in spns})


def for_access_token(claims: dict[str, Any]) -> dict[str, Any]:
    """Return those of the user's claims that an access token carries."""
    return {name: claims[name] for name in _IN_ACCESS_TOKEN if name in claims}
