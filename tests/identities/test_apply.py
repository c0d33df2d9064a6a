"""Applying state files: everything in them arrives, nothing is done twice, nothing foreign is touched."""

from __future__ import annotations

import pytest

from kiwi_id.errors import ConfigError
from kiwi_id.identities import export
from kiwi_id.identities.apply import TooManyRemovals, apply
from kiwi_id.identities.diff import diff
from kiwi_id.identities.model import MARK_GROUP
from kiwi_id.identities.observe import observe
from kiwi_id.kanidm.admin import recover_account
from kiwi_id.kanidm.entries import list_entries, modify, replace
from kiwi_id.kanidm.pin import client_context
from kiwi_id.kanidm.rest import Kanidm
from tests.devserver.servers import Server

from .world import EVERYTHING, KEYS, Crash, actions, difference, make, signed_in, state


async def test_everything_arrives(kanidm: Kanidm) -> None:
    """Each key of the file is in Kanidm afterwards, and a second plan is empty: normal forms are Kanidm's."""
    wanted = state(EVERYTHING)
    assert not [done.refused for done in await make(kanidm, wanted) if done.refused]
    assert (await difference(kanidm, wanted)).steps == ()
    alice, staff = await kanidm.get("person", "alice"), await kanidm.get("group", "staff")
    wiki, phone = await kanidm.get("oauth2", "wiki"), await kanidm.get("oauth2", "phone")
    assert alice is not None
    assert alice["mail"] == ["alice@example.com", "b@example.com", "z@example.com"]
    assert alice["gidnumber"] == ["70100"]
    assert alice["account_expire"] == ["2030-01-01T00:00:00Z"]
    assert [line.strip() for line in alice["ssh_publickey"]] == [f"laptop: {KEYS[0]}", f"old one: {KEYS[1]}"]
    assert staff is not None
    assert {name.partition("@")[0] for name in staff["member"]} == {"alice", "bob", "inner", "backup", "wiki"}
    assert staff["authsession_expiry"] == ["28800"]
    assert staff["entry_managed_by"] == ["inner@id.example.com"]
    assert wiki is not None
    assert sorted(wiki["oauth2_rs_origin"]) == ["https://wiki.example.com/callback", "https://wiki.example.com/second?x=1"]
    assert wiki["oauth2_allow_insecure_client_disable_pkce"] == ["true"]
    assert set(wiki["oauth2_rs_scope_map"]) == {
        'staff@id.example.com: {"email", "openid"}',
        'idm_all_persons@id.example.com: {"openid"}',
    }
    assert phone is not None
    assert "oauth2_resource_server_public" in phone["class"]
    everyone = await kanidm.get("group", "idm_all_persons")
    assert everyone is not None
    assert everyone["credential_type_minimum"] == ["passkey"]


async def test_changes_one_by_one(kanidm: Kanidm) -> None:
    """Every field can change to another value and away again; each plan names exactly that."""
    await make(kanidm, state(EVERYTHING))
    for before, after in (
        ('legal_name = "Alice E."', ""),
        ("Alice Example", "Alice Other"),
        ('"alice@example.com", "z@example.com"', '"z@example.com", "alice@example.com"'),
        (KEYS[1], KEYS[0]),
        ('members = ["bob", "inner", "backup", "wiki"]', 'members = ["inner"]'),
        ('mail = ["staff@example.com"]', ""),
        (', session_expiry = "8h"', ""),
        ("posix = { gid = 70200 }", ""),
        ("/callback", "/elsewhere"),
        ('staff = ["openid", "email"], ', ""),
        ('{ inner = ["extra"] }', '{ inner = ["extra", "more"] }'),
        ('join = "csv"', 'join = "array"'),
        (', inner = ["admin"]', ""),
        ("pkce = false", "pkce = true"),
        ('https://wiki.example.com"', 'https://wiki.example.com/start"'),
        ("localhost_redirect = true", ""),
        ("short_username = true", ""),
    ):
        assert before in EVERYTHING
        for text in (EVERYTHING.replace(before, after), EVERYTHING):
            wanted = state(text)
            assert len((await difference(kanidm, wanted)).steps) in (1, 2), before
            assert not [done.refused for done in await make(kanidm, wanted) if done.refused], before
            assert (await difference(kanidm, wanted)).steps == (), before


async def test_who_manages_a_group(kanidm: Kanidm) -> None:
    """The manager of a group is set when it is made, in any order and in a circle; a later change is made or told (1.5)."""
    names = [f"g{number:02}" for number in range(60)]
    text = "\n".join(
        f"[groups.{name}]\nmanaged_by = '{manager}'" for name, manager in zip(names, [*names[1:], names[0]], strict=True)
    )
    assert not [done.refused for done in await make(kanidm, state(text)) if done.refused]
    assert (await difference(kanidm, state(text))).steps == ()
    changed = state(text.replace("'g01'", "'idm_admins'"))
    refused = [words for done in await make(kanidm, changed) for words in done.refused]
    left = (await difference(kanidm, changed)).steps
    assert [step.name for step in left] == (["g00"] if refused else [])
    assert all("Kanidm 1.5 lets idm_access_control_admins alone" in words for words in refused)


