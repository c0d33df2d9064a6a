"""The running process: boot, serve, signals (server/daemon/src/main.rs).

Kanidm's main loop is reproduced with its traps. No signal is handled before the server serves, so an early HUP kills it.
After a HUP the loop sleeps five seconds without listening: a TERM or INT in that time is lost.
"""

import contextlib
import os
import signal
import socket
import time
from types import FrameType

import trio

from kiwi_id.devserver import KANIDM_VERSION, adminsock, credential, log, login, misc, oauth2_http, raw, reset, rest, v1, views
from kiwi_id.devserver.app import App, Site, log_request
from kiwi_id.devserver.auth import Authenticator
from kiwi_id.devserver.config import ServerConfig
from kiwi_id.devserver.credsession import CredentialSessions
from kiwi_id.devserver.directory import Directory
from kiwi_id.devserver.http import Router
from kiwi_id.devserver.listener import Listener, TlsError
from kiwi_id.devserver.store import Store, StoreError

__all__ = ["run"]

_DEAF_SECONDS = 5.0
_STOP = (signal.SIGTERM, signal.SIGINT)
_IGNORED = (signal.SIGALRM, signal.SIGUSR1, signal.SIGUSR2)


def run(config: ServerConfig) -> int:
    """Serve until a signal; returns the exit code: 0 after a stop, 1 when it could not start."""
    # Python turns INT into an exception and would otherwise print a trace; kanidmd just dies before it serves.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    os.umask(0o027)
    log.event("INFO", f"Starting Kanidmd | version: {KANIDM_VERSION} (the Kiwi ID stand-in)")
    return trio.run(_main, config, strict_exception_groups=True)


def _router(app: App) -> Router:
    router = Router()
    for module in (misc, v1, rest, raw, credential, oauth2_http):
        module.add_routes(router, app)
    if app.config.ui:
        login.add_routes(router, app)
        views.add_routes(router, app)
        reset.add_routes(router, app)
    return router


async def _main(config: ServerConfig) -> int:
    try:
        store = Store(config.db_path)
        app_directory = Directory(store, config.domain)
        app = App(config, app_directory, Authenticator(app_directory), CredentialSessions(app_directory))
        site = Site(config, _router(app))
        listener = Listener(config, site, log_request)
        listeners = await listener.bind()
        admin = adminsock.bind(config.admin_path)
    except (StoreError, TlsError) as error:
        return _failed(str(error))
    except OSError as error:
        return _failed(f"Failed to bind {config.bind_host}:{config.bind_port} or {config.admin_path}: {error}")
    send, receive = trio.open_memory_channel[int](64)
    _listen_for_signals(send)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, listener.connection, listeners)
        nursery.start_soon(adminsock.serve, admin, app_directory)
        log.event("INFO", "ready to rock! 🪨  UI available at: " + config.origin)
        _notify("READY=1\nSTATUS=Started Kanidm (Kiwi ID stand-in)")
        await _signals(receive, listener)
        log.event("INFO", "Signal received, shutting down")
        # Connections in flight die with the process, as the real server's do.
        nursery.cancel_scope.cancel()
    store.close()
    log.event("INFO", "Stopped 🛑 ")
    return 0


def _failed(message: str) -> int:
    log.event("ERROR", message)
    log.event("ERROR", "Failed to start server core!")
    # The real server says READY even now (fixed in Kanidm 1.11).
    _notify("READY=1")
    return 1


def _listen_for_signals(send: trio.MemorySendChannel[int]) -> None:
    # Not trio.open_signal_receiver: it raises signals again that came while it closed, and a second TERM would then
    # turn the clean exit into a death by signal. These handlers stay until the process is gone.
    token = trio.lowlevel.current_trio_token()

    def deliver(number: int) -> None:
        with contextlib.suppress(trio.WouldBlock):
            send.send_nowait(number)

    def handle(number: int, frame: FrameType | None) -> None:
        with contextlib.suppress(trio.RunFinishedError):
            token.run_sync_soon(deliver, number)

    for number in (*_STOP, signal.SIGHUP, *_IGNORED):
        signal.signal(number, handle)


async def _signals(receive: trio.MemoryReceiveChannel[int], listener: Listener) -> None:
    while True:
        number = await receive.receive()
        if number in _STOP:
            return
        if number == signal.SIGHUP:
            await _reload(listener)
            await trio.sleep(_DEAF_SECONDS)
            # What came meanwhile is lost, stops included: this is Kanidm 1.5.0's trap.
            while receive.statistics().current_buffer_used:
                receive.receive_nowait()
            _notify("READY=1\nSTATUS=Reload Success")
            log.event("INFO", "Reload complete")


async def _reload(listener: Listener) -> None:
    _notify(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}\nSTATUS=Reloading ...")
    try:
        listener.reload()
    except TlsError as error:
        log.event("ERROR", f"Failed to reload TLS, the old certificate stays: {error}")
    else:
        log.event("INFO", "TLS acceptor reloaded")


def _notify(message: str) -> None:
    """Send a message to systemd, or to whoever gave us NOTIFY_SOCKET; nobody listening is no error."""
    path = os.environ.get("NOTIFY_SOCKET")
    if not path:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        with contextlib.suppress(OSError):
            sock.sendto(message.encode(), "\0" + path[1:] if path.startswith("@") else path)
