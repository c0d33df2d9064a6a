"""What the commands ``kiwi-id user``, ``group`` and ``client`` do in Kanidm, beside what :class:`Kanidm` itself has.

Statuses of what is missing or there twice differ by version (404, 409, 500), so we look first: then the words can be ours.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from kiwi_id.errors import Exit, KiwiError

if TYPE_CHECKING:  # httpx is heavy, and the commands that use this are told apart without it
    from kiwi_id.kanidm.entries import RestKind
    from kiwi_id.kanidm.rest import Entry, Kanidm

KINDS = {"person": "user", "group": "group", "oauth2": "client", "service_account": "service account"}
"""Kanidm's name of each kind in its paths, and ours."""
LONG_AGO = "1970-01-01T00:00:00+00:00"
"""The ``account_expire`` of a disabled account, as Kanidm's own command line has it (``person validity expire-at epoch``)."""
_BUILTIN = "00000000-0000-0000-0000-"


class NoSuchEntry(KiwiError):
    """There is nothing of that name. Exit code 1."""

    exit_code = Exit.FAILURE


class NameTaken(KiwiError):
    """There is something of that name already. Exit code 1."""

    exit_code = Exit.FAILURE


@dataclass(frozen=True, slots=True)
class ResetToken:
    """What opens Kanidm's page for new credentials, once, until ``expires``."""

    token: str
    expires: datetime


def first(entry: Entry, attr: str) -> str:
    """Return the first value of an attribute, "" when there is none."""
    values = entry.get(attr)
    return values[0] if values else ""


def short(spn: str) -> str:
    """Return ``name`` of ``name@domain``; UUIDs and bare names stay."""
    return spn.partition("@")[0]


def is_builtin(entry: Entry) -> bool:
    """Tell whether an entry is Kanidm's own: those have low UUIDs (server/lib/src/constants/uuids.rs)."""
    return first(entry, "uuid").startswith(_BUILTIN)


def is_disabled(entry: Entry, now: datetime) -> bool:
    """Tell whether an account may not sign in now, being expired or not valid yet."""
    ends, begins = first(entry, "account_expire"), first(entry, "account_valid_from")
    return bool((ends and datetime.fromisoformat(ends) <= now) or (begins and datetime.fromisoformat(begins) > now))


def has_credentials(entry: Entry) -> bool:
    """Tell whether a person can sign in with anything: a password or a passkey.

    From the entry, of which our account sees that much: ``_credential/_status`` knows of passwords alone.
    """
    return any(entry.get(attr) for attr in ("primary_credential", "passkeys", "attested_passkeys"))


async def entries(kanidm: Kanidm, kind: RestKind) -> list[Entry]:
    """Return all entries of a kind, by name."""
    from kiwi_id.kanidm.entries import list_entries  # noqa: PLC0415 - brings httpx; who has a ``kanidm`` has it loaded

    found = await list_entries(kanidm, kind)
    return sorted(found, key=lambda entry: first(entry, "name"))


async def require(kanidm: Kanidm, kind: str, name: str) -> Entry:
    """Return one entry. Raises NoSuchEntry."""
    entry = await kanidm.get(kind, name)
    if entry is None:
        raise NoSuchEntry(f"there is no {KINDS[kind]} '{name}'. All there are: kiwi-id {KINDS[kind]} list")
    return entry


async def require_free(kanidm: Kanidm, kind: str, name: str) -> None:
    """Check that ``name`` can be given to a new entry: all kinds share one space of names. Raises NameTaken."""
    for other in (kind, *KINDS.keys() - {kind}):
        if await kanidm.get(other, name) is not None:
            raise NameTaken(f"there is a {KINDS[other]} '{name}' already.")


async def require_members(kanidm: Kanidm, names: Sequence[str]) -> None:
    """Check that each name is an account or group. Raises NoSuchEntry."""
    for name in names:
        for kind in KINDS:
            if await kanidm.get(kind, name) is not None:
                break
        else:
            raise NoSuchEntry(f"there is no user, group or other account '{name}'.")


async def remove(kanidm: Kanidm, kind: str, name: str) -> None:
    """Remove an entry; Kanidm keeps it in its recycle bin for a week. Raises NoSuchEntry."""
    await require(kanidm, kind, name)
    await kanidm.call("DELETE", f"/v1/{kind}/{name}")


@asynccontextmanager
async def whole(kanidm: Kanidm, kind: str, name: str) -> AsyncIterator[None]:
    """Take a new entry away again when Kanidm refuses what belongs to it, so that the same command can be given once more."""
    try:
        yield
    except KiwiError:
        with suppress(KiwiError):
            await kanidm.call("DELETE", f"/v1/{kind}/{name}")
        raise


async def remove_members(kanidm: Kanidm, group: str, names: Sequence[str]) -> None:
    """Take members out of a group; who is not in it does not matter."""
    await kanidm.call("DELETE", f"/v1/group/{group}/_attr/member", list(names))


async def disable(kanidm: Kanidm, person: str) -> None:
    """Let a person not sign in any more. Kanidm refuses their sessions from now on, but does not forget them."""
    await kanidm.call("PUT", f"/v1/person/{person}/_attr/account_expire", [LONG_AGO])


async def enable(kanidm: Kanidm, person: str) -> None:
    """Let a person sign in, whatever dates were set."""
    for attr in ("account_expire", "account_valid_from"):
        await kanidm.call("DELETE", f"/v1/person/{person}/_attr/{attr}")


async def reset_token(kanidm: Kanidm, person: str, seconds: int) -> ResetToken:
    """Make a token with which the person can set a password or passkey; it lives 300 to 86,400 seconds."""
    intent = await kanidm.call("GET", f"/v1/person/{person}/_credential/_update_intent/{seconds}")
    return ResetToken(intent["token"], datetime.fromtimestamp(intent["expiry_time"], UTC))


async def describe(kanidm: Kanidm, kind: str, name: str, text: str) -> None:
    """Set the description of a group or other entry."""
    await kanidm.call("PUT", f"/v1/{kind}/{name}/_attr/description", [text])


async def new_client_secret(kanidm: Kanidm, client: str) -> None:
    """Have Kanidm generate another secret for a confidential client; the one before ends at once."""
    await kanidm.patch_client(client, {"oauth2_rs_basic_secret": []})