async def test_what_is_not_ours_is_left_alone(kanidm: Kanidm) -> None:
    """An entry made by hand is neither changed nor removed until its adoption is asked for; then it is kept, and can go."""
    await kanidm.create_person("hand", "Made by hand")
    await kanidm.create_group("byhand")
    await kanidm.create_client("byclient", "By hand", "https://hand.example.com/")
    text = '[persons.hand]\ndisplay_name = "Ours"\n[groups.byhand]\nmembers = ["hand"]\n[clients.byclient]\nlanding = "https://x.example.com/"'
    plan = await difference(kanidm, state(text), prune=True)
    assert plan.steps == ()
    assert set(plan.foreign) == {"hand", "byhand", "byclient"}
    everyone = frozenset({"hand", "byhand", "byclient"})
    plan = await difference(kanidm, state(text), adopt=everyone)
    assert [step.name for step in plan.steps if step.action == "adopt"] == ["hand", "byhand", "byclient"]
    await make(kanidm, state(text), adopt=everyone)
    person = await kanidm.get("person", "hand")
    assert person is not None
    assert person["displayname"] == ["Ours"]
    # Whoever is adopted notices nothing: the note is not a membership, which would show in tokens.
    assert not [name for name in person["memberof"] if name.startswith(MARK_GROUP)]
    plan = await difference(kanidm, state(text))
    assert (plan.steps, plan.foreign) == ((), {})
    assert await make(kanidm, state(""), prune=True)
    assert [await kanidm.get(kind, name) for kind, name in (("person", "hand"), ("group", "byhand"), ("oauth2", "byclient"))] == [
        None,
        None,
        None,
    ]


async def test_how_uris_are_spelt(kanidm: Kanidm) -> None:
    """URIs in every spelling that a file may have are stored so that a second plan is empty."""
    uris = ["HTTPS://A.example:443", "https://a.example:8443/x%2Fy?q=%7B1%7D&z", "http://[::1]:80/cb", "http://127.0.0.1:3000/cb"]
    uris += [
        "App.Example:/cb",
        "app.example://Host/cb",
        "urn:x:y",
        "https://a.example/~u/(b);v=1,2:3@4!$&*+",
        "https://a.example//x/",
    ]
    text = f"[clients.c]\nlanding = 'https://a.example/a.b/..c/'\nredirect_uris = {uris}"
    wanted = state(text)
    assert not [done.refused for done in await make(kanidm, wanted) if done.refused]
    assert (await difference(kanidm, wanted)).steps == ()


async def test_what_left_the_file(kanidm: Kanidm) -> None:
    """Entries of ours that left the file stay, and the plan says so; with prune they go, and all that is not ours stays."""
    await make(kanidm, state(EVERYTHING))
    await kanidm.create_person("hand", "Made by hand")
    rest = "[persons.bob]\nmail = ['bob@example.com']"
    plan = await difference(kanidm, state(rest))
    assert plan.steps == ()
    assert {name for _, name in plan.left} == {"alice", "staff", "inner", "backup", "wiki", "phone"}
    assert not [done.refused for done in await make(kanidm, state("prune = true\n" + rest)) if done.refused]
    assert {entry["name"][0] for entry in await list_entries(kanidm, "person")} == {"bob", "hand"}
    assert await list_entries(kanidm, "oauth2") == []
    assert (await difference(kanidm, state(rest), prune=True)).steps == ()


async def test_many_removals_need_a_word(kanidm: Kanidm) -> None:
    """A file that lost most of its entries removes nothing without another word: a missing file looks the same."""
    await make(kanidm, state("\n".join(f"[persons.p{number}]" for number in range(12))))
    found = await observe(kanidm)
    plan = diff(state(""), found, prune=True)
    with pytest.raises(TooManyRemovals, match="12 entries would be removed, more than 10"):
        await apply(kanidm, plan, found)
    assert len(await list_entries(kanidm, "person")) == 12


