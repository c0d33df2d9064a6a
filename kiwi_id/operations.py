"""What a running Kiwi ID can be asked over its control socket: what is behind ``kiwi-id reload``, ``status`` and the like."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import trio

from kiwi_id import __version__
from kiwi_id.control import Handler
from kiwi_id.reloader import Outcome

if TYPE_CHECKING:
    from kiwi_id.supervisor import Supervisor

APPLY_PATIENCE = 5.0
"""Seconds for which a reload that somebody waits for waits for the state file to be applied."""


class Operations:
    """The handlers of the control socket, over the parts of a supervisor."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self._began = trio.current_time()

    def handlers(self) -> dict[str, Handler]:
        """Return every command by its name."""
        return {
            "reload": self.reload,
            "request_reload": self.request_reload,
            "restart_upstream": self.restart_upstream,
            "reread_secrets": self.reread_secrets,
            "status": self.status,
        }

    async def reload(self) -> dict[str, Any]:
        """Reload, and tell what came of it; mistakes in the state file, too, which refuse no reload."""
        return await self._with_identities(await self._supervisor.reloader.reload())

    async def restart_upstream(self) -> dict[str, Any]:
        """Restart kanidmd in order, after the checks and with the effects of a reload."""
        return await self._with_identities(await self._supervisor.reloader.reload(restart=True))

    async def _with_identities(self, outcome: Outcome) -> dict[str, Any]:
        supervisor = self._supervisor
        provisioner, applies = supervisor.provisioner, supervisor.config.apply_on_start
        # Most applies have little to do, and what is wrong with a file against Kanidm shows there only.
        ended = applies and not outcome.problems and await provisioner.settled(APPLY_PATIENCE)
        mistakes, applied = provisioner.mistakes, provisioner.applied
        told = {
            "applying": applies and not ended,
            "applied": applied.as_dict() if ended and applied else None,
            "problems": [one.as_dict() for one in mistakes],
            "secrets": [one.as_dict() for one in supervisor.front.secret_problems if one not in mistakes],
        }
        return outcome.as_dict() | {"identities": told}

    async def reread_secrets(self) -> dict[str, Any]:
        """Read the chosen client secrets anew, and nothing else: what an apply by hand asks for."""
        problems = await self._supervisor.front.reread_secrets(self._supervisor.config)
        return {"ok": not problems, "problems": [one.as_dict() for one in problems]}

    async def request_reload(self) -> dict[str, Any]:
        """Ask for a reload, as SIGHUP does."""
        self._supervisor.signals.request_reload()
        return {"ok": True}

    async def status(self) -> dict[str, Any]:
        """Return what ``kiwi-id status`` shows."""
        supervisor = self._supervisor
        status, listener, last = supervisor.status, supervisor.listener, supervisor.reloader.last
        return {
            "ok": True,
            "pid": os.getpid(),
            "uid": os.getuid(),
            "uptime": round(trio.current_time() - self._began, 1),
            "version": __version__,
            "config": str(supervisor.config.path),
            "listening": [str(address) for address in listener.addresses],
            "tls": listener.tls is not None,
            "connections": listener.open,
            "waiting": supervisor.front.gate.waiting,
            "refused": listener.shared.refusals.counts,
            "protection": supervisor.front.login_guard.status(),
            "draining": supervisor.signals.stop.is_set(),
            "upstream": {
                "state": status.state.value,
                "pid": status.pid,
                "version": status.version,
                "tested": status.tested,
                "restarts": status.restarts,
                "since": status.since,
                "started": status.started,
                "history": [ended.as_dict() for ended in status.history],
            },
            "provisioning": supervisor.provisioner.as_dict(),
            "client_secrets": {"problems": [one.as_dict() for one in supervisor.front.secret_problems]},
            "orphans_reaped": supervisor.reaper.reaped_orphans,
            "last_reload": last.as_dict() if last else None,
        }
