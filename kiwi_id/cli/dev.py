"""``kiwi-id dev``: a temporary instance with demo users, over a real kanidmd where there is one, else over the stand-in.

The supervisor runs as a process of its own, the very ``kiwi-id run`` of production: it owns signals, children and exit codes of
its process, and sharing them with this command would make dev mode another program than the one that is deployed.

The origin is ``https://localhost:PORT``. Browsers trust the name without DNS, keep Kanidm's ``Secure`` cookies for its domain and
allow passkeys on it even with a self-signed certificate, and unlike ``id.localhost`` every program resolves it, so that the
services which somebody develops against it can fetch discovery and keys.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import trio

from kiwi_id import compatibility, config, demo
from kiwi_id.config import Config
from kiwi_id.errors import ChildUnavailable, ConfigError, Exit, KiwiError, Problem
from kiwi_id.instance import layout
from kiwi_id.kanidm import server_toml
from kiwi_id.kanidm.pin import client_context
from kiwi_id.kanidm.server_toml import ServerToml
from kiwi_id.values import Address

DEFAULT_PORT = 8443
START_SECONDS = 90.0  # Kanidm needs 0.3 s; a slow disk and a kept database that must be migrated need more
STOP_SECONDS = 15.0  # beyond the instance's own shutdown_timeout, after which Kiwi ID has given up by itself
_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_PR_SET_PDEATHSIG = 1
_prctl = ctypes.CDLL(None).prctl


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--port", type=_port, metavar="N", help=f"of https://localhost:N (default {DEFAULT_PORT}, else a free one)")
    parser.add_argument("--dir", type=Path, metavar="DIR", help="keep the instance here, and use it again the next time")
    parser.add_argument(
        "--upstream-bin", type=Path, metavar="PATH", help="kanidmd (default: $KIWI_TEST_KANIDMD, /opt/upstream/bin)"
    )
    parser.add_argument("--stand-in", action="store_true", help="use the stand-in even where there is a kanidmd")
    parser.add_argument(
        "--redirect-uri", action="append", default=[], metavar="URI", help="also allow this to the client kiwi-demo (repeatable)"
    )
    parser.add_argument("--json", action="store_true", help="print what is to be printed as one line of JSON")
    parser.add_argument("--verbose", action="store_true", help="show the log here")


def run(args: argparse.Namespace) -> int:
    """Run until Ctrl-C, SIGTERM or SIGHUP; leave nothing behind but what ``--dir`` keeps. Returns the exit code."""
    return trio.run(_run, args)


@dataclass(frozen=True, slots=True)
class _Instance:
    root: Path
    temporary: bool
    config: Config
    server: ServerToml
    stand_in: bool

    @property
    def front(self) -> str:
        # By address: the listener is bound to IPv4, and 'localhost' may mean ::1 first.
        return f"https://{self.config.listen_addr}"

    @property
    def certificate(self) -> Path:
        return self.config.tls_cert or self.server.tls_chain

    @property
    def output(self) -> Path:
        """What the supervisor prints, for the case that it fails before it can log."""
        return self.root / "dev-output.log"


async def _run(args: argparse.Namespace) -> int:
    # Signals are held from the first file on, so that a Ctrl-C at any moment still removes the directory.
    with trio.open_signal_receiver(*_STOP_SIGNALS) as signals, ExitStack() as stack:
        if args.dir is None:
            root = Path(tempfile.mkdtemp(prefix="kiwi-dev-"))
            stack.callback(shutil.rmtree, root, ignore_errors=True)
        else:
            root = args.dir.absolute()
        return await _serve(_prepare(args, root), args, signals)


def _prepare(args: argparse.Namespace, root: Path) -> _Instance:
    """Write what the instance lacks. Raises ConfigError."""
    kept = layout.Places.under(root).config.exists()
    stand_in = root / "stand-in" / "kanidmd"
    binary = None if args.stand_in else _find(args.upstream_bin)
    if not kept:
        if binary is None:
            _install_stand_in(stand_in)
        port = _choose_port(args.port)
        options = layout.Options(
            listen=Address("127.0.0.1", port),
            upstream=Address("127.0.0.1", _free_port()),
            upstream_bin=binary or stand_in,
            listener_tls=True,
        )
        layout.create(root, options)
    instance = config.load(layout.Places.under(root).config)
    if kept:
        _check_kept(args, root, instance, stand_in)
    if instance.upstream_bin == stand_in:
        _install_stand_in(stand_in)  # it names the interpreter and the checkout, which may have moved
        compatibility.write_pin(instance)
    server = server_toml.load(instance.upstream_config)
    return _Instance(root, args.dir is None, instance, server, instance.upstream_bin == stand_in)


def _find(option: Path | None) -> Path | None:
    """Return the real kanidmd to use, None when there is none. Raises ConfigError when one was named that is not there."""
    named = [
        ("--upstream-bin", option),
        ("KIWI_TEST_KANIDMD", Path(value) if (value := os.environ.get("KIWI_TEST_KANIDMD")) else None),
    ]
    for name, path in named:
        if path is not None:
            if not os.access(path, os.X_OK):
                raise ConfigError([Problem(name, "", f"{path}, no program that can be run", "the path of a kanidmd", "")])
            return path.absolute()
    return layout.DEFAULT_BIN if os.access(layout.DEFAULT_BIN, os.X_OK) else None


def _check_kept(args: argparse.Namespace, root: Path, instance: Config, stand_in: Path) -> None:
    """Refuse options that contradict a kept instance: Kanidm's origin and its database cannot simply change."""
    problems: list[Problem] = []
    fix = "Leave the option out, or choose another directory."
    if args.port is not None and args.port != instance.listen_addr.port:
        problems.append(Problem("--port", "", str(args.port), f"{instance.listen_addr.port}, which {root} was made with", fix))
    wanted = stand_in if args.stand_in else args.upstream_bin and args.upstream_bin.absolute()
    if wanted is not None and wanted != instance.upstream_bin:
        option = "--stand-in" if args.stand_in else "--upstream-bin"
        problems.append(Problem(option, "", str(wanted), f"{instance.upstream_bin}, which {root} was made with", fix))
    if problems:
        raise ConfigError(problems)


