"""What ``kiwi-id plan``, ``apply`` and ``export`` do, and what a start or a reload does when a state file is configured."""

from __future__ import annotations

import fcntl
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from kiwi_id import bootstrap
from kiwi_id.config import Config
from kiwi_id.errors import Exit, KiwiError
from kiwi_id.identities import show
from kiwi_id.identities.apply import Done, Report, apply
from kiwi_id.identities.diff import Difference, diff
from kiwi_id.identities.load import load
from kiwi_id.identities.model import Identities
from kiwi_id.identities.observe import Found, observe
from kiwi_id.kanidm.admin import recover_account
from kiwi_id.kanidm.pin import client_context
from kiwi_id.kanidm.rest import Kanidm
from kiwi_id.kanidm.server_toml import ServerToml
from kiwi_id.logs import Log

log = Log("identities")


class AnotherApply(KiwiError):
    """Two applies at once would each undo the other's list of adopted entries. Exit code 69: try again."""

    exit_code = Exit.UNAVAILABLE


@dataclass(frozen=True, slots=True)
class Wish:
    """What a command line adds to a state file."""

    prune: bool = False
    adopt: frozenset[str] = frozenset()
    adopt_all: bool = False
    remove_many: bool = False

    def names(self, wanted: Identities) -> frozenset[str]:
        """Return the names that may be adopted."""
        return frozenset(wanted.places) if self.adopt_all else self.adopt


def default_path(config: Config) -> Path:
    """Return where the state file is looked for: ``identities.toml`` beside config.toml, and the files of ``identities.d``."""
    return config.path.with_name("identities.toml")


@asynccontextmanager
async def session(config: Config, server: ServerToml, *, recover: bool = False) -> AsyncIterator[Kanidm]:
    """Open a REST client with Kiwi ID's own account; with ``recover`` with idm_admin, whose password is reset for it.

    Raises NotBootstrapped, AdminSocketUnavailable, KanidmUnreachable, KanidmRefused.
    """
    if not recover:
        async with bootstrap.open_kanidm(config, server) as kanidm:
            yield kanidm
        return
    async with Kanidm(f"https://{config.upstream_addr}", client_context(server.tls_chain)) as kanidm:
        await kanidm.login("idm_admin", await recover_account(server.admin_socket, "idm_admin"))
        yield kanidm


@contextmanager
def exclusive(config: Config) -> Iterator[None]:
    """Hold the lock of applies of this instance, which ends with the process. Raises AnotherApply."""
    descriptor = os.open(config.path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise AnotherApply("Another 'kiwi-id apply' is at work on this instance. Wait for it, then try again.") from None
        yield
    finally:
        os.close(descriptor)


async def compare(kanidm: Kanidm, wanted: Identities, wish: Wish) -> tuple[Difference, Found]:
    """Return what differs between a state file and Kanidm, and what Kanidm has. Raises as :func:`observe` and :func:`diff`."""
    found = await observe(kanidm)
    return diff(wanted, found, prune=wish.prune, adopt=wish.names(wanted)), found


async def make_so(
    kanidm: Kanidm, wanted: Identities, wish: Wish, report: Report = lambda done: None
) -> tuple[Difference, list[Done]]:
    """Make Kanidm as the state file says; return what differed and what was refused. Raises as its two parts."""
    difference, found = await compare(kanidm, wanted, wish)
    return difference, await apply(kanidm, difference, found, report, remove_many=wish.remove_many)


async def apply_configured(config: Config, server: ServerToml, path: Path | None = None) -> bool:
    """Do at a start or reload what ``kiwi-id apply`` does, and log it; return whether Kanidm is as the file says now.

    Nothing that goes wrong here is a reason to end or to refuse a reload: people log in as before, and the log says what to do.
    """
    file = path or default_path(config)

    def report(done: Done) -> None:
        if done.refused:
            log.error("Kanidm refused a step of the state file", step=show.title(done.step), reasons="; ".join(done.refused))
        else:
            log.info("applied a step of the state file", action=done.step.action, step=show.title(done.step))

    try:
        wanted = load(file)
        with exclusive(config):
            async with session(config, server) as kanidm:
                difference, refused = await make_so(kanidm, wanted, Wish(), report)
    except KiwiError as error:
        log.error("the state file was not applied", file=str(file), error=str(error))
        return False
    for name, why in difference.foreign.items():
        log.warn("an entry of the state file is left alone", name=name, reason=why, fix=f"kiwi-id apply --adopt {name}")
    log.info("the state file is in force", file=str(file), steps=len(difference.steps), refused=len(refused))
    return not (refused or difference.foreign)
