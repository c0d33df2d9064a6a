"""Random state files, applied in random order with crashes in between: Kanidm ends as the last file says, whatever was before."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kiwi_id.identities import export
from kiwi_id.identities.apply import apply
from kiwi_id.identities.diff import diff
from kiwi_id.identities.model import Claim, Client, Group, Identities, Person, Policy, Posix, ServiceAccount
from kiwi_id.identities.observe import Found, observe
from tests.devserver.servers import STAND_IN, Server

from .world import KEYS, Crash, Crashing, signed_in

# Names that may be a person in one file and a group in the next are among them. What Kanidm (1.5) can set only when an entry is
# made is fixed by the name: the type of a client, the manager of a group, whether a person has POSIX attributes.
PEOPLE = ("ann", "ben", "cat", "either", "other")
GROUPS = ("staff", "admins", "either", "other", "zoo")
CLIENTS = ("wiki", "phone", "shop")
SERVICES = ("backup", "sync")
ADDRESSES = tuple(f"{name}@example.com" for name in "abcdefgh")
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
        return Person(name, draw(TEXTS) or name, draw(TEXTS), (*mail[:1], *sorted(mail[1:])), keys, posix)

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


RUNS = st.lists(st.tuples(files(), st.none() | st.integers(1, 12), st.booleans()), min_size=1, max_size=4)


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
    def converge(runs: list[tuple[Identities, int | None, bool]]) -> None:
        trio.run(_converge, server, runs)

    converge()


async def _converge(server: Server, runs: list[tuple[Identities, int | None, bool]]) -> None:
    async with signed_in(server) as kanidm:
        for wanted, at, after in runs:
            kanidm.at, kanidm.after, kanidm.writes = at, after, 0
            with contextlib.suppress(Crash):
                await _apply(kanidm, wanted)
        kanidm.at = None
        last = runs[-1][0]
        assert await _apply(kanidm, last) == []
        found = await observe(kanidm)
        assert diff(last, found).steps == ()
        assert export.text(_shown(found)) == export.text(_expected(last, found))


async def _apply(kanidm: Crashing, wanted: Identities) -> list[Any]:
    found = await observe(kanidm)
    return [done.refused for done in await apply(kanidm, diff(wanted, found), found, remove_many=True)]


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
