"""What our account may do in a real Kanidm: all that the commands need, less without any of its groups, and no more."""

from __future__ import annotations

import pytest
import trio

from kiwi_id.bootstrap import ACCOUNT, ADMINISTRATOR, GROUPS, open_kanidm
from kiwi_id.kanidm.rest import Kanidm, KanidmRefused
from tests.bootstrap.world import World

# For each of the groups something that cannot be done without it.
NEEDS = {
    "idm_people_admins": ("POST", "/v1/person", {"attrs": {"name": ["NAME"], "displayname": ["x"], "mail": ["NAME@example.com"]}}),
    "idm_group_admins": ("POST", "/v1/group", {"attrs": {"name": ["NAME"]}}),
    "idm_oauth2_admins": (
        "POST",
        "/v1/oauth2/_basic",
        {"attrs": {"name": ["NAME"], "displayname": ["x"], "oauth2_rs_origin_landing": ["https://x.example.com/"]}},
    ),
    "idm_service_account_admins": (
        "POST",
        "/v1/service_account",
        {"attrs": {"name": ["NAME"], "displayname": ["x"], "entry_managed_by": [ACCOUNT]}},
    ),
    "idm_account_policy_admins": ("PUT", "/v1/group/idm_all_persons/_attr/credential_type_minimum", ["any"]),
    "idm_unix_admins": ("POST", "/v1/person/dora/_unix", {"gidnumber": None, "shell": "/bin/sh"}),
}
# What would make it an administrator of everything, or somebody else.
FORBIDDEN = (
    ("POST", "/v1/group/idm_admins/_attr/member", [ACCOUNT]),
    ("POST", "/v1/group/system_admins/_attr/member", [ACCOUNT]),
    ("POST", "/v1/group/idm_access_control_admins/_attr/member", [ACCOUNT]),
    ("GET", f"/v1/service_account/{ADMINISTRATOR}/_credential/_generate", None),
    ("GET", "/v1/service_account/admin/_credential/_generate", None),
    ("POST", f"/v1/service_account/{ACCOUNT}/_api_token", {"label": "more", "expiry": None, "read_write": True}),
    ("PUT", "/v1/domain/_attr/domain_display_name", ["Mine"]),
)


# What comes along with idm_account_policy_admins: settings of the whole system, which docs/administration.md names.
SYSTEM = (
    ("POST", "/v1/system/_attr/badlist_password", ["harbour-cinnamon-glacier-41"]),
    ("DELETE", "/v1/system/_attr/badlist_password", ["harbour-cinnamon-glacier-41"]),
    ("PUT", "/v1/group/idm_all_accounts/_attr/credential_type_minimum", ["any"]),
)


async def refused(kanidm: Kanidm, method: str, path: str, body: object, name: str) -> int | None:
    """Make a call for an entry ``name``; return the status of its refusal, None when it was done."""
    filled = body
    if isinstance(body, dict) and "attrs" in body:
        filled = {"attrs": {key: [value.replace("NAME", name) for value in values] for key, values in body["attrs"].items()}}
    try:
        await kanidm.call(method, path, filled)
    except KanidmRefused as refusal:
        return refusal.status
    return None


def test_each_group_is_needed(real: World) -> None:
    """With all groups everything is done; without any one of them something of NEEDS is refused, and only that which needs it."""
    assert NEEDS.keys() == set(GROUPS)
    password = real.recover()

    async def work() -> None:
        async with real.client() as administrator, open_kanidm(real.config, real.server) as ours:
            await administrator.login(ADMINISTRATOR, password)
            await ours.create_person("dora", "Dora")
            for number, missing in enumerate(("", *GROUPS)):
                if missing:
                    await administrator.call("DELETE", f"/v1/group/{missing}/_attr/member", [ACCOUNT])
                statuses = {
                    group: await refused(ours, *need, name=f"entry{number}{at}") for at, (group, need) in enumerate(NEEDS.items())
                }
                lacking = {group for group, status in statuses.items() if status is not None}
                if missing == "idm_people_admins":  # who may not see a person cannot give them a shell either
                    lacking -= {"idm_unix_admins"}
                if missing == "idm_group_admins":
                    lacking -= {"idm_account_policy_admins"}
                assert lacking == ({missing} if missing else set()), statuses
                if missing:
                    await administrator.add_members(missing, ACCOUNT)

    trio.run(work)


@pytest.mark.parametrize("call", FORBIDDEN, ids=lambda call: call[1])
def test_what_it_may_not_do(real: World, call: tuple[str, str, object]) -> None:
    """It makes no administrators, takes no administrator's account over, and makes no second token for itself."""

    async def work() -> int | None:
        async with open_kanidm(real.config, real.server) as ours:
            return await refused(ours, *call, name="")

    assert trio.run(work) in (403, 404)


def test_what_it_may_do_to_administrators(real: World) -> None:
    """docs/administration.md warns of it: a person who is an administrator can be given new credentials, as any other person."""
    password = real.recover()

    async def work() -> None:
        async with real.client() as administrator, open_kanidm(real.config, real.server) as ours:
            await administrator.login(ADMINISTRATOR, password)
            await ours.create_person("dora", "Dora")
            await ours.allow_password_only()
            await administrator.add_members("idm_admins", "dora")
            await ours.set_password("dora", "harbour-cinnamon-glacier-41")

    trio.run(work)
    assert real.accepts("dora", "harbour-cinnamon-glacier-41")


def test_what_it_may_do_to_the_system(real: World) -> None:
    """docs/administration.md warns of it: words that no password may be, and policies of Kanidm's own groups."""
    password = real.recover()

    async def work() -> None:
        async with real.client() as administrator, open_kanidm(real.config, real.server) as ours:
            assert [await refused(ours, *call, name="") for call in SYSTEM] == [None] * len(SYSTEM)
            await administrator.login(ADMINISTRATOR, password)
            await administrator.call("DELETE", "/v1/group/idm_account_policy_admins/_attr/member", [ACCOUNT])
            statuses = {await refused(ours, *call, name="") for call in SYSTEM}
            assert statuses <= {403, 404}, statuses

    trio.run(work)


def test_a_missing_group_is_told_and_not_put_back(real: World) -> None:
    """Who has narrowed our account's rights has done so on purpose: bootstrap says what is missing, and changes nothing."""
    password = real.recover()

    async def narrow() -> None:
        async with real.client() as administrator:
            await administrator.login(ADMINISTRATOR, password)
            await administrator.call("DELETE", "/v1/group/idm_unix_admins/_attr/member", [ACCOUNT])

    trio.run(narrow)
    assert "It is not in idm_unix_admins" in real.ok("bootstrap")
    assert real.json("bootstrap")["missing"] == ["idm_unix_admins"]
    assert real.run("bootstrap", "--ask-password", given=f"{password}\n").returncode == 0
    assert real.json("bootstrap")["missing"] == []
