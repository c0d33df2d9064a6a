"""What export writes is a file that Kiwi ID reads, whatever somebody made in Kanidm by hand."""

from __future__ import annotations

import tomllib
from pathlib import Path

from kiwi_id.identities import export
from kiwi_id.identities.load import parse
from kiwi_id.identities.model import Client, Group, Identities, Person, Policy, Posix
from kiwi_id.identities.observe import observe
from kiwi_id.kanidm.entries import Mod, create_many, modify, set_ssh_key
from kiwi_id.kanidm.rest import Entry, Kanidm

from .world import KEYS, actions, difference, make, state

LONG = "x" * 2000


async def test_what_a_hand_made_is_read_back(kanidm: Kanidm) -> None:
    """Odd texts, addresses, limits and labels that Kanidm takes are exported, read again and adopted without a change."""
    person: Entry = {"class": ["account", "object", "person"], "name": ["odd"], "displayname": [f"{LONG}\u2028"]}
    await create_many(kanidm, [person])
    await kanidm.create_group("strict")
    policy: list[Mod] = [{"present": ["class", "account_policy"]}, {"present": ["authsession_expiry", "0"]}]
    await modify(kanidm, "strict", [*policy, {"present": ["limit_search_max_results", "4294967295"]}])
    for label, key in zip(("a: b", "plain"), KEYS, strict=True):
        await set_ssh_key(kanidm, "odd", label, key)
    await kanidm.create_client("app", "App", "https://app.example.com/#/login")
    await kanidm.add_redirect_uris("app", "https://app.example.com/cb?x={y}|z", "https://app.example.com/a|b'c")
    made = export.export(export.of_instance(await observe(kanidm)))
    assert made.left_out == ()
    for sign in ("\\u2028", 'session_expiry = "0s"', "4294967295", '"a: b" = ', "/#/login", "{y}|z", "a|b'c"):
        assert sign in made.text
    wanted, everything = state(made.text), frozenset({"odd", "strict", "app"})
    assert [name for action, name in actions(await difference(kanidm, wanted, adopt=everything)) if action != "adopt"] == []
    # Elsewhere, too: removed and made anew it is the same.
    await make(kanidm, wanted, adopt=everything)
    await make(kanidm, state(""), prune=True)
    assert not [one.refused for one in await make(kanidm, wanted) if one.refused]
    assert export.export(export.of_instance(await observe(kanidm))) == made


async def test_what_cannot_be_read_back_is_a_comment(kanidm: Kanidm) -> None:
    """A redirect URI with a fragment is against RFC 6749 and no part of a state file: left out alone, and told with the reason."""
    await kanidm.create_client("app", "App", "https://app.example.com/")
    await kanidm.add_redirect_uris("app", "https://app.example.com/cb#x", "https://app.example.com/cb")
    made = export.export(export.of_instance(await observe(kanidm)))
    [words] = made.left_out
    assert "clients.app.redirect_uris" in words
    assert '# redirect_uris = ["https://app.example.com/cb#x"]' in made.text
    assert state(made.text).clients["app"].redirect_uris == {"https://app.example.com/cb"}
    assert not [one.refused for one in await make(kanidm, state(made.text), adopt=frozenset({"app"})) if one.refused]


def test_whole_entries_and_parts_of_tables() -> None:
    """A name that no state file has, and an entry that is wrong as a whole, become comments; of a table only what is refused."""
    odd = Identities(
        {
            "1abc": Person("1abc", "x"),
            "fine": Person("fine", "fine", "tab\there", posix=Posix(70000, "zsh")),
        },
        {
            "staff": Group(
                "staff", "two\nlines", frozenset({"1abc", "fine"}), policy=Policy(password_minimum_length=5000, session_expiry=60)
            )
        },
        {},
        {"nolanding": Client("nolanding", "x"), "good": Client("good", "x", landing="https://good.example.com/")},
    )
    made = export.export(odd)
    again = parse([(Path("x.toml"), made.text)])
    assert set(again.persons) == {"fine"}
    assert again.persons["fine"].posix == Posix(70000)
    assert again.groups["staff"] == Group("staff", "", frozenset({"fine"}), policy=Policy(session_expiry=60))
    assert set(again.clients) == {"good"}
    assert len(made.left_out) == 7
    assert "# [clients.nolanding]" in made.text
    assert "# [persons.1abc]" in made.text
    # Each comment is a line of TOML behind its sign.
    for line in made.text.splitlines():
        if line.startswith("# ") and not line.startswith("# Left out"):
            tomllib.loads(line[2:])
