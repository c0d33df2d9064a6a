"""The reaper: the one task that waits for children, ours and the orphans that an init inherits.

Two waiters in one process steal each other's statuses (the loser reads ``returncode 0``), so nothing else here calls ``wait``:
not ``trio.Process``, not ``subprocess``. :meth:`Reaper.spawn` starts a child from the main thread and registers its pid before
the next checkpoint, so that no exit can fall between the two.
"""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import struct
import subprocess
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import trio

from kiwi_id.logs import Log
from kiwi_id.privileges import PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, PR_SET_NO_NEW_PRIVS, Account

log = Log("reaper")

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_libc = ctypes.CDLL(None, use_errno=True)
# Looked up before any fork: symbol resolution in a forked child of a threaded program may find a lock held for ever.
_prctl, _capset = _libc.prctl, _libc.capset
# capset(2): _LINUX_CAPABILITY_VERSION_3 and this thread; two words each of effective, permitted and inheritable ones.
_THIS_THREAD, _NO_CAPABILITIES = struct.pack("Ii", 0x20080522, 0), bytes(24)
_MAX_BATCH = 256


@dataclass(eq=False)
class ChildProcess:
    """A running (or ended) child: ``status`` is its exit code, or minus the signal that ended it, once ``ended`` is set."""

    pid: int
    output: int
    status: int | None = None
    ended: trio.Event = field(default_factory=trio.Event)

    def describe_exit(self) -> str:
        """Return the end in a person's words, such as ``exit code 1`` or ``signal SIGKILL``."""
        if self.status is None:
            return "still running"
        if self.status >= 0:
            return f"exit code {self.status}"
        try:
            return f"signal {signal.Signals(-self.status).name}"
        except ValueError:  # real-time signals have no name
            return f"signal {-self.status}"


class Reaper:
    """Owner of ``SIGCHLD``. Start :meth:`run` in the main thread before the first :meth:`spawn`."""

    def __init__(self, account: Account | None = None) -> None:
        """``account`` is the user that children run as; None: our own."""
        self._account = account
        self._children: dict[int, ChildProcess] = {}
        self.reaped_orphans = 0

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Reap for ever; cancel to end. Becomes a subreaper, so that orphaned grandchildren come to us and not to init."""
        if os.getpid() != 1 and _prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
            log.warn("cannot become a subreaper", error=os.strerror(ctypes.get_errno()))
        with trio.open_signal_receiver(signal.SIGCHLD) as signals:
            task_status.started()
            await self._drain()  # whatever ended before we listened
            async for _ in signals:
                # SIGCHLD coalesces: one may stand for a thousand exits, so each means "drain all".
                await self._drain()

    async def _drain(self) -> None:
        reaped = 0
        while True:
            try:
                # WNOWAIT: look first and leave the zombie, because as long as the leader is one, its group id cannot be
                # reused and what is left of the group can be killed without hitting a stranger.
                peek = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if peek is None:
                return
            child = self._children.pop(peek.si_pid, None)
            if child is not None:
                with suppress(ProcessLookupError, PermissionError):
                    os.killpg(child.pid, signal.SIGKILL)
            _, status = os.waitpid(peek.si_pid, 0)
            if child is not None:
                child.status = os.waitstatus_to_exitcode(status)
                child.ended.set()
            else:
                self.reaped_orphans += 1
                log.trace("reaped an orphan", pid=peek.si_pid)
            reaped += 1
            if reaped % _MAX_BATCH == 0:  # a fork storm must not keep the logins waiting
                await trio.lowlevel.checkpoint()

    def spawn(self, argv: Sequence[str], *, env: Mapping[str, str], pass_fds: Sequence[int] = ()) -> ChildProcess:
        """Start ``argv`` in its own process group with stdout and stderr on one pipe; return it registered.

        The child is killed by the kernel when we die (``PR_SET_PDEATHSIG``): without its supervisor nobody would watch or stop
        it. The signal fires when the *thread* that forked ends, so this must run in the main thread and never in
        ``trio.to_thread``. The child can gain no right that it does not begin with, and what it makes is its own user's only.
        Raises OSError when the program cannot be started.
        """
        account = self._account
        read_end, write_end = os.pipe2(os.O_CLOEXEC)
        try:
            # preexec_fn is what CPython calls unsafe with threads; ours makes a few system calls through a pointer that was
            # resolved at import. It runs after the change of user, which would clear the death signal (prctl(2)). The
            # alternative, a helper program that calls prctl and then exec, would double the start.
            process = subprocess.Popen(
                argv,
                env=dict(env),
                stdin=subprocess.DEVNULL,
                stdout=write_end,
                stderr=write_end,
                process_group=0,
                pass_fds=pass_fds,
                umask=0o077,
                user=account.uid if account else None,
                group=account.gid if account else None,
                extra_groups=[] if account else None,
                preexec_fn=_set_up(os.getpid(), keep_capabilities=account is None),  # noqa: PLW1509
            )
        except BaseException:
            os.close(read_end)
            raise
        finally:
            os.close(write_end)
        process.returncode = 0  # Popen must believe that it is over: its destructor would wait for the pid, and warn
        child = ChildProcess(pid=process.pid, output=read_end)
        self._children[child.pid] = child
        return child

    async def end_orphans(self, *, grace: float) -> int:
        """End every child that is left: TERM, then after ``grace`` seconds KILL, until none is there. Return how many.

        This is what makes "nothing survives" true for a grandchild that moved to a session of its own. Takes at most twice
        ``grace``.
        """
        seen: set[int] = set()
        with trio.move_on_after(grace):
            while pids := child_pids(os.getpid()):
                _signal_each(pids - seen, signal.SIGTERM)
                seen |= pids
                await trio.sleep(0.02)
            return len(seen)
        with trio.move_on_after(grace):
            while pids := child_pids(os.getpid()):
                _signal_each(pids, signal.SIGKILL)
                seen |= pids
                await trio.sleep(0.02)
        return len(seen)


def _signal_each(pids: set[int], number: signal.Signals) -> None:
    for pid in pids:
        with suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)


def _set_up(parent: int, *, keep_capabilities: bool) -> Callable[[], None]:
    def set_up() -> None:
        if _prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0) != 0:
            raise OSError(errno.EPERM, "prctl(PR_SET_PDEATHSIG)")
        if os.getppid() != parent:  # we died between fork and prctl
            os._exit(1)
        _prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        if not keep_capabilities:
            # A change from one unprivileged user to another keeps them, and ambient ones would outlive the exec as well.
            _prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
            _capset(_THIS_THREAD, _NO_CAPABILITIES)  # and none that a program's file could add to; refused within our own unit

    return set_up


def child_pids(parent: int) -> set[int]:
    """Return the pids of the live (not zombie) direct children of ``parent``, from ``/proc``."""
    found: set[int] = set()
    for entry in os.scandir("/proc"):
        if not entry.name.isdigit():
            continue
        try:
            with open(f"/proc/{entry.name}/stat", "rb") as file:  # noqa: PTH123 - a hot loop over all processes
                stat = file.read()
        except OSError:  # it has just ended
            continue
        # The name in parentheses may hold spaces and parentheses itself: split after the last one (proc_pid_stat(5)).
        state, ppid = stat[stat.rindex(b")") + 2 :].split(b" ", 2)[:2]
        if int(ppid) == parent and state not in (b"Z", b"X"):
            found.add(int(entry.name))
    return found
