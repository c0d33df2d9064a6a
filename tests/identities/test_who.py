"""Who is who: a name in Kanidm is nobody's proof, since Kanidm lets every person choose a new one for herself."""

from __future__ import annotations

import pytest

from kiwi_id.identities.diff import Difference
from kiwi_id.identities.model import MARK_GROUP
from kiwi_id.kanidm.entries import modify, replace
from kiwi_id.kanidm.rest import Kanidm

from .world import Crash, Crashing, actions, difference, make, state

EVERY_KIND = """
[persons.a]
[persons.b]
[groups.c]
[groups.d]
[service_accounts.e]
[service_accounts.f]
[clients.g]
landing = "https://g.example.com/"
[clients.h]
landing = "https://h.example.com/"
"""
KINDS = {"a": "person", "b": "person", "c": "group", "d": "group", "e": "service_account", "f": "service_account"}
KINDS |= {"g": "oauth2", "h": "oauth2"}


async def uuid_of(kanidm: Kanidm, kind: str, name: str) -> str:
    """Return the UUID of an entry that is there."""
    entry = await kanidm.get(kind, name)
    assert entry is not None, name
    return entry["uuid"][0]


async def rename(kanidm: Kanidm, uuid: str, name: str) -> None:
    """Give an entry another name, as somebody does in Kanidm."""
    await modify(kanidm, uuid, replace("name", [name]))


async def members(kanidm: Kanidm, group: str) -> set[str]:
    """Return the names of a group's members."""
    entry = await kanidm.get("group", group)
    assert entry is not None
    return {name.partition("@")[0] for name in entry.get("member", ())}


async def applied(kanidm: Kanidm, text: str) -> Difference:
    """Apply; return what is left to do, and what is told."""
    assert not [one.refused for one in await make(kanidm, state(text)) if one.refused]
    return await difference(kanidm, state(text))


async def test_nobody_becomes_the_next_new_hire(kanidm: Kanidm) -> None:
    """Who takes the name of somebody to come gets her own back; the new person is another, and alone is in the group."""
    await make(kanidm, state("[persons.mallory]"))
    mallory = await uuid_of(kanidm, "person", "mallory")
    await rename(kanidm, mallory, "newhire")
    text = "[persons.mallory]\n[persons.newhire]\n[groups.finance]\nmembers = ['newhire']"
    plan = await difference(kanidm, state(text))
    assert actions(plan) == [("rename", "mallory"), ("create", "newhire"), ("create", "finance")]
    left = await applied(kanidm, text)
    assert (left.steps, left.foreign) == ((), {})
    assert await uuid_of(kanidm, "person", "mallory") == mallory
    finance = await kanidm.get("group", "finance")
    assert finance is not None
    assert finance["member"] == ["newhire@id.example.com"]
    assert await uuid_of(kanidm, "person", "newhire") != mallory


async def test_nor_does_who_left_the_file(kanidm: Kanidm) -> None:
    """Who left the file and takes a name of it is told, gets nothing and is not removed; --adopt NAME, of a person, takes her."""
    await make(kanidm, state("[persons.mallory]"))
    mallory = await uuid_of(kanidm, "person", "mallory")
    await rename(kanidm, mallory, "newhire")
    text = "prune = true\n[persons.newhire]\nadopt = true\n[groups.finance]\nmembers = ['newhire']"
    left = await applied(kanidm, text)
    assert "it was made under another name" in left.foreign["newhire"].reason
    assert await members(kanidm, "finance") == set()
    await make(kanidm, state(text), adopt_named=frozenset({"newhire"}))  # a marriage, say
    left = await difference(kanidm, state(text))
    assert (left.steps, left.foreign) == ((), {})
    assert await uuid_of(kanidm, "person", "newhire") == mallory
    assert await members(kanidm, "finance") == {"newhire"}


