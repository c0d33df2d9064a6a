"""Random state files, applied in random order with crashes and strangers in between: Kanidm ends as the last file says.

As Kiwi ID's own account, with its rights. Left out is what 1.5 sets only when an entry is made, or never with these rights: the
type of a client, who manages a group, taking POSIX attributes from a person (``test_apply`` has those).
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kiwi_id.identities import export
from kiwi_id.identities.apply import apply
from kiwi_id.identities.diff import diff
from kiwi_id.identities.model import KINDS, Claim, Client, Group, Identities, Person, Policy, Posix, ServiceAccount
from kiwi_id.identities.observe import REST_KINDS, Found, observe
from kiwi_id.kanidm.entries import delete, modify, replace
from kiwi_id.kanidm.rest import KanidmRefused
from tests.devserver.servers import STAND_IN, Server

from .world import KEYS, Crash, Crashing, signed_in

# Names that may be a person in one file and a group in the next are among them. What Kanidm (1.5) can set only when an entry is
# made is fixed by the name: the type of a client, the manager of a group, whether a person has POSIX attributes.
PEOPLE = ("ann", "ben", "cat", "either", "other")
GROUPS = ("staff", "admins", "either", "other", "zoo")
CLIENTS = ("wiki", "phone", "shop")
SERVICES = ("backup", "sync")
ADDRESSES = tuple(f"{name}@example.com" for name in "abcdefgh")
NAMES = (*dict.fromkeys((*PEOPLE, *GROUPS, *CLIENTS, *SERVICES)),)
DATES = (datetime(2040, 1, 1, tzinfo=UTC), datetime(2041, 1, 1, 12, 30, tzinfo=UTC))
TEXTS = st.sampled_from(("", "One", "Zwei ü", 'quoted "3"', "back\\slash"))


@st.composite
def files(draw: st.DrawFn) -> Identities:
    """Return a state file of a few entries that refer to each other, each address given once."""
    people = draw(st.lists(st.sampled_from(PEOPLE), unique=True))
    groups = [name for name in draw(st.lists(st.sampled_from(GROUPS), unique=True)) if name not in people]
    clients = draw(st.lists(st.sampled_from(CLIENTS), unique=True))
    services = draw(st.lists(st.sampled_from(SERVICES), unique=True))
    addresses = list(draw(st.permutations(ADDRESSES)))

    def some_mail() -> list[str]:
        return [addresses.pop() for _ in range(draw(st.integers(0, min(3, len(addresses)))))]

    def some(names: Sequence[str]) -> frozenset[str]:
        return draw(st.frozensets(st.sampled_from(names))) if names else frozenset()

    def scopes() -> dict[str, frozenset[str]]:
        return {
            name: draw(st.frozensets(st.sampled_from(("openid", "email", "extra")), min_size=1)) for name in sorted(some(groups))
        }

    def person(name: str) -> Person:
        mail = some_mail()
        keys = {label: draw(st.sampled_from(KEYS)) for label in sorted(some(("laptop", "at home", "desk")))}
        shell = draw(st.sampled_from(("", "/bin/sh", "/bin/zsh")))
        posix = Posix(70000 + PEOPLE.index(name), shell) if name in ("ann", "cat") else None
        expires = draw(st.sampled_from(DATES)) if name == "ben" else None
        return Person(name, draw(TEXTS) or name, draw(TEXTS), (*mail[:1], *sorted(mail[1:])), keys, posix, expires)

    def group(name: str) -> Group:
        policy = Policy(
            draw(st.sampled_from((None, "any", "mfa", "passkey"))),
            draw(st.sampled_from((None, 3600, 7200))),
            draw(st.sampled_from((None, 300))),
            draw(st.sampled_from((None, 16))),
        )
        return Group(
            name,
            draw(TEXTS),
            some([*people, *groups, *services, *clients]),
            "idm_admins" if name in ("staff", "zoo") else "",
            frozenset(some_mail()),
            draw(st.sampled_from((None, Posix(71000 + GROUPS.index(name))))),
            policy if policy != Policy() else None,
        )

    def client(name: str) -> Client:
        public = name == "phone"
        claims = {
            claim: Claim(draw(st.sampled_from(("array", "csv", "ssv"))), values)
            for claim in sorted(some(("role", "level")))
            if (values := {g: draw(st.frozensets(st.sampled_from(("a", "b", "c_1")), min_size=1)) for g in sorted(some(groups))})
        }
        uris = (f"https://{name}.example.com/cb", f"https://{name}.example.com/cb?x=1", f"app.{name}:/cb")
        return Client(
            name,
            draw(TEXTS) or name,
            "public" if public else "basic",
            f"https://{name}.example.com/{draw(st.sampled_from(('', 'start')))}",
            some(uris),
            strict_redirect_uris=draw(st.booleans()),
            localhost_redirect=public and draw(st.booleans()),
            scopes=scopes(),
            supplementary_scopes=scopes(),
            claims=claims,
            pkce=public or draw(st.booleans()),
            short_username=draw(st.booleans()),
            legacy_crypto=draw(st.booleans()),
        )

    managers = ("idm_admins", *groups)
    return Identities(
        {name: person(name) for name in sorted(people)},
        {name: group(name) for name in sorted(groups)},
        {name: ServiceAccount(name, name, draw(st.sampled_from(managers))) for name in sorted(services)},
        {name: client(name) for name in sorted(clients)},
        prune=True,
    )


# What people do in Kanidm by hand: take a name that is free or not, exchange two, make somebody of a name of the file.
HANDS = st.one_of(
    st.tuples(st.just("rename"), st.sampled_from(NAMES), st.sampled_from((*NAMES, "nobody"))),
    st.tuples(st.just("swap"), st.sampled_from(NAMES), st.sampled_from(NAMES)),
    st.tuples(st.just("make"), st.sampled_from(PEOPLE), st.just("")),
)


@dataclass(frozen=True)
class Run:
    """One apply: what happens before it, what it adopts, and the call at which it ends."""

    wanted: Identities
    hands: list[tuple[str, str, str]]
    adopt: frozenset[str]
    crash: int | None
    after: bool


RUNS = st.lists(
    st.builds(
        Run,
        files(),
        st.lists(HANDS, max_size=4),
        st.frozensets(st.sampled_from(PEOPLE), max_size=2),
        st.none() | st.integers(1, 12),
        st.booleans(),
    ),
    min_size=1,
    max_size=4,
)


@pytest.fixture(scope="module", params=["stand-in", pytest.param("real", marks=pytest.mark.kanidm)])
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """A running Kanidm for all examples: what one leaves is what the next begins with."""
    command = STAND_IN if request.param == "stand-in" else [str(request.getfixturevalue("kanidmd"))]
    with tempfile.TemporaryDirectory(prefix="kiwi-") as directory:
        server = Server(Path(directory), command)
        try:
            trio.run(server.start)
            yield server
        finally:
            trio.run(server.stop)


@pytest.mark.filterwarnings("ignore:Exception ignored in. <async_generator:pytest.PytestUnraisableExceptionWarning")
def test_random_files_in_random_order(server: Server, request: pytest.FixtureRequest) -> None:
    """However the last file is reached, Kanidm is what it says: its export is that file, and a further plan is empty."""
    stand_in = "stand-in" in request.node.name

    @settings(max_examples=40 if stand_in else 8, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(RUNS)
    def converge(runs: list[Run]) -> None:
        trio.run(_converge, server, runs)

    converge()


async def _converge(server: Server, runs: list[Run]) -> None:
    async with signed_in(server) as kanidm:
        for run in runs:
            for hand in run.hands:
                with contextlib.suppress(KanidmRefused):
                    await _by_hand(kanidm, *hand)
            before = await observe(kanidm)
            kanidm.at, kanidm.after, kanidm.writes = run.crash, run.after, 0
            with contextlib.suppress(Crash):
                await _apply(kanidm, run.wanted, run.adopt)
            kanidm.at = None
            _nobody_is_another(before, await observe(kanidm), run)
        # Whatever is in the way of the last file goes; nothing of ours is, once it is called as it was made.
        last = runs[-1].wanted
        for name in diff(last, await observe(kanidm)).foreign:
            await _remove(kanidm, name)
        assert await _apply(kanidm, last) == []
        found = await observe(kanidm)
        left = diff(last, found)
        assert (left.steps, left.foreign, left.held) == ((), {}, ())
        strangers = found.identities.persons.keys() - last.persons.keys()
        assert not strangers & found.owned
        for name in strangers:
            await _remove(kanidm, name)
        found = await observe(kanidm)
        assert export.text(_shown(found)) == export.text(_expected(last, found))


async def _by_hand(kanidm: Crashing, what: str, one: str, other: str) -> None:
    uuids = (await observe(kanidm)).uuids
    if what == "make" and one not in uuids:
        await kanidm.create_person(one, "By hand")
    elif what == "rename" and one in uuids:
        await modify(kanidm, uuids[one], replace("name", [other]))
    elif what == "swap" and one != other and {one, other} <= uuids.keys():
        for uuid, name in ((uuids[one], "between"), (uuids[other], one), (uuids[one], other)):
            await modify(kanidm, uuid, replace("name", [name]))


async def _remove(kanidm: Crashing, name: str) -> None:
    found = await observe(kanidm)
    for uuid in [found.uuids[name]] if name in found.uuids else []:
        kind = found.identities.kind_of(name)
        assert kind is not None
        await delete(kanidm, REST_KINDS[kind], name if kind == "client" else uuid)


def _nobody_is_another(before: Found, after: Found, run: Run) -> None:
    """Check that no entry of ours got another name than its own by an apply, and no stranger anything that a name gives."""
    names = {uuid: name for name, uuid in before.uuids.items()}
    strangers = set()
    for kind in KINDS:
        for name in after.identities.of(kind):
            if name in after.builtin:
                continue
            uuid = after.uuids[name]
            was = names.get(uuid)
            if was is not None and was != name and not name.startswith("renaming-"):
                assert after.was(kind, name, name), (was, name)
            if name not in after.owned or not after.was(kind, name, name):
                strangers.add(name)
    for name in after.owned & after.identities.groups.keys():
        old = names.get(after.uuids[name])
        had = {before.uuids.get(member) for member in before.identities.groups[old].members} if old else set()
        given = {after.uuids.get(member) for member in after.identities.groups[name].members & strangers}
        assert given <= had, (name, strangers)


async def _apply(kanidm: Crashing, wanted: Identities, adopt: frozenset[str] = frozenset()) -> list[Any]:
    found = await observe(kanidm)
    return [done.refused for done in await apply(kanidm, diff(wanted, found, adopt=adopt), found, remove_many=True)]


def _shown(found: Found) -> Identities:
    """Return what Kanidm holds, without its own groups."""
    every = found.identities
    groups = {name: group for name, group in every.groups.items() if name not in found.builtin}
    return Identities(every.persons, groups, every.service_accounts, every.clients)


def _expected(wanted: Identities, found: Found) -> Identities:
    """Return what a file says; of service accounts with no name for people where Kanidm (1.10) shows none."""
    shown = found.identities.service_accounts
    services = {
        name: ServiceAccount(name, shown[name].display_name, one.managed_by) for name, one in wanted.service_accounts.items()
    }
    return Identities(wanted.persons, wanted.groups, services, wanted.clients)
