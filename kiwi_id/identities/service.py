"""What ``kiwi-id plan``, ``apply`` and ``export`` do, and what a start or a reload does when a state file is configured."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kiwi_id import bootstrap
from kiwi_id.config import Config
from kiwi_id.errors import ConfigError, ConfigMissing, Exit, KiwiError, Problem
from kiwi_id.identities import show
from kiwi_id.identities.apply import Done, Report, apply
from kiwi_id.identities.diff import Difference, diff
from kiwi_id.identities.load import load
from kiwi_id.identities.model import Identities
from kiwi_id.identities.observe import Found, observe
from kiwi_id.instance import turns
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
        return frozenset(wanted.places) if self.adopt_all else frozenset()


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
def exclusive(config: Config, *, patience: float = 0.0, waits: Callable[[], object] = lambda: None) -> Iterator[None]:
    """Hold the lock of applies of this instance, which ends with the process.

    Blocks for ``patience`` seconds while another holds it, and calls ``waits`` once before that. Raises AnotherApply, ConfigError.
    """
    descriptor = turns.opened(config, "apply")
    try:
        if not turns.taken(descriptor):
            waits()
            ends = time.monotonic() + patience
            while not turns.taken(descriptor):
                if time.monotonic() >= ends:
                    raise AnotherApply("Another apply is at work on this instance. Wait for it, then try again.")
                time.sleep(0.1)
        yield
    finally:
        os.close(descriptor)


async def compare(kanidm: Kanidm, wanted: Identities, wish: Wish) -> tuple[Difference, Found]:
    """Return what differs between a state file and Kanidm, and what Kanidm has. Raises as :func:`observe` and :func:`diff`."""
    found = await observe(kanidm)
    return diff(wanted, found, prune=wish.prune, adopt=wish.names(wanted), adopt_named=wish.adopt), found


async def make_so(
    kanidm: Kanidm, wanted: Identities, wish: Wish, report: Report = lambda done: None
) -> tuple[Difference, list[Done]]:
    """Make Kanidm as the state file says; return what differed and what was refused. Raises as its two parts."""
    difference, found = await compare(kanidm, wanted, wish)
    return difference, await apply(kanidm, difference, found, report, remove_many=wish.remove_many)


@dataclass(frozen=True, slots=True)
class Applied:
    """What came of an apply at a start or reload.

    ``steps``: how many were done; ``refused``: what Kanidm refused, with its reasons; ``left_alone``: names that are not ours;
    ``held``: what else of the file is not done, with the reason;
    ``mistakes`` in the file; ``error``: why it was not applied. ``again``: that may pass by itself. ``absent``: there is no file.
    """

    file: Path
    steps: int = 0
    refused: tuple[str, ...] = ()
    left_alone: tuple[str, ...] = ()
    held: tuple[str, ...] = ()
    mistakes: tuple[Problem, ...] = ()
    error: str = ""
    again: bool = False
    absent: bool = False

    @property
    def ok(self) -> bool:
        """Whether Kanidm is as the file says now."""
        return not (self.error or self.refused or self.left_alone or self.held)

    def as_dict(self) -> dict[str, Any]:
        """Return it JSON-ready."""
        return {
            "ok": self.ok,
            "file": str(self.file),
            "absent": self.absent,
            "steps": self.steps,
            "refused": list(self.refused),
            "left_alone": list(self.left_alone),
            "held_back": list(self.held),
            "error": self.error,
        }


def applied_by_hand(file: Path, difference: Difference, refused: list[Done]) -> Applied:
    """Return what came of an apply that was asked for by a command."""
    titles = tuple(f"{done.step.action} {show.title(done.step)}: {'; '.join(done.refused)}" for done in refused)
    return Applied(file, len(difference.steps) - len(refused), titles, tuple(difference.foreign), _held(difference))


def _held(difference: Difference) -> tuple[str, ...]:
    return tuple(f"{one.name}.{one.field}: {one.reason}" for one in difference.held)


async def apply_configured(config: Config, server: ServerToml, *, told: dict[str, tuple[str, ...]] | None = None) -> Applied:
    """Do at a start or reload what ``kiwi-id apply`` does, and log it; return what came of it.

    Nothing that goes wrong here is a reason to end or to refuse a reload: people log in as before, and the log says what to do.
    What may pass by itself (``again``) is the caller's to log; ``told`` keeps the steps that were logged from one try to the next.
    """
    file = config.identities_file
    told = {} if told is None else told

    def report(done: Done) -> None:
        title = f"{done.step.action} {show.title(done.step)}"
        known = told.get(title)
        told[title] = done.refused
        if known == done.refused:
            return
        if done.refused:
            log.error("Kanidm refused a step of the state file", step=title, reasons="; ".join(done.refused))
        else:
            log.info("applied a step of the state file", step=title)

    try:
        wanted = load(file)
        with exclusive(config):
            async with session(config, server) as kanidm:
                difference, _ = await make_so(kanidm, wanted, Wish(), report)
    except ConfigMissing:
        log.debug("there is no state file", file=str(file))
        return Applied(file, absent=True)
    except KiwiError as error:
        again = bootstrap.may_pass(error)
        if not again:
            log.error("the state file was not applied", file=str(file), error=str(error))
        mistakes = tuple(error.problems) if isinstance(error, ConfigError) else ()
        return Applied(file, len(told), mistakes=mistakes, error=str(error), again=again)
    for name, why in difference.foreign.items():
        log.warn("an entry of the state file is left alone", name=name, reason=why.reason, fix=why.fix)
    for one in difference.held:
        log.warn("something of the state file is held back", entry=one.name, key=one.field, reason=one.reason)
    refused = tuple(f"{title}: {'; '.join(reasons)}" for title, reasons in told.items() if reasons)
    done = len(told) - len(refused)
    held = _held(difference)
    applied = Applied(file, done, refused, tuple(difference.foreign), held)
    words = "the state file is in force" if applied.ok else "the state file is in force in part"
    log.info(words, file=str(file), steps=done, refused=len(refused), left_alone=len(difference.foreign), held_back=len(held))
    return applied