def _install_stand_in(target: Path) -> None:
    from kiwi_id import devserver  # noqa: PLC0415  # production code never imports it, nor does this command need it otherwise

    target.parent.mkdir(parents=True, exist_ok=True)
    devserver.install(target)


async def _serve(instance: _Instance, args: argparse.Namespace, signals: AsyncIterator[int]) -> int:
    """Run the supervisor until it ends or a signal comes; return the exit code. No process is left, whatever happens."""
    process = _spawn(instance, show=args.verbose)
    stopped = False
    failure: KiwiError | None = None

    async def stop_on_signal() -> None:
        nonlocal stopped
        async for _number in signals:
            # The first time in order; who presses Ctrl-C again does not want to wait.
            process.send_signal(signal.SIGKILL if stopped else signal.SIGTERM)
            stopped = True

    async def announce() -> None:
        nonlocal failure
        try:
            await _wait_ready(instance)
            made = await demo.provision(
                instance.server, f"https://{instance.config.upstream_addr}", redirect_uris=args.redirect_uri
            )
            facts = await _facts(instance, made)
            print(json.dumps(facts) if args.json else _text(instance, made, facts), flush=True)
        except KiwiError as error:
            failure = error
            process.terminate()

    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stop_on_signal)
            nursery.start_soon(announce)
            await _ended(process)
            nursery.cancel_scope.cancel()
    finally:
        if process.poll() is None:
            process.terminate()
            with trio.move_on_after(instance.config.shutdown_timeout + STOP_SECONDS, shield=True):
                await _ended(process)
            process.kill()
        process.wait()
    if stopped:
        return Exit.OK
    if failure is not None:
        raise failure
    raise ChildUnavailable(f"Kiwi ID ended by itself, exit status {process.returncode}.{_tail(instance)}")


def _spawn(instance: _Instance, *, show: bool) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "kiwi_id", "run", "--config", str(instance.config.path)]
    with instance.output.open("wb") as output:
        # Its own process group: a Ctrl-C in the terminal is ours to hand on. PDEATHSIG: if we are killed it must not stay.
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=sys.stderr if show else output,
            stderr=sys.stderr if show else output,
            process_group=0,
            preexec_fn=_die_with_parent(os.getpid()),  # noqa: PLW1509  # no threads yet, and two system calls only
        )


def _die_with_parent(parent: int) -> Callable[[], None]:
    def set_up() -> None:
        _prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)
        if os.getppid() != parent:  # we died between fork and prctl
            os._exit(1)

    return set_up


