"""The provisioner: Kiwi ID's account in Kanidm and the state file, at a start and after each reload, when config.toml asks for it.

A sibling task for which nobody waits: people log in meanwhile, and whatever goes wrong here is told and ends nothing. It works in
a thread (:mod:`kiwi_id.apart`). When kanidmd goes in the middle it begins again, after longer and longer pauses and not for ever;
each step leaves a state from which the next try goes on.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import trio

from kiwi_id.apart import apart
from kiwi_id.config import Config
from kiwi_id.errors import ConfigError, ConfigMissing, Problem
from kiwi_id.logs import Log
from kiwi_id.state import ChildStatus

if TYPE_CHECKING:
    from kiwi_id.bootstrap import Standing
    from kiwi_id.identities.service import Applied
    from kiwi_id.kanidm.server_toml import ServerToml

log = Log("provisioner")

TRIES = 8
FIRST_PAUSE = 0.5
"""Seconds before the second try; each further pause is twice as long, so that eight tries take a minute."""


class _Result(Protocol):
    @property
    def error(self) -> str: ...
    @property
    def again(self) -> bool: ...


R = TypeVar("R", bound=_Result)


class Provisioner:
    """``run`` is the task; ``prepare`` a step of a reload. ``account`` and ``applied`` are what came of it last, None before."""

    def __init__(self, *, config: Callable[[], Config], server: Callable[[], ServerToml], status: ChildStatus) -> None:
        self._config, self._server, self._status = config, server, status
        self._asked = trio.Event()
        self._idle = trio.Event()
        self.busy = False
        self.mistakes: list[Problem] = []
        self.account: Standing | None = None
        self.applied: Applied | None = None
        self.applied_at = 0.0

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Do what config.toml asks for as soon as kanidmd serves, and again after each reload; until cancelled."""
        task_status.started()
        while await self._status.wait_serving():
            self._asked = trio.Event()
            self.busy = True
            try:
                await self._provide(self._config(), self._server())
            finally:
                self.busy = False
                if not self._asked.is_set():
                    self._idle.set()
            await self._asked.wait()

    def prepare(self, new: Config) -> Callable[[], None]:
        """Read the state file of a new configuration (a reload step): mistakes in it are told, and refuse no reload."""
        mistakes = mistakes_of(new)

        def apply() -> None:
            self.mistakes = mistakes
            self._idle = trio.Event()
            self._asked.set()

        return apply

    async def settled(self, patience: float) -> bool:
        """Wait up to ``patience`` seconds for what was asked for to have come to its end; tell whether it has."""
        idle = self._idle
        with trio.move_on_after(patience):
            await idle.wait()
        return idle.is_set()

    def as_dict(self) -> dict[str, Any]:
        """Return what ``kiwi-id status --json`` shows of it."""
        return {
            "busy": self.busy,
            "account": self.account.as_dict() if self.account else None,
            "applied": self.applied.as_dict() | {"at": self.applied_at} if self.applied else None,
            "mistakes": [problem.as_dict() for problem in self.mistakes],
        }

    async def _provide(self, config: Config, server: ServerToml) -> None:
        if config.bootstrap:

            async def bootstrap() -> Standing:
                from kiwi_id.bootstrap import at_start  # noqa: PLC0415 - httpx, in this thread, for those who want it

                return await at_start(config, server)

            self.account = await self._persist("Kiwi ID's account in Kanidm", bootstrap)
        if config.apply_on_start:
            told: dict[str, tuple[str, ...]] = {}

            async def apply() -> Applied:
                from kiwi_id.identities.service import apply_configured  # noqa: PLC0415 - as above

                return await apply_configured(config, server, told=told)

            self.applied, self.applied_at = await self._persist("the state file", apply), time.time()
            if self.applied is not None:
                self.mistakes = list(self.applied.mistakes)

    async def _persist(self, what: str, act: Callable[[], Awaitable[R]]) -> R | None:
        """Act until there is an outcome that another try cannot change, or for TRIES times; None after a bug of ours."""
        pause, result = FIRST_PAUSE, None
        for attempt in range(TRIES):
            await self._status.wait_serving()
            try:
                result = await apart(act)
            except Exception as error:  # noqa: BLE001 - a bug here must not end what serves people well
                log.crash(f"internal error at {what}", error)
                return None
            if not result.again:
                return result
            if attempt == 0:
                log.warn(f"{what}: Kanidm did not answer to the end; trying again", error=result.error)
            if attempt < TRIES - 1:
                with trio.move_on_after(pause):
                    await self._asked.wait()
                pause *= 2
        fix = "Once kanidmd serves: kiwi-id reload"
        log.error(f"{what}: given up", tries=TRIES, error=result.error if result else "", fix=fix)
        return result


def mistakes_of(config: Config) -> list[Problem]:
    """Return what is wrong with the state file that a start or reload would apply; blocks. A missing file is nothing to do."""
    if not config.apply_on_start:
        return []
    from kiwi_id.identities.load import load  # noqa: PLC0415 - not everybody wants it

    try:
        load(config.identities_file)
    except ConfigMissing:
        return []
    except ConfigError as error:
        return error.problems
    return []
