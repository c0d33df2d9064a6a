"""Talking to the service manager: the datagrams of ``sd_notify(3)``, and the watchdog keep-alive."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Awaitable, Callable, MutableMapping

import trio

from kiwi_id.logs import Log
from kiwi_id.values import Address

log = Log("notify")


class Notifier:
    """Sends state to ``$NOTIFY_SOCKET``; does nothing when there is none (a container without systemd)."""

    def __init__(self, environ: MutableMapping[str, str] = os.environ) -> None:
        # Taken out of the environment: kanidmd reports READY even when its start has failed (server/daemon/src/main.rs), and
        # the service manager must hear it from us alone.
        self._address = environ.pop("NOTIFY_SOCKET", "")
        period = environ.pop("WATCHDOG_USEC", "")
        mine = environ.pop("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        self._announced = False
        self.watchdog_period = int(period) / 1e6 if period.isdigit() and mine else 0.0

    def _send(self, *lines: str) -> None:
        if not self._address:
            return
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
                sock.setblocking(False)
                sock.sendto("\n".join(lines).encode(), address)
        except OSError as error:
            log.warn("cannot notify the service manager", error=error.strerror)

    def ready(self, status: str) -> None:
        """Report that the service serves."""
        self._announced = True
        self._send("READY=1", f"STATUS={status}")

    def reloading(self) -> None:
        """Report that a reload begins; both lines in one datagram, as ``Type=notify-reload`` wants it."""
        if self._announced:
            self._send("RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")

    def reloaded(self, status: str) -> None:
        """Report that a reload is over, whether it worked or not: READY again, but not before the first readiness."""
        if self._announced:
            self._send("READY=1", f"STATUS={status}")

    def stopping(self) -> None:
        """Report that the service stops."""
        self._send("STOPPING=1", "STATUS=stopping")

    def status(self, text: str) -> None:
        """Set the line that ``systemctl status`` shows."""
        self._send(f"STATUS={' '.join(text.split())}")  # each line of a datagram is an assignment of its own

    def keep_alive(self) -> None:
        """Tell the watchdog of the service manager that we live."""
        self._send("WATCHDOG=1")


async def listener_answers(address: Address, *, tls: bool) -> bool:
    """Tell whether our own listener at ``address``, which serves TLS or not, serves a new connection."""
    host = address.reachable_host
    try:
        async with await trio.open_tcp_stream(host, address.port) as stream:
            # Plain HTTP gets an answer; with TLS the refusal of it shows as well that the connection is served.
            await stream.send_all(b"GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            return bool(await stream.receive_some(1)) or tls
    except trio.BrokenResourceError:  # a refusal may also end in a reset
        return tls
    except OSError:
        return False


async def keep_alive(notifier: Notifier, probe: Callable[[], Awaitable[bool]]) -> None:
    """Send ``WATCHDOG=1`` three times a period, each only after ``probe`` has been answered through our own listener.

    A keep-alive from a bare timer would vouch for an event loop that turns and a listener that is dead. Returns at once when
    no watchdog is asked for.
    """
    if not notifier.watchdog_period:
        return
    while True:
        answered = False
        with trio.move_on_after(notifier.watchdog_period / 3):
            answered = await probe()
            if answered:
                notifier.keep_alive()
            await trio.sleep_forever()
        if not answered:
            log.warn("no keep-alive: the listener does not answer its own probe")
