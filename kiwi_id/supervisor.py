"""The supervisor: one nursery in which everything that Kiwi ID does is a sibling task. Read this file first.

    reaper ── signals ── child ── listener ── watchdog ── reloader ── control, provisioner, facade, renewals, keep-alive
      │          │         │         │            │            │
      │          │         │         │            │            └ SIGHUP: files on disk → configuration in force
      │          │         │         │            └ probes kanidmd, has it restarted when it hangs
      │          │         │         └ serves clients: router → (facade | gate → forwarder → kanidmd)
      │          │         └ spawns kanidmd, waits for readiness, restarts it
      │          └ SIGTERM and its like → stop; SIGHUP → reload
      └ waits for every child process, ours and orphans

They are started in this order and stopped in reverse, each with a deadline: a bare cancellation of the nursery would end all of
them at once, and the requests in flight with them.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from functools import partial

import trio

from kiwi_id import __version__, control, lock, logs, notify, watchdog
from kiwi_id.child import Child, ChildSettings
from kiwi_id.config import Config
from kiwi_id.errors import Exit, KiwiError
from kiwi_id.front import Front
from kiwi_id.kanidm.probe import probe
from kiwi_id.logs import Log
from kiwi_id.operations import Operations
from kiwi_id.plan import Plan
from kiwi_id.privileges import acting_as, gain_nothing_new, passed_on
from kiwi_id.provisioner import Provisioner
from kiwi_id.reaper import Reaper
from kiwi_id.reloader import Reloader, Upstream
from kiwi_id.restarter import Restart, Restarter, RestartSettings
from kiwi_id.room import Room
from kiwi_id.siblings import Siblings
from kiwi_id.signals import Signals
from kiwi_id.state import ChildState, ChildStatus

log = Log("supervisor")

# Shares of shutdown_timeout: requests in flight get the first part, kanidmd what is left but for the sweep of orphans.
DRAIN_SHARE = 0.5
SWEEP_SHARE = 0.1
# For answers to be sent to those who have waited in vain until the end of the drain, seconds.
LAST_WORDS = 0.2
# After an internal error: for kanidmd and what it has left behind to end, seconds.
LAST_CHANCE = 10.0
# How long another's lock on the database is waited for, seconds; a predecessor that hands its sockets over has its whole
# shutdown_timeout, which is most likely ours, and this besides.
LOCK_PATIENCE = 2.0
HANDOVER = 5.0
# One readiness probe while kanidmd boots, seconds; refused connections fail at once, this bounds one that hangs.
START_PROBE = 2.0


class Supervisor:
    """Kiwi ID, running. ``plan`` holds what was read and bound before; ``run`` returns the exit code of the process."""

    def __init__(self, plan: Plan, notifier: notify.Notifier) -> None:
        self.plan, self.notifier = plan, notifier
        self.failure: KiwiError | None = None
        # The reaper ends by its own scope only: without it the end of no process would be noticed, nor could any be waited for.
        self._siblings = Siblings(shielded=("reaper",))

        self.status = ChildStatus()
        self.signals = Signals()
        self.reaper = Reaper(plan.account)
        self.status.on_change.append(lambda: notifier.status(self.summary()))
        self.front = Front(plan, self.status, draining=self.signals.stop.is_set)
        self.listener = self.front.listener
        front = self.front
        self.provisioner = Provisioner(config=lambda: self.config, server=lambda: plan.server, status=self.status)
        steps = [front.prepare_tls, front.prepare_issuer, plan.prepare_pin, front.prepare_limits, _prepare_logs]
        self.reloader = Reloader(
            plan.config,
            prepare=[*steps, self.provisioner.prepare],
            upstream=Upstream(self._hang_up, plan.prepare_restart, plan.upstream_changed, self._restart),
            notifier=notifier,
            summary=self.summary,
        )
        self.child: Child
        self.restarter: Restarter

    @property
    def config(self) -> Config:
        """The configuration in force."""
        return self.reloader.current

    async def run(self) -> Exit:
        """Run until a stop signal or a failure; leave no process behind. Raises KiwiError when it cannot start."""
        gain_nothing_new()
        async with trio.open_nursery() as nursery:
            await nursery.start(self._siblings.run, "reaper", self.reaper.run)
            try:
                await self._run(nursery)
            finally:
                await self._leave_nothing()
        if self.failure is not None:
            raise self.failure
        return Exit.OK

    async def _run(self, nursery: trio.Nursery) -> None:
        await nursery.start(self._siblings.run, "signals", self.signals.run)
        try:
            if self.plan.inherited:
                # Clients connect already, perhaps while a predecessor still ends: they are accepted and wait at the gate, and what
                # needs no kanidmd (discovery, keys, probes) is answered.
                await self._open(nursery)
            descriptor = await self._take_lock(nursery)
            if descriptor is not None:
                await self._start_all(nursery, descriptor)
                await self.signals.stop.wait()
        except KiwiError as error:
            self.failure = error
        await self._stop()
        nursery.cancel_scope.cancel()

    async def _open(self, nursery: trio.Nursery) -> None:
        await nursery.start(self._siblings.run, "listener", self.listener.run)
        nursery.start_soon(self._load_rest)

    async def _take_lock(self, nursery: trio.Nursery) -> int | None:
        """Take the lock beside the database, from a predecessor that ends; return None when a stop comes first."""
        patience = self.config.shutdown_timeout + HANDOVER if self.plan.inherited else LOCK_PATIENCE
        with trio.CancelScope() as waiting:
            nursery.start_soon(self.signals.cancel_at_stop, waiting)
            acting = partial(acting_as, self.plan.account)
            return await lock.acquire(self.plan.server.db_path, patience=patience, acting=acting)
        return None

    async def _start_all(self, nursery: trio.Nursery, lock_descriptor: int) -> None:
        start = nursery.start
        self.child = self._make_child(lock_descriptor)
        self.restarter = self._make_restarter()
        self.plan.listen_control()
        await start(self._siblings.run, "child", self._run_child)
        if not self.plan.inherited:
            await self._open(nursery)
        await start(self._siblings.run, "watchdog", self._watch)
        await start(self._siblings.run, "reloader", self._reload_on_request)
        if self.plan.control is not None:
            await start(self._siblings.run, "control", partial(self._serve_control, self.plan.control))
        await start(self._siblings.run, "provisioner", self.provisioner.run)
        nursery.start_soon(self._announce)
        nursery.start_soon(notify.keep_alive, self.notifier, self._answers_itself)

    # -- the siblings ------------------------------------------------------------------------------------------------------

    def _make_child(self, lock_descriptor: int) -> Child:
        async def argv() -> list[str]:
            # In a thread, because a changed binary is hashed; and before each start, because it may have been swapped.
            binary = await trio.to_thread.run_sync(self.plan.note_start)
            self.status.version, self.status.tested = binary.version, binary.tested
            if not binary.tested:
                log.warn("this kanidmd was not tested with this Kiwi ID", upstream_version=binary.version)
            return [str(binary.path), "server", "-c", str(self.plan.config.upstream_config)]

        return Child(
            argv=argv,
            status=self.status,
            reaper=self.reaper,
            probe=lambda: probe(self.plan.config.upstream_addr, self.plan.pin, timeout=START_PROBE),
            settings=lambda: ChildSettings(self.config.health_check_timeout, self.config.restart_limit),
            environ=passed_on(os.environ, self.plan.account),
            room=Room(self.plan.lacking_room),
            keep_fds=(lock_descriptor,),
        )

    def _make_restarter(self) -> Restarter:
        def settings() -> RestartSettings:
            # Whoever waits at the gate waits for the drain too, and must not be turned away because of it.
            drain = min(self.config.shutdown_timeout * DRAIN_SHARE, self.config.limits.gate_timeout / 2)
            return RestartSettings(drain, self.config.health_check_timeout)

        front = self.front
        return Restarter(child=self.child, status=self.status, gate=front.gate, pool=front.pool, settings=settings)

    async def _run_child(self, *, task_status: trio.TaskStatus[None]) -> None:
        try:
            await self.child.run(task_status=task_status)
        except KiwiError as error:
            if not self.child.starts:
                raise  # out of nursery.start: it could not even be started
            # An orderly stop follows, not a crash of the nursery: clients get their 503, systemd its STOPPING=1.
            self.failure = error
            self.signals.request_stop("kanidmd cannot be kept running")

    async def _watch(self, *, task_status: trio.TaskStatus[None]) -> None:
        await watchdog.watch(
            status=self.status,
            probe=lambda seconds: probe(self.plan.config.upstream_addr, self.plan.pin, timeout=seconds),
            restart=self.child.restart,
            settings=lambda: watchdog.WatchdogSettings(self.config.health_check_interval, self.config.health_check_timeout),
            task_status=task_status,
        )

    async def _reload_on_request(self, *, task_status: trio.TaskStatus[None]) -> None:
        await self.reloader.run(self.signals.reload, task_status=task_status)

    async def _serve_control(self, listener: trio.SocketListener, *, task_status: trio.TaskStatus[None]) -> None:
        handlers = Operations(self).handlers()
        await control.serve(listener, handlers, path=self.plan.config.control_socket, task_status=task_status)

    async def _load_rest(self) -> None:
        """Do what need not come before kanidmd's start while it boots: import application and issuer, read the key set."""
        try:
            await self.front.load(self.config)
        except KiwiError as error:
            self.failure = error
            self.signals.request_stop("the signing keys cannot be used")
            return
        self.reloader.started.set()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.front.deliver)
            nursery.start_soon(self._keep_fresh)

    async def _keep_fresh(self) -> None:
        await self.plan.keep_fresh(lambda: self.config, self.status.wait_serving, self.signals.request_reload)

    async def _announce(self) -> None:
        if not await self.status.wait_serving():
            return
        log.info("ready", version=__version__, upstream_version=self.status.version, tested=self.status.tested)
        self.notifier.ready(self.summary())

    async def _answers_itself(self) -> bool:
        return await notify.listener_answers(self.listener.addresses[0], tls=self.listener.tls is not None)

    # -- the end -----------------------------------------------------------------------------------------------------------

    async def _stop(self) -> None:
        """Stop the siblings in reverse order within ``shutdown_timeout``; a second stop signal cuts every wait short."""
        total = self.config.shutdown_timeout
        ends = trio.current_time() + total
        self.notifier.stopping()
        for name in ("provisioner", "reloader", "watchdog"):
            await self._siblings.end(name)
        if "child" not in self._siblings and self.status.state is ChildState.STOPPED:
            self.status.transition(ChildState.STOPPING, "it was not started")  # for those who wait at the gate
        if "listener" in self._siblings:
            self.listener.stop()
            await self.signals.unless_hurried(lambda: self._siblings.ended("listener"), total * DRAIN_SHARE)
            if self.listener.connections:
                # Who waits at the gate still, for a kanidmd that has not come, gets an answer before the end: 503.
                self.status.give_up()
                with trio.move_on_after(LAST_WORDS):
                    await self._siblings.ended("listener")
            if self.listener.connections:
                log.warn("ending connections that did not drain", connections=len(self.listener.connections))
            await self._siblings.end("listener")
        for sock in self.plan.sockets:
            sock.close()
        if "child" in self._siblings:
            await self.signals.unless_hurried(self._stop_child(ends), max(ends - trio.current_time(), 0.1))
            self.child.kill()
            await self._siblings.end("child")
        await self._end_orphans()
        await self._siblings.end("control")
        log.info("stopped", reason=self.signals.reason)

    async def _end_orphans(self) -> None:
        orphans = await self.reaper.end_orphans(grace=max(0.2, min(self.config.shutdown_timeout * SWEEP_SHARE, 2.0) / 2))
        if orphans:
            log.info("ended orphans", processes=orphans)

    async def _leave_nothing(self) -> None:
        """See to it that no process is left, also when a bug in one of the siblings has ended all; then end the reaper."""
        with trio.move_on_after(LAST_CHANCE, shield=True):
            await self._siblings.ended("child")
            await self._end_orphans()
        self._siblings.cancel("reaper")

    def _stop_child(self, ends: float) -> Callable[[], Awaitable[None]]:
        async def stop() -> None:
            await self.child.stop(grace=max(ends - trio.current_time() - self.config.shutdown_timeout * SWEEP_SHARE, 0.1))
            await self._siblings.ended("child")

        return stop

    # -- what others ask -----------------------------------------------------------------------------------------------------

    def _hang_up(self) -> bool:
        return self.child.hang_up()

    async def _restart(self, reason: str) -> Restart:
        return await self.restarter.restart(reason)

    def summary(self) -> str:
        """Return the line that ``systemctl status`` shows."""
        return f"kanidmd {self.status.version} is {self.status.state.value}, restarted {self.status.restarts} times"


def _prepare_logs(new: Config) -> Callable[[], None]:
    logs.check_file(new.log_file)
    return lambda: logs.configure(new.log_level, new.log_format, new.log_file)
