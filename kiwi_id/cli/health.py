"""``kiwi-id health``: a probe for container health checks, through the listener itself. Fast: no Trio, no HTTP library."""

from __future__ import annotations

import argparse
import socket
import sys
import time

from kiwi_id import config, values
from kiwi_id.cli import add_config_option
from kiwi_id.errors import ConfigError, Exit

_PATHS = {"health": "/healthz", "ready": "/readyz", "live": "/livez"}
_PAUSE = 0.1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_config_option(parser)
    parser.add_argument("--probe", choices=sorted(_PATHS), default="health", help="which probe (default: health)")
    parser.add_argument("--timeout", type=float, default=5.0, metavar="SECONDS", help="how long to wait (default: 5)")
    parser.add_argument("--wait", type=_duration, default=0.0, metavar="TIME", help="ask again until it is 200, for so long: 60s")
    parser.add_argument("--quiet", action="store_true", help="print nothing")


def _duration(text: str) -> float:
    try:
        return values.duration(text, low=0, high=86400)
    except values.Refused as refused:
        raise argparse.ArgumentTypeError(str(refused)) from None


def run(args: argparse.Namespace) -> int:
    """Probe; print the answer; return 0 when it is 200, else 1."""
    try:
        settings = config.load(config.config_path(args.config))
    except ConfigError as error:  # a container engine knows healthy (0) and unhealthy (1) only
        sys.stderr.write(error.diagnostics() + "\n")
        return Exit.FAILURE
    patience = time.monotonic() + args.wait
    while (answer := _ask(settings, args))[0] != 200 and time.monotonic() < patience:
        time.sleep(_PAUSE)
    status, body = answer
    if not args.quiet:
        (sys.stdout if status == 200 else sys.stderr).write(body.strip() + "\n")
    return Exit.OK if status == 200 else Exit.FAILURE


def _ask(settings: config.Config, args: argparse.Namespace) -> tuple[int, str]:
    try:
        return _get(settings, _PATHS[args.probe], args.timeout)
    except (OSError, ValueError) as error:
        return 0, f"no answer on {settings.listen_addr}: {error}"


def _get(settings: config.Config, path: str, timeout: float) -> tuple[int, str]:
    address = settings.listen_addr
    host = address.reachable_host
    with socket.create_connection((host, address.port), timeout) as tcp:
        sock: socket.socket = tcp
        if settings.tls_cert is not None:
            from kiwi_id.kanidm.pin import client_context  # noqa: PLC0415 - ssl is not needed for plain HTTP

            # The certificate is for the public name; what is asked is the listener of this very file.
            sock = client_context(settings.tls_cert).wrap_socket(tcp, server_hostname=host)
        request = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nAccept: application/json\r\n\r\n"
        sock.sendall(request.encode())
        answer = b""
        while part := sock.recv(65536):
            answer += part
    head, _, body = answer.partition(b"\r\n\r\n")
    words = head.split(b" ", 2)
    if len(words) < 2 or not words[1].isdigit():
        raise ValueError("the answer is not HTTP")
    return int(words[1]), body.decode("utf-8", "replace")