async def _ended(process: subprocess.Popen[bytes]) -> None:
    """Wait until ``process`` has ended, without a thread and without taking its exit status."""
    descriptor = os.pidfd_open(process.pid)
    try:
        await trio.lowlevel.wait_readable(descriptor)
    finally:
        os.close(descriptor)
    process.poll()


async def _wait_ready(instance: _Instance) -> None:
    """Wait for /readyz. Raises ChildUnavailable after START_SECONDS; a supervisor that ends is seen by ``_serve``."""
    context = client_context(instance.certificate)
    with trio.move_on_after(START_SECONDS):
        async with httpx.AsyncClient(verify=context, timeout=5, trust_env=False) as client:
            while True:
                with suppress(httpx.TransportError):
                    if (await client.get(f"{instance.front}/readyz")).status_code == 200:
                        return
                await trio.sleep(0.05)
    raise ChildUnavailable(f"Kiwi ID was not ready within {START_SECONDS:g} s.{_tail(instance)}")


async def _facts(instance: _Instance, made: demo.Demo) -> dict[str, Any]:
    """Everything that a person or a test needs, JSON-ready. ``discovery`` is the common issuer's where there is one."""
    origin = instance.server.origin
    discovery = f"{origin}/.well-known/openid-configuration"
    async with httpx.AsyncClient(verify=client_context(instance.certificate), timeout=10, trust_env=False) as client:
        with suppress(httpx.TransportError):
            answer = await client.get(f"{instance.front}/.well-known/openid-configuration")
            if answer.status_code != 200:
                discovery = made.clients[0].discovery
    return {
        "url": f"{origin}/ui/login",
        "origin": origin,
        "discovery": discovery,
        "stand_in": instance.stand_in,
        "kanidmd": str(instance.config.upstream_bin),
        "directory": str(instance.root),
        "certificate": str(instance.certificate),
        "log": str(instance.config.log_file or instance.output),
        **made.as_dict(),
    }


def _text(instance: _Instance, made: demo.Demo, facts: dict[str, Any]) -> str:
    """The same facts for a person."""
    lines = [f"Kiwi ID is ready. Open  {facts['url']}", ""]
    if instance.stand_in:
        lines += [
            "  This is NOT Kanidm, but a stand-in with the same pages and endpoints, for development on this machine only.",
            "  For the real one name a kanidmd: kiwi-id dev --upstream-bin PATH",
            "",
        ]
    else:
        lines += [f"  Kanidm: {instance.config.upstream_bin}", ""]
    lines += [f"  user    {user.name:<17} password  {user.password}" for user in made.users]
    for client in made.clients:
        kind = f"secret    {client.secret}" if client.secret else "public, with PKCE"
        lines += [f"  client  {client.client_id:<17} {kind}"]
        where = list(client.redirect_uris) if client.secret else ["any http://localhost:PORT/…"]
        lines += [f"          {'':<17} redirect  {uri}" for uri in where]
    lines += [
        f"  scopes  {' '.join(made.scopes)}",
        "",
        f"  discovery    {facts['discovery']}",
        f"  certificate  {facts['certificate']}",
        "               (browsers warn once; programs take it as SSL_CERT_FILE, NODE_EXTRA_CA_CERTS or curl --cacert)",
        f"  log          {facts['log']}",
        "",
        f"Stop with Ctrl-C. {instance.root} is {'removed then' if instance.temporary else 'kept'}.",
    ]
    return "\n".join(lines)


def _tail(instance: _Instance) -> str:
    """The last lines that the supervisor printed, for a failure; empty when it printed none."""
    lines = instance.output.read_text(errors="replace").splitlines()
    plain = [line for line in lines if not line.startswith("{")] or lines
    return "".join(f"\n  {line}" for line in plain[-10:])


def _port(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 0 < int(text) < 65536:
        raise argparse.ArgumentTypeError(f"found {text}; allowed: a port number from 1 to 65535")
    return int(text)


def _choose_port(wanted: int | None) -> int:
    """Return ``wanted``, or by default DEFAULT_PORT when it is free, else any free one. Raises ConfigError when it is taken."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # or a port stays taken for a minute after each run
        try:
            probe.bind(("127.0.0.1", wanted or DEFAULT_PORT))
        except OSError as error:
            if wanted is None:
                return _free_port()
            found = f"{wanted}: {error.strerror}"
            raise ConfigError([Problem("--port", "", found, "a port that is free", "Stop what uses it.")]) from None
    return wanted or DEFAULT_PORT


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
