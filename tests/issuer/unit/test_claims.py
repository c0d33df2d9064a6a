"""issuer/claims.py: what of Kanidm's claims comes through, and how groups are called."""

from __future__ import annotations

import pytest

from kiwi_id.issuer.claims import for_access_token, group_names, user_claims
from tests.issuer.unit.issuer import World

UUIDS = ["0e9f2b30-0000-4000-8000-000000000002", "0e9f2b30-0000-4000-8000-000000000001"]
GROUPS = ["users@id.example", UUIDS[0], UUIDS[1], "mail@id.example", "users@id.example"]


@pytest.mark.parametrize(
    ("form", "expected"),
    [("name", ["mail", "users"]), ("spn", ["mail@id.example", "users@id.example"]), ("uuid", sorted(UUIDS))],
)
def test_each_group_once_in_one_form(form: str, expected: list[str]) -> None:
    """Kanidm names a group by SPN and UUID; we by the one that config.toml says, sorted."""
    assert group_names(GROUPS, form) == expected
    assert user_claims(World(groups_claim=form).ctx, {"sub": "u", "groups": GROUPS}) == {"sub": "u", "groups": expected}


def test_claim_maps_come_through_and_protocol_claims_do_not() -> None:
    """What the token says of itself is ours to say; strings, numbers, lists and objects of claim maps stay as they are."""
    protocol = dict.fromkeys(
        ["iss", "aud", "azp", "exp", "nbf", "iat", "jti", "nonce", "at_hash", "sid", "auth_time", "scopes", "scope", "acr", "amr"],
        "x",
    )
    inner = dict.fromkeys(["client_id", "session_id", "parent_session_id"], "x")
    mapped = {"sub": "u", "role": ["a", "b"], "level": 3, "address": {"country": "NZ"}, "csv": "a,b"}
    assert user_claims(World().ctx, {**protocol, **inner, **mapped, "email": None}) == mapped


def test_a_wrong_updated_at_is_left_out() -> None:
    """OIDC Core §5.1: a JSON number; Kanidm 1.10 has sent other things."""
    ctx = World().ctx
    assert user_claims(ctx, {"updated_at": 7}) == {"updated_at": 7}
    assert user_claims(ctx, {"updated_at": "2026-01-01"}) == {}


def test_the_access_token_has_what_a_service_decides_by() -> None:
    """Not the claim maps: it travels with each request."""
    claims = {"sub": "u", "name": "A", "email": "a@b", "groups": ["g"], "role": ["r"], "address": {}}
    assert for_access_token(claims) == {"name": "A", "email": "a@b", "groups": ["g"]}
