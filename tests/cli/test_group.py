"""``kiwi-id group``, over the stand-in and the real kanidmd."""

from __future__ import annotations

import pytest

from kiwi_id.errors import Exit
from tests.bootstrap import conftest
from tests.bootstrap.world import World

command, world, ready = conftest.command, conftest.world, conftest.ready  # the fixtures


def test_a_group_and_its_members(ready: World) -> None:
    """Users and groups are put in and taken out, twice without harm, and the answers show who is in."""
    for name in ("dora", "emil"):
        ready.ok("user", "add", name)
    added = ready.json("group", "add", "readers", "--description", "who reads", "--member", "dora")
    assert (added["name"], added["description"], added["members"]) == ("readers", "who reads", ["dora"])
    ready.ok("group", "add", "all")
    for _ in range(2):
        assert ready.json("group", "add-member", "all", "readers", "emil")["members"] == ["emil", "readers"]
    assert ready.json("group", "show", "readers")["groups"] == ["all"]
    for _ in range(2):
        assert ready.json("group", "remove-member", "all", "emil")["members"] == ["readers"]
    assert [group["name"] for group in ready.json("group", "list")] == ["all", "readers"]
    assert ready.ok("group", "list").splitlines()[2].split() == ["readers", "1", "dora", "who", "reads"]
    assert ready.json("group", "remove", "readers", "--yes") == {"name": "readers", "removed": True}
    assert ready.json("group", "show", "all")["members"] == []
    assert ready.json("user", "show", "dora")["groups"] == []


def test_kanidms_own_groups(ready: World) -> None:
    """They are listed when asked for, with our account among the members of those that it needs."""
    own = {group["name"]: group for group in ready.json("group", "list", "--all")}
    assert {"idm_admins", "idm_all_persons", "system_admins"} <= own.keys()
    assert "kiwi_id" in own["idm_people_admins"]["members"]
    assert "kiwi_id" not in own["idm_admins"]["members"]


def test_what_cannot_be(ready: World) -> None:
    """What is missing or taken is named, before anything is changed; exit code 1."""
    ready.ok("user", "add", "dora")
    ready.ok("group", "add", "readers")
    cases = (
        (("group", "add", "readers"), "a group 'readers' already"),
        (("group", "add", "dora"), "a user 'dora' already"),
        (("group", "add", "writers", "--member", "nobody"), "account 'nobody'"),
        (("group", "show", "writers"), "no group 'writers'"),
        (("group", "show", "dora"), "no group 'dora'"),
        (("group", "add-member", "writers", "dora"), "no group 'writers'"),
        (("group", "add-member", "readers", "dora", "nobody"), "account 'nobody'"),
        (("group", "remove-member", "readers", "nobody"), "account 'nobody'"),
        (("group", "remove", "writers", "--yes"), "no group 'writers'"),
    )
    for arguments, words in cases:
        done = ready.run(*arguments)
        assert (done.returncode, done.stdout) == (Exit.FAILURE, ""), arguments
        assert words in done.stderr
    assert ready.json("group", "show", "readers")["members"] == []
    assert ready.run("group", "remove", "readers").returncode == Exit.USAGE


@pytest.mark.kanidm
@pytest.mark.parametrize("command", ["real"], indirect=True)
def test_groups_of_administrators(ready: World) -> None:
    """Our account may not change who is an administrator; the words say who can, and a new user is not left half made."""
    ready.ok("user", "add", "dora")
    for arguments in (
        ("group", "add-member", "idm_admins", "dora"),
        ("group", "remove", "idm_service_desk", "--yes"),
        ("user", "add", "eve", "--group", "idm_service_desk"),
    ):
        done = ready.run(*arguments)
        assert (done.returncode, done.stdout) == (Exit.FAILURE, ""), arguments
        assert "sign in as idm_admin for that" in done.stderr
    assert [user["name"] for user in ready.json("user", "list")] == ["dora"]