async def test_one_mistake_keeps_back_itself_only(kanidm: Kanidm) -> None:
    """An address that somebody else has is refused for that person; all others of the batch are made."""
    await kanidm.create_person("hand", "Made by hand", mail=["taken@example.com"])
    text = "[persons.p1]\n[persons.p2]\nmail = ['taken@example.com']\n[persons.p3]\n[groups.g]\nmembers = ['p1', 'p2', 'p3']"
    done = await make(kanidm, state(text))
    assert {one.step.name for one in done if one.refused} == {"p2", "g"}
    [words] = next(one.refused for one in done if one.step.name == "p2")
    assert "has that name, mail address or gid already" in words
    assert {entry["name"][0] for entry in await list_entries(kanidm, "person")} == {"hand", "p1", "p3"}


async def test_addresses_and_names_change_hands(kanidm: Kanidm) -> None:
    """Two people exchange addresses, and a group takes a removed person's name: an order that works is found."""
    await make(kanidm, state("[persons.a]\nmail=['1@x.de']\n[persons.b]\nmail=['2@x.de','3@x.de']\n[persons.c]"))
    wanted = state("prune=true\n[persons.a]\nmail=['2@x.de']\n[persons.b]\nmail=['1@x.de','3@x.de']\n[groups.c]\nmembers=['a']")
    assert not [done.refused for done in await make(kanidm, wanted) if done.refused]
    assert (await difference(kanidm, wanted)).steps == ()


async def test_a_name_that_is_given_anew(kanidm: Kanidm) -> None:
    """A person is removed and a group gets the name: what mentioned the person mentions the group now, if the file says so."""
    rest = "[persons.b]\n[groups.all]\nmembers=['x', 'b', 'y']\n[groups.some]\nmembers=['x']\n[groups.z]\n"
    client = "[clients.c]\nlanding='https://c.example.com/'\nscopes={%s=['openid']}\nclaims={r={join='csv',values={%s=['v']}}}\n"
    await make(kanidm, state(rest + "[persons.x]\n[groups.y]\n" + client % ("y", "y")))
    for text in (
        rest.replace("members=['x']", "members=[]") + "[groups.x]\n[persons.y]\n" + client % ("x", "z"),
        rest.replace("'x', 'b', 'y'", "'b'").replace("members=['x']", "members=[]") + client % ("z", "z"),
    ):
        wanted = state("prune = true\n" + text)
        assert not [done.refused for done in await make(kanidm, wanted) if done.refused]
        assert (await difference(kanidm, wanted)).steps == ()
    everyone = await kanidm.get("group", "all")
    assert everyone is not None
    assert everyone["member"] == ["b@id.example.com"]


async def test_a_renamed_person_is_known(kanidm: Kanidm) -> None:
    """A person who changed their name (Kanidm lets them) is neither made a second time nor removed: they get the name back."""
    wanted = state("prune = true\n[persons.alice]\n[groups.staff]\nmembers = ['alice']")
    await make(kanidm, wanted)
    alice = await kanidm.get("person", "alice")
    assert alice is not None
    [uuid] = alice["uuid"]
    await modify(kanidm, uuid, replace("name", ["queen"]))
    assert actions(await difference(kanidm, wanted)) == [("rename", "alice")]
    await make(kanidm, wanted)
    again = await kanidm.get("person", "alice")
    assert again is not None
    assert again["uuid"] == [uuid]
    assert (await difference(kanidm, wanted)).steps == ()


async def test_posix_attributes_that_kanidm_does_not_take(kanidm: Kanidm, server: Server) -> None:
    """What Kanidm would refuse is no step that fails for ever: it is told with what can be done, and all else is done."""
    await make(kanidm, state("[persons.alice]\nposix = { gid = 70100 }"))
    wanted = state("[persons.alice]\nlegal_name = 'Alice'")
    done = await make(kanidm, wanted)
    assert [(one.step.action, one.refused) for one in done] == [("change", ())]
    plan = await difference(kanidm, wanted)
    assert plan.steps == ()
    [held] = plan.held
    assert (held.name, held.field) == ("alice", "posix")
    assert "remove the person" in held.reason
    # The administrator's session may from 1.10 on, and what it may is offered to it.
    async with Kanidm(server.url, client_context(server.directory / "chain.pem")) as administrator:
        await administrator.login("idm_admin", await recover_account(server.socket, "idm_admin"))
        assert not [one.refused for one in await make(administrator, wanted) if one.refused]
        plan = await difference(administrator, wanted)
        assert plan.steps == ()
        entry = await administrator.get("person", "alice")
        assert entry is not None
        assert bool(plan.held) == ("gidnumber" in entry)


async def test_references_to_nothing(kanidm: Kanidm) -> None:
    """A name that neither the file nor Kanidm has is told with its place, before anything is done."""
    text = "[groups.g]\nmembers = ['nobody', 'admin']\n"
    text += "[clients.c]\nlanding = 'https://c.example.com/'\nscopes = { admin = ['openid'] }"
    with pytest.raises(ConfigError) as error:
        await make(kanidm, state(text))
    first, second = error.value.problems
    assert (first.where, first.key, first.found) == ("/etc/kiwi/identities.toml:2", "groups.g.members", "'nobody'")
    assert (second.where, second.key) == ("/etc/kiwi/identities.toml:5", "clients.c.scopes")
    assert second.found == "'admin', which is no group"
    assert await kanidm.get("group", "g") is None