@pytest.mark.parametrize("adopted", [False, True])
async def test_names_that_were_swapped(kanidm: Kanidm, adopted: bool) -> None:
    """Two of each kind that have exchanged their names get them back, made by an apply or adopted."""
    if adopted:
        for name, kind in KINDS.items():
            match kind:
                case "person":
                    await kanidm.create_person(name, name)
                case "group":
                    await kanidm.create_group(name)
                case "oauth2":
                    await kanidm.create_client(name, name, f"https://{name}.example.com/")
                case _:
                    attrs = {"name": [name], "displayname": [name], "entry_managed_by": ["idm_admins"]}
                    await kanidm.call("POST", "/v1/service_account", {"attrs": attrs})
    await make(kanidm, state(EVERY_KIND), adopt=frozenset(KINDS) if adopted else frozenset())
    before = {name: await uuid_of(kanidm, kind, name) for name, kind in KINDS.items()}
    for one, other in ("ab", "cd", "ef", "gh"):
        await rename(kanidm, before[one], "between")
        await rename(kanidm, before[other], one)
        await rename(kanidm, before[one], other)
    plan = await difference(kanidm, state(EVERY_KIND))
    assert {(step.action, step.current, step.name) for step in plan.steps} == {
        ("rename", one, other) for one, other in ("ab", "ba", "cd", "dc", "ef", "fe", "gh", "hg")
    }
    left = await applied(kanidm, EVERY_KIND)
    assert (left.steps, left.foreign) == ((), {})
    assert {name: await uuid_of(kanidm, kind, name) for name, kind in KINDS.items()} == before


# What httpx has in flight when a task is cancelled is left to the garbage collector.
@pytest.mark.filterwarnings("ignore:Exception ignored in. <async_generator:pytest.PytestUnraisableExceptionWarning")
async def test_a_chain_a_circle_and_a_crash(kanidm: Crashing) -> None:
    """Names that have moved on along a chain, and in a circle, come back, also when the process ends at any call of it."""
    text = "\n".join(f"[persons.{name}]" for name in ("p1", "p2", "p3", "q1", "q2", "q3"))
    await make(kanidm, state(text))
    before = {name: await uuid_of(kanidm, "person", name) for name in ("p1", "p2", "p3", "q1", "q2", "q3")}
    for at in range(1, 20):
        for old, new in (("p3", "p4"), ("p2", "p3"), ("p1", "p2"), ("q3", "x"), ("q2", "q3"), ("q1", "q2"), ("q3", "q1")):
            await rename(kanidm, before[old], "x" if (old, new) == ("q3", "q1") else new)
        await rename(kanidm, before["q3"], "q1")
        kanidm.at, kanidm.after, kanidm.writes = at, bool(at % 2), 0
        try:
            await make(kanidm, state(text))
        except Crash:
            kanidm.at = None
            await make(kanidm, state(text))
        else:
            break
        finally:
            kanidm.at = None
        assert (await difference(kanidm, state(text))).steps == ()
        assert {name: await uuid_of(kanidm, "person", name) for name in before} == before
    assert at > 6


async def test_a_name_that_a_stranger_has_taken(kanidm: Kanidm) -> None:
    """When somebody by hand has the name of one of ours who was renamed, neither is touched or removed, and both are told."""
    await make(kanidm, state("[persons.alice]\n[groups.staff]\nmembers = ['alice']"))
    alice = await uuid_of(kanidm, "person", "alice")
    await rename(kanidm, alice, "queen")
    await kanidm.create_person("alice", "Somebody else")
    text = "prune = true\n[persons.alice]\nadopt = true\n[groups.staff]\nmembers = ['alice']"
    left = await applied(kanidm, text)
    assert left.steps == ()
    assert "called queen now" in left.foreign["alice"].reason
    assert await uuid_of(kanidm, "person", "queen") == alice
    assert await members(kanidm, "staff") == {"queen"}


