"""The control socket: how ``kiwi-id reload --wait`` and ``kiwi-id status`` talk to a running Kiwi ID.

One JSON object a line each way: ``{"command": "status"}`` → ``{"ok": true, …}``. The socket is open to its owner only, and is not
an HTTP route, so that nothing which can reach the front can ever reach it.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import trio

from kiwi_id.errors import ConfigError, Exit, KiwiError, Problem
from kiwi_id.logs import Log

log = Log("control")

Handler = Callable[[], Awaitable[dict[str, Any]]]
_MOST = 65536
_PATIENCE = 10.0


class NotRunning(KiwiError):
    """No Kiwi ID answers on the control socket. Exit code 69."""

    exit_code = Exit.UNAVAILABLE


def listen(path: Path) -> trio.SocketListener:
    """Bind the socket, mode 0600, in a directory made when missing. Raises ConfigError.

    A socket file that is left from a killed process is replaced: the lock beside the database has shown that nobody serves it.
    """
    sock = trio.socket.from_stdlib_socket(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC))
    try:
        path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
        scratch = path.with_name(path.name + ".new")
        for stale in (scratch, path):
            stale.unlink(missing_ok=True)
        # Bound beside its place and moved there with its mode set: it is never open to others, not even for a moment.
        _bind(sock, scratch)
        scratch.chmod(0o600)
        sock.listen(16)
        scratch.rename(path)
    except OSError as error:
        sock.close()
        fix = "Set runtime_dir to a directory that this user can write to."
        raise ConfigError([Problem(str(path), "runtime_dir", error.strerror or str(error), "a new socket", fix)]) from None
    return trio.SocketListener(sock)


def _bind(sock: trio.socket.SocketType, path: Path) -> None:
    # Trio's bind is async for names that need resolving; a path does not.
    plain = socket.socket(fileno=sock.fileno())
    try:
        plain.bind(str(path))
    finally:
        plain.detach()


async def serve(
    listener: trio.SocketListener,
    handlers: Mapping[str, Handler],
    *,
    path: Path,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Answer commands until cancelled; then remove the socket file."""

    async def handle(stream: trio.SocketStream) -> None:
        async with stream:
            answer: dict[str, Any]
            command = ""
            try:
                with trio.fail_after(_PATIENCE):
                    request = json.loads(await _read_line(stream))
                    command = request["command"]
                    handler = handlers[command]
            except (ValueError, KeyError, TypeError, trio.TooSlowError):
                answer = {"ok": False, "error": "unknown command", "commands": sorted(handlers)}
            except trio.BrokenResourceError:
                return
            else:
                answer = await handler()
            with trio.move_on_after(_PATIENCE), suppress(trio.BrokenResourceError):
                await stream.send_all(json.dumps(answer).encode() + b"\n")
                return
            log.warn("nobody waits for the answer any more; what was asked for has been done", command=command, ok=answer["ok"])

    try:
        await trio.serve_listeners(handle, [listener], task_status=_IgnoreListeners(task_status))
    finally:
        path.unlink(missing_ok=True)  # noqa: ASYNC240 - one system call, and a shielded thread would outlive the nursery


class _IgnoreListeners:
    """Hand ``started()`` on without the list of listeners that ``serve_listeners`` reports."""

    def __init__(self, outer: trio.TaskStatus[None]) -> None:
        self._outer = outer

    def started(self, _value: object = None) -> None:
        self._outer.started()


async def _read_line(stream: trio.abc.ReceiveStream) -> bytes:
    data = b""
    while b"\n" not in data and len(data) < _MOST:
        part = await stream.receive_some()
        if not part:
            break
        data += part
    return data


def call(path: Path, command: str, *, timeout: float, word: str = "") -> dict[str, Any]:
    """Send one command to a running Kiwi ID and return its answer; blocking, ``timeout`` in seconds. Raises NotRunning.

    ``word`` says how ``path`` was guessed, when it was; it stands in the error.

    Plain sockets and no Trio: ``kiwi-id reload`` should not pay for an event loop.
    """
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            sock.settimeout(timeout)
            sock.connect(str(path))
            sock.sendall(json.dumps({"command": command}).encode() + b"\n")
            with sock.makefile("rb") as file:
                answer: dict[str, Any] = json.loads(file.readline())
                return answer
    except TimeoutError:
        raise NotRunning(f"Kiwi ID did not answer on {path} within {timeout:g} s") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else "no answer"
        hint = word or "is it started, and with this config?"
        raise NotRunning(f"no running Kiwi ID answers on {path} ({reason}); {hint}") from None