async def test_a_claim_whose_groups_went(kanidm: Kanidm) -> None:
    """A claim that lost its last group when that was removed is joined as the file says when it comes back with another."""
    text = "prune=true\n[groups.%s]\n[clients.c]\nlanding='https://c.example.com/'\nclaims={r={join='%s',values={%s=['v']}}}"
    for group, join in (("a", "ssv"), ("b", "array"), ("d", "csv")):
        wanted = state(text % (group, join, group))
        assert not [done.refused for done in await make(kanidm, wanted) if done.refused]
        assert (await difference(kanidm, wanted)).steps == ()


async def test_a_client_keeps_its_type(kanidm: Kanidm) -> None:
    """Kanidm cannot make a basic client public; the words say what can be done."""
    await make(kanidm, state("[clients.c]\nlanding = 'https://c.example.com/'"))
    with pytest.raises(ConfigError, match=r"clients\.c\.type: found .public., and Kanidm has a basic one.*client remove"):
        await make(kanidm, state("[clients.c]\nlanding = 'https://c.example.com/'\ntype = 'public'"))


async def test_kanidms_own_groups(kanidm: Kanidm) -> None:
    """Of a group of Kanidm's own only what the file says is changed: its own members and policy stay."""
    wanted = state("[persons.alice]\ngroups = ['idm_people_self_name_write']\n[groups.idm_people_self_name_write]\nadopt = true\n")
    assert actions(await difference(kanidm, wanted)) == [("create", "alice"), ("change", "idm_people_self_name_write")]
    await make(kanidm, wanted)
    group = await kanidm.get("group", "idm_people_self_name_write")
    assert group is not None
    assert {name.partition("@")[0] for name in group["member"]} == {"idm_all_persons", "alice"}
    with pytest.raises(ConfigError, match="own groups with more than that"):
        await make(kanidm, state("[groups.idm_people_self_name_write]\nadopt = true\ndescription = 'mine'"))


async def test_a_damaged_list_of_what_was_adopted(kanidm: Kanidm) -> None:
    """When somebody has edited the list, nothing is guessed from it: it is told, and nothing is done."""
    await kanidm.create_person("hand", "Made by hand")
    await make(kanidm, state("[persons.hand]"), adopt=frozenset({"hand"}))
    group = await kanidm.get("group", MARK_GROUP)
    assert group is not None
    await modify(kanidm, group["uuid"][0], replace("description", ["my notes"]))
    with pytest.raises(ConfigError, match="Somebody has edited it"):
        await difference(kanidm, state("[persons.hand]"))


async def test_export_and_back(server: Server, kanidm: Kanidm) -> None:
    """Export, apply to an instance without anything, export: the same file."""
    await make(kanidm, state(EVERYTHING))
    await kanidm.create_person("hand", "Made by hand", mail=["hand@example.com"])
    first = export.text(export.of_instance(await observe(kanidm)), header="a word")
    assert "[persons.hand]" in first
    assert "\n[groups.idm_all_persons]\nadopt = true\n" in first
    assert MARK_GROUP not in first
    # The same instance, emptied; the recycle bin is no obstacle.
    await make(kanidm, state(""), prune=True)
    await kanidm.call("DELETE", "/v1/person/hand")
    assert await list_entries(kanidm, "person") == []
    done = await make(kanidm, state(first))
    assert not [one.refused for one in done if one.refused]
    assert export.text(export.of_instance(await observe(kanidm)), header="a word") == first
    assert (await difference(kanidm, state(first))).steps == ()


# What httpx has in flight when a task is cancelled is left to the garbage collector.
@pytest.mark.filterwarnings("ignore:Exception ignored in. <async_generator:pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("after", [False, True])
async def test_a_crash_at_any_call(server: Server, after: bool) -> None:
    """Whatever call the process ends at, before or after Kanidm has it: the next apply goes on, and nothing foreign is left."""
    wanted = state(EVERYTHING)
    async with signed_in(server) as kanidm:
        crashes = 0
        while True:
            # Some calls are in flight at once, and end with the process, too: so each run may come further than the one before.
            kanidm.at, kanidm.after, kanidm.writes = crashes + 1, after, 0
            try:
                await make(kanidm, wanted)
            except Crash:
                crashes += 1
                kanidm.at = None
                assert not (await difference(kanidm, wanted)).foreign
            else:
                break
        assert crashes > 3
        assert (await difference(kanidm, wanted)).steps == ()
