"""The admin socket (server/core/src/admin.rs): JSON values without any framing; a buffer that parses is one request."""

import json
import os
import socket
import struct
from pathlib import Path
from typing import Any

import trio

from kiwi_id.devserver import KANIDM_VERSION, log
from kiwi_id.devserver.crypto import new_secret
from kiwi_id.devserver.directory import Directory
from kiwi_id.devserver.rest import set_generated

__all__ = ["bind", "serve"]

_MAX_REQUEST = 64 * 1024


def bind(path: Path) -> trio.SocketListener:
    """Listen at `path`; a socket left behind by an earlier run is removed first. Raises OSError."""
    path.unlink(missing_ok=True)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.bind(str(path))
        sock.listen()
    except OSError:
        sock.close()
        raise
    return trio.SocketListener(trio.socket.from_stdlib_socket(sock))


async def serve(listener: trio.SocketListener, directory: Directory) -> None:
    """Answer requests until cancelled."""

    async def client(stream: trio.SocketStream) -> None:
        try:
            await _client(stream, directory)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        finally:
            await trio.aclose_forcefully(stream)

    await trio.serve_listeners(client, [listener])


async def _client(stream: trio.SocketStream, directory: Directory) -> None:
    pid, uid, _ = struct.unpack("3i", stream.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    if uid not in (0, os.getuid()):
        log.event("WARN", f"unauthorised user | incoming_uid: {uid}")
        return
    log.event("INFO", f"Allowing admin socket access | pid: Some({pid})")
    buffer = b""
    while True:
        data = await stream.receive_some(4096)
        buffer += data
        if not data or len(buffer) > _MAX_REQUEST:
            return
        try:
            request = json.loads(buffer)
        except RecursionError:
            return
        except ValueError:
            continue
        buffer = b""
        await stream.send_all(json.dumps(_answer(request, directory), separators=(",", ":")).encode())


def _answer(request: Any, directory: Directory) -> Any:
    if isinstance(request, dict) and isinstance(request.get("RecoverAccount"), dict):
        account = directory.get(str(request["RecoverAccount"].get("name")))
        if account is None or not account.is_a("account"):
            log.event("ERROR", "error during recover-account | err: NoMatchingEntries")
            return "Error"
        password = new_secret()
        set_generated(account, password)
        directory.save(account)
        return {"RecoverAccount": {"password": password}}
    if request == "DomainShow":
        domain = {"name": directory.domain, "displayname": f"Kanidm {directory.domain}", "level": 9}
        return {"DomainShow": {"domain_info": {**domain, "uuid": "00000000-0000-0000-0000-ffffff000025"}}}
    log.event("WARN", f"the stand-in for Kanidm {KANIDM_VERSION} knows RecoverAccount and DomainShow only")
    return "Error"
