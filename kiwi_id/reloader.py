"""The reloader: SIGHUP, ``systemctl reload`` and ``kiwi-id reload`` make the files on disk the running configuration.

All or nothing: everything is read and checked first, by the ``prepare`` steps that the supervisor hands over; only when each of
them has succeeded are their results applied, and applying cannot fail. A broken file changes nothing.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import trio

from kiwi_id import config as config_module
from kiwi_id.config import Config
from kiwi_id.errors import ConfigError, Problem
from kiwi_id.logs import Log
from kiwi_id.notify import Notifier
from kiwi_id.restarter import Restart

log = Log("reloader")

# Reads and checks what one part needs of the new configuration; raises ConfigError, or returns the function that applies it and
# returns, in words, what that has changed beside keys of config.toml.
Prepare = Callable[[Config], Callable[[], Sequence[str] | None]]


@dataclass(frozen=True)
class Outcome:
    """What a reload did, and when (``at``): ``changed`` keys are in force, ``needs_restart`` keys only at the next start."""

    problems: list[Problem] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    needs_restart: list[str] = field(default_factory=list)
    child_reloaded: bool = False
    restart: Restart | None = None
    at: float = field(default_factory=time.time)

    def as_dict(self) -> dict[str, object]:
        """Return it as the answer of the control socket."""
        return {
            "ok": not self.problems and (self.restart is None or self.restart.ok),
            "problems": [problem.as_dict() for problem in self.problems],
            "changed": self.changed,
            "needs_restart": self.needs_restart,
            "child_reloaded": self.child_reloaded,
            "restart": self.restart.as_dict() if self.restart else None,
            "at": self.at,
        }


@dataclass(frozen=True)
class Upstream:
    """What a reload can do to kanidmd: have it read its TLS files (``hang_up``; False: it was not told), or ``restart`` it.

    ``prepare_restart`` checks what it would be started with, ``changed`` tells whether that is another than now; both block, and
    raise ConfigError.
    """

    hang_up: Callable[[], bool]
    prepare_restart: Prepare
    changed: Callable[[], bool]
    restart: Callable[[str], Awaitable[Restart]]


@dataclass(frozen=True)
class _Read:
    """What was read and checked, to be applied: ``restart`` is the reason for a restart of kanidmd, or empty."""

    config: Config
    steps: list[Callable[[], Sequence[str] | None]]
    restart: str


class Reloader:
    """Holds the configuration in force (``current``) and replaces it; ``run`` is the task that serves SIGHUP.

    Reloads wait until ``started`` is set: what the start still has to read of the old files would replace the new in part.
    """

    def __init__(
        self,
        config: Config,
        *,
        prepare: list[Prepare],
        upstream: Upstream,
        notifier: Notifier,
        summary: Callable[[], str],
    ) -> None:
        self.current = config
        # What needs a restart is told against what the process began with, and not against the file that was read last: a change
        # that is taken back needs none any more, and one that still waits must be told again.
        self._began = config
        self.last: Outcome | None = None
        self._prepare, self._upstream, self._notifier, self._summary = prepare, upstream, notifier, summary
        self.started = trio.Event()
        self._one_at_a_time = trio.Lock()

    async def run(
        self,
        requests: trio.MemoryReceiveChannel[None],
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Reload once for each request, until cancelled."""
        task_status.started()
        async for _ in requests:
            await self.reload()

    async def reload(self, *, restart: bool = False) -> Outcome:
        """Read everything anew; return what came of it, which is also logged and told to the service manager.

        With ``restart`` kanidmd is restarted in order when the files are good, whether they have changed or not.
        """
        await self.started.wait()
        async with self._one_at_a_time:
            self._notifier.reloading()
            try:
                # In a thread: parsing keys takes a tenth of a second, and logins go on meanwhile. It may be left behind: a stop
                # must not wait for a file on a network that is gone, and reading changes nothing that is in force.
                read = await trio.to_thread.run_sync(self._read, self.current.path, restart, abandon_on_cancel=True)
                outcome = self._refuse(read) if isinstance(read, list) else await self._apply(read)
            finally:
                # Also after a failure: 'systemctl reload' waits for READY and would hang without it.
                failed = self.last is not None and bool(self.last.problems)
                self._notifier.reloaded("reload failed, the last good configuration is in force" if failed else self._summary())
            return outcome

    def _read(self, file: Path, restart: bool) -> _Read | list[Problem]:
        try:
            new = config_module.load(file)
            prepare = list(self._prepare)
            if restart or new.restart_upstream_on_change:
                prepare.append(self._upstream.prepare_restart)
            steps = self._checked(new, prepare)
            reason = "asked to" if restart else ""
            if new.restart_upstream_on_change and not restart and self._upstream.changed():
                reason = "server.toml or the binary has changed"
            return _Read(new, steps, reason)
        except ConfigError as error:
            return error.problems
        except Exception as error:  # noqa: BLE001 - a bug in a check must not end what serves well with the old files
            log.crash("internal error while reloading", error)
            return [Problem(str(file), "", f"an internal error ({type(error).__name__}), see the log", "", "")]

    def _refuse(self, problems: list[Problem]) -> Outcome:
        for problem in problems:
            log.error("reload refused", **problem.as_dict())
        log.error("reload failed; the last good configuration stays in force", problems=len(problems))
        self.last = Outcome(problems=problems)
        return self.last

    async def _apply(self, read: _Read) -> Outcome:
        changed, _ = config_module.changes(self.current, read.config)
        _, fixed = config_module.changes(self._began, read.config)
        for apply in read.steps:
            changed += apply() or ()
        self.current = read.config
        if fixed:
            log.warn("these keys differ from those in force, and need a restart of Kiwi ID", keys=fixed)
        hung_up = not read.restart and self._upstream.hang_up()
        restart = await self._upstream.restart(read.restart) if read.restart else None
        self.last = Outcome(changed=changed, needs_restart=fixed, child_reloaded=hung_up, restart=restart)
        told = {"restarted": restart.ok} if restart else {"child_reloaded": hung_up}
        log.info("reloaded", changed=changed, needs_restart=fixed, **told)
        return self.last

    def _checked(self, new: Config, prepare_steps: list[Prepare]) -> list[Callable[[], Sequence[str] | None]]:
        steps: list[Callable[[], Sequence[str] | None]] = []
        problems: list[Problem] = []
        for prepare in prepare_steps:
            try:
                steps.append(prepare(new))
            except ConfigError as error:
                problems += error.problems
        if problems:
            raise ConfigError(list(dict.fromkeys(problems)))  # two steps read server.toml: each problem once
        return steps