async def test_what_is_left_alone_gets_nothing(kanidm: Kanidm) -> None:
    """Who only has a name of the file gets no membership, no scopes, claims or management by it; each is told."""
    await make(kanidm, state("[persons.known]"))
    await kanidm.create_person("hand", "Made by hand")
    await kanidm.create_group("byhand")
    text = """
[persons.known]
[persons.hand]
groups = ["staff"]
[groups.byhand]
[groups.staff]
members = ["known", "byhand"]
managed_by = "byhand"
[service_accounts.backup]
managed_by = "byhand"
[clients.wiki]
landing = "https://wiki.example.com/"
scopes = { byhand = ["openid"], staff = ["openid"] }
supplementary_scopes = { byhand = ["admin"] }
claims = { role = { values = { byhand = ["admin"], staff = ["user"] } }, rank = { values = { byhand = ["top"] } } }
"""
    left = await applied(kanidm, text)
    assert left.steps == ()
    assert set(left.foreign) == {"hand", "byhand"}
    assert {(one.name, one.field, one.reason.split()[4].rstrip(",")) for one in left.held} == {
        ("staff", "members", "hand"),
        ("staff", "members", "byhand"),
        ("staff", "managed_by", "byhand"),
        ("backup", "managed_by", "byhand"),
        ("wiki", "scopes", "byhand"),
        ("wiki", "supplementary_scopes", "byhand"),
        ("wiki", "claims.role", "byhand"),
        ("wiki", "claims.rank", "byhand"),
    }
    assert await members(kanidm, "staff") == {"known"}
    for kind, name in (("group", "staff"), ("oauth2", "wiki"), ("service_account", "backup")):
        assert "byhand" not in str(await kanidm.get(kind, name))
    await make(kanidm, state(text), adopt=frozenset({"hand", "byhand"}))
    left = await difference(kanidm, state(text))
    assert (left.foreign, left.held) == ({}, ())
    assert await members(kanidm, "staff") == {"known", "hand", "byhand"}
    assert MARK_GROUP not in await members(kanidm, "staff")


async def test_a_client_of_another_type_that_is_not_ours(kanidm: Kanidm) -> None:
    """A client by hand of a name of the file is left alone whatever its type, and the rest of the file is done."""
    await kanidm.create_client("app", "By hand", "https://app.example.com/")
    left = await applied(kanidm, "[persons.alice]\n[clients.app]\ntype = 'public'\nlanding = 'https://app.example.com/'")
    assert (left.steps, set(left.foreign)) == ((), {"app"})


async def test_what_was_given_to_it_before_stays(kanidm: Kanidm) -> None:
    """A membership that a hand has given to an entry of a hand is neither taken nor told as to give."""
    await make(kanidm, state("[groups.staff]"))
    await kanidm.create_person("hand", "Made by hand")
    await kanidm.add_members("staff", "hand")
    left = await applied(kanidm, "[persons.hand]\ngroups = ['staff']\n[groups.staff]")
    assert (left.steps, set(left.foreign), left.held) == ((), {"hand"}, ())
    assert await members(kanidm, "staff") == {"hand"}


async def test_a_creation_that_is_refused_gives_nothing_to_a_namesake(kanidm: Crashing) -> None:
    """When somebody takes the name between the reading and the making, what was meant for the new person is given to nobody."""
    await make(kanidm, state("[persons.mallory]\n[groups.staff]"))
    mallory = await uuid_of(kanidm, "person", "mallory")
    text = "[persons.mallory]\n[persons.newhire]\n[groups.staff]\nmembers = ['newhire']"

    async def takes_the_name() -> None:
        await rename(kanidm, mallory, "newhire")

    done = await make(kanidm, state(text), between=takes_the_name)
    assert {one.step.name for one in done if one.refused} == {"newhire", "staff"}
    assert await members(kanidm, "staff") == set()
    left = await applied(kanidm, text)
    assert (left.steps, await members(kanidm, "staff")) == ((), {"newhire"})
    assert await uuid_of(kanidm, "person", "mallory") == mallory
