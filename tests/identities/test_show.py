"""A plan shows every value that changes, whole: a person decides by it."""

from __future__ import annotations

from kiwi_id.identities import show
from kiwi_id.identities.model import Identities
from kiwi_id.kanidm.rest import Kanidm

from .world import difference, make, state

POLICY = """
[groups.staff]
policy = { credential_minimum = "mfa", session_expiry = "8h", privilege_expiry = "10m", search_max_results = 1000 }
[clients.wiki]
landing = "https://wiki.example.com/"
scopes = { staff = ["openid", "email"] }
[clients.wiki.claims.role]
join = "csv"
values = { staff = ["author", "editor", "reader", "translator", "maintainer", "moderator", "guest"] }
"""


async def lines(kanidm: Kanidm, wanted: Identities) -> list[str]:
    """Return the plan without its steps' titles."""
    return [line.strip() for line in show.lines(await difference(kanidm, wanted)) if line.startswith("    ")]


async def test_what_differs_is_shown_whole(kanidm: Kanidm) -> None:
    """Of policies, claims, scopes and keys each inner key that differs is a line of its own, and nothing is cut."""
    shown = await lines(kanidm, state(POLICY))
    assert "policy.search_max_results: 1000" in shown
    assert 'policy.credential_minimum: "mfa"' in shown
    assert 'scopes.staff: ["email", "openid"]' in shown
    everything = '"author", "editor", "guest", "maintainer", "moderator", "reader", "translator"'
    assert f"claims.role.values.staff: [{everything}]" in shown
    await make(kanidm, state(POLICY))
    text = POLICY.replace("1000", "5000").replace('"csv"', '"ssv"').replace('"guest"', '"owner"').replace(', "email"', "")
    text = text.replace("wiki.example.com/", "wiki.example.com/" + "x" * 200)
    assert await lines(kanidm, state(text)) == [
        "policy.search_max_results: 1000 → 5000",
        f'landing: "https://wiki.example.com/" → "https://wiki.example.com/{"x" * 200}"',
        "scopes.staff: -email",
        'claims.role.join: "csv" → "ssv"',
        "claims.role.values.staff: +owner -guest",
    ]
    text = "[groups.staff]\n[clients.wiki]\nlanding = 'https://wiki.example.com/'"
    shown = await lines(kanidm, state(text))
    assert "policy.session_expiry: 28800 → none" in shown
    assert "scopes.staff: -email -openid" in shown
